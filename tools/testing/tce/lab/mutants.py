# SPDX-License-Identifier: GPL-2.0
"""Mutation proof: breaks the driver and the abstractions on purpose, one line at
a time, and sees whether a KUnit test notices.

The kernel runs as a program of this machine (user mode Linux), and one kernel has
nearly all mutants (see planting.py), so that a mutant takes a few seconds. The rest,
above all what is not in a function, needs a kernel each.

A mutant that no test notices is a hole in the tests, and is named in the result.
"""

import contextlib
import re
import subprocess
import threading
import time
from concurrent import futures

from . import kunit, mutations, outsiders, planting
from .say import Fail, Progress, line

_ARCH = "um"
_LIB = "rust/kernel/lib.rs"
# A kernel that hangs has noticed something as well.
_PATIENCE = 600
# The suite that is most likely to notice what is wrong with a file; all others come after it.
_NEAR = {"bonds.rs": "pe", "dump.rs": "state", "endpoint.rs": "endpoint", "ioda.rs": "pe", "layout.rs": "layout", "lent.rs": "process",
         "ownership.rs": "pe", "paging.rs": "paging", "papr.rs": "faults", "params.rs": "params", "pe.rs": "pe", "process.rs": "process",
         "shutdown.rs": "shutdown", "space.rs": "space", "stats.rs": "state", "table.rs": "table", "windows.rs": "layout"}
_BAD = re.compile(r"^\s*not ok|BUG:? |WARNING: |Kernel panic|list_\w+ corruption|Segfault")
_AT = re.compile(r"^error[^\n]*\n\s*--> (\S+?):(\d+):\d+", re.M)


@contextlib.contextmanager
def changed(env, texts):
    """Changes files for a while, also for make, which looks at their age."""
    old = {path: (env.linux / path).read_text(encoding="utf-8") for path in texts}
    try:
        for path, text in texts.items():
            (env.linux / path).write_text(text, encoding="utf-8")
        yield
    finally:
        for path, text in old.items():
            (env.linux / path).write_text(text, encoding="utf-8")


def _make(env, *arguments):
    words = ("make", "-C", env.linux, f"O={kunit.objects(env, _ARCH)}", f"ARCH={_ARCH}", f"-j{env.jobs}", *kunit.MAKE, *arguments)
    done = subprocess.run([str(word) for word in words], check=False, capture_output=True, text=True, errors="replace")
    return "" if done.returncode == 0 else re.sub(r"(?m)^warning: .*\n", "", done.stderr)


def _boot(env, suites, number=0):
    """Runs what is built until something is noticed. Returns that, or nothing."""
    command = (kunit.objects(env, _ARCH) / "vmlinux", "mem=1G", "ncpus=2", "seccomp=on", "console=tty",
               "kunit.enable=1", f"kunit.filter_glob={suites}", "kunit_shutdown=halt", f"mutant={number}",
               # Who uses what was freed finds something else there.
               "slab_debug=FZP")
    with subprocess.Popen([str(word) for word in command], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.DEVNULL, text=True, errors="replace", start_new_session=True) as guest:
        timer = threading.Timer(_PATIENCE, guest.kill)
        timer.start()
        test, last, began, left = "", "", False, 0
        for text in guest.stdout:
            began = began or "KTAP version" in text
            if found := re.match(r"\s+# Subtest: (\S+)", text):
                test = found[1]
            if found := re.match(r"1\.\.(\d+)$", text):
                left = int(found[1])
            left -= text.startswith("ok ")
            if "reboot: " in text or began and _BAD.search(text):
                last = text.strip()
                break
        timer.cancel()
        guest.kill()
    if "reboot: " in last:
        return "no tests" if not began else f"{left} suites did not run" if left else ""
    return f"{test}: {last}" if last else f"{test}: no end after {_PATIENCE} s, or a crash"


