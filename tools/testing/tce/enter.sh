#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# Makes the toolchain root when it is missing, then runs the lab inside it.
#
# With TOOLS=host the machine's own tools are used and nothing is made or
# mounted; KDIR must name a kernel tree and BUSYBOX a static ppc64le busybox.
#
# usage: [BUILD=dir] [ROOT=dir] [KDIR=dir] [JOBS=n] enter.sh COMMAND [ARG...]
set -eu

top=$(cd "$(dirname "$0")/../../.." && pwd)
here=$top/tools/testing/tce
BUILD=${BUILD:-$top/build}
ROOT=${ROOT:-$BUILD/root}

die() { echo "tce: $*" >&2; exit 2; }
absolute() { case $1 in /*) echo "$1" ;; *) echo "$PWD/$1" ;; esac; }

[ "$(uname -s)" = Linux ] || die "the lab needs a Linux machine"
if [ "${TOOLS:-}" = host ]; then
	for tool in make flex bison bc perl patch rsync clang ld.lld llvm-nm rustc rustfmt bindgen pahole \
		qemu-system-ppc64 powerpc64le-linux-gnu-gcc python3; do
		command -v $tool >/dev/null || die "TOOLS=host, but $tool is missing: install it, or leave TOOLS out"
	done
	[ -e "${KDIR:-}/Makefile" ] || die "TOOLS=host needs KDIR=dir, a kernel source tree"
	[ -e "${BUSYBOX:-}" ] || die "TOOLS=host needs BUSYBOX=file, a static ppc64le busybox"
	mkdir -p "$BUILD"
	TCE_BUSYBOX=$(absolute "$BUSYBOX") PYTHONPATH=$here PYTHONDONTWRITEBYTECODE=1 exec python3 -m lab \
		--top "$top" --build "$(absolute "$BUILD")" --root / --kdir "$(cd "$KDIR" && pwd)" ${JOBS:+--jobs "$JOBS"} "$@"
fi

if [ "$(id -u)" != 0 ]; then
	command -v sudo >/dev/null || die "needs root (for mount namespaces and chroot): run as root or install sudo"
	exec sudo BUILD="$BUILD" ROOT="$ROOT" KDIR="${KDIR:-}" JOBS="${JOBS:-}" TCE_MIRROR="${TCE_MIRROR:-}" \
		TCE_BIND="${TCE_BIND:-}" TERM="${TERM:-dumb}" "$0" "$@"
fi
for tool in unshare chroot mount; do
	command -v $tool >/dev/null || die "$tool is missing: install util-linux and coreutils"
done

BUILD=$(absolute "$BUILD")
mkdir -p "$BUILD"
[ -n "${TCE_MIRROR:-}" ] || unset TCE_MIRROR
"$here/toolchain.sh" "$(absolute "$ROOT")"

set -- --top "$top" --build "$BUILD" --root "$(absolute "$ROOT")" ${JOBS:+--jobs "$JOBS"} "$@"
bind="$BUILD ${TCE_BIND:-}"
if [ -n "${KDIR:-}" ]; then
	KDIR=$(cd "$KDIR" 2>/dev/null && pwd) || die "KDIR=$KDIR is no directory"
	set -- --kdir "$KDIR" "$@"
	bind="$bind $KDIR"
fi
TCE_BIND=$bind exec "$here/in-root.sh" "$(absolute "$ROOT")" \
	env PYTHONPATH="$here" PYTHONDONTWRITEBYTECODE=1 python3 -m lab "$@"
