// SPDX-License-Identifier: GPL-2.0
/*
 * What a device reaches through VFIO type1 and iommufd on TCE hardware, told by
 * devices that QEMU has for this. Bind them to vfio-pci and run this; a test
 * that misses a device is skipped. In a pseries guest of QEMU the modules need
 * allow_unsafe_interrupts=1. A refused access is proven twice: by what
 * the device says and by the memory. The last line is their number, to be
 * compared with what the PHB says.
 *
 * TCE_ROUNDS in the environment is how long the random tests go on.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>
#include <linux/userfaultfd.h>
#include <linux/vfio.h>

#include "../../kselftest_harness.h"
#include "vfio.h"

#define IOVA	0x1000000ull
#define MIB	0x100000ull
#define GIB	0x40000000ull

static uint64_t page_size;

static void *memory_new(uint64_t length, int fill)
{
	void *memory = mmap(NULL, length, PROT_READ | PROT_WRITE,
			    MAP_SHARED | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);

	if (memory == MAP_FAILED)
		ksft_exit_fail_perror("mmap");
	if (fill)
		memset(memory, fill, length);
	return memory;
}

static bool is_filled(const void *memory, uint64_t length, uint8_t fill)
{
	const uint8_t *bytes = memory;

	return bytes[0] == fill && !memcmp(bytes, bytes + 1, length - 1);
}

static int rounds(int usual)
{
	const char *text = getenv("TCE_ROUNDS");

	return text ? atoi(text) : usual;
}

static uint32_t random_below(uint32_t limit)
{
	static uint64_t state = 0x2545f4914f6cdd1dull;

	state = state * 6364136223846793005ull + 1442695040888963407ull;
	return (state >> 33) % limit;
}

/* The write of 16 bytes arrives at @memory and nowhere around it. */
#define EXPECT_ARRIVES(_device, _iova, _memory) do {			\
	uint8_t *to = (uint8_t *)(_memory);				\
	memset(to, 0, 16);						\
	EXPECT_TRUE(testdev_write(_device, _iova, 16));			\
	EXPECT_TRUE(is_pattern(to, 16));				\
	memset(to, 0, 16);						\
} while (0)

#define EXPECT_REFUSED(_device, _iova)					\
	EXPECT_FALSE(testdev_write(_device, _iova, 16))

/* Each of the smallest TCEs counts. */
#define EXPECT_ALL_REFUSED(_device, _iova, _length) do {		\
	for (uint64_t _offset = 0; _offset < (_length); _offset += 4096)	\
		EXPECT_REFUSED(_device, (_iova) + _offset);		\
} while (0)

/* -- both interfaces ------------------------------------------------------ */

FIXTURE(vfio) {
	struct space space;
	struct device device;
	int group;
	char bdf[16];
};

FIXTURE_VARIANT(vfio) {
	enum api api;
};

FIXTURE_VARIANT_ADD(vfio, type1) { .api = TYPE1 };
FIXTURE_VARIANT_ADD(vfio, iommufd) { .api = IOMMUFD };

FIXTURE_SETUP(vfio)
{
	page_size = getpagesize();
	self->group = find_device(ID_TESTDEV, 0, ANY_GROUP, self->bdf);
	if (self->group < 0)
		SKIP(return, "no iommu-testdev at vfio-pci");
	ASSERT_EQ(0, space_open(&self->space, variant->api));
	ASSERT_EQ(0, device_open(&self->device, &self->space, self->bdf));
}

FIXTURE_TEARDOWN(vfio)
{
	if (self->group < 0)
		return;
	device_close(&self->device);
	space_close(&self->space);
}

TEST_F(vfio, map_and_unmap)
{
	uint8_t *memory = memory_new(4 * page_size, 0x55);

	EXPECT_REFUSED(&self->device, IOVA);
	ASSERT_EQ(0, space_map(&self->space, IOVA, memory + page_size, 2 * page_size,
			       READ | WRITE));
	EXPECT_ARRIVES(&self->device, IOVA, memory + page_size);
	EXPECT_ARRIVES(&self->device, IOVA + 2 * page_size - 16, memory + 3 * page_size - 16);
	EXPECT_ARRIVES(&self->device, IOVA + page_size + page_size / 2 + 4,
		       memory + 2 * page_size + page_size / 2 + 4);
	/* A write across the border of two pages, and one across the end. */
	EXPECT_TRUE(testdev_write(&self->device, IOVA + page_size - 8, 16));
	EXPECT_TRUE(is_pattern(memory + 2 * page_size - 8, 16));
	EXPECT_REFUSED(&self->device, IOVA + 2 * page_size);
	EXPECT_REFUSED(&self->device, IOVA - 16);
	EXPECT_REFUSED(&self->device, IOVA - page_size);
	EXPECT_TRUE(is_filled(memory, page_size, 0x55));
	EXPECT_TRUE(is_filled(memory + 3 * page_size, page_size, 0x55));

	/* What is mapped cannot be mapped again, and stays. */
	EXPECT_EQ(-EEXIST, space_map(&self->space, IOVA + page_size, memory, page_size,
				     READ | WRITE));
	EXPECT_ARRIVES(&self->device, IOVA + page_size, memory + 2 * page_size);

	memset(memory, 0x66, 4 * page_size);
	ASSERT_EQ(0, space_unmap(&self->space, IOVA, 2 * page_size));
	EXPECT_ALL_REFUSED(&self->device, IOVA, 2 * page_size);
	EXPECT_TRUE(is_filled(memory, 4 * page_size, 0x66));
	ASSERT_EQ(0, munmap(memory, 4 * page_size));
}

TEST_F(vfio, read_only)
{
	uint8_t *memory = memory_new(page_size, 0x55);

	ASSERT_EQ(0, space_map(&self->space, IOVA, memory, page_size, READ));
	EXPECT_ALL_REFUSED(&self->device, IOVA, page_size);
	EXPECT_TRUE(is_filled(memory, page_size, 0x55));

	/* The same page elsewhere, to write; the first stays as it is. */
	ASSERT_EQ(0, space_map(&self->space, IOVA + page_size, memory, page_size, READ | WRITE));
	EXPECT_ARRIVES(&self->device, IOVA + page_size, memory);
	EXPECT_REFUSED(&self->device, IOVA);
}

