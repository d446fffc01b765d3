# SPDX-License-Identifier: GPL-2.0
"""Kernel modules that only tests need, built with make M= against a kernel."""

import subprocess
import threading

from . import kernel
from .say import Fail

_lock = threading.Lock()


def build(env, objects):
    """{path in the guest: content} of all of them."""
    out = env.build / "module" / f"tests-{objects.name}"
    with _lock:     # two boots may ask at once
        out.mkdir(parents=True, exist_ok=True)
        done = subprocess.run([*kernel.make_command(env, objects), f"M={env.tce / 'modules'}", f"MO={out}", "modules"],
                              capture_output=True, text=True, check=False)
        if done.returncode:
            raise Fail(f"cannot build the test modules: {done.stderr.strip()}")
        return {f"modules/{path.name}": path.read_bytes() for path in sorted(out.glob("*.ko"))}
