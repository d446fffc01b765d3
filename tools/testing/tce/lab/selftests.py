# SPDX-License-Identifier: GPL-2.0
"""The kernel's own selftests, built from the overlaid tree for the test guest."""

import functools
import subprocess
import threading

from . import kernel
from .say import Fail

# Directory below tools/testing/selftests: the programs to take from it.
SUITES = {
    "iommu/tce": ("tce_vfio",),
    "iommu": ("iommufd", "iommufd_fail_nth"),
    "vfio": ("vfio_iommufd_setup_test", "vfio_dma_mapping_test", "vfio_dma_mapping_mmio_test",
             "vfio_pci_device_test", "vfio_pci_driver_test", "vfio_pci_device_init_perf_test", "vfio_pci_sriov_uapi_test"),
}


def _make(command):
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False)
    if done.returncode:
        raise Fail(f"cannot build the selftests: {done.stderr.strip()[-800:]}")


_lock = threading.Lock()


def build(env, objects):
    """{program: content} of all suites."""
    with _lock:     # two boots may ask at once
        return _build(env, objects)


@functools.cache
def _build(env, objects):
    out = objects / "selftests"
    _make([*kernel.make_command(env, objects), "-s", "headers"])
    programs = {}
    for suite, names in SUITES.items():
        target = out / suite.replace("/", "-")
        target.mkdir(parents=True, exist_ok=True)
        # The libraries that they want are in guest/compat.
        _make(["make", "-s", "-C", env.linux / "tools/testing/selftests" / suite, "ARCH=powerpc",
               "CROSS_COMPILE=powerpc64le-linux-gnu-", f"OUTPUT={target}", f"USERCFLAGS=-I{env.tce / 'guest/compat'}",
               "USERLDFLAGS=-static", "LDLIBS=-pthread", f"KHDR_INCLUDES=-isystem {objects}/usr/include"])
        programs |= {name: (target / name).read_bytes() for name in names}
    return programs
