# SPDX-License-Identifier: GPL-2.0
"""The patches and our own files, which together are the series for upstream.

A line "New files: ..." below the "---" of a patch names the files, or the
beginnings of their paths, that come with it; git am and patch pass over it.
"""

import os
import re
import subprocess

from .say import Fail

OWN_DIRS = ("arch", "rust", "drivers", "include", "Documentation", "samples", "tools/testing/kunit", "tools/testing/selftests")
_NOT_SOURCE = re.compile(r"(^|/)(\.(?!kunitconfig$).*|.*\.(o|ko|mod|mod\.c|a|rmeta|orig|rej|pyc)|.*~|__pycache__/.*|modules\.order)$")


def own_files(top):
    """Relative paths of the files that the overlay copies."""
    found = []
    for place in OWN_DIRS:
        for folder, _, names in os.walk(top / place):
            paths = (os.path.relpath(os.path.join(folder, name), top) for name in names)
            found += [path for path in paths if not _NOT_SOURCE.search(path)]
    return sorted(found)


def parts(top):
    """{part: its patches}, in order. A line "# == NAME" of patches/series begins a part."""
    found, part = {}, None
    for text in (top / "patches/series").read_text(encoding="utf-8").splitlines():
        if begin := re.match(r"# == (\S+)$", text):
            part = found.setdefault(begin[1], [])
        elif name := text.split("#")[0].strip():
            patch = top / "patches" / name
            if part is None or not patch.exists():
                raise Fail(f"patches/series names {name}, which " + ("is in no part" if part is None else "does not exist"))
            part.append(patch)
    return found


def series(top):
    """Our patches, in order."""
    return [patch for part in parts(top).values() for patch in part]


def touched_files(patches):
    """The kernel files that a list of patches changes, creates or removes."""
    files = set()
    for patch in patches:
        for text in patch.read_text(encoding="utf-8").splitlines():
            found = re.match(r"(?:---|\+\+\+) [ab]/(\S+)", text)
            if found:
                files.add(found[1])
    return sorted(files)


def changed_lines(patch):
    """How many lines a patch adds to kernel files and takes from them."""
    return len(re.findall(r"^[+-](?!\+\+ |-- )", patch.read_text(encoding="utf-8").partition("\n--- a/")[2], re.M))


def _owners(top):
    """[(beginning of a path, patch)], the longest first."""
    found = []
    for patch in series(top):
        for names in re.findall(r"^New files: (.*)$", patch.read_text(encoding="utf-8"), re.M):
            found += [(name, patch) for name in names.split()]
    return sorted(found, key=lambda pair: -len(pair[0]))


def new_files(top):
    """{file of ours: the patch that it comes with, or None}."""
    owners = _owners(top)
    return {name: next((patch for start, patch in owners if name.startswith(start)), None) for name in own_files(top)}


def with_patches(top, patches):
    """Our own files that a tree with these patches has."""
    return [name for name, patch in new_files(top).items() if patch is None or patch in patches]


def _patch(patch, tree, *options):
    with open(patch, "rb") as mail:
        return subprocess.run(["patch", "-p1", "--fuzz=0", "--force", "--no-backup-if-mismatch", "-r", "-", *options],
                              cwd=tree, stdin=mail, capture_output=True, text=True, check=False)


def apply_patch(patch, tree, version):
    """Applies one patch without fuzz, or says which hunk of which file fails."""
    if not touched_files([patch]):      # all it has is new files
        return
    in_already = _patch(patch, tree, "--reverse", "--dry-run").returncode == 0
    if in_already:
        raise Fail(f"patches/{patch.name} is in this kernel tree already: give a pristine one")
    done = _patch(patch, tree)
    if done.returncode == 0:
        return
    name, problems = "?", []
    for text in (done.stdout + done.stderr).splitlines():
        if found := re.match(r"(?:checking|patching) file (\S+)", text):
            name = found[1]
        elif found := re.match(r"Hunk #(\d+) FAILED at (\d+)", text):
            problems.append(f"{name} hunk {found[1]} (line {found[2]})")
        elif "can't find file" in text or "malformed" in text:
            problems.append(text.strip())
    raise Fail(f"patches/{patch.name} does not apply to Linux {version}: "
               f"{', '.join(problems) or (done.stdout + done.stderr).strip()}; refresh it for this version")
