# SPDX-License-Identifier: GPL-2.0
"""The architectures that the lab boots. POWER is what it is for; on x86_64 there
is an IOMMU with PASIDs in QEMU."""

import dataclasses
import os


@dataclasses.dataclass(frozen=True)
class Arch:
    """What differs between architectures."""

    kernel: str     # ARCH= of the kernel
    fragment: str   # the configuration that every flavour starts from
    qemu: str
    console: str
    compiler: str   # of the guest's programs
    busybox: str


POWERPC = Arch("powerpc", "base", "qemu-system-ppc64", "hvc0", "powerpc64le-linux-gnu-gcc",
               os.environ.get("TCE_BUSYBOX", "/guest/busybox"))
X86 = Arch("x86_64", "x86", "qemu-system-x86_64", "ttyS0", "gcc", "/usr/bin/busybox")


def of(flavour):
    """The architecture of a flavour."""
    return X86 if flavour == X86.fragment else POWERPC
