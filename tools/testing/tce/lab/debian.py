# SPDX-License-Identifier: GPL-2.0
"""Packages of Debian that few tests need, fetched with the apt of the toolchain
root when the first one asks for them, and kept in the build directory: programs
for ppc64le guests, on a disk, and tools that the root itself has not.
"""

import contextlib
import dataclasses
import functools
import os
import pathlib
import shutil
import subprocess
import threading
import time

from .say import Fail, Progress, log_tail, run_logged

_DIRECTORIES = ("dev", "proc", "sys", "tmp", "mnt")     # mount points in the guest
_lock = threading.Lock()
# A mirror's pool may lag behind its index, and then another release serves. Backports are for what the lab itself needs.
SUITES = ("trixie", "testing", "unstable")
_KERNEL_SUITES = ("trixie-backports", "testing", "unstable", "experimental")
_TRIES = 3
_HOSTED = "/etc/apt/sources.list"       # of the toolchain root


@dataclasses.dataclass(frozen=True)
class Disk:
    """A disk with packages for ppc64le and all that they need: an ext4 of some size, or for a kernel
    without ext4 an archive of some paths, which the guest unpacks."""

    name: str
    what: str
    packages: tuple
    size: str = ""
    paths: tuple = ()


KVM_HOST = Disk("kvm-host", "QEMU for ppc64el", ("qemu-system-ppc",), "400M")
DPDK = Disk("dpdk", "DPDK for ppc64el", ("dpdk-dev", "librte-meta-mempool", "librte-net-e1000-*"),
            paths=("usr/bin/dpdk-testpmd", "usr/lib/powerpc64le-linux-gnu"))


def _apt(out, **options):
    """apt-get that leaves the root alone."""
    for name in ("lists/partial", "cache/archives/partial"):
        (out / name).mkdir(parents=True)
    options = {"APT::Install-Recommends": "false", "APT::Sandbox::User": "root", "Acquire::Retries": "5",
               "Acquire::Check-Valid-Until": "false", "Debug::NoLocking": "1", "Dir::State::Lists": out / "lists",
               "Dir::Cache": out / "cache", "Dir::Etc::SourceParts": "/dev/null", **options}
    return ["apt-get", *(word for name, value in options.items() for word in ("-o", f"{name}={value}"))]


def _from(out, *suites, **options):
    """apt-get from some releases alone."""
    mirror = os.environ.get("TCE_MIRROR") or pathlib.Path(_HOSTED).read_text(encoding="utf-8").split()[1]
    out.mkdir(parents=True)
    (out / "sources.list").write_text("".join(f"deb {mirror} {suite} main\n" for suite in suites), encoding="utf-8")
    return _apt(out, **{"Dir::Etc::SourceList": out / "sources.list", **options})


def _for_guests(out, suite):
    """apt-get for another architecture, with nothing installed, from one release alone."""
    command = _from(out, suite, **{"APT::Architecture": "ppc64el", "APT::Architectures": "ppc64el", "Dir::State::status": out / "status"})
    (out / "status").touch()
    return command


def _fetch(what, apts, packages, out, log):
    """Unpacks packages and what they need into out/tree, with the first of some apts that can."""
    tries = [(apt, number) for apt in apts for number in range(_TRIES)]
    for apt, number in tries:
        time.sleep(5 * number)
        shutil.rmtree(out, ignore_errors=True)
        command = apt(out)
        if all(run_logged([*command, *words], log) for words in (["update"], ["--yes", "--download-only", "install", *packages])):
            break
    else:
        errors = [text for text in log.read_text(encoding="utf-8").splitlines() if text.startswith("E:")] or ["?"]
        raise Fail(f"cannot fetch {what} in {len(tries)} tries: {errors[0][:120]} ({log} has all): "
                   "try again later, or another mirror with TCE_MIRROR=url")
    tree = out / "tree"
    tree.mkdir()
    for package in sorted((out / "cache/archives").glob("*.deb")):
        subprocess.run(["dpkg-deb", "-x", package, tree], check=True)
    shutil.rmtree(out / "cache")
    return tree


