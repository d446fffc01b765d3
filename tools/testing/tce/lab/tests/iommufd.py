# SPDX-License-Identifier: GPL-2.0
"""iommufd with memory that runs out, and its own tests on the devices that it mocks."""

from .. import steps
from ..scenario import Scenario
from .vfio import hugepages, ktap, to_vfio


def failed_attach(bench):
    """tce_vfio: an attach for which there is no memory leaves the old domain."""
    return ktap(bench, "tce_vfio -t failed_attach", 120)[0]


def mock(bench):
    """The kernel's iommufd selftest."""
    hugepages(bench, 160)
    return ktap(bench, "iommufd", 600)[0]


def fail_nth(bench):
    """The kernel's iommufd selftest with failing allocations."""
    return ktap(bench, "iommufd_fail_nth", 600)[0]


# The mock needs no device and knows no platform.
_STEPS = {"pseries": (failed_attach, mock, fail_nth), "powernv10": (failed_attach,)}

SCENARIOS = [Scenario("iommufd", "modern-debug-64k", machine, ("testdev",), (to_vfio, *more, steps.log_clean), selftests=True)
             for machine, more in _STEPS.items()]
