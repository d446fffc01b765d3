// SPDX-License-Identifier: GPL-2.0
/*
 * vfioscatter type1|iommufd BDF PAGES ROUNDS
 *
 * Maps PAGES pages, a power of two, by one call and unmaps them by another,
 * ROUNDS times, in the window with the larger pages. No two neighbours among
 * them are neighbours in memory.
 */
#define _GNU_SOURCE
#include <err.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "../../selftests/iommu/tce/vfio.h"

#define STEP	37	/* odd, so that each page gets its turn */

static void *scattered(size_t pages, size_t page)
{
	char *memory = mmap(NULL, pages * page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	int file = memfd_create("scattered", 0);
	size_t i;

	/* The file gets its memory in the order of the file. */
	if (memory == MAP_FAILED || file < 0 || fallocate(file, 0, 0, pages * page))
		err(1, "memory");
	for (i = 0; i < pages; i++)
		if (mmap(memory + i * page, page, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, file,
			 i * STEP % pages * page) == MAP_FAILED)
			err(1, "mmap");
	return memory;
}

int main(int argc, char **argv)
{
	size_t page = sysconf(_SC_PAGESIZE), pages = argc > 4 ? strtoul(argv[3], NULL, 0) : 0;
	struct range ranges[MAX_RANGES];
	struct device device;
	struct space space;
	uint64_t iova;
	void *memory;
	int ret, round;

	if (!pages || pages & (pages - 1))
		errx(2, "usage: vfioscatter type1|iommufd BDF PAGES ROUNDS");
	memory = scattered(pages, page);
	ret = space_open(&space, strcmp(argv[1], "iommufd") ? TYPE1 : IOMMUFD);
	if (!ret)
		ret = device_open(&device, &space, argv[2]);
	if (ret)
		errx(1, "cannot open %s by %s: %s", argv[2], argv[1], strerror(-ret));
	iova = ranges[space_ranges(&space, ranges) - 1].first;
	for (round = atoi(argv[4]); round && !ret; round--) {
		ret = space_map(&space, iova, memory, pages * page, READ | WRITE);
		if (!ret)
			ret = space_unmap(&space, iova, pages * page);
	}
	if (ret)
		errx(1, "%zu pages: %s", pages, strerror(-ret));
	device_close(&device);
	return 0;
}
