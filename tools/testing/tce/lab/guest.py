# SPDX-License-Identifier: GPL-2.0
"""One running guest: its QEMU, its console, its kernel log.

Every wait has a limit. Only the QEMU that an object started is ever killed.
"""

import json
import os
import queue
import re
import signal
import socket
import subprocess
import threading
import time

# What a healthy kernel never says.
TROUBLE = re.compile(
    r"WARNING: |BUG: |kernel BUG|Oops|Unable to handle|Kernel panic|INFO: task .* blocked|possible circular locking"
    r"|INFO: possible|inconsistent lock state|suspicious RCU|sleeping function called|scheduling while atomic"
    r"|unreferenced object|kmemleak: \d+ new suspected|DMA-API: |KFENCE|UBSAN|rust_kernel: panicked|rcu: INFO"
    r"|iommu-debug|refcount_t|list_(add|del) corruption|soft lockup|hard LOCKUP")
# Said by a healthy kernel with the debug options on.
_HARMLESS = re.compile(r"DMA-API: (preallocated|debugging enabled)|BUG: .*option|lockdep debugging disabled at boot"
                       r"|kmemleak: (Kernel memory leak detector|Automatic)|kfence: initialized|WARNING: nvram corruption")
# What skiboot says on the console of powernv.
_FIRMWARE = re.compile(r"\[ *\d+\.\d+,\d\] ")

# In which a kernel panics that is told to say where it is.
_NMI_SECONDS = 10


class GuestError(Exception):
    """The guest did not do what it was told."""


def _crowd():
    """How many want each CPU: a guest gets its share of this machine, and has that much more time."""
    return max(1, os.getloadavg()[0] / (os.cpu_count() or 1))


def patience(seconds):
    """Turns of a loop for so many seconds, or more if this machine is busy."""
    while seconds > 0:
        begin = time.monotonic()
        yield
        # At most two: when this machine itself stands still, so does the guest.
        seconds -= min(2, time.monotonic() - begin) / _crowd()


def trouble_in(log):
    """The lines of a kernel log that tell of a kernel bug."""
    return [text for text in log.splitlines() if TROUBLE.search(text) and not _HARMLESS.search(text)]


def qmp(reader, writer, execute, **arguments):
    """One command to a QEMU, by the machine protocol."""
    print(json.dumps({"execute": execute, "arguments": arguments}), file=writer, flush=True)
    for answer in map(json.loads, reader):
        if "return" in answer:
            return answer["return"]
        if "error" in answer:
            raise GuestError(f"QMP {execute}: {answer['error']['desc']}")
    raise GuestError(f"QMP {execute}: QEMU ended")


def greet(reader, writer):
    """What comes before the first command."""
    reader.readline()
    qmp(reader, writer, "qmp_capabilities")


def command_line(machine, append):
    """QEMU arguments for the command line of the guest's kernel."""
    return ["-append", " ".join(f"console={machine.arch.console} {machine.append} {append}".split())]


