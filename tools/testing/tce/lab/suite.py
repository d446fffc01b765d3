# SPDX-License-Identifier: GPL-2.0
"""Chooses scenarios and checks and runs them, some at a time."""

import contextlib
import importlib
import pkgutil
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import groupby

from . import arch, house, kernel, machine, own, scenario, shell as terminal, slow, source, static, tests, traps
from .env import default_jobs
from .guest import command_line
from .ktap import Ktap, Table
from .say import Fail, Progress, remark
from .tests import soak as soaking, tour
from .tries import Tries

# Guests sleep through resets and grace periods: two for each CPU keep it at work. One with a debug
# kernel does so alone, and some tests in it have their own limits of time.
BOOTS_AT_ONCE = min(2 * default_jobs(), 8)
_turn, _room = threading.Lock(), threading.Semaphore(BOOTS_AT_ONCE)


def scenarios(everything, only):
    """The scenarios of `make check` or `make check-all`."""
    files = [importlib.import_module(f"{tests.__name__}.{file.name}") for file in pkgutil.iter_modules(tests.__path__)]
    chosen = [one for file in files for one in file.SCENARIOS]
    return [one for one in chosen if (everything or not one.only_all) and only in one.label]


def _all_of(jobs, at_once):
    """Runs jobs, so many at once, in the order given; the first that fails fails all."""
    with ThreadPoolExecutor(at_once) as pool:
        for done in [pool.submit(job) for job in jobs]:
            done.result()


@contextlib.contextmanager
def _share(count):
    """So many shares of the machine, for one after the other."""
    with _turn:
        for _ in range(count):
            _room.acquire()
    try:
        yield
    finally:
        _room.release(count)


def _run(env, objects, one, report):
    with _share(2 if "debug" in one.flavour.split("-") else 1):
        scenario.run(env, one, objects[one.flavour], report)


def run_scenarios(env, chosen, report, objects):
    """Runs scenarios whose kernels are built."""
    _all_of([partial(_run, env, objects, one, report) for one in chosen], BOOTS_AT_ONCE)


def _checks(env, checks, objects, report):
    """Those that need no boot."""
    with _share(1):
        static.run(env, checks, objects, report)


def build(env, flavours, given):
    """{flavour: objects} of kernels, brought up to date."""
    objects = dict(given)
    # Always: a patch that does not apply or a file that clashes must show.
    tree = source.prepare(env)
    # modern first: the others start from a copy of what they share with it.
    wanted = sorted(set(flavours) - set(given), key=lambda name: (name.count("-"), "modern" not in name, name))

    def build_kin(kin):
        for flavour in kin:
            objects[flavour] = kernel.build(env, tree, flavour)

    # Much of a build is one rustc: two builds that share nothing go side by side.
    _all_of([partial(build_kin, list(kin)) for _, kin in groupby(sorted(wanted, key=kernel.kin), kernel.kin)], 2)
    return objects


def _build(env, chosen, given, more=()):
    return build(env, {flavour for one in chosen for flavour in (one.flavour, *one.next_kernels)} | set(more), given)


def check(env, everything, only, given):
    """`make check`: returns the exit status."""
    chosen = scenarios(everything, only)
    checks = static.FAST + traps.CHECKS + house.CHECKS + (own.documented,) + static.SLOW + (static.ONLY_ALL if everything else ())
    checks = [test for test in checks if only in f"static.{test.__name__}"]
    slowest = everything and any(only in name for name in slow.NAMES)
    if not chosen and not checks and not slowest:
        where = "make check-all has tests" if scenarios(True, only) else "no test is there"
        raise Fail(f"{where} with {only!r} in the name")
    objects = _build(env, chosen, given, ["modern-64k", static.LINTED] if checks else [])
    report = Ktap()
    tries = Tries(partial(_run, env, objects), report)
    _all_of([partial(_checks, env, checks, objects, report),
             *(partial(tries.first, one) for one in scenario.with_disks(env, chosen, report))], BOOTS_AT_ONCE)
    tries.second()
    if slowest:
        slow.run(env, only, report)
    return report.finish()


def series_check(env, only):
    """`make series-check`: each patch on its own."""
    report = Ktap()
    slow.each_patch(env, report, only)
    return report.finish()


def run(env, given):
    """`make run`: the tour on both platforms, as a table."""
    chosen = [one for one in tour.SCENARIOS if one.flavour == "modern-64k" and not one.only_all]
    objects = _build(env, chosen, given)
    table = Table([one.machine for one in chosen])
    with Progress("guests " + " and ".join(table.machines)):
        run_scenarios(env, chosen, table, objects)
    return table.show()


def soak(env, hours, seed, name, given):
    """`make soak`: operations in random order, on one machine or on all."""
    chosen = [soaking.scenario(one, soaking.long(hours, seed), soaking.nothing_leaks) for one in soaking.MACHINES if name in ("", one)]
    if not chosen:
        raise Fail(f"MACHINE={name}: there are {', '.join(soaking.MACHINES)}")
    objects = _build(env, chosen, given)
    report = Ktap()
    remark(f"{hours} hours of operations by seed {seed}")
    run_scenarios(env, chosen, report, objects)
    return report.finish()


def shell(env, name, flavour, append, given):
    """`make shell`: a guest with one of each device and a console for the user."""
    kinds = [kind.name for kind in machine.MACHINES.values() if kind.arch == arch.POWERPC]
    if name not in kinds:
        raise Fail(f"MACHINE={name}: there are {', '.join(kinds)}")
    if arch.of(flavour) != arch.POWERPC:
        raise Fail(f"FLAVOUR={flavour} is not for {name}: give one such as modern-64k")
    one = scenario.Scenario("shell", flavour, name, ("nvme", "e100", "testdev", "edu"), ())
    with env.locked():
        objects = _build(env, [one], given)[flavour]
        command = scenario.command(env, one, objects)
    words = command_line(machine.MACHINES[name], f"quiet tce.shell {append}")
    return terminal.run([arch.POWERPC.qemu, *command, *words], env.build / "run" / one.label / "console.log")
