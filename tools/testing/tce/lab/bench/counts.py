# SPDX-License-Identifier: GPL-2.0
"""What the plugin counted, by symbol and by hypercall."""

import bisect
import collections
import dataclasses
import re

# Instructions at addresses this far above the nearest symbol are not the kernel's.
_FAR = 1 << 16
# Where skiboot is.
_OPAL = range(0x30000000, 0x34000000)
# From another module, and from the same one, by the ELFv2 ABI.
_ENTRIES = (0, 8)
FIRMWARE, USER = "OPAL", "user space"
H_RTAS = 0xf000
HCALLS = {0x20: "H_PUT_TCE", 0x138: "H_STUFF_TCE", 0x13c: "H_PUT_TCE_INDIRECT", H_RTAS: "RTAS"}
TCE_HCALLS = ("H_PUT_TCE", "H_STUFF_TCE", "H_PUT_TCE_INDIRECT")
KILL = "opal_pci_tce_kill"
_OPAL_WINDOWS = ("opal_pci_map_pe_dma_window", "opal_pci_map_pe_dma_window_real")
_WAIT = "queued_spin_lock_slowpath"
MODULE = "[tce_iommu]"


def is_own(symbol):
    """Ours: the module with its stubs, Rust in the kernel, the helpers in C."""
    return symbol.endswith(MODULE) or (symbol.startswith(("_R", "rust_helper_")) and not symbol.endswith("]"))


class Symbols:
    """Names of addresses in a running guest."""

    def __init__(self, system_map, guest):
        """From System.map, and lines "address type name [module]" of the guest."""
        found = re.findall(r"^([0-9a-f]{16}) [tTwW] (\S+)$", system_map, re.M)
        found += [(address, f"{name} [{module}]")
                  for address, name, module in re.findall(r"^([0-9a-f]{16}) [tTwW] (\S+)\s+\[(\w+)\]$", guest, re.M)]
        table = sorted((int(address, 16), name) for address, name in found)
        self._starts = [address for address, _ in table]
        self._names = [name for _, name in table]

    def at(self, address):
        """(name, whether calls go to this address)."""
        place = bisect.bisect(self._starts, address) - 1
        if place < 0 or address - self._starts[place] >= _FAR:
            return FIRMWARE if address in _OPAL else USER, False
        return self._names[place], address - self._starts[place] in _ENTRIES


@dataclasses.dataclass
class Part:
    """One part of a measurement."""

    symbols: collections.Counter = dataclasses.field(default_factory=collections.Counter)
    calls: collections.Counter = dataclasses.field(default_factory=collections.Counter)
    hcalls: collections.Counter = dataclasses.field(default_factory=collections.Counter)

    @property
    def all(self):
        return self.symbols.total()

    @property
    def own(self):
        return sum(count for name, count in self.symbols.items() if is_own(name))

    @property
    def kills(self):
        return self.calls[KILL]

    @property
    def tce_calls(self):
        """Hypercalls that change TCEs, and kills."""
        return sum(self.hcalls[name] for name in TCE_HCALLS) + self.kills

    @property
    def window_calls(self):
        """Calls of firmware about windows: RTAS or OPAL."""
        return (sum(count for name, count in self.hcalls.items() if "dma-window" in name) +
                sum(self.calls[name] for name in _OPAL_WINDOWS))

    @property
    def locks(self):
        """Spinlocks taken."""
        return sum(count for name, count in self.calls.items() if name.startswith("_raw_spin_lock"))

    @property
    def waits(self):
        """Spinlocks that another CPU had."""
        return self.calls[_WAIT]

    def __add__(self, other):
        return Part(self.symbols + other.symbols, self.calls + other.calls, self.hcalls + other.hcalls)


def parse(text, symbols, rtas):
    """The two parts of each measurement in what the plugin wrote; `rtas` has names of tokens."""
    done, parts = [], (Part(), Part())
    for line in text.splitlines():
        words = line.split()
        if words[0] == "end":
            done.append(parts)
            parts = (Part(), Part())
        elif words[0] == "block":
            name, beginning = symbols.at(int(words[2], 16))
            if name == USER:
                continue
            parts[int(words[1])].symbols[name] += int(words[3])
            if beginning:
                parts[int(words[1])].calls[name] += int(words[4])
        else:
            opcode, token = int(words[2], 16), int(words[3], 16)
            name = HCALLS.get(opcode, f"hypercall {opcode:#x}")
            if opcode == H_RTAS:
                name += " " + rtas.get(token, f"{token:#x}")
            parts[int(words[1])].hcalls[name] += int(words[4])
    return done
