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
    """One measurement: a command of the guest, and how many operations or pages it is for.

    A command that measures more often than once is for the measurement that took least.
    """

    name: str
    command: str    # or what it adds to the command of its mode
    units: int


@dataclasses.dataclass(frozen=True)
class Mode:
    """Measurements of a device in one state. `to` is who has it: tce_bench, nvme or vfio-pci."""

    name: str
    driver: str     # legacy or modern
    cases: tuple
    command: str = ""       # if one does for all cases
    to: str = "tce_bench"
    type: str = ""  # of the domain; only the modern driver has it
    mask: int = 64
    above: int = 0  # where tce_bench's mappings must be, or something else was measured
    fresh: bool = False     # in a domain that nothing has used yet


@dataclasses.dataclass(frozen=True)
class Boot:
    """A machine; each driver boots there once."""

    name: str
    machine: str
    modes: tuple
    host_bridge: str = ""
    devices: tuple = ("testdev", "null")
    cpus: int = 1
    append: dict = dataclasses.field(default_factory=dict)

    @property
    def drivers(self):
        return dict.fromkeys(mode.driver for mode in self.modes)


def maps(work, count, warm_up=16):
    return Case(work, f"echo '{work} {count} {warm_up}' >/sys/kernel/debug/tce_bench", count)


DMA = (*(maps(f"single {size}", 100) for size in SIZES), *(maps(f"sg {entries}", 50) for entries in ENTRIES))

# At the same time. What they wait for depends on the host, which runs legacy and modern in turn.
CPUS = (1, 2, 4, 8)
THREADS = tuple(Case(f"cpus {cpus}", f"echo 'threads {cpus} 20000 500' >/sys/kernel/debug/tce_bench", 20000 * cpus) for cpus in CPUS)

# What the flush queue of a CPU has room for. The state is steady when it has been emptied once: then IOVAs come back
# from it. After that it is emptied once in so many unmaps, which count with the rest.
QUEUE = 255
LAZY = (*(maps(f"single {size}", 2 * QUEUE, 3 * QUEUE) for size in SIZES),
        *(maps(f"sg {entries}", 2 * QUEUE, 3 * QUEUE) for entries in ENTRIES))
FIRST = (maps("single 65536", QUEUE, 0),)

NVME = (Case("random 4K", "nvmebench $(disk_of {nvme}) random 4096 32 100", 32),
        Case("sequential 1M", "nvmebench $(disk_of {nvme}) sequential 1048576 4 100", 4))

INTERFACES = {"legacy": ("spapr",), "modern": ("type1", "iommufd")}
MAPPED = 512 * MIB
TABLE = 8 * GIB
HIGH = 1 << 59
# Where no leaf of a TCE table is shared with something else.
IOVA = HIGH + 32 * MIB


def vfio(name, work, length, units, devices=""):
    """A case of vfiobench, which does all cases in one go: memory is in order only once."""
    return Case(name, f"{work}:{length}{devices}", units)


def vfio_mode(name, driver, cases, devices):
    """What VFIO costs for the devices, a shell word with a list of addresses."""
    to = "vfio-pci" if devices == "{nvme}" else "every testdev"
    return Mode(name, driver, tuple(cases), f"vfiobench {IOVA:#x} {devices}", to, "DMA" if driver == "modern" else "")


