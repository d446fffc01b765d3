# SPDX-License-Identifier: GPL-2.0
"""Checks for `make check-all` that build kernels of their own."""

import re
import shutil
import subprocess
import time

from . import config, kernel, own, say, scenario, source, static, upstream
from .scenario import Result
from .tests import legacy

COMMAND_SECONDS = 3600
NAMES = ("own", "alone", "clone")


def _compiled(env, patch):
    """What make has to compile for a patch: the objects of its C files or, if it changes a header,
    of all C files that the series changes; None if it changes nothing that is compiled. The Rust
    crates come with any of them, and with "prepare"."""
    names = upstream.touched_files([patch]) + upstream.with_patches(env.top, [patch])
    if all(name.startswith(("Documentation/", "MAINTAINERS", "tools/")) for name in names):
        return None
    if any(name.endswith(".h") for name in names):
        names = upstream.touched_files(upstream.series(env.top))
    built = [name for name in names if name.endswith(".c") and name.startswith(static.LEGACY)]
    return ["prepare", *(f"{name.removesuffix('.c')}.o" for name in built)]


def _each_part(env, one, report, only):
    done, objects = [], env.objects(one.flavour)
    make = kernel.make_command(env, objects)
    for part, patches in upstream.parts(env.top).items():
        for patch in patches:
            done.append(patch)
            name = f"alone.{part}.{patch.name.removesuffix('.patch')}"
            if only not in name:
                continue
            targets = _compiled(env, patch)
            if not targets:
                report(Result(name, "ok", "nothing that is compiled"))
                continue
            source.prepare(env, done)
            config.configure(env, one.flavour, make, objects)
            log = objects.with_name("alone.log")
            with say.Progress(name) as progress:
                good = say.run_logged([*make, *targets], log, progress, "  ")
            report(Result(name, "ok" if good else "not ok", "" if good else " | ".join(say.log_tail(log).splitlines())))
        if only not in f"alone.{part}":
            continue
        found = []
        kernel.build(env, source.prepare(env, done), one.flavour)
        scenario.run(env, one, objects, found.append)
        bad = [result.detail for result in found if result.status == "not ok"]
        report(Result(f"alone.{part}", "not ok" if bad else "ok", "; ".join(bad) or "built and booted"))


def each_patch(env, report, only=""):
    """After every patch of the series what it touches compiles with the legacy driver, as far as that
    is built from it; after every part the kernel builds, and the legacy driver works.

    One tree and one build directory serve all, so that make compiles what a patch changes."""
    one = next(one for one in legacy.SCENARIOS if one.name == "works" and one.machine == "pseries")
    with source.borrowed(env):
        try:
            _each_part(env, one, report, only)
        except say.Fail as problem:
            report(Result("alone", "not ok", " | ".join(str(problem).splitlines())))


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
