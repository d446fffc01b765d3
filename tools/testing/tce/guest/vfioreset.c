// SPDX-License-Identifier: GPL-2.0
/*
 * vfioreset type1|iommufd BDF reset|error ROUNDS
 *
 * Holds an nvme, which is reset by VFIO, or recovers from an error that is
 * injected meanwhile. The mappings from before have to be there afterwards:
 * the controller, started again, describes itself through them.
 */
#include <err.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <linux/vfio.h>

#include "../../selftests/iommu/tce/vfio.h"

#define IOVA		0x1000000ull
#define LENGTH		0x20000ull	/* two pages of 64K */
#define DATA		0x10000ull	/* behind the queues */
#define WAIT_MS		600000	/* who started it has less patience */

static uint8_t *memory;
static int failures;

static void check(bool good, const char *what)
{
	printf("%s %s\n", good ? "ok" : "FAIL", what);
	failures += !good;
}

static bool is_empty(const uint8_t *bytes)
{
	return !bytes[0] && !memcmp(bytes, bytes + 1, NVME_DATA - 1);
}

/* Commands and answers go through the mapping, too. */
static void describe(struct device *device)
{
	struct nvme nvme;

	memset(memory, 0, LENGTH);
	nvme_start(&nvme, device, memory, IOVA);
	nvme_identify(&nvme, IOVA + DATA);
	check(!is_empty(memory + DATA), "reached");
	memset(memory + DATA, 0, NVME_DATA);
	nvme_identify(&nvme, IOVA + LENGTH);
	check(is_empty(memory + DATA), "nothing more");
}

static void wait_for_error(int fd)
{
	struct pollfd event = { .fd = fd, .events = POLLIN };
	uint64_t count;

	printf("waiting\n");
	check(poll(&event, 1, WAIT_MS) == 1 && read(fd, &count, sizeof(count)) == sizeof(count),
	      "told of the error");
	/* Recovery goes on after that; who started this sees its end. */
	while (access("/tmp/recovered", F_OK))
		usleep(50000);
}

int main(int argc, char **argv)
{
	struct device device;
	struct space space;
	bool error;
	int fd = -1, ret;

	setvbuf(stdout, NULL, _IOLBF, 0);
	if (argc != 5)
		errx(2, "usage: vfioreset type1|iommufd BDF reset|error ROUNDS");
	error = !strcmp(argv[3], "error");
	memory = aligned_alloc(0x10000, LENGTH);
	if (!memory)
		err(1, "aligned_alloc");
	ret = space_open(&space, strcmp(argv[1], "iommufd") ? TYPE1 : IOMMUFD);
	if (!ret)
		ret = device_open(&device, &space, argv[2]);
	if (ret)
		errx(1, "cannot open %s by %s: %s", argv[2], argv[1], strerror(-ret));
	if (error) {
		fd = device_event(&device, VFIO_PCI_ERR_IRQ_INDEX);
		if (fd < 0)
			errx(1, "VFIO_DEVICE_SET_IRQS: %s", strerror(-fd));
	}
	memset(memory, 0, LENGTH);
	check(!space_map(&space, IOVA, memory, LENGTH, READ | WRITE), "map");
	describe(&device);
	for (int round = atoi(argv[4]); round; round--) {
		if (error)
			wait_for_error(fd);
		check(!device_reset(&device), "reset");
		describe(&device);
	}
	check(!space_unmap(&space, IOVA, LENGTH), "unmap");
	return failures != 0;
}
