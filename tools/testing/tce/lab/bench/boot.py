# SPDX-License-Identifier: GPL-2.0
"""Boots in which the work of the CPUs is counted."""

import dataclasses
import itertools
import re

from ..guest import GuestError
from ..scenario import Scenario
from . import cases, counts

# Who has which device.
_MODULES = {"legacy": ("tce_bench", "nvme", "vfio_pci", "vfio_iommu_spapr_tce"),
            "modern": ("tce_iommu", "tce_bench", "nvme", "vfio_pci", "vfio_iommu_type1", "iommufd", "rust_sva_copy")}
_DEVICES = {"tce_bench": "testdev", "dma_map_benchmark": "testdev", "nvme": "null", "vfio-pci": "null",
            "rust_sva_copy": "edu"}


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

    def measure(self, cases, command):
        """Runs the command of some cases; a Measure for each."""
        printed = self._bench.guest.run(command, 300).splitlines()
        with open(self._path, encoding="utf-8") as file:
            file.seek(self._place)
            text = file.read()
            self._place = file.tell()
        found = counts.parse(text, self._symbols, self._rtas)
        if len(cases) == 1 and found:
            found = [min(found, key=lambda parts: parts[0].all + parts[1].all)]
        if len(found) != len(cases):
            raise GuestError(f"{command}: {len(found)} measurements instead of {len(cases)}")
        numbers = [tuple(map(int, re.findall(r"\d+", line))) for line in printed]
        return [Measure(*parts, case.units, said)
                for case, parts, said in itertools.zip_longest(cases, found, numbers, fillvalue=())]


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
    if mode.fresh:
        guest.run(f"echo identity >/sys/kernel/iommu_groups/$(group_of {bdf})/type")
    if mode.type and guest.run(f"type_of {bdf}") != mode.type:
        guest.run(f"echo {mode.type} >/sys/kernel/iommu_groups/$(group_of {bdf})/type")
    guest.run(f"bind {bdf} {mode.to}")
    if mode.to == "tce_bench":
        guest.run(f"echo 'mask {mode.mask}' >/sys/kernel/debug/tce_bench")


def _commands(bench, mode, chosen):
    """(cases, command that measures them)."""
    def fill(text):
        return text.format(nvme=bench.bdf("null") if "{nvme}" in text else "", edu=bench.bdf("edu") if "{edu}" in text else "")
    if mode.command:
        return [(chosen, fill(" ".join([mode.command, *(case.command for case in chosen)])))]
    return [([case], fill(case.command)) for case in chosen]


def _check_address(bench, mode):
    address = int(bench.guest.run("cat /sys/kernel/debug/tce_bench"), 16)
    if address < mode.above:
        raise GuestError(f"mapped at {address:#x}, which is not where {mode.name} maps")


def _step(mode, wanted, results):
    def measure_all(bench):
        """Measurements."""
        _enter(bench, mode)
        chosen = [case for case in mode.cases if wanted(f"{mode.name}/{case.name}")]
        for group, command in _commands(bench, mode, chosen):
            for case, measure in zip(group, bench.memory["meter"].measure(group, command)):
                results[f"{mode.name}/{case.name}"] = measure
            if mode.to == "tce_bench":
                _check_address(bench, mode)
        return f"{len(chosen)} measurements"
    measure_all.__name__ = mode.name
    return measure_all


def scenario(place, driver, results, wanted, more=()):
    """The boot of one driver on one machine, and more steps. Results go to {mode/case: Measure}."""
    modes = [mode for mode in place.modes if mode.driver == driver and
             any(wanted(f"{mode.name}/{case.name}") for case in mode.cases)]
    return Scenario(f"bench-{place.name}", cases.FLAVOURS[driver], place.machine, place.devices,
                    (_load(driver), *(_step(mode, wanted, results) for mode in modes), *more),
                    host_bridge=place.host_bridge, append=place.append.get(driver, ""), measured=place.cpus)
