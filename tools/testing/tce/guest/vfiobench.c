// SPDX-License-Identifier: GPL-2.0
/*
 * vfiobench IOVA BDF[,BDF...] API:WORK:BYTES[:DEVICES]...: what VFIO costs, between
 * the marks of bench/marks.h; one measurement and one line of output for each. API is
 * type1, iommufd, spapr, or sva (a process bound by the sample rust_sva_copy), WORK is
 * one of
 *
 *	map	map and unmap ordinary memory with one ioctl each; most of its
 *		pages follow each other
 *	again	the same with memory that was mapped before
 *	huge	the same with huge pages that were mapped before
 *	scatter	the same as map with memory where next to none does
 *	pin	register memory (spapr); the others do it when they map
 *	switch	take the devices from the kernel, map, and give them back
 *	table	prints how many KiB of tables there are when so much is mapped,
 *		and after unmapping
 *
 * With spapr IOVA is not used: a window of 64K pages is made, where the kernel wants it.
 * With sva it is the address of the memory that says where.
 */
#define _GNU_SOURCE
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <glob.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>
#include <linux/mman.h>
#include <linux/vfio.h>

#include "../bench/marks.h"
#include "../../selftests/iommu/tce/vfio.h"

#define PAGE		0x10000ull
#define HUGE		(2ull << 20)
#define TRIES		64
#define MAX_DEVICES	8
#define CHUNK		(64ull << 20)	/* of memory that is mapped again and again */
#define MOST		(512ull << 20)	/* of other memory */

static struct space space;
static struct device devices[MAX_DEVICES];
static int nr_devices;
static char *bdfs[MAX_DEVICES + 1];
static bool spapr, sva;
static int file = -1;	/* of the sample */
static uint64_t iova;
static uint64_t most;			/* that is mapped at once, of memory of its own */
static char *ordered, *scattered;	/* so much each, once they are needed */

static void check(int ret, const char *what)
{
	if (ret)
		errx(1, "%s: %s", what, strerror(-ret));
}

