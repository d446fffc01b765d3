# SPDX-License-Identifier: GPL-2.0
"""What the guests of a guest boot."""

from . import initramfs

MEMORY = ["-m", "4G"]       # for a guest in the guest


def files(env, objects, directory):
    """{path: content} of a kernel and an initramfs for guests in the guest."""
    initrd = initramfs.make(env, objects, directory / "nested.cpio")
    return {"nested/vmlinux": (objects / "vmlinux").read_bytes(), "nested/initramfs": initrd.read_bytes()}
