# SPDX-License-Identifier: GPL-2.0
"""DMA masks: what drivers ask, and what the windows of a device cannot serve."""

from .. import steps
from ..scenario import Scenario
from ..steps import expect


def _try(bench, bits):
    """What dma_map_benchmark says of a mask of so many bits."""
    return bench.guest.try_run(f"dmabench {bits}")[1]


def narrow_masks(bench):
    """A mask below the only window is refused, one that reaches into it is good."""
    bench.guest.run(f"load tce_iommu; bind {bench.bdf('testdev')} dma_map_benchmark")
    for bits in (24, 28, 29):
        expect("Invalid argument" in (said := _try(bench, bits)), f"{bits} bits: {said}")
    for bits in (30, 32, 64):
        expect((said := _try(bench, bits)).startswith("ok:"), f"{bits} bits: {said}")
    return "24, 28 and 29 bits refused, 30, 32 and 64 not"


def required_mask(bench):
    """mptsas, which asks for the mask that is needed, gets all that the windows have."""
    bench.guest.run("load tce_iommu; load mptsas")
    bits = bench.guest.run(f"cat /sys/bus/pci/devices/{bench.bdf('sas')}/dma_mask_bits")
    expect(bits == "64", f"{bits} bits")
    return f"{bits} bits"


# 256 MiB from 512 MiB on
SCENARIOS = [Scenario("masks", "modern-64k", "pseries", ("testdev",), (narrow_masks, steps.log_clean),
                      host_bridge=",ddw=off,dma_win_addr=0x20000000,dma_win_size=0x10000000"),
             *(Scenario("mask-bits", "modern-64k", machine, ("sas",), (required_mask, steps.log_clean))
               for machine in ("pseries", "powernv10"))]
