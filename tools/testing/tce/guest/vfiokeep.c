// SPDX-License-Identifier: GPL-2.0
/*
 * vfiokeep type1|iommufd BDF: maps 64 KiB in each window of a device, 16 MiB
 * from its begin, says at which bus addresses, and keeps them mapped until
 * somebody ends it.
 */
#include <err.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "../../selftests/iommu/tce/vfio.h"

#define OFFSET	0x1000000ull
#define LENGTH	0x10000ull

int main(int argc, char **argv)
{
	struct range ranges[MAX_RANGES];
	struct device device;
	struct space space;
	uint64_t held = 0;
	void *memory;
	int nr, ret;

	if (argc != 3)
		errx(2, "usage: vfiokeep type1|iommufd BDF");
	ret = space_open(&space, strcmp(argv[1], "iommufd") ? TYPE1 : IOMMUFD);
	if (!ret)
		ret = device_open(&device, &space, argv[2]);
	if (ret)
		errx(1, "cannot open %s by %s: %s", argv[2], argv[1], strerror(-ret));
	nr = space_ranges(&space, ranges);
	memory = aligned_alloc(LENGTH, LENGTH);
	if (!memory)
		err(1, "aligned_alloc");
	memset(memory, 0, LENGTH);
	for (int i = 0; i < nr; i++) {
		uint64_t iova = (ranges[i].first & ~(LENGTH - 1)) + OFFSET;

		/* A window may come in several ranges */
		if (iova + LENGTH - 1 > ranges[i].last || (held && iova - held < 1ull << 40))
			continue;
		ret = space_map(&space, iova, memory, LENGTH, READ | WRITE);
		if (ret)
			errx(1, "cannot map at %#llx: %s", (unsigned long long)iova, strerror(-ret));
		printf("held %#llx\n", (unsigned long long)iova);
		held = iova;
	}
	puts("ready");
	fflush(stdout);
	for (;;)
		pause();
}
