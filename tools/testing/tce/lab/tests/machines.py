# SPDX-License-Identifier: GPL-2.0
"""Machines of all sizes, and machines that change while they run."""

import re
import time

from .. import hotplug, steps
from ..guest import GuestError, patience
from ..scenario import Scenario
from ..steps import MIB, expect, group_type

_MACHINES = ("pseries", "powernv10")
_READERS = 8
_DIMM_MIB = 1024


def all_cpus(bench):
    """The disk is read on all CPUs at once, and a file is fetched."""
    disk = bench.guest.run(f"disk_of {bench.bdf('nvme')}")
    bench.disk_check(4 * _READERS * MIB, seed=51)
    bench.guest.run(f"for part in $(seq 0 {_READERS - 1}); do (ddsum read {disk} $((part * {4 * MIB})) {4 * MIB} >/tmp/part$part 2>&1 &); done")
    bench.net_check("e100")
    want = [bench.image_crc(part * 4 * MIB, 4 * MIB) for part in range(_READERS)]
    got = bench.guest.run(f"for part in $(seq 0 {_READERS - 1}); do until [ -s /tmp/part$part ]; do usleep 100000; done; "
                          "cat /tmp/part$part; done", 300).split()
    expect(got == want, f"read {got}, the host has {want}")
    return bench.guest.run("nproc") + " CPUs"


def mmu(bench):
    """Which MMU the CPU uses."""
    kind = bench.guest.run("grep -o 'MMU.*' /proc/cpuinfo | head -n 1")
    expect("Hash" in kind, f"{kind}")
    return kind


def _memory(bench):
    return int(bench.guest.run("grep MemTotal /proc/meminfo").split()[1]) // 1024


def _wait_for_memory(bench, good, what):
    for _ in patience(60):
        if good(_memory(bench)):
            return
        time.sleep(1)
    raise GuestError(f"{what}: {_memory(bench)} MiB after a minute")


def _use(bench, seed):
    """Has the disk read into more memory than there was at boot."""
    bench.disk_check(4 * MIB, seed=seed)
    bench.net_check("e100")


def memory_comes_and_goes(bench):
    """1 GiB of memory comes and goes, with each type of domain."""
    guest, bdf, told = bench.guest, bench.bdf("nvme"), []
    before = _memory(bench)
    guest.run("echo online_movable >/sys/devices/system/memory/auto_online_blocks")
    for number, kind in enumerate(("DMA", "DMA-FQ", "identity")):
        guest.run(f"unbind {bdf}; echo {kind} >/sys/kernel/iommu_groups/$(group_of {bdf})/type; bind {bdf} nvme")
        _use(bench, 60 + number)
        guest.qmp("object-add", **{"qom-type": "memory-backend-ram", "id": f"ram{number}", "size": _DIMM_MIB << 20})
        guest.qmp("device_add", driver="pc-dimm", id=f"dimm{number}", memdev=f"ram{number}")
        _wait_for_memory(bench, lambda now: now >= before + _DIMM_MIB - 64, f"{kind}: memory added")
        # Page cache is movable, so that some of it lies there.
        guest.run(f"dd if=/dev/zero of=/tmp/fill bs={MIB} count=600 2>/dev/null; dd if=/tmp/fill of=$(disk_of {bdf}) bs={MIB} count=200 "
                  "oflag=direct 2>/dev/null; rm /tmp/fill", 300)
        _use(bench, 70 + number)
        guest.qmp("device_del", id=f"dimm{number}")
        _wait_for_memory(bench, lambda now: now <= before + 64, f"{kind}: memory removed")
        _use(bench, 80 + number)
        told.append(kind)
    return ", ".join(told)


def windows_are_lost(bench):
    """Firmware forgets the windows of a PE: mapping fails and the log says so, until they are opened again."""
    guest, bdf = bench.guest, bench.bdf("edu")
    first = _transfer(bench)
    expect(first.endswith("right"), first)
    guest.run("insmod /modules/lost_windows.ko; rmmod lost_windows")
    already = len(guest.kernel_log)
    lost = _transfer(bench)
    expect(not lost.endswith("right"), f"data went through windows that are gone: {lost}")
    said = re.findall(rf"tce_iommu: {bdf}: LIOBN 0x\w+, address 0x\w+: TCEs not (?:set|cleared), H_PARAMETER \(-4\); .*", guest.kernel_log[already:])
    expect(said, "the log does not say what the hypervisor answered")
    path = f"/sys/kernel/iommu_groups/$(group_of {bdf})/type"
    guest.run(f"echo identity >{path} && echo DMA >{path}")
    expect(group_type(bench, "edu") == "DMA", f"type {group_type(bench, 'edu')}")
    again = _transfer(bench)
    expect(again.endswith("right"), again)
    return f"{lost}; {said[0]}; then {again}"


