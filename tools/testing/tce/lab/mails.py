# SPDX-License-Identifier: GPL-2.0
"""The series as maintainers get it: a directory for each part that can be merged
on its own, with patches for `git am` and a cover letter."""

import os
import re
import subprocess

from . import upstream
from .say import Fail


def _as_diff(top, name):
    """A patch that adds one file."""
    lines = (top / name).read_text(encoding="utf-8").splitlines()
    mode = "100755" if os.access(top / name, os.X_OK) else "100644"
    return "\n".join([f"diff --git a/{name} b/{name}", f"new file mode {mode}", "--- /dev/null", f"+++ b/{name}",
                      f"@@ -0,0 +1,{len(lines)} @@", *("+" + line for line in lines)]) + "\n"


def _run(*words, cwd):
    done = subprocess.run([str(word) for word in words], cwd=cwd, capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else ""


def _base(env):
    """What the series is made for: a commit where the tree is a checkout, else a version."""
    commit = env.kdir and _run("git", "-c", "safe.directory=*", "rev-parse", "HEAD", cwd=env.kdir)
    # Debian's package is no checkout, so there is no commit to name.
    version = (env.linux / "Makefile").read_text(encoding="utf-8")[:400]
    number = ".".join(re.search(rf"^{key} = (\d+)$", version, re.M)[1] for key in ("VERSION", "PATCHLEVEL", "SUBLEVEL"))
    return f"base-commit: {commit}" if commit else f"Base: v{number} of the stable tree"


def _diffstat(mails):
    """How much each file changes, over all mails, and the sum."""
    rows = [text.split("\t") for mail in mails for text in _run("git", "apply", "--numstat", mail, cwd="/").splitlines()]
    count = {}
    for added, removed, name in rows:
        count[name] = [sum(pair) for pair in zip(count.get(name, (0, 0)), (int(added), int(removed)))]
    width = max(map(len, count))
    lines = [f" {name:{width}} | {added:5}+ {removed:4}-" for name, (added, removed) in sorted(count.items())]
    plus, minus = (sum(column) for column in zip(*count.values()))
    return "\n".join((*lines, f" {len(lines)} files changed, {plus} insertions(+), {minus} deletions(-)"))


def _cover(env, part, mails):
    """The letter that goes before the mails of a part."""
    title, _, text = (env.top / "patches/cover" / part).read_text(encoding="utf-8").partition("\n")
    subjects = "\n".join("  " + re.search(r"^Subject: \[[^]]*\] (.*)$", mail.read_text(encoding="utf-8"), re.M)[1] for mail in mails)
    sender = re.search(r"^From: .*$", mails[0].read_text(encoding="utf-8"), re.M)[0]
    people = _run("perl", env.linux / "scripts/get_maintainer.pl", "--no-git", "--no-git-fallback", "--no-rolestats", *mails, cwd=env.linux)
    copies = "".join(f"Cc: {who}\n" for who in people.splitlines())
    return (f"{sender}\nSubject: [PATCH 0/{len(mails)}] {title}\n{copies}\n{text.strip()}\n\n{subjects}\n\n{_diffstat(mails)}\n\n"
            f"{_base(env)}\n")


def refuse_taken(target):
    """Two series in one directory would be taken for one."""
    if target.exists() and any(target.iterdir()):
        raise Fail(f"{target} is not empty: give a new directory with DST=, so that `git am` finds one series")


def write(env, target, letters=True):
    """Writes all parts to a directory, with cover letters if wanted. Returns {part: its mails}."""
    refuse_taken(target)
    target.mkdir(parents=True, exist_ok=True)
    files, found = upstream.new_files(env.top), {}
    for place, (part, patches) in enumerate(upstream.parts(env.top).items(), 1):
        folder = target / f"{place}-{part}"
        folder.mkdir()
        for number, patch in enumerate(patches, 1):
            text = patch.read_text(encoding="utf-8")
            text = text.replace("[PATCH]", f"[PATCH {number}/{len(patches)}]", 1)
            text += "".join(_as_diff(env.top, name) for name, owner in files.items() if owner == patch)
            mail = folder / f"{number:04}-{patch.name.split('-', 1)[1]}"
            mail.write_text(text, encoding="utf-8")
            found.setdefault(part, []).append(mail)
        if letters:
            (folder / "cover-letter").write_text(_cover(env, part, found[part]), encoding="utf-8")
    return found
