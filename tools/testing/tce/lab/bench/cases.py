# SPDX-License-Identifier: GPL-2.0
"""What is measured, on which machine and with which kind of DMA."""

import dataclasses

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
PAGE = 64 * KIB
SIZES = (2 * KIB, 4 * KIB, 64 * KIB, 256 * KIB, MIB, 4 * MIB)
ENTRIES = (1, 4, 16, 64)
FLAVOURS = {"legacy": "legacy-64k", "modern": "modern-64k"}


@dataclasses.dataclass(frozen=True)
class Case:
    """One measurement: a command of the guest, and how many operations or pages it is for."""

    name: str
    command: str
    units: int


@dataclasses.dataclass(frozen=True)
class Mode:
    """Measurements of a device in one state. `to` is who has it: tce_bench, nvme or vfio-pci."""

    name: str
    driver: str     # legacy or modern
    cases: tuple
    to: str = "tce_bench"
    type: str = ""  # of the domain; only the modern driver has it
    mask: int = 64
    above: int = 0  # where tce_bench's mappings must be, or something else was measured


@dataclasses.dataclass(frozen=True)
class Boot:
    """A machine; each driver boots there once."""

    name: str
    machine: str
    modes: tuple
    host_bridge: str = ""
    devices: tuple = ("testdev", "nvme")
    cpus: int = 1
    append: dict = dataclasses.field(default_factory=dict)

    @property
    def drivers(self):
        return dict.fromkeys(mode.driver for mode in self.modes)


def maps(work, count):
    return Case(work, f"echo '{work} {count}' >/sys/kernel/debug/tce_bench", count)


DMA = (*(maps(f"single {size}", 100) for size in SIZES), *(maps(f"sg {entries}", 50) for entries in ENTRIES))

# With interrupts, so that a flush queue is emptied too.
LAZY = (maps("stream 65536", 4096),)

NVME = (Case("random 4K", "nvmebench $(disk_of {nvme}) random 4096 32 2000", 2000),
        Case("sequential 1M", "nvmebench $(disk_of {nvme}) sequential 1048576 4 200", 200))

MAPPED = 512 * MIB
TABLE = 16 * GIB


def _vfio(iova, *interfaces):
    for api in interfaces:
        def case(work, length, units, command=api):
            return Case(f"{command} {work}", f"vfiobench {command} {work.split()[0]} {length} {iova:#x} {{nvme}}", units)
        yield case("map", MAPPED, MAPPED // PAGE)
        yield case("scatter", MAPPED, MAPPED // PAGE)
        yield case("switch", MIB, 1)
        yield case("switch again", MIB, 1)
        yield case("table", TABLE, TABLE // GIB)
        if api == "spapr":
            yield case("pin", MAPPED, MAPPED // PAGE)


def _modes(driver, name, kind, mask=64, iova=0, above=0):
    """What is measured with each kind of DMA, and with VFIO."""
    # First, while memory is not in pieces yet.
    if iova is not None:
        yield Mode("vfio", driver, tuple(_vfio(iova, *INTERFACES[driver])), type=kind, to="vfio-pci")
    yield Mode(name, driver, DMA, type=kind, mask=mask, above=above)
    if name != "direct":
        yield Mode(f"dma_map_benchmark {name}", driver, (Case("64 KiB", f"dmabench {mask}", 1),), type=kind,
                   to="dma_map_benchmark")
    yield Mode(f"nvme {name}", driver, NVME, type=kind, to="nvme")


INTERFACES = {"legacy": ("spapr",), "modern": ("type1", "iommufd")}
LOW, HIGH = 16 * MIB, 1 << 59

BOOTS = (
    Boot("pseries", "pseries", (
        *_modes("legacy", "direct", ""),
        *_modes("modern", "DMA", "DMA", iova=HIGH + LOW, above=HIGH),
        Mode("DMA-FQ", "modern", DMA + LAZY, type="DMA-FQ"), Mode("nvme DMA-FQ", "modern", NVME, type="DMA-FQ", to="nvme"),
        *_modes("modern", "direct", "identity", iova=None))),
    Boot("pseries-noddw", "pseries", (
        *_modes("legacy", "TCE", "", mask=32, iova=None),
        *_modes("modern", "DMA", "DMA", mask=32, iova=None)), ",ddw=off"),
    Boot("powernv10", "powernv10", (
        *_modes("legacy", "TCE", "", mask=32),
        *_modes("modern", "DMA", "DMA", iova=HIGH + LOW),
        Mode("DMA-FQ", "modern", DMA + LAZY, type="DMA-FQ"), Mode("nvme DMA-FQ", "modern", NVME, type="DMA-FQ", to="nvme"),
        *_modes("modern", "direct", "identity", iova=None)), append={"legacy": "iommu=nobypass"}),
    Boot("powernv10-bypass", "powernv10", (*_modes("legacy", "direct", "", iova=None),)),
)


def names(boots=BOOTS):
    """driver/boot/mode/case of everything that is measured."""
    return [f"{mode.driver}/{boot.name}/{mode.name}/{case.name}"
            for boot in boots for mode in boot.modes for case in mode.cases]
