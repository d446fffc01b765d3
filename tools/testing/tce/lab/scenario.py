# SPDX-License-Identifier: GPL-2.0
"""A scenario: one boot of one kernel on one machine, and its steps in order.

A step is a function that gets the Bench, raises GuestError when what it sees is
wrong, Skip when it cannot be done here, and returns a few words for the reader.
After each step the kernel log must be clean.
"""

import dataclasses
import shutil
import time
import zlib

from . import debian, devtree, initramfs, machine, modules, nested, nextkernel, pasiddev, selftests, tcetop, vtd
from .bench import build
from .guest import Guest, GuestError, command_line, trouble_in
from .say import Fail, elapsed, remark

NVME_BYTES = 64 << 20
_SLOW = 10      # a step of so many seconds is named
TFTP_BYTES = 1 << 20


class Skip(Exception):
    """The step has nothing to do on this machine."""


@dataclasses.dataclass(frozen=True)
class Result:
    """One line of a report."""

    name: str
    status: str     # "ok", "not ok" or "skip"
    detail: str
    title: str = ""
    where: str = ""


@dataclasses.dataclass(frozen=True)
class Scenario:
    """What to boot and what to do in it."""

    name: str
    flavour: str
    machine: str
    devices: tuple
    steps: tuple
    together: bool = False
    host_bridge: str = ""
    append: str = ""
    only_all: bool = False
    more: tuple = ()            # further QEMU arguments
    selftests: bool = False     # the guest has the kernel's selftests
    disk: debian.Disk | None = None     # with programs of Debian; with QEMU, the guest has its own kernel in /nested, too
    pasid_bits: tuple = ()      # a device with PASIDs for each
    tce_top: bool = False       # the guest has tce-top
    modules: bool = False       # the guest has the kernel modules that only tests need
    coherent: bool = False      # Intel's IOMMU says that its page walks are coherent
    measured: int = 0           # so many CPUs, whose work is counted
    next_kernels: tuple = ()    # flavours that the guest can start by kexec
    huge_pages: bool = False    # a powernv machine has them with the radix MMU

    @property
    def label(self):
        return f"{self.flavour}.{self.machine}.{self.name}"


class Bench:
    """What a step works with: the guest and the files behind its devices."""

    def __init__(self, scenario, guest, directory, objects):
        self.scenario, self.guest, self.directory, self.objects = scenario, guest, directory, objects
        self.memory = {}    # what one step leaves for a later one

    @property
    def is_pseries(self):
        return self.guest.machine.is_pseries

    def bdf(self, device):
        """The address of a device by its short name."""
        if device not in self.memory:
            self.memory[device] = self.guest.pci(machine.DEVICES[device][0])
        return self.memory[device]

    def image(self, number=None):
        """The file behind the nvme that is the machine's device of this number, or behind the first nvme."""
        return self.directory / f"disk{self.scenario.devices.index('nvme') if number is None else number}.img"

    def image_crc(self, offset, length, number=None):
        """CRC-32 of the image file as the host sees it."""
        return self.crc_of(self.image(number), offset, length)

    @staticmethod
    def crc_of(path, offset, length):
        """CRC-32 of a part of a file."""
        crc = 0
        with open(path, "rb") as disk:
            disk.seek(offset)
            while length:
                chunk = disk.read(min(length, 1 << 20))
                crc, length = zlib.crc32(chunk, crc), length - len(chunk)
        return f"{crc:08x}"

    def disk_check(self, length=4 << 20, offset=0, seed=1, bdf=None, number=None):
        """Writes through the first disk, or another one, reads back, compares with the host's view."""
        run = self.guest.run
        disk = run(f"disk_of {bdf or self.bdf('nvme')}")
        wrote = run(f"ddsum write {disk} {offset} {length} {seed}", 120)
        read = run(f"ddsum read {disk} {offset} {length}", 120)
        host = self.image_crc(offset, length, number)
        if not wrote == read == host:
            raise GuestError(f"wrote {wrote}, read {read}, the host sees {host}")
        return wrote

    def net_check(self, device):
        """Fetches a file through a network device, compares with the original."""
        run = self.guest.run
        run(f"net_up {self.bdf(device)}", 60)
        run("tftp -b 8192 -g -r pattern -l /tmp/pattern 10.0.2.2", 120)
        got = run("crc32 /tmp/pattern; rm /tmp/pattern; "
                  f"ifconfig $(net_of {self.bdf(device)}) down").split()[0]
        if got != (want := f"{zlib.crc32((self.directory / 'tftp/pattern').read_bytes()):08x}"):
            raise GuestError(f"fetched {got}, the host has {want}")
        return got


_LOGS = ("console.log", "dmesg.log")


