# SPDX-License-Identifier: GPL-2.0
"""Steps that several scenarios share. The first line of each docstring is the
row that `make run` shows."""

import pathlib
import re
import time

from .guest import GuestError, trouble_in
from .scenario import NVME_BYTES, Skip

MIB = 1 << 20
DEBUGFS = "/sys/kernel/debug/tce_iommu"
ROUNDS = 20
_PAGE_KILL_REGISTER = 0x210     # TCE kill, in the registers of a PHB4 or PHB5
_PSERIES_CALLS = ("put", "indirect", "stuff")


def group_type(bench, device):
    return bench.guest.run(f"type_of {bench.bdf(device)}")


def stats(bench, device):
    """The counters of the PE of a device, or {} without debugfs files."""
    _, text = bench.guest.try_run(f"cat {DEBUGFS}/$(group_of {bench.bdf(device)})/stats 2>/dev/null")
    return {words[0]: int(words[1]) for words in map(str.split, text.splitlines()) if len(words) == 2}


def tces(bench, device):
    """How many TCEs are present in the tables of the PE of a device; None without debugfs files."""
    status, text = bench.guest.try_run(f"cat {DEBUGFS}/$(group_of {bench.bdf(device)})/tables 2>/dev/null")
    return None if status else sum(int(count) for count in re.findall(r"^window \d+ tces (\d+)", text, re.M))


def table_nodes(bench):
    """Objects in use in the slab caches that the nodes of TCE tables come from: those that are charged to somebody have one of
    their own if there are cgroups for memory."""
    # Free ones that a CPU keeps would count as well.
    text = bench.guest.run("cd /sys/kernel/slab; for cache in kmalloc-4k kmalloc-cg-4k; do [ ! -e $cache ] || "
                           "{ echo 1 >$cache/shrink; cat $cache/objects; }; done")
    found = [int(line.split()[0]) for line in text.splitlines()]
    expect(found, "no slab cache tells how many objects it has")
    return sum(found)


def expect(condition, problem):
    if not condition:
        raise GuestError(problem)


def from_guide(pattern):
    """What the guide for administrators tells people to type."""
    guide = pathlib.Path(__file__).parents[4] / "Documentation/admin-guide/tce-iommu.rst"
    found = re.search(pattern, guide.read_text(encoding="utf-8"), re.M)
    expect(found, f"the guide has no {pattern}")
    return found


def forget_leaks(bench):
    """What was lost up to now does not count. kmemleak passes over what is younger than five seconds."""
    bench.guest.run("sleep 6; echo scan >/sys/kernel/debug/kmemleak; echo clear >/sys/kernel/debug/kmemleak", 120)
    _forget_suspicions(bench)


def _forget_suspicions(bench):
    """The log tells also of what a second scan no longer finds; of nothing else, though."""
    bench.guest.read_log()
    bench.guest.kernel_log = re.sub(r".*kmemleak: \d+ new suspected.*", "", bench.guest.kernel_log)
    found = trouble_in(bench.guest.kernel_log)
    expect(not found, " | ".join(found[:4]))


def leaks(bench):
    """What kmemleak finds; each as the kernel tells of it."""
    text = bench.guest.run("sleep 6; echo scan >/sys/kernel/debug/kmemleak; sleep 1; echo scan >/sys/kernel/debug/kmemleak; "
                           "cat /sys/kernel/debug/kmemleak", 120)
    _forget_suspicions(bench)
    return re.split(r"\n(?=unreferenced object)", text) if text else []


def dma_faults(bench, device):
    """How many accesses of a device PowerNV's PHB has refused; None on pseries,
    where QEMU does not log them."""
    if bench.is_pseries or bench.scenario.together:
        return None
    place = bench.scenario.devices.index(device)
    text = bench.guest.qemu_log.read_text(errors="replace")
    return len(re.findall(rf"^phb4\[0:{place}\]:  xlate ", text, re.M))


def mount_disk(bench):
    """Has the programs of Debian that are on a disk at /host, where chroot runs them."""
    disk = bench.scenario.disk
    unpack = "mount -t tmpfs -o size=75%,mode=755 tmp /host && tar -C /host -xf $disk" if disk.paths else "mount -t ext4 -o ro $disk /host"
    bench.guest.run(f"load nvme && mkdir /host && disk=$(disk_named {disk.name}) && {unpack} && "
                    "mount --bind / /host/mnt && mount --bind /dev /host/dev && mount --bind /proc /host/proc && "
                    "mount --bind /sys /host/sys && mount -t tmpfs tmp /host/tmp", 300)


# -- loading ---------------------------------------------------------------

def driver_loaded(bench):
    """Driver loaded with insmod."""
    start = time.monotonic()
    bench.guest.run("load tce_iommu")
    took = (time.monotonic() - start) * 1000
    return f"tce_iommu.ko, {took:.0f} ms"


