# SPDX-License-Identifier: GPL-2.0
"""Mutants of what cannot be in the crate of the KUnit suites, how the driver meets the core of
the kernel, and those that KUnit notices only with pages of 64 KiB. For each there is a scenario of
make check that has to fail.

One kernel of each flavour has them all, as in mutants.py.
"""

import dataclasses
import re
import time

from . import kernel, mutants, planting, scenario, source, suite
from .say import Fail, line

_FLAVOUR, _DEBUG = "modern-64k", "modern-debug-64k"
_TCE = "drivers/iommu/tce"
_POWERPC = "rust/kernel/powerpc"

# Name, file, what is there, what it becomes, the scenario, the flavour if it is another. In C,
# MUTANT says whether it is meant.
MUTANTS = (
    ("devices with a driver are offered to the core", f"{_TCE}/adopt.rs",
     "let free = |dev: &Device, kind| kind == DriverKind::None && !is_in_group(dev);",
     "let free = |dev: &Device, kind| kind != DriverKind::DmaApi && !is_in_group(dev);",
     "pseries.takeover-managed"),
    ("nobody looks when a driver has gone", f"{_TCE}/adopt.rs",
     "} else if unsafe { is_going(dev) || self.adopt(dev).is_err() } {",
     "} else if false && unsafe { is_going(dev) || self.adopt(dev).is_err() } {",
     "pseries.late-load"),
    ("a failed probe is not noticed", "rust/kernel/pci/notifier.rs",
     "bindings::bus_notifier_event_BUS_NOTIFY_DRIVER_NOT_BOUND => this.kick(),",
     "bindings::bus_notifier_event_BUS_NOTIFY_DRIVER_NOT_BOUND => (),",
     "pseries.takeover-failed"),
    ("a driver that binds is not noticed", f"{_TCE}/adopt.rs",
     "        let in_use = unsafe { driver_kind(dev) } == DriverKind::DmaApi;\n",
     "        let in_use = unsafe { driver_kind(dev) } == DriverKind::DmaApi && false;\n",
     "pseries.reset-platform"),
    ("the neighbours are not looked at", f"{_POWERPC}/devices.rs",
     "if result.is_ok() && !ptr::eq(dev, held) {", "if false && !ptr::eq(dev, held) {",
     "pseries.late-load-shared"),
    ("the platform's table does not come back", f"{_POWERPC}/devices.rs",
     "(*dev).archdata.iommu_table_base = table;", "(*dev).archdata.iommu_table_base = ptr::null_mut();",
     "pseries.passthrough"),
    ("the platform's operations do not come back", f"{_POWERPC}/devices.rs",
     "(*dev).dma_ops = ops;", "(*dev).dma_ops = if table.is_null() { ops } else { ptr::null() };",
     "pseries.passthrough"),
    ("no cache coherency", f"{_TCE}/driver.rs",
     "Cap::CacheCoherency => true,", "Cap::CacheCoherency => false,", "pseries.takeover-managed"),
    ("flush queues everywhere", f"{_TCE}/driver.rs",
     "Cap::DeferredFlush => ctx.endpoint().pe().calls().has_kill(),",
     "Cap::DeferredFlush => true,", "pseries.lazy"),
    ("the core chooses the domain", f"{_TCE}/driver.rs",
     "true => DefaultDomain::Identity,", "true => DefaultDomain::Any,", "pseries.parameters"),
    ("small pages are for all", f"{_TCE}/endpoint.rs",
     "            true => &self.common_4k,\n            false => &self.common,",
     "            true => &self.common,\n            false => &self.common_4k,", "pseries.parameters"),
    ("nothing is reserved", f"{_TCE}/driver.rs",
     "if let Err(e) = out.add(range, Prot::empty(), resv::Kind::Reserved) {",
     "if let Err(e) = Ok::<(), Error>(()) {\n                let _ = (&range, &out);", "pseries.state"),
    ("no processes", f"{_TCE}/driver.rs", "            ctx.offer_processes();\n", "", "pseries.sva-pulled"),
    ("processes although forbidden", f"{_TCE}/driver.rs", "if machine::allows_processes() && ", "if ", "pseries.sva-none", _DEBUG),
    ("shift does not matter", f"{_TCE}/layout.rs", " && a.shift == b.shift)", ")", "pseries.kunit", _DEBUG),
    ("granule is the low one", f"{_TCE}/layout.rs", "Some(high) => high.shift.max(low.shift),", "Some(_) => low.shift,",
     "pseries.kunit", _DEBUG),
    ("a split takes memory away", "mm/huge_memory.c", "vma_is_anonymous(vma) && !freeze;", "false;", "pseries.sva", _DEBUG),
    ("leaf_last is of the largest leaf", f"{_TCE}/space.rs", "leaves.min()", "leaves.max()", "pseries.kunit", _DEBUG),
    ("windows are not closed", f"{_TCE}/firmware/ioda.rs",
     "        unsafe { self.calls.close_window(dev, number) }\n            .inspect_err(|_| self.stats.count(Event::Error))\n",
     "        let _ = (dev, number);\n        Ok(())\n", "powernv10.vfio"),
    ("a table that goes keeps its nodes", f"{_TCE}/table.rs",
     "        unsafe { Self::free(self.root, self.levels.get().wrapping_sub(1)) };\n",
     "        let _ = || unsafe { Self::free(self.root, self.levels.get().wrapping_sub(1)) };\n", "pseries.vfio-back"),
    ("the platform does not get its windows back", "arch/powerpc/platforms/powernv/pci-ioda-windows.c",
     "\trc = pnv_ioda2_set_low(pe, tbl, on);\n",
     "\tif (on && MUTANT)\n\t\treturn 0;\n\trc = pnv_ioda2_set_low(pe, tbl, on);\n",
     "powernv10.passthrough"),
    ("the platform's windows stay", "arch/powerpc/platforms/pseries/iommu-windows.c",
     "\tret = spapr_tce_remove_ddw(table_group, pdev, pdn);\n\tif (ret)\n\t\treturn ret;\n\n\tret = spapr_tce_reset_unknown(",
     "\tif (MUTANT)\n\t\treturn 0;\n\tret = spapr_tce_remove_ddw(table_group, pdev, pdn);\n\tif (ret)\n\t\treturn ret;\n\n"
     "\tret = spapr_tce_reset_unknown(",
     "pseries.after-direct"),
    ("the hypervisor's codes have no names", f"{_TCE}/firmware/real.rs",
     "        HvError::name(code)\n", "        HvError::name(code).get(..1).unwrap_or_default()\n", "pseries.windows-lost"),
    ("each refusal of OPAL has a line", "arch/powerpc/platforms/powernv/pci-ioda-windows.c",
     "\tif (__ratelimit(&limit))\n", "\tif (MUTANT || __ratelimit(&limit))\n", "powernv10.opal-refuses"),
    ("OPAL's codes have no names", "arch/powerpc/platforms/powernv/pci-ioda-windows.c",
     "window_base(pe, num), opal_name(rc), rc, so);", 'window_base(pe, num), MUTANT ? "?" : opal_name(rc), rc, so);',
     "powernv10.opal-refuses"),
    ("a process where the kernel may map", f"{_TCE}/domain/process.rs",
     "if ctx.dma_mask() >= self.window.iovas.first() {", "if false {", "pseries.sva", "modern-debug-64k"),
    ("pages are not pinned for long", "rust/kernel/mm/pin.rs",
     "let mut flags = bindings::FOLL_LONGTERM;", "let mut flags = 0;", "pseries.sva"),
    ("bonds of files are not closed", "rust/kernel/iommu/sva_bonds.rs",
     "        let bonds = self.list.lock().bonds.take();\n        drop(bonds);\n", "        let _ = &self.list;\n", "pseries.sva-pulled"),
    ("a flush queue leaves no high addresses", "drivers/iommu/dma-iommu.c",
     "\treturn dma_limit < domain->geometry.high_start ?",
     "\treturn dma_limit < domain->geometry.high_start || (MUTANT && cookie->fq_domain) ?", "pseries.dma-small"),
)


