# SPDX-License-Identifier: GPL-2.0
"""Which file of a crate imports which: no circle, and in the driver no arrow to
a floor above, by the order that tce_iommu_main.rs gives. No file of the
abstractions is too long to be read at once."""

import re

from . import upstream
from .guest import GuestError

DRIVER, ABSTRACTIONS = "drivers/iommu/tce", "rust/kernel/iommu"
MOST_LINES = 400
# Tests stand outside, and import what they like.
_TESTS = re.compile(r"(^|/)(tests/|fake|mock|testing|tce_kunit|tce_testdev|\w*_(test|mock)\.rs)")
# The modules of the abstractions that only POWER has, and the file that may name them: it calls the real firmware.
_POWER = ("kernel::powerpc::tce", "kernel::powerpc::hvcall")
_ONLY_POWER = (("firmware", "real"),)
_ITEM = re.compile(r"^\s*pub(?:\([^)]*\))?\s+(?:(?:const|unsafe)\s+)*(?:struct|enum|union|trait|fn|type|static|const)\s+(\w+)", re.M)


def _files(top, place):
    """{module path: text} of a crate, without comments."""
    found = {}
    for path in sorted((top / place).rglob("*.rs")):
        name = path.relative_to(top / place).as_posix()
        if not _TESTS.search(name):
            words = tuple(name.removesuffix(".rs").removesuffix("/mod").split("/"))
            found[words] = re.sub(r"//.*", "", path.read_text(encoding="utf-8"))
    return found


def _expand(tree):
    """Paths of a use tree: a::{b, c::d} is a::b and a::c::d."""
    begin, brace, rest = tree.partition("{")
    if not brace:
        yield re.sub(r"\s+as\s+\w+|\s", "", tree)
        return
    depth, part = 1, ""
    for letter in rest:
        depth += (letter == "{") - (letter == "}")
        if depth == 0 or (letter == "," and depth == 1):
            if part.strip():
                yield from _expand(begin + part.strip())
            part = ""
            if depth == 0:
                return
        else:
            part += letter


def _paths(text):
    """The paths below crate:: and super:: that a file names."""
    uses = re.findall(r"\buse\s+((?:crate|super)\b[^;]*);", text)
    rest = re.sub(r"\buse\s[^;]*;", "", text)
    return [path.split("::") for tree in uses for path in _expand(tree)] + \
        [path.split("::") for path in re.findall(r"\b((?:crate|super)(?:::\w+)+)", rest)]


def imports(top, place):
    """{file: the files it imports}, by module path; a folder and its mod.rs are one room."""
    files = _files(top, place)
    home = {}       # of the public names at the top of the abstractions
    for module, text in files.items():
        home.update(dict.fromkeys(_ITEM.findall(text), module))
    found = {}
    for module, text in files.items():
        targets = set()
        for head, *words in _paths(text):
            if head == "super":
                words = [*module[:-1], *words]
            elif place == ABSTRACTIONS:
                if words[:1] != ["iommu"]:
                    continue
                words = words[1:]
            target = next((tuple(words[:n]) for n in range(len(words), 0, -1) if tuple(words[:n]) in files), None)
            target = target or (words and home.get(words[0]))
            together = (target and target[:-1] == module) or target == module[:-1]
            if target and target != module and not together:
                targets.add(target)
        found[module] = targets
    return found


def circle(graph):
    """Some circle of a graph, or None."""
    done = set()

    def visit(node, way):
        if node in way:
            return (*way[way.index(node):], node)
        if node in done:
            return None
        found = next(filter(None, (visit(target, (*way, node)) for target in sorted(graph.get(node, ())))), None)
        done.add(node)
        return found
    return next(filter(None, (visit(node, ()) for node in sorted(graph))), None)


def floors(graph):
    """The files by floor: each imports only from floors below."""
    height = {}

    def measure(node):
        if node not in height:
            height[node] = 1 + max((measure(target) for target in graph[node]), default=-1)
        return height[node]
    for node in graph:
        measure(node)
    return [" ".join("/".join(node) for node in sorted(graph) if height[node] == n) for n in range(max(height.values()) + 1)]


