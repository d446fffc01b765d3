# SPDX-License-Identifier: GPL-2.0
# Shell helpers of the test guest. `make shell` lists them by their comments.

modules=/modules

# load NAME [PARAMETER=VALUE...]: inserts a module after those that it needs, with the parameters of the kernel's command line.
load() {
	name=$1
	shift
	grep -q "^$name " /proc/modules && return 0
	[ -e "$modules/$name.ko" ] || {
		grep -qx "$name" "$modules/builtin" && return 0
		echo "load: there is no module $name; ls $modules shows those there are"
		return 1
	}
	for need in $(sed -n "s/^$name://p" "$modules/deps"); do
		( load "$need" ) || return 1
	done
	insmod "$modules/$name.ko" $(tr ' ' '\n' </proc/cmdline | sed -n "s/^$name\.//p") "$@"
}

# lspci: the devices with their vendor:device ID, class, driver, group and its type.
lspci() {
	for dev in /sys/bus/pci/devices/*; do
		bdf=${dev##*/}
		echo "$bdf $(cut -c3- "$dev/vendor"):$(cut -c3- "$dev/device") class $(cut -c3- "$dev/class")" \
			"driver $(driver_of "$bdf") group $(group_of "$bdf") $(type_of "$bdf")"
	done
}

# pci ID: the addresses of the devices with a vendor:device ID, in order.
pci() {
	for dev in /sys/bus/pci/devices/*; do
		[ "$(cut -c3- "$dev/vendor"):$(cut -c3- "$dev/device")" = "$1" ] && echo "${dev##*/}"
	done
	return 0
}

# driver_of BDF, group_of BDF: a name or number, or a dash.
driver_of() { basename "$(readlink "/sys/bus/pci/devices/$1/driver" || echo -)"; }
group_of() { basename "$(readlink "/sys/bus/pci/devices/$1/iommu_group" || echo -)"; }

# type_of BDF: the domain type of its group; "none" without a group.
type_of() {
	[ "$(group_of "$1")" = - ] && { echo none; return 0; }
	cat "/sys/kernel/iommu_groups/$(group_of "$1")/type"
}

# unbind BDF: takes a device from its driver, if it has one.
unbind() {
	[ "$(driver_of "$1")" = - ] && return 0
	echo "$1" >"/sys/bus/pci/devices/$1/driver/unbind"
}

# bind BDF DRIVER: moves a device to a driver, whatever had it before.
bind() {
	unbind "$1" || return 1
	echo "$2" >"/sys/bus/pci/devices/$1/driver_override"
	echo "$1" >/sys/bus/pci/drivers_probe || :	# what it is bound to tells
	echo >"/sys/bus/pci/devices/$1/driver_override"
	[ "$(driver_of "$1")" = "$2" ] || { echo "$1: bound to $(driver_of "$1"), not $2"; return 1; }
}

# disk_of BDF: waits for the block device of an nvme controller.
disk_of() {
	for try in $(seq 1200); do
		for disk in "/sys/bus/pci/devices/$1"/nvme/nvme*/nvme*n1; do
			[ -b "/dev/${disk##*/}" ] && { echo "/dev/${disk##*/}"; return 0; }
		done
		usleep 50000
	done
	echo "$1: no disk"
	return 1
}

# disk_named SERIAL: waits for the disk with a serial number.
disk_named() {
	for try in $(seq 1200); do
		for serial in /sys/class/nvme/nvme*/serial; do
			[ "$(cat "$serial" | tr -d ' ')" = "$1" ] || continue
			for disk in "${serial%/serial}"/nvme*n1; do
				[ -b "/dev/${disk##*/}" ] && { echo "/dev/${disk##*/}"; return 0; }
			done
		done
		usleep 50000
	done
	echo "$1: no disk"
	return 1
}

# net_of BDF: the network interface of a device.
net_of() {
	for net in "/sys/bus/pci/devices/$1"/net/*; do
		[ -e "$net" ] && { echo "${net##*/}"; return 0; }
	done
	echo "$1: no network interface"
	return 1
}

# net_up BDF: gives an interface the address that QEMU's user network expects.
net_up() {
	net=$(net_of "$1") || return 1
	ifconfig "$net" 10.0.2.15 netmask 255.255.255.0 up
	for try in $(seq 100); do
		ping -c 1 -W 1 10.0.2.2 >/dev/null 2>&1 && return 0
	done
	echo "$net: no answer from 10.0.2.2"
	return 1
}
