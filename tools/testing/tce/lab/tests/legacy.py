# SPDX-License-Identifier: GPL-2.0
"""Bugs of the driver in arch/powerpc, reproduced there and impossible here.

The same provocation runs on both kernels; each side says what it expects.
"""

from ..guest import GuestError, trouble_in
from ..scenario import Scenario



def _is_legacy(bench):
    return bench.scenario.flavour.startswith("legacy")


def _all(bench):
    return [bench.bdf(name) for name in bench.scenario.devices]


def load(bench):
    """IOMMU driver in place."""
    bench.guest.run("load vfio_pci")
    if _is_legacy(bench):
        bench.guest.run("load vfio_iommu_spapr_tce")
        return "built in"
    bench.guest.run("load tce_iommu; load vfio_iommu_type1")
    return "tce_iommu"


def _benchmark(bench, bdf, bits):
    """(worked, output) of mapping with a mask of so many bits."""
    bench.guest.run(f"bind {bdf} dma_map_benchmark")
    status, output = bench.guest.try_run(f"dmabench {bits}", 60)
    bench.guest.run(f"unbind {bdf}")
    return status == 0, output


def _vfio_cycle(bench):
    kind = "spapr" if _is_legacy(bench) else "type1"
    for bdf in _all(bench):
        bench.guest.run(f"bind {bdf} vfio-pci")
    bench.guest.run(f"vfiocheck {kind} {_all(bench)[0]}")
    for bdf in _all(bench):
        bench.guest.run(f"unbind {bdf}")


def b1_use_after_free(bench):
    """B1: 32-bit DMA of the second device in a PE after a VFIO cycle."""
    _vfio_cycle(bench)
    try:
        worked, output = _benchmark(bench, _all(bench)[1], 32)
    except GuestError:
        if _is_legacy(bench):
            worked, output = False, "the guest did not survive"
        else:
            raise
    if not _is_legacy(bench):
        if not worked:
            raise GuestError(output)
        return "works"
    log = bench.guest.read_log() if bench.guest.alive else ""
    if worked and not trouble_in(log):
        raise GuestError("the legacy bug did not show: is this still the legacy kernel?")
    return f"reproduced: {(trouble_in(log) or [output])[0]}"


def b2_stale_limit(bench):
    """B2: 32-bit DMA after a 64-bit user of the same device."""
    bdf = _all(bench)[0]
    worked, output = _benchmark(bench, bdf, 64)
    if not worked:
        raise GuestError(f"64 bits: {output}")
    return _mask(bench, bdf, 32)


def b3_40_bit_mask(bench):
    """B3: a device with a 40-bit mask beside one with 64 bits."""
    worked, output = _benchmark(bench, _all(bench)[0], 64)
    if not worked:
        raise GuestError(f"64 bits: {output}")
    return _mask(bench, _all(bench)[-1], 40)


def _mask(bench, bdf, bits):
    worked, output = _benchmark(bench, bdf, bits)
    log = bench.guest.read_log()
    if not _is_legacy(bench):
        if not worked or trouble_in(log) or "overflow" in log:
            raise GuestError(f"{bits} bits: {output}; {[text for text in log.splitlines() if 'overflow' in text][:1]}")
        return "works"
    overflow = [text for text in log.splitlines() if "overflow" in text]
    if worked or not overflow:
        raise GuestError("the legacy bug did not show: is this still the legacy kernel?")
    return f"reproduced: {overflow[0].split('] ')[-1]}"


def _pair(name, devices, steps):
    return [Scenario(name, f"{kind}-64k", "pseries", devices, (load, *steps), together=True, only_all=kind == "legacy")
            for kind in ("legacy", "modern")]


def legacy_works(bench):
    """The legacy driver still carries data and still gives devices to VFIO."""
    guest, bdf = bench.guest, bench.bdf("nvme")
    guest.run("load nvme; load e100")
    bench.disk_check(16 << 20, seed=1)
    bench.net_check("e100")
    guest.run(f"bind {bdf} vfio-pci && vfiocheck spapr {bdf} && bind {bdf} nvme")
    return bench.disk_check(4 << 20, seed=2)


# The legacy kernel shares hardly an object with the modern one, so make check only compiles what we change in it.
SCENARIOS = [*(Scenario("works", "legacy-64k", machine, ("nvme", "e100"), (load, legacy_works), only_all=True)
               for machine in ("pseries", "powernv10")),
             *_pair("b1", ("edu", "e1000e", "testdev"), (b1_use_after_free,)),
             *_pair("b2", ("edu", "testdev"), (b2_stale_limit,)),
             *_pair("b3", ("edu", "testdev"), (b3_40_bit_mask,))]
