# SPDX-License-Identifier: GPL-2.0
"""The samples for shared virtual addressing, with IOMMU drivers of all kinds.

TCE hardware has no PASIDs, but a window for one process. Intel's IOMMU has
PASIDs, in QEMU too, and its driver is written in C.
"""

import re

from .. import hotplug, steps
from ..scenario import Scenario
from ..steps import expect

_DRIVER = "rust_driver_pci_sva"
_WIDE, _NARROW, _NONE = 20, 1, 0    # PASID bits; PASID 0 is not given to anyone

_REFUSED = "no shared virtual addressing: "
_NO_IOMMU = _REFUSED + "no IOMMU driver has the device"
_NO_PASIDS = _REFUSED + "the device or its IOMMU has no PASIDs"
_NO_SUPPORT = _REFUSED + "the IOMMU or its driver has no shared virtual addressing"
_USED_UP = _REFUSED + "all PASIDs of the device are in use"
_TOO_LARGE = _REFUSED + "the PASID of the process is too large for the device"


def _devices(bench):
    """Addresses of the devices that the sample knows."""
    return bench.guest.run("pci 1b36:0005").split()


def _said(log, bdf, what):
    """What the sample said of a device, from a pattern; or fails."""
    found = re.search(rf"{_DRIVER} {bdf}: {what}$", log, re.M)
    expect(found, f"{bdf}: no {what!r} in: {log[-600:]}")
    return found[found.re.groups]


def _process(bench, name):
    """Starts a shell that lives on and does what it is told. Returns its process ID."""
    # An idle CPU keeps the last address space, and with it the PASID, until it runs another process.
    bench.guest.run("taskset -c 0 true; taskset -c 1 true")
    return bench.guest.run(f"mkfifo /tmp/{name}; sleep 9999 >/tmp/{name} & sh </tmp/{name} >/dev/null 2>&1 & echo $!")


def _bind(bench, name, bdf):
    """Lets such a process probe a device, anew if need be. Returns what the kernel said."""
    bench.guest.run(f"unbind {bdf}; echo 'echo {bdf} >/sys/bus/pci/drivers/{_DRIVER}/bind; : >/tmp/done' >/tmp/{name}; "
                    "until [ -e /tmp/done ]; do usleep 50000; done; rm /tmp/done")
    return bench.guest.check_log()


def _unbind(bench, bdf):
    bench.guest.run(f"unbind {bdf}")
    return bench.guest.check_log()


def _exit(bench, process):
    bench.guest.run(f"kill -9 {process}; while [ -e /proc/{process} ]; do usleep 50000; done")
    return bench.guest.check_log()


def _translated(bench, bdf, pasid):
    """Whether the IOMMU's table of the device has an entry for the PASID."""
    table = bench.guest.run("cat /sys/kernel/debug/iommu/intel/dmar_translation_struct")
    rows = [text.split() for text in table.splitlines()]
    return any(row[0] == bdf.removeprefix("0000:") and row[3] == pasid for row in rows if len(row) == 5)


# -- POWER -----------------------------------------------------------------

def no_iommu(bench):
    """Without an IOMMU driver the sample says so."""
    bench.guest.run(f"load {_DRIVER}")
    return _said(bench.guest.check_log(), bench.bdf("testdev"), _NO_IOMMU)


def forbidden(bench):
    """With the TCE driver, and process windows forbidden, it says that there are no PASIDs."""
    bdf = bench.bdf("testdev")
    bench.guest.run("load tce_iommu")
    _unbind(bench, bdf)
    bench.guest.run(f"until type_of {bdf} | grep -q ^DMA; do usleep 20000; done; "
                    f"bind {bdf} {_DRIVER}")
    return _said(bench.guest.check_log(), bdf, _NO_PASIDS)


def copied(bench):
    """Process bound to edu, which copies its memory by its addresses."""
    bdf = bench.bdf("edu")
    bench.guest.run(f"load tce_iommu; load rust_sva_copy; bind {bdf} rust_sva_copy")
    said = {bench.guest.run("svacopy", 60) for _ in range(3)}
    expect(len(said) == 1, f"{said}")
    bench.guest.run(f"unbind {bdf}; rmmod rust_sva_copy")
    return said.pop()


def _bound(bench):
    """Loads the sample and gives it edu. Returns the address."""
    bdf = bench.bdf("edu")
    bench.guest.run(f"load tce_iommu; load rust_sva_copy; bind {bdf} rust_sva_copy")
    return bdf


