#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# Makes the toolchain root: a Debian trixie tree with clang, rustc, QEMU and the
# kernel source package, plus a busybox of each architecture for the test guests.
#
# usage: toolchain.sh ROOT
#        toolchain.sh --look ROOT	only tell whether it would be made
#
# ROOT is complete when ROOT/.complete exists; a root whose package list differs
# from this file's is made again.
set -eu

look=
[ "$1" != --look ] || { look=1; shift; }

root=$1
mirror=${TCE_MIRROR:-http://deb.debian.org/debian}
suite=trixie
backports=$suite-backports

packages="bash coreutils make flex bison bc libelf-dev libssl-dev kmod cpio xz-utils zstd
python3 perl git rsync patch diffutils findutils gawk clang lld llvm libclang-dev
bindgen pahole gcc libc6-dev gcc-powerpc64le-linux-gnu libc6-dev-ppc64el-cross
linux-libc-dev-ppc64el-cross e2fsprogs busybox-static ca-certificates
rustc rust-src rustfmt rust-clippy qemu-system-ppc qemu-system-x86 qemu-system-data linux-source-7.3
python3-sphinx python3-yaml graphviz"
# Packages taken from backports, with what they depend on there.
newer="rustc rust-src rustfmt rust-clippy libstd-rust-* libllvm2* qemu-* seabios ipxe-qemu* libslirp* linux-source-7.3"
guest_packages="busybox-static"

# Where busybox comes from when the mirror does not have the release's own.
guest_suites="$suite testing unstable"

stamp=$(echo "$packages $newer $guest_packages" | cksum)
[ "$(cat "$root/.complete" 2>/dev/null)" = "$stamp" ] && exit 0
[ -z "$look" ] || exit 1

say() { echo "toolchain: $*"; }
die() { echo "toolchain: $*" >&2; exit 1; }

# It is removed first, so it must be ours: a root, what is left of one, or nothing.
[ ! -e "$root" ] || [ -e "$root/.complete" ] || [ -e "$root.log" ] || rmdir "$root" 2>/dev/null ||
	die "$root is there already and is no toolchain root: name a new directory"
[ "$(id -u)" = 0 ] || die "needs root to make the toolchain root; run it with sudo"
mkdir -p "$(dirname "$root")"

if ! command -v mmdebstrap >/dev/null || ! [ -e /usr/share/keyrings/debian-archive-keyring.gpg ]; then
	say "installing mmdebstrap"
	command -v apt-get >/dev/null || die "no apt-get here: install mmdebstrap and debian-archive-keyring yourself"
	apt-get update -qq && apt-get install -y -qq --no-install-recommends \
		mmdebstrap debian-archive-keyring >/dev/null ||
		die "cannot install mmdebstrap; check the network and apt sources"
fi

avail=$(df -Pk "$(dirname "$root")" | awk 'NR == 2 { print $4 }')
[ "$avail" -gt 6000000 ] || die "needs 6 GB of free disk in $(dirname "$root"), has $((avail / 1024)) MB"

# A mirror caught in the middle of a sync serves an index that does not match its
# Release file, so each step is tried a few times.
retry() {
	what=$1
	shift
	for try in 1 2 3 4 5; do
		"$@" && return 0
		[ $try = 5 ] || say "$what failed (try $try of 5); trying again in $((try * 10)) s"
		[ $try = 5 ] || sleep $((try * 10))
	done
	die "$what failed 5 times, see $log; check the network and the mirror $mirror (TCE_MIRROR=url for another)"
}

log=$root.log
keyring=/usr/share/keyrings/debian-archive-keyring.gpg

make_root() {
	rm -rf "$root"
	mmdebstrap --variant=apt --mode=root --keyring="$keyring" \
		--setup-hook="printf 'Package: %s\nPin: release n=$backports\nPin-Priority: 900\n' '$newer' >\"\$1\"/etc/apt/preferences.d/newer" \
		--aptopt='Acquire::Retries "5"' --aptopt='APT::Install-Recommends "false"' \
		--include="$(echo $packages | tr ' ' ',')" \
		--dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
		"$suite" "$root" \
		"deb $mirror $suite main" "deb $mirror $backports main" >>"$log" 2>&1
}

# A mirror's pool for ppc64el may lag behind its index; another release has the
# same busybox, as it is static.
make_guest() {
	for from in $guest_suites; do
		rm -rf "$root.guest"
		mmdebstrap --variant=extract --mode=root --keyring="$keyring" \
			--architectures=ppc64el --aptopt='Acquire::Retries "5"' \
			--aptopt='Acquire::Check-Valid-Until "false"' \
			--include="$guest_packages" "$from" "$root.guest" "deb $mirror $from main" >>"$log" 2>&1 &&
			mkdir -p "$root/guest" &&
			cp "$root.guest/usr/bin/busybox" "$root/guest/busybox" &&
			rm -rf "$root.guest" && return 0
		say "no busybox for ppc64el from $from"
	done
	return 1
}

: >"$log"
say "making the toolchain root in $root (2 GB, about two minutes; log: $log)"
retry "making the root" make_root
say "fetching the ppc64el busybox"
retry "fetching busybox" make_guest
echo "$stamp" >"$root/.complete"