/* Directions, with a device that can read. */
TEST_F(vfio, directions)
{
	uint8_t *memory = memory_new(4 * page_size, 0x55);
	uint8_t *back = memory, *secret = memory + page_size, *only = memory + 2 * page_size;
	uint64_t to_back = IOVA, to_secret = IOVA + page_size, to_only = IOVA + 2 * page_size;
	struct device edu;
	char bdf[16];

	if (find_device(ID_EDU, 0, ANY_GROUP, bdf) < 0)
		SKIP(return, "no edu at vfio-pci");
	ASSERT_EQ(0, device_open(&edu, &self->space, bdf));
	ASSERT_EQ(0, space_map(&self->space, to_back, back, page_size, READ | WRITE));
	ASSERT_EQ(0, space_map(&self->space, to_only, only, page_size, WRITE));

	/* Out and in again: the data is right. */
	for (int i = 0; i < 4096; i++)
		back[i] = i * 7 + (i >> 8);
	edu_copy(&edu, to_back, 4096, false);
	edu_copy(&edu, to_only, 4096, true);
	EXPECT_EQ(0, memcmp(back, only, 4096));

	/* Not mapped: it cannot be read. */
	memset(secret, 0x77, page_size);
	edu_copy(&edu, to_secret, 4096, false);
	edu_copy(&edu, to_back, 4096, true);
	EXPECT_EQ(NULL, memchr(back, 0x77, 4096));

	/* Who may write may read. */
	memset(only, 0x66, page_size);
	edu_copy(&edu, to_only, 4096, false);
	edu_copy(&edu, to_back, 4096, true);
	EXPECT_TRUE(is_filled(back, 4096, 0x66));

	/* Mapped to be read only: it is read, and not written. */
	ASSERT_EQ(0, space_map(&self->space, to_secret, secret, page_size, READ));
	edu_copy(&edu, to_secret, 4096, false);
	edu_copy(&edu, to_back, 4096, true);
	EXPECT_TRUE(is_filled(back, 4096, 0x77));
	memset(secret, 0x44, page_size);
	edu_copy(&edu, to_secret, 4096, true);
	EXPECT_TRUE(is_filled(secret, page_size, 0x44));
	device_close(&edu);
}

/* What is reported can be mapped, from the first to the last byte; nothing else can. */
TEST_F(vfio, ranges)
{
	struct range ranges[MAX_RANGES];
	uint8_t *memory = memory_new(2 * page_size, 0);
	int count = space_ranges(&self->space, ranges);

	ASSERT_LT(0, count);
	for (int i = 0; i < count; i++) {
		uint64_t first = ranges[i].first, last = ranges[i].last;

		TH_LOG("%#llx to %#llx", (unsigned long long)first, (unsigned long long)last);
		ASSERT_EQ(0, first % page_size);
		ASSERT_EQ(0, (last + 1) % page_size);
		ASSERT_EQ(0, space_map(&self->space, first, memory, page_size, READ | WRITE));
		ASSERT_EQ(0, space_map(&self->space, last + 1 - page_size, memory + page_size,
				       page_size, READ | WRITE));
		EXPECT_ARRIVES(&self->device, first, memory);
		EXPECT_ARRIVES(&self->device, last - 15, memory + 2 * page_size - 16);
		EXPECT_EQ(0, space_unmap(&self->space, first, page_size));
		EXPECT_EQ(0, space_unmap(&self->space, last + 1 - page_size, page_size));
		EXPECT_REFUSED(&self->device, first);
		EXPECT_REFUSED(&self->device, last - 15);

		/* No hole is inside. */
		for (int bit = 20; bit < 64; bit++) {
			uint64_t iova = 1ull << bit;

			if (iova < first || iova > last)
				continue;
			ASSERT_EQ(0, space_map(&self->space, iova, memory, page_size,
					       READ | WRITE));
			EXPECT_ARRIVES(&self->device, iova, memory);
			ASSERT_EQ(0, space_unmap(&self->space, iova, page_size));
		}

		if (first)
			EXPECT_GT(0, space_map(&self->space, first - page_size, memory, page_size,
					       READ | WRITE));
		EXPECT_GT(0, space_map(&self->space, last + 1, memory, page_size, READ | WRITE));
		EXPECT_GT(0, space_map(&self->space, last + 1 - page_size, memory, 2 * page_size,
				       READ | WRITE));
		EXPECT_REFUSED(&self->device, last - 15);
		EXPECT_TRUE(is_filled(memory, 2 * page_size, 0));
	}
	/* In the middle of each hole. */
	for (int i = 0; i + 1 < count; i++) {
		uint64_t middle = ranges[i].last + (ranges[i + 1].first - ranges[i].last) / 2;

		EXPECT_GT(0, space_map(&self->space, middle & -page_size, memory, page_size,
				       READ | WRITE));
	}
}

static bool is_reported(struct space *space, uint64_t iova, uint64_t length)
{
	struct range ranges[MAX_RANGES];
	int count = space_ranges(space, ranges);

	for (int i = 0; i < count; i++)
		if (ranges[i].first <= iova && iova + length - 1 <= ranges[i].last)
			return true;
	return false;
}

/* An application whose IOVAs are its own addresses: those of mmap(), and around 2^45 and 2^46. */
TEST_F(vfio, iova_is_va)
{
	uint64_t length = 4 * page_size;
	uint64_t wanted[] = { 0, (1ull << 45) - 2 * page_size, (1ull << 46) - 2 * page_size };

	for (int i = 0; i < 3; i++) {
		uint8_t *memory = mmap((void *)wanted[i], length, PROT_READ | PROT_WRITE,
				       MAP_SHARED | MAP_ANONYMOUS | (i ? MAP_FIXED_NOREPLACE : 0),
				       -1, 0);
		uint64_t iova = (uintptr_t)memory;

		if (i && memory == MAP_FAILED)	/* with pages of 4 KiB addresses end at 2^46 */
			continue;
		ASSERT_NE(MAP_FAILED, memory);
		if (!is_reported(&self->space, iova, length)) {
			TH_LOG("%#llx is in no window", (unsigned long long)iova);
			EXPECT_GT(0, space_map(&self->space, iova, memory, length, READ | WRITE));
			EXPECT_REFUSED(&self->device, iova);
			EXPECT_TRUE(is_filled(memory, length, 0));
			continue;
		}
		ASSERT_EQ(0, space_map(&self->space, iova, memory, length, READ | WRITE));
		EXPECT_ARRIVES(&self->device, iova, memory);
		EXPECT_ARRIVES(&self->device, iova + length - 16, memory + length - 16);
		EXPECT_TRUE(testdev_write(&self->device, iova + length / 2 - 8, 16));
		EXPECT_TRUE(is_pattern(memory + length / 2 - 8, 16));
		EXPECT_REFUSED(&self->device, iova + length);
	}
}