def kernel_dma(bench):
    """Where the kernel's DMA may use the addresses of a process no process is bound."""
    guest, bdf = bench.guest, bench.bdf("testdev")
    guest.run(f"load tce_iommu; load {_DRIVER}")
    _unbind(bench, bdf)
    guest.run(f"bind {bdf} {_DRIVER}")
    _said(_unbind(bench, bdf), bdf, r"bound with PASID \d+")
    # Its masks have 64 bits from now on.
    steps.testdev_oracle(bench)
    guest.run(f"bind {bdf} {_DRIVER}")
    said = _said(_unbind(bench, bdf), bdf, _REFUSED + "DMA of the kernel may use the addresses of the process")
    steps.testdev_oracle(bench)
    guest.run(f"rmmod {_DRIVER}")
    return said


def isolated(bench):
    """edu reaches what was prefaulted for it, and nothing else of a process."""
    bdf = _bound(bench)
    bench.guest.run(f"load nvme; disk_of {bench.bdf('nvme')}")
    # Firmware does not tell of huge pages everywhere.
    huge = "! [ -e /proc/sys/vm/nr_hugepages ] || echo {} >/proc/sys/vm/nr_hugepages"
    bench.guest.run(huge.format(4))
    bench.guest.check_log()
    said = bench.guest.run(f"svacheck {bdf}", 240)
    bench.guest.run(huge.format(0))
    # Those of the hash MMU have 16 MiB.
    is_huge = bench.is_pseries and "disable_radix" not in bench.scenario.append
    expect("skipped" not in said or not is_huge, said)
    window = re.search(r"the DMA window of 0x\w+ bytes at 0x800000000000000 does not reach the address", bench.guest.check_log())
    expect(bool(window) == bench.is_pseries, f"of addresses beyond the window: {window}")
    return said


def _pinned(bench):
    """How many pages are pinned, after each CPU has told what it counted."""
    counts = dict(line.split() for line in bench.guest.run("cat /proc/sys/vm/stat_refresh; grep nr_foll_pin /proc/vmstat").splitlines())
    return int(counts["nr_foll_pin_acquired"]) - int(counts["nr_foll_pin_released"])


def _rounds(number):
    def rounds(bench):
        """Binding, prefaulting and exit in turn leave nothing behind."""
        bdf = _bound(bench)
        bench.guest.run(f"svacheck {bdf} 8")
        debug = "debug" in bench.scenario.flavour
        if debug:
            steps.forget_leaks(bench)
        pinned = _pinned(bench)
        said = bench.guest.run(f"svacheck {bdf} {number}", 3600)
        expect(_pinned(bench) == pinned, f"{pinned} pages were pinned, now {_pinned(bench)}")
        bench.guest.run(f"unbind {bdf}; rmmod rust_sva_copy")
        leaks = steps.leaks(bench) if debug else []
        expect(not leaks, f"leaks: {leaks[:2]}")
        return said
    return rounds


def _start_holder(bench):
    """A process that stays bound, with descriptor 9 of a shell. Returns its number."""
    bench.guest.run("(exec 9<>/dev/rust-sva-copy; echo ready >/tmp/holding; exec sleep 9999) >/tmp/holder 2>&1 & echo $! >/tmp/pid; "
                    "until [ -e /tmp/holding ]; do usleep 50000; done; rm /tmp/holding")
    return bench.guest.run("cat /tmp/pid")


def _stop_holder(bench, pid):
    bench.guest.run(f"kill {pid}; while [ -e /proc/{pid} ]; do usleep 50000; done")


def who_has_it(bench):
    """debugfs says which process has the window of a device, as long as it has it."""
    bdf = _bound(bench)
    windows = f"{steps.DEBUGFS}/$(group_of {bdf})/windows"
    pid = _start_holder(bench)
    said = bench.guest.run(f"grep process {windows}")
    expect(said == f"window 1 belongs to process {pid}", f"{said!r}, and the process is {pid}")
    _stop_holder(bench, pid)
    left = bench.guest.try_run(f"grep process {windows}")[1]
    expect(not left, left)
    return said


