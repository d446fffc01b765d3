// SPDX-License-Identifier: GPL-2.0
/*
 * memlock type1|iommufd BDF: an ordinary user who may lock 1 MiB maps no more
 * for a device, and has it back after unmapping.
 */
#define _GNU_SOURCE
#include <err.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <sys/resource.h>

#include "../../selftests/iommu/tce/vfio.h"

#define IOVA	0x1000000ull
#define LIMIT	0x100000ull
#define NOBODY	65534

int main(int argc, char **argv)
{
	const struct rlimit limit = { LIMIT, LIMIT };
	struct device device;
	struct space space;
	char *memory;
	int ret;

	if (argc != 3)
		errx(2, "usage: memlock type1|iommufd BDF");
	ret = space_open(&space, strcmp(argv[1], "iommufd") ? TYPE1 : IOMMUFD);
	if (!ret)
		ret = device_open(&device, &space, argv[2]);
	if (ret)
		errx(1, "cannot open %s by %s: %s", argv[2], argv[1], strerror(-ret));
	memory = aligned_alloc(0x10000, 2 * LIMIT);
	if (!memory)
		err(1, "aligned_alloc");
	memset(memory, 0, 2 * LIMIT);
	if (setrlimit(RLIMIT_MEMLOCK, &limit) || setresgid(NOBODY, NOBODY, NOBODY) ||
	    setresuid(NOBODY, NOBODY, NOBODY))
		err(1, "becoming nobody");

	for (int round = 0; round < 3; round++) {
		ret = space_map(&space, IOVA, memory, LIMIT / 2, READ | WRITE);
		if (ret)
			errx(1, "round %d, half of the limit: %s", round, strerror(-ret));
		ret = space_map(&space, IOVA + LIMIT, memory + LIMIT, LIMIT, READ | WRITE);
		if (ret != -ENOMEM)
			errx(1, "round %d, more than the limit: %s", round, strerror(-ret));
		if (space_unmap(&space, IOVA, LIMIT / 2))
			errx(1, "unmap");
		ret = space_map(&space, IOVA + LIMIT, memory + LIMIT, LIMIT, READ | WRITE);
		if (ret)
			errx(1, "round %d, all of the limit: %s", round, strerror(-ret));
		if (space_unmap(&space, IOVA + LIMIT, LIMIT))
			errx(1, "unmap");
	}
	puts("refused beyond the limit");
	return 0;
}
