# SPDX-License-Identifier: GPL-2.0
"""Checks that need no boot: style, documentation, symbols, overlay, patches."""

import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

from . import config, debian, initramfs, kernel, libvirt, mails, mutations, outsiders, say, source, tcetop, upstream
from .guest import GuestError
from .scenario import Result, Skip

# What checkpatch says that does not hold: MAINTAINERS has the files, in a patch of its own, and Debian's source has no history.
_IGNORE = "FILE_PATH_CHANGES,UNKNOWN_COMMIT_ID"

# What checkpatch says that is wrong, by file.
_EXCEPT = {
    "arch/powerpc/include/asm/bug.h": ("AVOID_BUG", "MACRO_ARG_UNUSED"),     # the macros behind BUG()
    # As the code around it
    "arch/powerpc/[^:]*": ("PARENTHESIS_ALIGNMENT", "PREFER_KERNEL_TYPES"),
    "drivers/iommu/dma-iommu.c": ("PARENTHESIS_ALIGNMENT",),
    # As events are written everywhere
    "include/trace/events/[^:]*": ("PARENTHESIS_ALIGNMENT", "OPEN_ENDED_LINE"),
    # linux/mmzone.h includes asm/mmzone.h with NUMA only
    "rust/bindings/bindings_helper.h": ("INCLUDE_LINUX",),
    "rust/helpers/powerpc.c": ("INCLUDE_LINUX",),
}


def _own(env, suffix):
    return [name for name in upstream.own_files(env.top) if name.endswith(suffix)]


def _fail_on(output, what):
    if output.strip():
        raise GuestError(f"{what}: " + " | ".join(output.strip().splitlines()[:12]))


def rustfmt(env, _):
    """Every Rust file is formatted."""
    files = _own(env, ".rs")
    done = subprocess.run(["rustfmt", "--check", "--edition", "2021", "--config-path", env.linux / ".rustfmt.toml",
                           "--config", "skip_children=true", "-l", *files], cwd=env.top, capture_output=True, text=True, check=False)
    if done.returncode and "skip_children" in done.stderr:
        done = subprocess.run(["rustfmt", "--check", "--edition", "2021", "--config-path", env.linux / ".rustfmt.toml",
                               "-l", *files], cwd=env.top, capture_output=True, text=True, check=False)
    ours = {str(env.top / name) for name in files}
    wrong = [line for line in done.stdout.splitlines() if line in ours] or ([done.stderr] if done.returncode else [])
    _fail_on("\n".join(wrong), "not formatted")
    return f"{len(files)} files"


# All that is ours is in it, and the tests.
LINTED = "modern-debug-64k"


def _rust_copy(env, objects):
    """An O= directory of its own, so that clippy and rustdoc do not make the
    next ordinary build start over."""
    copy = env.build / "kernel/.rust-checks"
    if not copy.exists():
        say.need_space(env.build, 1500)
        # But for what boots that run beside it may be building.
        subprocess.run(["rsync", "-a", "--exclude=/selftests", "--exclude=/usr", f"{objects[LINTED]}/", copy], check=True)
    config.configure(env, LINTED, kernel.make_command(env, copy), copy)
    return copy


def _once(env, name, check):
    """Runs a long check unless nothing it reads has changed since it passed."""
    tree = source.Tree(env.top, env.linux, env.build / "linux.notes")
    stamp = env.build / "kernel" / f".{name}.passed"
    if stamp.exists() and stamp.read_text() == tree.id:
        return "unchanged since it passed"
    stamp.unlink(missing_ok=True)
    check()
    stamp.write_text(tree.id)
    return ""


def _ours_only(env, log):
    """The warnings of a rustc log that point into our own files, and errors."""
    ours = set(_own(env, ".rs"))
    found, head = [], ""
    for text in log.read_text(encoding="utf-8", errors="replace").splitlines():
        if re.match(r"(warning|error)(\[|:)", text):
            head = text
        elif (place := re.match(r"\s*--> (\S+?):(\d+)", text)) and head:
            name = place[1].removeprefix(str(env.linux) + "/").removeprefix("../")
            if name in ours or any(name.endswith("/" + one) for one in ours):
                found.append(f"{head} ({name}:{place[2]})")
            head = ""
    return "\n".join(found)


