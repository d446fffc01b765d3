# SPDX-License-Identifier: GPL-2.0
"""make bench and make profile."""

from concurrent.futures import ThreadPoolExecutor

from .. import scenario, suite
from ..say import Fail, Progress, line
from . import boot, cases, guard, plots, profile, rows

_DOCUMENTED = "Documentation/driver-api/tce-iommu-performance"
_TABLE_HEAD = ".. SPDX-License-Identifier: GPL-2.0\n.. Written by make bench-doc.\n"


def measure(env, given, wanted=lambda name: True, places=cases.BOOTS):
    """{driver/boot/mode/case: Measure} of the wanted cases, and what went wrong."""
    boots = [(place, driver) for place in places for driver in place.drivers
             if any(wanted(name) for name in cases.names([place]) if name.startswith(f"{driver}/{place.name}/"))]
    objects = suite.build(env, {cases.FLAVOURS[driver] for _, driver in boots}, given)
    results, problems = {}, []

    def report(result):
        if result.status == "not ok":
            problems.append(f"{result.name}: {result.detail}")

    def one(place, driver):
        found, prefix = {}, f"{driver}/{place.name}/"
        built = objects[cases.FLAVOURS[driver]]
        chosen = boot.scenario(place, driver, found, lambda name: wanted(prefix + name))
        scenario.run(env, chosen, built, report)
        results.update({prefix + name: measure for name, measure in found.items()})

    with Progress(f"guests: {len(boots)}"), ThreadPoolExecutor(suite.BOOTS_AT_ONCE) as pool:
        for job in [pool.submit(one, *pair) for pair in boots]:
            job.result()
    return results, problems


def run_bench(env, given, only=""):
    """The table, or its rows with a word; returns the exit status."""
    chosen = rows.read(env, only)
    if not chosen:
        raise Fail(f"no row has {only!r}")
    needed = {name for row in chosen for name in row.measurements()}
    results, problems = measure(env, given, needed.__contains__ if only else lambda name: True)
    lines, missed = rows.table(chosen, results)
    for text in rows.layout(lines, " | ", "=+="):
        line(text)
    return _tell(problems) or int(bool(missed))


def _tell(problems):
    for problem in problems:
        line(f"not measured: {problem}")
    return int(bool(problems))


def run_update(env, given):
    """Measures what make check compares with."""
    results, problems = measure(env, given, lambda name: name.startswith("modern/") and guard.watched(name.split("/", 2)[2]))
    if problems:
        raise Fail(problems[0])
    line(f"wrote {guard.write(results)}")
    return 0


def run_doc(env, given):
    """Writes the table and the charts of the documentation."""
    results, problems = measure(env, given)
    grown, more = measure(env, given, places=plots.BOOTS)
    target = env.top / _DOCUMENTED
    target.mkdir(parents=True, exist_ok=True)
    lines, _ = rows.table(rows.read(env), results)
    # A dash alone would begin a list.
    texts = list(rows.layout([["\\-" if cell == "-" else cell for cell in one] for one in lines], "  ", "  "))
    (target / "table.txt").write_text("\n".join([_TABLE_HEAD, texts[1], *texts, texts[1], ""]), encoding="utf-8")
    grown |= {name: measure for name, measure in results.items() if "/threads/" in name}
    for name, text in plots.charts(grown):
        (target / f"{name}.svg").write_text(text, encoding="utf-8")
    pictures = plots.pictures(env, target)
    line(f"wrote {target}, and the charts as PNG in {pictures}")
    return _tell(problems + more)


def run_profile(env, given, name):
    """Instructions by function of one case, such as modern/pseries/DMA/single 65536."""
    if name not in cases.names():
        raise Fail(f"no case {name!r}; there are:\n" + "\n".join(cases.names()))
    results, problems = measure(env, given, lambda other: other == name)
    if problems:
        raise Fail(problems[0])
    profile.show(results[name])
    return 0
