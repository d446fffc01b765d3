# SPDX-License-Identifier: GPL-2.0
"""Virtual functions come and go while their physical function works.

On PowerNV only: below pseries firmware has no SR-IOV. With 64K pages a virtio-rng with VFs that are
virtio-net is all there is: the VF BARs of QEMU's igb are smaller than 64 KiB, those of its nvme are not
prefetchable, which the platform wants.
"""

import zlib

from .. import steps
from ..scenario import Scenario
from ..steps import expect

_VFS = 2
_VIRTIO_RNG = "1af4:1044"
_LOAD = "load tce_iommu; load vfio_pci; load vfio_iommu_type1; load iommufd"


def _found(bench, ident):
    """Remembers the physical function. Its VFs are left to VFIO."""
    bench.memory["pf"] = bench.guest.pci(ident)
    bench.guest.run(f"{_LOAD}; echo 0 >{_path(bench)}/sriov_drivers_autoprobe")


def _path(bench):
    return f"/sys/bus/pci/devices/{bench.memory['pf']}"


def _vfs(bench):
    """The addresses of the VFs."""
    return bench.guest.run(f"for vf in {_path(bench)}/virtfn*; do [ ! -e $vf ] || basename $(readlink $vf); done").split()


def _switch(bench, number):
    bench.guest.run(f"echo {number} >{_path(bench)}/sriov_numvfs", 120)
    found = _vfs(bench)
    expect(len(found) == number, f"{len(found)} of {number} VFs")
    return found


def _over_and_over(bench):
    """Has the physical function work until _end(), which tells how often it did, and if it failed. Returns when it has, once."""
    bench.guest.run(f"rm -f /tmp/stop /tmp/done /tmp/once; (n=0; while [ ! -e /tmp/stop ]; do {bench.memory['once']} || break; "
                    "n=$((n + 1)); echo $n >/tmp/once; done; echo $n $([ -e /tmp/stop ] && echo good) >/tmp/done) >/tmp/said 2>&1 & "
                    "until [ -s /tmp/once ]; do usleep 100000; done", 60)


def _end(bench):
    return bench.guest.run("touch /tmp/stop; until [ -s /tmp/done ]; do usleep 100000; done; cat /tmp/done",
                           120).split()


def rng_works(bench):
    """The physical function, a virtio-rng, is read all the time."""
    _found(bench, _VIRTIO_RNG)
    bench.guest.run("load virtio_pci; load virtio_rng")
    bench.memory["once"] = "[ $(dd if=/dev/hwrng bs=4096 count=1 2>/dev/null | gzip | wc -c) -gt 4096 ]"
    _over_and_over(bench)


def igb_works(bench):
    """The physical function, an igb, fetches a file all the time."""
    _found(bench, "8086:10c9")
    bench.guest.run("load igb")
    bench.memory["up"] = f"net_up {bench.memory['pf']}"
    bench.guest.run(bench.memory["up"], 60)
    want = zlib.crc32((bench.directory / "tftp/pattern").read_bytes())
    # Its driver starts the device anew when VFs come or go; what is lost then is asked for again.
    bench.memory["once"] = ("{ tftp -b 8192 -g -r pattern -l /tmp/pattern 10.0.2.2 || continue; "
                            f"[ $(crc32 /tmp/pattern | cut -c1-8) = {want:08x} ]; }}")
    _over_and_over(bench)


def pf_was_right(bench):
    """All that it got was right."""
    said = _end(bench)
    expect(said[1:] == ["good"] and int(said[0]) > 0, f"got: {said}")
    return f"{said[0]} times"


def up_and_down(bench, rounds=3):
    """VFs come with groups of their own, and go."""
    for _ in range(rounds):
        groups = {bench.guest.run(f"group_of {bdf}") for bdf in (*_switch(bench, _VFS), bench.memory["pf"])}
        expect(len(groups) == _VFS + 1, f"groups {groups}")
        _switch(bench, 0)
        left = bench.guest.run("ls /sys/kernel/debug/tce_iommu").split()
        expect(not (groups - {bench.guest.run(f"group_of {bench.memory['pf']}")}) & set(left), f"{left} are left of {groups}")
    return f"{rounds} rounds"


