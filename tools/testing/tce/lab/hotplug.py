# SPDX-License-Identifier: GPL-2.0
"""Plugging devices and PHBs of a running guest, as administrator's tools do."""

import re
import time

from .guest import GuestError, patience

# PAPR: what set-indicator sets.
_ISOLATION, _ALLOCATION = 9001, 9003
# PCI Express: a capability, its register for slots, and power and its indicator there.
_CAP_LIST, _CAP_EXPRESS, _SLOT_CONTROL = 0x34, 0x10, 0x18
_POWER_ON, _POWER_OFF = 0x0100, 0x0700
_SECONDS = 60


def unplug(guest, ident, let_go=""):
    """Takes a device out of QEMU; `let_go` makes the guest agree."""
    guest.qmp("device_del", id=ident)
    if let_go:
        guest.run(let_go)
    for _ in patience(_SECONDS):
        if all(item["name"] != ident for item in guest.qmp("qom-list", path="/machine/peripheral")):
            return
        time.sleep(0.01)
    raise GuestError(f"{ident} stays plugged")


def plug_disk(guest, number, bus, image):
    """Puts the nvme that the machine's command line numbers so into QEMU, with the same image."""
    node = f"disk{number}"
    # The drive of the command line went with its device.
    if all(known.get("node-name") != node for known in guest.qmp("query-named-block-nodes")):
        guest.qmp("blockdev-add", **{"node-name": node, "driver": "raw",
                                     "file": {"driver": "file", "filename": str(image)}})
    for _ in patience(_SECONDS):
        try:
            return guest.qmp("device_add", driver="nvme", id=f"dev{number}", serial=node, drive=node, bus=bus)
        except GuestError as refused:
            # A device lets go of its image a moment after it has gone.
            if not re.search('Permission conflict|Failed to get "write" lock', str(refused)):
                raise
            time.sleep(0.01)
    raise GuestError(f"disk {number} stays in use")


def cell(guest, node, name):
    """A property of one cell of a node of the device tree, as 0x and eight digits."""
    return "0x" + guest.run(f"od -An -tx1 {node}/{name} | tr -d ' \\n'")


def release(index):
    """The command by which pseries firmware takes something back."""
    # What is not a logical resource has no allocation state; it goes when it is isolated.
    return f"rtas set-indicator 1 {_ISOLATION} {index} 0; rtas set-indicator 1 {_ALLOCATION} {index} 0 || :"


def acquire(index):
    """The command by which pseries firmware gives something."""
    return f"rtas set-indicator 1 {_ALLOCATION} {index} 1 || :; rtas set-indicator 1 {_ISOLATION} {index} 1"


def slot_power(guest, port, power):
    """The command that powers the slot below a root port."""
    path = f"/sys/bus/pci/devices/{port}/config"
    config = bytes.fromhex(guest.run(f"od -v -An -tx1 {path} | tr -d ' \\n'"))
    at = config[_CAP_LIST]
    while config[at] != _CAP_EXPRESS:
        at = config[at + 1]
    value = (_POWER_ON if power else _POWER_OFF).to_bytes(2, "little")
    octal = "".join(f"\\{byte:03o}" for byte in value)
    return f"printf '{octal}' | dd of={path} bs=2 seek={(at + _SLOT_CONTROL) // 2} conv=notrunc 2>/dev/null"
