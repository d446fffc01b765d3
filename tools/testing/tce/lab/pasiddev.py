# SPDX-License-Identifier: GPL-2.0
"""PCI devices with PASIDs, which no device model of QEMU is.

QEMU's vfio-user-pci takes its configuration space from a server on a socket,
and this is the server. A device has nothing else: no BARs, interrupts or DMA.
"""

import contextlib
import json
import os
import socket
import struct
import threading

_HEADER = struct.Struct("<HHIII")       # number, command, bytes, flags, error
_REPLY, _NO_REPLY, _ERROR = 0x01, 0x10, 0x20
_VERSION, _DMA_MAP, _DMA_UNMAP, _INFO, _REGION_INFO, _IRQ_INFO, _SET_IRQS, _READ, _WRITE, _RESET = 1, 2, 3, 4, 5, 7, 8, 9, 10, 13
_EINVAL = 22
_REGIONS, _IRQS, _CONFIG = 9, 5, 7      # as linux/vfio.h numbers them
_CONFIG_BYTES = 4096
_EXPRESS, _ATS, _PASID = 0x40, 0x100, 0x110
# Command, device control, ATS control, PASID control
_WRITABLE = (0x04, _EXPRESS + 0x08, _ATS + 6, _PASID + 6)


def _config(pasid_bits):
    """Configuration space with the device ID of pci-testdev."""
    space = bytearray(_CONFIG_BYTES)

    def put(offset, layout, *values):
        struct.pack_into("<" + layout, space, offset, *values)
    put(0, "HHHHBBBB", 0x1b36, 0x0005, 0, 0x10, 0, 0, 0, 0xff)
    put(0x34, "B", _EXPRESS)
    put(_EXPRESS, "BBH", 0x10, 0, 2)
    put(_EXPRESS + 0x0c, "IHH", 0x11, 0, 0x11)  # a slow link
    put(_EXPRESS + 0x24, "I", 3 << 21)          # sends one TLP prefix, which is the PASID
    put(_ATS, "IHH", _PASID << 20 | 1 << 16 | 0x0f, 1 << 5, 0)
    put(_PASID, "IHH", 1 << 16 | 0x1b, pasid_bits << 8, 0)
    return space


def _access(config, command, body):
    """Reads or writes configuration space."""
    offset, region, count = struct.unpack_from("<QII", body)
    if region != _CONFIG or offset + count > _CONFIG_BYTES:
        return None
    if command == _READ:
        return body[:16] + config[offset:offset + count]
    for place, byte in enumerate(body[16:], offset):
        if place & ~1 in _WRITABLE:
            config[place] = byte
    return body[:16]


def _answer(config, command, body):
    """The body of the reply to a message, or None for an error."""
    if command == _VERSION:
        return struct.pack("<HH", 0, 0) + b"{}\0"
    if command == _INFO:
        return struct.pack("<IIII", 16, 0b11, _REGIONS, _IRQS)      # a PCI device that can be reset
    if command == _REGION_INFO:
        index, = struct.unpack_from("<I", body, 8)
        return struct.pack("<IIIIQQ", 32, 0b11, index, 0, _CONFIG_BYTES if index == _CONFIG else 0, 0)
    if command == _IRQ_INFO:
        return struct.pack("<IIII", 16, 0, *struct.unpack_from("<I", body, 8), 0)
    if command in (_READ, _WRITE):
        return _access(config, command, body)
    return b"" if command in (_DMA_MAP, _DMA_UNMAP, _SET_IRQS, _RESET) else None


def _device(listener, pasid_bits):
    """One device: answers one QEMU until that ends, or the listener is shut down."""
    config = _config(pasid_bits)
    with contextlib.suppress(OSError), listener.accept()[0] as peer, peer.makefile("rb") as messages:
        while head := messages.read(_HEADER.size):
            number, command, length, flags, _ = _HEADER.unpack(head)
            body = _answer(config, command, messages.read(length - _HEADER.size))
            if not flags & _NO_REPLY:
                end = (_REPLY, 0) if body is not None else (_REPLY | _ERROR, _EINVAL)
                body = body or b""
                peer.sendall(_HEADER.pack(number, command, _HEADER.size + len(body), *end) + body)


def arguments(pasid_bits):
    """What QEMU needs for one device for each number of PASID bits."""
    words = []
    for number, _ in enumerate(pasid_bits):
        words += ["-device", json.dumps({"driver": "vfio-user-pci", "socket": {"type": "unix", "path": f"pasid{number}"},
                                         "bus": "pcie.0", "addr": f"{0x10 + number:#x}"})]
    return words


@contextlib.contextmanager
def serve(directory, pasid_bits):
    """Serves the devices on sockets in the directory."""
    listeners = []
    # Socket paths are limited to 108 bytes; one through /proc is short.
    folder = os.open(directory, os.O_RDONLY)
    for number, bits in enumerate(pasid_bits):
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(f"/proc/self/fd/{folder}/pasid{number}")
        listener.listen(1)
        threading.Thread(target=_device, args=(listener, bits), daemon=True).start()
        listeners.append(listener)
    os.close(folder)
    try:
        yield
    finally:
        for listener in listeners:
            listener.shutdown(socket.SHUT_RDWR)
            listener.close()