/* Mappings of less than a page, at places of the page that differ on both sides. */
static void check_below_page_size(struct __test_metadata *_metadata, struct space *space,
				  struct device *device)
{
	uint64_t granule = space_granule(space);
	uint8_t *memory = memory_new(2 * page_size, 0x55), *from = memory + page_size - granule;

	TH_LOG("granule %#llx", (unsigned long long)granule);
	ASSERT_EQ(0, space_map(space, IOVA + granule, from, 2 * granule, READ | WRITE));
	EXPECT_ARRIVES(device, IOVA + granule, from);
	EXPECT_ARRIVES(device, IOVA + 3 * granule - 16, from + 2 * granule - 16);
	memset(memory, 0x55, 2 * page_size);
	EXPECT_REFUSED(device, IOVA + granule - 16);
	EXPECT_REFUSED(device, IOVA + 3 * granule);

	/* The rest of the same page of IOVA, to the same memory, which is not to be written. */
	ASSERT_EQ(0, space_map(space, IOVA + 3 * granule, from, granule, READ));
	EXPECT_REFUSED(device, IOVA + 3 * granule);
	EXPECT_EQ(-EEXIST, space_map(space, IOVA + 2 * granule, memory, granule, READ | WRITE));
	EXPECT_EQ(0, space_unmap(space, IOVA + granule, 2 * granule));
	EXPECT_REFUSED(device, IOVA + granule);
	EXPECT_REFUSED(device, IOVA + 2 * granule);
	EXPECT_TRUE(is_filled(memory, 2 * page_size, 0x55));
	EXPECT_EQ(-EINVAL, space_map(space, IOVA + granule / 2, memory, granule, READ | WRITE));
}

/* type1 deals in pages; iommufd in what the windows of the device can do. */
TEST_F(vfio, below_page_size)
{
	uint8_t *memory = memory_new(page_size, 0x55);
	struct space small;
	struct device device;
	char bdf[16];

	EXPECT_EQ(-EINVAL, space_map(&self->space, IOVA + 512, memory, page_size, READ | WRITE));
	EXPECT_EQ(-EINVAL, space_map(&self->space, IOVA, memory, 512, READ | WRITE));
	EXPECT_REFUSED(&self->device, IOVA);
	for (int n = 0; find_device(ID_TESTDEV, n, ~self->group, bdf) >= 0; n++) {
		ASSERT_EQ(0, space_open(&small, variant->api));
		ASSERT_EQ(0, device_open(&device, &small, bdf));
		EXPECT_TRUE(variant->api == IOMMUFD || space_granule(&small) == page_size);
		if (space_granule(&small) < page_size)
			check_below_page_size(_metadata, &small, &device);
		device_close(&device);
		space_close(&small);
	}
	EXPECT_TRUE(is_filled(memory, page_size, 0x55));
}

/* A page that went back to the system and came again is not seen. */
TEST_F(vfio, page_reused)
{
	for (int round = 0; round < 16; round++) {
		uint8_t *memory = memory_new(16 * page_size, 0x55);

		ASSERT_EQ(0, space_map(&self->space, IOVA, memory, 16 * page_size, READ | WRITE));
		EXPECT_ARRIVES(&self->device, IOVA + 3 * page_size, memory + 3 * page_size);
		ASSERT_EQ(0, space_unmap(&self->space, IOVA, 16 * page_size));
		ASSERT_EQ(0, munmap(memory, 16 * page_size));
		memory = memory_new(16 * page_size, 0x66);
		EXPECT_ALL_REFUSED(&self->device, IOVA, 16 * page_size);
		EXPECT_TRUE(is_filled(memory, 16 * page_size, 0x66));
		ASSERT_EQ(0, munmap(memory, 16 * page_size));
	}
}

static uint64_t memory_available(void)
{
	unsigned long long kib = 0;
	char line[128];
	FILE *file = fopen("/proc/meminfo", "r");

	while (file && fgets(line, sizeof(line), file))
		if (sscanf(line, "MemAvailable: %llu", &kib) == 1)
			break;
	if (file)
		fclose(file);
	return kib << 10;
}

static void check_big(struct __test_metadata *_metadata, struct space *space, struct device *device,
		      uint64_t iova, uint64_t size)
{
	uint8_t *memory;

	if (memory_available() < size + size / 4)
		SKIP(return, "not enough memory");
	memory = memory_new(size, 0);
	ASSERT_EQ(0, space_map(space, iova, memory, size, READ | WRITE));
	EXPECT_ARRIVES(device, iova, memory);
	EXPECT_ARRIVES(device, iova + size - 16, memory + size - 16);
	for (int i = 0; i < 256; i++) {
		uint64_t offset = ((uint64_t)random_below(size >> 4) << 4) & (size - 16);

		EXPECT_ARRIVES(device, iova + offset, memory + offset);
	}
	EXPECT_REFUSED(device, iova + size);
	ASSERT_EQ(0, space_unmap(space, iova, size));
	for (int i = 0; i < 256; i++)
		EXPECT_REFUSED(device, iova + ((uint64_t)random_below(size >> 4) << 4));
	EXPECT_TRUE(is_filled(memory, size, 0));
	ASSERT_EQ(0, munmap(memory, size));
}

TEST_F(vfio, map_64_mib)
{
	check_big(_metadata, &self->space, &self->device, IOVA, 64 * MIB);
}

TEST_F_TIMEOUT(vfio, map_1_gib, 120)
{
	struct range ranges[MAX_RANGES];
	int count = space_ranges(&self->space, ranges);

	for (int i = count - 1; i >= 0; i--) {
		if (ranges[i].last - ranges[i].first < GIB + page_size)
			continue;
		check_big(_metadata, &self->space, &self->device, ranges[i].first + page_size, GIB);
		return;
	}
	SKIP(return, "no window is large enough");
}

/* Random mappings, and a model of them: one byte for each page of the address space. */
#define SLOTS	512
#define PAGES	64

