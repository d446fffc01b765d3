# SPDX-License-Identifier: GPL-2.0
"""A device that works while no kernel looks after it: iommu-testdev, whose registers
the host writes through QEMU's test protocol."""

import os
import socket
import struct
import threading
import time

from .guest import GuestError

ARGUMENTS = ("-qtest", "unix:qtest,server=on,wait=off", "-qtest-log", "none")
_TRIGGER, _LOW, _HIGH, _LENGTH, _RESULT, _DOORBELL = range(0, 24, 4)
# It writes, and compares with another address, which is not set: that fails if the write did not.
WRITTEN, REFUSED = 0xdead0004, 0xdead0002


class Silent(GuestError):
    """The registers do not answer: a PHB that is reset takes their addresses away."""


class Device:
    """The registers of a testdev, at an address of the CPU's."""

    def __init__(self, directory, base):
        self._base = base
        raw = socket.socket(socket.AF_UNIX)
        raw.settimeout(300)
        folder = os.open(directory, os.O_RDONLY)
        raw.connect(f"/proc/self/fd/{folder}/qtest")
        os.close(folder)
        self._stream = raw.makefile("rw", encoding="ascii")

    def close(self):
        self._stream.close()

    def _ask(self, *words):
        print(*words, file=self._stream, flush=True)
        answer = self._stream.readline().split()
        if answer[:1] != ["OK"]:
            raise GuestError(f"QEMU's test protocol: {' '.join(answer) or 'QEMU ended'}")
        return answer[1:]

    def _write(self, register, value):
        self._ask("write", hex(self._base + register), "0x4", "0x" + struct.pack("<I", value).hex())

    def _read(self, register):
        return struct.unpack("<I", bytes.fromhex(self._ask("read", hex(self._base + register), "0x4")[0][2:]))[0]

    def write_to(self, iova):
        """Has the device write 4 bytes; whether they went through."""
        for register, value in ((_LOW, iova & 0xffffffff), (_HIGH, iova >> 32), (_LENGTH, 4), (_DOORBELL, 1)):
            self._write(register, value)
        self._read(_TRIGGER)
        result = self._read(_RESULT)
        if result not in (WRITTEN, REFUSED):
            raise Silent(f"testdev says {result:#x} of a write to {iova:#x}")
        return result == WRITTEN


def of(bench):
    """The testdev of a guest."""
    if "registers" not in bench.memory:
        base = bench.guest.run(f"head -n 1 /sys/bus/pci/devices/{bench.bdf('testdev')}/resource").split()[0]
        bench.memory["registers"] = Device(bench.directory, int(base, 16))
    return bench.memory["registers"]


class Writer:
    """Has a device write to bus addresses, one after the other, until it is left."""

    def __init__(self, device, iovas):
        self._device, self._iovas = device, iovas
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._problem = None
        self.writes, self.refused, self.silent = 0, 0, False
        self.last = {}      # when a write to an address last went through

    def _work(self):
        try:
            while not self._stop.is_set():
                for iova in self._iovas:
                    begin = time.monotonic()
                    if self._device.write_to(iova):
                        self.last[iova] = begin
                    else:
                        self.refused += 1
                    self.writes += 1
                time.sleep(0.005)
        except Silent:
            self.silent = True
        except (GuestError, OSError, ValueError) as problem:
            self._problem = problem

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, kind, *_):
        self._stop.set()
        self._thread.join()
        if self._problem and not kind:
            raise GuestError(f"testdev stopped: {self._problem}")