class _Failed:
    """Keeps what failed first."""

    def __init__(self):
        self.first = ""

    def __call__(self, result):
        if result.status == "not ok" and not self.first:
            self.first = f"{result.name}: {result.detail}"


def _texts(env):
    """All mutants, in the files that they are for."""
    mutants_ = dict(enumerate(MUTANTS, 1))
    out = {}
    for path, text in mutants.texts(env, mutants_).items():
        here = {number: mutant[2:4] for number, mutant in mutants_.items() if mutant[1] == path}
        if path.endswith(".c"):
            for number, (old, new) in here.items():
                meant = f'strstr(saved_command_line, "mutant={number} ")'
                text = text.replace(old, new.replace("MUTANT", meant))
            out[path] = text
        else:
            out[path], _, alone = planting.plant(text, path, here)
            if alone:
                raise Fail(f"{MUTANTS[alone[0] - 1][0]!r} is not in a function that can have several bodies")
    return mutants.with_choice(env, out)


def _flavour(mutant):
    return mutant[5] if len(mutant) > 5 else _FLAVOUR


def _try(env, number, mutant, objects):
    """Runs the scenario of a mutant. Returns what failed."""
    one, = [one for one in suite.scenarios(True, mutant[4]) if one.label == f"{_flavour(mutant)}.{mutant[4]}"]
    failed = _Failed()
    append = f"{one.append} mutant={number} tce.end"
    scenario.run(env, dataclasses.replace(one, append=append), objects, failed)
    return failed.first


def run(env, only=""):
    """Tries each mutant; fails if one survives."""
    wanted = {n: mutant for n, mutant in enumerate(MUTANTS, 1) if re.search(only, f"{mutant[1]}: {mutant[0]}")}
    tree = source.prepare(env)
    survivors = []
    for flavour in sorted(set(map(_flavour, wanted.values()))):
        try:
            with mutants.changed(env, _texts(env)):
                objects = kernel.build(env, tree, flavour, again=True)
                for number, mutant in wanted.items():
                    if _flavour(mutant) == flavour:
                        begin = time.monotonic()
                        found = _try(env, number, mutant, objects)
                        if not mutants.say(mutant, "caught" if found else "SURVIVED", found, begin):
                            survivors.append(mutant[0])
        finally:
            # The next build is one without mutants.
            (env.objects(flavour) / ".built").unlink(missing_ok=True)
    line(f"{len(wanted) - len(survivors)} of {len(wanted)} mutants caught")
    if survivors:
        raise Fail(f"mutants that no scenario noticed: {'; '.join(survivors)}")
    return 0
