# SPDX-License-Identifier: GPL-2.0
"""Where in the windows the DMA API finds its addresses, and how many there are."""

import re

from .. import steps
from ..scenario import Scenario
from ..steps import DEBUGFS, expect, group_type
from .vfio import ktap, to_vfio

_GIB = 1 << 30
_DEFAULT_WINDOW = _GIB      # of QEMU's pseries
_HIGH = 1 << 59


def _try(bench, do, **parameters):
    """Loads dma_api.ko; returns what it said, and the log."""
    words = " ".join(f"{name}={value}" for name, value in parameters.items())
    bench.guest.read_log()
    status, output = bench.guest.try_run(f"insmod /modules/dma_api.ko do={do} {words}", 300)
    log = bench.guest.check_log()
    bench.guest.try_run("rmmod dma_api")
    found = re.findall(r"dma_api: (.*)", log)
    expect(found, f"dma_api said nothing: {output or status}")
    return found[-1], log


def _counts(text):
    return {name: int(value) for name, value in re.findall(r"(\w+) (\d+)\b", text)}


def small_mappings(bench):
    """A 32-bit device has as many small mappings as the platform's code gave it."""
    said, _ = _try(bench, "count", bits=32, size=2048, n=300000)
    got = _counts(said)["mapped"]
    # As arch/powerpc/kernel/iommu.c: 1 GiB of 4 KiB pages, or 2 GiB of 64 KiB pages, without the first ones.
    expect(got >= (262138 if bench.is_pseries else 32766), f"{got} mappings of 2 KiB")
    return said


def low_addresses_are_left(bench):
    """A 64-bit device leaves low addresses to a 32-bit one, also those in the caches."""
    said, _ = _try(bench, "share", size=0x10000, n=16000, later=2000)
    got = _counts(said)
    expect(got["second"] == 16000 and not got["low"], f"the 64-bit device has low addresses: {said}")
    expect(got["again"] == 2000, f"the 32-bit device finds no room: {said}")
    return said


def queue_never_fails(bench):
    """Addresses that wait in a flush queue are found when there are no others."""
    # With 16 MiB each, the low window has fewer than one queue holds.
    for size, n, cpus in ((4 << 20, 100, 4), (16 << 20, 1000, 1)):
        said, _ = _try(bench, "queue", size=size, n=n, cpus=cpus)
        expect(_counts(said)["refused"] == 0, f"{n} times {size >> 20} MiB on {cpus} CPUs: {said}")
    return said


def queue_from_sysfs(bench):
    """The same with the type from sysfs."""
    path = f"/sys/kernel/iommu_groups/$(group_of {bench.bdf('edu')})/type"
    bench.guest.run(f"echo DMA-FQ >{path}")
    return queue_never_fails(bench)


def high_after_each_type(bench):
    """A 64-bit device has high addresses, and a 32-bit one low ones, whatever types the group had before."""
    path = f"/sys/kernel/iommu_groups/$(group_of {bench.bdf('edu')})/type"
    told = []
    for kind in ("DMA", "identity", "DMA", "DMA-FQ", "identity", "DMA-FQ", "DMA"):
        bench.guest.run(f"echo {kind} >{path}")
        if kind == "identity":
            continue
        high, _ = _try(bench, "count", bits=64, size=0x10000, n=300)
        low, _ = _try(bench, "count", bits=32, size=0x10000, n=300)
        expect(_counts(high)["mapped"] == 300 and _counts(high)["low"] == 0, f"{kind}, 64 bits: {high}")
        expect(_counts(low)["mapped"] == _counts(low)["low"] == 300, f"{kind}, 32 bits: {low}")
        told.append(kind)
    return ", ".join(told)


def narrow_bus(bench):
    """A device that drives 40 address bits and says 64 gets its data."""
    said, _ = _try(bench, "transfer", bits=64, size=0x10000)
    expect(said.endswith("right"), said)
    return said


def mask_between(bench):
    """A device of 44 bits below a window at 1 << 59 uses the low one, and the log says so."""
    said, log = _try(bench, "transfer", bits=44, size=0x10000)
    at = int(said.split()[2], 16)
    expect(said.endswith("right") and at < _DEFAULT_WINDOW, said)
    expect("low addresses only" in log, "the log does not say that the mask is too small")
    return said


def mask_reaches(bench):
    """A device of 44 bits uses a window that firmware put below that."""
    said, log = _try(bench, "transfer", bits=44, size=0x10000)
    at = int(said.split()[2], 16)
    expect(said.endswith("right") and 1 << 40 <= at < 1 << 44, said)
    expect("low addresses only" not in log, "the log says that the mask is too small")
    return said


