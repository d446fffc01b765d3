# SPDX-License-Identifier: GPL-2.0
"""PEs that are frozen, and the recovery of EEH.

QEMU's PHB of PowerNV keeps what its tables say of a frozen PE, and firmware and the kernel act on it.
It stops no DMA. Its pseries has no EEH for emulated devices.
"""

import re

from .. import steps
from ..scenario import Scenario
from ..steps import MIB, expect, group_type

_EEH = "/sys/kernel/debug/powerpc/eeh"


def absent(bench):
    """QEMU's pseries has no EEH for emulated devices."""
    state = bench.guest.run("cat /proc/powerpc/eeh")
    expect("disabled" in state, state)


def loaded(bench):
    """Drivers."""
    bench.guest.run("load tce_iommu; load nvme; load e100; load vfio_pci; load vfio_iommu_type1; load iommufd; load binder")


def freeze(bench, bdf):
    bench.guest.run(f"rmmod freeze 2>/dev/null || :; insmod /modules/freeze.ko dev={bdf}")


def recover(bench, bdf, meanwhile=""):
    """Lets EEH look at a device, and waits until it has recovered it."""
    bench.guest.read_log()
    before = len(bench.guest.kernel_log)
    bench.guest.run(f"echo {bdf} >{_EEH}_dev_check; {meanwhile}")
    bench.guest.run("until dmesg | grep -q 'EEH: Recovery successful'; do usleep 100000; done", 60)
    bench.guest.check_log()
    log = bench.guest.kernel_log[before:]
    expect("EEH: Recovery successful" in log, "; ".join(re.findall(r"EEH: .*", log)) or f"EEH sees nothing: {log}")
    return log


def with_handlers(bench, rounds=1):
    """A disk whose driver has EEH handlers, while it is read."""
    bdf, kind = bench.bdf("nvme"), group_type(bench, "nvme")
    steps.reads_begin(bench, bdf)
    for _ in range(rounds):
        freeze(bench, bdf)
        log = recover(bench, bdf)
        expect("Reset without hotplug activity" in log, "no slot reset")
    read = steps.reads_were_right(bench)
    expect(group_type(bench, "nvme") == kind, f"type {group_type(bench, 'nvme')}, was {kind}")
    return f"{kind}, {read}, {bench.disk_check(4 * MIB, seed=41)}"


def without_handlers(bench):
    """A device whose driver has no EEH handlers is removed and comes back."""
    bdf, kind = bench.bdf("edu"), group_type(bench, "edu")
    bench.guest.run(f"bind {bdf} binder")
    freeze(bench, bdf)
    log = recover(bench, bdf)
    expect("Reset with hotplug activity" in log, "no hotplug")
    bench.guest.run(f"until [ $(driver_of {bdf}) = binder ]; do usleep 100000; done; unbind {bdf}")
    bench.guest.check_log()
    now = group_type(bench, "edu")
    expect(now == kind, f"type {now}, was {kind}")
    expect("changed hands" not in bench.guest.kernel_log, "DMA changed hands")
    bench.guest.run("insmod /modules/dma_api.ko do=transfer bits=64; rmmod dma_api")
    log = bench.guest.check_log()
    expect("right" in log, f"DMA: {log}")
    return now


def vfio_user(bench):
    """A user of VFIO is told, and its mappings stay."""
    bdf, checks = bench.bdf("nvme"), 0
    bench.guest.run(f"bind {bdf} vfio-pci")
    for kind in ("type1", "iommufd"):
        bench.guest.run(f"rm -f /tmp/said; (vfioreset {kind} {bdf} error 1 && echo status 0 || echo status $?) >/tmp/said 2>&1 & "
                        "until grep -q waiting /tmp/said; do usleep 50000; done")
        freeze(bench, bdf)
        recover(bench, bdf)
        said = bench.guest.run("until grep -q status /tmp/said; do usleep 50000; done; cat /tmp/said")
        expect("FAIL" not in said and "status 0" in said, f"{kind}: {said}")
        checks += said.count("ok ")
    bench.guest.run(f"bind {bdf} nvme")
    return f"{checks} checks, {bench.disk_check(MIB, seed=42)}"


def frozen_meanwhile(bench):
    """A frozen PE is attached, mapped, unmapped and given back, and recovers."""
    bdf = bench.bdf("nvme")
    freeze(bench, bdf)
    bench.disk_check(MIB, seed=43)
    for kind in ("type1", "iommufd"):
        freeze(bench, bdf)
        bench.guest.run(f"bind {bdf} vfio-pci; vfioreset {kind} {bdf} reset 1")
    freeze(bench, bdf)
    path = f"/sys/kernel/iommu_groups/{bench.guest.run(f'group_of {bdf}')}/type"
    for kind in ("identity", "DMA"):
        bench.guest.run(f"unbind {bdf}; echo {kind} >{path}; bind {bdf} nvme")
        bench.disk_check(MIB, seed=44)
        freeze(bench, bdf)
    recover(bench, bdf)
    return bench.disk_check(MIB, seed=45)


def frozen_when_taken_over(bench):
    """A frozen PE is taken over, and recovers."""
    bdf = bench.bdf("nvme")
    freeze(bench, bdf)
    bench.guest.run("load tce_iommu; load nvme")
    kind = group_type(bench, "nvme")
    expect(kind.startswith("DMA"), f"type {kind}")
    bench.disk_check(MIB, seed=46)
    recover(bench, bdf)
    return bench.disk_check(MIB, seed=47)


def _each(name, steps_, flavour="modern-64k", machines=("powernv10",), **more):
    return [Scenario(name, flavour, machine, ("nvme", "edu", "testdev"), (*steps_, steps.log_clean), modules=True, **more)
            for machine in machines]


SCENARIOS = [
    *_each("eeh", (loaded, with_handlers, without_handlers, vfio_user, frozen_meanwhile)),
    *_each("eeh-takeover", (frozen_when_taken_over,)),
    *_each("eeh-platform", (loaded, with_handlers, without_handlers), append="iommu.passthrough=1", only_all=True),
    *_each("eeh-absent", (absent,), machines=("pseries",), only_all=True),
]
