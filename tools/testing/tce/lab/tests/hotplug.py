# SPDX-License-Identifier: GPL-2.0
"""Devices and PHBs that are plugged and unplugged while others work."""

import re

from .. import hotplug, steps
from ..scenario import Scenario
from ..steps import MIB, expect, group_type

_RESCAN = "echo 1 >/sys/bus/pci/rescan"
# Nodes that firmware describes are lost in arch/powerpc, with any driver, and with a node what hangs on it.
_LOST = "dlpar_configure_connector|pci_add_device_node_info|ddw_property_create|__of_attach_node_sysfs"
# The disk that stays, and the one that goes: its number, the bus it is on and that bus.
_STAYS, _GOES = 0, 1


def _disks(bench):
    return bench.guest.run("pci 1b36:0010").split()


def loaded(bench):
    """Drivers and two disks."""
    bench.guest.run("load tce_iommu; load nvme; load vfio_pci; load vfio_iommu_type1; load iommufd", 240)
    if bench.is_pseries:
        bench.guest.run("load rpadlpar_io", 120)
    bench.memory["stays"], bench.memory["goes"] = _disks(bench)
    node = f"/sys/bus/pci/devices/{bench.memory['goes']}"
    if bench.is_pseries:
        bench.memory["slot"] = hotplug.cell(bench.guest, f"{node}/of_node", "ibm,my-drc-index")
        bench.memory["phb"] = hotplug.cell(bench.guest, f"{node}/of_node/..", "ibm,my-drc-index")
    else:
        bench.memory["port"] = bench.guest.run(f"basename $(dirname $(readlink -f {node}))")
    return "nvme, nvme"


def io_begins(bench):
    """One disk is read all the time."""
    steps.reads_begin(bench, bench.memory["stays"])


def _data(bench):
    """Writes and reads the disk that goes, and compares with its image."""
    seed = bench.memory["round"] = bench.memory.get("round", 0) + 1
    bench.disk_check(MIB, seed=seed, bdf=bench.memory["goes"], number=_GOES)


def _is_back(bench, kind):
    """The disk that goes is in a group of the driver's and works."""
    bench.guest.run(f"until [ -n \"$(driver_of {bench.memory['goes']} | grep nvme)\" ]; do usleep 50000; done")
    got = bench.guest.run(f"type_of {bench.memory['goes']}")
    expect(got == kind, f"type {got}, not {kind}")
    _data(bench)


# -- one device --------------------------------------------------------------

def _remove(bench):
    return f"echo 1 >/sys/bus/pci/devices/{bench.memory['goes']}/remove"


def sysfs_rounds(bench, rounds=3):
    """A disk is removed by sysfs and found again."""
    kind = bench.guest.run(f"type_of {bench.memory['goes']}")
    for _ in range(rounds):
        bench.guest.run(_remove(bench), 120)
        bench.guest.run(_RESCAN, 120)
        _is_back(bench, kind)
    return f"{rounds} rounds, {kind}"


def _unplug(bench):
    """Takes the disk that goes out of the machine, once the kernel has removed it."""
    if bench.scenario.together:     # beside others, removed is as far as it gets
        return
    guest, index = bench.guest, bench.memory.get("slot")
    if bench.is_pseries:
        let_go = f"echo 'dt remove index {index}' >/sys/kernel/dlpar; {hotplug.release(index)}"
    else:
        let_go = hotplug.slot_power(guest, bench.memory["port"], False)
    hotplug.unplug(guest, f"dev{_GOES}", let_go)


def _plug(bench):
    if bench.scenario.together:
        bench.guest.run(_RESCAN, 120)
        return
    guest, index = bench.guest, bench.memory.get("slot")
    hotplug.plug_disk(guest, _GOES, f"phb{_GOES + 1}.0" if bench.is_pseries else f"pcie.{_GOES}", bench.image(_GOES))
    if bench.is_pseries:
        guest.run(f"{hotplug.acquire(index)}; echo 'dt add index {index}' >/sys/kernel/dlpar; {_RESCAN}", 120)
    else:
        guest.run(f"{hotplug.slot_power(guest, bench.memory['port'], True)}; {_RESCAN}", 120)


def plug_rounds(bench, rounds=3):
    """A disk is unplugged and plugged."""
    kind = bench.guest.run(f"type_of {bench.memory['goes']}")
    for _ in range(rounds):
        bench.guest.run(_remove(bench), 120)
        _unplug(bench)
        _plug(bench)
        _is_back(bench, kind)
    return f"{rounds} rounds, {kind}"


