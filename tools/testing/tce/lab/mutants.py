# SPDX-License-Identifier: GPL-2.0
"""Mutation proof: breaks the driver on purpose, one line at a time, and sees
whether a KUnit test notices.

Each mutant is one replacement in one file. A mutant that no test notices is a
hole in the tests, and is named in the result.
"""

import contextlib

from . import kunit
from .say import Fail, line

DRIVER = "drivers/iommu/tce"

# name, file, what is there, what it becomes
MUTANTS = (
    ("no kill after unmap", "firmware/ioda.rs",
     "fn withdraw(&self, number: WindowNumber, run: TceRun) {\n        self.kill(number, run);",
     "fn withdraw(&self, _: WindowNumber, _: TceRun) {"),
    ("no kill on flush", "firmware/ioda.rs", "self.calls.kill(None);", ""),
    ("windows not taken from the platform (IODA)", "firmware/ioda.rs", "calls.set_platform(dev, false)?;", ""),
    ("a stuck window is not closed first", "firmware/ioda.rs", "if self.stuck.load(Relaxed) {", "if false {"),
    ("only one window is closed", "firmware/ioda.rs", "                result = Err(e);\n", ""),
    ("windows not taken from the platform (PAPR)", "firmware/papr.rs", "calls.set_platform(dev, false)?;", ""),
    ("a list always starts at its page", "firmware/papr.rs", "if slot == 0 {", "if true {"),
    ("nothing is copied to the bounce page", "firmware/papr.rs", "to.store(from.load(Relaxed), Relaxed);", ""),
    ("a refused clear is taken for done", "firmware/papr.rs", "if cleared.is_ok() {", "if true {"),
    ("a failed publish is taken for done", "firmware/papr.rs",
     ".map_err(Error::from)", ".or(Ok(()))"),
    ("the windows are not given back", "firmware/papr.rs", "        self.calls.set_platform(dev, true)\n    }\n}",
     "        Ok(())\n    }\n}"),
    ("32-bit MMIO can be mapped", "layout.rs", "if range.first <= mmio.last && mmio.first <= range.last {", "if false {"),
    ("a range may end outside its window", "layout.rs", "w.contains(range.first) && w.contains(range.last)",
     "w.contains(range.first)"),
    ("the hole is not reserved", "layout.rs", "[mmio, hole].into_iter()", "[mmio, None].into_iter()"),
    ("windows of any size are compatible", "layout.rs", "&& a.tces == b.tces ", ""),
    ("windows of 2^32 TCEs and more", "layout.rs", "largest.get().min(MAX_TCES)", "largest.get()"),
    ("pages larger than the CPU's", "layout.rs", "if granule > cpu_page_shift()? {", "if false {"),
    ("clear goes on after a gap", "table.rs", "                    return Tces::new(done);\n                }\n                word",
     "                    continue;\n                }\n                word"),
    ("clear does not clear", "table.rs", "word.store(0, Release);", ""),
    ("every page maps the first", "table.rs", "word.store(tce(done).to_be(), Relaxed);",
     "word.store(tce(0).to_be(), Relaxed);"),
    ("read-only pages can be written", "space.rs", "                access.write,\n", "                true,\n"),
    ("unmap does not reach the PEs", "space.rs", "bond.port().withdraw(number, run);", "let _ = (bond, number, run);"),
    ("map does not reach the PEs", "space.rs", "bond.port().publish(number, table.ok_or(EINVAL)?, run)",
     "{ let _ = (bond, number, table, run); Ok(()) }"),
    ("copies are not withdrawn when a flush is due", "space.rs",
     "self.withdraw_if(range, |port| port.holds_copy());", "self.withdraw_if(range, |_| false);"),
    ("no replay at attach", "space.rs", ".and_then(|()| self.replay(&**port))", ""),
    ("nothing is withdrawn at detach", "space.rs", "        if port.holds_copy() {\n            self.for_each_leaf",
     "        if false {\n            self.for_each_leaf"),
    ("tables freed under a window that stayed open", "space.rs", "Err(_) => core::mem::forget(self.clone()),",
     "Err(_) => (),"),
    ("the tables are freed with a PE attached", "bonds.rs", "self.head.store(KBox::into_raw(bond), Release);",
     "drop(bond);"),
    ("one blocked device blocks its siblings", "pe.rs",
     "            Target::Blocked if state.others_at_work(was_blocked) > 0 => (),\n", ""),
    ("blocked does not block", "pe.rs", "Target::Blocked => self.block(state, dev)?,", "Target::Blocked => (),"),
    ("no way back after a failed attach", "pe.rs", "if result.is_err() {\n            let restored",
     "if false {\n            let restored"),
    ("any domain fits any PE", "pe.rs", "if !space.layout().is_compatible(port.layout()) {", "if false {"),
    ("the last device keeps the PE", "pe.rs", "let result = if state.devices == 0 {\n            self.give_back(state, dev)",
     "let result = if state.devices == 0 {\n            Ok(())"),
    ("a leaving device does not block the rest", "pe.rs", "} else if state.blocked == state.devices {", "} else if false {"),
)


@contextlib.contextmanager
def _broken(path, old, new):
    text = path.read_text(encoding="utf-8")
    if text.count(old) != 1:
        raise Fail(f"mutant does not fit {path} any more: {old!r} is there {text.count(old)} times")
    path.write_text(text.replace(old, new), encoding="utf-8")
    try:
        yield
    finally:
        path.write_text(text, encoding="utf-8")


def run(env, arch, only=""):
    """Tries each mutant; fails if one survives."""
    survivors = []
    wanted = [mutant for mutant in MUTANTS if only in mutant[0]]
    for name, file, old, new in wanted:
        with _broken(env.linux / DRIVER / file, old, new):
            log = kunit.log(env, arch, DRIVER)
        failed = kunit.failures(log)
        if "error" in log and not failed and "KTAP" not in log:
            raise Fail(f"mutant {name!r} does not compile:\n{log[-2000:]}")
        line(f"{'caught' if failed else 'SURVIVED':9} {name} ({file}): {', '.join(failed[:4]) or '-'}")
        if not failed:
            survivors.append(name)
    line(f"{len(wanted) - len(survivors)} of {len(wanted)} mutants caught")
    if survivors:
        raise Fail(f"mutants that no test noticed: {'; '.join(survivors)}")
    return 0