def _lines(folder, module):
    return len(folder.joinpath(*module).with_suffix(".rs").read_text(encoding="utf-8").splitlines())


def _order(top):
    """The rooms of the driver, ground floor first, as tce_iommu_main.rs has them."""
    return re.findall(r"^//! \* \[`(\w+)`\]", (top / DRIVER / "tce_iommu_main.rs").read_text(encoding="utf-8"), re.M)


def house(env, _):
    """No circle of imports, no arrow to a floor above, no long file among the abstractions."""
    drawn = []
    for place in (DRIVER, ABSTRACTIONS):
        graph = imports(env.top, place)
        if found := circle(graph):
            raise GuestError(f"{place}: a circle: {' -> '.join('/'.join(node) for node in found)}")
        if place == ABSTRACTIONS and (long := [name for name in graph if _lines(env.top / place, name) > MOST_LINES]):
            raise GuestError(f"{place}: more than {MOST_LINES} lines: {', '.join('/'.join(name) for name in long)}")
        drawn.append(f"{place}: {' | '.join(floors(graph))}")
    order = _order(env.top)
    for module, targets in imports(env.top, DRIVER).items():
        for target in targets:
            if module[0] not in order and module != ("tce_iommu_main",):
                raise GuestError(f"tce_iommu_main.rs does not list {module[0]}")
            if module[0] in order and module[0] != target[0] and order.index(target[0]) > order.index(module[0]):
                raise GuestError(f"{'/'.join(module)} imports {'/'.join(target)}, which stands above it")
    return "\n".join(drawn)


def neutral(env, _):
    """What the KUnit suite has of the driver names nothing that only POWER has: KASAN watches it on another architecture."""
    suite = (env.top / DRIVER / "tce_kunit.rs").read_text(encoding="utf-8")
    shared = re.findall(r"^mod (\w+);", re.sub(r"#\[path = .*\n.*", "", suite), re.M)
    for module, text in _files(env.top, DRIVER).items():
        uses = [path for tree in re.findall(r"\buse\s+(kernel\b[^;]*);", text) for path in _expand(tree)]
        if module[0] in shared and module not in _ONLY_POWER and any(path.startswith(_POWER) for path in uses):
            raise GuestError(f"{'/'.join(module)} names what only POWER has")
    return f"{len(shared)} rooms"


def kconfig(env, _):
    """The Kconfig at the top sources each of ours, as an in-tree module's does."""
    listed = re.findall(r'^source "(.*)"$', (env.top / "Kconfig").read_text(encoding="utf-8"), re.M)
    ours = [name for name in upstream.own_files(env.top) if name.endswith("/Kconfig")]
    if sorted(listed) != ours:
        raise GuestError(f"Kconfig sources {', '.join(listed)}; there are {', '.join(ours)}")


def house_notices(_env, _objects):
    """A circle of three is found, a diamond is none."""
    if not circle({1: {2}, 2: {3}, 3: {1}}) or circle({1: {2, 3}, 2: {4}, 3: {4}, 4: set()}):
        raise GuestError("circles are not told from diamonds")
    want = ["super::a::b", "super::c::d", "super::c::e", "super::f"]
    if list(_expand("super::{a::b, c::{d, e as x}, f, //\n}".replace("//", ""))) != want:
        raise GuestError("a use tree is not read")


def lab_map(env, _):
    """The map of the lab names each file of it."""
    lab = env.tce / "lab"
    text = (lab / "README.md").read_text(encoding="utf-8")
    files = [path.name for path in lab.glob("*.py")] + [path.stem for path in (lab / "tests").glob("*.py")]
    if missing := [name for name in files if not name.startswith("__") and f"`{name}`" not in text]:
        raise GuestError(f"lab/README.md lacks {', '.join(sorted(missing))}")


CHECKS = (house, house_notices, neutral, kconfig, lab_map)
