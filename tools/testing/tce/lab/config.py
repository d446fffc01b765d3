# SPDX-License-Identifier: GPL-2.0
"""Kernel configuration: fragments merged over allnoconfig, and verified.

A flavour is a name made of fragments, such as modern-debug-64k; base belongs
to every flavour of POWER.
"""

import re

from . import arch
from .say import Fail, log_tail, run_logged


# A kernel for POWER has one of each.
_DRIVERS, _PAGES = ("modern", "legacy"), ("64k", "4k")


def fragments(env, flavour):
    """The fragment files of a flavour."""
    words = flavour.split("-")
    files = [env.tce / "configs" / f"{word}.config" for word in dict.fromkeys([arch.of(flavour).fragment, *words])]
    for path in files:
        if not path.exists():
            raise Fail(f"flavour {flavour}: there is no {path.relative_to(env.top)}; an example of a flavour is modern-64k")
    if arch.of(flavour) == arch.POWERPC and any(sum(word in words for word in choice) != 1 for choice in (_DRIVERS, _PAGES)):
        raise Fail(f"flavour {flavour}: name one of {', '.join(_DRIVERS)} and one of {', '.join(_PAGES)}, such as "
                   f"modern-64k; debug, kvm and builtin may stand between them")
    return files


def parse(text):
    """{symbol: value} of a .config or fragment; what is not set is n."""
    values = {}
    for entry in text.splitlines():
        if found := re.match(r"(CONFIG_\w+)=(.*)", entry):
            values[found[1]] = found[2]
        elif found := re.match(r"# (CONFIG_\w+) is not set", entry):
            values[found[1]] = "n"
    return values


def wanted(env, flavour):
    """What the fragments of a flavour ask for; later fragments win."""
    values = {}
    for path in fragments(env, flavour):
        values.update(parse(path.read_text(encoding="utf-8")))
    return values


def configure(env, flavour, make, objects):
    """Writes objects/.config when it differs. Returns True when it changed."""
    return configure_values(wanted(env, flavour), flavour, make, objects)


def configure_values(values, flavour, make, objects):
    """The same for a table of symbols."""
    objects.mkdir(parents=True, exist_ok=True)
    request = objects / ".config.wanted"
    request.write_text("".join(f"{name}={value}\n" for name, value in sorted(values.items())), encoding="utf-8")
    log = objects.with_suffix(".config.log")
    # Made beside the live one, so that an equal result triggers no rebuild.
    if not run_logged([*make, f"KCONFIG_ALLCONFIG={request}", f"KCONFIG_CONFIG={objects}/.config.new",
                       "allnoconfig"], log):
        raise Fail(f"cannot configure {flavour}; {log} says:\n{log_tail(log)}")
    text = (objects / ".config.new").read_text(encoding="utf-8")
    got = parse(text)
    wrong = [f"{name}={value} became {got.get(name, 'n')}"
             for name, value in sorted(values.items()) if got.get(name, "n") != value]
    if wrong:
        why = "a dependency is missing, or a select forces another value"
        if got.get("CONFIG_RUST", "n") == "n" and values.get("CONFIG_RUST") == "y":
            why = "the Rust tools do not do: `make LLVM=1 rustavailable` in the kernel tree says why"
        raise Fail(f"flavour {flavour}: Kconfig refused {'; '.join(wrong)} ({why})")
    current = objects / ".config"
    if current.exists() and current.read_text(encoding="utf-8") == text:
        return False
    (objects / ".config.new").replace(current)
    return True
