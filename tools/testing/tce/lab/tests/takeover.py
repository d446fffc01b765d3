# SPDX-License-Identifier: GPL-2.0
"""The driver is loaded while other drivers come and go: nothing that runs is disturbed."""

import random

from ..scenario import Scenario
from ..steps import MIB, expect, group_type

DISKS = 8


def _disks(bench):
    """Waits for all disks, and reads some of each."""
    guest = bench.guest
    read = [guest.run(f"ddsum read $(disk_of {bdf}) 0 {MIB}", 120) for bdf in guest.run("pci 1b36:0010").split()]
    want = [bench.image_crc(0, MIB, number) for number in range(DISKS)]
    expect(sorted(read) == sorted(want), f"read {read}, the disks have {want}")
    found = int(guest.run("ls /dev/nvme?n1 | wc -l"))
    expect(found == DISKS, f"{found} of {DISKS} disks")
    return guest.run("for dev in $(pci 1b36:0010); do type_of $dev; done | sort | uniq -c").split()


def disks_bind_meanwhile(bench):
    """Eight disks bind while the driver is loaded."""
    seen = []
    for number in range(DISKS):
        with open(bench.image(number), "r+b") as image:
            image.write(random.Random(number).randbytes(MIB))
    # Read once, so that a module takes its time to load and not to be read.
    bench.guest.run("load nvme_core; cat /modules/*.ko >/dev/null")
    for number, delay in enumerate(bench.memory["delays"]):
        if number:
            bench.guest.run("until [ $(cat /sys/module/tce_iommu/initstate) = live ]; do usleep 50000; done; "
                            "for dev in $(pci 1b36:0010); do echo 1 >/sys/bus/pci/devices/$dev/remove; done; "
                            "rmmod nvme; rmmod tce_iommu; echo 1 >/sys/bus/pci/rescan", 120)
        bench.guest.run(f"(load tce_iommu &) ; usleep {delay}; load nvme", 120)
        seen.append(f"{delay} us: {' '.join(_disks(bench))}")
        bench.guest.check_log()
    return "; ".join(seen)


def _delays(*delays):
    def delays_of_the_rounds(bench):
        """How long after the driver the disks' driver is loaded."""
        bench.memory["delays"] = delays
        return ", ".join(f"{delay} us" for delay in delays)
    return delays_of_the_rounds


def slow_devices(bench):
    """Each PE takes 100 ms more to be taken over."""
    bench.guest.run("load slow ms=50")


def bound_when_loaded(bench):
    """A driver that binds and unbinds all the time while the driver is loaded."""
    for hold, gap in ((6000, 2000), (50, 600)):
        bench.guest.run(f"load binder hold_us={hold} gap_us={gap}; usleep 50000; load tce_iommu; sleep 2; rmmod binder")
        bench.guest.check_log()
        text = bench.guest.kernel_log
        expect("changed hands" not in text and "nothing can be mapped" not in text and "mapped at" not in text,
               next((line for line in text.splitlines() if "binder" in line), ""))
        kind = group_type(bench, "edu")
        expect(kind.startswith("DMA"), f"type {kind} with nothing bound")
        bench.guest.run("for dev in /sys/bus/pci/devices/*; do [ ! -e $dev/iommu_group ] || echo 1 >$dev/remove; done; "
                        "rmmod tce_iommu && echo 1 >/sys/bus/pci/rescan && [ -n \"$(pci 1234:11e8)\" ]")


def managed_driver(bench):
    """Devices with drivers that leave DMA to others."""
    bdf = bench.bdf("edu")
    bench.guest.run(f"load binder managed=1; [ $(driver_of {bdf}) = binder ]; load tce_iommu")
    bench.guest.check_log()
    bench.guest.run("load vfio_pci; load vfio_iommu_type1")
    bench.guest.run(f"bind {bdf} vfio-pci && vfiocheck type1 {bdf} && unbind {bdf}")
    kind = group_type(bench, "edu")
    expect(kind.startswith("DMA"), f"type {kind} after the driver has gone")
    return kind


def failed_probe(bench):
    """A device whose probe fails is taken over."""
    bdf = bench.bdf("edu")
    bench.guest.run("(load binder probe_ms=1000 fail=1 &) ; usleep 300000; load tce_iommu")
    kind = bench.guest.run(f"until type_of {bdf} | grep ^DMA; do usleep 100000; done")
    bench.guest.run("load vfio_pci; load vfio_iommu_type1")
    bench.guest.run(f"bind {bdf} vfio-pci && vfiocheck type1 {bdf} && unbind {bdf}")
    return kind


def failed_probe_later(bench):
    """A probe that fails leaves nothing that keeps a device from the platform."""
    bdf = bench.bdf("edu")
    path = f"/sys/bus/pci/devices/{bdf}/iommu_group/type"
    bench.guest.run("rmmod binder; load binder fail=1")
    bench.guest.run(f"until echo identity >{path} 2>/dev/null; do usleep 100000; done")
    kind = bench.guest.run(f"type_of {bdf}")
    expect(kind in ("unknown", "identity"), f"type {kind}")
    bench.guest.run(f"echo DMA >{path}")
    return kind


def failed_probe_shared(bench):
    """A failed probe of one device brings its whole PE."""
    failed_probe(bench)
    kind = group_type(bench, "testdev")
    expect(kind.startswith("DMA"), f"type {kind} of its neighbour")
    return kind


def _each(name, steps, machines=("pseries", "powernv10"), devices=("nvme", "edu", "testdev"), flavour="modern-64k", **more):
    return [Scenario(name, flavour, machine, devices, steps, modules=True, **more) for machine in machines]


_SMP4 = ("-smp", "4")
_EIGHT = ("nvme",) * DISKS

SCENARIOS = [
    *_each("takeover-disks", (_delays(0, 4000, 8000, 12000, 18000, 26000), disks_bind_meanwhile), machines=("pseries",),
           devices=_EIGHT, more=_SMP4),
    *_each("takeover-disks-slow", (_delays(0, 60000, 200000), slow_devices, disks_bind_meanwhile), machines=("pseries",),
           devices=_EIGHT, more=_SMP4),
    *_each("takeover-race", (bound_when_loaded,), more=_SMP4),
    *_each("takeover-managed", (managed_driver,)),
    *_each("takeover-failed", (failed_probe, failed_probe_later)),
    *_each("takeover-failed-shared", (failed_probe_shared,), together=True),
    *_each("takeover-disks", (_delays(*range(0, 40000, 200)), disks_bind_meanwhile), machines=("pseries",), devices=_EIGHT,
           more=_SMP4, flavour="modern-debug-64k", only_all=True),
]
