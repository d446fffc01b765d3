# SPDX-License-Identifier: GPL-2.0
"""What the user sees while the lab works: one line for each thing done."""

import contextlib
import os
import subprocess
import sys
import threading
import time


class Fail(Exception):
    """Something the user can mend; its text is one line that says how."""


_lock = threading.Lock()
_quiet_log_lines = ("target feature", "target-feature")
_prefix = ""


def become_diagnostics():
    """From now on lines are comments between test results."""
    global _prefix
    _prefix = "# "


def line(text):
    """Prints one whole line, also when several boots talk at once."""
    with _lock:
        print(text, flush=True)


def remark(text):
    """A line about the work itself, not a result."""
    line(_prefix + text)


def elapsed(seconds):
    """Minutes and seconds."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


class Progress:
    """A long job: a running clock on a terminal, a line a minute elsewhere."""

    _running = []       # on a terminal they share the last line

    def __init__(self, title):
        self.title = title
        self.note = ""
        self.start = time.monotonic()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._show, daemon=True)

    def _show(self):
        tty = sys.stdout.isatty()
        while not self._stop.wait(1 if tty else 60):
            with _lock:
                if tty:
                    print("\r\033[K" + "  ".join(map(str, self._running)), end="", flush=True)
                else:
                    print(f"{_prefix}{self}", flush=True)

    def __str__(self):
        return f"[{elapsed(time.monotonic() - self.start):>5}] {self.title} ... {self.note}"

    def __enter__(self):
        with _lock:
            self._running.append(self)
        self._thread.start()
        return self

    def __exit__(self, kind, *_):
        with _lock:
            self._running.remove(self)
        self._stop.set()
        self._thread.join()
        clear = "\r\033[K" if sys.stdout.isatty() else ""
        state = f" {self.note}" if kind is None else " failed"
        line(f"{clear}{_prefix}[{elapsed(time.monotonic() - self.start):>5}] {self.title}{state}")


def filtered(lines):
    """Drops rustc's target-feature warnings, each with the lines that explain it,
    and its count of warnings."""
    skipping = False
    for text in lines:
        if text.startswith("warning:") and (any(word in text for word in _quiet_log_lines) or
                                            text.rstrip().endswith(("warning emitted", "warnings emitted"))):
            skipping = True
        if not skipping:
            yield text
        elif not text.strip():
            skipping = False


def run_logged(command, log, progress=None, step="", **options):
    """Runs a command with its output in a log, counting output lines that
    start with `step`. Returns True when it succeeded."""
    log.parent.mkdir(parents=True, exist_ok=True)
    count = 0
    with open(log, "w", encoding="utf-8") as out, subprocess.Popen(
            [str(word) for word in command], stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, errors="replace", **options) as process:
        with contextlib.closing(filtered(process.stdout)) as output:
            for text in output:
                out.write(text)
                if progress and text.startswith(step):
                    count += 1
                    progress.note = f"{count} steps"
    return process.returncode == 0


def log_tail(log, words=("error", "Error", "No space left", "***")):
    """The lines of a failed log worth showing."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    first = next((i for i, text in enumerate(lines) if any(word in text for word in words)), None)
    shown = lines[-12:] if first is None else lines[max(0, first - 2):first + 25]
    return "\n".join("    " + text for text in shown)


def need_space(path, megabytes):
    """Refuses to start what the disk cannot hold."""
    stat = os.statvfs(path)
    free = stat.f_bavail * stat.f_frsize >> 20
    if free < megabytes:
        raise Fail(f"{path} has {free} MB of free disk and this step needs {megabytes} MB: "
                   "free some, or build elsewhere with BUILD=dir")
