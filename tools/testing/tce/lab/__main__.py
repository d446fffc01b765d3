# SPDX-License-Identifier: GPL-2.0
"""python3 -m lab COMMAND, run inside the toolchain root (see enter.sh)."""

import argparse
import os
import pathlib
import random
import signal
import sys

from . import config, coverage, kernel, kunit, mails, mutants, outdoors, own, source, suite
from .bench import command as bench
from .env import Env, default_jobs
from .say import Fail


def _overlay(env, args):
    print("overlay:", source.overlay(env, pathlib.Path(args.dst)))
    print("A kernel with the driver:", f"cd {args.dst}", *own.COMMANDS, sep="\n  ")


def _series(env, args):
    target = pathlib.Path(args.dst)
    mails.refuse_taken(target)
    source.prepare(env)
    for part, written in mails.write(env, target).items():
        print(f"{len(written):3} patches and a cover letter: {written[0].parent}")
    print("apply with: git am", target / "*/*.patch")


def _series_check(env, args):
    return suite.series_check(env, args.only)


def _kernel(env, args):
    flavours = args.flavour.split(",")
    for flavour in flavours:
        config.fragments(env, flavour)
    suite.build(env, flavours, {})


def _kunit(env, args):
    if args.arch and args.arch not in kunit.ARCHES:
        raise Fail(f"ARCH={args.arch}: the suites run on {' and '.join(kunit.ARCHES)}")
    source.prepare(env)
    return kunit.run(env, [args.arch] if args.arch else kunit.ARCHES)


def _coverage(env, _args):
    return coverage.run(env)


def _mutants(env, args):
    source.prepare(env)
    return mutants.run(env, args.only)


def _mutants_boot(env, args):
    return outdoors.run(env, args.only)


def _module(env, args):
    kernel.build_module(env, args.flavour)


def _given(args):
    """Kernels built elsewhere."""
    return {name: pathlib.Path(path) for name, path in (word.split("=", 1) for word in args.objects)}


def _check(env, args):
    return suite.check(env, args.all, args.only, _given(args))


def _bench(env, args):
    return bench.run_bench(env, _given(args), args.only)


def _bench_update(env, args):
    return bench.run_update(env, _given(args))


def _bench_doc(env, args):
    return bench.run_doc(env, _given(args))


def _profile(env, args):
    return bench.run_profile(env, _given(args), args.case)


def _run(env, args):
    return suite.run(env, _given(args))


def _soak(env, args):
    seed = args.seed if args.seed is not None else random.randrange(1 << 32)
    return suite.soak(env, args.hours, seed, args.machine, _given(args))


def _shell(env, args):
    return suite.shell(env, args.machine, args.flavour, args.append, _given(args))


class _Parser(argparse.ArgumentParser):
    """One line for what does not fit."""

    def error(self, message):
        raise Fail(f"{message}; `make help` has what there is")


def _parser():
    parser = _Parser(prog="lab", description=__doc__)
    parser.add_argument("--top", type=pathlib.Path, required=True)
    parser.add_argument("--build", type=pathlib.Path, required=True)
    parser.add_argument("--root", type=pathlib.Path, required=True)
    parser.add_argument("--kdir", type=pathlib.Path)
    parser.add_argument("--release", default="")
    parser.add_argument("--jobs", type=int, default=default_jobs())
    parser.add_argument("--objects", action="append", default=[], metavar="FLAVOUR=DIR",
                        help="take a kernel that was built elsewhere")
    commands = parser.add_subparsers(dest="command", required=True)

    sub = commands.add_parser("overlay", help="leave a ready kernel tree in a directory")
    sub.add_argument("dst")
    sub.set_defaults(run=_overlay)

    sub = commands.add_parser("series", help="write the series for git am to a directory")
    sub.add_argument("dst")
    sub.set_defaults(run=_series)

    sub = commands.add_parser("series-check", help="build and boot after each patch of the series")
    sub.add_argument("--only", default="", help="only patches with this word in their part or name")
    sub.set_defaults(run=_series_check)

    sub = commands.add_parser("kernel", help="build flavours of the kernel")
    sub.add_argument("flavour", help="for example modern-64k or legacy-64k,modern-debug-64k")
    sub.set_defaults(run=_kernel)

    sub = commands.add_parser("module", help="rebuild the driver alone")
    sub.add_argument("flavour")
    sub.set_defaults(run=_module)

    sub = commands.add_parser("kunit", help="the suites under kunit.py, on ppc64le and x86_64")
    sub.add_argument("--arch", help=" or ".join(kunit.ARCHES))
    sub.set_defaults(run=_kunit)

    sub = commands.add_parser("coverage", help="which lines of the driver the KUnit suites run")
    sub.set_defaults(run=_coverage)

    sub = commands.add_parser("mutants", help="break the driver on purpose and see whether KUnit notices")
    sub.add_argument("--only", default="", help="only mutants whose file and name match this")
    sub.set_defaults(run=_mutants)

    sub = commands.add_parser("mutants-boot", help="break what KUnit does not run and see whether a scenario notices")
    sub.add_argument("--only", default="", help="only mutants whose file and name match this")
    sub.set_defaults(run=_mutants_boot)

    sub = commands.add_parser("check", help="run the tests")
    sub.add_argument("--all", action="store_true")
    sub.add_argument("--only", default="", help="only tests whose name has this word")
    sub.set_defaults(run=_check)

    sub = commands.add_parser("bench", help="what mapping costs, beside the driver in arch/powerpc")
    sub.add_argument("--only", default="", help="only rows with this word")
    sub.set_defaults(run=_bench)

    sub = commands.add_parser("bench-update", help="write the counts that check compares with")
    sub.set_defaults(run=_bench_update)

    sub = commands.add_parser("bench-doc", help="write the table and the charts of the documentation")
    sub.set_defaults(run=_bench_doc)

    sub = commands.add_parser("profile", help="instructions of one measurement, by function")
    sub.add_argument("case", help="for example 'modern/pseries/DMA/single 65536'")
    sub.set_defaults(run=_profile)

    sub = commands.add_parser("run", help="the tour, as a table")
    sub.set_defaults(run=_run)

    sub = commands.add_parser("soak", help="operations in random order for a long time")
    sub.add_argument("hours", type=float)
    sub.add_argument("--seed", type=int)
    sub.add_argument("--machine", default="")
    sub.set_defaults(run=_soak)

    sub = commands.add_parser("shell", help="a guest to look around in")
    sub.add_argument("machine")
    sub.add_argument("flavour")
    sub.add_argument("--append", default="", help="further arguments of the kernel")
    sub.set_defaults(run=_shell)
    return parser


def main():
    # Both end the with-blocks and finally clauses that end our own QEMUs.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    os.umask(0o022)
    try:
        args = _parser().parse_args()
        env = Env(args.top, args.build, args.root, args.kdir, args.jobs, args.release)
        if args.command == "shell":     # it locks for as long as it builds
            return args.run(env, args)
        with env.locked():
            return args.run(env, args) or 0
    except Fail as problem:
        print(f"tce: {problem}", file=sys.stderr)
        return 2
    except OSError as problem:
        print(f"tce: {problem.strerror}: {problem.filename}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


sys.exit(main())
