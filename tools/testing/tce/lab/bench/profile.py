# SPDX-License-Identifier: GPL-2.0
"""Where the instructions of a measurement go."""

import subprocess

from ..say import line
from .counts import is_own


def _readable(names):
    done = subprocess.run(["llvm-cxxfilt"], input="\n".join(names), capture_output=True, text=True, check=True)
    return dict(zip(names, done.stdout.splitlines()))


def show(measure):
    """Two columns, one for each part."""
    first, second, units = measure.first, measure.second, measure.units

    def row(one, two, text, form="10.1f"):
        line(f"{one / units:{form}} {two / units:{form}}  {text}")

    line("first part: map, open, or all; second part: unmap or close; * is our own share")
    row(first.all, second.all, "all")
    row(first.own, second.own, "of it our own")
    for call in sorted(first.hcalls | second.hcalls):
        row(first.hcalls[call], second.hcalls[call], call, "10.3f")
    if first.kills or second.kills:
        row(first.kills, second.kills, "kills", "10.3f")
    both = first.symbols + second.symbols
    readable = _readable(list(both))
    for symbol, _ in both.most_common():
        row(first.symbols[symbol], second.symbols[symbol], f"{'*' if is_own(symbol) else ' '} {readable[symbol]}")
