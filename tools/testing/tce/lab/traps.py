# SPDX-License-Identifier: GPL-2.0
"""Mistakes that a user makes: each gets one line that says what to do, before
anything is made."""

import os
import pathlib
import subprocess
import tempfile
import unittest.mock

from . import arch, debian, say, scenario, shell, tries
from .guest import GuestError
from .tests import kvm, vfio

_SECONDS = 60
# No toolchain root: what the lab itself refuses. The tree has our files already, so no build would start.
_HOST = "TOOLS=host KDIR={linux} BUSYBOX={busybox}"
# If it were not refused, nothing could be fetched.
_NOWHERE = "TCE_MIRROR=http://127.0.0.1:9"

# name: (what is typed, words of the line that answers)
MISTAKES = {
    "kdir": ("make run KDIR=/nonexistent", "KDIR=/nonexistent is no kernel source tree"),
    "release": ("make run LINUX=newest", "LINUX=7.3-rc7"),
    "release_and_kdir": ("make run LINUX=7.3-rc7 KDIR={linux}", "two kernel trees"),
    "root": (f"make run ROOT=/nonexistent {_NOWHERE}", "make toolchain ROOT=/nonexistent"),
    "root_taken": (f"make toolchain ROOT=/usr {_NOWHERE}", "/usr is there already"),
    "jobs": ("make run JOBS=abc", "JOBS=4"),
    "tools": ("make run TOOLS=hots", "TOOLS=host"),
    "busybox": ("make run BUSYBOX=/bin/busybox", "TOOLS=host"),
    "arch": (f"make kunit ARCH=arm64 {_HOST}", "powerpcle and x86_64"),
    "flavour_without_pages": (f"make kernel FLAVOUR=modern {_HOST}", "modern-64k"),
    "flavour_without_driver": (f"make kernel FLAVOUR=64k {_HOST}", "modern-64k"),
    "flavour_unknown": (f"make kernel FLAVOUR=modren-64k {_HOST}", "configs/modren.config"),
    "machine": (f"make shell MACHINE=q35 {_HOST}", "there are pseries, powernv9"),
    "flavour_of_another": (f"make shell FLAVOUR=x86 {_HOST}", "modern-64k"),
    "only": (f"make check ONLY=nosuchtest {_HOST}", "no test is there"),
    "overlay_nowhere": ("make overlay", "make overlay DST=dir"),
    "series_taken": (f"make series DST={{taken}} {_HOST}", "is not empty"),
    "usage": (f"tools/testing/tce/enter.sh kernels {_HOST}", "make help"),
    "load": ("sh -c '. ./tools/testing/tce/guest/tce.sh; modules={empty}; load nosuchmodule 2>/dev/null'", "no module nosuchmodule"),
}


def _typed(env, command):
    """(status, output) of a command line of a user in the repository."""
    with tempfile.TemporaryDirectory() as build, tempfile.TemporaryDirectory() as taken:
        pathlib.Path(taken, "0001-of-another.patch").touch()
        return _answer(env, command.format(linux=env.linux, busybox=arch.POWERPC.busybox, taken=taken, empty="/media"), build)


