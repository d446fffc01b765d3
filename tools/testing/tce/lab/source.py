# SPDX-License-Identifier: GPL-2.0
"""The kernel tree: pristine source, our own files, our patches.

Files keep their modification time unless their content changes, so that make
rebuilds only what a change reaches. A copy of every file that a patch touches
is kept as it was, so a changed series is applied to pristine files again.
"""

import contextlib
import hashlib
import json
import os
import re
import shutil
import subprocess

from . import debian
from .upstream import apply_patch, own_files, series, touched_files, with_patches
from .say import Fail, Progress, need_space, remark

VERSION = (7, 3)
TARBALL = "/usr/src/linux-source-7.3.tar.xz"
# What came with that version and the driver is built on, and where it is.
_NEEDS = {"SpinLockIrq": "rust/kernel/sync/lock/spinlock.rs"}


def version_of(tree):
    """(7, 3, 4) of a kernel tree."""
    try:
        head = (tree / "Makefile").read_text(encoding="utf-8")[:400]
        return tuple(int(re.search(rf"^{key} = (\d+)$", head, re.M)[1])
                     for key in ("VERSION", "PATCHLEVEL", "SUBLEVEL"))
    except (OSError, TypeError):
        raise Fail(f"{tree} is no kernel source tree: it has no Makefile with a version") from None


def check_version(tree):
    found = version_of(tree)
    if found[:2] != VERSION:
        lacks = [word for word, name in _NEEDS.items() if not (tree / name).exists() or word not in (tree / name).read_text(encoding="utf-8")]
        why = f", whose Rust has no {' and no '.join(lacks)}," if lacks else ""
        raise Fail(f"{tree} is Linux {'.'.join(map(str, found))}{why} and this project needs "
                   f"{VERSION[0]}.{VERSION[1]}.y: give another tree with KDIR=, another LINUX=, or none")
    return ".".join(map(str, found))


def _write_if_changed(path, content, mode):
    """True when the file had to be written."""
    if path.is_file() and not path.is_symlink() and path.read_bytes() == content:
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    path.chmod(mode)
    return True


def _copy_if_changed(source, target):
    return _write_if_changed(target, source.read_bytes(), source.stat().st_mode & 0o777)


