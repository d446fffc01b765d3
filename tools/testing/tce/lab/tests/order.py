# SPDX-License-Identifier: GPL-2.0
"""The driver is loaded, unloaded and loaded again while drivers on all CPUs come, go and fail."""

import random

from .. import steps
from ..scenario import Scenario
from ..steps import MIB, expect, group_type
from .resets import PLATFORM

_SEED = 3
_PASS = "iommu.passthrough=1"
_BAD = ("changed hands", "nothing can be mapped", "mapped at", "no mapping", "no DMA")


def _round(bench, choose):
    """The driver is loaded while a driver binds and unbinds four devices, and a disk is found."""
    guest = bench.guest
    words = {"hold_us": choose.choice((50, 500, 3000, 8000)), "gap_us": choose.choice((50, 600, 2000)),
             "fail": choose.choice((0, 0, 2, 3)), "probe_ms": choose.choice((0, 0, 1, 5))}
    slow, before, after = choose.choice((0, 0, 1, 10)), choose.randrange(0, 60000), choose.randrange(0, 200000)
    guest.run(f"load slow; echo {slow} >/sys/module/slow/parameters/ms; load binder "
              f"{' '.join(f'{name}={value}' for name, value in words.items())}; (load nvme &); usleep {before}; "
              f"load tce_iommu; usleep {after}; rmmod binder", 120)
    edus = guest.run("pci 1234:11e8").split()
    # In one PE all have the type that the disk lets it have.
    own = PLATFORM if bench.scenario.append == _PASS else ("DMA", "DMA-FQ")
    want = guest.run(f"type_of {bench.bdf('nvme')}") if bench.scenario.together else "|".join(own)
    guest.run(f"for dev in {' '.join(edus)}; do until type_of $dev | grep -qxE '{want}'; do usleep 50000; done; done", 120)
    kinds = [guest.run(f"type_of {bdf}") for bdf in edus]
    expect(len(edus) == 4 and all(kind in want.split("|") for kind in kinds), f"{words}: types {kinds} with nothing bound, not {want}")
    bench.disk_check(MIB, seed=choose.randrange(1, 1 << 30))
    return group_type(bench, "nvme")


def _unload(bench):
    """Takes the driver out while the disk is read."""
    bench.guest.run(f"disk=$(disk_of {bench.bdf('nvme')}); (for part in 0 1 2 3; do ddsum read $disk 0 {4 * MIB}; done >/dev/null 2>&1 &); "
                    "for dev in $(pci 1234:11e8) $(pci 1b36:0010); do echo 1 >/sys/bus/pci/devices/$dev/remove; done; "
                    # Who reads keeps the disk's driver until he sees that the disk has gone.
                    "rmmod tce_iommu && until rmmod nvme 2>/dev/null; do usleep 50000; done && echo 1 >/sys/bus/pci/rescan", 120)


def _rounds(bench, count):
    choose, kinds = random.Random(_SEED), []
    for number in range(count):
        if number:
            _unload(bench)
        kinds.append(_round(bench, choose))
        bench.guest.check_log()
        bad = [line for line in bench.guest.kernel_log.splitlines() if any(word in line for word in _BAD)]
        expect(not bad, f"round {number}: {' | '.join(bad[:3])}")
        bench.guest.kernel_log = ""
    return f"{count} rounds; the disk was with {', '.join(f'{kind} {kinds.count(kind)}' for kind in sorted(set(kinds)))}"


def loaded_among_others(bench):
    """The driver is loaded and unloaded while others bind, fail and unbind."""
    return _rounds(bench, 3)


def loaded_among_others_long(bench):
    """The same 200 times."""
    return _rounds(bench, 200)


def built_in(bench):
    """The driver is part of the kernel, and there before any other driver."""
    for device in bench.scenario.devices:
        kind = group_type(bench, device)
        expect(kind.startswith("DMA"), f"{device} is in a domain of type {kind}")
    bdf = bench.guest.run("pci 1af4:1044")
    expect(bench.guest.run(f"driver_of {bdf}; type_of {bdf}").split() == ["virtio-pci", "DMA"], "the driver that is built in was there before")
    bench.guest.run("load nvme; load e100")


def _each(name, flavour, step, **more):
    return [Scenario(name, flavour, machine, ("nvme", "edu", "edu", "edu", "edu"), (step,), modules=True, more=("-smp", "4"), **more)
            for machine in ("pseries", "powernv10")]


SCENARIOS = [
    *_each("order", "modern-64k", loaded_among_others),
    *_each("order-shared", "modern-64k", loaded_among_others, together=True),
    *_each("order-platform", "modern-64k", loaded_among_others, append=_PASS, only_all=True),
    *_each("order-long", "modern-debug-64k", loaded_among_others_long, only_all=True),
    *(Scenario("built-in", "modern-builtin-64k", machine, ("nvme", "e100", "testdev"),
               (built_in, steps.windows, steps.nvme_data, steps.narrow_device, steps.testdev_oracle, steps.dmesg_clean), only_all=True,
               more=("-device", f"virtio-rng-pci,iommu_platform=on,disable-legacy=on,bus={bus}"))
      for machine, bus in (("pseries", "phb1.0"), ("powernv10", "pcie.3"))),
]
