# SPDX-License-Identifier: GPL-2.0
"""What an administrator sees of a PE, and that it is so."""

import re

from .. import steps
from ..scenario import Scenario
from ..steps import DEBUGFS, MIB, count_calls, expect, stats, tces

_HCALLS = {"h_put_tce": "put", "h_put_tce_indirect": "indirect", "h_stuff_tce": "stuff"}


def _file(bench, device, name):
    return bench.guest.run(f"cat {DEBUGFS}/$(group_of {bench.bdf(device)})/{name}")


def _dump(bench, device, selection=None):
    """[(first, last, physical address, permissions)] of mapped addresses."""
    if selection:
        bench.guest.run(f"echo {selection} >{DEBUGFS}/$(group_of {bench.bdf(device)})/tces")
    lines = re.findall(r"^(0x[0-9a-f]+)-(0x[0-9a-f]+) (0x[0-9a-f]+) ([r-][w-])$", _file(bench, device, "tces"), re.M)
    return [(int(first, 16), int(last, 16), int(phys, 16), may) for first, last, phys, may in lines]


def of_a_pe(bench):
    """Devices, domain and windows of a PE."""
    devices = _file(bench, "nvme", "devices")
    expect(devices == f"{bench.bdf('nvme')} attached in_use", f"devices: {devices}")
    bench.guest.run(f"unbind {bench.bdf('testdev')}")
    devices = _file(bench, "testdev", "devices")
    expect(devices == f"{bench.bdf('testdev')} attached idle", f"without a driver: {devices}")
    domain = _file(bench, "nvme", "domain")
    expect(domain == "paging", f"domain: {domain}")
    names = re.findall(r"^window \d .* (liobn|tve) (0x[0-9a-f]+)$", _file(bench, "nvme", "windows"), re.M)
    expect(len(names) == 2 and {kind for kind, _ in names} == {"liobn" if bench.is_pseries else "tve"}, f"windows: {names}")
    return f"{names[0][0]} {names[0][1]}, {names[1][1]}"


def reserved(bench):
    """VFIO and its users are told where nothing can be mapped."""
    windows = re.findall(r"^window \d base (0x[0-9a-f]+) size (0x[0-9a-f]+) ", _file(bench, "nvme", "windows"), re.M)
    group = bench.guest.run(f"group_of {bench.bdf('nvme')}")
    found = bench.guest.run(f"grep reserved$ /sys/kernel/iommu_groups/{group}/reserved_regions")
    regions = sorted((int(first, 16), int(last, 16)) for first, last, _ in map(str.split, found.splitlines()))
    (low, size), (high, _) = ((int(base, 16), int(size, 16)) for base, size in windows)
    hole = (low + size, high - 1)
    expect(regions[-1] == hole, f"windows {windows}, reserved {regions}")
    # The 32-bit MMIO of the host bridge lies in the low window.
    expect(bench.is_pseries or low < regions[0][0] < regions[0][1] < 1 << 32, f"no MMIO in {regions}")
    return f"{hole[0]:#x} to {hole[1]:#x}"


def counts(bench):
    """The counts are those of the firmware."""
    hold, release = "load tce_testdev oracle=0 hold_kib=1024", "rmmod tce_testdev"
    # The device once had its domain, and leaves go when they are empty: what is counted below is the same each time.
    bench.guest.run(f"{hold}; {release}")
    before = stats(bench, "testdev")
    seen = count_calls(bench, hold)
    mapped = tces(bench, "testdev")
    expect(mapped, "no TCE in use while 1 MiB is mapped")
    freed = count_calls(bench, release)
    after = stats(bench, "testdev")
    took = {name: after[name] - before[name] for name in after}
    names = _HCALLS if bench.is_pseries else {"kills": "kill"}
    for ours, theirs in names.items():
        want = seen.get(theirs, 0) + freed.get(theirs, 0)
        expect(took[ours] == want, f"{took[ours]} {ours} counted, the firmware saw {want}")
    expect(took["publishes"] >= 1 and took["withdrawals"] >= 1, f"counted {took}")
    expect(not took["errors"] and not tces(bench, "testdev"), f"left: {took}, {tces(bench, 'testdev')} TCEs")
    return f"{mapped} TCEs, {took}"


def dump(bench):
    """A dump has what is mapped, and only what is asked for."""
    bench.guest.run("load tce_testdev oracle=0 hold_kib=1024")
    lines = _dump(bench, "testdev", "0")
    mapped = sum(last - first + 1 for first, last, _, _ in lines)
    expect(MIB <= mapped <= MIB + 3 * 0x10000, f"{mapped} bytes are mapped: {lines}")
    first, last, phys, may = max(lines, key=lambda line: line[1] - line[0])
    expect(may == "r-", f"the device only reads, and may {may}")
    part = _dump(bench, "testdev", f"{first + 0x20000:#x} {first + 0x2ffff:#x}")
    expect(part == [(first + 0x20000, first + 0x2ffff, phys + 0x20000, may)], f"of the middle: {part}")
    for wrong in ("", "five", "2 1", "1 2 3", "0x10000000000000000", "1 " * 60):
        status, _ = bench.guest.try_run(f"echo '{wrong}' >{DEBUGFS}/$(group_of {bench.bdf('testdev')})/tces")
        expect(status, f"{wrong!r} was taken for a range")
    bench.guest.run("rmmod tce_testdev")
    lines = _dump(bench, "testdev", "0")
    expect(not lines, f"mapped after the end: {lines}")
    return f"{mapped >> 10} KiB"


