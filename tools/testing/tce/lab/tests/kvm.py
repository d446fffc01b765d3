# SPDX-License-Identifier: GPL-2.0
"""A KVM guest with a device of its host, on powernv, with Debian's QEMU as it is.

The lab's guest is the host here. It runs the driver; its own guest is a pseries
machine, which reaches the device through DMA windows of its own. There the
platform's DMA code drives them, or the driver too.
"""

import re
import time

from .. import debian, steps
from ..guest import trouble_in
from ..scenario import Scenario
from ..steps import MIB, expect
from .vfio import held, settled

_HIGH = 1 << 59
_QEMU = ("/usr/bin/qemu-system-ppc64 -accel kvm -cpu host -m 1G -nodefaults -nographic -serial stdio "
         # What TCG does not give a KVM host.
         "-M pseries,x-vof=on,cap-cfpc=broken,cap-sbbc=broken,cap-ibs=broken,cap-ccf-assist=off,cap-dawr1=off,"
         # What a host with 4K pages can do. It is for hash guests; these are radix.
         "cap-hpt-max-page-size=4k "
         "-kernel /mnt/nested/vmlinux -initrd /mnt/nested/initramfs -append 'console=hvc0 quiet' "
         # Not to the console, where it would cut through lines of the guest.
         "-D /tmp/trace -trace spapr_iommu_ddw_create -trace spapr_iommu_pci_put -trace spapr_iommu_pci_indirect")


def _host(bench, parameters=""):
    """Makes the guest a host with KVM; returns what QEMU it has."""
    guest = bench.guest
    guest.run(f"load tce_iommu {parameters}; load nvme; load vfio_pci; load vfio_iommu_type1; load iommufd; [ -c /dev/kvm ]")
    steps.mount_disk(bench)
    bench.disk_check(8 * MIB, seed=1)
    bench.memory["held"] = held(bench)
    version = guest.run("chroot /host /usr/bin/qemu-system-ppc64 --version").splitlines()[0]
    objects = guest.run("chroot /host /usr/bin/qemu-system-ppc64 -object help").split()
    return f"{version}, {'with' if 'iommufd' in objects else 'without'} -object iommufd"


def kvm_host(bench):
    """A host with KVM, and QEMU on its disk."""
    return _host(bench)


def small_pages(bench):
    """The same, with TCE pages of 4 KiB."""
    return _host(bench, "max_page_shift=12")


def _nested(bench, options, commands, seconds=300):
    """Boots a guest in the guest and gives its init some commands; returns all that was said."""
    script = " ".join(f"'{number} {command}'" for number, command in enumerate((*commands, "poweroff -f"), 9001))
    bench.guest.run(f"printf '%s\\n' {script} | timeout -s KILL {seconds} chroot /host {_QEMU} {options} "
                    ">/tmp/nested 2>&1 && echo status 0 >>/tmp/nested || echo status $? >>/tmp/nested", seconds + 30)
    # What QEMU says of single TCEs is counted: each line takes a while over the console.
    output = bench.guest.run("cat /tmp/nested /host/tmp/trace | tr -d '\\r' | "
                             "sed 's/^@@/nested /; s/(0x[^)]*)//; s/^spapr_iommu_pci_.* \\(liobn=[^ ]*\\) .*/\\1/' | "
                             "awk '/vfio_container_dma_|^liobn=/ { n[$0]++; next } { print } END { for (e in n) print n[e], e }'")
    with open(bench.directory / "nested.log", "a", encoding="utf-8") as log:
        log.write(f"\n# {_QEMU} {options}\n{output}\n")
    expect("\nstatus 0" in output, f"QEMU failed: {output[-200:]}")
    return output