def _vfio(driver):
    for api in INTERFACES[driver]:
        yield vfio(f"{api} map", f"{api}:map", MAPPED, MAPPED // PAGE)
        yield vfio(f"{api} scatter", f"{api}:scatter", MAPPED, MAPPED // PAGE)
        yield vfio(f"{api} switch", f"{api}:switch", MIB, 1)
        yield vfio(f"{api} switch again", f"{api}:switch", MIB, 1)
        yield vfio(f"{api} table", f"{api}:table", TABLE, TABLE // GIB)
        if api == "spapr":
            yield vfio("spapr pin", "spapr:pin", MAPPED, MAPPED // PAGE)


# A process and its device: bound by the sample, beside iommufd with its addresses.
PREFAULTED = {"64K": 64 * KIB, "2M": 2 * MIB, "64M": 64 * MIB}


def _process(api, to, device, huge):
    """What a process pays for its device: to have it, and to have it reach memory."""
    cases = [vfio(f"{work} {name}", f"{api}:{work}", length, 1)
             for work in ("map", "again", "scatter") for name, length in PREFAULTED.items()]
    if huge:
        cases += [vfio(f"huge {name}", f"{api}:huge", length, 1) for name, length in PREFAULTED.items() if length >= 2 * MIB]
    cases += [vfio(name, f"{api}:switch", MIB, 1) for name in ("switch", "switch again")]
    return Mode(api, "modern", tuple(cases), f"vfiobench {IOVA:#x} {{{device}}}", to, "DMA")


def _lazy():
    """A flush queue, in a new domain and when it has been in use."""
    yield Mode("DMA-FQ first", "modern", FIRST, type="DMA-FQ", fresh=True)
    yield Mode("DMA-FQ", "modern", LAZY, type="DMA-FQ")
    yield Mode("nvme DMA-FQ", "modern", NVME, type="DMA-FQ", to="nvme")


def _modes(driver, name, kind, mask=64, with_vfio=False, above=0):
    """What is measured with each kind of DMA, and with VFIO."""
    # First, while memory is not in pieces yet.
    if with_vfio:
        yield vfio_mode("vfio", driver, _vfio(driver), "{nvme}")
    yield Mode(name, driver, DMA, type=kind, mask=mask, above=above)
    if name != "direct":
        yield Mode(f"dma_map_benchmark {name}", driver, (Case("64 KiB", f"dmabench {mask}", 1),), type=kind,
                   to="dma_map_benchmark")
    yield Mode(f"nvme {name}", driver, NVME, type=kind, to="nvme")


BOOTS = (
    Boot("pseries", "pseries", (
        *_modes("legacy", "direct", "", with_vfio=True),
        *_modes("modern", "DMA", "DMA", with_vfio=True, above=HIGH),
        *_lazy(),
        *_modes("modern", "direct", "identity"))),
    Boot("pseries-noddw", "pseries", (
        *_modes("legacy", "TCE", "", mask=32),
        *_modes("modern", "DMA", "DMA", mask=32)), ",ddw=off"),
    Boot("powernv10", "powernv10", (
        *_modes("legacy", "TCE", "", mask=32, with_vfio=True),
        *_modes("modern", "DMA", "DMA", with_vfio=True),
        *_lazy(),
        *_modes("modern", "direct", "identity")), append={"legacy": "iommu=nobypass"}),
    # Firmware of QEMU's powernv10 does not tell of huge pages.
    *(Boot(f"{machine}-process", machine, (_process("iommufd", "vfio-pci", "nvme", machine == "pseries"),
                                           _process("sva", "rust_sva_copy", "edu", machine == "pseries")), devices=("null", "edu"))
      for machine in ("pseries", "powernv10")),
    # What PEs pay for process windows that nobody uses.
    *(Boot(f"{machine}-forbidden", machine, (Mode("forbidden", "modern", (maps("single 65536", 100),), type="DMA", above=above),),
           append={"modern": "tce_iommu.process_windows=0"})
      for machine, above in (("pseries", HIGH), ("powernv10", 0))),
    *(Boot(f"{machine}-threads", machine, (Mode("threads", "legacy", THREADS, mask=32),
                                           Mode("threads", "modern", THREADS, type="DMA", mask=32)), bridge, cpus=CPUS[-1], append={"legacy": "iommu=nobypass"})
      for machine, bridge in (("pseries", ",ddw=off"), ("powernv10", ""))),
    Boot("powernv10-bypass", "powernv10", (*_modes("legacy", "direct", ""),)),
)


def names(boots=BOOTS):
    """driver/boot/mode/case of everything that is measured."""
    return [f"{mode.driver}/{boot.name}/{mode.name}/{case.name}"
            for boot in boots for mode in boot.modes for case in mode.cases]
