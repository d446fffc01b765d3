# SPDX-License-Identifier: GPL-2.0
"""Checks for `make check-all` that build kernels of their own."""

import dataclasses
import re
import shutil
import subprocess

from . import kernel, scenario, source, upstream
from .scenario import Result
from .tests import legacy


def each_patch(env, report):
    """After every patch of the series the legacy kernel still builds and works."""
    patches = upstream.series(env.top)
    mine = dataclasses.replace(env, base=env.base / "alone")
    one = next(one for one in legacy.SCENARIOS if one.name == "works" and one.machine == "pseries")
    for count in range(1, len(patches) + 1):
        name = f"alone.{patches[count - 1].name.removesuffix('.patch')}"
        found = []
        try:
            objects = kernel.build(mine, source.prepare(mine, patches[:count]), one.flavour)
            scenario.run(mine, one, objects, found.append)
            bad = [result.detail for result in found if result.status == "not ok"]
            report(Result(name, "not ok" if bad else "ok", "; ".join(bad)))
        except source.Fail as problem:
            report(Result(name, "not ok", " | ".join(str(problem).splitlines())))


def readme_commands(env):
    """The `make` commands of README.md's code blocks, in order."""
    blocks = re.findall(r"^```\n(.*?)^```", (env.top / "README.md").read_text(encoding="utf-8"), re.M | re.S)
    return [text.split("#")[0].strip() for block in blocks for text in block.splitlines() if text.startswith("make ")]


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
        with open(clone / "log", "a", encoding="utf-8") as log:
            done = subprocess.run(words, cwd=clone, input="exit\n", stdout=log, stderr=subprocess.STDOUT, text=True, check=False)
        tail = (clone / "log").read_text(encoding="utf-8").strip().splitlines()[-1:]
        report(Result(f"clone.{'_'.join(command.split()[1:])}", "not ok" if done.returncode else "ok", "".join(tail)))
    shutil.rmtree(clone)


def run(env, only, report):
    """Both, when asked for."""
    if only in "alone":
        each_patch(env, report)
    if only in "clone":
        clean_clone(env, report)
