# SPDX-License-Identifier: GPL-2.0
"""The machines and devices of the lab, as QEMU command lines.

On pseries every device on one PHB shares a PE, and a PHB is an object of its
own. On powernv each device has a PE of its own unless it sits behind a
conventional PCI bridge.
"""

import dataclasses

from .arch import POWERPC, X86, Arch

# name: (vendor:device as sysfs has it, QEMU arguments)
DEVICES = {
    "nvme": ("1b36:0010", "nvme,serial={id},drive={id}"),
    "null": ("1b36:0010", "nvme,serial={id},drive={id}"),   # the same with a disk that takes no time
    "e100": ("8086:1229", "i82557b,netdev={id}"),      # its driver asks for 32 bits
    "e1000e": ("8086:10d3", "e1000e,netdev={id}"),      # 64 bits
    "igb": ("8086:10c9", "igb,netdev={id}"),
    "edu": ("1234:11e8", "edu,dma_mask=0xffffffffffffffff"),
    "edu40": ("1234:11e8", "edu,dma_mask=0xffffffffff"),    # drives 40 address bits, whatever its driver says
    "testdev": ("1b36:0005", "iommu-testdev"),
    "sas": ("1000:0054", "mptsas1068"),     # its driver asks how many bits are of use
}
IMAGE_MB = 256


@dataclasses.dataclass(frozen=True)
class Machine:
    """One kind of machine."""

    name: str
    arguments: tuple
    is_pseries: bool
    arch: Arch = POWERPC
    append: str = ""        # what an administrator has to set there

    def command(self, devices, together, image, tftp, host_bridge=""):
        """QEMU arguments for the machine and its devices. `together` puts all
        of them in one PE."""
        line = list(self.arguments)
        if together:
            line += self._shared_pe(host_bridge)
        for number, name in enumerate(devices):
            ident = f"{name}{number}"
            if name == "nvme":
                line += ["-drive", f"if=none,id={ident},format=raw,file={image(number)}"]
            elif name == "null":
                line += ["-drive", f"if=none,id={ident},driver=null-co,size={IMAGE_MB}M,read-zeroes=off"]
            elif "netdev" in DEVICES[name][1]:
                line += ["-netdev", f"user,id={ident},tftp={tftp},restrict=on"]
            if together:
                place = f"bus=shared,addr={number + 1:#x}" if not self.is_pseries else f"bus=shared.0,addr={number + 1:#x}"
            elif self.arch == X86:
                place = f"bus=pcie.0,addr={number + 2:#x}"
            elif self.is_pseries:
                line += ["-device", f"spapr-pci-host-bridge,index={number + 1},id=phb{number + 1}{host_bridge}"]
                place = f"bus=phb{number + 1}.0"
            else:
                place = f"bus=pcie.{number},addr=0"
            line += ["-device", f"{DEVICES[name][1].format(id=ident)},id=dev{number},{place}"]
        return line

    def _shared_pe(self, host_bridge):
        if self.is_pseries:
            return ["-device", f"spapr-pci-host-bridge,index=1,id=shared{host_bridge}"]
        return ["-device", "pcie-pci-bridge,id=shared,bus=pcie.0,addr=0"]


def _powernv(name):
    # -nodefaults would take the PHBs away.
    return Machine(name, ("-M", name, "-net", "none", "-m", "2G", "-smp", "2"), False)


# The devices that QEMU emulates can write all vectors of a pseries machine.
_UNSAFE = " ".join(f"{module}.allow_unsafe_interrupts=1" for module in ("vfio_iommu_type1", "iommufd"))

MACHINES = {machine.name: machine for machine in (
    Machine("pseries", ("-M", "pseries,x-vof=on", "-cpu", "power10", "-nodefaults", "-m", "2G", "-smp", "2"), True,
            append=_UNSAFE),
    _powernv("powernv9"), _powernv("powernv10"), _powernv("powernv11"),
    Machine("q35", ("-M", "q35", "-nodefaults", "-m", "1G", "-smp", "2"), False, X86))}