def _files(directory):
    """Fresh images for the devices. The logs of the boot before are kept."""
    logs = {name: (directory / name).read_bytes() for name in _LOGS if (directory / name).exists()}
    shutil.rmtree(directory, ignore_errors=True)
    (directory / "tftp").mkdir(parents=True)
    for name, content in logs.items():
        (directory / f"before.{name}").write_bytes(content)
    word = 0x2545F4914F6CDD1D
    pattern = bytearray()
    while len(pattern) < 4096:
        word = (word * 6364136223846793005 + 1442695040888963407) & (1 << 64) - 1
        pattern += word.to_bytes(8, "little")
    # Each 4 KiB differs from the others, so that a swapped page is noticed.
    (directory / "tftp/pattern").write_bytes(
        b"".join(number.to_bytes(8, "little") + pattern[8:] for number in range(TFTP_BYTES // 4096)))

    def image(number):
        path = directory / f"disk{number}.img"
        with open(path, "wb") as disk:
            disk.truncate(machine.IMAGE_MB << 20)
        return path
    return image


def _directory(env, scenario):
    return env.build / "run" / scenario.label


def command(env, scenario, objects):
    """QEMU arguments for the machine, its devices, the kernel and the initramfs."""
    directory = _directory(env, scenario)
    kind = machine.MACHINES[scenario.machine]
    image = _files(directory)
    files, more = {}, list(scenario.more)
    if scenario.selftests:
        files |= {f"bin/{name}": content for name, content in selftests.build(env, objects).items()}
    if scenario.disk:
        more += debian.arguments(env, scenario.disk, kind)
    if scenario.disk == debian.KVM_HOST:
        more += nested.MEMORY
        files |= nested.files(env, objects, directory)
    files |= modules.build(env, objects) if scenario.modules else {}
    if scenario.next_kernels:
        more += nextkernel.arguments(env, objects, directory, kind, scenario.next_kernels)
    files |= {"bin/tce-top": tcetop.program(env)} if scenario.tce_top else {}
    if scenario.measured:
        more += build.arguments(env, scenario.measured)
        files |= build.module(env, objects)
    initrd = initramfs.make(env, objects, directory / "initramfs.cpio", files, kind.arch)
    line = [*kind.command(scenario.devices, scenario.together, image, directory / "tftp", scenario.host_bridge),
            *more, "-display", "none", "-no-reboot", "-kernel", str(objects / "vmlinux"), "-initrd", str(initrd)]
    if scenario.coherent:
        line += vtd.coherent(kind.arch.qemu, line, directory)
    return line + pasiddev.arguments(scenario.pasid_bits)


def with_disks(env, chosen, report):
    """The scenarios that can run: a disk that cannot be had is one failure, and not one for each step."""
    missing = set()
    for disk in dict.fromkeys(one.disk for one in chosen if one.disk):
        try:
            debian.disk(env, disk)
        except Fail as problem:
            report(Result(f"{disk.name}.disk", "not ok", str(problem)))
            missing.add(disk)
    for one in chosen:
        if one.disk in missing:
            report(Result(one.label, "skip", f"no disk with {one.disk.what}"))
    return [one for one in chosen if one.disk not in missing]


def complaints(guest):
    """What the kernel has complained of when a step failed, which says more than the step, or nothing."""
    try:
        return _told(guest.read_log())
    except GuestError:      # it is gone, or does not answer, and has said where on the console
        return _console(guest.directory)


def _console(directory):
    path = directory / "console.log"
    return _told(path.read_text(encoding="utf-8", errors="replace")) if path.exists() else ""


def _told(log):
    found = trouble_in(log)
    return f"; kernel log: {' | '.join(found[:4])}" if found else ""


def run(env, scenario, objects, report):
    """Runs a scenario and reports a Result for each step."""
    directory = _directory(env, scenario)
    kind = machine.MACHINES[scenario.machine]
    left = list(scenario.steps)
    start = time.monotonic()
    slow = []

    def tell(step, status, detail):
        title = (step.__doc__ or step.__name__).split("\n")[0].rstrip(".")
        report(Result(f"{scenario.label}.{step.__name__.strip('_')}", status, detail or "", title, scenario.machine))

    try:
        arguments = command(env, scenario, objects)
        append = scenario.append
        if "debug" in scenario.flavour.split("-"):
            # Built in, but off without these. A scenario may say otherwise.
            append = f"debug_pagealloc=on iommu.debug_pagealloc=1 {append}"
        if scenario.huge_pages and not kind.is_pseries:
            arguments += devtree.huge_pages(env, [kind.arch.qemu, *arguments, *command_line(kind, append)], directory)
        with pasiddev.serve(directory, scenario.pasid_bits), Guest(directory, kind, arguments, append) as guest:
            bench = Bench(scenario, guest, directory, objects)
            while left:
                step = left.pop(0)
                began = time.monotonic()
                try:
                    detail = step(bench)
                    guest.check_log()
                    tell(step, "ok", detail)
                except Skip as why:
                    tell(step, "skip", str(why))
                except GuestError as problem:
                    tell(step, "not ok", f"{problem}{complaints(guest)}")
                except Exception as bug:    # of the test itself, or of this machine: one step, not the run
                    tell(step, "not ok", f"{type(bug).__name__}: {bug}")
                if (took := time.monotonic() - began) >= _SLOW:
                    slow.append(f", {step.__name__.strip('_')} {took:.0f} s")
                if left and not guest.alive:
                    raise GuestError("the guest is gone")
    except (GuestError, Fail, OSError) as problem:
        for step in left:
            tell(step, "not ok", f"not run: {problem}{_console(directory)}")
    remark(f"[{elapsed(time.monotonic() - start):>5}] {scenario.label}{''.join(slow)}")