def others(bench):
    """While a process has the device nobody else gets it; its file outlives the driver."""
    bdf = _bound(bench)
    windows = f"{steps.DEBUGFS}/$(group_of {bdf})/windows"
    pid = _start_holder(bench)
    status, said = bench.guest.try_run("(exec 9<>/dev/rust-sva-copy)")
    expect(status and "busy" in said.lower(), f"a second process: {said}")
    bench.guest.read_log()
    # The driver goes, and with it the bond; VFIO gets the device with both windows.
    for kind in ("type1", "iommufd"):
        bench.guest.run(f"load vfio_pci; load vfio_iommu_type1; load iommufd; bind {bdf} vfio-pci; vfiocheck {kind} {bdf}")
        expect(not bench.guest.try_run(f"grep process {windows}")[1], "the process still has the window")
        status, said = bench.guest.try_run("(exec 9<>/dev/rust-sva-copy)")
        expect(status, f"a process has a device of VFIO: {said}")
        bench.guest.run(f"bind {bdf} rust_sva_copy")
    _stop_holder(bench, pid)
    said = bench.guest.run("svacopy", 60)
    return f"EBUSY, then VFIO, then {said}"


def unplugged(bench):
    """The device goes while a process is bound, and comes again."""
    bdf = _bound(bench)
    pid = _start_holder(bench)
    bench.guest.run(f"echo 1 >/sys/bus/pci/devices/{bdf}/remove; echo 1 >/sys/bus/pci/rescan")
    bench.guest.run(f"until [ -e /sys/bus/pci/devices/{bdf} ]; do usleep 50000; done; "
                    f"bind {bdf} rust_sva_copy")
    # The old file has nothing to say about the new device.
    said = bench.guest.run("svacopy", 60)
    _stop_holder(bench, pid)
    said = bench.guest.run("svacopy", 60)
    bench.guest.run(f"unbind {bdf}; rmmod rust_sva_copy")
    return said


def pulled(bench):
    """The device is taken out of the machine while it reaches memory of a process, and plugged again."""
    guest, bdf = bench.guest, _bound(bench)
    device = f"/sys/bus/pci/devices/{bdf}"
    if bench.is_pseries:
        slot = hotplug.cell(guest, f"{device}/of_node", "ibm,my-drc-index")
        let_go = f"echo 'dt remove index {slot}' >/sys/kernel/dlpar; {hotplug.release(slot)}"
        come = f"{hotplug.acquire(slot)}; echo 'dt add index {slot}' >/sys/kernel/dlpar"
        guest.run("load rpadlpar_io", 120)
    else:
        port = guest.run(f"basename $(dirname $(readlink -f {device}))")
        let_go, come = (hotplug.slot_power(guest, port, power) for power in (False, True))
    guest.run(f"mkfifo /tmp/go; sleep 9999 >/tmp/go & svacheck {bdf} waits </tmp/go >/tmp/said 2>&1 & "
              "until grep holds /tmp/said; do usleep 100000; done", 120)
    guest.run(f"echo 1 >{device}/remove", 120)
    hotplug.unplug(guest, "dev0", let_go)
    guest.qmp("device_add", driver="edu", id="dev0", bus="phb1.0" if bench.is_pseries else "pcie.0", dma_mask=(1 << 64) - 1)
    guest.run(f"{come}; echo 1 >/sys/bus/pci/rescan; until [ -e {device} ]; do usleep 100000; done; "
              f"bind {bdf} rust_sva_copy", 120)
    # The old file has nothing to say about the new device, and keeps nobody from it.
    said = guest.run("svacopy", 60)
    said += "; " + guest.run("echo >/tmp/go; until grep -q : /tmp/said; do usleep 100000; done; "
                             "tail -n 1 /tmp/said", 120)
    expect("ok:" in said, said)
    guest.run(f"unbind {bdf}; rmmod rust_sva_copy")
    return said


# -- Intel -----------------------------------------------------------------

def one_process(bench):
    """The sample binds two devices to one process and outlives it."""
    bench.guest.run(f"load {_DRIVER}")
    log = bench.guest.check_log()
    _, *devices = _devices(bench)[:3]
    for bdf, bits in zip(devices, (_WIDE, _NARROW)):
        _said(log, bdf, f"PASIDs below {1 << bits}")
    pasid, other = (_said(log, bdf, r"bound with PASID (\d+)") for bdf in devices)
    expect(pasid == other, f"one process has the PASIDs {pasid} and {other}")
    for bdf in devices:
        _said(log, bdf, f"the process exits, stopping PASID {pasid}")
        _said(_unbind(bench, bdf), bdf, "unbinding, the process has exited")
    return f"PASID {pasid}"