def drivers_bound(bench):
    """Device drivers."""
    bench.guest.run("load nvme; load e100; load e1000e; load vfio_pci; load vfio_iommu_type1; load iommufd")
    return "nvme, e100, vfio-pci"


def groups(bench):
    """Groups and their domain type."""
    found = []
    for device in bench.scenario.devices:
        kind = group_type(bench, device)
        expect(kind in ("DMA", "DMA-FQ"), f"{device} is in a domain of type {kind}")
        found.append(f"{device}: group {bench.guest.run('group_of ' + bench.bdf(device))} {kind}")
    return ", ".join(found)


def _size(number):
    for unit in ("B", "KiB", "MiB", "GiB", "TiB", "PiB"):
        if number < 1024 or number % 1024:
            return f"{number} {unit}"
        number //= 1024
    return f"{number} EiB"


def windows(bench, device="nvme"):
    """DMA windows of the nvme (base, size, page size)."""
    status, text = bench.guest.try_run(f"cat {DEBUGFS}/$(group_of {bench.bdf(device)})/windows")
    if status:
        raise Skip("no debugfs files")
    found = re.findall(r"window (\d+) base (0x[0-9a-f]+) size (0x[0-9a-f]+) page (0x[0-9a-f]+)", text)
    expect(found, f"no window in {text!r}")
    return "\n".join(f"{number}: {base}, {_size(int(size, 16))}, {_size(int(page, 16))} pages"
                     for number, base, size, page in found)


# -- data ------------------------------------------------------------------

def nvme_data(bench):
    """nvme: 64 MiB with O_DIRECT, as the host sees it."""
    crc = bench.disk_check(NVME_BYTES, seed=7)
    return f"written, read, on the host: crc32 {crc}"


def reads_begin(bench, bdf):
    """Reads a disk all the time, until reads_were_right()."""
    bench.guest.run(f"ddsum write $(disk_of {bdf}) 0 {MIB} 77 >/tmp/want; rm -f /tmp/stop /tmp/done", 120)
    bench.guest.run(f"(d=$(disk_of {bdf}); n=0; while [ ! -e /tmp/stop ]; do ddsum read $d 0 {MIB} >/tmp/sum || break; "
                    "cmp /tmp/sum /tmp/want || break; n=$((n + 1)); done; echo $n $([ -e /tmp/stop ] && echo good) >/tmp/done) "
                    ">/tmp/io 2>&1 &")


def reads_were_right(bench):
    """All that was read meanwhile was right."""
    said = bench.guest.run("touch /tmp/stop; until [ -s /tmp/done ]; do usleep 100000; done; "
                           "cat /tmp/done; cat /tmp/io", 120).split()
    expect(said[1:] == ["good"] and int(said[0]) > 0, f"reads: {said}")
    return f"{said[0]} MiB"


def narrow_device(bench):
    """e100 (32-bit mask): 1 MiB through the network."""
    return f"crc32 {bench.net_check('e100')}"


def vfio_rounds(bench, rounds=ROUNDS):
    """nvme to vfio-pci and back, with a data check each time."""
    guest, bdf = bench.guest, bench.bdf("nvme")
    start = time.monotonic()
    for number in range(rounds):
        kind = ("type1", "iommufd")[number % 2]
        guest.run(f"bind {bdf} vfio-pci")
        guest.run(f"vfiocheck {kind} {bdf}")
        guest.run(f"bind {bdf} nvme")
        bench.disk_check(MIB, offset=number * MIB, seed=100 + number)
    return f"{rounds} rounds, type1 and iommufd, {time.monotonic() - start:.0f} s"


