# SPDX-License-Identifier: GPL-2.0
"""Checks for `make check-all` that build kernels of their own."""

import re
import shutil
import subprocess
import time

from . import kernel, own, scenario, source, upstream
from .scenario import Result
from .tests import legacy

COMMAND_SECONDS = 3600
NAMES = ("own", "alone", "clone")


def _linked(objects):
    """When the kernel and its modules were last linked."""
    return {path: path.stat().st_mtime_ns for path in (objects / "vmlinux", *objects.rglob("*.ko")) if path.exists()}


def each_patch(env, report):
    """After every patch of the series the legacy kernel builds and works.

    One tree and one build directory serve all, so that make compiles what a patch changes, and
    a kernel that a patch does not change is not booted again."""
    patches = upstream.series(env.top)
    one = next(one for one in legacy.SCENARIOS if one.name == "works" and one.machine == "pseries")
    booted = None
    with source.borrowed(env):
        for count, patch in enumerate(patches, 1):
            name, found = f"alone.{patch.name.removesuffix('.patch')}", []
            try:
                objects = kernel.build(env, source.prepare(env, patches[:count]), one.flavour)
                if (linked := _linked(objects)) != booted:
                    scenario.run(env, one, objects, found.append)
                bad = [result.detail for result in found if result.status == "not ok"]
                report(Result(name, "not ok" if bad else "ok", "; ".join(bad) or ("" if found else "the same kernel")))
                booted = None if bad else linked
            except source.Fail as problem:
                report(Result(name, "not ok", " | ".join(str(problem).splitlines())))


def readme_commands(env):
    """The `make` commands of README.md's code blocks, in order."""
    blocks = re.findall(r"^```\n(.*?)^```", (env.top / "README.md").read_text(encoding="utf-8"), re.M | re.S)
    # The recipe for a kernel of one's own has a check of its own.
    return [text.split("#")[0].strip() for block in blocks if "export ARCH" not in block
            for text in block.splitlines() if text.startswith("make ")]


def _run(words, clone):
    """Runs a command; a guest with a prompt is told to go. Returns (status, output)."""
    log = clone / "log"
    end = time.monotonic() + COMMAND_SECONDS
    with open(log, "w", encoding="utf-8") as out, \
            subprocess.Popen(words, cwd=clone, stdin=subprocess.PIPE, stdout=out, stderr=subprocess.STDOUT, text=True) as process:
        while process.poll() is None:
            time.sleep(1)
            if "exit powers off" in log.read_text(encoding="utf-8", errors="replace"):
                process.communicate("exit\n")
            elif time.monotonic() > end:
                process.terminate()
    return process.returncode, log.read_text(encoding="utf-8", errors="replace").strip()


def clean_clone(env, report):
    """The README's commands, from a fresh clone. `make check` would start this
    again, so it runs its static part."""
    clone = env.base / "clone"
    shutil.rmtree(clone, ignore_errors=True)
    done = subprocess.run(["git", "-c", "safe.directory=*", "clone", "-q", env.top, clone], capture_output=True, text=True, check=False)
    if done.returncode:
        report(Result("clone.git", "not ok", done.stderr.strip()))
        return
    more = ["make overlay DST=build/tree", "make series DST=build/series", "make module", "make shell MACHINE=powernv10"]
    for command in readme_commands(env) + more:
        words = command.split() + [f"ROOT={env.root}"] + (["ONLY=static"] if command == "make check" else [])
        status, output = _run(words, clone)
        report(Result(f"clone.{'_'.join(command.split()[1:])}", "not ok" if status else "ok", "".join(output.splitlines()[-1:])))
    shutil.rmtree(clone)


def run(env, only, report):
    """All of them, or the one that was asked for."""
    if only in "own":
        own.check(env, report)
    if only in "alone":
        each_patch(env, report)
    if only in "clone":
        clean_clone(env, report)
