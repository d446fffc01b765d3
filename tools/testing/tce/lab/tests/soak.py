# SPDX-License-Identifier: GPL-2.0
"""What machines do, in random order. The order follows from a seed, so that it can be repeated."""

import random
import time

from .. import steps
from ..guest import GuestError
from ..scenario import Scenario
from ..steps import MIB, expect, group_type

_SEED = 1
_KINDS = ("DMA", "DMA-FQ", "identity")


def _io(bench, choose):
    """Reads and writes"""
    length = choose.randrange(1, 17) * MIB
    bench.disk_check(length, offset=choose.randrange(0, 128) * MIB, seed=choose.randrange(1, 1 << 30))


def _net(bench, _):
    """Fetches a file"""
    bench.net_check("e100")


def _switch(bench, choose):
    """Changes the type of a domain"""
    bdf, kind = bench.bdf("nvme"), choose.choice(_KINDS)
    bench.guest.run(f"unbind {bdf}; echo {kind} >/sys/kernel/iommu_groups/$(group_of {bdf})/type; bind {bdf} nvme", 120)
    _io(bench, choose)


def _binds(bench, choose):
    """Binds and unbinds drivers"""
    rounds, name, driver = choose.randrange(1, 9), *choose.choice((("nvme", "nvme"), ("e100", "e100"), ("edu", "binder")))
    bdf = bench.bdf(name)
    bench.guest.run(f"for round in $(seq {rounds}); do unbind {bdf}; bind {bdf} {driver} || exit 1; done", 300)


def _vfio(bench, choose):
    """Gives a device to VFIO and takes it back"""
    name, driver = choose.choice((("nvme", "nvme"), ("edu", "binder"), ("testdev", "")))
    bdf, kind = bench.bdf(name), choose.choice(("type1", "iommufd"))
    bench.guest.run(f"bind {bdf} vfio-pci && vfiocheck {kind} {bdf} {'dma' if name == 'testdev' else ''} && "
                    + (f"bind {bdf} {driver}" if driver else f"unbind {bdf}"), 120)


def _oracle(bench, _):
    """Has the testdev write"""
    steps.testdev_oracle(bench)


def _replug(bench, choose):
    """Removes a device and finds it again"""
    name, driver = choose.choice((("nvme", "nvme"), ("edu", "binder"), ("testdev", "")))
    bdf = bench.bdf(name)
    bench.guest.run(f"echo 1 >/sys/bus/pci/devices/{bdf}/remove; echo 1 >/sys/bus/pci/rescan; [ -e /sys/bus/pci/devices/{bdf} ]", 120)
    if driver:
        bench.guest.run(f"[ $(driver_of {bdf}) = {driver} ] || bind {bdf} {driver}")
    kind = group_type(bench, name)
    expect(kind != "none", f"{name} is in no group")


def _reset(bench, _):
    """Resets a disk that works"""
    bench.guest.run(f"echo 1 >/sys/bus/pci/devices/{bench.bdf('nvme')}/reset", 120)


_OPERATIONS = (_io, _net, _switch, _binds, _vfio, _oracle, _replug, _reset)


def at_work(bench):
    """Drivers are bound, and the disk is read by somebody who does not mind if it goes."""
    bench.guest.run(f"load tce_iommu; load nvme; load e100; load vfio_pci; load vfio_iommu_type1; load iommufd; load binder; "
                    f"bind {bench.bdf('edu')} binder", 180)
    bench.guest.run("(while :; do ddsum read /dev/nvme[0-9]*n1 0 4194304 || usleep 100000; done >/dev/null 2>&1 &)")


def run(bench, seed, goes_on):
    """Operations by a seed, as long as `goes_on` says for how many were done; returns how many there were of each."""
    choose, counts, number = random.Random(f"{seed} {bench.scenario.machine}"), {}, 0
    bag = []
    while goes_on(number):
        # Each once, in random order, and again.
        bag = bag or choose.sample(_OPERATIONS, len(_OPERATIONS))
        operation = bag.pop()
        # Each has choices of its own, so that it can be altered without those that follow.
        own = random.Random(choose.getrandbits(64))
        number += 1
        try:
            operation(bench, own)
            bench.guest.check_log()
        except GuestError as problem:
            raise GuestError(f"operation {number} of seed {seed}, {operation.__name__.strip('_')}: {problem}; to repeat: "
                             f"make soak HOURS=1 SEED={seed} MACHINE={bench.scenario.machine}") from None
        name = operation.__name__.strip("_")
        counts[name] = counts.get(name, 0) + 1
    return f"seed {seed}, {number} operations: " + ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))


def short(bench):
    """Each operation once, in random order."""
    return run(bench, _SEED, lambda number: number < len(_OPERATIONS))


def nothing_leaks(bench):
    """kmemleak finds nothing."""
    found = steps.leaks(bench)
    expect(not found, f"kmemleak: {len(found)}, the first {found[0][:600] if found else ''}")


def scenario(machine, *steps_, flavour="modern-debug-64k"):
    """A machine with what the operations want."""
    return Scenario("soak", flavour, machine, ("nvme", "e100", "testdev", "edu"),
                    (at_work, *steps_, steps.log_clean), modules=True)


def long(hours, seed):
    """The step of make soak."""
    def operations(bench):
        """Operations in random order."""
        steps.forget_leaks(bench)
        end = time.monotonic() + hours * 3600
        return run(bench, seed, lambda _: time.monotonic() < end)
    return operations


MACHINES = ("pseries", "powernv10")
SCENARIOS = [scenario(machine, short, flavour="modern-64k") for machine in MACHINES]