def exit_and_unbind(bench):
    """The IOMMU has the PASID until the driver unbinds or the process exits."""
    _, wide, narrow, *_ = _devices(bench)
    process = _process(bench, "first")
    pasid = _said(_bind(bench, "first", wide), wide, r"bound with PASID (\d+)")
    _said(_bind(bench, "first", narrow), narrow, f"bound with PASID {pasid}")
    expect(_translated(bench, wide, pasid) and _translated(bench, narrow, pasid), "bound, and no entry for the PASID")

    _said(_unbind(bench, wide), wide, "unbinding, the process lives")
    expect(not _translated(bench, wide, pasid), "unbound, and still an entry for the PASID")
    expect(_translated(bench, narrow, pasid), "the other device lost its entry")

    _said(_exit(bench, process), narrow, f"the process exits, stopping PASID {pasid}")
    expect(not _translated(bench, narrow, pasid), "the process is gone, and still an entry for the PASID")
    _said(_unbind(bench, narrow), narrow, "unbinding, the process has exited")
    return f"PASID {pasid}"


def refusals(bench):
    """Where binding is not possible, the sample says why."""
    without, wide, narrow, none, beyond = _devices(bench)
    _process(bench, "second")
    _process(bench, "third")
    # The second process keeps the only PASID of the narrow device, also unbound.
    _said(_bind(bench, "second", wide), wide, "bound with PASID 1")
    for bdf, answer in ((beyond, _NO_IOMMU), (without, _NO_PASIDS), (none, _NO_PASIDS), (narrow, _USED_UP),
                        (wide, "bound with PASID 2"), (narrow, _TOO_LARGE)):
        _said(_bind(bench, "third", bdf), bdf, answer)
    bench.guest.run(f"rmmod {_DRIVER}")
    return "no IOMMU, no PASIDs, PASIDs used up, PASID too large"


def no_support(bench):
    """An IOMMU with PASIDs, but without shared virtual addressing."""
    bench.guest.run(f"load {_DRIVER}")
    bdf = _devices(bench)[1]
    log = bench.guest.check_log()
    _said(log, bdf, f"PASIDs below {1 << _WIDE}")
    return _said(log, bdf, _NO_SUPPORT)


def _tce(machine, flavour="modern-debug-64k", name="sva", number=20, **more):
    # The other sample is in kernels for debugging only.
    masks = (kernel_dma,) if "debug" in flavour else ()
    return Scenario(name, flavour, machine, ("edu", "nvme", "testdev"),
                    (copied, *masks, isolated, who_has_it, others, unplugged, _rounds(number), steps.log_clean), **more)


def _intel(name, test_steps, more=(), **others):
    device = f"intel-iommu,device-iotlb=on,caching-mode=on,scalable-mode=on,fsts=on,svm=on,pasid-bits={_WIDE}"
    return Scenario(name, "x86", "q35", ("testdev",), (*test_steps, steps.log_clean), only_all=True,
                    more=("-device", device, *more), pasid_bits=(_WIDE, _NARROW, _NONE), append="intel_iommu=sm_on", **others)


# A bus that the IOMMU does not see.
_BEYOND = ("-device", "pxb-pcie,id=beyond,bus_nr=0x40,bus=pcie.0,addr=0x18,bypass_iommu=on",
           "-device", "pcie-root-port,id=root,bus=beyond,addr=0,chassis=1", "-device", "pci-testdev,bus=root")
SCENARIOS = [Scenario("sva-none", "modern-debug-64k", "pseries", ("testdev",), (no_iommu, forbidden, steps.log_clean),
                      append="tce_iommu.process_windows=0"),
             _tce("pseries"), _tce("powernv10"),
             *(Scenario("sva-pulled", "modern-64k", machine, ("edu",), (pulled, steps.log_clean)) for machine in ("pseries", "powernv10")),
             *(_tce(machine, name="sva-long", number=1000, only_all=True) for machine in ("pseries", "powernv10")),
             *(_tce(machine, flavour, name, append=append, only_all=True)
               for machine in ("pseries", "powernv10") for flavour, name, append in (
                   ("modern-64k", "sva", ""), ("modern-4k", "sva", ""), ("modern-4k", "sva-hash", "disable_radix"), ("modern-debug-64k", "sva-hash", "disable_radix"))),
             _intel("sva", (one_process, exit_and_unbind, refusals), _BEYOND, coherent=True),
             _intel("sva-off", (no_support,))]
