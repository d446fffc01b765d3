#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# Makes the toolchain root when it is missing, then runs the lab inside it.
#
# With TOOLS=host the machine's own tools are used and nothing is made or
# mounted; KDIR must name a kernel tree and BUSYBOX a static ppc64le busybox.
#
# Options are looked at first, so that a wrong one makes nothing.
#
# usage: [BUILD=dir] [ROOT=dir] [KDIR=dir | LINUX=release] [JOBS=n] enter.sh COMMAND [ARG...]
set -eu

top=$(cd "$(dirname "$0")/../../.." && pwd)
here=$top/tools/testing/tce
BUILD=${BUILD:-$top/build}
ROOT=${ROOT:-$BUILD/root}

die() { echo "tce: $*" >&2; exit 2; }
absolute() { case $1 in /*) echo "$1" ;; *) echo "$PWD/$1" ;; esac; }

[ "$(uname -s)" = Linux ] || die "the lab needs a Linux machine"
case ${JOBS:-1} in
*[!0-9]* | 0*) die "JOBS=$JOBS is no number of jobs: give one, such as JOBS=4, or leave it out" ;;
esac
case ${TOOLS:-} in
'' | host) ;;
*) die "TOOLS=$TOOLS is unknown: give TOOLS=host for the tools of this machine, or leave it out" ;;
esac
case ${LINUX:-} in
'' | [0-9]*.[0-9]*) ;;
*) die "LINUX=$LINUX is no kernel release: give one such as LINUX=7.3-rc7, or leave it out" ;;
esac
[ -z "${LINUX:-}" ] || [ -z "${KDIR:-}" ] || die "LINUX=$LINUX and KDIR=$KDIR are two kernel trees: give one of them"
[ -z "${KDIR:-}" ] || [ -e "$KDIR/Makefile" ] || die "KDIR=$KDIR is no kernel source tree: it has no Makefile"
if [ "${TOOLS:-}" = host ]; then
	for tool in make flex bison bc perl patch rsync clang ld.lld llvm-nm rustc rustfmt bindgen pahole \
		qemu-system-ppc64 powerpc64le-linux-gnu-gcc python3; do
		command -v $tool >/dev/null || die "TOOLS=host, but $tool is missing: install it, or leave TOOLS out"
	done
	[ -n "${KDIR:-}" ] || die "TOOLS=host needs KDIR=dir, a kernel source tree"
	[ -e "${BUSYBOX:-}" ] || die "TOOLS=host needs BUSYBOX=file, a static ppc64le busybox"
	mkdir -p "$BUILD"
	TCE_BUSYBOX=$(absolute "$BUSYBOX") PYTHONPATH=$here PYTHONDONTWRITEBYTECODE=1 exec python3 -m lab \
		--top "$top" --build "$(absolute "$BUILD")" --root / --kdir "$(cd "$KDIR" && pwd)" ${JOBS:+--jobs "$JOBS"} "$@"
fi
[ -z "${BUSYBOX:-}" ] || die "BUSYBOX=$BUSYBOX is for TOOLS=host: the toolchain root has one"

BUILD=$(absolute "$BUILD")
ROOT=$(absolute "$ROOT")
# A directory that was named is not filled with 2 GB because of a wrong letter.
[ "$ROOT" = "$BUILD/root" ] || "$here/toolchain.sh" --look "$ROOT" ||
	die "ROOT=$ROOT has no toolchain root for this version: \`make toolchain ROOT=$ROOT\` makes it, or leave ROOT out"

if [ "$(id -u)" != 0 ]; then
	command -v sudo >/dev/null || die "needs root (for mount namespaces and chroot): run as root or install sudo"
	exec sudo BUILD="$BUILD" ROOT="$ROOT" KDIR="${KDIR:-}" LINUX="${LINUX:-}" JOBS="${JOBS:-}" TCE_MIRROR="${TCE_MIRROR:-}" \
		TCE_BIND="${TCE_BIND:-}" TERM="${TERM:-dumb}" "$0" "$@"
fi
for tool in unshare chroot mount; do
	command -v $tool >/dev/null || die "$tool is missing: install util-linux and coreutils"
done

mkdir -p "$BUILD"
[ -n "${TCE_MIRROR:-}" ] || unset TCE_MIRROR
"$here/toolchain.sh" "$ROOT"

set -- --top "$top" --build "$BUILD" --root "$ROOT" ${JOBS:+--jobs "$JOBS"} ${LINUX:+--release "$LINUX"} "$@"
bind="$BUILD ${TCE_BIND:-}"
if [ -n "${KDIR:-}" ]; then
	KDIR=$(cd "$KDIR" && pwd)
	set -- --kdir "$KDIR" "$@"
	bind="$bind $KDIR"
fi
TCE_BIND=$bind exec "$here/in-root.sh" "$ROOT" \
	env PYTHONPATH="$here" PYTHONDONTWRITEBYTECODE=1 python3 -m lab "$@"
