# SPDX-License-Identifier: GPL-2.0
"""Line coverage of the driver under its KUnit suites.

QEMU tells each block of code when it first runs it, so a list of these blocks
and the line table of the kernel say which lines ran. The code is what ships.
"""

import collections
import re
import subprocess

from . import kunit
from .say import Fail, line

_DRIVER = "drivers/iommu/tce/"
_TESTS = re.compile(r"/(tests/|fake\.rs|tce_kunit\.rs)")
_ROW = re.compile(r"^(0x[0-9a-f]{16})\s+(\d+)\s+\d+\s+(\d+)\s.*?(end_sequence)?$")


def _output(*command):
    return subprocess.run([str(word) for word in command], check=True, capture_output=True, text=True, errors="replace").stdout


def _rows(vmlinux):
    """The line table of the driver: address, and file and line or nothing for the end of a part."""
    dump = _output("llvm-dwarfdump", "--debug-line", vmlinux)
    for part in re.split(r"^debug_line\[", dump, flags=re.M):
        if "tce_kunit" not in part:
            continue
        folders = dict(re.findall(r'^include_directories\[\s*(\d+)\] = "([^"]*)"', part, re.M))
        files = re.findall(r'^file_names\[\s*(\d+)\]:\s*name: "([^"]*)"\s*dir_index: (\d+)', part, re.M)
        names = {number: f"{folders.get(folder, '')}/{name}" for number, name, folder in files}
        for text in part.splitlines():
            if row := _ROW.match(text):
                address, number, file, end = row.groups()
                name = names.get(file, "")
                ours = not end and _DRIVER in name and not _TESTS.search(name) and number != "0"
                yield int(address, 16), (name[name.index(_DRIVER):], int(number)) if ours else None


def _ran(env, first, last):
    """The addresses in a range that were run."""
    log = kunit.objects(env, kunit.KASAN) / "blocks.log"
    if found := kunit.boot(env, "tce_*", "-d", "in_asm", "-dfilter", f"{first:#x}..{last:#x}", "-D", log):
        raise Fail(f"the tests do not pass: {found}")
    return {int(found, 16) for found in re.findall(r"^(0x[0-9a-f]+):", log.read_text(), re.M)}


def run(env):
    """Prints a table of files, with the lines that no suite reaches."""
    vmlinux = kunit.objects(env, kunit.KASAN) / "vmlinux.unstripped"
    rows = sorted(_rows(vmlinux), key=lambda row: row[0])
    ours = [address for address, place in rows if place]
    if not ours:
        raise Fail(f"run `make kunit ARCH={kunit.KASAN}` first")
    ran = sorted(_ran(env, ours[0], ours[-1]))
    lines, at = collections.defaultdict(lambda: collections.defaultdict(bool)), 0
    for (address, place), (end, _) in zip(rows, rows[1:]):
        while at < len(ran) and ran[at] < address:
            at += 1
        if place and end > address:
            lines[place[0]][place[1]] |= at < len(ran) and ran[at] < end
    hit = total = 0
    for file in sorted(lines):
        missed = [number for number, ran_here in sorted(lines[file].items()) if not ran_here]
        hit += len(lines[file]) - len(missed)
        total += len(lines[file])
        line(f"{100 * (len(lines[file]) - len(missed)) // len(lines[file]):3} % of {len(lines[file]):3} lines  "
             f"{file.removeprefix(_DRIVER)}  {' '.join(map(str, missed))}")
    line(f"{100 * hit // total} % of {total} lines")
    return 0
