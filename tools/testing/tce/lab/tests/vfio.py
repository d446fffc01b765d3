# SPDX-License-Identifier: GPL-2.0
"""VFIO type1 and iommufd: our own selftest, the kernel's, and devices given back whole."""

import re
import time

from .. import steps
from ..guest import GuestError
from ..scenario import Scenario
from ..steps import MIB, expect, stats

FAULT = re.compile(r"TCE access fault|Invalid indirect TCE|invalid TVE|xlate", re.I)


def _suite(bench, command, seconds):
    """Runs a program that talks KTAP; returns its counts."""
    _, output = bench.guest.try_run(command, seconds)
    failed = re.findall(r"^not ok \d+ (\S+)", output, re.M)
    good = re.findall(r"^ok \d+ (?!.*# SKIP)", output, re.M)
    skipped = re.findall(r"^ok \d+ .*# SKIP *(.*)", output, re.M)
    expect(not failed, f"{len(failed)} failed: {', '.join(failed[:8])}")
    expect(good and "# Totals:" in output, f"no result: {output[-300:]}")
    more = f", {len(skipped)} skipped ({'; '.join(sorted(set(skipped)))})" if skipped else ""
    return f"{len(good)} passed{more}"


def to_vfio(bench):
    """Test devices at vfio-pci."""
    # A device without a function reset would have its slot reset at each close, which takes
    # seconds on powernv; the idle second function there forbids it.
    bench.guest.run("load tce_iommu; load vfio_pci; load vfio_iommu_type1; load iommufd; "
                    "for id in 1b36:0005 1234:11e8 8086:10c9; do for dev in $(pci $id); do bind $dev vfio-pci || exit 1; "
                    "done; done")


def own_selftest(bench, rounds=1000):
    """tce_vfio: what devices reach through type1 and iommufd."""
    before = len(FAULT.findall(bench.guest.qemu_log.read_text(errors="replace")))
    result = _suite(bench, f"TCE_ROUNDS={rounds} tce_vfio", 600)
    faults = len(FAULT.findall(bench.guest.qemu_log.read_text(errors="replace"))) - before
    expect(bench.is_pseries or faults, "the PHB saw no fault")
    return result + ("" if bench.is_pseries else f", {faults} faults at the PHB")


def _igb(bench, program, arguments="", seconds=120):
    return f"{program}: " + _suite(bench, f"{program} {arguments} {bench.bdf('igb')}", seconds)


def kernel_vfio(bench):
    """The kernel's VFIO selftests with igb."""
    return ", ".join(_igb(bench, f"vfio_{name}_test") for name in ("iommufd_setup", "dma_mapping_mmio", "pci_device"))


def held(bench):
    """What a forgotten mapping would leave behind."""
    # The counters of the CPUs are added up now and then, or when asked.
    text = bench.guest.run("cat /proc/sys/vm/stat_refresh; grep -E '^(nr_foll_pin|nr_mlock)' /proc/vmstat; grep SUnreclaim /proc/meminfo")
    numbers = dict(re.findall(r"^(\w+):?\s+(\d+)", text, re.M))
    return {"pinned": int(numbers["nr_foll_pin_acquired"]) - int(numbers["nr_foll_pin_released"]),
            "locked": int(numbers["nr_mlock"]), "slab": int(numbers["SUnreclaim"]),
            "TCEs": stats(bench, "nvme").get("tces_populated")}


def settled(bench, before):
    """Waits until no more is held than before; returns what is held then."""
    for _ in range(10):     # pages of direct I/O are let go by a worker
        after = held(bench)
        if all(after[name] <= before[name] for name in ("pinned", "locked", "TCEs")):
            return after
        time.sleep(1)
    raise GuestError(f"held {before}, later {after}")


def _rounds(bench, count):
    """`count` rounds with each interface: the PE to VFIO, DMA, and back to the host driver."""
    guest, nvme, testdev = bench.guest, bench.bdf("nvme"), bench.bdf("testdev")
    guest.run(f"load nvme; bind {testdev} vfio-pci; bind {nvme} nvme")

    def batch(kind, number):
        guest.run(f"for round in $(seq {number}); do bind {nvme} vfio-pci && vfiocheck {kind} {testdev} dma >/tmp/out && "
                  f"bind {nvme} nvme && ddsum read $(disk_of {nvme}) 0 65536 >/tmp/sum && [ $(cat /tmp/sum) = $(cat /tmp/want) ] || "
                  "{ cat /tmp/out /tmp/sum; exit 1; }; done", 600)
    bench.disk_check(MIB, seed=1)
    guest.run(f"ddsum read $(disk_of {nvme}) 0 65536 >/tmp/want")
    for kind in ("type1", "iommufd"):   # what is allocated once
        batch(kind, 3)
    before = held(bench)
    for kind in ("type1", "iommufd"):
        for done in range(0, count, 50):
            batch(kind, min(50, count - done))
        bench.disk_check(MIB, seed=2)
        guest.run(f"ddsum read $(disk_of {nvme}) 0 65536 >/tmp/want")
    after = settled(bench, before)
    grown = after["slab"] - before["slab"]
    expect(grown < 1024 + 4 * count, f"slabs grew by {grown} KiB")
    return f"{count} rounds with type1 and with iommufd, pinned pages and TCEs as before, slabs {grown:+} KiB"


def given_back(bench):
    """The PE to VFIO and back, with DMA."""
    return _rounds(bench, 10)


def given_back_long(bench):
    """The PE to VFIO and back 1000 times, with DMA."""
    return _rounds(bench, 500)


# Two test devices in one PE, one in another, edu in a third that has other windows on pseries, and igb.
_PLACES = {
    "pseries": ("iommu-testdev,bus=phb1.0,addr=2", "spapr-pci-host-bridge,index=9,id=narrow,ddw=off",
                "edu,bus=narrow.0,dma_mask=0xffffffffffffffff"),
    "powernv10": ("iommu-testdev,bus=pcie.0,addr=0.1",
                  *(f"pvpanic-pci,bus=pcie.{number},addr=0.7" for number in range(3))),
}
_DEVICES = {"pseries": ("testdev", "testdev", "igb"), "powernv10": ("testdev", "testdev", "edu", "igb")}


def _more(machine):
    words = [word for device in _PLACES[machine] for word in ("-device", device)]
    if machine != "pseries":
        words = ["-global", "iommu-testdev.multifunction=on", "-global", "edu.multifunction=on", *words]
    return tuple(words)


def _vfio(name, steps_, **more):
    return [Scenario(name, "modern-64k", machine, _DEVICES[machine], steps_, more=_more(machine),
                     selftests=True, **more) for machine in _PLACES]


# The e100 has no driver here, which keeps its bridge from being reset at each close.
def _back(name, step, **more):
    return [Scenario(name, "modern-64k", machine, ("nvme", "testdev", "e100"), (to_vfio, step, steps.dmesg_clean),
                     together=True, **more) for machine in _PLACES]


SCENARIOS = [
    *_vfio("vfio", (to_vfio, own_selftest, kernel_vfio, steps.dmesg_clean)),
    *_back("vfio-back", given_back),
    *_back("vfio-back-long", given_back_long, only_all=True),
]
