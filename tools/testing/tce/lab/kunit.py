# SPDX-License-Identifier: GPL-2.0
"""The suites under the kernel's own kunit.py, on two architectures.

On ppc64le they run where the driver runs. On x86_64 KASAN watches them, which
rustc does not have for ppc64le.
"""

import re
import subprocess

from .say import Fail, remark

SUITES = ("drivers/iommu/tce",)
# Their tests come along with each suite, because a kernel of their own takes longer.
ABSTRACTIONS = ("rust/kernel/iommu",)
ARCHES = {
    "powerpcle": ("--cross_compile", "powerpc64le-linux-gnu-"),
    "x86_64": ("--kconfig_add", "CONFIG_KASAN=y", "--kconfig_add", "CONFIG_KASAN_INLINE=y",
               "--kconfig_add", "CONFIG_PROVE_LOCKING=y", "--kconfig_add", "CONFIG_DEBUG_ATOMIC_SLEEP=y"),
}


def _command(env, arch, suite):
    build = env.build / "kunit" / arch
    build.mkdir(parents=True, exist_ok=True)
    return [str(word) for word in (
        env.linux / "tools/testing/kunit/kunit.py", "run", f"--arch={arch}", "--make_options", "LLVM=1",
        f"--jobs={env.jobs}", *(f"--kunitconfig={env.linux / place}" for place in (suite, *ABSTRACTIONS)),
        f"--build_dir={build}", *ARCHES[arch])]


def run(env):
    """Runs all suites everywhere; returns how many runs failed."""
    failed = 0
    for arch in ARCHES:
        for suite in SUITES:
            remark(f"kunit: {suite} on {arch}")
            done = subprocess.run([*_command(env, arch, suite), "--summary"], cwd=env.linux, check=False)
            failed += done.returncode != 0
    if failed:
        raise Fail(f"kunit: {failed} of {len(ARCHES) * len(SUITES)} runs failed")
    return 0


def log(env, arch, suite):
    """What one suite printed, raw."""
    done = subprocess.run([*_command(env, arch, suite), "--raw_output=all"], cwd=env.linux, check=False,
                          capture_output=True, text=True, errors="replace")
    return done.stdout + done.stderr


def failures(text):
    """What went wrong in a raw log: failed tests, and reports of the kernel."""
    failed = re.findall(r"^\s{4}not ok \d+ (\S+)", text, re.M)
    return failed + re.findall(r"BUG: \S+|WARNING: \S+ \S+|Kernel panic[^\n]*", text)
