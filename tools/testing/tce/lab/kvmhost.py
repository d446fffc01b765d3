# SPDX-License-Identifier: GPL-2.0
"""A guest that runs KVM guests: its disk with Debian's QEMU for ppc64el, and
what its own guests boot.

The disk is made when a scenario first asks for it, with the apt of the
toolchain root, and kept in the build directory.
"""

import os
import pathlib
import shutil
import subprocess
import threading
import time

from . import initramfs
from .say import Fail, Progress, log_tail, run_logged

_PACKAGES = ("qemu-system-ppc",)
_DIRECTORIES = ("dev", "proc", "sys", "tmp", "mnt")     # mount points in the guest
_BYTES = "400M"
_lock = threading.Lock()
# A mirror's pool may lag behind its index, and then another release serves. Backports are for what the lab itself needs.
SUITES = ("trixie", "testing", "unstable")
_TRIES = 3


def _apt(out, suite):
    """apt-get for another architecture, with nothing installed, from one release alone."""
    sources = out / "sources.list"
    mirror = os.environ.get("TCE_MIRROR") or pathlib.Path("/etc/apt/sources.list").read_text(encoding="utf-8").split()[1]
    for name in ("lists/partial", "cache/archives/partial"):
        (out / name).mkdir(parents=True)
    sources.write_text(f"deb {mirror} {suite} main\n", encoding="utf-8")
    (out / "status").touch()
    options = {"APT::Architecture": "ppc64el", "APT::Architectures": "ppc64el", "APT::Install-Recommends": "false",
               "APT::Sandbox::User": "root", "Acquire::Retries": "5", "Acquire::Check-Valid-Until": "false", "Debug::NoLocking": "1",
               "Dir::State::Lists": out / "lists", "Dir::State::status": out / "status", "Dir::Cache": out / "cache",
               "Dir::Etc::SourceList": sources, "Dir::Etc::SourceParts": "/dev/null"}
    return ["apt-get", *(word for name, value in options.items() for word in ("-o", f"{name}={value}"))]


def _fetch(out, log):
    """Unpacks the packages and what they need into out/tree."""
    for suite, number in ((suite, number) for suite in SUITES for number in range(_TRIES)):
        time.sleep(5 * number)
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir(parents=True)
        apt = _apt(out, suite)
        if all(run_logged(command, log) for command in ([*apt, "update"], [*apt, "--yes", "--download-only", "install", *_PACKAGES])):
            break
    else:
        errors = [text for text in log.read_text(encoding="utf-8").splitlines() if text.startswith("E:")] or ["?"]
        raise Fail(f"cannot fetch QEMU for ppc64el from {', '.join(SUITES)}: {errors[0][:120]} ({log} has all): "
                   "try again later, or another mirror with TCE_MIRROR=url")
    tree = out / "tree"
    tree.mkdir()
    for package in sorted((out / "cache/archives").glob("*.deb")):
        subprocess.run(["dpkg-deb", "-x", package, tree], check=True)
    for name in ("lib", "lib64"):
        (tree / name).symlink_to(f"usr/{name}")
    (tree / "usr/lib64").mkdir(exist_ok=True)
    for name in _DIRECTORIES:
        (tree / name).mkdir(exist_ok=True)
    return tree


def disk(env):
    """The path of the image, made when it is missing."""
    with _lock:     # two boots may ask at once
        image, out, log = env.base / "kvm-host.img", env.base / "kvm-host", env.base / "kvm-host.log"
        if image.exists():
            return image
        if str(env.root) == "/":
            raise Fail("a KVM host needs the toolchain root: run without TOOLS=host")
        with Progress("QEMU for ppc64el"):
            partial = image.with_suffix(".partial")
            partial.unlink(missing_ok=True)
            tree = _fetch(out, log)
            if not run_logged(["mke2fs", "-q", "-t", "ext4", "-L", "kvm-host", "-d", tree, partial, _BYTES], log):
                raise Fail(f"cannot make the disk of the KVM host; {log} says:\n{log_tail(log)}")
            partial.rename(image)
            shutil.rmtree(out)
        return image


def arguments(env):
    """What QEMU needs in addition: the disk, and memory for a guest in the guest."""
    # Not virtio: its disk hangs on powernv.
    return ["-m", "4G", "-drive", f"if=none,id=host,format=raw,snapshot=on,file={disk(env)}",
            "-device", "nvme,serial=kvm-host,drive=host,bus=pcie.5,addr=0",
            # Few vectors: a host with 4K pages may lose the interrupts of a guest's device that has many (QEMU.md).
            "-global", "nvme.msix_qsize=8"]


def nested(env, objects, directory):
    """{path: content} of a kernel and an initramfs for guests in the guest."""
    initrd = initramfs.make(env, objects, directory / "nested.cpio")
    return {"nested/vmlinux": (objects / "vmlinux").read_bytes(), "nested/initramfs": initrd.read_bytes()}
