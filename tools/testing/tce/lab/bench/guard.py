# SPDX-License-Identifier: GPL-2.0
"""The short form of the benchmark in make check: no count may grow."""

import pathlib

from ..guest import GuestError
from . import boot, cases, rows

_MAY_GROW = 1.02
_FEW_CALLS = 0.001      # of 8192 pages, where a page more or less follows another
_FILE = pathlib.Path(__file__).parents[2] / "bench/expected"
_HEAD = """# SPDX-License-Identifier: GPL-2.0
# Written by make bench-update: instructions, and hypercalls or kills, of one operation.
"""
_WATCHED = ("DMA/single 65536", "DMA/single 4194304", "DMA/sg 64", "DMA-FQ/single 65536", "vfio/iommufd scatter", "vfio/type1 scatter")


def watched(name):
    """Whether mode/case is one that make check measures."""
    return name in _WATCHED


def _figures(measure):
    return f"{rows.figure('all', measure):.1f} {rows.figure('calls', measure):.4f}"


def write(results):
    """Makes what was measured the expectation; {driver/boot/mode/case: Measure}."""
    text = "".join(f"{name.removeprefix('modern/')}: {_figures(measure)}\n" for name, measure in sorted(results.items()))
    _FILE.write_text(_HEAD + text, encoding="utf-8")
    return _FILE


def _expected():
    lines = [line.split(": ") for line in _FILE.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    return {name: tuple(map(float, values.split())) for name, values in lines}


def _compare(place, results):
    def compare(_):
        """Counts beside those of bench/expected."""
        expected = {name: values for name, values in _expected().items() if name.split("/")[0] == place.name}
        grown = []
        for name, before in expected.items():
            measure = results.get(name.split("/", 1)[1])
            now = tuple(map(float, _figures(measure).split())) if measure else None
            if now is None:
                grown.append(f"{name} was not measured")
            elif now[0] > _MAY_GROW * before[0] or now[1] > _MAY_GROW * before[1] + _FEW_CALLS:
                grown.append(f"{name} took {before[0]:.0f} instructions and {before[1]:g} calls, "
                             f"now {now[0]:.0f} and {now[1]:g}")
        if grown or not expected:
            raise GuestError("; ".join(grown) or f"bench/expected says nothing of {place.name}")
        return f"{len(expected)} counts have not grown"
    return compare


def scenarios():
    """A boot on each machine."""
    for place in cases.BOOTS:
        results = {}
        if "modern" in place.drivers and any(watched(name.split("/", 2)[2]) for name in cases.names([place])):
            yield boot.scenario(place, "modern", results, watched, (_compare(place, results),))