def vfio_few_rounds(bench):
    """nvme to vfio-pci and back, with a data check each time."""
    return vfio_rounds(bench, ROUNDS // 4)


def vfio_dma(bench):
    """VFIO: DMA inside, outside and after unmap."""
    bdf = bench.bdf("testdev")
    for kind in ("type1", "iommufd"):
        before = dma_faults(bench, "testdev")
        bench.guest.run(f"bind {bdf} vfio-pci")
        output = bench.guest.run(f"vfiocheck {kind} {bdf} dma")
        bench.guest.run(f"unbind {bdf}")
        expect(before is None or dma_faults(bench, "testdev") > before, "the PHB itself saw no refused access")
    return f"{output.count('ok ')} checks each with type1 and iommufd"


def sysfs_types(bench):
    """sysfs type: platform, DMA-FQ and DMA, each with a data check."""
    guest, bdf = bench.guest, bench.bdf("nvme")
    path = f"/sys/kernel/iommu_groups/{guest.run(f'group_of {bdf}')}/type"
    # A flush queue saves nothing where the hypervisor is told of each unmap: there the type becomes DMA when it is put to use.
    got = {"identity": ("identity", "unknown"), "DMA": ("DMA",), "DMA-FQ": ("DMA-FQ", "DMA") if bench.is_pseries else ("DMA-FQ",)}
    for number, kind in enumerate(("identity", "DMA-FQ", "DMA", "DMA-FQ", "identity", "DMA")):
        guest.run(f"unbind {bdf}; echo {kind} >{path}")
        now = guest.run(f"cat {path}")
        expect(now in got[kind], f"wrote {kind}, reads {now}")
        guest.run(f"bind {bdf} nvme")
        bench.disk_check(4 * MIB, seed=200 + number)
    # A flush queue comes up without taking the driver away.
    guest.run(f"echo DMA-FQ >{path}")
    bench.disk_check(4 * MIB, seed=300)
    guest.run(f"unbind {bdf}; echo DMA >{path}; bind {bdf} nvme")
    bench.disk_check(4 * MIB, seed=301)
    return "identity, DMA-FQ, DMA and back"


def vfio_holds(bench, arguments):
    """Starts vfiohold, and returns when it has its devices."""
    bench.guest.run(f"rm -f /tmp/held; (vfiohold {arguments} & echo $! >/tmp/pid; wait $! && echo status 0 || echo status $?) >/tmp/held 2>&1 & "
                    "until grep -q 'ok held' /tmp/held; do usleep 50000; done", 180)


def vfio_let_go(bench):
    """Waits for the end of vfiohold, which was asked to leave; returns how many checks it made."""
    said = bench.guest.run("until grep -q status /tmp/held; do usleep 50000; done; cat /tmp/held", 180)
    expect("FAIL" not in said and "status 0" in said, said)
    return said.count("ok ")


# -- what the IOMMU lets through -------------------------------------------

def testdev_oracle(bench):
    """iommu-testdev through the DMA API (Rust driver)."""
    bdf = bench.bdf("testdev")
    bench.guest.read_log()
    bench.guest.run(f"unbind {bdf}; load tce_testdev")
    log = bench.guest.check_log()
    bench.guest.run("rmmod tce_testdev")
    said = re.findall(rf"{bdf}: (PASS|FAIL) (\S+)(.*)", log)
    wrong = [f"{what}{more}" for verdict, what, more in said if verdict == "FAIL"]
    expect(not wrong, f"failed: {', '.join(wrong)}")
    names = [what for _, what, _ in said]
    for need in ("inside", "outside", "after-unmap"):
        expect(any(name.startswith(need) for name in names), f"no check {need} among {names}")
    return ", ".join(names)


def _traced(bench):
    """What QEMU's log says of TCE calls (pseries) or kills (powernv)."""
    text = bench.guest.qemu_log.read_text(errors="replace")
    if bench.is_pseries:
        return {call: len(re.findall(rf"^spapr_iommu(?:_pci)?_{call} ", text, re.M)) for call in _PSERIES_CALLS}
    kills = re.findall(r"^memory_region_ops_write .*addr 0x([0-9a-f]+) .*name 'phb\S*reg", text, re.M)
    return {"kill": sum(int(address, 16) & 0xfff == _PAGE_KILL_REGISTER for address in kills)}


def _trace_calls(bench, on):
    events = [f"spapr_iommu{bus}_{call}" for call in _PSERIES_CALLS for bus in ("", "_pci")]
    for event in events if bench.is_pseries else ["memory_region_ops_write"]:
        bench.guest.trace(event, on)


def count_calls(bench, command):
    """Hypercalls or kills during a shell command of the guest."""
    before = _traced(bench)
    _trace_calls(bench, True)
    try:
        bench.guest.run(command)
    finally:
        _trace_calls(bench, False)
    return {name: count - before[name] for name, count in _traced(bench).items() if count - before[name]}


def _calls(counts):
    names = {"put": "H_PUT_TCE", "indirect": "H_PUT_TCE_INDIRECT", "stuff": "H_STUFF_TCE", "kill": "kill"}
    return ", ".join(f"{count} {names[name]}" for name, count in counts.items()) or "none"


def mapping_cost(bench):
    """Hypercalls or kills for a mapping of 1 MiB."""
    mapped = count_calls(bench, "load tce_testdev oracle=0 hold_kib=1024")
    unmapped = count_calls(bench, "rmmod tce_testdev")
    # 256 TCEs of 4 KiB fit one call; a second one may be due to alignment.
    expect(sum(mapped.values()) <= 2, f"mapping took {_calls(mapped)}")
    expect(1 <= sum(unmapped.values()) <= 2, f"unmapping took {_calls(unmapped)}")
    return f"map: {_calls(mapped)}; unmap: {_calls(unmapped)}"


def log_clean(bench):
    """Kernel log."""
    bench.guest.check_log()
    expect(not trouble_in(bench.guest.kernel_log), "not clean")
    return "clean"


def dmesg_clean(bench):
    """Kernel log, and DMA faults seen by the PHB."""
    for device in bench.scenario.devices:
        if device not in ("testdev", "edu"):    # those two are made to try what is refused
            expect(not dma_faults(bench, device), f"{dma_faults(bench, device)} refused accesses of {device}")
    return log_clean(bench)