def readers(bench):
    """Readers do not disturb DMA."""
    bench.guest.run(f"(while [ ! -e /tmp/stop ]; do cat {DEBUGFS}/*/* >/dev/null; done; echo >/tmp/stopped) >/dev/null 2>&1 &")
    crc = bench.disk_check(16 * MIB, seed=3)
    bench.guest.run("touch /tmp/stop; until [ -e /tmp/stopped ]; do usleep 100000; done")
    return crc


def platform(bench):
    """With identity it says who has the PE."""
    guest, bdf = bench.guest, bench.bdf("nvme")
    path = f"/sys/kernel/iommu_groups/$(group_of {bdf})/type"
    guest.run(f"unbind {bdf}; echo identity >{path}; bind {bdf} nvme")
    for name, want in (("domain", "platform"), ("windows", "held by the platform"), ("tables", ""), ("tces", "")):
        got = _file(bench, "nvme", name)
        expect(got == want, f"{name}: {got!r}, not {want!r}")
    bench.disk_check(MIB, seed=4)
    guest.run(f"unbind {bdf}; echo DMA >{path}; bind {bdf} nvme")
    expect(_file(bench, "nvme", "domain") == "paging" and "window 0" in _file(bench, "nvme", "windows"), "the windows are not back")
    return bench.disk_check(MIB, seed=5)


_WRONG = {"max_page_shift=5": "must be 12 or 16", "max_page_shift=13": "must be 12 or 16", "max_page_shift=99": "must be 12 or 16",
          "max_page_shift=many": "invalid for parameter", "exclude=nvme": "is no PCI address", "identity=0001:00:00": "is no PCI address",
          "exclude=0001:00:00.0,,0001:00:00.9": "is no PCI address", f"small_pages={'0001:00:00.0,' * 20}": "too large for parameter"}


def wrong_parameters(bench):
    """Wrong values of parameters are refused, with the reason in the log."""
    for parameter, reason in _WRONG.items():
        status, _ = bench.guest.try_run(f"insmod /modules/tce_iommu.ko {parameter}")
        log = bench.guest.check_log()
        expect(status and reason in log, f"{parameter}: status {status}, the log has {log!r}")
    return f"{len(_WRONG)} values"


def parameters(bench):
    """Devices that are excluded, begin with identity, or have small pages."""
    guest = bench.guest
    absent = "0fff:00:00.0"
    places = {"exclude": f"{absent},{bench.bdf('testdev')}", "identity": bench.bdf("nvme"), "small_pages": bench.bdf("e100")}
    guest.run("load tce_iommu " + " ".join(f"{name}={place}" for name, place in places.items()))
    for name, place in {**places, "max_page_shift": "16"}.items():
        value = guest.run(f"cat /sys/module/tce_iommu/parameters/{name}")
        expect(value == place, f"{name} reads {value}, not {place}")
    log = guest.check_log()
    expect("PE excluded" in log, "nothing in the log about the device that is left out")
    missing = re.findall(r"tce_iommu: (\S+): no device (\S+) yet", log)
    expect(missing == [("exclude", absent)], f"devices that are not there: {missing}")
    kinds = {device: steps.group_type(bench, device) for device in bench.scenario.devices}
    expect(kinds["testdev"] == "none" and kinds["nvme"] in ("identity", "unknown") and kinds["e100"] == "DMA", f"types {kinds}")
    pages = set(re.findall(r"page (0x[0-9a-f]+)", _file(bench, "e100", "windows")))
    expect(pages == {"0x1000"}, f"pages of {pages}")
    guest.run("load nvme; load e100")
    bench.disk_check(MIB, seed=6)
    bench.net_check("e100")
    # The type can be changed as any other.
    bdf = bench.bdf("nvme")
    guest.run(f"unbind {bdf}; echo DMA >/sys/kernel/iommu_groups/$(group_of {bdf})/type; bind {bdf} nvme")
    expect(_file(bench, "nvme", "domain") == "paging", "identity cannot be left")
    return bench.disk_check(MIB, seed=7)


_STEPS = (steps.driver_loaded, steps.drivers_bound, of_a_pe, reserved, counts, dump, readers, platform, steps.dmesg_clean)
_PARAMETERS = (wrong_parameters, parameters, steps.dmesg_clean)

SCENARIOS = [Scenario(name, "modern-64k", machine, ("nvme", "e100", "testdev"), steps_)
             for name, steps_ in (("state", _STEPS), ("parameters", _PARAMETERS)) for machine in ("pseries", "powernv10")]
