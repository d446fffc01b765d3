# SPDX-License-Identifier: GPL-2.0
"""How cost grows with work: the charts of the documentation."""

from .. import debian
from . import rows, svg
from .cases import INTERFACES, PAGE, Boot, Mode, maps, vfio, vfio_mode

_PAGES = {1: 50, 16: 50, 256: 10, 4096: 4, 65536: 1}     # how often
_MAX_LEGACY = 4096      # what its window of 1 GiB has room for, and the next number has not
_PES = {"pseries": (1, 2, 8), "powernv10": (1, 2, 5)}
_PER_PE = 1024 * PAGE
_NOBYPASS = {"legacy": "iommu=nobypass"}


def _sg(most=65536):
    return tuple(maps(f"sg {pages}", count, min(count, 16)) for pages, count in _PAGES.items() if pages <= most)


def _vfio(driver):
    cases = (vfio(f"{api} {pages}", f"{api}:map", pages * PAGE, pages) for api in INTERFACES[driver] for pages in _PAGES)
    return vfio_mode("vfio", driver, cases, "{nvme}")


def _pes(driver, machine):
    cases = (vfio(f"{api} {number}", f"{api}:map", _PER_PE, _PER_PE // PAGE, f":{number}")
             for api in INTERFACES[driver] for number in _PES[machine])
    return vfio_mode("pes", driver, cases, "$(pci 1b36:0005 | tr '\\n' ,)")


def _boots():
    sg = {"legacy": Mode("sg", "legacy", _sg(_MAX_LEGACY), mask=32), "modern": Mode("sg", "modern", _sg(), type="DMA")}
    yield Boot("noddw", "pseries", (sg["legacy"],), ",ddw=off")
    for machine, append in ("pseries", {}), ("powernv10", _NOBYPASS):
        own = [sg["modern"], *([sg["legacy"]] if append else [])]
        yield Boot(machine, machine, (*map(_vfio, sg), *own), append=append)
        # On pseries the interface of legacy does not map for two PEs in one container.
        yield Boot(f"{machine}-pes", machine, tuple(_pes(driver, machine) for driver in sg if append or driver == "modern"),
                   devices=("testdev",) * _PES[machine][-1])


BOOTS = tuple(_boots())
_WHERE = {"noddw": "pseries"}


def _series(results, name, prefix, what):
    """{series: {x: figure}} of the measurements of one mode."""
    found = {}
    for key, measure in results.items():
        driver, boot, mode, case = key.split("/")
        place = boot.split("-")[0]
        if mode != name or not place.startswith(prefix):
            continue
        kind, number = case.split()
        value = rows.figure(what, measure) / (int(number) if name == "sg" else 1)
        label = f"{driver}, {kind}" if prefix else f"{driver}, {_WHERE.get(place, place)}"
        if value:
            found.setdefault(label, {})[int(number)] = value
    return dict(sorted(found.items()))


def charts(results):
    """(name, SVG) of each chart for which there are measurements."""
    pages, pes, cost = "pages of 64 KiB in one call", "PEs in the container or IOAS", "instructions per page"
    found = {"sg": ("dma_map_sg() and dma_unmap_sg()", pages, cost, _series(results, "sg", "", "all")),
             "threads": ("dma_map_single() and dma_unmap_single() of 64 KiB", "CPUs that do so at the same time",
                         "instructions per map and unmap, waiting included", _series(results, "threads", "", "all"))}
    for machine in _PES:
        found[f"vfio-{machine}"] = (f"VFIO on {machine}: map and unmap", pages, cost,
                                    _series(results, "vfio", machine, "all"))
        found[f"pes-{machine}"] = (f"VFIO on {machine}: 1024 pages", pes, cost, _series(results, "pes", machine, "all"))
        found[f"pes-calls-{machine}"] = (f"VFIO on {machine}: 1024 pages", pes, "hypercalls or kills per page",
                                         _series(results, "pes", machine, "calls"))
    return [(name, svg.chart(*chart)) for name, chart in found.items() if chart[-1]]


def pictures(env, charts_of):
    """The charts of a directory as PNG, for a mail or a page that shows no SVG; returns where."""
    tree = debian.tools(env, "png-tools", "a converter of SVG", ("librsvg2-bin", "fonts-dejavu-core"))
    target = env.base / "charts"
    target.mkdir(exist_ok=True)
    for chart in sorted(charts_of.glob("*.svg")):
        debian.run_tool(tree, "rsvg-convert", "--zoom", "2", "--output", target / f"{chart.stem}.png", chart)
    return target
