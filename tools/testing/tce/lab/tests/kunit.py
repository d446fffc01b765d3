# SPDX-License-Identifier: GPL-2.0
"""KUnit and the Rust doctests, as the guest's kernel log tells them."""

import re

from .. import steps
from ..scenario import Scenario
from ..steps import expect


def _count(log, what):
    """Counts the innermost results of KTAP in a kernel log."""
    deepest = re.findall(r"^(?: {8}|\t\t| {4})(ok|not ok) \d+ (\S+.*)$", log, re.M)
    failed = [name for verdict, name in deepest if verdict == "not ok"]
    good = len(deepest) - len(failed)
    expect(not failed, f"{len(failed)} failed: {', '.join(failed[:10])}")
    expect(good, f"no {what} in this kernel")
    return f"{good} tests"


def built_in(bench):
    """KUnit tests and doctests of the kernel crate."""
    return _count(bench.guest.kernel_log, "test")


def _loaded(bench, module):
    before = len(bench.guest.kernel_log)
    bench.guest.run(f"load {module}", 300)
    bench.guest.check_log()
    return _count(bench.guest.kernel_log[before:], f"test of {module}")


def driver(bench):
    """KUnit tests of the driver."""
    return _loaded(bench, "tce_kunit")


def sample(bench):
    """The sample of an IOMMU driver, with its tests; it comes and goes."""
    result = _loaded(bench, "rust_iommu_driver")
    bench.guest.run("cd /sys/class/iommu && test -d rust-iommu-sample && rmmod rust_iommu_driver && test ! -e rust-iommu-sample")
    return result


def _suites(machine, flavour="modern-debug-64k", **more):
    # The drivers that the suites bring map memory which is nobody's, and are made to lie about it.
    return Scenario("kunit", flavour, machine, ("testdev",), (built_in, driver, sample, steps.dmesg_clean),
                    append="log_buf_len=16M kunit.enable=1 kunit.autorun=1 iommu.debug_pagealloc=0", **more)


# The suites are the same everywhere, so one is enough for every day.
SCENARIOS = [_suites("pseries"), _suites("powernv10", only_all=True), _suites("pseries", "modern-debug-4k", only_all=True)]