def _set_tokens(bench, tokens):
    """Writes which RTAS calls there are for windows of the PE of edu."""
    guest = bench.guest
    node = f"/sys/bus/pci/devices/{bench.bdf('edu')}/of_node/.."
    octal = "".join(f"\\{byte:03o}" for byte in bytes.fromhex(tokens))
    guest.run(f"{{ printf 'update_property %d ibm,ddw-applicable {len(tokens) // 2} ' {hotplug.cell(guest, node, 'phandle')}; "
              f"printf '{octal}'; }} >/tmp/update; dd if=/tmp/update of=/proc/ppc64/ofdt bs=4096 2>/dev/null")


def query_is_refused(bench):
    """A PE keeps the default window when firmware does not say what else it may have."""
    guest, bdf = bench.guest, bench.bdf("edu")
    path = f"/sys/kernel/iommu_groups/$(group_of {bdf})/type"
    anew = f"echo identity >{path} && echo DMA >{path}"
    tokens = guest.run(f"od -An -v -tx1 /sys/bus/pci/devices/{bdf}/of_node/../ibm,ddw-applicable | tr -d ' \\n'")
    before = steps.windows(bench, "edu")
    # To remove a window takes other arguments, so firmware refuses what is meant as a query.
    _set_tokens(bench, tokens[16:24] + tokens[8:])
    guest.read_log()
    # What a PE does that gives its default window up and gets it back.
    guest.trace("spapr_iommu_ddw_reset", True)
    guest.run(anew)
    said = guest.check_log()
    expect("no 64-bit DMA window" in said and "given up" not in said, f"the log says: {said[-300:]}")
    expect("ddw_reset" not in guest.qemu_log.read_text(), "the default window was given up")
    low = steps.windows(bench, "edu")
    expect(before.startswith(low), f"windows {low}, before {before}")
    _set_tokens(bench, tokens)
    guest.run(anew)
    after = steps.windows(bench, "edu")
    expect(after == before, f"windows {after}, before {before}")
    return low


def opal_refuses(bench):
    """OPAL's refusals have their names in the log, which does not overflow."""
    bench.guest.try_run("insmod /modules/refused.ko")
    log = bench.guest.check_log()
    said = re.findall(r"pci \S.*\[PE# \w+\] DMA window 1 at 0x\w+: OPAL_PARAMETER \(-1\); not opened", log)
    expect(len(said) == 10, f"{len(said)} lines: {log[-100:]}")
    return said[0]


def _transfer(bench):
    bench.guest.read_log()
    bench.guest.try_run("insmod /modules/dma_api.ko do=transfer bits=64 size=65536", 120)
    log = bench.guest.check_log()
    bench.guest.try_run("rmmod dma_api")
    return (re.findall(r"dma_api: (.*)", log) or ["dma_api said nothing"])[-1]


def window_of(size):
    """A step that looks for a default window of so many bytes."""
    def default_window(bench):
        """The default window is as large as firmware says."""
        found = steps.windows(bench)
        expect(f"0x0, {size}," in found, found)
        return found
    return default_window


_LOAD = (steps.driver_loaded, steps.drivers_bound, steps.groups)
_DATA = (all_cpus, steps.testdev_oracle, steps.dmesg_clean)
_THREE = ("nvme", "e100", "testdev")


def _each(name, *todo, machines=_MACHINES, flavour="modern-64k", **more):
    return [Scenario(name, flavour, machine, _THREE, (*_LOAD, *todo, *_DATA), **more) for machine in machines]


def _memory_scenario(flavour, **more):
    return Scenario("memory", flavour, "pseries", ("nvme", "e100"), (*_LOAD, memory_comes_and_goes, steps.log_clean),
                    more=("-m", "2G,slots=4,maxmem=8G"), **more)


SCENARIOS = [
    *_each("one-cpu", machines=("pseries",), more=("-smp", "1", "-m", "512M")),
    *_each("one-cpu", machines=("powernv10",), more=("-smp", "1", "-m", "1G")),
    *_each("eight-cpus", machines=("pseries",), more=("-smp", "8")),
    *_each("eight-cpus", machines=("powernv10",), more=("-smp", "8"), only_all=True),
    *_each("eight-cpus", flavour="modern-debug-64k", more=("-smp", "8"), only_all=True),
    *_each("hash", mmu, append="disable_radix"),
    *_each("hash", mmu, flavour="modern-4k", append="disable_radix", only_all=True),
    *(one for name, size, told in (("2g", "0x80000000", "2 GiB"), ("512m", "0x20000000", "512 MiB"), ("256m", "0x10000000", "256 MiB"))
      for one in _each(f"window-{name}", window_of(told), machines=("pseries",), host_bridge=f",dma_win_size={size}",
                       only_all=name == "512m")),
    _memory_scenario("modern-64k"), _memory_scenario("modern-debug-64k", only_all=True),
    Scenario("windows-lost", "modern-64k", "pseries", ("edu",), (steps.driver_loaded, windows_are_lost), modules=True),
    Scenario("query-refused", "modern-64k", "pseries", ("edu",), (steps.driver_loaded, query_is_refused, steps.log_clean)),
    Scenario("opal-refuses", "modern-64k", "powernv10", ("edu",), (opal_refuses, steps.log_clean), modules=True),
]
