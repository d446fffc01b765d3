// SPDX-License-Identifier: GPL-2.0
/*
 * vfiobench type1|iommufd|spapr WORK BYTES IOVA BDF...: what VFIO costs, between
 * the marks of bench/marks.h. WORK is one of
 *
 *	map	map and unmap ordinary memory with one ioctl each; most of its
 *		pages follow each other
 *	scatter	the same with memory where next to none does
 *	pin	register memory (spapr); the others do it when they map
 *	switch	take the devices from the kernel, map, and give them back
 *	table	prints what is mapped, and the pages that the kernel has for it
 *		then and after unmapping
 *
 * With spapr IOVA is not used: a window of 64K pages is made, where the kernel wants it.
 */
#define _GNU_SOURCE
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>
#include <linux/vfio.h>

#include "../bench/marks.h"
#include "../../selftests/iommu/tce/vfio.h"

#define PAGE		0x10000ull
#define TRIES		64
#define MAX_DEVICES	8
#define CHUNK		(64ull << 20)	/* of memory that is mapped again and again */
#define MOST		(512ull << 20)	/* of other memory */

static struct space space;
static struct device devices[MAX_DEVICES];
static int nr_devices;
static bool spapr;
static uint64_t iova;

static void check(int ret, const char *what)
{
	if (ret)
		errx(1, "%s: %s", what, strerror(-ret));
}

