# SPDX-License-Identifier: GPL-2.0
"""An Intel IOMMU in QEMU that says its page walks are coherent (SMPWC).

They are: QEMU reads the guest's memory. QEMU 11.1 does not say so, and without
it Linux has no shared virtual addressing. The register is part of what QEMU
migrates; so a machine is saved before it runs, the bit set, and started again.
"""

import re
import struct
import subprocess
import time

from .guest import GuestError, greet, qmp

_ECAP = 0xfed90010      # the extended capability register
_SMPWC = 1 << 48
_SECONDS = 30


def _saved(qemu, line, directory):
    """Saves the machine as it is before it runs; returns its ECAP."""
    command = [qemu, *line, "-S", "-qmp", "stdio", "-serial", "none", "-global", "migration.store-global-state=off"]
    with subprocess.Popen(command, cwd=directory, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        pipes = process.stdout, process.stdin
        try:
            greet(*pipes)
            register = qmp(*pipes, "human-monitor-command", **{"command-line": f"xp /2wx {_ECAP:#x}"})
            qmp(*pipes, "migrate", uri="file:state")
            end = time.monotonic() + _SECONDS
            while qmp(*pipes, "query-migrate").get("status") != "completed" and time.monotonic() < end:
                time.sleep(0.05)
        finally:
            process.kill()
    low, high = re.findall(r"0x(\w{8})\b", register)
    return int(high + low, 16)


def coherent(qemu, line, directory):
    """Arguments in addition to those in `line`, for the same machine with SMPWC."""
    ecap = _saved(qemu, line, directory)
    state = directory / "state"
    content, old = state.read_bytes(), struct.pack("<Q", ecap)
    if content.count(old) != 1:
        raise GuestError("the register of the IOMMU is not found in the state of QEMU")
    state.write_bytes(content.replace(old, struct.pack("<Q", ecap | _SMPWC)))
    return ["-incoming", "file:state"]
