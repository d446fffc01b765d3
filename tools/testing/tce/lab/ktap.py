# SPDX-License-Identifier: GPL-2.0
"""Reports: KTAP for machines, a table for people."""

import threading

from .say import become_diagnostics, line


class Ktap:
    """Prints results as they come and counts them."""

    def __init__(self):
        self._lock = threading.Lock()
        self.counts = {"ok": 0, "not ok": 0, "skip": 0}
        line("KTAP version 1")
        become_diagnostics()

    def __call__(self, result):
        with self._lock:
            self.counts[result.status] += 1
            number = sum(self.counts.values())
            word = "not ok" if result.status == "not ok" else "ok"
            note = " # SKIP " if result.status == "skip" else " # " if result.detail else ""
            detail = result.detail.replace("\n", "; ")
            line(f"{word} {number} {result.name}{note}{detail}")

    def finish(self):
        """The plan and the summary; returns the exit status."""
        good, bad, skipped = self.counts["ok"], self.counts["not ok"], self.counts["skip"]
        line(f"1..{good + bad + skipped}")
        line(f"{good} passed, {bad} failed, {skipped} skipped")
        return 1 if bad or not good else 0


class Table:
    """One row per title, one column per machine."""

    def __init__(self, columns):
        self._lock = threading.Lock()
        self.columns, self.rows, self.failed = columns, {}, 0

    def __call__(self, result):
        with self._lock:
            self.rows.setdefault(result.title, {})[result.where] = result
            self.failed += result.status == "not ok"

    def _cell(self, result):
        if result is None:
            return "-"
        mark = {"ok": "", "not ok": "FAILED: ", "skip": "- "}[result.status]
        return mark + (result.detail or "ok")

    def show(self):
        """Prints the table; returns the exit status."""
        cells = [["", *self.columns]] + [[title, *(self._cell(row.get(name)) for name in self.columns)]
                                         for title, row in self.rows.items()]
        widths = [max(min(len(part), 60) for row in cells for part in row[i].split("\n"))
                  for i in range(len(cells[0]))]
        for number, row in enumerate(cells):
            if number == 1:
                line("-+-".join("-" * width for width in widths))
            parts = [[piece for text in cell.split("\n") for piece in _wrap(text, 60)] for cell in row]
            for i in range(max(map(len, parts))):
                line(" | ".join((part[i] if i < len(part) else "").ljust(width)
                                for part, width in zip(parts, widths)).rstrip())
        return 1 if self.failed else 0


def _wrap(text, width):
    lines, current = [], ""
    for word in text.split(" "):
        if current and len(current) + 1 + len(word) > width:
            lines.append(current)
            current = word
        else:
            current = f"{current} {word}" if current else word
    return [*lines, current]
