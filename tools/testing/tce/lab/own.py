# SPDX-License-Identifier: GPL-2.0
"""A kernel of one's own with the driver in it: the commands that the README has,
that `make overlay` prints and that `make check-all` runs."""

import shutil
import subprocess

from . import config, source
from .guest import GuestError
from .say import Progress, log_tail
from .scenario import Result

FRAGMENT = "arch/powerpc/configs/tce_iommu.config"
CONFIGURE = ("export ARCH=powerpc LLVM=1", "make ppc64le_defconfig", f"scripts/kconfig/merge_config.sh .config {FRAGMENT}")
COMMANDS = (*CONFIGURE, "make -j$(nproc) vmlinux modules")
# Of the build only what is ours, because the whole of it takes hours.
_OURS = "make -j$(nproc) drivers/iommu/tce/"


def documented(env, _):
    """The README has the commands for a kernel of one's own."""
    text = (env.top / "README.md").read_text(encoding="utf-8")
    missing = [command for command in COMMANDS if f"\n{command}\n" not in text]
    if missing:
        raise GuestError(f"README.md lacks {', '.join(missing)}")


def refused(env, text):
    """What the fragment asks for and a .config does not have."""
    got = config.parse(text)
    want = config.parse((env.top / FRAGMENT).read_text(encoding="utf-8"))
    return [f"{name}={value} became {got.get(name, 'n')}" for name, value in want.items() if got.get(name, "n") != value]


def check(env, report):
    """Runs the commands in a tree that `make overlay` left."""
    tree, log = env.base / "own", env.base / "own.log"
    shutil.rmtree(tree, ignore_errors=True)
    source.overlay(env, tree)
    with Progress("a kernel of one's own"), open(log, "w", encoding="utf-8") as out:
        done = subprocess.run(["sh", "-exc", "\n".join((*CONFIGURE, _OURS))], cwd=tree, stdout=out, stderr=subprocess.STDOUT, check=False)
    wrong = refused(env, (tree / ".config").read_text(encoding="utf-8"))
    report(Result("own.configured", "not ok" if wrong else "ok", "; ".join(wrong)))
    built = (tree / "drivers/iommu/tce/tce_iommu.o").exists() and done.returncode == 0
    report(Result("own.built", "ok" if built else "not ok", "" if built else " | ".join(log_tail(log).splitlines())))
    shutil.rmtree(tree)
