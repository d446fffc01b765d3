# SPDX-License-Identifier: GPL-2.0
"""Second tries: a scenario that this machine was too busy for comes once more, when nothing else runs.

What the kernel complained of is a failure however rarely it does, and what takes hours does not come twice.
"""

from .guest import TROUBLE
from .say import remark


class Tries:
    """Runs scenarios by run(scenario, report), and reports their results."""

    def __init__(self, run, report):
        self._run, self._report, self._late = run, report, []

    def first(self, one):
        """The first try, whose results count unless another may."""
        results = []
        self._run(one, results.append)
        failed = [result for result in results if result.status == "not ok"]
        if failed and not one.only_all and not any(TROUBLE.search(result.detail) for result in failed):
            self._late.append((one, failed[0]))
            return
        for result in results:
            self._report(result)

    def second(self):
        """The second tries."""
        for one, failed in self._late:
            remark(f"{one.label} comes once more, for {failed.name} said: {failed.detail}".replace("\n", "; "))
            self._run(one, self._report)