TEST_F_TIMEOUT(vfio, random, 300)
{
	uint8_t *memory = memory_new(PAGES * page_size, 0);
	struct { int pages, from; bool writable; } areas[SLOTS] = { 0 };
	int owner[SLOTS];	/* the first slot of the area here, or -1 */
	int left = rounds(10000), mapped = 0, refused = 0;

	memset(owner, -1, sizeof(owner));
	while (left--) {
		int slot = random_below(SLOTS), area = owner[slot];
		uint64_t iova = IOVA + slot * page_size, offset;

		switch (random_below(4)) {
		case 0: {	/* map, which fails where something is */
			int pages = 1 + random_below(24), from = random_below(PAGES - 24);
			bool writable = random_below(4), clear = slot + pages <= SLOTS;

			if (!clear)
				break;
			for (int i = slot; i < slot + pages; i++)
				clear &= owner[i] < 0;
			ASSERT_EQ(clear ? 0 : -EEXIST,
				  space_map(&self->space, iova, memory + from * page_size,
					    pages * page_size, writable ? READ | WRITE : READ));
			if (!clear)
				break;
			for (int i = slot; i < slot + pages; i++)
				owner[i] = slot;
			areas[slot].pages = pages;
			areas[slot].from = from;
			areas[slot].writable = writable;
			break;
		}
		case 1:
			if (area < 0)
				break;
			ASSERT_EQ(0, space_unmap(&self->space, IOVA + area * page_size,
						 areas[area].pages * page_size));
			for (int i = area; i < area + areas[area].pages; i++)
				owner[i] = -1;
			break;
		default:
			offset = random_below(page_size / 16) * 16;
			if (area >= 0 && areas[area].writable) {
				uint64_t at = areas[area].from + slot - area;
				uint8_t *to = memory + at * page_size + offset;

				ASSERT_TRUE(testdev_write(&self->device, iova + offset, 16));
				ASSERT_TRUE(is_pattern(to, 16));
				memset(to, 0, 16);
				mapped++;
			} else {
				ASSERT_FALSE(testdev_write(&self->device, iova + offset, 16));
				refused++;
			}
		}
	}
	EXPECT_TRUE(is_filled(memory, PAGES * page_size, 0));
	TH_LOG("%d writes went through, %d were refused", mapped, refused);
}

TEST_F(vfio, closed_is_blocked)
{
	uint8_t *memory = memory_new(page_size, 0x55);

	ASSERT_EQ(0, space_map(&self->space, IOVA, memory, page_size, READ | WRITE));
	EXPECT_TRUE(testdev_write(&self->device, IOVA, 16));
	memset(memory, 0x55, 16);
	/* Closed with the mapping in place; then by the other interface. */
	device_close(&self->device);
	space_close(&self->space);
	ASSERT_EQ(0, space_open(&self->space, !variant->api));
	ASSERT_EQ(0, device_open(&self->device, &self->space, self->bdf));
	EXPECT_REFUSED(&self->device, IOVA);
	EXPECT_TRUE(is_filled(memory, page_size, 0x55));
	ASSERT_EQ(0, space_map(&self->space, IOVA, memory, page_size, READ | WRITE));
	EXPECT_ARRIVES(&self->device, IOVA, memory);
}

/* A function reset stops the device; what is mapped for it stays, and nothing else appears. */
TEST_F(vfio, reset_keeps_mappings)
{
	uint64_t queues = page_size < NVME_QUEUES ? NVME_QUEUES : page_size, to_data = IOVA + MIB;
	uint8_t *memory = memory_new(queues, 0), *data = memory_new(2 * page_size, 0x55);
	struct device device;
	struct nvme nvme;
	char bdf[16];

	if (find_device(ID_NVME, 0, ANY_GROUP, bdf) < 0)
		SKIP(return, "no nvme at vfio-pci");
	ASSERT_EQ(0, device_open(&device, &self->space, bdf));
	ASSERT_EQ(0, space_map(&self->space, IOVA, memory, queues, READ | WRITE));
	for (int round = 0; round < 3; round++) {
		ASSERT_EQ(0, space_map(&self->space, to_data, data, page_size, READ | WRITE));
		nvme_start(&nvme, &device, memory, IOVA);
		nvme_identify(&nvme, to_data);
		EXPECT_FALSE(is_filled(data, NVME_DATA, 0x55));
		memset(data, 0x55, page_size);
		nvme_identify(&nvme, to_data + page_size);
		ASSERT_EQ(0, device_reset(&device));
		nvme_start(&nvme, &device, memory, IOVA);
		nvme_identify(&nvme, to_data);
		EXPECT_FALSE(is_filled(data, NVME_DATA, 0x55));
		memset(data, 0x55, page_size);
		ASSERT_EQ(0, space_unmap(&self->space, to_data, page_size));
		nvme_identify(&nvme, to_data);
		ASSERT_EQ(0, device_reset(&device));
		nvme_start(&nvme, &device, memory, IOVA);
		nvme_identify(&nvme, to_data);
		EXPECT_TRUE(is_filled(data, 2 * page_size, 0x55));
		ASSERT_EQ(0, device_reset(&device));
	}
	device_close(&device);
}

/* Two processes, each with a device and the same IOVA for its own memory. */
TEST_F(vfio, two_processes)
{
	uint8_t *mine = memory_new(page_size, 0x55), *theirs = memory_new(page_size, 0x66);
	int to_child[2], to_parent[2], status;
	struct space space;
	struct device device;
	char bdf[16], byte;
	pid_t child;

	if (find_device(ID_TESTDEV, 0, ~self->group, bdf) < 0)
		SKIP(return, "no second iommu-testdev in another group");
	ASSERT_EQ(0, pipe(to_child) | pipe(to_parent));
	ASSERT_EQ(0, space_map(&self->space, IOVA, mine, page_size, READ | WRITE));
	child = fork();
	if (!child) {
		if (space_open(&space, variant->api) || device_open(&device, &space, bdf) ||
		    testdev_write(&device, IOVA, 16) ||
		    space_map(&space, IOVA, theirs, page_size, READ | WRITE) ||
		    !testdev_write(&device, IOVA, 16) || !is_pattern(theirs, 16) ||
		    write(to_parent[1], "", 1) != 1 || read(to_child[0], &byte, 1) != 1)
			_exit(1);
		/* The parent has unmapped; this one still goes on. */
		memset(theirs, 0, 16);
		_exit(!testdev_write(&device, IOVA + 32, 16) || !is_pattern(theirs + 32, 16));
	}
	close(to_parent[1]);
	ASSERT_EQ(1, read(to_parent[0], &byte, 1));
	EXPECT_TRUE(is_filled(mine, page_size, 0x55));
	EXPECT_TRUE(is_filled(theirs + 16, page_size - 16, 0x66));
	EXPECT_ARRIVES(&self->device, IOVA + 64, mine + 64);
	EXPECT_TRUE(is_filled(theirs + 16, page_size - 16, 0x66));
	ASSERT_EQ(0, space_unmap(&self->space, IOVA, page_size));
	EXPECT_REFUSED(&self->device, IOVA);
	ASSERT_EQ(1, write(to_child[1], "", 1));
	ASSERT_EQ(child, waitpid(child, &status, 0));
	EXPECT_EQ(0, status);
	EXPECT_REFUSED(&self->device, IOVA);
}

