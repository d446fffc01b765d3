// SPDX-License-Identifier: GPL-2.0
/*
 * kexec load|crash KERNEL INITRAMFS COMMAND-LINE: has the kernel ready for
 * "kexec start", or for a panic.
 * kexec start: starts it. No process is told.
 */
#include <err.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>
#include <linux/kexec.h>
#include <linux/reboot.h>
#include <sys/reboot.h>
#include <sys/syscall.h>

static int open_file(const char *path)
{
	int fd = open(path, O_RDONLY);

	if (fd < 0)
		err(1, "%s", path);
	return fd;
}

int main(int argc, char **argv)
{
	unsigned long flags;

	if (argc == 2 && !strcmp(argv[1], "start")) {
		reboot(LINUX_REBOOT_CMD_KEXEC);
		err(1, "reboot");
	}
	if (argc != 5)
		errx(2, "usage: kexec load|crash KERNEL INITRAMFS COMMAND-LINE, or kexec start");
	flags = strcmp(argv[1], "crash") ? 0 : KEXEC_FILE_ON_CRASH;
	if (syscall(SYS_kexec_file_load, open_file(argv[2]), open_file(argv[3]),
		    strlen(argv[4]) + 1, argv[4], flags))
		err(1, "kexec_file_load");
	return 0;
}
