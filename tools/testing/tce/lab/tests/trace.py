# SPDX-License-Identifier: GPL-2.0
"""Tracepoints, as tracefs shows them."""

import re

from ..scenario import Scenario
from ..steps import DEBUGFS, dmesg_clean, expect, from_guide, stats

_TRACING = "/sys/kernel/tracing"
_EVENTS = f"{_TRACING}/events/tce_iommu"


def _lines(bench):
    """[(event, {field: value})] of the trace, which is empty afterwards."""
    text = bench.guest.run(f"grep -o 'tce_[a-z_]*: .*' {_TRACING}/trace || :", 120)
    bench.guest.run(f"echo >{_TRACING}/trace")
    return [(name, dict(re.findall(r"(\w+)=(\S+)", fields))) for name, fields in re.findall(r"^(tce_\w+): (.*)$", text, re.M)]


def _names(bench, device):
    """What the events of a device's calls say of its PE: the LIOBNs, or the group."""
    group = bench.guest.run(f"group_of {bench.bdf(device)}")
    if not bench.is_pseries:
        return {group}
    return set(re.findall(r" liobn (0x[0-9a-f]+)", bench.guest.run(f"cat {DEBUGFS}/{group}/windows")))


def _calls(events):
    return [fields for name, fields in events if name in ("tce_put", "tce_put_indirect", "tce_stuff", "tce_kill")]


def taken_over(bench):
    """Windows that change hands and open, and devices that are attached."""
    bdf = bench.bdf("testdev")
    bench.guest.run(f"mount -t tracefs none {_TRACING}; load tce_iommu")
    bench.guest.run(f"echo 2000 >{_TRACING}/buffer_size_kb; echo 1 >{_EVENTS}/enable")
    path = f"/sys/kernel/iommu_groups/$(group_of {bdf})/type"
    bench.guest.run(f"unbind {bdf}; echo identity >{path}")
    told = _lines(bench)
    expect(("tce_owner", {"dev": bdf, "owner": "platform", "error": "0"}) in told, f"given back: {told}")
    expect(("tce_attach", {"dev": bdf, "domain": "platform", "error": "0"}) in told, f"given back: {told}")
    # On pSeries the platform takes its windows back with all there are.
    expect(bench.is_pseries or any(name == "tce_window_close" and fields["dev"] == bdf for name, fields in told), f"given back: {told}")
    bench.guest.run(f"echo DMA >{path}")
    told = _lines(bench)
    expect(("tce_owner", {"dev": bdf, "owner": "driver", "error": "0"}) in told, f"taken over: {told}")
    expect(("tce_attach", {"dev": bdf, "domain": "paging", "error": "0"}) in told, f"taken over: {told}")
    opened = {fields["window"]: fields["base"] for name, fields in told if name == "tce_window_open"}
    windows = bench.guest.run(f"cat {DEBUGFS}/$(group_of {bdf})/windows")
    expect(opened and all(f"window {number} base {base} " in windows for number, base in opened.items()), f"opened: {opened}")
    return f"{len(told)} events"


def calls(bench):
    """Every call of firmware for TCEs has an event that names the PE."""
    names = ("kills",) if not bench.is_pseries else ("h_put_tce", "h_put_tce_indirect", "h_stuff_tce")
    before = stats(bench, "testdev")
    bench.guest.run("load tce_testdev oracle=0 hold_kib=1024; rmmod tce_testdev")
    after = stats(bench, "testdev")
    mine = _names(bench, "testdev")
    told = [fields for fields in _calls(_lines(bench)) if fields.get("liobn", fields.get("group")) in mine]
    counted = sum(after[name] - before[name] for name in names)
    expect(counted and len(told) == counted, f"{len(told)} events, {counted} calls: {told}")
    return f"{counted} calls"


def busiest(bench):
    """The driver that maps too often is found by the guide's command."""
    bench.guest.run("load nvme")
    bench.guest.run(f"disk_of {bench.bdf('nvme')}")
    _lines(bench)
    bench.guest.run("for round in $(seq 20); do load tce_testdev oracle=0 hold_kib=64; rmmod tce_testdev; done", 120)
    count = from_guide(r"^  (grep -oE .* \| head)$")
    told = bench.guest.run(f"cd {_TRACING} && {count[1]}").split("\n")
    number, name = re.match(r" *(\d+) \w+=(\w+)", told[0]).groups()
    expect(name in _names(bench, "testdev") and int(number) >= 40, f"calls by PE: {told}")
    return "; ".join(" ".join(text.split()) for text in told)


def silent(bench):
    """Without a reader there is nothing."""
    bench.guest.run(f"echo 0 >{_EVENTS}/enable")
    _lines(bench)
    bench.guest.run("load tce_testdev oracle=0 hold_kib=1024; rmmod tce_testdev")
    expect(not (told := _lines(bench)), f"events: {told}")


SCENARIOS = [Scenario("trace", "modern-debug-64k", machine, ("nvme", "testdev"), (taken_over, calls, busiest, silent, dmesg_clean))
             for machine in ("pseries", "powernv10")]
