# SPDX-License-Identifier: GPL-2.0
"""Reports: KTAP for machines, a table for people."""

import textwrap
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


_COLUMNS = 80


class Table:
    """One entry per title, with a line for each machine below it."""

    def __init__(self, machines):
        self._lock = threading.Lock()
        self.machines, self.rows, self.failed = machines, {}, 0

    def __call__(self, result):
        with self._lock:
            self.rows.setdefault(result.title, {})[result.where] = result
            self.failed += result.status == "not ok"

    @staticmethod
    def _text(result):
        if result is None:
            return "-"
        mark = {"ok": "", "not ok": "FAILED: ", "skip": "- "}[result.status]
        return mark + (result.detail or "ok")

    def _entry(self, results):
        """What the machines say, once if they agree."""
        said = {name: self._text(results.get(name)) for name in self.machines}
        if len(set(said.values())) == 1:
            said = {"all": self._text(results.get(self.machines[0]))}
        width = max(map(len, ("all", *self.machines)))
        for name, text in said.items():
            pieces = [piece for part in text.split("\n") for piece in textwrap.wrap(part, _COLUMNS - width - 4) or [""]]
            for head, piece in zip((name, *[""] * len(pieces)), pieces):
                yield f"  {head:{width}}  {piece}"

    def show(self):
        """Prints the table; returns the exit status."""
        for title, results in self.rows.items():
            for text in (*textwrap.wrap(title, _COLUMNS), *self._entry(results)):
                line(text)
        return 1 if self.failed else 0
