# SPDX-License-Identifier: GPL-2.0
"""A kernel that crashes while devices work, and one that saves what is left of it to a disk."""

from .. import nextkernel, steps
from ..scenario import Scenario
from ..steps import MIB, expect
from .kexec import data, modern_drivers

# Fits the disk. All memory is for check-all.
_SHORT = 16 * MIB
_MARK = b"what the crashed kernel had in its memory"
_MARKS = 1000


def crash(bench):
    """The kernel crashes while the disk is read and the testdev has mappings."""
    guest = bench.guest
    bdf = bench.bdf("testdev")
    guest.run(f"for n in $(seq {_MARKS}); do echo '{_MARK.decode()}'; done >/tmp/marks; "
              f"bind {bdf} vfio-pci; (vfiokeep type1 {bdf} >/tmp/held 2>&1 &)")
    nextkernel.load(bench, bench.scenario.next_kernels[0], "crash", "maxcpus=1 reset_devices")
    guest.run(f"disk=$(disk_of {bench.bdf('nvme')}); (while :; do ddsum read $disk 0 {16 * MIB}; done >/dev/null 2>&1 &)")
    said, _ = guest.next_kernel("sleep 1; insmod /modules/crash.ko")
    expect("as was asked for" in said, f"another end: {said[-300:]}")


def not_used(bench):
    """The driver leaves DMA to the platform in a crash kernel."""
    status, _ = bench.guest.try_run("load tce_iommu")
    log = bench.guest.check_log()
    expect(status and "not used in kdump kernels" in log, f"loading gave {status}")


def _dump(bench, length):
    """Writes so many bytes of the dump to the disk; returns how many lines of our file are in it."""
    guest = bench.guest
    disk = guest.run(f"load nvme; disk_named {nextkernel.SERIAL}")
    begin, image = nextkernel.room(bench), bench.directory / "next.img"
    guest.run(f"head -c {length} /proc/vmcore | dd of={disk} bs={MIB} seek={begin // MIB} iflag=fullblock conv=fsync 2>/dev/null", 900)
    got = guest.run(f"head -c {length} /proc/vmcore | crc32", 900).split()[0]
    host = bench.crc_of(image, begin, length)
    expect(got == host, f"vmcore has {got}, the disk {host}")
    with open(image, "rb") as file:
        file.seek(begin)
        saved = file.read(length)
    expect(saved.startswith(b"\x7fELF") and b"\nSYMBOL(init_uts_ns)=" in saved[:MIB], "the disk has no dump")
    return saved.count(_MARK)


def dump(bench):
    """A part of the dump is on the disk."""
    _dump(bench, _SHORT)
    return f"{_SHORT // MIB} MiB"


def dump_long(bench):
    """The whole dump is on the disk."""
    length = int(bench.guest.run("stat -c %s /proc/vmcore"))
    marks = _dump(bench, length)
    expect(marks >= _MARKS, f"{marks} of {_MARKS} lines of a file of the crashed kernel are in it")
    return f"{length // MIB} MiB, {marks} lines of a file of the crashed kernel"


def _each(name, *steps_, **more):
    return [Scenario(name, "modern-64k", machine, ("nvme", "e100", "testdev"), (modern_drivers, data, crash, *steps_), modules=True,
                     more=("-m", "1G"), append="crashkernel=320M", next_kernels=("modern-64k",), **more)
            for machine in ("pseries", "powernv10")]


SCENARIOS = [
    *_each("kdump", not_used, dump, steps.log_clean),
    *_each("kdump-long", dump_long, steps.log_clean, only_all=True),
]