def clippy(env, objects):
    """clippy has nothing to say about our files."""
    return _once(env, "clippy", lambda: _clippy(env, objects))


def _clippy(env, objects):
    copy = _rust_copy(env, objects)
    log = copy.with_name("clippy.log")
    with say.Progress("clippy") as progress:
        good = say.run_logged([*kernel.make_command(env, copy), "CLIPPY=1", "rust/", "drivers/iommu/tce/"], log, progress, "  ")
    _fail_on(_ours_only(env, log), "clippy")
    _fail_on("" if good else say.log_tail(log), "clippy")


# Pages of crates that are not ours count as made: core's alone take longer than ours.
_UNREAD = " ".join(f"-o rustdoc-{crate}" for crate in (
    "core", "compiler_builtins", "ffi", "macros", "pin_init", "pin_init_internal", "proc_macro2", "quote", "syn", "zerocopy",
    "zerocopy_derive"))


def rustdoc(env, objects):
    """rustdoc builds without a warning about our files."""
    return _once(env, "rustdoc", lambda: _rustdoc(env, objects))


def _rustdoc(env, objects):
    copy = _rust_copy(env, objects)
    log = copy.with_name("rustdoc.log")
    with say.Progress("rustdoc") as progress:
        good = say.run_logged([*kernel.make_command(env, copy), f"MAKE=make {_UNREAD}", "rustdoc"], log, progress, "  ")
    _fail_on(_ours_only(env, log), "rustdoc")
    _fail_on("" if good else say.log_tail(log), "rustdoc")


def htmldocs(env, objects):
    """Our pages build with `make htmldocs` without a warning."""
    if not shutil.which("sphinx-build") or not shutil.which("dot"):
        raise Skip("no sphinx-build or no dot here")
    return _once(env, "htmldocs", lambda: _htmldocs(env, objects))


def _htmldocs(env, _):
    pages = [name.removeprefix("Documentation/") for name in _own(env, ".rst")]
    abi = [name for name in upstream.own_files(env.top) if name.startswith("Documentation/ABI/")]
    out = env.build / "docs"
    out.mkdir(exist_ok=True)
    # The indexes, so that a page that is in none of them shows.
    listed = ",".join(["index.rst", *{f"{name.split('/')[0]}/index.rst" for name in pages}, *pages])
    log = out / "htmldocs.log"
    with say.Progress("htmldocs"):
        good = say.run_logged(["make", "-C", env.linux, f"O={out}", "htmldocs",
                               f"SPHINXOPTS=-E -D include_patterns={listed} -D exclude_patterns=netlink/**"], log)
        # It looks at the ABI files as a whole.
        good = say.run_logged(["python3", env.linux / "tools/docs/get_abi.py", "--dir", env.linux / "Documentation/ABI", "validate"],
                              out / "abi.log") and good
    said = [*log.read_text(encoding="utf-8").splitlines(), *(out / "abi.log").read_text(encoding="utf-8").splitlines()]
    _fail_on("\n".join(text for text in said if any(name in text for name in pages + abi)), "htmldocs")
    _fail_on("" if good else say.log_tail(log), "htmldocs")
    missing = [name for name in pages if not list(out.rglob(f"{name.removesuffix('.rst')}.html"))]
    _fail_on("\n".join(missing), "no page")


# How the driver says something, and how a patch of ours does.
_SAYS = re.compile(r'(?:dev|pr)_(?:info|notice|warn|err)(?:_once|_ratelimited)?!\(\s*(?:\w+(?:\(\))?(?:\.\w+\(\))*,\s*)?"([^"]*?)(?:\\n)?"', re.S)

_SAYS_IN_C = re.compile(r'^\+?.*\b(?:dev|pr|pci|pe)_(?:info|notice|warn|err)(?:_once|_ratelimited)?\((?:[^"\n]*,\s*(?:\n\+?\s*)?)?"([^"]*?)(?:\\n)?"', re.M)


# What the legacy driver is built from, of the files that our patches change.
LEGACY = ("arch/powerpc/kernel/", "arch/powerpc/platforms/", "drivers/iommu/iommu.c", "drivers/vfio/group.c", "kernel/dma/")


