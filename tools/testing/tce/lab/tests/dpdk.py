# SPDX-License-Identifier: GPL-2.0
"""DPDK's testpmd from Debian, as it is, with a network card by vfio-pci.

The card hangs on a hub with one that the kernel drives. testpmd sends each packet back with its addresses
swapped: a ping as one from the other side, and the kernel's answer as the answer to its own. What went over
the wire is compared.
"""

import re
import struct

from .. import debian, steps
from ..scenario import Scenario
from ..steps import DEBUGFS, expect, from_guide, tces

_HUGE, _PAGES = "/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages", 96
_DUMP, _PINGS, _BYTES = "wire.pcap", 50, 1400
_NEAR, _FAR = "10.0.2.15", "10.0.2.16"      # of the kernel, and one that it has no other way to
_WINDOW = 1 << 44
_CARDS = ("i82557b", "e1000e", "igb")


def _wire(is_pseries, window=""):
    """QEMU arguments: the cards on one hub, each with a host bridge of its own, and a dump of what passes."""
    line = []
    for number, card in enumerate(_CARDS):
        if is_pseries:
            line += ["-device", f"spapr-pci-host-bridge,index={number + 1},id=phb{number + 1}{window}"]
        bus = f"phb{number + 1}.0" if is_pseries else f"pcie.{number},addr=0"
        line += ["-netdev", f"hubport,hubid=1,id=port{number}", "-device", f"{card},netdev=port{number},bus={bus}"]
    return (*line, "-object", f"filter-dump,id=dump,netdev=port0,file={_DUMP}")


def _frames(path):
    """The Ethernet frames of a dump."""
    raw, place = path.read_bytes(), 24
    while place + 16 <= len(raw):
        length = struct.unpack_from("<I", raw, place + 8)[0]
        yield raw[place + 16:place + 16 + length]
        place += 16 + length


def _sent_and_back(path, near, far):
    """What IP packets of a dump carry: sent by the kernel's card to another, and back."""
    found = {near + far: set(), far + near: set()}
    for frame in _frames(path):
        if frame[12:14] == b"\x08\x00" and frame[:12] in found:
            found[frame[:12]].add(frame[34:14 + struct.unpack_from(">H", frame, 16)[0]])
    return found[far + near], found[near + far]


def _joined(ranges):
    """The same in fewer ranges, where one begins as another ends."""
    out = []
    for first, last in sorted(ranges):
        if out and out[-1][1] == first:
            first = out.pop()[0]
        out.append((first, last))
    return out


def ready(bench):
    """DPDK on its disk, and the kernel's card on the wire."""
    guest = bench.guest
    guest.run("load tce_iommu; load e100; load e1000e; load igb; load vfio_pci; load vfio_iommu_type1")
    steps.mount_disk(bench)
    guest.run(f"net=$(net_of {bench.bdf('e100')}) && ifconfig $net {_NEAR} netmask 255.255.255.0 up")
    # The only size that is mounted: DPDK sets its addresses aside by size, and begins with what it uses.
    guest.run(f"echo {_PAGES} >{_HUGE} && mkdir -p /host/huge /host/var/run && mount -t hugetlbfs -o pagesize=2M huge /host/huge")
    expect(guest.run(f"cat {_HUGE}") == str(_PAGES), "no huge pages")
    _, text = guest.try_run("chroot /host /usr/bin/dpdk-testpmd --in-memory --no-huge --version 2>&1")
    found = re.search(r"DPDK [\d.]+", text)
    expect(found, f"dpdk-testpmd said: {text[-300:]}")
    return found[0]


def _start(bench, device, mode):
    """Starts testpmd on a card; returns what it said when it began to forward, or ended."""
    guest, bdf = bench.guest, bench.bdf(device)
    guest.run(f"bind {bdf} vfio-pci")
    base = f"--base-virtaddr={bench.memory['base']:#x}" if "base" in bench.memory else ""
    found = from_guide(r"^  dpdk-testpmd (.*)=va (.* -a )\S+ (-- )\\\n +(.*)$")
    guest.run(f"chroot /host /usr/bin/dpdk-testpmd {found[1]}={mode} {base} {found[2]}{bdf} {found[3]}{found[4]} --stats-period=1 "
              ">/tmp/testpmd 2>&1 </dev/null & echo $! >/tmp/testpmd.pid")
    guest.run("for try in $(seq 600); do grep -qi 'start packet forwarding\\|5tswap packet forwarding' /tmp/testpmd && break; "
              "[ -e /proc/$(cat /tmp/testpmd.pid)/exe ] || break; usleep 100000; done", 120)
    return guest.run("cat /tmp/testpmd")


