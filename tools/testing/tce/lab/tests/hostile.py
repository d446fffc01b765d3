# SPDX-License-Identifier: GPL-2.0
"""Users who may open a device and mean no good."""

from .. import steps
from ..scenario import Scenario
from ..steps import expect
from .vfio import held, settled

_SEED = 7


def to_vfio(bench):
    """The testdev is given to VFIO."""
    bench.guest.run("load tce_iommu; load vfio_pci; load vfio_iommu_type1; load iommufd; "
                    f"bind {bench.bdf('testdev')} vfio-pci; load nvme", 180)


def locked_memory(bench):
    """RLIMIT_MEMLOCK holds for what is mapped."""
    told = [bench.guest.run(f"memlock {kind} {bench.bdf('testdev')}") for kind in ("type1", "iommufd")]
    return told[0]


def charged_memory(bench):
    """The memory of tables is charged to the user's cgroup while something is mapped."""
    return [bench.guest.run(f"memcharge {kind} {bench.bdf('testdev')}", 180) for kind in ("type1", "iommufd")][0]


def _hostile(bench, count):
    """Random calls, in parts, so that a failure says where."""
    told = []
    # Without this only allocations that may not wait fail, and those are few.
    if "debug" in bench.scenario.flavour:
        bench.guest.run("(cd /sys/kernel/debug/failslab && echo N >ignore-gfp-wait && echo -1 >times); "
                        # A backtrace for each would keep the others waiting.
                        "for which in failslab fail_iommufd; do echo 0 >/sys/kernel/debug/$which/verbose || exit 1; done")
    bench.guest.run(f"hostile {_SEED} 1", 300)      # what is allocated once
    before = held(bench)
    for number in range(max(1, count // _PART)):
        told.append(bench.guest.run(f"hostile {_SEED + number} {min(count, _PART)}", 3000))
        bench.guest.check_log()
    settled(bench, before)
    if count > _PART:
        found = steps.leaks(bench)
        expect(not found, f"kmemleak: {len(found)}, the first {found[0][:600] if found else ''}")
    return f"seeds from {_SEED}: " + "; ".join(told[-1:])


_PART = 100000


def random_calls(bench):
    """Random calls of iommufd and VFIO from four threads, with allocations that fail."""
    return _hostile(bench, 8000)


def random_calls_long(bench):
    """A million random calls."""
    return _hostile(bench, 1000000)


# The idle second function keeps the slot from being reset at each close, which takes seconds on powernv.
_MORE = {"pseries": (), "powernv10": ("-global", "iommu-testdev.multifunction=on", "-device", "pvpanic-pci,bus=pcie.0,addr=0.7")}


def _each(name, *todo, flavour="modern-debug-64k", **more):
    return [Scenario(name, flavour, machine, ("testdev", "nvme"), (to_vfio, *todo, steps.log_clean), more=_MORE[machine], **more)
            for machine in _MORE]


SCENARIOS = [*_each("hostile", locked_memory, random_calls, flavour="modern-64k"), *_each("hostile", charged_memory, random_calls),
             *_each("hostile-long", random_calls_long, only_all=True)]
