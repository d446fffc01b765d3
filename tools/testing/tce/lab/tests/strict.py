# SPDX-License-Identifier: GPL-2.0
"""What all other tests rely on: a command of the guest that fails is seen."""

from ..scenario import Scenario
from ..steps import expect

_FAIL = ("false; true", "load no_such_module; true", "unbind 0000:00:00.9; bind 0000:00:00.9 nvme; true", "(false); true",
         "true | false; true", "x=$(false); true", "false\ntrue")
_PASS = ("false || true; true", "! false; true", "for n in 1 2; do [ $n = 3 ] && break; done; true", "[ -e /nowhere ] && false; true",
         "if false; then true; fi; true", "unbind $(pci 1234:11e8); unbind $(pci 1234:11e8); true")


def failures_end_requests(bench):
    """The first command that fails ends a request, and is not hidden by those that follow."""
    for command in _FAIL:
        status, _ = bench.guest.try_run(command)
        expect(status, f"`{command}` hides a failure")
    for command in _PASS:
        bench.guest.run(command)
    return f"{len(_FAIL)} and {len(_PASS)} requests"


SCENARIOS = [Scenario("strict", "modern-64k", "pseries", ("edu",), (failures_end_requests,))]
