#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# Runs a command inside the toolchain root, in the same working directory, with
# the project and every directory named in TCE_BIND visible at their own paths.
#
# usage: in-root.sh ROOT COMMAND [ARG...]
#
# All mounts live in a private mount namespace and end with the command.
set -eu

root=$(cd "$1" && pwd)
shift
top=$(cd "$(dirname "$0")/../../.." && pwd)

export TCE_ROOT="$root" TCE_TOP="$top" TCE_CWD="$PWD"
exec unshare --mount --propagation private sh -eu -c '
	# Before the others, which may lie in /tmp.
	mount -t tmpfs tmpfs "$TCE_ROOT/tmp"
	for dir in /dev /proc /sys "$TCE_TOP" ${TCE_BIND:-}; do
		mkdir -p "$TCE_ROOT$dir"
		mount --rbind "$dir" "$TCE_ROOT$dir"
	done
	# kunit.py takes KVM wherever it is there, and below some hypervisors it hangs.
	[ ! -e "$TCE_ROOT/dev/kvm" ] || mount --bind /dev/null "$TCE_ROOT/dev/kvm"
	exec chroot "$TCE_ROOT" /usr/bin/env -i HOME=/root LC_ALL=C.UTF-8 TERM="${TERM:-dumb}" ${TCE_MIRROR:+"TCE_MIRROR=$TCE_MIRROR"} \
		PATH=/usr/sbin:/usr/bin:/sbin:/bin RUST_LIB_SRC="/$(cd "$TCE_ROOT" && echo usr/src/rustc-*/library)" \
		sh -eu -c "cd \"\$1\"; shift; exec \"\$@\"" sh "$TCE_CWD" "$@"
' sh "$@"
