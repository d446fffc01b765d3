# SPDX-License-Identifier: GPL-2.0
"""tce-top: its own tests on this machine, and the program for the guest.

cargo and the crates come from Debian's packages. There is no standard library
for ppc64le among them, so it is built from rust-src.
"""

import html
import os
import pathlib
import re
import shutil
import subprocess
import threading

from . import debian
from .say import Fail, Progress

PLACE = "tools/iommu/tce-top"
_TARGET = "powerpc64le-unknown-linux-gnu"
_CRATES = "usr/share/cargo/registry"
_PACKAGES = ("cargo/trixie-backports", "librust-comfy-table-dev", "librust-lexopt-dev", "librust-serde-dev", "librust-serde-json-dev",
             "librust-terminal-size-dev")
_lock = threading.Lock()    # two boots may ask at once


def _tree(env):
    """Where cargo and the crates are."""
    if str(env.root) != "/":
        return debian.tools(env, "cargo-tools", "cargo and crates of Debian", _PACKAGES)
    if not shutil.which("cargo") or not pathlib.Path("/", _CRATES).is_dir():
        raise Fail(f"no cargo or no /{_CRATES} on this machine: install {', '.join(_PACKAGES)}")
    return pathlib.Path("/")


def _cargo(env, *words, **variables):
    """Runs cargo without the network."""
    tree, home = _tree(env), env.base / "cargo"
    crates = home / "crates"
    crates.mkdir(parents=True, exist_ok=True)
    for place in (tree / _CRATES, pathlib.Path(os.environ["RUST_LIB_SRC"], "vendor")):
        for crate in place.iterdir():
            link = crates / crate.name
            if not link.is_symlink():
                link.symlink_to(crate)
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
    libraries = ":".join(str(path) for path in tree.glob("usr/lib/*-linux-gnu"))
    with open(log, "w", encoding="utf-8") as out:
        done = subprocess.run([shutil.which("cargo") or tree / "usr/bin/cargo", *words, "--offline", "-j", str(env.jobs)], cwd=copy, stdout=out,
                              stderr=subprocess.STDOUT, check=False,
                              env={**os.environ, "CARGO_HOME": str(home), "CARGO_TARGET_DIR": str(home / "target"),
                                   "LD_LIBRARY_PATH": libraries, **variables})
    text = log.read_text(encoding="utf-8")
    if done.returncode:
        raise Fail("tce-top: " + " | ".join(text.strip().splitlines()[-12:]))
    return text


def program(env):
    """The program for the guest."""
    with _lock, Progress("tce-top for ppc64le"):
        _cargo(env, "build", "--release", "-Zbuild-std=std,panic_abort", "--target", _TARGET, RUSTC_BOOTSTRAP="1")
    return (env.base / "cargo/target" / _TARGET / "release/tce-top").read_bytes()


def test(env):
    """Runs its tests on this machine."""
    text = _cargo(env, "test")
    passed = sum(int(count) for count in re.findall(r"^test result: ok\. (\d+) passed", text, re.M))
    if not passed:
        raise Fail("tce-top: no test ran")
    return f"{passed} tests"


def picture(screen, path):
    """Draws what was on a terminal."""
    lines = [text.rstrip() for text in screen.strip().splitlines()]
    width, height = 16 + 8.43 * max(map(len, lines)), 20 + 18 * len(lines)
    texts = "".join(f'  <text x="8" y="{24 + 18 * number}">{html.escape(text)}</text>\n' for number, text in enumerate(lines))
    path.write_text(f'''<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height}" width="{width:.0f}" height="{height}">
<!-- SPDX-License-Identifier: GPL-2.0 -->
<rect width="100%" height="100%" rx="6" fill="#1d2430"/>
<g font-family="monospace" font-size="14" fill="#d8dee9" xml:space="preserve">
{texts}</g>
</svg>
''', encoding="utf-8")
