# SPDX-License-Identifier: GPL-2.0
"""Boots in which one CPU's work is counted."""

import dataclasses
import re

from ..guest import GuestError
from ..scenario import Scenario
from . import cases, counts

# Who has which device.
_MODULES = {"legacy": ("tce_bench", "nvme", "vfio_pci", "vfio_iommu_spapr_tce"),
            "modern": ("tce_iommu", "tce_bench", "nvme", "vfio_pci", "vfio_iommu_type1", "iommufd")}
_DEVICES = {"tce_bench": "testdev", "dma_map_benchmark": "testdev", "nvme": "nvme", "vfio-pci": "nvme"}


@dataclasses.dataclass
class Measure:
    """What `units` operations or pages took, and the numbers that the command printed."""

    first: counts.Part
    second: counts.Part
    units: int
    printed: tuple


class Meter:
    """Reads what the plugin wrote since it was last asked."""

    def __init__(self, bench):
        self._bench = bench
        self._path = bench.directory / "counts"
        self._place = 0
        run = bench.guest.run
        # The stubs through which a module calls others have no symbols.
        stubs = run("for module in /sys/module/*; do [ -e $module/sections/.stubs ] && "
                    "echo $(cut -c3- $module/sections/.stubs) t stubs \"[${module##*/}]\"; done; true")
        self._symbols = counts.Symbols((bench.objects / "System.map").read_text(encoding="utf-8"),
                                       stubs + "\n" + run("grep '\\]$' /proc/kallsyms", 300))
        tokens = run("for file in /proc/device-tree/rtas/ibm,*; do "
                     "[ -s $file ] && echo ${file##*/} $(od -An -v -tx1 $file | tr -d ' \\n'); done; true")
        self._rtas = {int(value, 16): name for name, value in map(str.split, tokens.splitlines()) if len(value) == 8}

    def measure(self, case, command):
        """Runs the command of a case."""
        printed = self._bench.guest.run(command, 300)
        with open(self._path, encoding="utf-8") as file:
            file.seek(self._place)
            text = file.read()
            self._place = file.tell()
        found = counts.parse(text, self._symbols, self._rtas)
        if len(found) != 1:
            raise GuestError(f"{case.name}: {len(found)} measurements instead of one")
        return Measure(*found[0], case.units, tuple(map(int, re.findall(r"\d+", printed))))


def _load(driver):
    def load(bench):
        """Modules, and their symbols."""
        for name in _MODULES[driver]:
            bench.guest.run(f"load {name}")
        bench.memory["meter"] = Meter(bench)
    return load


def _enter(bench, mode):
    """Brings the device into the state of the mode."""
    guest = bench.guest
    if mode.to == "every testdev":
        guest.run("for device in $(pci 1b36:0005); do bind $device vfio-pci || exit 1; done")
        return
    bdf = bench.bdf(_DEVICES[mode.to])
    guest.run(f"unbind {bdf}")
    if mode.type and guest.run(f"type_of {bdf}") != mode.type:
        guest.run(f"echo {mode.type} >/sys/kernel/iommu_groups/$(group_of {bdf})/type")
    guest.run(f"bind {bdf} {mode.to}")
    if mode.to == "tce_bench":
        guest.run(f"echo 'mask {mode.mask}' >/sys/kernel/debug/tce_bench")


def _command(bench, case):
    return case.command.format(nvme=bench.bdf("nvme")) if "{nvme}" in case.command else case.command


def _check_address(bench, mode):
    address = int(bench.guest.run("cat /sys/kernel/debug/tce_bench"), 16)
    if address < mode.above:
        raise GuestError(f"mapped at {address:#x}, which is not where {mode.name} maps")


def _step(mode, wanted, results):
    def measure(bench):
        """Measurements."""
        _enter(bench, mode)
        chosen = [case for case in mode.cases if wanted(f"{mode.name}/{case.name}")]
        for case in chosen:
            results[f"{mode.name}/{case.name}"] = bench.memory["meter"].measure(case, _command(bench, case))
            if mode.to == "tce_bench":
                _check_address(bench, mode)
        return f"{len(chosen)} measurements"
    measure.__name__ = mode.name
    return measure


def scenario(place, driver, results, wanted, more=()):
    """The boot of one driver on one machine, and more steps. Results go to {mode/case: Measure}."""
    modes = [mode for mode in place.modes if mode.driver == driver and
             any(wanted(f"{mode.name}/{case.name}") for case in mode.cases)]
    return Scenario(f"bench-{place.name}", cases.FLAVOURS[driver], place.machine, place.devices,
                    (_load(driver), *(_step(mode, wanted, results) for mode in modes), *more),
                    host_bridge=place.host_bridge, append=place.append.get(driver, ""), measured=place.cpus)