def _windows(bench):
    text = bench.guest.run(f"cat {DEBUGFS}/$(group_of {bench.bdf('edu')})/windows")
    return [(int(base, 16), int(size, 16)) for base, size in re.findall(r"base (0x[0-9a-f]+) size (0x[0-9a-f]+)", text)]


def one_window(bench):
    """A PE that may have one window gets a 64-bit one."""
    bench.guest.run("insmod /modules/one_window.ko; load tce_iommu")
    found = _windows(bench)
    expect(len(found) == 1 and found[0][0] >= _HIGH and found[0][1] > _DEFAULT_WINDOW, f"windows {found}")
    said, _ = _try(bench, "transfer", bits=64, size=0x10000)
    expect(said.endswith("right"), said)
    return f"base {found[0][0]:#x} size {found[0][1]:#x}, {said}"


def default_window_returns(bench):
    """The platform has its default window back, and then the driver the 64-bit one."""
    bdf = bench.bdf("edu")
    path = f"/sys/kernel/iommu_groups/$(group_of {bdf})/type"
    bench.guest.run(f"echo identity >{path}")
    said, _ = _try(bench, "transfer", bits=32, size=0x10000)
    expect(said.endswith("right") and int(said.split()[2], 16) < _DEFAULT_WINDOW, f"by the platform: {said}")
    bench.guest.run(f"echo DMA >{path}")
    expect(group_type(bench, "edu") == "DMA", f"type {group_type(bench, 'edu')}")
    found = _windows(bench)
    expect(len(found) == 1 and found[0][0] >= _HIGH, f"windows {found}")
    again, _ = _try(bench, "transfer", bits=64, size=0x10000)
    expect(again.endswith("right"), again)
    return f"platform: {said}; driver: {again}"


def only_default_window(bench):
    """The log says that there is nothing but the default window."""
    bench.guest.read_log()
    bench.guest.run("load tce_iommu")
    log = bench.guest.check_log()
    found = re.findall(r"no 64-bit DMA window \((\S+)\); all DMA goes through the default window of 1024 MiB", log)
    expect(found, "the log says nothing")
    return found[0]


def resource_refused(bench):
    """A BAR of another device is not mapped in a DMA domain: TCEs lead to memory only."""
    said, _ = _try(bench, "resource")
    expect(said == "resource refused", said)
    return said


def iova_is_va(bench):
    """VFIO: addresses of a process around 2^45, where firmware's window reaches there."""
    result, output = ktap(bench, "tce_vfio -t iova_is_va", 300)
    missed = re.findall(r"(0x[0-9a-f]+) is in no window", output)
    expect(missed, f"with one window of 16 GiB, some addresses lie outside: {output[-200:]}")
    expect(not any(int(address, 16) >> 44 == 1 for address in missed), f"not in a window: {missed}")
    return f"{result}, in no window: {', '.join(missed)}"


_LOAD = (steps.driver_loaded,)


def _scenario(name, machine, devices, todo, **more):
    return Scenario(f"dma-{name}", "modern-64k", machine, devices, (*todo, steps.log_clean), modules=True, **more)


SCENARIOS = [
    _scenario("small", "pseries", ("edu", "edu"), (*_LOAD, small_mappings, mask_between, resource_refused, high_after_each_type)),
    _scenario("small", "powernv10", ("edu", "edu"), (*_LOAD, small_mappings, resource_refused, high_after_each_type)),
    *[_scenario("share", machine, ("edu", "edu"), (*_LOAD, low_addresses_are_left), together=True)
      for machine in ("pseries", "powernv10")],
    *[_scenario("queue", machine, ("edu",), (*_LOAD, queue_never_fails, queue_from_sysfs), append="iommu.strict=0",
                more=("-smp", "4")) for machine in ("pseries", "powernv10")],
    _scenario("narrow-bus", "powernv10", ("edu40",), (*_LOAD, narrow_bus)),
    _scenario("low-window", "pseries", ("edu",), (*_LOAD, mask_reaches), host_bridge=",dma64_win_addr=0x10000000000"),
    _scenario("one-window", "pseries", ("edu",), (one_window, default_window_returns)),
    _scenario("ddw-off", "pseries", ("edu",), (only_default_window, small_mappings), host_bridge=",ddw=off"),
    _scenario("iova-is-va", "pseries", ("testdev",), (to_vfio, iova_is_va),
              host_bridge=",dma64_win_addr=0x1ffff0000000", selftests=True),
]
