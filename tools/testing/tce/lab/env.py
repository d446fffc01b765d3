# SPDX-License-Identifier: GPL-2.0
"""Where things are: the repository, the build directory, the toolchain root."""

import contextlib
import dataclasses
import fcntl
import hashlib
import os
import pathlib

from .say import Fail


@dataclasses.dataclass(frozen=True)
class Env:
    """The directories of one run."""

    top: pathlib.Path
    base: pathlib.Path          # what `make clean` removes
    root: pathlib.Path          # toolchain root, as named in messages
    kdir: pathlib.Path | None   # the user's own kernel tree, never written to
    jobs: int
    release: str = ""           # of the kernel source that Debian is asked for, if it is not the toolchain root's

    @property
    def build(self):
        """Each kernel tree has a build directory of its own."""
        if self.release:
            return self.base / f"linux-{self.release}"
        if not self.kdir:
            return self.base
        name = hashlib.sha256(str(self.kdir).encode()).hexdigest()[:8]
        return self.base / f"kdir-{self.kdir.name}-{name}"

    @property
    def linux(self):
        return self.build / "linux"

    @property
    def tce(self):
        return self.top / "tools/testing/tce"

    def objects(self, flavour):
        """The O= directory of a flavour."""
        return self.build / "kernel" / flavour

    @contextlib.contextmanager
    def locked(self):
        """Keeps two runs out of one build directory."""
        self.base.mkdir(parents=True, exist_ok=True)
        with open(self.base / ".lock", "w", encoding="utf-8") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise Fail(f"another make is at work in {self.base}: wait for it, or give this one BUILD=dir") from None
            yield


def default_jobs():
    return len(os.sched_getaffinity(0))
