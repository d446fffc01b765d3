# SPDX-License-Identifier: GPL-2.0
"""A powernv machine that has huge pages with the radix MMU, as hardware has.

Firmware tells of the sizes in the device tree. QEMU translates with any, but
does not tell of them there; so its tree is written out, the property added, and
the machine started with that.
"""

import subprocess

from . import debian
from .say import Fail

_SECONDS = 60
_PROPERTY = "ibm,processor-radix-AP-encodings"
# What a CPU calls a page size, and its bits: 4 KiB, 64 KiB, 2 MiB, 1 GiB.
_SIZES = tuple(f"{code << 29 | bits:#x}" for code, bits in ((0, 12), (5, 16), (1, 21), (2, 30)))


def huge_pages(env, command, directory):
    """Arguments in addition to those of a whole command of QEMU."""
    tree = directory / "machine.dtb"
    tree.unlink(missing_ok=True)
    machine = command.index("-M") + 1
    dump = [*command[:machine], f"{command[machine]},dumpdtb={tree}", *command[machine + 1:]]
    try:
        subprocess.run([*dump, "-serial", "none", "-monitor", "none"], cwd=directory, check=True, timeout=_SECONDS, capture_output=True)
    except subprocess.SubprocessError as problem:
        raise Fail(f"QEMU does not write its device tree: {problem}") from None
    tools = debian.tools(env, "devtree-tools", "tools for device trees", ("device-tree-compiler",))
    for cpu in debian.run_tool(tools, "fdtget", "-l", tree, "/cpus").split():
        if cpu.startswith("PowerPC"):
            debian.run_tool(tools, "fdtput", "-t", "x", tree, f"/cpus/{cpu}", _PROPERTY, *_SIZES)
    return ["-dtb", str(tree)]
