# SPDX-License-Identifier: GPL-2.0
"""The test guest's file system: an uncompressed cpio written here, so that it
needs no tool and is the same for the same input."""

import pathlib
import re
import subprocess
import threading

from . import arch
from .say import Fail

# VFIO as our kselftest uses it.
_VFIO = ["../selftests/iommu/tce/vfio.c", "../selftests/iommu/tce/vfio.h"]
_MORE_SOURCES = {"vfiocheck": _VFIO, "vfioscatter": _VFIO, "vfiohold": _VFIO, "vfioreset": _VFIO, "vfiokeep": _VFIO,
                 "hostile": _VFIO, "memlock": _VFIO, "memcharge": _VFIO, "vfiobench": [*_VFIO, "bench/marks.h"],
                 "nvmebench": ["bench/marks.h"], "dmabench": ["bench/marks.h"]}


def _entry(number, name, mode, content, device=(0, 0)):
    """One member of a newc archive."""
    raw = name.encode() + b"\0"
    fields = (number, mode, 0, 0, 1, 0, len(content), 0, 0, *device, len(raw), 0)
    head = b"070701" + b"".join(b"%08x" % field for field in fields)

    def pad(data):
        return data + b"\0" * (-len(data) % 4)
    return pad(head + raw) + pad(content)


_lock = threading.Lock()


def _programs(env, kind):
    """The guest's C programs, compiled when their source is newer."""
    with _lock:     # two boots may ask at once
        return list(_compile(env, kind))


def _compile(env, kind):
    out = env.base / "guest" / kind.kernel
    out.mkdir(parents=True, exist_ok=True)
    for source in sorted((env.tce / "guest").glob("*.c")):
        program = out / source.stem
        sources = [source, *(env.tce / name for name in _MORE_SOURCES.get(source.stem, ()))]
        if not program.exists() or program.stat().st_mtime < max(path.stat().st_mtime for path in sources):
            done = subprocess.run([kind.compiler, "-static", "-O2", "-Wall", "-Wextra", "-Werror", "-o", program,
                                   *(path for path in sources if path.suffix == ".c")],
                                  capture_output=True, text=True, check=False)
            if done.returncode:
                raise Fail(f"cannot compile {source.name}: {done.stderr.strip()}")
        yield source.stem, program.read_bytes()


def modules(objects):
    """{module name: path} of a built kernel."""
    # modules.order and not a search: modules of an earlier configuration stay behind.
    paths = [(objects / name).with_suffix(".ko") for name in (objects / "modules.order").read_text().split()]
    return {path.stem.replace("-", "_"): path for path in paths}


def built_in(objects):
    """The names of what would be modules if it were not part of the kernel."""
    listing = objects / "modules.builtin"
    paths = listing.read_text(encoding="utf-8").split() if listing.exists() else []
    return sorted(pathlib.PurePath(path).stem.replace("-", "_") for path in paths)


def depends(module):
    """The modules that a module needs."""
    found = re.search(rb"\0depends=([^\0]*)\0", b"\0" + module)
    names = found[1].decode().split(",") if found else []
    return [name.replace("-", "_") for name in names if name]


def make(env, objects, target, more=None, kind=arch.POWERPC):
    """Writes the archive for the kernel in `objects`, with further files {path: content}."""
    with open(kind.busybox, "rb") as busybox:
        files = {"bin/busybox": busybox.read()}
    files["init"] = (env.tce / "guest/init").read_bytes()
    files["lib/tce.sh"] = (env.tce / "guest/tce.sh").read_bytes()
    for name, content in _programs(env, kind):
        files[f"bin/{name}"] = content
    needs = []
    for name, path in sorted(modules(objects).items()):
        content = path.read_bytes()
        files[f"modules/{name}.ko"] = content
        needs.append(f"{name}:{' '.join(depends(content))}\n")
    files["modules/deps"] = "".join(needs).encode()
    files["modules/builtin"] = "".join(f"{name}\n" for name in built_in(objects)).encode()
    files |= more or {}

    # The console node exists before devtmpfs does; directories come first.
    members = [(f, 0o040755, b"", (0, 0)) for f in ("bin", "dev", "lib", "modules", "nested")]
    members.append(("dev/console", 0o020600, b"", (5, 1)))
    members += [(name, 0o100755, content, (0, 0)) for name, content in files.items()]
    members.append(("TRAILER!!!", 0, b"", (0, 0)))
    target.parent.mkdir(parents=True, exist_ok=True)
    with open(target, "wb") as archive:
        for number, (name, mode, content, device) in enumerate(members, 1):
            archive.write(_entry(number, name, mode, content, device))
    return target