static char *reserve(uint64_t length, int flags)
{
	char *memory = mmap(NULL, length, PROT_READ | PROT_WRITE, flags | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (memory == MAP_FAILED)
		err(1, "mmap");
	return memory;
}

static void touch(char *memory, uint64_t length, bool backwards)
{
	for (uint64_t at = 0; at < length; at += PAGE)
		memory[backwards ? length - PAGE - at : at] = 1;
}

/* How many pages follow the one before them in memory. */
static uint64_t in_order(char *memory, uint64_t length)
{
	int fd = open("/proc/self/pagemap", O_RDONLY);
	uint64_t frame, before = 0, found = 0;

	if (fd < 0)
		err(1, "pagemap");
	for (uint64_t at = 0; at < length; at += PAGE) {
		if (pread(fd, &frame, sizeof(frame), ((uintptr_t)memory + at) / PAGE * sizeof(frame)) != sizeof(frame))
			err(1, "pagemap");
		found += at && frame == before + 1;
		before = frame;
	}
	close(fd);
	return found;
}

/*
 * The kernel gives pages in ascending or descending order, after it has used up
 * those that follow no order: what does not do is kept until something does.
 */
static char *find_memory(uint64_t length, int flags, bool ordered)
{
	uint64_t pages = length / PAGE, found = 0;
	char *memory[TRIES];
	int tries;

	for (tries = 0; tries < TRIES && tries * length < 2 * MOST; tries++) {
		memory[tries] = reserve(length, flags);
		touch(memory[tries], length, tries % 2);
		found = in_order(memory[tries], length);
		if (ordered ? found >= (pages - 1) / 10 * 9 : found <= pages / 10)
			break;
	}
	if (tries == TRIES || tries * length >= 2 * MOST)
		errx(1, "%llu of %llu pages in order", (unsigned long long)found, (unsigned long long)pages);
	for (int i = 0; i < tries; i++)
		munmap(memory[i], length);
	return memory[tries];
}

/* If there is not enough of it, the same memory again and again. */
static char *memory_of(uint64_t length, bool ordered)
{
	char *memory, *chunk;

	if (length <= MOST)
		return find_memory(length, MAP_PRIVATE, ordered);
	chunk = find_memory(CHUNK, MAP_SHARED, ordered);
	memory = reserve(length, MAP_PRIVATE);
	for (uint64_t at = 0; at < length; at += CHUNK) {
		/* A shared mapping of old size 0 is doubled. */
		if (mremap(chunk, 0, CHUNK, MREMAP_MAYMOVE | MREMAP_FIXED, memory + at) == MAP_FAILED)
			err(1, "mremap");
		touch(memory + at, CHUNK, false);
	}
	return memory;
}

static void open_all(const char *api, char **bdfs)
{
	check(space_open(&space, strcmp(api, "iommufd") ? TYPE1 : IOMMUFD), "open");
	if (spapr)
		space.type = VFIO_SPAPR_TCE_v2_IOMMU;
	for (nr_devices = 0; bdfs[nr_devices]; nr_devices++)
		check(device_open(&devices[nr_devices], &space, bdfs[nr_devices]), bdfs[nr_devices]);
}

static void close_all(void)
{
	while (nr_devices)
		device_close(&devices[--nr_devices]);
	space_close(&space);
}

/* What only the interface of the driver in arch/powerpc needs. */
static void pin(void *memory, uint64_t length)
{
	struct vfio_iommu_spapr_register_memory request = {
		.argsz = sizeof(request), .vaddr = (uintptr_t)memory, .size = length,
	};

	if (spapr && ioctl(space.fd, VFIO_IOMMU_SPAPR_REGISTER_MEMORY, &request))
		err(1, "VFIO_IOMMU_SPAPR_REGISTER_MEMORY");
}

static void make_window(uint64_t length)
{
	struct vfio_iommu_spapr_tce_create create = {
		.argsz = sizeof(create), .page_shift = 16, .window_size = length, .levels = 1,
	};

	if (!spapr)
		return;
	if (ioctl(space.fd, VFIO_IOMMU_SPAPR_TCE_CREATE, &create))
		err(1, "VFIO_IOMMU_SPAPR_TCE_CREATE");
	iova = create.start_addr;
}

static void work_map(uint64_t length, bool in_order)
{
	void *memory = memory_of(length, in_order);
	int ret;

	make_window(length);
	pin(memory, length);
	mark(MARK_FIRST);
	ret = space_map(&space, iova, memory, length, READ | WRITE);
	mark(MARK_STOP);
	check(ret, "map");
	mark(MARK_SECOND);
	ret = space_unmap(&space, iova, length);
	mark(MARK_STOP);
	check(ret, "unmap");
}

static void work_pin(uint64_t length)
{
	void *memory = memory_of(length, true);

	mark(MARK_FIRST);
	pin(memory, length);
	mark(MARK_STOP);
}

static void work_switch(const char *api, uint64_t length, char **bdfs)
{
	void *memory = memory_of(length, true);

	close_all();
	mark(MARK_FIRST);
	open_all(api, bdfs);
	mark(MARK_STOP);
	make_window(1ull << 30);
	pin(memory, length);
	check(space_map(&space, iova, memory, length, READ | WRITE), "map");
	mark(MARK_SECOND);
	close_all();
	mark(MARK_STOP);
}

/* Pages handed out and not given back, of all sizes. */
static long pages(void)
{
	FILE *file = fopen("/proc/vmstat", "r");
	char name[64];
	long value, sum = 0;

	if (!file)
		err(1, "/proc/vmstat");
	while (fscanf(file, "%63s %ld", name, &value) == 2) {
		if (!strncmp(name, "pgalloc_", 8))
			sum += value;
		else if (!strcmp(name, "pgfree"))
			sum -= value;
	}
	fclose(file);
	return sum;
}

static void work_table(uint64_t length)
{
	void *memory = memory_of(CHUNK, true);
	long before, mapped;

	pin(memory, CHUNK);
	before = pages();
	make_window(length);
	for (uint64_t at = 0; at < length; at += CHUNK)
		check(space_map(&space, iova + at, memory, CHUNK, READ | WRITE), "map");
	mapped = pages();
	for (uint64_t at = 0; at < length; at += CHUNK)
		check(space_unmap(&space, iova + at, CHUNK), "unmap");
	printf("%ld %ld\n", mapped - before, pages() - before);
}

int main(int argc, char **argv)
{
	const char *api, *work;
	uint64_t length;

	if (argc < 6 || argc > 5 + MAX_DEVICES)
		errx(2, "usage: vfiobench type1|iommufd|spapr map|scatter|pin|switch|table BYTES IOVA BDF...");
	api = argv[1];
	work = argv[2];
	length = strtoull(argv[3], NULL, 0);
	iova = strtoull(argv[4], NULL, 0);
	spapr = !strcmp(api, "spapr");
	open_all(api, argv + 5);
	if (!strcmp(work, "map"))
		work_map(length, true);
	else if (!strcmp(work, "scatter"))
		work_map(length, false);
	else if (!strcmp(work, "pin"))
		work_pin(length);
	else if (!strcmp(work, "switch"))
		work_switch(api, length, argv + 5);
	else if (!strcmp(work, "table"))
		work_table(length);
	else
		errx(2, "no work %s", work);
	mark(MARK_WRITE);
	return 0;
}
