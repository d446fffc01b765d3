# SPDX-License-Identifier: GPL-2.0
"""The table of make bench: its rows and goals are in bench/goals.toml."""

import dataclasses
import tomllib


@dataclasses.dataclass(frozen=True)
class Row:
    """A row: which measurements, what of them, and the goals.

    A goal is a number, or a factor of legacy's figure, as in "0.6 legacy".
    """

    work: str
    what: str
    modern: str = ""
    legacy: str = ""
    beside: str = ""    # in place of legacy, another measurement of modern
    must: object = None
    aim: object = None

    @property
    def first(self):
        """What the modern driver is compared with."""
        return f"modern/{self.beside}" if self.beside else f"legacy/{self.legacy}"

    def measurements(self):
        return self.first, f"modern/{self.modern}"


def read(env, only=""):
    """The rows, or those with a word."""
    with open(env.tce / "bench/goals.toml", "rb") as file:
        return [row for row in (Row(**row) for row in tomllib.load(file)["row"]) if only in row.work]


def figure(what, measure):
    """A figure of a measurement, for one operation or page."""
    if measure is None:
        return None
    first, second, both = measure.first, measure.second, measure.first + measure.second
    named = {
        "all": both.all, "own": both.own, "map": first.all, "unmap": second.all,
        "map calls": first.tce_calls, "unmap calls": second.tce_calls, "calls": both.tce_calls,
        "locks": both.locks, "waits per thousand": 1000 * both.waits, "window calls": both.window_calls,
        "100 ns": 100 * sum(measure.printed),
        **dict(zip(("mapped KiB", "left KiB"), measure.printed)),
    }
    return (named[what] if what in named else both.hcalls[what]) / measure.units


def _limit(goal, legacy):
    if isinstance(goal, str):
        return None if legacy is None else float(goal.split()[0]) * legacy
    return goal


def verdict(row, legacy, modern):
    """What to say of a row."""
    must, aim = _limit(row.must, legacy), _limit(row.aim, legacy)
    if row.must is None and row.aim is None:
        return "-"
    if modern is None or (must is None and aim is None):
        return "not measured"
    if aim is not None and modern <= aim:
        return "aim"
    return "must" if must is None or modern <= must else "MISSED"


def _number(value):
    return "-" if value is None else f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _goal(row, legacy):
    def text(goal):
        limit = _limit(goal, legacy)
        return str(goal) if limit is None else _number(limit)
    return " / ".join(text(goal) for goal in (row.must, row.aim) if goal is not None)


def table(chosen, results):
    """Rows as text, and how many goals are missed."""
    lines = [("work", "legacy", "modern", "ratio", "must / aim", "verdict")]
    for row in chosen:
        legacy, modern = (figure(row.what, results.get(name)) for name in row.measurements())
        ratio = f"{modern / legacy:.2f}" if legacy and modern is not None else "-"
        lines.append((row.work, _number(legacy), _number(modern), ratio, _goal(row, legacy), verdict(row, legacy, modern)))
    return lines, sum(one[-1] in ("MISSED", "not measured") for one in lines)


def layout(lines, gap, rule):
    """Lines of text with the columns below each other."""
    widths = [max(len(one[i]) for one in lines) for i in range(len(lines[0]))]
    for number, one in enumerate(lines):
        if number == 1:
            yield rule.join("=" * width for width in widths)
        yield gap.join(cell.ljust(width) if i in (0, 5) else cell.rjust(width)
                       for i, (cell, width) in enumerate(zip(one, widths))).rstrip()
