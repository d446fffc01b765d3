# SPDX-License-Identifier: GPL-2.0
"""The terminal of `make shell`: what the guest says, without what its firmware
says in between. The log has both."""

import os
import re
import subprocess
import sys

# How a line of skiboot begins, and how it may go on until it is one.
FIRMWARE = re.compile(rb"\[ *\d+\.\d+,\d\] ")
_PERHAPS = re.compile(rb"\[[ \d.,\]]{0,24}")


class Sieve:
    """Drops the firmware's lines from a stream; the bytes of others go on at once."""

    def __init__(self):
        self._begin = b""       # of a line, while it may be the firmware's
        self._keep = None       # then whether the rest of the line goes on

    def __call__(self, chunk):
        """What of a chunk is to be seen."""
        seen = bytearray()
        for byte in (chunk[i:i + 1] for i in range(len(chunk))):
            if self._keep is None:
                self._begin += byte
                if FIRMWARE.match(self._begin):
                    self._keep = False
                elif not _PERHAPS.fullmatch(self._begin):
                    self._keep = True
                    seen += self._begin
            elif self._keep:
                seen += byte
            if byte == b"\n":
                self._begin, self._keep = b"", None
        return bytes(seen)


def run(command, log):
    """Runs QEMU with its console on the terminal until it ends. Ctrl-A X ends it."""
    console = ("-chardev", f"stdio,id=console,mux=on,signal=off,logfile={log}",
               "-serial", "chardev:console", "-monitor", "chardev:console")
    sieve = Sieve()
    # QEMU's own warnings matter only when it does not start.
    with open(log.with_name("qemu.stderr"), "w+", encoding="utf-8") as errors, \
            subprocess.Popen([*command, *console], stdout=subprocess.PIPE, stderr=errors) as process:
        while chunk := os.read(process.stdout.fileno(), 65536):
            sys.stdout.buffer.write(sieve(chunk))
            sys.stdout.buffer.flush()
        if process.wait():
            errors.seek(0)
            sys.stderr.write(errors.read())
    return process.returncode