def _notice(env, path, number=0):
    """What the tests say of a mutant in a file, or nothing."""
    if not path.startswith("drivers/iommu/tce/"):
        return _boot(env, "rust_*", number)
    near = _NEAR.get(path.rsplit("/", 1)[1])
    return near and _boot(env, f"tce_{near}", number) or _boot(env, "tce_*", number)


def texts(env, mutants):
    """Each file that mutants are for, as it is."""
    found = {path: (env.linux / path).read_text(encoding="utf-8") for path in sorted({mutant[1] for mutant in mutants.values()})}
    for name, path, old, *_ in mutants.values():
        if (count := found[path].count(old)) != 1:
            raise Fail(f"mutant {name!r} does not fit any more: {old!r} is in {path} {count} times")
    return found


def with_choice(env, planted):
    """The same files, with the one that says which mutant is meant."""
    lib = planted.get(_LIB) or (env.linux / _LIB).read_text(encoding="utf-8")
    return {**planted, _LIB: lib + planting.CHOICE}


def _planted(env, sources, mutants):
    """The same with all mutants that go into one kernel, which lines they have, and those that do not."""
    out, lines, alone = {}, {}, []
    for path, text in sources.items():
        here = {number: mutant[2:] for number, mutant in mutants.items() if mutant[1] == path}
        out[path], lines[path], rest = planting.plant(text, path, here)
        alone += rest
    return with_choice(env, out), lines, alone


def _build_all(env, sources, mutants):
    """Builds the kernel of many. Returns its files, and the mutants that it does not have."""
    apart = []
    while True:
        planted, lines, alone = _planted(env, sources, {n: mutant for n, mutant in mutants.items() if n not in apart})
        with changed(env, planted):
            wrong = _make(env, "vmlinux")
        if not wrong:
            return apart + alone
        places = {(path.split("/linux/")[-1], int(at)) for path, at in _AT.findall(wrong)}
        bad = [n for path, of in lines.items() for n, span in of.items() if any(p == path and at in span for p, at in places)]
        if not bad:
            raise Fail(f"the kernel with the mutants cannot be built: {wrong[-2000:]}")
        apart += bad


def say(mutant, verdict, found, begin):
    line(f"{verdict:9} {mutant[1]}: {mutant[0]}: {found or '-'} ({time.monotonic() - begin:.0f} s)")
    return verdict == "caught"


def run(env, only=""):
    """Tries each mutant; fails if one survives."""
    if not (kunit.objects(env, _ARCH) / ".config").exists():
        kunit.configure(env, _ARCH)
    mutants = dict(enumerate(mutations.MUTANTS + outsiders.MUTANTS, 1))
    wanted = {n: mutant for n, mutant in mutants.items() if re.search(only, f"{mutant[1]}: {mutant[0]}")}
    sources = texts(env, mutants)
    survivors = []
    with Progress("mutants: one kernel for nearly all"):
        apart = _build_all(env, sources, mutants)
    with Progress("mutants: the tests without one"):
        if found := _boot(env, "tce_*") or _boot(env, "rust_*"):
            raise Fail(f"not even without a mutant: {found}")

    def try_one(number):
        begin, mutant = time.monotonic(), wanted[number]
        found = _notice(env, mutant[1], number)
        return [] if say(mutant, "caught" if found else "SURVIVED", found, begin) else [mutant[0]]

    with futures.ThreadPoolExecutor(env.jobs) as guests:
        survivors += sum(guests.map(try_one, sorted(wanted.keys() - set(apart))), [])
    for number in wanted.keys() & set(apart):
        begin, (_, path, old, new) = time.monotonic(), wanted[number]
        with changed(env, {**sources, path: sources[path].replace(old, new)}):
            wrong = _make(env, "vmlinux")
        found = wrong or _notice(env, path)
        if not say(wanted[number], "INVALID" if wrong else "caught" if found else "SURVIVED", wrong[:300] or found, begin):
            survivors.append(wanted[number][0])
    line(f"{len(wanted) - len(survivors)} of {len(wanted)} mutants caught")
    if survivors:
        raise Fail(f"mutants that no test noticed, or that do not compile: {'; '.join(survivors)}")
    return 0
