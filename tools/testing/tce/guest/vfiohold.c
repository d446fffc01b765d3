// SPDX-License-Identifier: GPL-2.0
/*
 * vfiohold type1|iommufd BDF [TESTDEV]
 *
 * Holds a device until the kernel asks for it back, and uses the address space
 * while it goes and when it is gone. With an iommu-testdev of another group in
 * the same address space, that one has to notice nothing. One line per check.
 */
#include <err.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <linux/vfio.h>

#include "../../selftests/iommu/tce/vfio.h"

/* In the last window, which goes with the last device of a PE */
#define BEFORE	(base + 0x1000000)
#define DURING	(base + 0x2000000)
#define AFTER	(base + 0x3000000)
#define LENGTH	0x20000ull	/* two pages of 64K */
#define WRITTEN	16
#define WAIT_MS	600000	/* who started it has less patience */

static struct space space;
static struct device leaver, stayer;
static uint64_t base;
static uint8_t *memory;
static int failures;

static void check(bool good, const char *what)
{
	printf("%s %s\n", good ? "ok" : "FAIL", what);
	failures += !good;
}

/* Without another device nobody is there to try it. */
static void check_reach(uint64_t iova, bool reached, const char *what)
{
	if (!stayer.space)
		return;
	memset(memory, 0, WRITTEN);
	check(testdev_write(&stayer, iova, WRITTEN) == reached &&
	      is_pattern(memory, WRITTEN) == reached, what);
}

static void use(uint64_t iova, const char *when)
{
	char what[64];

	snprintf(what, sizeof(what), "map %s", when);
	check(!space_map(&space, iova, memory, LENGTH, READ | WRITE), what);
	check_reach(iova, true, "reached");
	snprintf(what, sizeof(what), "unmap %s", when);
	check(!space_unmap(&space, iova, LENGTH), what);
	check_reach(iova, false, "refused after unmap");
}

/* Returns when the kernel wants the device back. */
static void wait_for_request(void)
{
	struct pollfd event = {
		.fd = device_event(&leaver, VFIO_PCI_REQ_IRQ_INDEX),
		.events = POLLIN,
	};

	check(event.fd >= 0, "held");
	check(poll(&event, 1, WAIT_MS) == 1, "asked to leave");
}

static void wait_until_gone(const char *bdf)
{
	char path[64];

	snprintf(path, sizeof(path), "/sys/bus/pci/devices/%s", bdf);
	for (int waited = 0; !access(path, F_OK) && waited < WAIT_MS; waited += 10)
		usleep(10000);
	check(access(path, F_OK), "gone");
}

static void open_one(struct device *device, const char *bdf)
{
	int ret = device_open(device, &space, bdf);

	if (ret)
		errx(1, "cannot open %s: %s", bdf, strerror(-ret));
}

int main(int argc, char **argv)
{
	struct range ranges[MAX_RANGES];
	int ret;

	setvbuf(stdout, NULL, _IOLBF, 0);
	if (argc < 3)
		errx(2, "usage: vfiohold type1|iommufd BDF [TESTDEV]");
	memory = aligned_alloc(0x10000, LENGTH);
	if (!memory)
		err(1, "aligned_alloc");
	memset(memory, 0, LENGTH);
	ret = space_open(&space, strcmp(argv[1], "iommufd") ? TYPE1 : IOMMUFD);
	if (ret)
		errx(1, "%s: %s", argv[1], strerror(-ret));
	open_one(&leaver, argv[2]);
	if (argc > 3)
		open_one(&stayer, argv[3]);
	base = ranges[space_ranges(&space, ranges) - 1].first;

	check(!space_map(&space, BEFORE, memory, LENGTH, READ | WRITE), "map");
	check_reach(BEFORE, true, "reached");
	wait_for_request();
	use(DURING, "during removal");
	device_close(&leaver);
	wait_until_gone(argv[2]);

	check_reach(BEFORE, true, "reached when it is gone");
	ret = space_unmap(&space, BEFORE, LENGTH);
	/* A type1 container forgets its mappings with its last group. */
	check(!ret || (space.api == TYPE1 && !stayer.space), "late unmap");
	check_reach(BEFORE, false, "refused after late unmap");
	if (space.api == IOMMUFD || stayer.space)
		use(AFTER, "afterwards");
	/* Left mapped: closing must take it down. */
	space_map(&space, AFTER, memory, LENGTH, READ | WRITE);
	return failures != 0;
}
