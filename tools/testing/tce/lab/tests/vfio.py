# SPDX-License-Identifier: GPL-2.0
"""VFIO type1 and iommufd: our own selftest, the kernel's, and devices given back whole."""

import re
import time

from .. import steps
from ..guest import GuestError, patience
from ..scenario import Scenario, Skip
from ..steps import MIB, count_calls, dma_faults, expect, tces


def _late(output):
    """The failed tests that the harness of the kernel has stopped: it gives each 30 seconds, however slow this machine is."""
    name, late = None, []
    for line in output.splitlines():
        if found := re.match(r"# (\w+): Test terminated by timeout", line):
            name = found[1]
        elif found := re.match(r"(not )?ok \d+ (\S+)", line):
            if name and found[1] and found[2].split(".")[-1] == name:
                late.append(found[2])
            name = None
    return late


def ktap(bench, command, seconds):
    """Runs a program that talks KTAP; returns its counts, and all it said."""
    _, output = bench.guest.try_run(command, seconds)
    # What hangs does so again, alone.
    for name in _late(output):
        chosen = re.sub(r"^((?:\w+=\S+ )*\S+)", rf"\1 -r {name}", re.sub(r" -\w \S+", "", command))
        _, alone = bench.guest.try_run(chosen, seconds)
        if re.search(rf"^ok \d+ {re.escape(name)}$", alone, re.M):
            output = re.sub(rf"^not (?=ok \d+ {re.escape(name)}$)", "", output, flags=re.M)
        output += re.sub(r"^(not ok|ok) ", r"# alone: \1 ", alone, flags=re.M)
    failed = re.findall(r"^not ok \d+ (\S+)", output, re.M)
    good = re.findall(r"^ok \d+ (?!.*# SKIP)", output, re.M)
    skipped = re.findall(r"^ok \d+ .*# SKIP *(.*)", output, re.M)
    expect(not failed, f"{len(failed)} failed: {', '.join(failed[:8])}")
    expect(good and "# Totals:" in output, f"no result: {output[-300:]}")
    more = f", {len(skipped)} skipped ({'; '.join(sorted(set(skipped)))})" if skipped else ""
    return f"{len(good)} passed{more}", output


def to_vfio(bench):
    """Test devices at vfio-pci."""
    # A device without a function reset would have its slot reset at each close, which takes
    # seconds on powernv; the idle second function there forbids it.
    bench.guest.run("load tce_iommu; load vfio_pci; load vfio_iommu_type1; load iommufd; "
                    "for id in 1b36:0005 1b36:0010 1234:11e8 8086:10c9; do for dev in $(pci $id); do bind $dev vfio-pci || exit 1; "
                    "done; done")


def _faults(bench):
    """How many words of test devices PowerNV's PHBs have refused."""
    places = "|".join(str(place) for place, device in enumerate(bench.scenario.devices) if device == "testdev")
    return len(re.findall(rf"^phb4\[0:(?:{places})\]: (?:TCE access fault|Invalid indirect TCE|Access to invalid TVE)",
                          bench.guest.qemu_log.read_text(errors="replace"), re.M))


def own_selftest(bench, rounds=400):
    """tce_vfio: what devices reach through type1 and iommufd."""
    before = _faults(bench)
    result, output = ktap(bench, f"TCE_ROUNDS={rounds} tce_vfio", 600)
    refused = sum(map(int, re.findall(r"^# (\d+) writes of iommu-testdev were refused", output, re.M)))
    if bench.is_pseries:    # where QEMU logs nothing; the test looks at the memory
        return f"{result}, {refused} writes refused"
    faults = _faults(bench) - before
    expect(faults == 4 * refused, f"{refused} writes of 4 words were refused, but the PHBs saw {faults} faults")
    return f"{result}, {refused} writes of 4 words refused, {faults} faults at the PHBs"


def own_selftest_long(bench):
    """tce_vfio, with 10000 random mappings."""
    return own_selftest(bench, 10000)


def unsafe_interrupts(bench):
    """VFIO without allow_unsafe_interrupts, where the platform checks who writes a vector."""
    bdf = bench.bdf("testdev")
    for kind, module in (("type1", "vfio_iommu_type1"), ("iommufd", "iommufd")):
        path = f"/sys/module/{module}/parameters/allow_unsafe_interrupts"
        was = bench.guest.run(f"cat {path}; echo 0 >{path}")
        status, output = bench.guest.try_run(f"vfiocheck {kind} {bdf}")
        bench.guest.run(f"echo {was} >{path}")
        expect(bool(status) == bench.is_pseries, f"{kind}: {output}")
        expect(not status or "not permitted" in output, f"{kind} was not refused for its interrupts: {output}")
    return "refused" if bench.is_pseries else "granted"