class Guest:
    """A booted guest; use as a context manager. Its kernel has a command line, or the device tree has it."""

    def __init__(self, directory, machine, arguments, append=""):
        directory.mkdir(parents=True, exist_ok=True)
        self.directory, self.machine = directory, machine
        self.kernel_log = ""
        self._console = open(directory / "console.log", "w", encoding="utf-8")
        self._lines = queue.Queue()
        self._number, self._asked = 0, "boot"
        # QEMU's own log holds guest errors and traced events.
        self.qemu_log = directory / "qemu.log"
        self.qemu_log.write_text("")
        (directory / "qmp").unlink(missing_ok=True)
        command = [machine.arch.qemu, *arguments, *(command_line(machine, append) if "-dtb" not in arguments else []),
                   "-serial", "stdio", "-monitor", "none", "-qmp", "unix:qmp,server=on,wait=off",
                   "-d", "guest_errors", "-D", str(self.qemu_log)]
        (directory / "command").write_text(" ".join(command) + "\n")
        self._command = command
        self._process = None
        self._qmp = None

    def __enter__(self):
        with open(self.directory / "qemu.stderr", "wb") as errors:
            self._process = subprocess.Popen(self._command, cwd=self.directory, stdin=subprocess.PIPE,
                                             stdout=subprocess.PIPE, stderr=errors)
        threading.Thread(target=self._read, daemon=True).start()
        try:
            self._wait_for("@@ready", 90)
            self.check_log()
        except BaseException:
            self.kill()
            raise
        return self

    def __exit__(self, kind, *_):
        if kind is None and self.alive:
            try:
                self._send("poweroff -f")
                self._process.wait(20)
            except (subprocess.TimeoutExpired, GuestError):
                pass
        self.kill()

    def kill(self):
        """Ends our own QEMU, and nothing else."""
        if self._process and self._process.poll() is None:
            self._process.send_signal(signal.SIGKILL)
        if self._process:
            self._process.wait()
        if self._qmp:
            self._qmp.close()
            self._qmp = None

    @property
    def alive(self):
        return self._process is not None and self._process.poll() is None

    def _read(self):
        pending = b""
        while chunk := os.read(self._process.stdout.fileno(), 65536):
            *lines, pending = (pending + chunk).replace(b"\r", b"").split(b"\n")
            for raw in lines:
                text = raw.decode(errors="replace")
                self._console.write(text + "\n")
                self._console.flush()
                self._lines.put(text)
        self._lines.put(None)

    def _send(self, command):
        self._number += 1
        self._asked = command
        try:
            self._process.stdin.write(f"{self._number} {command}\n".encode())
            self._process.stdin.flush()
        except OSError:
            raise GuestError("the guest is gone") from None
        return self._number

    def _wait_for(self, marker, seconds):
        """Console lines up to the one where the pattern matches, and the match."""
        lines = []
        for _ in patience(seconds):
            try:
                text = self._lines.get(timeout=1)
            except queue.Empty:
                continue
            if text is None:
                error = (self.directory / "qemu.stderr").read_text(errors="replace").strip()
                raise GuestError(f"QEMU ended: {error or self._last(lines)}")
            if found := re.search(marker, text):
                return lines, found
            lines.append(text)
        self._say_where()
        self.kill()     # a guest that does not answer answers no more
        raise GuestError(f"`{self._asked}`: no answer within {seconds} s: {self._last(lines)}")

    def _say_where(self):
        """Has the kernel say on the console where each CPU is, as far as it can."""
        try:
            self.qmp("inject-nmi")
            self._process.wait(_NMI_SECONDS)
        except (GuestError, OSError, subprocess.TimeoutExpired):
            pass

    @staticmethod
    def _last(lines):
        shown = [text for text in lines if TROUBLE.search(text)] or [text for text in lines if text.strip()][-3:]
        return " | ".join(shown[:6]) or "silence"

    def try_run(self, command, seconds=60):
        """(exit status, output) of a shell command in the guest."""
        command = "; ".join(part.strip() for part in command.strip().splitlines())
        if not self.alive:
            raise GuestError("the guest is gone")
        number = self._send(command)
        self._wait_for(rf"@@begin {number}$", seconds)
        lines, end = self._wait_for(rf"@@end {number} (\d+)$", seconds)
        lines = [text for text in lines if not text.startswith("@@") and not _FIRMWARE.match(text)]
        return int(end[1]), "\n".join(lines).strip()

    def run(self, command, seconds=60):
        """Output of a shell command that must succeed."""
        status, output = self.try_run(command, seconds)
        if status:
            raise GuestError(f"`{command.strip()}` gave {status}: {output[-400:]}")
        return output

    def next_kernel(self, command, seconds=180):
        """Runs a command that ends this kernel and starts another; returns what the first said from
        then on, and when the other began to talk."""
        # The log goes with its kernel, so it is read on the console.
        self._send(f"dmesg -n 7; {command}")
        lines, _ = self._wait_for("Linux version", seconds)
        began = time.monotonic()
        self._wait_for("@@ready", seconds)
        self.check_log()
        return "\n".join(lines), began

    # -- kernel log ------------------------------------------------------

    def read_log(self):
        """What the kernel said since the last call."""
        _, fresh = self.try_run("dmesg -c", 60)
        self.kernel_log += fresh + "\n"
        with open(self.directory / "dmesg.log", "a", encoding="utf-8") as log:
            log.write(fresh + "\n")
        return fresh

    def check_log(self):
        """Fails on any sign of a kernel bug; returns the new messages."""
        fresh = self.read_log()
        if found := trouble_in(fresh):
            raise GuestError("kernel log: " + " | ".join(found[:4]))
        return fresh

    # -- QEMU ------------------------------------------------------------

    def qmp(self, execute, **arguments):
        """One command to QEMU itself."""
        if not self._qmp:
            raw = socket.socket(socket.AF_UNIX)
            raw.settimeout(300)
            # Socket paths are limited to 108 bytes; one through /proc is short.
            folder = os.open(self.directory, os.O_RDONLY)
            raw.connect(f"/proc/self/fd/{folder}/qmp")
            os.close(folder)
            self._qmp = raw.makefile("rw", encoding="utf-8")
            greet(self._qmp, self._qmp)
        return qmp(self._qmp, self._qmp, execute, **arguments)

    def trace(self, event, on):
        """Switches a QEMU trace event; traced lines go to qemu_log."""
        self.qmp("trace-event-set-state", name=event, enable=on)

    # -- short forms -----------------------------------------------------

    def pci(self, ident):
        """The address of the first device with a vendor:device ID."""
        found = self.run(f"pci {ident}").split()
        if not found:
            raise GuestError(f"no device {ident} on {self.machine.name}")
        return found[0]
