# SPDX-License-Identifier: GPL-2.0
"""The plugin that counts, for QEMU, and the module that maps, for the guest."""

import subprocess
import threading

from .. import kernel
from ..say import Fail, log_tail, run_logged

_lock = threading.Lock()


def _plugin(env):
    source, program = env.tce / "bench/count.c", env.base / "bench/count.so"
    newest = max(path.stat().st_mtime for path in (source, *source.parent.glob("*.h")))
    if not program.exists() or program.stat().st_mtime < newest:
        program.parent.mkdir(parents=True, exist_ok=True)
        done = subprocess.run(["gcc", "-shared", "-fPIC", "-fvisibility=hidden", "-O2", "-Wall", "-Wextra", "-Werror",
                               "-o", program, source], capture_output=True, text=True, check=False)
        if done.returncode:
            raise Fail(f"cannot compile {source.name}: {done.stderr.strip()}")
    return program


def arguments(env, cpus):
    """What QEMU needs in addition. For one CPU that is a clock that counts instructions, so that every boot does the same."""
    clock = ["-icount", "shift=0,sleep=off"] if cpus == 1 else []
    with _lock:     # two boots may ask at once
        return ["-smp", f"{cpus}", *clock, "-plugin", f"{_plugin(env)},out=counts"]


def module(env, objects):
    """{path: content} of the module, built against a built kernel."""
    out = env.build / "bench" / objects.name
    with _lock:
        out.mkdir(parents=True, exist_ok=True)
        log = out.with_suffix(".log")
        if not run_logged([*kernel.make_command(env, objects), f"M={env.tce / 'bench'}", f"MO={out}", "modules"], log):
            raise Fail(f"building tce_bench failed; {log} says:\n{log_tail(log)}")
    return {"modules/tce_bench.ko": (out / "tce_bench.ko").read_bytes()}