# A call of pseries has room for 512 TCEs.
_SCATTERED, _AT_ONCE = 2048, 512


def scattered(bench):
    """Hypercalls or kills to map and unmap pages that are scattered in memory."""
    bdf, told = bench.bdf("testdev"), []
    for kind in ("type1", "iommufd"):
        # The difference is without what opening and closing take. Unmapped are parts that begin in the middle of a list.
        once, thrice = (count_calls(bench, f"vfioscatter {kind} {bdf} {_SCATTERED} {rounds}") for rounds in (1, 3))
        calls = sum(thrice.values()) - sum(once.values())
        told.append(f"{kind} {calls}")
        expect(0 < calls <= 3 * 2 * _SCATTERED // _AT_ONCE, f"{kind}: {once} for one round, {thrice} for three")
    return f"{', '.join(told)} for twice {_SCATTERED} pages"


def hugepages(bench, mib):
    """Sets huge pages of 2 MiB aside."""
    path = "/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages"
    got = int(bench.guest.run(f"echo {mib // 2} >{path}; cat {path}"))
    expect(got == mib // 2, f"{got} huge pages of 2 MiB")


def _quick(bench):
    """Programs that map BARs are for machines that let them."""
    return ("iommufd_setup_test", "dma_mapping_test", *(["dma_mapping_mmio_test"] if bench.is_pseries else []), "pci_device_test")


def _igb(bench, *programs):
    if bench.is_pseries:    # the device tree of QEMU's powernv tells of no huge pages
        hugepages(bench, 16)
    return ", ".join(f"{program}: " + ktap(bench, f"vfio_{program} {bench.bdf('igb')}", 400)[0] for program in programs)


def kernel_vfio(bench):
    """The kernel's VFIO selftests with igb."""
    # The driver test waits for an unplugged cable in each of the five ways to the IOMMU.
    return _igb(bench, *_quick(bench), "pci_driver_test -v iommufd")


def mmio_refused(bench):
    """type1 maps no BAR on powernv, where a TCE to MMIO would fence the PHB."""
    if bench.is_pseries:
        raise Skip("the hypervisor decides")
    before = dma_faults(bench, "igb")
    _, output = bench.guest.try_run(f"vfio_dma_mapping_mmio_test {bench.bdf('igb')}", 400)
    refused = re.findall(r"^not ok \d+ (\S*type1\S*\.map_\S+)", output, re.M)
    expect(len(refused) == 6, f"refused: {refused}")
    expect(dma_faults(bench, "igb") == before, "the PHB has stopped something")
    return f"{len(refused)} refused"


def kernel_vfio_long(bench):
    """The kernel's VFIO selftests with igb, the slow ones too."""
    return _igb(bench, *_quick(bench), "pci_driver_test", "pci_device_init_perf_test")


def sriov(bench):
    """The kernel's SR-IOV selftest with igb."""
    igb = bench.bdf("igb")
    bench.guest.run(f"load tce_iommu; load vfio_pci enable_sriov=1; load vfio_iommu_type1; load iommufd; bind {igb} vfio-pci")
    return ktap(bench, f"vfio_pci_sriov_uapi_test {igb}", 200)[0]


def held(bench):
    """What a forgotten mapping would leave behind."""
    # The counters of the CPUs are added up now and then, or when asked. Names and empty slabs are kept for later.
    text = bench.guest.run("echo 2 >/proc/sys/vm/drop_caches; for cache in /sys/kernel/slab/*/shrink; do echo 1 >$cache; done; "
                           "cat /proc/sys/vm/stat_refresh; grep -E '^(nr_foll_pin|nr_mlock)' /proc/vmstat; grep SUnreclaim /proc/meminfo")
    numbers = dict(re.findall(r"^(\w+):?\s+(\d+)", text, re.M))
    return {"pinned": int(numbers["nr_foll_pin_acquired"]) - int(numbers["nr_foll_pin_released"]),
            "locked": int(numbers["nr_mlock"]), "slab": int(numbers["SUnreclaim"]),
            "TCEs": tces(bench, "nvme")}


def settled(bench, before, slack=1 << 20):
    """Waits until no more is held than before, or so many KiB in slabs; returns what is held then."""
    for _ in patience(10):      # pages of direct I/O are let go by a worker
        after = held(bench)
        if all(after[name] <= before[name] for name in ("pinned", "locked", "TCEs")) and after["slab"] - before["slab"] < slack:
            return after
        time.sleep(1)
    raise GuestError(f"held {before}, later {after}")


def _rounds(bench, count):
    """`count` rounds with each interface: the PE to VFIO, DMA, and back to the host driver."""
    guest, nvme, testdev = bench.guest, bench.bdf("nvme"), bench.bdf("testdev")
    guest.run(f"load nvme; bind {testdev} vfio-pci; bind {nvme} nvme")

    def batch(kind, number):
        guest.run(f"for round in $(seq {number}); do bind {nvme} vfio-pci && vfiocheck {kind} {testdev} dma >/tmp/out && "
                  f"bind {nvme} nvme && ddsum read $(disk_of {nvme}) 0 65536 >/tmp/sum && [ $(cat /tmp/sum) = $(cat /tmp/want) ] || "
                  "{ cat /tmp/out /tmp/sum; exit 1; }; done", 600)
    bench.disk_check(MIB, seed=1)
    guest.run(f"ddsum read $(disk_of {nvme}) 0 65536 >/tmp/want")
    for kind in ("type1", "iommufd"):   # what is allocated once
        batch(kind, 3)
    before, nodes = held(bench), steps.table_nodes(bench)
    for kind in ("type1", "iommufd"):
        for done in range(0, count, 50):
            batch(kind, min(50, count - done))
        bench.disk_check(MIB, seed=2)
        guest.run(f"ddsum read $(disk_of {nvme}) 0 65536 >/tmp/want")
    after = settled(bench, before, 512 + 2 * count)
    grown, more = after["slab"] - before["slab"], steps.table_nodes(bench) - nodes
    # A domain has at least two, and there are two for each.
    expect(more < 12 + count, f"{more} more nodes of tables")
    return f"{count} rounds with type1 and with iommufd, pinned pages and TCEs as before, slabs {grown:+} KiB, {more:+} nodes of tables"


def given_back(bench):
    """The PE to VFIO and back, with DMA."""
    return _rounds(bench, 6)


def given_back_long(bench):
    """The PE to VFIO and back 1000 times, with DMA."""
    return _rounds(bench, 500)


# Two test devices in one PE, one in another, edu in a third, igb and nvme. On pseries the third PE has
# a small window of 4K pages, and a test device too.
_PLACES = {
    "pseries": ("iommu-testdev,bus=phb1.0,addr=2", "spapr-pci-host-bridge,index=9,id=narrow,ddw=off",
                "edu,bus=narrow.0,dma_mask=0xffffffffffffffff", "iommu-testdev,bus=narrow.0"),
    "powernv10": ("iommu-testdev,bus=pcie.0,addr=0.1",
                  *(f"pvpanic-pci,bus=pcie.{number},addr=0.7" for number in range(3))),
}
_DEVICES = {"pseries": ("testdev", "testdev", "igb", "nvme"), "powernv10": ("testdev", "testdev", "edu", "igb", "nvme")}


def _more(machine):
    words = [word for device in _PLACES[machine] for word in ("-device", device)]
    if machine != "pseries":
        words = ["-global", "iommu-testdev.multifunction=on", "-global", "edu.multifunction=on", *words]
    return tuple(words)


def _vfio(name, steps_, flavour="modern-64k", more=(), **others):
    return [Scenario(name, flavour, machine, _DEVICES[machine], (to_vfio, *steps_, steps.log_clean),
                     more=(*_more(machine), *more), selftests=True, **others) for machine in _PLACES]


# The e100 has no driver here, which keeps its bridge from being reset at each close.
def _back(name, step, **more):
    return [Scenario(name, "modern-64k", machine, ("nvme", "testdev", "e100"), (to_vfio, step, steps.dmesg_clean),
                     together=True, **more) for machine in _PLACES]


SCENARIOS = [
    *_vfio("vfio", (unsafe_interrupts, scattered, own_selftest, kernel_vfio, mmio_refused)),
    *_vfio("vfio-long", (own_selftest_long, kernel_vfio_long), only_all=True, more=("-m", "4G"),
           append="hugepagesz=1G hugepages=1 hugepagesz=2M"),
    *_vfio("vfio", (own_selftest,), "modern-debug-64k", only_all=True),
    *_vfio("vfio", (own_selftest,), "modern-4k", only_all=True),
    # The VF BARs of QEMU's igb have 16 KiB whatever page size they are told, which Linux with 64K pages does not
    # take. On pseries VFs need properties and calls of firmware that QEMU does not have.
    Scenario("sriov", "modern-4k", "powernv10", ("igb",), (sriov, steps.log_clean), selftests=True, only_all=True),
    *_back("vfio-back", given_back),
    *_back("vfio-back-long", given_back_long, only_all=True),
]