def legacy_compiles(env, _):
    """What our patches change compiles with the legacy driver chosen; check-all boots it."""
    return _once(env, "legacy", lambda: _legacy_compiles(env))


def _legacy_compiles(env):
    objects = env.build / "kernel/.legacy"
    make = kernel.make_command(env, objects)
    # Rust has no part in it, and costs more than all of it.
    config.configure_values(config.wanted(env, "legacy-64k") | {"CONFIG_RUST": "n"}, "legacy-64k", make, objects)
    touched = [name for name in upstream.touched_files(upstream.series(env.top)) if name.endswith(".c") and name.startswith(LEGACY)]
    log = objects.with_name("legacy.log")
    with say.Progress("objects of the legacy driver") as progress:
        good = say.run_logged([*make, *(f"{name.removesuffix('.c')}.o" for name in touched)], log, progress, "  ")
    text = log.read_text(encoding="utf-8", errors="replace")
    _fail_on("" if good else say.log_tail(log), "legacy")
    _fail_on("\n".join(line for line in text.splitlines() if "warning:" in line), "legacy")


def messages(env, _):
    """The guide has an entry for each message of the driver and of our patches."""
    guide = (env.top / "Documentation/admin-guide/tce-iommu.rst").read_text(encoding="utf-8").split("\nMessages\n")[1]
    listed = {re.sub(r"\b[A-Z]\b", "*", text) for text in re.findall(r"^``(.*)``$", guide, re.M)}
    said = {}
    for name in _own(env, ".rs"):
        if name.startswith("drivers/iommu/tce/") and "/tests/" not in name and "testdev" not in name:
            for text in _SAYS.findall((env.top / name).read_text(encoding="utf-8")):
                said[re.sub(r"\{[^}]*\}", "*", text)] = name
    pristine = source.Tree(env.top, env.linux, env.build / "linux.notes").pristine
    before = "".join(path.read_text(encoding="utf-8") for path in pristine.rglob("*.c"))
    new = [env.top / name for name in _own(env, ".c") if name.startswith("arch/")]
    added = {patch: "".join(line for line in patch.read_text(encoding="utf-8").splitlines(True) if line.startswith("+"))
             for patch in upstream.series(env.top)}
    for file, code in (added | {file: file.read_text(encoding="utf-8") for file in new}).items():
        for text in _SAYS_IN_C.findall(code):
            if text not in before:
                said[re.sub(r"%#?(?:ll[dux]|l[dux]|pad|pOF|\w)", "*", text)] = file.name
    _fail_on("\n".join(f"{name}: {text}" for text, name in said.items() if text not in listed), "not in the guide")
    _fail_on("\n".join(sorted(listed - set(said))), "in the guide, but never said")
    return f"{len(said)} messages"


def tce_top(env, _):
    """The tests of tce-top pass on this machine."""
    return tcetop.test(env)


def pyflakes(env, _):
    """The lab uses no name that is not there, and imports none that it does not use."""
    tree = debian.tools(env, "pyflakes-tools", "pyflakes", ("python3-pyflakes",))
    done = subprocess.run([sys.executable, "-m", "pyflakes", env.tce / "lab"], capture_output=True, text=True, check=False,
                          env={**os.environ, "PYTHONPATH": str(tree / "usr/lib/python3/dist-packages")})
    _fail_on(done.stdout + done.stderr, "names")


def libvirt_xml(env, _):
    """libvirt takes the guest in the guide for a domain."""
    return libvirt.check(env)


def checkpatch(env, _):
    """checkpatch --strict has nothing to say about the mails of the series."""
    return _once(env, "checkpatch", lambda: _checkpatch(env))


def _checkpatch(env):
    script = ["perl", str(env.linux / "scripts/checkpatch.pl"), f"--root={env.linux}", "--strict", "--no-summary", "--terse",
              "--show-types", "--showfile", f"--ignore={_IGNORE}"]
    # A repository around the tree is not the kernel's.
    outside = {**os.environ, "GIT_DIR": os.devnull + "/none"}
    with tempfile.TemporaryDirectory() as folder:
        written = [mail for part in mails.write(env, pathlib.Path(folder, "series"), letters=False).values() for mail in part]
        done = subprocess.run([*script, *written], cwd=env.linux, env=outside, capture_output=True,
                              text=True, check=False)
    output = done.stdout + (done.stderr if done.returncode > 1 else "")
    excused = [f"{name}:.*:{kind}:" for name, kinds in _EXCEPT.items() for kind in kinds]
    _fail_on("\n".join(text for text in output.splitlines() if not any(re.match(one, text) for one in excused)),
             "checkpatch")


