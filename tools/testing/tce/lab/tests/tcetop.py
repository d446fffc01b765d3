# SPDX-License-Identifier: GPL-2.0
"""tce-top in the guest: what it shows is so, and what it says to type helps."""

import json
import re

from .. import steps, tcetop
from ..scenario import Scenario
from ..steps import MIB, expect, stats


def _type(bench, said):
    """Types the commands that tce-top has, each on a line that begins with two spaces."""
    commands = re.findall(r"^  (.*)$", said, re.M)
    expect(commands, f"nothing to type: {said}")
    for command in commands:
        bench.guest.run(command)
    return len(commands)


def not_taken_over(bench):
    """tce-top says why a device was not taken over, and what to type."""
    guest, bdf = bench.guest, bench.bdf("e100")
    said = guest.run(f"tce-top explain {bdf}")
    expect("tce_iommu is not loaded" in said, f"without the driver: {said}")
    guest.run("load e100; load tce_iommu")
    said = guest.run(f"tce-top explain {bdf}")
    expect("its driver e100 uses" in said and guest.run(f"group_of {bdf}") == "-", f"in use: {said}")
    # Other devices may have no group either, and other drivers.
    expect(f"{bdf} is in no IOMMU group: its driver e100" in guest.run("tce-top explain"), "without an address it is not named")
    status, said_of_none = guest.try_run("tce-top explain 0fff:00:00.0")
    expect(status == 1 and "no such PCI device" in said_of_none, f"a device that is not there: {status}, {said_of_none}")
    _type(bench, said)
    said = guest.run(f"tce-top explain {bdf}")
    expect(f"is in group {guest.run(f'group_of {bdf}')}, type DMA" in said, f"after typing that: {said}")
    return said.splitlines()[0]


def vfio(bench):
    """tce-top says why VFIO refuses a group, and what to type."""
    guest, bdf = bench.guest, bench.bdf("e100")
    guest.run(f"load vfio_pci; load vfio_iommu_type1; bind {bdf} e100")
    said = guest.run(f"tce-top explain {bdf}")
    expect(f"while {bdf} has the driver e100" in said, f"explains: {said}")
    _type(bench, said)
    said = guest.run(f"tce-top explain {bdf}")
    device = f"/dev/vfio/{guest.run(f'group_of {bdf}')}"
    expect(f"VFIO takes it: {device}" in said, f"after typing that: {said}")
    guest.run(f"[ -c {device} ]")
    return device


def live(bench):
    """tce-top shows rates: JSON when piped, a table on a terminal."""
    guest = bench.guest
    guest.run("load nvme")
    bdf = bench.bdf("nvme")
    before, group = stats(bench, "nvme"), int(guest.run(f"group_of {bdf}"))
    guest.run(f"disk=$(disk_of {bdf}); (while [ ! -e /tmp/stop ]; do ddsum read $disk 0 {MIB}; done; touch /tmp/stopped) >/dev/null 2>&1 &")
    looks = [json.loads(line) for line in guest.run("tce-top -n 2 -d 2 | cat", 120).splitlines()]
    screens = guest.run("tce-top -n 2 -d 2", 120).split("\x1b[H\x1b[2J")
    guest.run("touch /tmp/stop; until [ -e /tmp/stopped ]; do usleep 100000; done")
    expect(looks[0]["interval"] is None and 1.9 < looks[1]["interval"] < 60, f"intervals: {[look['interval'] for look in looks]}")
    pe = next(row for row in looks[-1]["pes"] if row["group"] == group)
    now = stats(bench, "nvme")
    expect(before["publishes"] < pe["stats"]["publishes"] <= now["publishes"], f"{pe['stats']} is not between {before} and {now}")
    expect(pe["publishes_per_s"] > 0 and pe["drivers"] == ["nvme"] and pe["kind"] == "DMA", f"of the nvme: {pe}")
    firmware = "hypercalls_per_s" if bench.is_pseries else "kills_per_s"
    expect(pe[firmware] > 0, f"of the nvme: {pe}")
    words = next(line.split() for line in screens[-1].splitlines() if bdf in line)
    expect(words[:4] == [str(group), bdf, "nvme", "DMA"] and int(words[4]) > 0, f"on the screen: {words}")
    tcetop.picture(screens[-1], bench.directory / "tce-top.svg")
    return f"{words[4]} publishes per second"


def replay(bench):
    """tce-top replays what it recorded."""
    guest = bench.guest
    guest.run("tce-top -n 2 -d 0.1 record /tmp/recording")
    recording = guest.run("cat /tmp/recording")
    # One such file is in tools/iommu/tce-top/tests: what machines without POWER replay.
    (bench.directory / "recording").write_text(recording + "\n", encoding="utf-8")
    recorded = [json.loads(line) for line in recording.splitlines()]
    replayed = [json.loads(line) for line in guest.run("tce-top replay /tmp/recording | cat").splitlines()]
    for looked, shown in zip(recorded, replayed, strict=True):
        expect({pe["group"]: pe["stats"] for pe in looked["pes"]} == {row["group"]: row["stats"] for row in shown["pes"]}, f"replayed: {shown}")
    return f"{len(replayed)} looks at {len(replayed[-1]['pes'])} PEs"


# The standard library has to be built for the guest.
SCENARIOS = [Scenario("tce-top", "modern-64k", machine, ("nvme", "e100"), (not_taken_over, vfio, live, replay, steps.dmesg_clean),
                      tce_top=True, only_all=True) for machine in ("pseries", "powernv10")]