def disk(env, one):
    """The path of the image of a disk, made when it is missing."""
    with _lock:     # two boots may ask at once
        image, out, log = (env.base / f"{one.name}{end}" for end in (".img", "", ".log"))
        if image.exists():
            return image
        if str(env.root) == "/":
            raise Fail(f"{one.what} needs the toolchain root: run without TOOLS=host")
        with Progress(one.what):
            partial = image.with_suffix(".partial")
            partial.unlink(missing_ok=True)
            apts = [functools.partial(_for_guests, suite=suite) for suite in SUITES]
            tree = _fetch(f"{one.what} from {', '.join(SUITES)}", apts, one.packages, out, log)
            for name in ("lib", "lib64"):
                (tree / name).symlink_to(f"usr/{name}")
            (tree / "usr/lib64").mkdir(exist_ok=True)
            for name in _DIRECTORIES:
                (tree / name).mkdir(exist_ok=True)
            make = ["mke2fs", "-q", "-t", "ext4", "-L", one.name, "-d", tree, partial, one.size]
            if one.paths:
                make = ["tar", "-C", tree, "-cf", partial, "--exclude=*.a", "lib", "lib64", "usr/lib64", *_DIRECTORIES, *one.paths]
            if not run_logged(make, log):
                raise Fail(f"cannot make the disk with {one.what}; {log} says:\n{log_tail(log)}")
            partial.rename(image)
            shutil.rmtree(out)
        return image


def arguments(env, one, kind):
    """QEMU arguments for the disk; the guest knows it by its serial number."""
    # Not virtio: its disk hangs on powernv.
    bridge, place = ([], "pcie.5,addr=0") if not kind.is_pseries else (["-device", "spapr-pci-host-bridge,index=9,id=phb9"], "phb9.0")
    return [*bridge, "-drive", f"if=none,id=host,format=raw,snapshot=on,file={disk(env, one)}",
            "-device", f"nvme,serial={one.name},drive=host,bus={place}",
            # Few vectors: a host with 4K pages may lose the interrupts of a guest's device that has many (QEMU.md).
            "-global", "nvme.msix_qsize=8"]


def tools(env, name, what, packages):
    """The tree of packages for this machine that the root has not, fetched when it is missing."""
    if str(env.root) == "/":
        raise Fail(f"{what} need the toolchain root: run without TOOLS=host")
    with _lock:
        out, log = env.base / name, env.base / f"{name}.log"
        stamp, wanted = out / "complete", " ".join(packages)
        if not stamp.exists() or stamp.read_text(encoding="utf-8") != wanted:
            with Progress(what):
                _fetch(what, [lambda out: _apt(out, **{"Dir::Etc::SourceList": _HOSTED})], packages, out, log)
                stamp.write_text(wanted, encoding="utf-8")
        return out / "tree"


def run_tool(tree, program, *words, text=None):
    """Runs a program of such a tree; returns what it wrote."""
    libraries = ":".join(str(path) for path in tree.glob("usr/lib/*-linux-gnu"))
    done = subprocess.run([tree / "usr/bin" / program, *words], input=text, capture_output=True, text=True, check=False,
                          env={**os.environ, "LD_LIBRARY_PATH": libraries})
    if done.returncode:
        raise Fail(f"{program}: {' | '.join(done.stderr.strip().splitlines())}")
    return done.stdout


@contextlib.contextmanager
def kernel_source(env):
    """The tarball of the kernel release that was asked for."""
    if str(env.root) == "/":
        raise Fail(f"LINUX={env.release} needs the toolchain root: run without TOOLS=host")
    name = "linux-source-" + ".".join(env.release.split("-")[0].split(".")[:2])
    out, log = env.base / f"linux-{env.release}.deb", env.base / f"linux-{env.release}.log"
    what = f"the source of Linux {env.release}"
    # What Debian's version goes on with; 7.2 alone is any 7.2.y.
    rest = ".*" if env.release.count(".") == 1 and "-" not in env.release else "-*"
    with Progress(what):
        # It may be older than the one of the root, where it is not installed.
        apt = functools.partial(_from, **{"APT::Get::allow-downgrades": "true"})
        tree = _fetch(what, [lambda out: apt(out, *_KERNEL_SUITES)], [f"{name}={env.release.replace('-', '~')}{rest}"], out, log)
    try:
        yield tree / "usr/src" / f"{name}.tar.xz"
    finally:
        shutil.rmtree(out)