def up_and_down_long(bench):
    """VFs come and go 100 times."""
    return up_and_down(bench, 100)


def vf_reset(bench):
    """A VF that VFIO uses is reset."""
    vf = _switch(bench, _VFS)[0]
    bench.guest.run(f"bind {vf} vfio-pci && vfiocheck type1 {vf} && echo 1 >/sys/bus/pci/devices/{vf}/reset && vfiocheck iommufd {vf}")
    _switch(bench, 0)


def pf_reset(bench):
    """The PF is reset below a VF that VFIO uses."""
    vf = _switch(bench, _VFS)[0]
    bench.guest.run(f"bind {vf} vfio-pci && vfiocheck type1 {vf} && echo 1 >{_path(bench)}/reset && vfiocheck iommufd {vf}")
    _switch(bench, 0)


def held(bench):
    """VFs go while VFIO holds one, by their number and with the PF."""
    path, testdev, checks = _path(bench), bench.bdf("testdev"), 0
    bench.guest.run(f"bind {testdev} vfio-pci")
    none = f"echo 0 >{path}/sriov_numvfs"
    for kind, end in (("type1", none), ("iommufd", none), ("iommufd", f"echo 1 >{path}/remove; echo 1 >/sys/bus/pci/rescan")):
        vf = _switch(bench, _VFS)[0]
        bench.guest.run(f"bind {vf} vfio-pci")
        steps.vfio_holds(bench, f"{kind} {vf} {testdev}")
        bench.guest.run(end, 120)
        checks += steps.vfio_let_go(bench)
    _pf_is_back(bench)
    _switch(bench, 1)
    _switch(bench, 0)
    return f"{checks} checks"


def _pf_is_back(bench):
    bench.guest.run(f"until [ $(driver_of {bench.memory['pf']}) != - ]; do usleep 50000; done; "
                    f"{bench.memory.get('up', ':')}", 120)


def pf_goes(bench, rounds=2):
    """The PF is removed while it works and VFIO has a VF, and works again when it is back."""
    for _ in range(rounds):
        _over_and_over(bench)
        bench.guest.run(f"bind {_switch(bench, _VFS)[0]} vfio-pci; echo 1 >{_path(bench)}/remove; echo 1 >/sys/bus/pci/rescan", 120)
        count, *_ = _end(bench)     # what it did when it went may have failed
        expect(int(count) > 0, "the PF did not work before it went")
        _pf_is_back(bench)
        expect(not _vfs(bench), f"VFs without being asked for: {_vfs(bench)}")
        _over_and_over(bench)
        pf_was_right(bench)
    return f"{rounds} rounds"


def pf_goes_long(bench):
    """The same 50 times."""
    return pf_goes(bench, 50)


_VIRTIO = "iommu_platform=on,disable-legacy=on,vectors=0"
# VFs are there first, and their BARs are large enough with a page for each queue.
_RNG = tuple(word for number in range(1, _VFS + 1) for word in (
    "-netdev", f"user,id=vf{number},restrict=on", "-device",
    f"virtio-net-pci,bus=pcie.3,addr=0.{number},sriov-pf=pf,netdev=vf{number},page-per-vq=on,{_VIRTIO}")) + (
    "-device", f"virtio-rng-pci,bus=pcie.3,addr=0.0,id=pf,{_VIRTIO}")


def _rng(name, *steps_, **more):
    return Scenario(name, steps=(rng_works, *steps_, steps.log_clean), machine="powernv10", devices=("testdev",), more=_RNG, **more)


def _igb(name, *steps_):
    return Scenario(name, "modern-4k", "powernv10", ("igb", "testdev"), (igb_works, *steps_, steps.log_clean), only_all=True)


SCENARIOS = [
    _rng("vfs", up_and_down, vf_reset, pf_was_right, held, pf_goes, flavour="modern-64k"),
    _rng("vfs-long", up_and_down_long, pf_was_right, held, pf_goes_long, flavour="modern-debug-64k", only_all=True),
    _igb("vfs-igb", up_and_down_long, vf_reset, pf_reset, pf_was_right, held, pf_goes),
]