/* Devices of two groups in one address space, one of which comes late and leaves early. */
TEST_F(vfio, two_groups)
{
	uint8_t *memory = memory_new(4 * page_size, 0);
	struct device other;
	char bdf[16];

	if (find_device(ID_TESTDEV, 0, ~self->group, bdf) < 0)
		SKIP(return, "no second iommu-testdev in another group");
	ASSERT_EQ(0, space_map(&self->space, IOVA, memory, 2 * page_size, READ | WRITE));
	ASSERT_EQ(0, device_open(&other, &self->space, bdf));
	EXPECT_ARRIVES(&other, IOVA + page_size, memory + page_size);
	EXPECT_ARRIVES(&self->device, IOVA + page_size, memory + page_size);
	ASSERT_EQ(0, space_map(&self->space, IOVA + 2 * page_size, memory + 2 * page_size,
			       2 * page_size, READ | WRITE));
	EXPECT_ARRIVES(&other, IOVA + 3 * page_size, memory + 3 * page_size);
	ASSERT_EQ(0, space_unmap(&self->space, IOVA, 2 * page_size));
	EXPECT_ALL_REFUSED(&other, IOVA, page_size);
	EXPECT_ALL_REFUSED(&self->device, IOVA, page_size);
	device_close(&other);
	EXPECT_ARRIVES(&self->device, IOVA + 3 * page_size, memory + 3 * page_size);
	EXPECT_TRUE(is_filled(memory, 4 * page_size, 0));
}

/* Two devices of one PE: what one reaches the other does, and no more. */
TEST_F(vfio, two_in_one_group)
{
	uint8_t *memory = memory_new(2 * page_size, 0);
	struct device other;
	char bdf[16];

	if (find_device(ID_TESTDEV, 1, self->group, bdf) < 0)
		SKIP(return, "no second iommu-testdev in this group");
	ASSERT_EQ(0, device_open(&other, &self->space, bdf));
	ASSERT_EQ(0, space_map(&self->space, IOVA, memory, page_size, READ | WRITE));
	EXPECT_ARRIVES(&other, IOVA, memory);
	EXPECT_ARRIVES(&self->device, IOVA, memory);
	device_close(&other);
	EXPECT_ARRIVES(&self->device, IOVA, memory);
	ASSERT_EQ(0, device_open(&other, &self->space, bdf));
	EXPECT_ARRIVES(&other, IOVA, memory);
	ASSERT_EQ(0, space_unmap(&self->space, IOVA, page_size));
	EXPECT_ALL_REFUSED(&other, IOVA, page_size);
	EXPECT_ALL_REFUSED(&self->device, IOVA, page_size);
	EXPECT_TRUE(is_filled(memory, 2 * page_size, 0));
	device_close(&other);
}

/* The user of a device is killed in the middle of DMA. */
TEST_F(vfio, killed)
{
	uint8_t *memory = memory_new(2 * page_size, 0);
	char edu_bdf[16], bdf[16];
	struct space space;
	struct device device, edu;
	int have_edu = find_device(ID_EDU, 0, ANY_GROUP, edu_bdf) >= 0;
	int status;
	pid_t child;

	strcpy(bdf, self->bdf);
	device_close(&self->device);
	space_close(&self->space);
	for (int round = 0; round < 4; round++) {
		child = fork();
		if (!child) {
			if (space_open(&space, variant->api) || device_open(&device, &space, bdf) ||
			    space_map(&space, IOVA, memory, 2 * page_size, READ | WRITE))
				_exit(1);
			if (have_edu && device_open(&edu, &space, edu_bdf))
				_exit(1);
			if (have_edu)
				edu_start(&edu, IOVA + page_size, 4096, true);
			for (;;)
				if (!testdev_write(&device, IOVA, 16))
					_exit(1);
		}
		while (!is_pattern(memory, 16) && !waitpid(child, &status, WNOHANG))
			usleep(1000);
		ASSERT_EQ(0, kill(child, SIGKILL));
		ASSERT_EQ(child, waitpid(child, &status, 0));
		ASSERT_TRUE(WIFSIGNALED(status));
		memset(memory, 0x55, 2 * page_size);
		usleep(200000);		/* longer than edu takes */
		EXPECT_TRUE(is_filled(memory, 2 * page_size, 0x55));
		memset(memory, 0, 2 * page_size);
	}
	ASSERT_EQ(0, space_open(&self->space, variant->api));
	ASSERT_EQ(0, device_open(&self->device, &self->space, self->bdf));
	EXPECT_REFUSED(&self->device, IOVA);
	ASSERT_EQ(0, space_map(&self->space, IOVA, memory, page_size, READ | WRITE));
	EXPECT_ARRIVES(&self->device, IOVA, memory);
}

/* -- type1 alone ---------------------------------------------------------- */

