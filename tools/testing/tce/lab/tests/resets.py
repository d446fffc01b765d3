# SPDX-License-Identifier: GPL-2.0
"""Devices that are reset while their drivers stay: what was mapped before has to work afterwards.

The IOMMU core attaches a device that can do ATS to the blocked domain for the time of a reset.
"""

import re

from .. import qtest, steps
from ..scenario import Scenario
from ..steps import MIB, expect, group_type

_ATS_RNG = "virtio-rng-pci,ats=on,iommu_platform=on,disable-legacy=on"
_VIRTIO_RNG = "1af4:1044"
PLATFORM = ("unknown", "identity")


def _reset(bench, bdf, rounds):
    """Resets a device in each way that it has."""
    path = f"/sys/bus/pci/devices/{bdf}"
    listed = bench.guest.run(f"cat {path}/reset_method").split()
    # A bus is listed until others are on it.
    ways = [way for way in listed if not bench.guest.try_run(f"echo {way} >{path}/reset_method")[0]]
    expect(ways, f"{bdf} cannot be reset")
    for way in ways:
        bench.guest.run(f"echo {way} >{path}/reset_method; for round in $(seq {rounds}); do echo 1 >{path}/reset || exit 1; done",
                        60 + rounds)
    bench.guest.run(f"echo default >{path}/reset_method")
    return f"{rounds} times {', '.join(ways)}"


def _in(*kinds):
    def loaded(bench):
        """Devices with ATS, and the type of their domains."""
        bench.guest.run("load ats; load tce_iommu; load nvme; load e100; load vfio_pci; load vfio_iommu_type1; load iommufd")
        kind = group_type(bench, "nvme")
        expect(kind in kinds, f"type {kind}")
        return kind
    return loaded


def watched(bench):
    """The way DMA is mapped does not change around a reset."""
    bdf = bench.bdf("nvme") if bench.is_pseries else bench.guest.pci(_VIRTIO_RNG)
    bench.guest.run(f"load binder; bind {bdf} binder")
    told = _reset(bench, bdf, 5)
    bench.guest.run(f"unbind {bdf}")
    bench.guest.check_log()
    wrong = [line for line in bench.guest.kernel_log.splitlines()
             if "changed hands" in line or "nothing can be mapped" in line or "mapped at" in line]
    expect(not wrong, " | ".join(wrong))
    return told


def disk(bench, rounds=3):
    """A disk is reset while it is read."""
    bdf = bench.bdf("nvme")
    bench.guest.run(f"bind {bdf} nvme")
    steps.reads_begin(bench, bdf)
    told = _reset(bench, bdf, rounds)
    read = steps.reads_were_right(bench)
    return f"{told}, {read}, {bench.disk_check(4 * MIB, seed=32)}"


def disk_long(bench):
    """A disk is reset 100 times in each way while it is read."""
    return disk(bench, 100)


def neighbours(bench, rounds=3):
    """Devices of one PE are reset while the others work."""
    nvme, e100, testdev = bench.bdf("nvme"), bench.bdf("e100"), bench.bdf("testdev")
    bench.guest.run(f"bind {nvme} nvme; bind {e100} e100")
    said = bench.guest.run(f"echo 1 >/sys/bus/pci/devices/{testdev}/enable; load binder; bind {testdev} binder; "
                           "dmesg | grep -o 'holds .*'")
    held = [int(word, 16) for word in re.findall(r"holds (\w+)", said)]
    steps.reads_begin(bench, nvme)
    with qtest.Writer(qtest.of(bench), held) as writer:
        for _ in range(rounds):
            bench.net_check("e100")
            _reset(bench, nvme, 1)
            bench.net_check("e100")
            status, _ = bench.guest.try_run(f"[ -s /sys/bus/pci/devices/{e100}/reset_method ]")
            if not status:
                _reset(bench, e100, 1)
    bench.guest.run(f"unbind {testdev}")
    expect(writer.writes and not writer.refused, f"{writer.refused} of {writer.writes} writes of the testdev were refused meanwhile")
    return f"{writer.writes} writes, {steps.reads_were_right(bench)}, {bench.disk_check(4 * MIB, seed=33)}"


def vfio(bench, rounds=3):
    """A disk that VFIO holds is reset."""
    bdf, checks = bench.bdf("nvme"), 0
    for other in bench.scenario.devices if bench.scenario.together else ("nvme",):
        bench.guest.run(f"bind {bench.bdf(other)} vfio-pci")
    for kind in ("type1", "iommufd"):
        said = bench.guest.run(f"vfioreset {kind} {bdf} reset {rounds}", 60 + rounds)
        expect("FAIL" not in said, said)
        checks += said.count("ok ")
    bench.guest.run(f"bind {bdf} nvme")
    return f"{checks} checks, {bench.disk_check(MIB, seed=34)}"


def vfio_long(bench):
    """A disk that VFIO holds is reset 100 times."""
    return vfio(bench, 100)


def _each(name, steps_, machines=("pseries", "powernv10"), flavour="modern-64k", **more):
    # A device with ATS where QEMU has one; elsewhere nvme only says so.
    rng = {"powernv10": ("-device", f"{_ATS_RNG},bus=pcie.3,addr=0")}
    return [Scenario(name, flavour, machine, ("nvme", "e100", "testdev"), steps_, modules=True,
                     more=(*rng.get(machine, ()), *qtest.ARGUMENTS), **more) for machine in machines]


_PASS = "iommu.passthrough=1"
# VFIO comes last: it tries what is refused.
_ALONE = (watched, disk, steps.dmesg_clean)

SCENARIOS = [
    *_each("reset-dma", (_in("DMA"), *_ALONE, vfio)),
    *_each("reset-platform", (_in(*PLATFORM), *_ALONE, vfio), append=_PASS),
    *_each("reset-lazy", (_in("DMA-FQ"), *_ALONE), machines=("powernv10",), append="iommu.strict=0", only_all=True),
    *_each("reset-shared", (_in("DMA"), neighbours, steps.dmesg_clean, vfio), together=True),
    *_each("reset-shared-platform", (_in(*PLATFORM), neighbours, steps.dmesg_clean), together=True, append=_PASS, only_all=True),
    *_each("reset-dma", (_in("DMA"), watched, disk_long, steps.dmesg_clean, vfio_long), flavour="modern-debug-64k", only_all=True),
    *_each("reset-platform", (_in(*PLATFORM), watched, disk_long, steps.dmesg_clean, vfio_long), flavour="modern-debug-64k",
           append=_PASS, only_all=True),
    *_each("reset-shared", (_in("DMA"), neighbours, steps.dmesg_clean, vfio_long), flavour="modern-debug-64k",
           together=True, only_all=True),
]