def _answer(env, words, build):
    if not words.startswith(("make", "sh ")):       # variables go before a command
        program, *rest = words.split()
        words = " ".join([*(word for word in rest if "=" in word), program, *(word for word in rest if "=" not in word)])
    done = subprocess.run(["sh", "-c", words], cwd=env.top, env={"PATH": os.environ["PATH"], "BUILD": build}, timeout=_SECONDS,
                          stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if made := [name for name in os.listdir(build) if name != ".lock"]:
        raise GuestError(f"{words} made {', '.join(made)}")
    return done.returncode, [line for line in done.stdout.splitlines() if not line.startswith("make")]


def mistakes(env, _):
    """A mistake is answered with one line that says what to do."""
    for name, (command, need) in MISTAKES.items():
        try:
            status, lines = _typed(env, command)
        except subprocess.TimeoutExpired:
            raise GuestError(f"{name}: {command} went on and on") from None
        if not status or len(lines) != 1 or need not in lines[0]:
            raise GuestError(f"{name}: {command} gave {status}: {' | '.join(lines[:6])}")
    return f"{len(MISTAKES)} mistakes"


def mirror_lags(env, _):
    """A mirror without the packages of a KVM host is one failure, after other releases were tried."""
    found, asked = [], []

    def answer(command, *_):
        asked.append(command)
        return "update" in command      # the index is there, the packages are not

    with tempfile.TemporaryDirectory() as folder, unittest.mock.patch.object(debian, "run_logged", answer), \
            unittest.mock.patch.object(debian.time, "sleep"), unittest.mock.patch.object(say, "line"):
        elsewhere = unittest.mock.Mock(wraps=env, base=type(env.base)(folder), root="/elsewhere")
        (elsewhere.base / "kvm-host.log").write_text("E: Failed to fetch a.deb  404  Not Found\n" * 8)
        left = scenario.with_disks(elsewhere, kvm.SCENARIOS, found.append)
    failed = [result.detail for result in found if result.status == "not ok"]
    if left or len(failed) != 1 or "\n" in failed[0] or len(failed[0]) > 300 or "TCE_MIRROR" not in failed[0]:
        raise GuestError(f"{len(left)} scenarios left; {failed}")
    if len([one for one in asked if "install" in one]) <= len(debian.SUITES):
        raise GuestError("was not tried again")
    return failed[0]


def firmware_lines(_env, _objects):
    """`make shell` shows no line of the firmware, and every other byte at once."""
    sieve = shell.Sieve()
    said = (b"[  123.456,7] PHB#0: noise\r\nhello\n", b"[    0.5] kernel\n", b"/ # ", b"ls\n[ 1", b"2.3,5", b"] more\nend", b"\n")
    seen = b"".join(map(sieve, said))
    if seen != b"hello\n[    0.5] kernel\n/ # ls\nend\n":
        raise GuestError(f"seen: {seen}")
    if shell.Sieve()(b"~ # ") != b"~ # ":
        raise GuestError("a prompt was held back")


def appended(_env, _objects):
    """`make shell` gives APPEND to the kernel, behind what the guest needs."""
    from . import suite     # which has imported this one, and is complete by now
    with unittest.mock.patch.object(suite, "_build", return_value={"modern-64k": None}), \
            unittest.mock.patch.object(scenario, "command", return_value=["-M", "pseries"]), \
            unittest.mock.patch.object(shell, "run") as run, tempfile.TemporaryDirectory() as folder:
        suite.shell(unittest.mock.Mock(build=pathlib.Path(folder), locked=unittest.mock.MagicMock()), "pseries", "modern-64k",
                    "tce_iommu.exclude=0:1.0 debug", {})
    words = run.call_args.args[0][-1]
    if not words.startswith("console=") or not words.endswith(" tce.shell tce_iommu.exclude=0:1.0 debug"):
        raise GuestError(f"the kernel gets {words!r}")
    return words


def late_alone(_env, _objects):
    """A test of a selftest that was too late runs once more, alone, and what it says then counts."""
    late = "# slow: Test terminated by timeout\n# FAIL pe.type1.slow\nnot ok 1 pe.type1.slow\n{} 2 pe.iommufd.slow\n# Totals: 2\n"
    alone = "A=1 prog -r pe.type1.slow 0:1.0"
    for again, other, passes in (("ok 1 pe.type1.slow\n", "ok", True), ("not ok 1 pe.type1.slow\n", "ok", False),
                                 ("ok 1 pe.type2.slow\n", "ok", False), ("", "ok", False), ("ok 1 pe.type1.slow\n", "not ok", False)):
        bench = unittest.mock.Mock()
        bench.guest.try_run.side_effect = [(1, late.format(other)), (0, again)]
        try:
            passed = vfio.ktap(bench, "A=1 prog -v type1 0:1.0", 9)[0] == "2 passed"
        except GuestError:
            passed = False
        asked = [call.args[0] for call in bench.guest.try_run.call_args_list]
        if passed != passes or asked[1:] != [alone]:
            raise GuestError(f"{again!r}: passed {passed}, asked {asked}")


def second_try(_env, _objects):
    """What this machine was too busy for comes once more; what the kernel complained of, or fails twice, is a failure."""
    for first, then, want in (("late", "", "ok"), ("late", "late", "not ok"), ("kernel log: WARNING: at x", "", "not ok"),
                              ("", "late", "ok")):
        told, answers = [], [first, then]

        def run(one, report, answers=answers):
            said = answers.pop(0)
            report(scenario.Result(one.label, "not ok" if said else "ok", said))

        with unittest.mock.patch.object(tries, "remark"):
            some = tries.Tries(run, told.append)
            some.first(scenario.Scenario("x", "f", "m", (), ()))
            some.second()
        if [result.status for result in told] != [want]:
            raise GuestError(f"{first!r}, then {then!r}: {told}")
    with tempfile.TemporaryDirectory() as folder:
        gone = unittest.mock.Mock(directory=pathlib.Path(folder), read_log=unittest.mock.Mock(side_effect=GuestError))
        (gone.directory / "console.log").write_text("a\nWARNING: at x\nb\n")
        for guest in (unittest.mock.Mock(read_log=lambda: "WARNING: at x"), gone):
            if "kernel log: WARNING: at x" not in scenario.complaints(guest):
                raise GuestError("what the kernel complained of beside a failure is lost")


CHECKS = (mistakes, mirror_lags, firmware_lines, appended, late_alone, second_try)
