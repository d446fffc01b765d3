# SPDX-License-Identifier: GPL-2.0
"""tce-top: its own tests on this machine, and the program for the guest.

cargo takes the crates of Debian's packages. There is no standard library for
ppc64le among them, so it is built from rust-src.
"""

import functools
import os
import subprocess

from .say import Fail, Progress

PLACE = "tools/iommu/tce-top"
_TARGET = "powerpc64le-unknown-linux-gnu"
_CRATES = "/usr/share/cargo/registry"


def _places():
    """Where crates are: those of Debian's packages, and what the standard library needs."""
    return _CRATES, os.path.join(os.environ.get("RUST_LIB_SRC", "/nonexistent"), "vendor")


def missing():
    """What is missing to build it, if anything is."""
    return next((f"there is no {place}" for place in _places() if not os.path.isdir(place)), "")


def _cargo(env, *words, **variables):
    """Runs cargo without the network."""
    if why := missing():
        raise Fail(f"tce-top: {why}")
    home = env.base / "cargo"
    crates = home / "crates"
    crates.mkdir(parents=True, exist_ok=True)
    for place in _places():
        for crate in os.scandir(place):
            link = crates / crate.name
            if not link.is_symlink():
                link.symlink_to(crate.path)
    (home / "config.toml").write_text(f'''[source.crates-io]
replace-with = "debian"
[source.debian]
directory = "{crates}"
[target.{_TARGET}]
linker = "powerpc64le-linux-gnu-gcc"
rustflags = ["-Ctarget-feature=+crt-static"]
''', encoding="utf-8")
    log = home / "cargo.log"
    # A copy of its own: cargo writes a lock file, and the repository has none, so that any Debian serves.
    copy = home / "tce-top"
    subprocess.run(["rsync", "-a", "--delete", f"{env.top / PLACE}/", copy], check=True)
    with open(log, "w", encoding="utf-8") as out:
        done = subprocess.run(["cargo", *words, "--offline", "-j", str(env.jobs)], cwd=copy, stdout=out, stderr=subprocess.STDOUT, check=False,
                              env={**os.environ, "CARGO_HOME": str(home), "CARGO_TARGET_DIR": str(home / "target"), **variables})
    text = log.read_text(encoding="utf-8")
    if done.returncode:
        raise Fail("tce-top: " + " | ".join(text.strip().splitlines()[-12:]))
    return text


@functools.cache
def program(env):
    """The program for the guest."""
    with Progress("tce-top for ppc64le"):
        _cargo(env, "build", "--release", "-Zbuild-std=std,panic_abort", "--target", _TARGET, RUSTC_BOOTSTRAP="1")
    return (env.base / "cargo/target" / _TARGET / "release/tce-top").read_bytes()


def test(env):
    """Runs its tests on this machine."""
    text = _cargo(env, "test")
    return next((line.strip() for line in text.splitlines() if "passed" in line and " 0 passed" not in line), "no test ran")
