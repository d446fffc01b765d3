# SPDX-License-Identifier: GPL-2.0
"""The suites under the kernel's own kunit.py, on two architectures.

On ppc64le they run where the driver runs. On x86_64 KASAN watches them, which
rustc does not have for ppc64le.
"""

import re
import subprocess
import threading

from .say import Fail, remark

# The driver's suites and those of the abstractions share a kernel.
SUITES = ("drivers/iommu/tce", "rust/kernel/iommu")
ARCHES = {"powerpcle": ("--cross_compile", "powerpc64le-linux-gnu-"), "x86_64": ()}
# The one that KASAN is on, which is also faster.
KASAN = "x86_64"
# Lines in stack traces, and for coverage.
MAKE = ("LLVM=1", "KRUSTFLAGS=-Cdebuginfo=1")
# A guest that hangs has noticed something as well.
_PATIENCE = 150
_BAD = r"BUG: |WARNING: |Kernel panic"


def objects(env, arch):
    """The O= directory of kunit.py."""
    place = env.build / "kunit" / arch
    place.mkdir(parents=True, exist_ok=True)
    return place


def _configs(env, arch):
    configs = [env.linux / suite for suite in SUITES]
    return configs + [env.tce / "configs" / name for name in ("kunit.config", f"kunit-{arch}.config")]


def configure(env, arch):
    """Only chooses what will be built."""
    command = (env.linux / "tools/testing/kunit/kunit.py", "config", f"--arch={arch}", f"--build_dir={objects(env, arch)}",
               *(f"--kunitconfig={config}" for config in _configs(env, arch)), *(f"--make_options={option}" for option in MAKE))
    subprocess.run([str(word) for word in command], cwd=env.linux, check=True)


def _command(env, arch):
    command = (env.linux / "tools/testing/kunit/kunit.py", "run", f"--arch={arch}", f"--build_dir={objects(env, arch)}",
               *(f"--kunitconfig={config}" for config in _configs(env, arch)), *(f"--make_options={option}" for option in MAKE),
               *ARCHES[arch], f"--jobs={env.jobs}", "--summary",
               # Two CPUs, so that races happen.
               "--qemu_args", "-smp 2")
    return [str(word) for word in command]


def run(env, arches):
    """Runs all suites on some architectures; fails if a test fails or the kernel complains."""
    bad = []
    for arch in arches:
        remark(f"kunit: {arch}")
        done = subprocess.run(_command(env, arch), cwd=env.linux, check=False)
        log = objects(env, arch) / "test.log"
        found = failures(log.read_text(encoding="utf-8", errors="replace")) if done.returncode == 0 else ["kunit.py failed"]
        bad += [f"{arch}: {what}" for what in found]
    if bad:
        raise Fail("kunit: " + "; ".join(bad))
    return 0


def failures(text):
    """What went wrong in a raw log: failed tests, and reports of the kernel."""
    return re.findall(rf"^\s*(?:not ok .*|.*(?:{_BAD}).*)$", text, re.M)


def boot(env, suites, *qemu):
    """Runs what is built until something is noticed, without kunit.py. Returns that, or nothing."""
    command = ("qemu-system-x86_64", "-nodefaults", "-m", "1024", "-accel", "tcg", "-smp", "2", "-nographic", "-no-reboot",
               "-serial", "stdio", "-bios", "qboot.rom", "-kernel", objects(env, KASAN) / "arch/x86/boot/bzImage", *qemu,
               "-append", f"console=ttyS0 kunit.enable=1 kunit_shutdown=reboot kunit.filter_glob={suites}")
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, errors="replace") as guest:
        timer = threading.Timer(_PATIENCE, guest.kill)
        timer.start()
        end = re.compile(rf"^\s*not ok|{_BAD}|reboot: ")
        last = next(filter(end.search, guest.stdout), f"no end after {_PATIENCE} s")
        timer.cancel()
        guest.kill()
    return "" if "reboot: " in last else last.strip()