def plug_rounds_long(bench):
    """A disk is unplugged and plugged 250 times, and removed and found 250 times."""
    return f"{plug_rounds(bench, 250)}; sysfs {sysfs_rounds(bench, 250)}"


# -- a device that VFIO holds ------------------------------------------------

def vfio_rounds(bench, rounds=1):
    """A disk is removed while VFIO holds it, alone or with a device of another PE."""
    guest, testdev = bench.guest, bench.bdf("testdev")
    for bdf in (testdev, *([bench.memory["stays"]] if bench.scenario.together else [])):
        guest.run(f"bind {bdf} vfio-pci")
    checks = 0
    for _ in range(rounds):
        for kind in ("type1", "iommufd"):
            for other in ("", testdev):
                bdf = bench.memory["goes"]
                guest.run(f"bind {bdf} vfio-pci")
                steps.vfio_holds(bench, f"{kind} {bdf} {other}")
                guest.run(_remove(bench), 120)
                _unplug(bench)
                checks += steps.vfio_let_go(bench)
                _plug(bench)
                _is_back(bench, group_type(bench, "testdev"))
    guest.run(f"unbind {testdev}")
    return f"{checks} checks"


def vfio_rounds_long(bench):
    """The same 50 times."""
    return vfio_rounds(bench, 50)


def vfio_dies(bench):
    """The user of VFIO ends while the kernel waits for it."""
    guest, bdf = bench.guest, bench.memory["goes"]
    for kind in ("type1", "iommufd"):
        guest.run(f"bind {bdf} vfio-pci; rm -f /tmp/removed")
        steps.vfio_holds(bench, f"{kind} {bdf}")
        guest.run(f"kill -STOP $(cat /tmp/pid); ({_remove(bench)}; echo removed >/tmp/removed) & usleep 300000; [ ! -e /tmp/removed ]")
        guest.run("kill -9 $(cat /tmp/pid); until [ -e /tmp/removed ]; do usleep 50000; done")
        guest.run(_RESCAN, 120)
        _is_back(bench, bench.guest.run(f"type_of {bench.memory['stays']}"))


def comes_to_vfio(bench):
    """A disk that comes into a PE which VFIO has waits until VFIO is done."""
    guest, goes, testdev = bench.guest, bench.memory["goes"], bench.bdf("testdev")
    kind = group_type(bench, "testdev")
    for bdf in (bench.memory["stays"], testdev):
        guest.run(f"bind {bdf} vfio-pci")
    for api in ("type1", "iommufd"):
        guest.run(_remove(bench), 120)
        steps.vfio_holds(bench, f"{api} {testdev}")
        guest.run(_RESCAN, 120)
        status, said = guest.try_run(f"bind {goes} nvme")
        expect(status, f"a host driver has a device of a PE that VFIO holds: {said}")
        guest.run("kill -9 $(cat /tmp/pid); until grep -q status /tmp/held; do usleep 50000; done")
        guest.run(f"bind {goes} nvme")
        _is_back(bench, kind)


def bridge_first(bench):
    """A PE goes with all its devices and comes again, a bridge before the others."""
    guest, bdf = bench.guest, bench.bdf("testdev")
    kind, bridge = group_type(bench, "testdev"), f"{bdf[:-1]}0"
    expect(guest.run(f"cat /sys/bus/pci/devices/{bridge}/class") == "0x060400", f"{bridge} is no bridge")
    guest.run(f"for dev in {bdf} {bridge}; do echo 1 >/sys/bus/pci/devices/$dev/remove; done; {_RESCAN}; unbind {bdf}", 120)
    expect((now := group_type(bench, "testdev")) == kind, f"type {now}, not {kind}")
    return f"{bdf}, {kind}"


# -- PHBs --------------------------------------------------------------------

def phb_rounds(bench, rounds=2):
    """A PHB with a disk is removed and added, in QEMU too."""
    guest, index, number = bench.guest, bench.memory["phb"], _GOES + 1
    kind = guest.run(f"type_of {bench.memory['goes']}")
    control = "/sys/bus/pci/slots/control"
    for _ in range(rounds):
        guest.run(f"{_remove(bench)}; echo 'PHB {number}' >{control}/remove_slot; echo 'dt remove index {index}' >/sys/kernel/dlpar", 600)
        # QEMU 11.1.3 crashes now and then when a PHB comes again that went with a disk in it.
        hotplug.unplug(guest, f"dev{_GOES}", hotplug.release(bench.memory["slot"]))
        hotplug.unplug(guest, f"phb{number}", hotplug.release(index))
        guest.qmp("device_add", driver="spapr-pci-host-bridge", index=number, id=f"phb{number}")
        hotplug.plug_disk(guest, _GOES, f"phb{number}.0", bench.image(_GOES))
        guest.run(f"{hotplug.acquire(index)}; echo 'dt add index {index}' >/sys/kernel/dlpar; echo 'PHB {number}' >{control}/add_slot", 600)
        guest.check_log()
        bench.memory["goes"] = next(bdf for bdf in _disks(bench) if bdf != bench.memory["stays"])
        _is_back(bench, kind)
    return f"{rounds} times, {kind}"