def git_am(env, _):
    """git am takes the mails, and what comes out is the tree that is tested."""
    with tempfile.TemporaryDirectory() as folder:
        series, tree = pathlib.Path(folder, "series"), pathlib.Path(folder, "tree")
        written = [mail for part in mails.write(env, series, letters=False).values() for mail in part]
        tree.mkdir()
        _toy_tree(env, tree)
        git = ["git", "-c", "user.name=tce", "-c", "user.email=tce@localhost", "-C", tree]
        for command in (["init", "-q"], ["add", "-f", "."], ["commit", "-q", "-m", "pristine"], ["am", "-q", *written]):
            done = subprocess.run([*git, *command], capture_output=True, text=True, check=False)
            _fail_on("" if done.returncode == 0 else done.stdout + done.stderr, f"git {command[0]}")
        differ = [name for name in (*upstream.own_files(env.top), *upstream.touched_files(upstream.series(env.top)))
                  if (tree / name).read_bytes() != (env.linux / name).read_bytes()]
    _fail_on("\n".join(differ), "not as in the tree")
    return f"{len(written)} mails"


def no_panic_symbol(env, objects):
    """No module of ours can reach core::panicking."""
    found = initramfs.modules(objects["modern-64k"])
    for name in ("tce_iommu", "tce_testdev"):
        symbols = subprocess.run(["llvm-nm", found[name]], capture_output=True, text=True, check=True).stdout
        _fail_on("\n".join(line for line in symbols.splitlines() if "core9panicking" in line), name)


def patches_exact(env, _):
    """The series applies without fuzz, every patch has its mail header, and every file of ours comes with one."""
    patches = upstream.series(env.top)
    listed = {patch.name for patch in patches}
    stray = {path.name for path in (env.top / "patches").glob("*.patch")} - listed
    _fail_on("\n".join(sorted(stray)), "not in patches/series")
    for patch in patches:
        text = patch.read_text(encoding="utf-8")
        for need in ("From: ", "Subject: [PATCH", "Signed-off-by: "):
            _fail_on("" if need in text else f"{patch.name} lacks {need}", "header")
    _fail_on("\n".join(name for name, patch in upstream.new_files(env.top).items() if not patch), "comes with no patch")
    for part, fixes in upstream.parts(env.top).items():
        for patch in fixes if part.endswith("-fixes") else ():
            for need in ("Fixes: ", "Cc: stable@"):
                _fail_on("" if need in patch.read_text(encoding="utf-8") else f"{patch.name} lacks {need}", part)
    letters = {path.name for path in (env.top / "patches/cover").iterdir()}
    _fail_on("\n".join(sorted(letters ^ set(upstream.parts(env.top)))), "a part without a cover letter, or the other way round")
    return f"{len(patches)} patches"


# The parts without which there is no driver; the others fix what is wrong without it too, or make the core faster.
_NEEDED, _MOST_LINES = ("rust-iommu", "rust-sva", "tce-iommu"), 900


def patch_lines(env, _):
    """What the driver needs changed in files of the kernel stays under 900 lines."""
    lines = {part: sum(map(upstream.changed_lines, patches)) for part, patches in upstream.parts(env.top).items()}
    needed = sum(lines[part] for part in _NEEDED)
    _fail_on("" if needed < _MOST_LINES else f"{needed} lines", "patches of the driver")
    return f"{needed} lines; " + ", ".join(f"{part} {count}" for part, count in lines.items())


def mutants_fit(env, _):
    """What the mutants break is there, once each."""
    listed = mutations.MUTANTS + outsiders.MUTANTS
    counts = {mutant[0]: (env.linux / mutant[1]).read_text(encoding="utf-8").count(mutant[2]) for mutant in listed}
    _fail_on("\n".join(f"{name}: {count} times" for name, count in counts.items() if count != 1), "mutants")
    return f"{len(listed)} mutants"


