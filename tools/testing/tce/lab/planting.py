# SPDX-License-Identifier: GPL-2.0
"""Puts many mutants into one source: a function that has mutants gets a body for
each of them besides its own, and takes the one that the kernel's command line
names. So one kernel has them all."""

import os
import re

# Braces mean nothing in these.
_TEXT = re.compile(r"""//[^\n]*|/\*.*?\*/|r(#*)".*?"\1|"(?:\\.|[^"\\])*"|'(?:\\.[^']*|[^\\'])'""", re.S)
# Several bodies of such a function have several types, or the compiler runs it.
_ALONE = re.compile(r"->\s*(?:Result<)?\(?impl\b|\bconst\s+(?:unsafe\s+)?fn\b")

# A module of the kernel crate, for both crates.
CHOICE = """
/// Which mutant is meant.
#[allow(missing_docs, clippy::all)]
pub mod mutant {
    use core::sync::atomic::{AtomicU32, Ordering::Relaxed};
    static CHOSEN: AtomicU32 = AtomicU32::new(u32::MAX);
    extern "C" {
        static saved_command_line: *const core::ffi::c_char;
    }
    #[cold]
    fn read() -> u32 {
        // SAFETY: The command line is a string that stays.
        let line = unsafe { core::ffi::CStr::from_ptr(saved_command_line) }.to_bytes();
        let at = line.windows(7).position(|word| word == b"mutant=").map_or(line.len(), |at| at + 7);
        let digits = line[at..].iter().take_while(|c| c.is_ascii_digit());
        let n = digits.fold(0, |n, c| n * 10 + u32::from(*c - b'0'));
        CHOSEN.store(n, Relaxed);
        n
    }
    #[inline(never)]
    pub fn is(n: u32) -> bool {
        let chosen = CHOSEN.load(Relaxed);
        n == if chosen == u32::MAX { read() } else { chosen }
    }
}
"""


def _bodies(text):
    """Where each function begins, its body begins, and its body ends."""
    plain = _TEXT.sub(lambda found: " " * len(found[0]), text)
    for item in re.finditer(r"\bfn\s+\w+", plain):
        depth, at = 0, item.end()
        while plain[at] not in "{;" or depth:
            depth += (plain[at] in "([") - (plain[at] in ")]")
            at += 1
        if plain[at] == ";":
            continue
        first, depth = at, 0
        while depth or at == first:
            depth += (plain[at] == "{") - (plain[at] == "}")
            at += 1
        yield plain.rfind("\n", 0, item.start()) + 1, first, at


def _change(text, old, new):
    """Where `old` becomes `new`, without what the two begin and end with, and what is there then."""
    at = text.index(old)
    head = len(os.path.commonprefix((old, new)))
    tail = len(os.path.commonprefix((old[head:][::-1], new[head:][::-1])))
    return at + head, at + len(old) - tail, new[head:len(new) - tail]


def plant(text, path, mutants):
    """Puts `mutants` of the file `path`, number: (old, new), into its text.

    Returns the text, which lines each mutant has there, and the numbers of those
    that need a kernel of their own."""
    choose = "crate::mutant::is" if path.startswith("rust/kernel/") else "kernel::mutant::is"
    bodies = list(_bodies(text))
    homes, alone = {}, []
    for number, (old, new) in mutants.items():
        begin, end, _ = _change(text, old, new)
        around = [body for body in bodies if body[1] < begin and end < body[2]]
        if not around or _ALONE.search(text[around[-1][0]:around[-1][1]]):
            alone.append(number)
        else:
            homes.setdefault(around[-1], []).append(number)
    for body in list(homes):
        if any(other[1] < body[1] and body[2] <= other[2] for other in homes):
            alone += homes.pop(body)
    out, last, lines = "", 0, {}
    for (_, first, end), numbers in sorted(homes.items()):
        out += text[last:first] + "{ "
        for number in numbers:
            begin, rest, new = _change(text, *mutants[number])
            before = out.count("\n")
            out += f"if {choose}({number}) {text[first:begin]}{new}{text[rest:end]} else "
            lines[number] = range(before + 1, out.count("\n") + 2)
        out += text[first:end] + " }"
        last = end
    return out + text[last:], lines, alone
