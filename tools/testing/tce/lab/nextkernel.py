# SPDX-License-Identifier: GPL-2.0
"""Kernels that a running one starts by kexec. They lie on a disk, because each has to have
those that come after it."""

from . import initramfs, modules
from .guest import GuestError

SERIAL = "next"
ROOM = 2 << 30
_MIB = 1 << 20


def _round(size):
    return -(-size // _MIB) * _MIB


def _files(directory, objects, flavour):
    """A kernel and its initramfs."""
    return objects.parent / flavour / "vmlinux", directory / f"next-{flavour}.cpio"


def _places(directory, objects, flavours):
    """{(flavour, 0 or 1): (path, begin and length on the disk)}"""
    found, begin = {}, 0
    for flavour in flavours:
        for number, path in enumerate(_files(directory, objects, flavour)):
            length = _round(path.stat().st_size)
            found[flavour, number] = (path, begin, length)
            begin += length
    return found


def _end(places):
    return max(begin + length for _, begin, length in places)


def room(bench):
    """Where on the disk there are ROOM bytes for other things."""
    return _end(_places(bench.directory, bench.objects, bench.scenario.next_kernels).values())


def arguments(env, objects, directory, kind, flavours):
    """QEMU arguments for the disk, which is made here."""
    for flavour in flavours:
        kernel, initrd = _files(directory, objects, flavour)
        initramfs.make(env, kernel.parent, initrd, modules.build(env, kernel.parent), kind.arch)
    image = directory / "next.img"
    places = _places(directory, objects, flavours).values()
    with open(image, "wb") as disk:
        for path, begin, _ in places:
            disk.seek(begin)
            disk.write(path.read_bytes())
        disk.truncate(_end(places) + ROOM)
    place = "bus=next.0" if kind.is_pseries else "bus=pcie.5,addr=0"
    bridge = ["-device", "spapr-pci-host-bridge,index=20,id=next"] if kind.is_pseries else []
    return [*bridge, "-drive", f"if=none,id={SERIAL},format=raw,file={image}",
            "-device", f"nvme,serial={SERIAL},drive={SERIAL},{place}"]


def load(bench, flavour, how="load", append=""):
    """Reads a kernel from the disk and has it ready; `how` is that of guest/kexec.c."""
    guest, scenario = bench.guest, bench.scenario
    disk = guest.run(f"load nvme; disk_named {SERIAL}")
    places = _places(bench.directory, bench.objects, scenario.next_kernels)
    for number, name in enumerate(("kernel", "initramfs")):
        _, begin, length = places[flavour, number]
        guest.run(f"dd if={disk} of=/tmp/{name} bs={_MIB} skip={begin // _MIB} count={length // _MIB} 2>/dev/null", 120)
        got, want = guest.run(f"crc32 /tmp/{name}", 120).split()[0], bench.crc_of(bench.directory / "next.img", begin, length)
        if got != want:
            raise GuestError(f"the {name} of {flavour} reads as {got}, and is {want}")
    words = f"console={guest.machine.arch.console} {guest.machine.append} {append}"
    guest.run(f"kexec {how} /tmp/kernel /tmp/initramfs '{' '.join(words.split())}'; rm /tmp/kernel /tmp/initramfs", 120)