def _toy_tree(env, folder):
    """A few pristine files that pass for a kernel tree."""
    tree = pathlib.Path(folder)
    shutil.copy(env.linux / "Makefile", tree / "Makefile")
    notes = source.Tree(env.top, env.linux, env.build / "linux.notes")
    if notes.pristine.exists():
        shutil.copytree(notes.pristine, tree, dirs_exist_ok=True)
    return tree


def _must_fail(run, *words):
    try:
        run()
    except say.Fail as problem:
        missing = [word for word in words if word not in str(problem)]
        _fail_on(", ".join(missing), f"the message {problem} lacks")
        _fail_on(str(problem) if "\n" in str(problem) else "", "more than one line")
        return
    raise GuestError("was not refused")


def overlay_works(env, _):
    """The overlay lays every file of ours into a pristine tree."""
    with tempfile.TemporaryDirectory() as folder:
        tree = _toy_tree(env, folder)
        source.overlay(env, tree)
        for name in upstream.own_files(env.top):
            _fail_on("" if (tree / name).exists() else name, "not laid")


def overlay_refuses(env, _):
    """The overlay never overwrites a kernel file."""
    with tempfile.TemporaryDirectory() as folder:
        tree = _toy_tree(env, folder)
        name = upstream.own_files(env.top)[0]
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_text("theirs")
        _must_fail(lambda: source.overlay(env, tree), name, "never overwrites")
        _fail_on("" if (tree / name).read_text() == "theirs" else name, "overwritten")


def bad_hunk_named(env, _):
    """A patch that does not apply is named, with its hunk, and nothing is laid."""
    with tempfile.TemporaryDirectory() as folder:
        tree = _toy_tree(env, folder)
        patch = upstream.series(env.top)[0]
        name = upstream.touched_files([patch])[0]
        (tree / name).write_text("something else\n")
        _must_fail(lambda: source.overlay(env, tree), patch.name, name, "hunk")
        laid = [own for own in upstream.own_files(env.top) if (tree / own).exists()]
        _fail_on("\n".join(laid), "laid all the same")


def wrong_version(env, _):
    """Another kernel series is refused, another 7.3.y is not."""
    with tempfile.TemporaryDirectory() as folder:
        tree = _toy_tree(env, folder)
        text = (tree / "Makefile").read_text()
        (tree / "Makefile").write_text(re.sub(r"^SUBLEVEL = .*", "SUBLEVEL = 99", text, flags=re.M))
        if source.check_version(tree) != "7.3.99":
            raise GuestError("7.3.99 was not accepted")
        (tree / "Makefile").write_text(re.sub(r"^PATCHLEVEL = .*", "PATCHLEVEL = 4", text, flags=re.M))
        _must_fail(lambda: source.check_version(tree), "7.4", "SpinLockIrq", "KDIR")


def config_verified(env, _):
    """A symbol that Kconfig refuses is named."""
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        objects = folder / "objects"
        _must_fail(lambda: config.configure_values({"CONFIG_NO_SUCH_SYMBOL": "y"}, "toy",
                                                   kernel.make_command(env, objects), objects), "CONFIG_NO_SUCH_SYMBOL")


FAST = (overlay_works, overlay_refuses, bad_hunk_named, wrong_version, config_verified, patches_exact, patch_lines, git_am,
        mutants_fit, messages, rustfmt, checkpatch, htmldocs, no_panic_symbol)
# rustdoc before clippy: it takes the crate as the kernel's build left it.
SLOW = (legacy_compiles, rustdoc, clippy)
# Fetches more packages.
ONLY_ALL = (tce_top, libvirt_xml, pyflakes)


def run(env, tests, objects, report):
    """Runs checks and reports a Result for each."""
    for test in tests:
        try:
            result = Result(f"static.{test.__name__}", "ok", test(env, objects) or "")
        except Skip as why:
            result = Result(f"static.{test.__name__}", "skip", str(why))
        except (GuestError, say.Fail, OSError, subprocess.CalledProcessError) as problem:
            result = Result(f"static.{test.__name__}", "not ok", " | ".join(str(problem).splitlines()))
        report(result)