def phb_rounds_long(bench):
    """A PHB with a disk is removed and added 100 times."""
    return phb_rounds(bench, 100)


# -- a group that somebody holds ----------------------------------------------

def group_outlives(bench):
    """Somebody holds the group of a PE that goes, and lets it go when another has come in its place."""
    guest, goes = bench.guest, bench.memory["goes"]
    rounds = phb_rounds if bench.is_pseries else sysfs_rounds
    group = guest.run(f"insmod /modules/held_group.ko device={goes}; group_of {goes}")
    rounds(bench, 1)
    now = guest.run(f"group_of {bench.memory['goes']}; rmmod held_group")
    expect(now != group, f"group {group} is that of the new PE")
    rounds(bench, 1)
    return f"group {group}, then {now}"


# -- afterwards --------------------------------------------------------------

def unloaded(bench):
    """The driver is unloaded after the last device, and firmware has refused nothing."""
    bench.guest.run("for dev in /sys/bus/pci/devices/*; do [ ! -e $dev/iommu_group ] || echo 1 >$dev/remove; done", 120)
    left = bench.guest.run("ls /sys/kernel/debug/tce_iommu | grep -x '[0-9]*' || :").split()
    expect(not left, f"PEs without a device: {left}")
    bench.guest.run("rmmod tce_iommu")
    bench.guest.check_log()
    refused = re.findall(r".*(?:hypervisor error|OPAL cannot|OPAL does not|firmware does not|cannot restore).*", bench.guest.kernel_log)
    expect(not refused, " | ".join(refused[:4]))


def no_leak(bench):
    """kmemleak finds nothing."""
    leaks = [leak for leak in steps.leaks(bench) if not re.search(_LOST, leak)]
    expect(not leaks, f"{len(leaks)} leaks: {leaks[0] if leaks else ''}")


def lockdep_on(bench):
    """Lockdep has watched until the end."""
    state = bench.guest.run("grep debug_locks /proc/lockdep_stats").split()[-1]
    expect(state == "1", f"debug_locks is {state}")


_SYSFS_SHARED = (loaded, sysfs_rounds, vfio_rounds, comes_to_vfio, unloaded, steps.log_clean)


def _each(name, steps_, machines=("pseries", "powernv10"), flavour="modern-64k", **more):
    return [Scenario(name, flavour, machine, ("nvme", "nvme", "testdev"),
                     (loaded, io_begins, *steps_, steps.reads_were_right, unloaded, steps.log_clean), **more) for machine in machines]


SCENARIOS = [
    *_each("hotplug", (sysfs_rounds, plug_rounds, vfio_rounds, vfio_dies), machines=("pseries",)),
    *_each("hotplug", (sysfs_rounds, plug_rounds, vfio_rounds, vfio_dies, group_outlives), machines=("powernv10",), modules=True),
    *_each("hotplug-phb", (phb_rounds, group_outlives, lockdep_on), machines=("pseries",), flavour="modern-debug-64k", modules=True),
    *[Scenario("hotplug-shared", "modern-64k", machine, ("nvme", "nvme", "testdev"), _SYSFS_SHARED, together=True)
      for machine in ("pseries", "powernv10")],
    Scenario("hotplug-bridge", "modern-64k", "powernv10", (), (steps.driver_loaded, bridge_first, steps.testdev_oracle, steps.log_clean),
             more=("-device", "x3130-upstream,bus=pcie.0,addr=0.0,multifunction=on", "-device", "iommu-testdev,bus=pcie.0,addr=0.1")),
    *_each("hotplug-long", (plug_rounds_long, vfio_rounds_long, lockdep_on, no_leak), flavour="modern-debug-64k", only_all=True),
    *_each("hotplug-phb-long", (phb_rounds_long, lockdep_on, no_leak), machines=("pseries",), flavour="modern-debug-64k", only_all=True),
    *_each("hotplug-platform", (sysfs_rounds, plug_rounds), append="iommu.passthrough=1", only_all=True),
]
