# SPDX-License-Identifier: GPL-2.0
"""Mutation proof: breaks the driver and the abstractions on purpose, one line at
a time, and sees whether a KUnit test notices.

All mutants of the driver are built into one kernel, each as a crate of its own
with suites of its own, so that only a boot is needed for each. A mutant of the
abstractions is a kernel of its own.

A mutant that no test notices is a hole in the tests, and is named in the result.
"""

import contextlib
import re
import shutil
import subprocess
import time

from . import kunit
from .mutations import MUTANTS
from .say import Fail, Progress, line

_DRIVER = "drivers/iommu/tce/"


@contextlib.contextmanager
def _changed(path, change):
    """Changes a file for a while."""
    text = path.read_text(encoding="utf-8")
    path.write_text(change(text), encoding="utf-8")
    try:
        yield
    finally:
        path.write_text(text, encoding="utf-8")


def _mutation(mutant):
    """What a mutant does to the text of its file."""
    name, _, old, new = mutant

    def mutate(text):
        if text.count(old) != 1:
            raise Fail(f"mutant {name!r} does not fit any more: {old!r} is there {text.count(old)} times")
        return text.replace(old, new)
    return mutate


def _make(env, *arguments):
    """Builds again after a change of source alone. Returns what went wrong."""
    words = ("make", "-C", env.linux, f"O={kunit.objects(env, kunit.KASAN)}", f"ARCH={kunit.KASAN}", f"-j{env.jobs}",
             *kunit.MAKE, *arguments)
    done = subprocess.run([str(word) for word in words], check=False, capture_output=True, text=True, errors="replace")
    return "" if done.returncode == 0 else " ".join(done.stderr[:600].split())


def _say(mutant, verdict, found, begin):
    line(f"{verdict:9} {mutant[1]}: {mutant[0]}: {found or '-'} ({time.monotonic() - begin:.0f} s)")
    return verdict == "caught"


def _plant(env, place, crate, mutant):
    """Makes a crate of the driver with a mutant in it."""
    home = place / crate
    shutil.copytree(env.linux / _DRIVER, home, ignore=shutil.ignore_patterns(place.name))
    broken = home / mutant[1].removeprefix(_DRIVER)
    broken.write_text(_mutation(mutant)(broken.read_text(encoding="utf-8")), encoding="utf-8")
    (home / "Makefile").write_text(f"obj-y += {crate}.o\n", encoding="utf-8")
    (home / "tce_kunit.rs").rename(home / f"{crate}.rs")
    for path in (home / f"{crate}.rs", *(home / "tests").iterdir()):
        text = path.read_text(encoding="utf-8")
        text = text.replace("kunit_tests(tce_", f"kunit_tests({crate}_").replace('name: "tce_kunit"', f'name: "{crate}"')
        path.write_text(text, encoding="utf-8")


def _drivers(env, mutants):
    """Tries mutants of the driver. Returns those that no test noticed."""
    place = env.linux / _DRIVER / "mutants"
    objects = kunit.objects(env, kunit.KASAN) / _DRIVER / "mutants"
    crates = {f"m{n:02}": mutant for n, mutant in enumerate(mutants)}
    shutil.rmtree(place, ignore_errors=True)
    shutil.rmtree(objects, ignore_errors=True)
    survivors = []
    try:
        with _changed(env.linux / _DRIVER / "Makefile", lambda text: text + "obj-y += mutants/\n"):
            for crate, mutant in crates.items():
                _plant(env, place, crate, mutant)
            listing = place / "Makefile"
            with Progress(f"mutants: {len(crates)} of the driver"):
                listing.write_text("".join(f"obj-y += {crate}/\n" for crate in crates), encoding="utf-8")
                _make(env, "-k", f"{_DRIVER}mutants/")
                built = [crate for crate in crates if (objects / crate / f"{crate}.o").exists()]
                listing.write_text("".join(f"obj-y += {crate}/\n" for crate in built), encoding="utf-8")
                if wrong := _make(env, "bzImage"):
                    raise Fail(f"the kernel with the mutants cannot be built: {wrong}")
            for crate, mutant in crates.items():
                begin = time.monotonic()
                found = kunit.boot(env, f"{crate}_*") if crate in built else ""
                verdict = "INVALID" if crate not in built else "caught" if found else "SURVIVED"
                if not _say(mutant, verdict, found, begin):
                    survivors.append(mutant[0])
    finally:
        shutil.rmtree(place, ignore_errors=True)
    return survivors


def _abstractions(env, mutants):
    """Tries mutants of the abstractions. Returns those that no test noticed."""
    survivors = []
    for mutant in mutants:
        begin = time.monotonic()
        with _changed(env.linux / mutant[1], _mutation(mutant)):
            wrong = _make(env, "bzImage")
            found = wrong or kunit.boot(env, "rust_iommu*")
        if not _say(mutant, "INVALID" if wrong else "caught" if found else "SURVIVED", found, begin):
            survivors.append(mutant[0])
    return survivors


def run(env, only=""):
    """Tries each mutant; fails if one survives."""
    if not (kunit.objects(env, kunit.KASAN) / ".config").exists():
        raise Fail(f"run `make kunit ARCH={kunit.KASAN}` first")
    wanted = [mutant for mutant in MUTANTS if re.search(only, f"{mutant[1]}: {mutant[0]}")]
    with Progress("mutants: the tests without one"):
        found = _make(env, "bzImage") or kunit.boot(env, "tce_*") or kunit.boot(env, "rust_iommu*")
        if found:
            raise Fail(f"not even without a mutant: {found}")
    ours = [mutant for mutant in wanted if mutant[1].startswith(_DRIVER)]
    survivors = _drivers(env, ours) if ours else []
    survivors += _abstractions(env, [mutant for mutant in wanted if mutant not in ours])
    line(f"{len(wanted) - len(survivors)} of {len(wanted)} mutants caught")
    if survivors:
        raise Fail(f"mutants that no test noticed, or that do not compile: {'; '.join(survivors)}")
    return 0