def _expect_window(output, low):
    """Fails unless the guest used one window: its 32-bit one if `low`, or a 64-bit one that it opened."""
    windows = re.findall(r"^spapr_iommu_ddw_create .*start addr=(\w+)", output, re.M)
    expect(windows == ([] if low else [hex(_HIGH)]), f"the guest opened windows at {windows}")
    used = {int(liobn, 16) & 0xff for liobn in re.findall(r"^\d+ liobn=(\w+)", output, re.M)}
    expect(used == {0 if low else 1}, f"the guest put TCEs into windows {used}")


def _round(bench, number, low=False, modern=False, iommufd=False):
    """A guest writes 8 MiB at a place of its own and reads it back, through its 32-bit window if `low`."""
    offset, length, bdf = number * 8 * MIB, 8 * MIB, bench.bdf("nvme")
    bench.guest.run(f"bind {bdf} vfio-pci; umount /host/dev/vfio/vfio 2>/dev/null || :; rmmod vfio_iommu_type1 || :; "
                    # iommufd talks like a type1 container to whoever opens it as one.
                    + ("mount --bind /dev/iommu /host/dev/vfio/vfio" if iommufd else "load vfio_iommu_type1"))
    start = time.monotonic()
    output = _nested(bench, f"-device spapr-pci-host-bridge,index=1,id=phb1{',ddw=off' if low else ''} "
                            f"-device vfio-pci,host={bdf},bus=phb1.0",
                     (f"{'load tce_iommu; ' if modern else ''}load nvme", "dmesg",
                      f"d=$(disk_of $(pci 1b36:0010)) && ddsum write $d {offset} {length} {number} && "
                      f"ddsum read $d {offset} {length}"))
    took = time.monotonic() - start
    _expect_window(output, low)
    expect(not trouble_in(output), f"in the guest: {trouble_in(output)[:4]}")
    sums, host = re.findall(r"^([0-9a-f]{8})$", output, re.M), bench.image_crc(offset, length)
    expect(sums == [host, host], f"the guest wrote and read {sums}, the host sees {host}")
    expect("dma_map = " not in output, "QEMU could not map all that the guest asked for")
    refused = sum(map(int, re.findall(r"^(\d+) .*dma_unmap = ", output, re.M)))
    return f"crc32 {host}, {took:.0f} s" + (f", {refused} unmaps of nothing refused" if refused else "")


def type1_low(bench):
    """Guest by type1, through its 32-bit window."""
    return _round(bench, 1, low=True)


def type1_high(bench):
    """Guest by type1, through its 64-bit window."""
    return _round(bench, 2)


def type1_modern(bench):
    """Guest by type1, with the driver in the guest too."""
    return _round(bench, 3, modern=True)


def iommufd_low(bench):
    """Guest by iommufd, through its 32-bit window."""
    return _round(bench, 4, low=True, iommufd=True)


def iommufd_high(bench):
    """Guest by iommufd, through its 64-bit window."""
    return _round(bench, 5, iommufd=True)


def iommufd_modern(bench):
    """Guest by iommufd, with the driver in the guest too."""
    return _round(bench, 6, modern=True, iommufd=True)


def device_back(bench):
    """The device back at its host."""
    bench.guest.run(f"bind {bench.bdf('nvme')} nvme")
    crc = bench.disk_check(8 * MIB, seed=2)
    settled(bench, bench.memory["held"])
    return f"crc32 {crc}, pinned pages and TCEs as before"


def _kvm(name, flavour, *steps_):
    return Scenario(name, flavour, "powernv10", ("nvme",), (*steps_, device_back, steps.dmesg_clean),
                    disk=debian.KVM_HOST, only_all=True)


# On a host with 64K pages type1 has no 4K pages, which the 32-bit window of a guest needs; iommufd has.
SCENARIOS = [
    _kvm("kvm", "modern-kvm-64k", kvm_host, type1_high, type1_modern, iommufd_high),
    _kvm("kvm-4k-tces", "modern-kvm-64k", small_pages, iommufd_low, iommufd_modern),
    _kvm("kvm", "modern-kvm-4k", kvm_host, type1_low, type1_high, iommufd_low, iommufd_high),
]
