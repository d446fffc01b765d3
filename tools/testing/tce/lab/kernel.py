# SPDX-License-Identifier: GPL-2.0
"""Building a flavour of the kernel in its own O= directory."""

import hashlib
import shutil
import subprocess

from . import arch, config
from .say import Fail, Progress, log_tail, need_space, run_logged


def make_command(env, objects, kind=arch.POWERPC):
    """make, as this project always calls it."""
    return ["make", "-C", str(env.linux), f"O={objects}", f"ARCH={kind.kernel}", "LLVM=1",
            "KBUILD_BUILD_USER=tce", "KBUILD_BUILD_HOST=lab", f"-j{env.jobs}"]


def kin(flavour):
    """What flavours must have in common to share any object; sorts."""
    return sorted({"debug", "4k", "64k"} & set(flavour.split("-")))


def _donor(env, flavour):
    """A built flavour that shares most objects with this one: compiling starts
    from a copy of it, because make only redoes what the configuration changes."""
    def likeness(other):
        return len(set(flavour.split("-")) & set(other.split("-"))) if kin(flavour) == kin(other) else 0
    built = [path.parent for path in env.objects(flavour).parent.glob("*/.built")]
    best = max(built, key=lambda path: likeness(path.name), default=None)
    return best if best and likeness(best.name) else None


def build(env, tree, flavour, again=False):
    """Brings a flavour up to date and returns its O= directory. `again`: although the tree is the same."""
    objects = env.objects(flavour)
    stamp_file = objects / ".built"
    request = "".join(path.read_text(encoding="utf-8") for path in config.fragments(env, flavour))
    stamp = hashlib.sha256((tree.id + request).encode()).hexdigest()
    if not again and stamp_file.exists() and stamp_file.read_text() == stamp:
        return objects

    need_space(env.build, 1500)
    if not objects.exists() and (donor := _donor(env, flavour)):
        objects.parent.mkdir(parents=True, exist_ok=True)
        partial = objects.with_suffix(".partial")
        shutil.rmtree(partial, ignore_errors=True)
        subprocess.run(["cp", "-a", "--reflink=auto", donor, partial], check=True)
        (partial / ".built").unlink()
        partial.rename(objects)
    stamp_file.unlink(missing_ok=True)
    make = make_command(env, objects, arch.of(flavour))
    log = objects.with_suffix(".log")
    with Progress(f"kernel {flavour}") as progress:
        config.configure(env, flavour, make, objects)
        if not run_logged([*make, "vmlinux", "modules"], log, progress, step="  "):
            text = log.read_text(encoding="utf-8", errors="replace")
            if "No space left" in text:
                raise Fail(f"the disk is full while building {flavour}: free some space in {env.build} and run again")
            raise Fail(f"building {flavour} failed; {log} says:\n{log_tail(log)}")
    stamp_file.write_text(stamp)
    return objects


def build_module(env, flavour):
    """Rebuilds the driver alone against a built flavour, with make M=. The
    files come from the repository itself; results go to build/module."""
    objects = env.objects(flavour)
    if not (objects / "Module.symvers").exists():
        raise Fail(f"no built kernel {flavour} yet: run `make kernel FLAVOUR={flavour}` first")
    out = env.build / "module" / flavour
    out.mkdir(parents=True, exist_ok=True)
    log = env.build / "module" / f"{flavour}.log"
    with Progress(f"module for {flavour}") as progress:
        if not run_logged([*make_command(env, objects), f"M={env.top}", f"MO={out}", "modules"], log, progress, "  "):
            raise Fail(f"building the module failed; {log} says:\n{log_tail(log)}")
        progress.note = ", ".join(str(path) for path in sorted(out.rglob("*.ko")))