def _ends(bench, device):
    """Ends testpmd and looks that nothing is left."""
    bench.guest.run("kill -INT $(cat /tmp/testpmd.pid); for try in $(seq 300); do [ -e /proc/$(cat /tmp/testpmd.pid)/exe ] || break; "
                    "usleep 100000; done; [ ! -e /proc/$(cat /tmp/testpmd.pid)/exe ]", 60)
    with open(bench.directory / "testpmd.log", "a", encoding="utf-8") as log:
        log.write(bench.guest.run("cat /tmp/testpmd") + "\n")
    expect(not tces(bench, device), f"{tces(bench, device)} TCEs after the end of testpmd")


def _answers(bench, device, mode):
    """testpmd sends packets back, and what comes has the data of what went."""
    guest = bench.guest
    far = guest.run(f"bind {bench.bdf(device)} {device}; cat /sys/class/net/$(net_of {bench.bdf(device)})/address")
    near = guest.run(f"cat /sys/class/net/$(net_of {bench.bdf('e100')})/address")
    guest.run(f"arp -s {_FAR} {far}")
    said = _start(bench, device, mode)
    expect(f"Selected IOVA mode '{mode.upper()}'" in said, f"testpmd said: {said[-300:]}")
    _, pings = guest.try_run(f"ping -c {_PINGS} -i 0.1 -s {_BYTES} -p a5 {_FAR} | tail -n 3", 180)
    group = guest.run(f"group_of {bench.bdf(device)}")
    dumped = re.findall(r"^(0x[0-9a-f]+)-(0x[0-9a-f]+) ", guest.run(f"cat {DEBUGFS}/{group}/tces"), re.M)
    maps = re.findall(r"^([0-9a-f]+)-([0-9a-f]+) rw", guest.run("cat /proc/$(cat /tmp/testpmd.pid)/maps"), re.M)
    mapped = [(int(first, 16), int(last, 16)) for first, last in dumped]
    memory = _joined((int(first, 16), int(last, 16)) for first, last in maps)
    expect(mapped, "nothing is mapped")
    same = all(any(first <= low and high < last for first, last in memory) for low, high in mapped)
    expect(same == (mode == "va"), f"bus addresses {dumped[:3]}, memory of the process {maps[:40]}")
    _ends(bench, device)
    sent, back = _sent_and_back(bench.directory / _DUMP, *(bytes.fromhex(text.replace(":", "")) for text in (near, far)))
    # The first may come before the card listens.
    expect(back <= sent and len(back) > _PINGS, f"{len(sent)} packets sent, {len(sent & back)} of {len(back)} back as they were; {pings}")
    low, high = min(mapped)[0], max(mapped)[1]
    return f"{len(back)} packets with {_BYTES} bytes there and back; bus addresses {low:#x} to {high:#x}"


def e1000e_va(bench):
    """testpmd with IOVA = VA on an e1000e."""
    return _answers(bench, "e1000e", "va")


def igb_va(bench):
    """testpmd with IOVA = VA on an igb."""
    return _answers(bench, "igb", "va")


def e1000e_refused(bench):
    """IOVA = VA where no window has the addresses of a process: testpmd says so and has no card."""
    said = _start(bench, "e1000e", "va")
    refused = re.search(r"Cannot set up DMA remapping, error 22.*", said)
    expect(refused and "No probed ethernet devices" in said, f"testpmd said: {said[-400:]}")
    _ends(bench, "e1000e")
    return refused[0]


def e1000e_pa(bench):
    """testpmd with IOVA = PA, where all memory lies in the default window."""
    return _answers(bench, "e1000e", "pa")


def cards_back(bench):
    """The cards are back at the kernel's drivers."""
    for device in ("e1000e", "igb"):
        bench.guest.run(f"bind {bench.bdf(device)} {device} && net_of {bench.bdf(device)}")
    return "e1000e, igb"


def memory_in_window(bench):
    """DPDK is to put its memory where the 64-bit window is."""
    bench.memory["base"] = _WINDOW
    return f"--base-virtaddr={_WINDOW:#x}"


def _dpdk(machine, name, *todo, window="", more=()):
    return Scenario(name, "modern-64k", machine, (), (ready, *todo, cards_back, steps.dmesg_clean), disk=debian.DPDK, huge_pages=True,
                    more=(*_wire(machine == "pseries", window), *more), only_all=True)


SCENARIOS = [_dpdk("powernv10", "dpdk", e1000e_va, igb_va),
             _dpdk("pseries", "dpdk", memory_in_window, e1000e_va, igb_va, window=f",dma64_win_addr={_WINDOW:#x}", more=("-m", "1G")),
             _dpdk("pseries", "dpdk-far", e1000e_refused, e1000e_pa, more=("-m", "1G"))]
