// SPDX-License-Identifier: GPL-2.0
/*
 * vfiocheck type1|iommufd|spapr BDF [dma]
 *
 * Opens a device through one of the three VFIO interfaces, maps memory, unmaps
 * it and closes. With "dma" the device must be QEMU's iommu-testdev: it is told
 * to write inside the mapping (must succeed), one granule behind it (must be
 * refused) and inside it after the unmap (must be refused). One line per check.
 */
#include <err.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <linux/vfio.h>

#include "../../selftests/iommu/tce/vfio.h"

#define IOVA	0x1000000ull
#define LENGTH	0x20000ull	/* two pages of 64K */
#define WRITTEN	16		/* bytes that the device writes at a time */

static int failures;

static void check(int good, const char *what)
{
	printf("%s %s\n", good ? "ok" : "FAIL", what);
	failures += !good;
}

/* What the interface of the legacy driver wants before a mapping. */
static int spapr_register(struct space *space, void *memory)
{
	struct vfio_iommu_spapr_register_memory request = {
		.argsz = sizeof(request), .vaddr = (uintptr_t)memory, .size = LENGTH,
	};

	return ioctl(space->fd, VFIO_IOMMU_SPAPR_REGISTER_MEMORY, &request);
}

static void check_dma(struct device *device, const uint8_t *memory)
{
	const uint8_t *end = memory + LENGTH - WRITTEN;

	check(testdev_write(device, IOVA, WRITTEN) && is_pattern(memory, WRITTEN), "first granule written");
	check(testdev_write(device, IOVA + LENGTH - WRITTEN, WRITTEN) && is_pattern(end, WRITTEN), "last bytes written");
	check(!testdev_write(device, IOVA + LENGTH, WRITTEN), "granule behind refused");
	check(!testdev_write(device, IOVA - WRITTEN, WRITTEN), "granule before refused");
}

int main(int argc, char **argv)
{
	int dma = argc > 3 && !strcmp(argv[3], "dma"), ret;
	struct device device;
	struct space space;
	uint8_t *memory;
	bool spapr;

	setvbuf(stdout, NULL, _IOLBF, 0);
	if (argc < 3)
		errx(2, "usage: vfiocheck type1|iommufd|spapr BDF [dma]");
	spapr = !strcmp(argv[1], "spapr");
	ret = space_open(&space, strcmp(argv[1], "iommufd") ? TYPE1 : IOMMUFD);
	if (!ret && spapr)
		space.type = VFIO_SPAPR_TCE_v2_IOMMU;
	if (!ret)
		ret = device_open(&device, &space, argv[2]);
	if (ret)
		errx(1, "cannot open %s by %s: %s", argv[2], argv[1], strerror(-ret));
	check(1, "open");
	memory = aligned_alloc(0x10000, LENGTH);
	if (!memory)
		err(1, "aligned_alloc");
	memset(memory, 0, LENGTH);
	if (spapr)
		check(!spapr_register(&space, memory), "register memory");
	check(!space_map(&space, IOVA, memory, LENGTH, READ | WRITE), "map");
	if (dma)
		check_dma(&device, memory);
	if (!spapr) {
		ret = space_map(&space, IOVA, memory, LENGTH, READ | WRITE);
		check(ret == -EEXIST || ret == -EADDRINUSE, "second map refused");
	}
	check(!space_unmap(&space, IOVA, LENGTH), "unmap");
	if (dma) {
		memset(memory, 0, LENGTH);
		check(!testdev_write(&device, IOVA, WRITTEN), "after unmap refused");
		check(!is_pattern(memory, WRITTEN), "nothing arrived after unmap");
	}
	/* Left mapped: closing must take it down. */
	check(!space_map(&space, IOVA, memory, LENGTH, READ | WRITE), "map again");
	device_close(&device);
	return failures != 0;
}