/* At low addresses, which every window for a process reaches, but beyond any heap. */
static char *reserve(uint64_t length, int flags)
{
	static uintptr_t next = 4ull << 30;
	char *memory = mmap((void *)next, length, PROT_READ | PROT_WRITE, flags | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (memory == MAP_FAILED)
		err(1, "mmap");
	next += length;
	return memory;
}

/* In steps of a number of pages; 0 is backwards. There are a power of two of them. */
static void touch(char *memory, uint64_t length, uint64_t step)
{
	uint64_t pages = length / PAGE, page = step ? 0 : pages - 1;

	for (uint64_t i = 0; i < pages; i++) {
		memory[page * PAGE] = 1;
		page = (page + (step ?: pages - 1)) % pages;
	}
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
 * those that follow no order: what does not do is kept until something does. Steps
 * of a third of the memory and a bit take any order away.
 */
static char *find_memory(uint64_t length, int flags, bool in_a_row)
{
	uint64_t pages = length / PAGE, found = 0;
	char *memory[TRIES];
	int tries;

	for (tries = 0; tries < TRIES && tries * length < 2 * MOST; tries++) {
		memory[tries] = reserve(length, flags);
		touch(memory[tries], length, in_a_row ? tries % 2 == 0 : pages / 3 | 1);
		found = in_order(memory[tries], length);
		if (in_a_row ? found >= (pages - 1) / 10 * 9 : found <= pages / 10)
			break;
	}
	if (tries == TRIES || tries * length >= 2 * MOST)
		errx(1, "%llu of %llu pages in order", (unsigned long long)found, (unsigned long long)pages);
	for (int i = 0; i < tries; i++)
		munmap(memory[i], length);
	return memory[tries];
}

/* If there is not enough of it, the same memory again and again. */
static char *memory_of(uint64_t length, bool in_a_row)
{
	char **kept = in_a_row ? &ordered : &scattered;
	char *memory, *chunk;

	if (length <= MOST) {
		if (!*kept)
			*kept = find_memory(most, MAP_PRIVATE, in_a_row);
		return *kept;
	}
	chunk = find_memory(CHUNK, MAP_SHARED, in_a_row);
	memory = reserve(length, MAP_PRIVATE);
	for (uint64_t at = 0; at < length; at += CHUNK) {
		/* A shared mapping of old size 0 is doubled. */
		if (mremap(chunk, 0, CHUNK, MREMAP_MAYMOVE | MREMAP_FIXED, memory + at) == MAP_FAILED)
			err(1, "mremap");
		touch(memory + at, CHUNK, 1);
	}
	return memory;
}

/* The part of it in which most pages follow each other. */
static char *part_of(uint64_t length)
{
	char *memory = memory_of(length, true), *best = memory;
	uint64_t found, highest = 0;

	for (char *at = memory; at + length <= memory + most; at += length) {
		found = in_order(at, length);
		if (found > highest) {
			highest = found;
			best = at;
		}
	}
	return best;
}

static int ask(uint64_t what, void *memory, uint64_t length)
{
	uint64_t request[4] = { what, (uintptr_t)memory, length, 1 };

	return write(file, request, sizeof(request)) == sizeof(request) ? 0 : -errno;
}

static int map(void *memory, uint64_t length)
{
	return sva ? ask(1, memory, length) : space_map(&space, iova, memory, length, READ | WRITE);
}

static int unmap(uint64_t length)
{
	return sva ? ask(3, NULL, 0) : space_unmap(&space, iova, length);
}

static void open_all(const char *api, int number)
{
	if (sva) {
		file = open("/dev/rust-sva-copy", O_RDWR);
		check(file < 0 ? -errno : 0, "/dev/rust-sva-copy");
		return;
	}
	check(space_open(&space, strcmp(api, "iommufd") ? TYPE1 : IOMMUFD), "open");
	if (spapr)
		space.type = VFIO_SPAPR_TCE_v2_IOMMU;
	for (nr_devices = 0; nr_devices < number && bdfs[nr_devices]; nr_devices++)
		check(device_open(&devices[nr_devices], &space, bdfs[nr_devices]), bdfs[nr_devices]);
}

static void close_all(void)
{
	if (sva) {
		close(file);
		return;
	}
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

static void *huge_pages(uint64_t length)
{
	static unsigned long long number;
	int fd = open("/proc/sys/vm/nr_hugepages", O_WRONLY);
	void *memory;

	number += length / HUGE;
	if (fd < 0 || dprintf(fd, "%llu", number) < 0)
		err(1, "nr_hugepages");
	close(fd);
	memory = reserve(length, MAP_PRIVATE | MAP_HUGETLB | MAP_HUGE_2MB);
	memset(memory, 1, length);
	return memory;
}

static void work_map(uint64_t length, void *memory, bool again)
{
	int ret;

	make_window(length);
	pin(memory, length);
	if (again) {
		check(map(memory, length), "map");
		check(unmap(length), "unmap");
	}
	mark(MARK_FIRST);
	ret = map(memory, length);
	mark(MARK_STOP);
	check(ret, "map");
	mark(MARK_SECOND);
	ret = unmap(length);
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

static void work_switch(const char *api, uint64_t length, int number)
{
	void *memory = memory_of(length, true);

	close_all();
	mark(MARK_FIRST);
	open_all(api, number);
	mark(MARK_STOP);
	make_window(1ull << 30);
	pin(memory, length);
	check(map(memory, length), "map");
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

/* In KiB, by the driver's own count if it has one: a freed table may be kept for the next one. */
static long tables(void)
{
	long value, sum = 0;
	int windows = 0;
	FILE *file;
	glob_t found;

	if (spapr)
		return pages() * (PAGE >> 10);
	if (glob("/sys/kernel/debug/tce_iommu/*/tables", 0, NULL, &found))
		errx(1, "no /sys/kernel/debug/tce_iommu");
	for (size_t i = 0; i < found.gl_pathc; i++) {
		file = fopen(found.gl_pathv[i], "r");
		if (!file)
			err(1, "%s", found.gl_pathv[i]);
		for (; fscanf(file, " window %*d tces %*d kib %ld", &value) == 1; windows++)
			sum += value;
		fclose(file);
	}
	if (!windows)
		errx(1, "/sys/kernel/debug/tce_iommu tells of no window");
	globfree(&found);
	return sum;
}

static void work_table(uint64_t length)
{
	void *memory = memory_of(CHUNK, true);
	long before, mapped;

	pin(memory, CHUNK);
	before = tables();
	make_window(length);
	for (uint64_t at = 0; at < length; at += CHUNK)
		check(space_map(&space, iova + at, memory, CHUNK, READ | WRITE), "map");
	mapped = tables();
	for (uint64_t at = 0; at < length; at += CHUNK)
		check(space_unmap(&space, iova + at, CHUNK), "unmap");
	printf("%ld %ld\n", mapped - before, tables() - before);
}

static void measure(char *text)
{
	const char *api = strsep(&text, ":"), *work = strsep(&text, ":");
	const char *bytes = strsep(&text, ":"), *number = strsep(&text, ":");
	uint64_t length;
	int devices_used;

	if (!bytes)
		errx(2, "API:WORK:BYTES[:DEVICES] is missing");
	length = strtoull(bytes, NULL, 0);
	devices_used = number ? atoi(number) : MAX_DEVICES;
	spapr = !strcmp(api, "spapr");
	sva = !strcmp(api, "sva");
	open_all(api, devices_used);
	if (!strcmp(work, "map") || !strcmp(work, "again"))
		work_map(length, part_of(length), *work == 'a');
	else if (!strcmp(work, "scatter"))
		work_map(length, memory_of(length, false), false);
	else if (!strcmp(work, "huge"))
		work_map(length, huge_pages(length), true);
	else if (!strcmp(work, "pin"))
		work_pin(length);
	else if (!strcmp(work, "switch"))
		work_switch(api, length, devices_used);
	else if (!strcmp(work, "table"))
		work_table(length);
	else
		errx(2, "no work %s", work);
	if (strcmp(work, "table"))
		printf("done\n");
	close_all();
	mark(MARK_WRITE);
}

int main(int argc, char **argv)
{
	int number = 0;

	if (argc < 4)
		errx(2, "usage: vfiobench IOVA BDF[,BDF...] API:WORK:BYTES[:DEVICES]...");
	iova = strtoull(argv[1], NULL, 0);
	while (number < MAX_DEVICES && argv[2]) {
		char *bdf = strsep(&argv[2], ",");

		if (*bdf)
			bdfs[number++] = bdf;
	}
	for (int i = 3; i < argc; i++) {
		const char *bytes = strchr(strchr(argv[i], ':') ? strchr(argv[i], ':') + 1 : argv[i], ':');
		uint64_t length = bytes ? strtoull(bytes + 1, NULL, 0) : 0;

		if (length <= MOST && length > most)
			most = length;
	}
	/* Room to choose from. */
	most = most < MOST / 4 ? 4 * most : MOST;
	for (int i = 3; i < argc; i++)
		measure(argv[i]);
	return 0;
}
