# SPDX-License-Identifier: GPL-2.0
"""How the driver comes, goes and meets devices in every state."""

from .. import steps
from ..scenario import Scenario
from ..steps import MIB, expect, group_type, tces

BIND_ROUNDS = 24
PLATFORM = ("unknown", "identity")
# A busy device that the driver has not adopted yet is in no group.
UNTOUCHED = (*PLATFORM, "none")


def nvme_first(bench):
    """nvme at work before the driver is loaded."""
    bench.guest.run("load nvme; load e100")
    return bench.disk_check(4 * MIB, seed=1)


def late_load(bench):
    """A bound device stays with the platform when the driver is loaded."""
    bench.guest.run("load tce_iommu")
    kind = group_type(bench, "nvme")
    expect(kind in UNTOUCHED, f"the type of a busy group became {kind}")
    return bench.disk_check(4 * MIB, seed=2)


def adopted_idle(bench):
    """A device without a driver is adopted at once."""
    kind = group_type(bench, "testdev")
    expect(kind.startswith("DMA"), f"type {kind}")
    return kind


def adopted_after_unbind(bench):
    """A device is adopted when its driver lets go."""
    bdf = bench.bdf("nvme")
    bench.guest.run(f"unbind {bdf}")
    kind = bench.guest.run(f"until type_of {bdf} | grep ^DMA; do usleep 20000; done")
    bench.guest.run(f"bind {bdf} nvme")
    return f"{kind}, crc32 {bench.disk_check(4 * MIB, seed=3)}"


def direct_window_left(bench):
    """nvme after an earlier driver used a direct 64-bit window."""
    bdf = bench.bdf("nvme")
    bench.guest.run("load nvme")
    bench.disk_check(MIB, seed=4)
    bench.guest.run(f"unbind {bdf}; load tce_iommu; bind {bdf} nvme")
    kind = group_type(bench, "nvme")
    expect(kind.startswith("DMA"), f"type {kind}")
    bench.guest.check_log()
    expect("no 64-bit DMA window" not in bench.guest.kernel_log, "the windows of the platform were in the way")
    return bench.disk_check(16 * MIB, seed=5)


def rmmod_refused(bench):
    """rmmod is refused while there are devices."""
    status, output = bench.guest.try_run("rmmod tce_iommu")
    expect(status, "rmmod succeeded with devices in its domains")
    bench.disk_check(MIB, seed=6)
    return output.splitlines()[-1] if output else "refused"


def rmmod_after_removal(bench):
    """rmmod works once the devices are gone."""
    bench.guest.run("for dev in /sys/bus/pci/devices/*; do [ ! -e $dev/iommu_group ] || echo 1 >$dev/remove; done")
    bench.guest.run("rmmod tce_iommu")
    return "unloaded"


def load_again(bench):
    """The driver and the devices come back."""
    bench.memory.clear()
    bench.guest.run("echo 1 >/sys/bus/pci/rescan", 60)
    bdf = bench.bdf("nvme")
    bench.guest.run(f"disk_of {bdf}; unbind {bdf}; load tce_iommu; bind {bdf} nvme")
    kind = group_type(bench, "nvme")
    expect(kind.startswith("DMA"), f"type {kind}")
    return bench.disk_check(MIB, seed=8)


def shared_pe(bench):
    """All devices are in one group."""
    found = {bench.guest.run(f"group_of {bench.bdf(name)}") for name in bench.scenario.devices}
    expect(len(found) == 1, f"groups {found}")
    return f"group {found.pop()}"


def shared_traffic(bench):
    """Two devices of one PE at work at the same time."""
    disk = bench.guest.run(f"disk_of {bench.bdf('nvme')}")
    bench.guest.run(f"(ddsum write {disk} 0 {32 * MIB} 9 >/tmp/crc; echo done >>/tmp/crc) >/dev/null 2>&1 &")
    net = bench.net_check("e100")
    crc = bench.guest.run("until grep -q done /tmp/crc; do usleep 100000; done; cat /tmp/crc").split()
    host = bench.image_crc(0, 32 * MIB)
    expect(crc == [host, "done"], f"wrote {crc}, the host sees {host}")
    return f"nvme {host}, e100 {net}"


def shared_isolation(bench):
    """A device of the PE reaches only what is mapped there."""
    return steps.testdev_oracle(bench)


def shared_vfio(bench):
    """The whole PE to VFIO and back."""
    every = [bench.bdf(name) for name in bench.scenario.devices]
    for kind in ("type1", "iommufd"):
        for bdf in every:
            bench.guest.run(f"bind {bdf} vfio-pci")
        bench.guest.run(f"vfiocheck {kind} {bench.bdf('testdev')} dma")
        for bdf in every:
            bench.guest.run(f"unbind {bdf}")
        bench.guest.run(f"bind {bench.bdf('nvme')} nvme; bind {bench.bdf('e100')} e100")
        bench.disk_check(4 * MIB, seed=10)
        bench.net_check("e100")
    return "type1, iommufd"