class Tree:
    """A kernel tree with our files and patches in it, and what we know of it."""

    def __init__(self, top, path, notes, patches=None):
        self.top, self.path, self.notes = top, path, notes
        self.patches = series(top) if patches is None else patches
        self.pristine = notes / "pristine"
        self.state_file = notes / "state.json"
        self.state = json.loads(self.state_file.read_text()) if self.state_file.exists() else {}

    def save(self):
        self.notes.mkdir(parents=True, exist_ok=True)
        self.state_file.write_text(json.dumps(self.state, indent=1, sort_keys=True))

    @property
    def id(self):
        """Changes whenever the content of the tree changes."""
        return hashlib.sha256(json.dumps(self.state, sort_keys=True).encode()).hexdigest()

    def lay(self):
        """Brings our files and patches into the tree. Returns what changed."""
        changed = self._lay_own() + self._lay_patches()
        self.save()
        return changed

    def _lay_own(self):
        files = with_patches(self.top, self.patches)
        ours = self.state.get("own", {})
        for name in files:
            if name not in ours and os.path.lexists(self.path / name):
                raise Fail(f"{name} exists in this kernel tree already ({self.path}): "
                           "the overlay never overwrites a kernel file; rename ours or use a pristine tree")
        changed = []
        for name in sorted(set(ours) - set(files)):
            (self.path / name).unlink(missing_ok=True)
            changed.append(name)
        hashes = {}
        for name in files:
            hashes[name] = hashlib.sha256((self.top / name).read_bytes()).hexdigest()
            # Noted before the copy: an interrupted overlay must know its own files.
            self.state["own"] = {**ours, **hashes}
            self.save()
            if _copy_if_changed(self.top / name, self.path / name):
                changed.append(name)
        self.state["own"] = hashes
        return changed

    def _lay_patches(self):
        patches = self.patches
        stamp = hashlib.sha256(b"".join(patch.read_bytes() for patch in patches)).hexdigest()
        if self.state.get("patches") == stamp:
            return []
        known = self.state.setdefault("pristine", {})   # name -> existed
        self.state.pop("patches", None)
        for name in touched_files(patches):
            if name in known:
                continue
            if name in self.state.get("own", {}):
                raise Fail(f"a patch touches {name}, which is one of our own files: change it directly")
            known[name] = (self.path / name).exists()
            if known[name]:
                (self.pristine / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(self.path / name, self.pristine / name)
            self.save()
        scratch = self.notes / "patched"
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir(parents=True)
        if self.pristine.exists():
            shutil.copytree(self.pristine, scratch, dirs_exist_ok=True)
        version = ".".join(map(str, version_of(self.path)))
        for patch in patches:
            apply_patch(patch, scratch, version)
        changed = []
        for name in sorted(known):
            if (scratch / name).exists():
                if _copy_if_changed(scratch / name, self.path / name):
                    changed.append(name)
            elif (self.path / name).exists():
                (self.path / name).unlink()
                changed.append(name)
        shutil.rmtree(scratch)
        self.state["patches"] = stamp
        return changed


def _unpack(tarball, target):
    if not os.path.exists(tarball):
        raise Fail(f"{tarball} is missing from the toolchain root: run `make clean` and start again")
    target.mkdir(parents=True, exist_ok=True)
    need_space(target, 3000)
    with Progress(f"source: unpacking {os.path.basename(tarball)}") as progress:
        done = subprocess.run(["tar", "-xJf", tarball, "--strip-components=1", "-C", target],
                              capture_output=True, text=True, check=False)
        if done.returncode:
            raise Fail(f"cannot unpack {tarball}: {' '.join(done.stderr.strip().splitlines()[-1:])}")
        progress.note = "Linux " + ".".join(map(str, version_of(target)))


def _unpack_release(env, target):
    """The release that was asked for, or the toolchain root's."""
    if not env.release:
        return _unpack(TARBALL, target)
    with debian.kernel_source(env) as tarball:
        return _unpack(tarball, target)


def _copy_user_tree(kdir, tree):
    """Follows the user's tree; returns True when something in it changed."""
    check_version(kdir)
    tree.path.mkdir(parents=True, exist_ok=True)
    need_space(tree.path, 3000)
    if (kdir / ".git").exists():
        listed = subprocess.run(["git", "-c", "safe.directory=*", "-C", kdir, "ls-files", "-z"],
                                capture_output=True, check=False)
        if listed.returncode:
            raise Fail(f"git cannot list {kdir}: {listed.stderr.decode().strip()}")
        names = [name for name in listed.stdout.decode().split("\0")
                 if name and os.path.lexists(kdir / name)]
    else:
        names = [os.path.relpath(os.path.join(folder, name), kdir)
                 for folder, _, files in os.walk(kdir) for name in files]
        generated = re.compile(r"(^|/)(\.[^/]*\.cmd|\.config.*|.*\.(o|ko|a|mod|mod\.c|rmeta|so)|vmlinux(\.lds|\.symvers|\.map)?)$"
                               r"|^include/(config|generated)/|^arch/[^/]*/include/generated/|^\.git/")
        names = [name for name in names if not generated.search(name)]
    for name in own_files(tree.top):
        if os.path.lexists(kdir / name):
            raise Fail(f"{kdir}/{name} exists already: the overlay never overwrites a kernel file; "
                       "give a pristine tree with KDIR=")
    patched = tree.state.get("pristine", {})
    plain = [name for name in names if name not in patched]
    title = f"source: following {kdir}"
    done = subprocess.run(["rsync", "-a", "-i", "--no-implied-dirs", "--from0", "--files-from=-", f"{kdir}/", tree.path],
                          input="\0".join(plain).encode(), capture_output=True, check=False)
    if done.returncode:
        raise Fail(f"{title}: {done.stderr.decode().strip().splitlines()[-1]}")
    changes = sum(text.startswith(b">f") for text in done.stdout.splitlines())
    gone = set(tree.state.get("files", [])) - set(names)
    for name in gone:
        (tree.path / name).unlink(missing_ok=True)
    for name in patched:
        if (kdir / name).exists() and _copy_if_changed(kdir / name, tree.pristine / name):
            tree.state.pop("patches", None)
            changes += 1
    tree.state["files"] = names
    if changes or gone:
        tree.state["follow"] = tree.state.get("follow", 0) + 1
        remark(f"[     ] {title}: {changes + len(gone)} files changed")


def prepare(env, patches=None):
    """The tree of this run, up to date. Quiet when it already was."""
    tree = Tree(env.top, env.linux, env.build / "linux.notes", patches)
    env.build.mkdir(parents=True, exist_ok=True)
    if env.kdir:
        _copy_user_tree(env.kdir, tree)
    elif env.release:
        if tree.state.get("source") != env.release:
            shutil.rmtree(env.linux, ignore_errors=True)
            shutil.rmtree(tree.notes, ignore_errors=True)
            _unpack_release(env, env.linux)
            tree.state = {"source": env.release}
            tree.save()
    else:
        stat = os.stat(TARBALL) if os.path.exists(TARBALL) else None
        source = f"{os.path.basename(TARBALL)} {stat.st_size}" if stat else None
        if not env.linux.exists() or "source" not in tree.state or source not in (None, tree.state["source"]):
            shutil.rmtree(env.linux, ignore_errors=True)
            shutil.rmtree(tree.notes, ignore_errors=True)
            _unpack(TARBALL, env.linux)
            tree.state = {"source": source}
            tree.save()
    version = check_version(env.linux)
    changed = tree.lay()
    if changed:
        shown = ", ".join(changed[:3]) + (f" and {len(changed) - 3} more" if len(changed) > 3 else "")
        remark(f"[     ] source: Linux {version}, laid {shown}")
    return tree


@contextlib.contextmanager
def borrowed(env):
    """For a check that lays fewer patches: afterwards the files are as they were, and as
    old, so that a kernel which had them all is not built again."""
    prepare(env)
    names = {*own_files(env.top), *touched_files(series(env.top))}
    times = {path: os.stat(path).st_mtime_ns for path in (env.linux / name for name in names) if path.exists()}
    try:
        yield
    finally:
        prepare(env)
        for path, time in times.items():
            os.utime(path, ns=(time, time))


def overlay(env, target):
    """Leaves a ready kernel tree in `target`: a fresh one when it is missing or
    empty, else the pristine tree found there."""
    if not target.exists() or not any(target.iterdir()):
        _unpack_release(env, target)
    version = check_version(target)
    for name in own_files(env.top):
        if os.path.lexists(target / name):
            raise Fail(f"{target}/{name} exists already: the overlay never overwrites a kernel file; "
                       "give a pristine tree or an empty directory with DST=")
    notes = env.base / "overlay.notes"
    shutil.rmtree(notes, ignore_errors=True)
    # A dry run first: a tree whose patches do not apply must stay as it was.
    patches = series(env.top)
    scratch = notes / "dry"
    scratch.mkdir(parents=True)
    for name in touched_files(patches):
        if (target / name).exists():
            (scratch / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(target / name, scratch / name)
    for patch in patches:
        apply_patch(patch, scratch, version)
    tree = Tree(env.top, target, notes)
    tree.lay()
    shutil.rmtree(notes)
    return f"{target} is Linux {version} with {len(own_files(env.top))} files and {len(patches)} patches of ours"
