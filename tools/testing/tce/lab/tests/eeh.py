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


def _vfio_user(bench, kind, bdf, begin):
    """A user of VFIO, whose device recovers from an error that begins so; returns the log and how many checks there were."""
    bench.guest.run(f"rm -f /tmp/said /tmp/recovered; (vfioreset {kind} {bdf} error 1 && echo status 0 || echo status $?) >/tmp/said 2>&1 & "
                    "until grep -q waiting /tmp/said; do usleep 50000; done")
    log = begin()
    said = bench.guest.run("touch /tmp/recovered; until grep -q status /tmp/said; do usleep 50000; done; cat /tmp/said")
    expect("FAIL" not in said and "status 0" in said, f"{kind}: {said}")
    return log, said.count("ok ")


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

    def frozen():
        freeze(bench, bdf)
        return recover(bench, bdf)

    bench.guest.run(f"bind {bdf} vfio-pci")
    for kind in ("type1", "iommufd"):
        log, number = _vfio_user(bench, kind, bdf, frozen)
        expect("Reset without hotplug activity" in log, f"nobody has stopped the device: {log}")
        checks += number
    bench.guest.run(f"bind {bdf} nvme")
    return f"{checks} checks, {bench.disk_check(MIB, seed=42)}"


def vfio_slot_reset(bench):
    """A user of VFIO keeps the device when a bridge above it asks for a reset of the slot."""
    bdf = bench.bdf("nvme")
    bridge = bench.guest.run(f"basename $(dirname $(readlink -f /sys/bus/pci/devices/{bdf}))")
    pe = bench.guest.run(f"cat /sys/bus/pci/devices/{bridge}/eeh_pe_config_addr")

    def reset():
        bench.guest.read_log()
        before = len(bench.guest.kernel_log)
        bench.guest.run(f"echo {bridge.split(':')[0]}:{pe} >{_EEH}_force_recover")
        bench.guest.run("until dmesg | grep -q 'EEH: Recovery successful'; do usleep 100000; done", 60)
        bench.guest.check_log()
        return bench.guest.kernel_log[before:]

    bench.guest.run(f"rmmod binder; load binder managed=1 wants_reset=1; bind {bridge} binder; bind {bdf} vfio-pci")
    log, checks = _vfio_user(bench, "type1", bdf, reset)
    expect("Reset without hotplug activity" in log and f"Removing {bdf}" not in log, log)
    bench.guest.run(f"bind {bdf} nvme; unbind {bridge}; rmmod binder; load binder")
    return f"{checks} checks, {bench.disk_check(MIB, seed=48)}"


def vfio_too_often(bench):
    """What fails too often is left to the user of VFIO, and nobody else waits for him."""
    bdf, limit = bench.bdf("nvme"), "/sys/kernel/debug/powerpc/eeh_max_freezes"
    bench.guest.run(f"bind {bdf} vfio-pci; echo 0 >{limit}; rm -f /tmp/kept; vfiokeep type1 {bdf} >/tmp/kept 2>&1 & "
                    "until [ -s /tmp/kept ]; do usleep 50000; done")
    freeze(bench, bdf)
    bench.guest.read_log()
    before = len(bench.guest.kernel_log)
    bench.guest.run(f"echo {bdf} >{_EEH}_dev_check; until dmesg | grep -q 'stays as it is for its user'; do usleep 100000; done", 60)
    bench.guest.check_log()
    expect("permanently disabled" in bench.guest.kernel_log[before:], "not the limit")
    # Others recover, and the bus can be scanned, while the user goes on.
    bench.guest.run("echo 1 >/sys/bus/pci/rescan; echo 5 >" + limit, 60)
    other = bench.bdf("edu")
    bench.guest.run(f"bind {other} binder")
    freeze(bench, other)
    recover(bench, other)
    bench.guest.run(f"until [ $(driver_of {other}) = binder ]; do usleep 100000; done; unbind {other}")
    bench.guest.run(f"killall vfiokeep; until ! pidof vfiokeep >/dev/null; do usleep 50000; done; "
                    f"echo 1 >/sys/bus/pci/devices/{bdf}/remove; echo 1 >/sys/bus/pci/rescan; bind {bdf} nvme", 60)
    return bench.disk_check(MIB, seed=49)


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
    *_each("eeh", (loaded, with_handlers, without_handlers, vfio_user, vfio_slot_reset, frozen_meanwhile, vfio_too_often)),
    *_each("eeh-takeover", (frozen_when_taken_over,)),
    *_each("eeh-platform", (loaded, with_handlers, without_handlers), append="iommu.passthrough=1", only_all=True),
    *_each("eeh-absent", (absent,), machines=("pseries",), only_all=True),
]
