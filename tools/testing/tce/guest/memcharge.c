// SPDX-License-Identifier: GPL-2.0
/*
 * memcharge type1|iommufd BDF: the tables of what a user maps are charged to
 * the memory cgroup of the user, until all is closed.
 *
 * The same number of mappings, once in as few leaves of the table as possible
 * and once in a leaf each: the difference is what the leaves take.
 */
#include <err.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include "../../selftests/iommu/tce/vfio.h"

#define GROUP	"/sys/fs/cgroup/tce"
#define MAPS	400ull		/* a leaf each fits the 64-bit window of either machine */
#define LEAF	4096ull
#define TCES	512ull		/* of a leaf */
#define TRIES	20
#define FLUSH	3		/* seconds: small changes are added up every two */

static void put(const char *path, const char *text)
{
	FILE *file = fopen(path, "w");

	if (!file || fputs(text, file) < 0 || fclose(file))
		err(1, "%s", path);
}

/* What the kernel has allocated for the processes of the group */
static long long charged(void)
{
	long long value, sum = -1;
	char name[64];
	FILE *file;

	sleep(FLUSH);
	file = fopen(GROUP "/memory.stat", "r");
	if (!file)
		err(1, "memory.stat");
	while (fscanf(file, "%63s %lld", name, &value) == 2)
		if (!strcmp(name, "slab_unreclaimable"))
			sum = value;
	fclose(file);
	if (sum < 0)
		errx(1, "memory.stat does not tell of slabs");
	return sum;
}

static long long map_all(const char *api, const char *bdf, bool spread, long long before)
{
	uint64_t page = sysconf(_SC_PAGESIZE), step = page;
	void *memory = aligned_alloc(page, page);
	struct range ranges[MAX_RANGES];
	struct device device;
	struct space space;
	long long grown;
	int ret, last;

	ret = space_open(&space, strcmp(api, "iommufd") ? TYPE1 : IOMMUFD);
	if (!ret)
		ret = device_open(&device, &space, bdf);
	if (ret)
		errx(1, "cannot open %s by %s: %s", bdf, api, strerror(-ret));
	last = space_ranges(&space, ranges) - 1;
	if (!memory || last < 0)
		errx(1, "no memory or no addresses");
	memset(memory, 0, page);
	if (spread)
		step = TCES * space_granule(&space);
	for (uint64_t i = 0; i < MAPS; i++) {
		ret = space_map(&space, ranges[last].first + i * step, memory, page, READ | WRITE);
		if (ret)
			errx(1, "map %llu: %s", (unsigned long long)i, strerror(-ret));
	}
	grown = charged() - before;
	device_close(&device);
	space_close(&space);
	free(memory);
	return grown;
}

int main(int argc, char **argv)
{
	const long long leaves = MAPS * LEAF;
	long long before, dense, spread, left;

	if (argc != 3)
		errx(2, "usage: memcharge type1|iommufd BDF");
	if (access(GROUP, F_OK)) {
		if (mount("cgroup", "/sys/fs/cgroup", "cgroup2", 0, NULL))
			err(1, "cgroup2");
		put("/sys/fs/cgroup/cgroup.subtree_control", "+memory");
		if (mkdir(GROUP, 0755))
			err(1, GROUP);
	}
	put(GROUP "/cgroup.procs", "0");

	map_all(argv[1], argv[2], false, 0);	/* what is allocated once */
	before = charged();
	dense = map_all(argv[1], argv[2], false, before);
	spread = map_all(argv[1], argv[2], true, before);
	left = charged() - before;
	for (int i = 0; i < TRIES && left >= leaves / 2; i++)
		left = charged() - before;
	printf("%lld bytes, %lld with %llu leaves, then %lld\n", dense, spread, MAPS, left);
	if (spread - dense < leaves * 3 / 4)
		errx(1, "the leaves are not charged");
	if (left >= leaves / 2)
		errx(1, "what was closed is still charged");
	return 0;
}