def half_bound_refused(bench):
    """VFIO is refused while a host driver has another device of the PE."""
    bdf = bench.bdf("testdev")
    bench.guest.run(f"bind {bdf} vfio-pci")
    status, output = bench.guest.try_run(f"vfiocheck type1 {bdf}")
    bench.guest.run(f"unbind {bdf}")
    expect(status, "VFIO opened a device whose neighbour belongs to the host")
    expect("not permitted" in output, f"not refused for its neighbour: {output}")
    bench.disk_check(MIB, seed=11)
    return output.splitlines()[-1]


def bind_rounds(bench, count=BIND_ROUNDS):
    """Rounds of bind and unbind leave no memory and no TCE behind."""
    guest, bdf = bench.guest, bench.bdf("nvme")
    have_leak = not guest.try_run("[ -e /sys/kernel/debug/kmemleak ]")[0]
    guest.run(f"unbind {bdf}; bind {bdf} nvme; unbind {bdf}")
    if have_leak:
        steps.forget_leaks(bench)
    before, nodes = tces(bench, "nvme"), steps.table_nodes(bench)
    guest.run(f"for round in $(seq {count}); do bind {bdf} nvme && disk_of {bdf} >/dev/null && unbind {bdf} || exit 1; done",
              900)
    after = tces(bench, "nvme")
    expect(before == after, f"populated TCEs went from {before} to {after}")
    # kmemleak does not see the nodes of TCE tables; a leak shows in their number.
    more = steps.table_nodes(bench) - nodes
    expect(more < count // 2, f"{more} more objects of 4 KiB than before")
    if have_leak:
        leaks = steps.leaks(bench)
        expect(not leaks, f"kmemleak: {leaks[0][:600] if leaks else ''}")
    guest.run(f"bind {bdf} nvme")
    bench.disk_check(MIB, seed=12)
    return f"{count} rounds, TCEs {before} before and {after} after, {more} more objects of 4 KiB, kmemleak {'silent' if have_leak else 'absent'}"


def bind_rounds_long(bench):
    """The same, 200 times."""
    return bind_rounds(bench, 200)


def stays_platform(bench):
    """iommu.passthrough=1 leaves devices with the platform."""
    kind = group_type(bench, "nvme")
    expect(kind in PLATFORM, f"type {kind}")
    return kind


def lazy_type(bench):
    """iommu.strict=0 gives flush queues where they save kills."""
    kind = group_type(bench, "nvme")
    expect(kind == ("DMA" if bench.is_pseries else "DMA-FQ"), f"type {kind}")
    return kind


_LOAD = (steps.driver_loaded, steps.drivers_bound)
_THREE = ("nvme", "e100", "testdev")


def _each(name, steps_, machines=("pseries", "powernv10"), flavour="modern-64k", devices=_THREE, **more):
    return [Scenario(name, flavour, machine, devices, steps_, **more) for machine in machines]


_SHARED = (*_LOAD, shared_pe, steps.windows, steps.nvme_data, steps.narrow_device, shared_traffic, shared_isolation,
           half_bound_refused, shared_vfio, steps.dmesg_clean)
_DATA = (*_LOAD, steps.groups, steps.windows, steps.nvme_data, steps.narrow_device, steps.testdev_oracle,
         steps.mapping_cost, steps.dmesg_clean)

SCENARIOS = [
    *_each("late-load", (nvme_first, late_load, adopted_idle, adopted_after_unbind, steps.dmesg_clean)),
    *_each("late-load-shared", (nvme_first, late_load, steps.dmesg_clean), machines=("pseries",), together=True),
    *_each("after-direct", (direct_window_left, steps.windows, steps.dmesg_clean)),
    *_each("shared-pe", _SHARED, together=True),
    *_each("rmmod", (*_LOAD, rmmod_refused, rmmod_after_removal, load_again, steps.dmesg_clean)),
    *_each("ddw-off", _DATA, machines=("pseries",), host_bridge=",ddw=off"),
    *_each("shared-ddw-off", _SHARED, machines=("pseries",), host_bridge=",ddw=off", together=True),
    *_each("ddw-disabled", _DATA, machines=("pseries",), append="disable_ddw"),
    *_each("lazy", (*_LOAD, lazy_type, steps.nvme_data, steps.narrow_device, steps.testdev_oracle, steps.dmesg_clean),
           append="iommu.strict=0"),
    *_each("passthrough", (*_LOAD, stays_platform, steps.nvme_data, steps.narrow_device, steps.dmesg_clean),
           append="iommu.passthrough=1"),
    *_each("nobypass", (nvme_first, late_load, adopted_after_unbind, steps.dmesg_clean), machines=("powernv10",),
           append="iommu=nobypass"),
    *_each("bind-rounds", (*_LOAD, bind_rounds), flavour="modern-debug-64k"),
    *_each("bind-rounds-long", (*_LOAD, bind_rounds_long), flavour="modern-debug-64k", only_all=True),
    *_each("shared-pe", _SHARED, flavour="modern-debug-64k", together=True, only_all=True),
    *_each("late-load", (nvme_first, late_load, adopted_idle, adopted_after_unbind, steps.dmesg_clean),
           flavour="modern-debug-64k", only_all=True),
]
