# SPDX-License-Identifier: GPL-2.0
"""One kernel after the other in a machine whose devices do not stop."""

import re
import time

from .. import nextkernel, qtest, steps
from ..guest import trouble_in
from ..scenario import Scenario
from ..steps import MIB, expect, group_type


def modern_drivers(bench):
    """The drivers of the IOMMU and of the devices are loaded."""
    bench.guest.run("load tce_iommu; load nvme; load e100; load vfio_pci; load vfio_iommu_type1; load iommufd", 180)
    for device in bench.scenario.devices:
        kind = group_type(bench, device)
        expect(kind.startswith("DMA"), f"{device} is in a domain of type {kind}")


def legacy_drivers(bench):
    """The drivers of the devices are loaded."""
    bench.guest.run("load nvme; load e100")


def data(bench):
    """nvme and e100 (32-bit mask)."""
    return f"crc32 {bench.disk_check(4 * MIB, seed=41)}, {bench.net_check('e100')}"


def same_windows(bench):
    """The windows are those that the first modern kernel had."""
    now = steps.windows(bench)
    was = bench.memory.setdefault("windows", now)
    expect(now == was, f"{now!r}, was {was!r}")
    return now


def nothing_left(bench):
    """The testdev reaches nothing by way of what earlier kernels mapped."""
    bench.guest.run(f"echo 1 >/sys/bus/pci/devices/{bench.bdf('testdev')}/enable")
    found = [hex(iova) for iova in bench.memory["held"] if qtest.of(bench).write_to(iova)]
    expect(not found, f"the testdev reaches {', '.join(found)}")


def _hold(bench, is_modern):
    """Has mappings made for the testdev that nobody takes down; returns their bus addresses."""
    bdf = bench.bdf("testdev")
    if is_modern:
        said = bench.guest.run(f"bind {bdf} vfio-pci; (vfiokeep type1 {bdf} >/tmp/held 2>&1 &); "
                               "until grep -q ready /tmp/held; do usleep 50000; done; cat /tmp/held")
        expect("ready" in said, f"nothing is held: {said}")
    else:
        said = bench.guest.run(f"unbind {bdf}; echo 1 >/sys/bus/pci/devices/{bdf}/enable && load binder && bind {bdf} binder && "
                              "dmesg | grep -o 'holds .*'")
    return [int(word, 16) for word in re.findall(r"^(?:held|holds) (\w+)$", said, re.M)]


def _start(bench, word):
    """Starts a kernel while the disk is read and the testdev writes."""
    guest, memory = bench.guest, bench.memory
    flavour = next(name for name in bench.scenario.next_kernels if name.startswith(word))
    was_modern = memory.get("flavour", bench.scenario.flavour).startswith("modern")
    memory["held"] = held = _hold(bench, was_modern)
    memory["flavour"] = flavour
    if memory.get("loaded") != flavour:
        nextkernel.load(bench, flavour)
    memory["loaded"] = ""
    guest.run(f"disk=$(disk_of {bench.bdf('nvme')}); (while :; do ddsum read $disk 0 {16 * MIB}; done >/dev/null 2>&1 &)")
    reached = [iova for iova in held if qtest.of(bench).write_to(iova)]
    expect(held and reached == held, f"of {held} the testdev reaches {reached}")
    # The driver in arch/powerpc leaves what it mapped to the next kernel, whose memory we would write to.
    with qtest.Writer(qtest.of(bench), held if was_modern else []) as writer:
        said, began = guest.next_kernel("kexec start")
        time.sleep(0.5)
    expect(not trouble_in(said), f"the kernel that went: {trouble_in(said)[:3]}")
    late = [hex(iova) for iova, last in writer.last.items() if last > began]
    expect(not late, f"after the start of {flavour} the testdev reaches {', '.join(late)}")
    return f"{len(held)} mappings, {writer.writes} writes" + ", until a reset took its registers away" * writer.silent


def to_modern(bench):
    """The kernel with this driver is started."""
    return _start(bench, "modern")


def to_legacy(bench):
    """The kernel with the driver in arch/powerpc is started."""
    return _start(bench, "legacy")


def loaded_early(bench):
    """The next kernel is made ready before the driver is loaded."""
    bench.guest.run("load nvme")
    bench.memory["loaded"] = bench.scenario.next_kernels[0]
    nextkernel.load(bench, bench.scenario.next_kernels[0])
    bench.guest.run("rmmod nvme")


_KERNELS = ("modern-64k", "legacy-64k")
_MODERN = (modern_drivers, same_windows, data)
_LEGACY = (legacy_drivers, data)


def _chain(kernels):
    """The steps for one kernel after the other: m, modern, or l, legacy."""
    found, before = [], ""
    for kernel in kernels:
        found += (to_modern if kernel == "m" else to_legacy,) * bool(before) + (_MODERN if kernel == "m" else _LEGACY)
        # The driver in arch/powerpc leaves windows to itself as they are.
        found += (nothing_left,) * (before + kernel not in ("m", "l", "ll"))
        before = kernel
    return tuple(found)


def _each(name, flavour, steps_, **more):
    return [Scenario(name, flavour, machine, ("nvme", "e100", "testdev"), steps_, more=qtest.ARGUMENTS, modules=True, **more)
            for machine in ("pseries", "powernv10")]


SCENARIOS = [
    *_each("kexec", "legacy-64k", _chain("lmmlm"), next_kernels=_KERNELS, only_all=True),
    *_each("kexec-early", "modern-64k", (loaded_early, *_MODERN, to_modern, *_MODERN, nothing_left), next_kernels=_KERNELS[:1]),
    *_each("kexec-long", "legacy-64k", _chain("lmmlmllmmlm"), next_kernels=_KERNELS, only_all=True),
    *_each("kexec", "modern-debug-64k", _chain("mmm"), next_kernels=("modern-debug-64k",), only_all=True),
]
