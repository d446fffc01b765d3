# SPDX-License-Identifier: GPL-2.0
"""VFIO with memory and groups that go away, and iommufd's own tests on the devices that it mocks."""

from .. import steps
from ..scenario import Scenario
from .vfio import hugepages, ktap, to_vfio


def failed_attach(bench):
    """tce_vfio: an attach for which there is no memory leaves the old domain."""
    return ktap(bench, "tce_vfio -t failed_attach", 120)[0]


def failed_release(bench):
    """tce_vfio: a device is let go without memory, and the kernel has its domain again."""
    told = ktap(bench, "tce_vfio -t failed_release", 120)[0]
    bench.guest.check_log()
    return told


def lost_group(bench):
    """tce_vfio: the last group leaves a type1 container in the middle of an ioctl."""
    return ktap(bench, "tce_vfio -t lost_group", 120)[0]


# Of the fixtures, those that are done in seconds.
_QUICK = ("iommufd", "iommufd_mock_domain", "vfio_compat_mock_domain", "iommufd_viommu", "iommufd_device_pasid",
          "change_process")


def mock(bench):
    """The kernel's iommufd selftest, without its slow half."""
    hugepages(bench, 160)
    return ktap(bench, f"iommufd -f {' -f '.join(_QUICK)}", 300)[0]


def mock_long(bench):
    """The kernel's iommufd selftest."""
    hugepages(bench, 160)
    return ktap(bench, "iommufd", 600)[0]


def fail_nth(bench):
    """iommufd with failing allocations, one of the kernel's selftests."""
    return ktap(bench, "iommufd_fail_nth -t map_domain", 300)[0]


def fail_nth_long(bench):
    """iommufd with failing allocations, all of the kernel's selftests."""
    return ktap(bench, "iommufd_fail_nth", 600)[0]


def _debug(name, machine, *more, flavour="modern-debug-64k", **others):
    return Scenario(name, flavour, machine, ("testdev",), (to_vfio, *more, steps.log_clean), selftests=True, **others)


# The mock needs no device and knows no platform.
SCENARIOS = [_debug("iommufd", "pseries", failed_attach, failed_release, lost_group, mock, fail_nth),
             _debug("iommufd", "powernv10", failed_attach, failed_release, lost_group),
             *(_debug("iommufd-long", "pseries", mock_long, fail_nth_long, flavour=flavour, only_all=True)
               for flavour in ("modern-debug-64k", "modern-debug-4k"))]