/* A page that stops who touches it until somebody fills it; -1 without userfaultfd. */
static int stopping_page(void **page)
{
	struct uffdio_api api = { .api = UFFD_API };
	struct uffdio_register range = { .mode = UFFDIO_REGISTER_MODE_MISSING };
	/* Otherwise poll() says POLLERR at once */
	int fd = syscall(__NR_userfaultfd, O_CLOEXEC | O_NONBLOCK);

	if (fd < 0)
		return -1;
	*page = mmap(NULL, page_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	range.range.start = (uintptr_t)*page;
	range.range.len = page_size;
	if (*page == MAP_FAILED || ioctl(fd, UFFDIO_API, &api) ||
	    ioctl(fd, UFFDIO_REGISTER, &range))
		ksft_exit_fail_perror("userfaultfd");
	return fd;
}

static int module_users(const char *name)
{
	char path[64];
	int users = -1;
	FILE *file;

	snprintf(path, sizeof(path), "/sys/module/%s/refcnt", name);
	file = fopen(path, "r");
	if (file) {
		if (fscanf(file, "%d", &users) != 1)
			users = -1;
		fclose(file);
	}
	return users;
}

/*
 * The last group leaves a container while an ioctl of it is on its way to the
 * IOMMU driver: the group does not wait, and the driver stays for the ioctl.
 */
TEST(lost_group)
{
	int before = module_users("vfio_iommu_type1"), status;
	struct uffdio_zeropage zero = {};
	struct pollfd fault = {};
	struct device device;
	struct space space;
	void *argument;
	char bdf[16];
	pid_t child;

	page_size = getpagesize();
	if (before < 0 || find_device(ID_TESTDEV, 0, ANY_GROUP, bdf) < 0)
		SKIP(return, "no iommu-testdev at vfio-pci, or no module vfio_iommu_type1");
	fault.fd = stopping_page(&argument);
	fault.events = POLLIN;
	if (fault.fd < 0)
		SKIP(return, "the kernel has no USERFAULTFD");
	ASSERT_EQ(0, space_open(&space, TYPE1));
	ASSERT_EQ(0, device_open(&device, &space, bdf));
	device_close(&device);
	child = fork();
	if (!child) {
		int users = -1;

		if (poll(&fault, 1, 60000) == 1 && fault.revents == POLLIN &&
		    !ioctl(space.groups[0].fd, VFIO_GROUP_UNSET_CONTAINER))
			users = module_users("vfio_iommu_type1");
		/* An argsz of 0: the ioctl fails before it looks at what may be gone. */
		zero.range.start = (uintptr_t)argument;
		zero.range.len = page_size;
		_exit(ioctl(fault.fd, UFFDIO_ZEROPAGE, &zero) ? 255 : users & 127);
	}
	EXPECT_EQ(-1, ioctl(space.fd, VFIO_IOMMU_MAP_DMA, argument));
	EXPECT_EQ(EINVAL, errno);
	ASSERT_EQ(child, waitpid(child, &status, 0));
	EXPECT_TRUE(WIFEXITED(status));
	EXPECT_EQ(before + 1, WEXITSTATUS(status));
	EXPECT_EQ(before, module_users("vfio_iommu_type1"));
	space_close(&space);
	close(fault.fd);
}

/* -- iommufd alone -------------------------------------------------------- */

FIXTURE(iommufd) {
	struct space space;
	struct device device;
	uint8_t *memory, *second;
	int group;
	char bdf[16];
};

FIXTURE_SETUP(iommufd)
{
	page_size = getpagesize();
	self->group = find_device(ID_TESTDEV, 0, ANY_GROUP, self->bdf);
	if (self->group < 0)
		SKIP(return, "no iommu-testdev at vfio-pci");
	self->memory = memory_new(2 * page_size, 0);
	self->second = memory_new(2 * page_size, 0);
	ASSERT_EQ(0, space_open(&self->space, IOMMUFD));
	ASSERT_EQ(0, device_bind(&self->device, &self->space, self->bdf));
}

FIXTURE_TEARDOWN(iommufd)
{
	if (self->group < 0)
		return;
	device_close(&self->device);
	space_close(&self->space);
	/* What arrived was taken away again: nothing else did. */
	EXPECT_TRUE(is_filled(self->memory, 2 * page_size, 0));
	EXPECT_TRUE(is_filled(self->second, 2 * page_size, 0));
}

/* An IOAS of its own with @memory at IOVA. */
static int filled_ioas(struct space *space, void *memory, uint32_t *ioas)
{
	struct space other = *space;
	int ret = ioas_alloc(space, ioas);

	other.ioas = *ioas;
	return ret ? ret : space_map(&other, IOVA, memory, 2 * page_size, READ | WRITE);
}

TEST_F(iommufd, bound_is_blocked)
{
	EXPECT_REFUSED(&self->device, IOVA);
	EXPECT_REFUSED(&self->device, 0);
	EXPECT_REFUSED(&self->device, 1ull << 59);
}

TEST_F(iommufd, filled_before_attach)
{
	uint32_t hwpt;

	ASSERT_EQ(0, space_map(&self->space, IOVA, self->memory, page_size, READ | WRITE));
	ASSERT_EQ(0, hwpt_alloc(&self->device, self->space.ioas, &hwpt));
	ASSERT_EQ(0, space_map(&self->space, IOVA + page_size, self->memory + page_size, page_size,
			       READ | WRITE));
	EXPECT_REFUSED(&self->device, IOVA);
	ASSERT_EQ(0, device_attach(&self->device, hwpt));
	EXPECT_ARRIVES(&self->device, IOVA, self->memory);
	EXPECT_ARRIVES(&self->device, IOVA + page_size, self->memory + page_size);
	/* Unmapped while detached: not there when it comes back. */
	ASSERT_EQ(0, device_detach(&self->device));
	EXPECT_REFUSED(&self->device, IOVA);
	EXPECT_REFUSED(&self->device, IOVA + page_size);
	ASSERT_EQ(0, space_unmap(&self->space, IOVA, page_size));
	ASSERT_EQ(0, device_attach(&self->device, hwpt));
	EXPECT_ALL_REFUSED(&self->device, IOVA, page_size);
	EXPECT_ARRIVES(&self->device, IOVA + page_size, self->memory + page_size);
	ASSERT_EQ(0, device_detach(&self->device));
	EXPECT_EQ(0, object_destroy(&self->space, hwpt));
}

TEST_F(iommufd, replace)
{
	uint32_t ioas, hwpt;

	ASSERT_EQ(0, space_map(&self->space, IOVA, self->memory, page_size, READ | WRITE));
	ASSERT_EQ(0, device_attach(&self->device, self->space.ioas));
	ASSERT_EQ(0, filled_ioas(&self->space, self->second, &ioas));
	ASSERT_EQ(0, hwpt_alloc(&self->device, ioas, &hwpt));
	for (int round = 0; round < 32; round++) {
		EXPECT_ARRIVES(&self->device, IOVA, self->memory);
		EXPECT_REFUSED(&self->device, IOVA + page_size);
		ASSERT_EQ(0, device_attach(&self->device, hwpt));
		EXPECT_ARRIVES(&self->device, IOVA, self->second);
		EXPECT_ARRIVES(&self->device, IOVA + page_size, self->second + page_size);
		ASSERT_EQ(0, device_attach(&self->device, self->space.ioas));
	}
}

/* One domain for two PEs. */
TEST_F(iommufd, shared_hwpt)
{
	struct device other;
	uint32_t hwpt;
	char bdf[16];

	if (find_device(ID_TESTDEV, 0, ~self->group, bdf) < 0)
		SKIP(return, "no second iommu-testdev in another group");
	ASSERT_EQ(0, device_bind(&other, &self->space, bdf));
	ASSERT_EQ(0, hwpt_alloc(&self->device, self->space.ioas, &hwpt));
	ASSERT_EQ(0, space_map(&self->space, IOVA, self->memory, page_size, READ | WRITE));
	ASSERT_EQ(0, device_attach(&self->device, hwpt));
	EXPECT_REFUSED(&other, IOVA);
	ASSERT_EQ(0, device_attach(&other, hwpt));
	EXPECT_ARRIVES(&self->device, IOVA, self->memory);
	EXPECT_ARRIVES(&other, IOVA, self->memory);
	ASSERT_EQ(0, space_map(&self->space, IOVA + page_size, self->memory + page_size, page_size,
			       READ | WRITE));
	EXPECT_ARRIVES(&other, IOVA + page_size, self->memory + page_size);
	ASSERT_EQ(0, device_detach(&self->device));
	EXPECT_REFUSED(&self->device, IOVA);
	EXPECT_ARRIVES(&other, IOVA, self->memory);
	ASSERT_EQ(0, space_unmap(&self->space, IOVA, page_size));
	EXPECT_ALL_REFUSED(&other, IOVA, page_size);
	ASSERT_EQ(0, device_attach(&self->device, hwpt));
	EXPECT_ALL_REFUSED(&self->device, IOVA, page_size);
	EXPECT_ARRIVES(&self->device, IOVA + page_size, self->memory + page_size);
	device_close(&other);
}

/* A PE comes and goes while the domain changes below it. */
TEST_F_TIMEOUT(iommufd, attach_while_mapping, 120)
{
	int left = rounds(10000) / 10, status;
	struct device other;
	uint32_t hwpt;
	char bdf[16];
	pid_t child;

	if (find_device(ID_TESTDEV, 0, ~self->group, bdf) < 0)
		SKIP(return, "no second iommu-testdev in another group");
	ASSERT_EQ(0, device_bind(&other, &self->space, bdf));
	ASSERT_EQ(0, hwpt_alloc(&self->device, self->space.ioas, &hwpt));
	ASSERT_EQ(0, device_attach(&self->device, hwpt));
	for (int i = 2; i < 66; i++)	/* something to replay */
		ASSERT_EQ(0, space_map(&self->space, IOVA + i * page_size, self->memory, page_size,
				       READ | WRITE));
	child = fork();
	if (!child) {
		for (;;)
			if (device_attach(&other, hwpt) || device_detach(&other))
				_exit(1);
	}
	while (left--) {
		ASSERT_EQ(0, space_map(&self->space, IOVA, self->memory, 2 * page_size,
				       READ | WRITE));
		EXPECT_ARRIVES(&self->device, IOVA + page_size, self->memory + page_size);
		ASSERT_EQ(0, space_unmap(&self->space, IOVA, 2 * page_size));
		EXPECT_REFUSED(&self->device, IOVA);
		/* A replay must not bring back what was unmapped. */
		EXPECT_REFUSED(&other, IOVA);
		EXPECT_REFUSED(&other, IOVA + page_size);
		if (_metadata->exit_code)
			break;
	}
	kill(child, SIGKILL);
	ASSERT_EQ(child, waitpid(child, &status, 0));
	ASSERT_TRUE(WIFSIGNALED(status));
	device_detach(&other);
	ASSERT_EQ(0, space_map(&self->space, IOVA, self->memory, 2 * page_size, READ | WRITE));
	ASSERT_EQ(0, device_attach(&other, hwpt));
	EXPECT_ARRIVES(&other, IOVA + page_size, self->memory + page_size);
	device_close(&other);
}

/* An IOAS with a mapping where the device has a hole cannot be attached. */
TEST_F(iommufd, refused_attach)
{
	struct space other = self->space;
	struct range ranges[MAX_RANGES];
	uint64_t hole;

	ASSERT_EQ(0, space_map(&self->space, IOVA, self->memory, page_size, READ | WRITE));
	ASSERT_EQ(0, device_attach(&self->device, self->space.ioas));
	hole = ranges[space_ranges(&self->space, ranges) - 1].last + 1;
	ASSERT_EQ(0, ioas_alloc(&self->space, &other.ioas));
	ASSERT_EQ(0, space_map(&other, hole, self->second, page_size, READ | WRITE));
	ASSERT_EQ(0, space_map(&other, IOVA, self->second, page_size, READ | WRITE));
	EXPECT_GT(0, device_attach(&self->device, other.ioas));
	EXPECT_GT(0, device_attach(&self->device, 12345));
	EXPECT_ARRIVES(&self->device, IOVA, self->memory);
	ASSERT_EQ(0, space_unmap(&self->space, IOVA, page_size));
	EXPECT_REFUSED(&self->device, IOVA);
}

/* What lies below and above bit 59; each host bridge has its 64-bit MMIO elsewhere in it. */
static void space_windows(struct space *space, struct range windows[2])
{
	struct range ranges[MAX_RANGES];
	int i, n = space_ranges(space, ranges);

	windows[0] = (struct range){ UINT64_MAX, 0 };
	windows[1] = windows[0];
	for (i = 0; i < n; i++) {
		struct range *window = &windows[ranges[i].first >> 59 & 1];

		if (ranges[i].first < window->first)
			window->first = ranges[i].first;
		if (ranges[i].last > window->last)
			window->last = ranges[i].last;
	}
}

/* A domain for other windows cannot be attached, the old one stays; one for the same can. */
TEST_F(iommufd, other_windows)
{
	struct range mine[2], theirs[2];
	struct space other_space = self->space;
	struct device other;
	uint32_t hwpt;
	char bdf[16];

	if (find_device(ID_EDU, 0, ~self->group, bdf) < 0)
		SKIP(return, "no edu in another group");
	ASSERT_EQ(0, ioas_alloc(&self->space, &other_space.ioas));
	ASSERT_EQ(0, device_bind(&other, &self->space, bdf));
	ASSERT_EQ(0, device_attach(&other, other_space.ioas));
	ASSERT_EQ(0, space_map(&self->space, IOVA, self->memory, page_size, READ | WRITE));
	ASSERT_EQ(0, space_map(&other_space, IOVA, self->second, page_size, READ | WRITE));
	ASSERT_EQ(0, device_attach(&self->device, self->space.ioas));
	space_windows(&self->space, mine);
	space_windows(&other_space, theirs);
	ASSERT_EQ(0, hwpt_alloc(&other, other_space.ioas, &hwpt));
	if (memcmp(mine, theirs, sizeof(mine))) {
		EXPECT_EQ(-EINVAL, device_attach(&self->device, hwpt));
		EXPECT_ARRIVES(&self->device, IOVA, self->memory);
	} else {
		ASSERT_EQ(0, device_attach(&self->device, hwpt));
		EXPECT_ARRIVES(&self->device, IOVA, self->second);
	}
	EXPECT_REFUSED(&self->device, IOVA + page_size);
	device_close(&other);
}

/* Lets the n-th allocation from now on fail. One file for all, as opening allocates too. */
static int fail_nth_file = -1;

static bool fail_nth(int n)
{
	char text[16];

	if (fail_nth_file < 0)
		fail_nth_file = open("/proc/self/fail-nth", O_RDWR);
	snprintf(text, sizeof(text), "%d", n);
	return fail_nth_file >= 0 && pwrite(fail_nth_file, text, strlen(text), 0) > 0;
}

/* Nothing fails any more. Returns whether there was such an allocation. */
static bool has_failed(void)
{
	char text[16] = "";
	bool reached = pread(fail_nth_file, text, sizeof(text) - 1, 0) > 0 && !atoi(text);

	fail_nth(0);
	return reached;
}

static void set_failslab(const char *name, const char *value)
{
	char path[64];
	int fd;

	snprintf(path, sizeof(path), "/sys/kernel/debug/failslab/%s", name);
	fd = open(path, O_WRONLY);
	if (fd >= 0 && write(fd, value, strlen(value)) < 0)
		perror(path);
	if (fd >= 0)
		close(fd);
}

/* Whether fail_nth() works, also for allocations that may sleep. */
static bool can_fail(void)
{
	if (access("/sys/kernel/debug/failslab", F_OK) || !fail_nth(0))
		return false;
	set_failslab("ignore-gfp-wait", "N");
	set_failslab("task-filter", "N");
	set_failslab("interval", "1");
	set_failslab("times", "-1");
	set_failslab("verbose", "0");
	return true;
}

/* Memory runs out at every point of an attach; the old domain must survive. */
TEST_F_TIMEOUT(iommufd, failed_attach, 120)
{
	uint32_t ioas, hwpt = 0;
	int n, ret, failures = 0;

	if (!can_fail())
		SKIP(return, "the kernel has no FAILSLAB");
	ASSERT_EQ(0, space_map(&self->space, IOVA, self->memory, page_size, READ | WRITE));
	ASSERT_EQ(0, device_attach(&self->device, self->space.ioas));
	ASSERT_EQ(0, filled_ioas(&self->space, self->second, &ioas));
	for (n = 1; n < 1000; n++) {
		fail_nth(n);
		ret = hwpt_alloc(&self->device, ioas, &hwpt);
		if (!has_failed())
			break;
		EXPECT_ARRIVES(&self->device, IOVA, self->memory);
		if (!ret) {	/* there are allocations that may fail */
			ASSERT_EQ(0, object_destroy(&self->space, hwpt));
		}
		failures += !!ret;
	}
	TH_LOG("hwpt alloc: %d of %d failures were fatal", failures, n - 1);
	ASSERT_EQ(0, ret);
	EXPECT_LT(0, failures);
	failures = 0;
	for (n = 1; n < 1000; n++) {
		fail_nth(n);
		ret = device_attach(&self->device, hwpt);
		if (!has_failed())
			break;
		if (!ret) {
			EXPECT_ARRIVES(&self->device, IOVA, self->second);
			ASSERT_EQ(0, device_attach(&self->device, self->space.ioas));
		}
		EXPECT_ARRIVES(&self->device, IOVA, self->memory);
		EXPECT_REFUSED(&self->device, IOVA + page_size);
		failures += !!ret;
	}
	TH_LOG("attach: %d of %d failures were fatal", failures, n - 1);
	ASSERT_EQ(0, ret);
	EXPECT_LT(0, failures);
	EXPECT_ARRIVES(&self->device, IOVA, self->second);
}

/* Memory runs out while a device is let go; the kernel's domain must come back without any. */
TEST_F_TIMEOUT(iommufd, failed_release, 120)
{
	uint32_t hwpt;
	int n;

	if (!can_fail())
		SKIP(return, "the kernel has no FAILSLAB");
	/* Letting go may need no memory at all, so see that this one does. */
	fail_nth(1);
	EXPECT_NE(0, hwpt_alloc(&self->device, self->space.ioas, &hwpt));
	EXPECT_TRUE(has_failed());
	for (n = 1; n < 1000; n++) {
		ASSERT_EQ(0, device_attach(&self->device, self->space.ioas));
		fail_nth(n);
		device_close(&self->device);
		if (!has_failed())
			break;
		ASSERT_EQ(0, device_bind(&self->device, &self->space, self->bdf));
	}
	TH_LOG("%d failures", n - 1);
	ASSERT_EQ(0, device_bind(&self->device, &self->space, self->bdf));
}

/* The devices hold the driver's module, and a domain may be there when they have gone. */
TEST_F(iommufd, domain_keeps_driver)
{
	int before = module_users("tce_iommu");
	uint32_t hwpt;

	if (before < 0)
		SKIP(return, "no module tce_iommu");
	ASSERT_EQ(0, hwpt_alloc(&self->device, self->space.ioas, &hwpt));
	EXPECT_EQ(before + 1, module_users("tce_iommu"));
	ASSERT_EQ(0, object_destroy(&self->space, hwpt));
	EXPECT_EQ(before, module_users("tce_iommu"));
}

static void say_refused(void)
{
	ksft_print_msg("%lu writes of iommu-testdev were refused\n", testdev_refused());
}

int main(int argc, char **argv)
{
	atexit(say_refused);	/* the harness does not come back */
	return test_harness_run(argc, argv);
}
