// SPDX-License-Identifier: GPL-2.0
/*
 * hostile SEED OPERATIONS: a user who may open a test device (iommu-testdev)
 * and asks anything of iommufd and VFIO, from several threads at once, with
 * allocations that fail where the kernel can have them fail. From time to time
 * all is closed, and the device must not reach anything any more.
 */
#define _GNU_SOURCE
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <glob.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>
#include <linux/iommufd.h>
#include <linux/vfio.h>

#include "../../selftests/iommu/tce/vfio.h"

#define THREADS	4
#define BATCH	4000		/* operations between two looks */
#define ARENA	(16ul << 20)
#define KEPT	64
#define MOST	4096		/* pages in a range, as a rule */

static const uint64_t starts[] = {
	0, 0x1000000, 0x3fff0000, 0x80000000, 0xffff0000, 1ull << 40, 0x800000000000000,
	0x800000001000000, 0x8003fffffff0000, 1ull << 63, -0x10000ull,
};

static char bdf[16], group[32], cdev[64];
static unsigned char *arena, *canary;
static unsigned long page;

/* Shared by the threads, without a lock: they race. */
static int fds[4] = { -1, -1, -1, -1 };
enum { IOMMU, CDEV, CONTAINER, GROUP };
static int device_fd = -1;	/* by way of the group */
static uint32_t ids[KEPT];
static uint64_t mapped[KEPT];
static unsigned long done, good;

struct thread {
	pthread_t id;
	uint64_t state;
	unsigned long operations;
	int fail_nth;
};

static uint64_t next(struct thread *t)
{
	t->state ^= t->state << 13;
	t->state ^= t->state >> 7;
	t->state ^= t->state << 17;
	return t->state * 0x2545f4914f6cdd1d;
}

static unsigned int below(struct thread *t, unsigned int n)
{
	return (next(t) >> 33) % n;
}

static bool once_in(struct thread *t, unsigned int n)
{
	return !below(t, n);
}

static uint32_t some_id(struct thread *t)
{
	return once_in(t, 8) ? next(t) : ids[below(t, KEPT)];
}

static void keep_id(struct thread *t, uint32_t id)
{
	ids[below(t, KEPT)] = id;
}

static uint64_t some_iova(struct thread *t)
{
	if (once_in(t, 3))
		return mapped[below(t, KEPT)];
	if (once_in(t, 32))
		return next(t);
	return starts[below(t, sizeof(starts) / sizeof(*starts))] + page * below(t, 64);
}

static uint64_t some_length(struct thread *t)
{
	if (once_in(t, 32))
		return next(t) >> below(t, 64);
	return page * (once_in(t, 16) ? below(t, MOST) : 1 + below(t, 32));
}

static uint64_t some_memory(struct thread *t)
{
	if (once_in(t, 32))
		return next(t);
	/* It may reach past the end */
	return (uintptr_t)arena + page * below(t, ARENA / page);
}

static uint32_t some_size(struct thread *t, uint32_t size)
{
	return once_in(t, 64) ? below(t, 256) : size;
}

/* The device whichever way it is open, or -1 */
static int some_device(void)
{
	return device_fd >= 0 ? device_fd : fds[CDEV];
}

static int ask_iommufd(struct thread *t)
{
	struct iommu_ioas_alloc ioas = { .size = some_size(t, sizeof(ioas)) };
	struct iommu_destroy destroy = { .size = sizeof(destroy), .id = some_id(t) };
	struct iommu_hwpt_alloc hwpt = {
		.size = some_size(t, sizeof(hwpt)), .dev_id = some_id(t), .pt_id = some_id(t),
		.flags = once_in(t, 4) ? below(t, 16) : 0,
	};
	struct iommu_ioas_map map = {
		.size = some_size(t, sizeof(map)), .flags = below(t, 8) | !once_in(t, 8),
		.ioas_id = some_id(t), .user_va = some_memory(t), .length = some_length(t),
		.iova = some_iova(t),
	};
	struct iommu_ioas_unmap unmap = {
		.size = sizeof(unmap), .ioas_id = some_id(t), .iova = some_iova(t),
		.length = some_length(t),
	};
	struct iommu_ioas_copy copy = {
		.size = sizeof(copy), .flags = below(t, 8), .dst_ioas_id = some_id(t),
		.src_ioas_id = some_id(t), .length = some_length(t), .dst_iova = some_iova(t),
		.src_iova = some_iova(t),
	};
	struct iommu_iova_range ranges[4] = {
		{ some_iova(t), some_iova(t) }, { some_iova(t), some_iova(t) },
		{ 0, -1 }, { 0, -1 },
	};
	struct iommu_ioas_iova_ranges query = {
		.size = sizeof(query), .ioas_id = some_id(t), .num_iovas = below(t, 5),
		.allowed_iovas = (uintptr_t)ranges,
	};
	struct iommu_ioas_allow_iovas allow = {
		.size = sizeof(allow), .ioas_id = some_id(t),
		.num_iovas = once_in(t, 2) ? 0 : below(t, 3), .allowed_iovas = (uintptr_t)ranges,
	};
	struct iommu_option option = {
		.size = sizeof(option), .option_id = below(t, 3), .op = below(t, 3),
		.object_id = some_id(t), .val64 = below(t, 3),
	};
	struct iommu_vfio_ioas compat = {
		.size = sizeof(compat), .ioas_id = some_id(t), .op = below(t, 4),
	};
	struct iommu_hw_info info = {
		.size = sizeof(info), .dev_id = some_id(t), .data_len = below(t, 64),
		.data_uptr = (uintptr_t)ranges,
	};
	struct iommu_hwpt_set_dirty_tracking dirty = {
		.size = sizeof(dirty), .flags = below(t, 2), .hwpt_id = some_id(t),
	};
	uint32_t junk[32];
	int fd = fds[IOMMU], ret;

	switch (below(t, 23)) {
	case 0:
		ret = ioctl(fd, IOMMU_IOAS_ALLOC, &ioas);
		if (!ret)
			keep_id(t, ioas.out_ioas_id);
		return ret;
	case 1:
		ret = ioctl(fd, IOMMU_HWPT_ALLOC, &hwpt);
		if (!ret)
			keep_id(t, hwpt.out_hwpt_id);
		return ret;
	case 2:
		return ioctl(fd, IOMMU_DESTROY, &destroy);
	case 3 ... 9:
		ret = ioctl(fd, IOMMU_IOAS_MAP, &map);
		if (!ret)
			mapped[below(t, KEPT)] = map.iova;
		return ret;
	case 10 ... 13:
		return ioctl(fd, IOMMU_IOAS_UNMAP, &unmap);
	case 14:
		return ioctl(fd, IOMMU_IOAS_COPY, &copy);
	case 15:
		return ioctl(fd, IOMMU_IOAS_IOVA_RANGES, &query);
	case 16:
		return once_in(t, 4) ? ioctl(fd, IOMMU_IOAS_ALLOW_IOVAS, &allow) : 0;
	case 17:
		return ioctl(fd, IOMMU_OPTION, &option);
	case 18:
		return ioctl(fd, IOMMU_VFIO_IOAS, &compat);
	case 19:
		return ioctl(fd, IOMMU_GET_HW_INFO, &info);
	case 20:
		return ioctl(fd, IOMMU_HWPT_SET_DIRTY_TRACKING, &dirty);
	case 21:
		unmap.iova = 0;
		unmap.length = UINT64_MAX;
		return ioctl(fd, IOMMU_IOAS_UNMAP, &unmap);
	default:
		for (unsigned int i = 1; i < 32; i++)
			junk[i] = once_in(t, 2) ? below(t, 64) : next(t);
		junk[0] = below(t, sizeof(junk));
		return ioctl(fd, _IO(';', 0x80 + below(t, 32)), junk);
	}
}

static int ask_type1(struct thread *t)
{
	struct vfio_iommu_type1_dma_map map = {
		.argsz = some_size(t, sizeof(map)), .flags = below(t, 4), .vaddr = some_memory(t),
		.iova = some_iova(t), .size = some_length(t),
	};
	struct vfio_iommu_type1_dma_unmap unmap = {
		.argsz = sizeof(unmap), .iova = some_iova(t), .size = some_length(t),
	};
	struct vfio_iommu_type1_info info = { .argsz = some_size(t, sizeof(info)) };
	int fd = fds[CONTAINER], ret;

	switch (below(t, 8)) {
	case 0 ... 3:
		ret = ioctl(fd, VFIO_IOMMU_MAP_DMA, &map);
		if (!ret)
			mapped[below(t, KEPT)] = map.iova;
		return ret;
	case 4 ... 5:
		return ioctl(fd, VFIO_IOMMU_UNMAP_DMA, &unmap);
	case 6:
		unmap.iova = unmap.size = 0;
		unmap.flags = VFIO_DMA_UNMAP_FLAG_ALL;
		return ioctl(fd, VFIO_IOMMU_UNMAP_DMA, &unmap);
	default:
		return ioctl(fd, VFIO_IOMMU_GET_INFO, &info);
	}
}

static int ask_device(struct thread *t)
{
	struct vfio_device_bind_iommufd bind = {
		.argsz = some_size(t, sizeof(bind)), .iommufd = fds[IOMMU],
	};
	struct vfio_device_attach_iommufd_pt attach = {
		.argsz = sizeof(attach), .pt_id = some_id(t),
	};
	struct vfio_device_detach_iommufd_pt detach = { .argsz = sizeof(detach) };
	struct vfio_region_info bar = { .argsz = sizeof(bar), .index = VFIO_PCI_BAR0_REGION_INDEX };
	uint32_t registers[6] = { 0, some_iova(t), 0, 4 << below(t, 15), 0, 1 }, word;
	int fd = some_device(), ret;

	switch (below(t, 8)) {
	case 0:
		ret = ioctl(fd, VFIO_DEVICE_BIND_IOMMUFD, &bind);
		if (!ret)
			keep_id(t, bind.out_devid);
		return ret;
	case 1 ... 2:
		return ioctl(fd, VFIO_DEVICE_ATTACH_IOMMUFD_PT, &attach);
	case 3:
		return ioctl(fd, VFIO_DEVICE_DETACH_IOMMUFD_PT, &detach);
	case 4:
		return once_in(t, 16) ? ioctl(fd, VFIO_DEVICE_RESET) : 0;
	default:	/* It writes wherever it can */
		if (ioctl(fd, VFIO_DEVICE_GET_REGION_INFO, &bar))
			return -1;
		registers[2] = some_iova(t) >> 32;
		for (unsigned int i = 1; i < 6; i++)
			if (pwrite(fd, &registers[i], 4, bar.offset + 4 * i) != 4)
				return -1;
		return pread(fd, &word, 4, bar.offset) == 4 ? 0 : -1;
	}
}

static void swap_fd(int *slot, int fd)
{
	int old = __atomic_exchange_n(slot, fd, __ATOMIC_SEQ_CST);

	if (old >= 0)
		close(old);
}

/* Opens, closes, and changes the memory below mappings */
static int ask_files(struct thread *t)
{
	int type = VFIO_TYPE1v2_IOMMU;

	switch (below(t, 14)) {
	case 0:
		swap_fd(&fds[IOMMU], open("/dev/iommu", O_RDWR));
		return 0;
	case 1:
		swap_fd(&fds[CDEV], open(cdev, O_RDWR));
		return 0;
	case 2:
		swap_fd(&fds[CDEV], -1);
		return 0;
	case 3:
		swap_fd(&fds[CONTAINER], open("/dev/vfio/vfio", O_RDWR));
		return 0;
	case 4:
		swap_fd(&fds[GROUP], open(group, O_RDWR));
		return 0;
	case 5:
		swap_fd(&device_fd, -1);
		swap_fd(&fds[GROUP], -1);
		return 0;
	case 6:
		return ioctl(fds[GROUP], VFIO_GROUP_SET_CONTAINER,
			     &fds[once_in(t, 4) ? IOMMU : CONTAINER]);
	case 7:
		return ioctl(fds[GROUP], VFIO_GROUP_UNSET_CONTAINER);
	case 8 ... 9:
		return ioctl(fds[CONTAINER], VFIO_SET_IOMMU, type);
	case 10 ... 11:
		swap_fd(&device_fd, ioctl(fds[GROUP], VFIO_GROUP_GET_DEVICE_FD, bdf));
		return 0;
	case 12:
		return madvise((void *)(some_memory(t) & -page), page * below(t, 16),
			       MADV_DONTNEED);
	default:
		mmap(arena + page * below(t, ARENA / page), page, PROT_READ | PROT_WRITE,
		     MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
		return 0;
	}
}

static void *work(void *argument)
{
	struct thread *t = argument;
	char nth[8];
	int length, ret;

	t->fail_nth = open("/proc/thread-self/fail-nth", O_RDWR);
	for (unsigned long i = 0; i < t->operations; i++) {
		bool fails = t->fail_nth >= 0 && once_in(t, 4);

		length = snprintf(nth, sizeof(nth), "%u", 1 + below(t, 40));
		if (fails && pwrite(t->fail_nth, nth, length, 0) < 0)
			err(1, "fail-nth");
		switch (below(t, 16)) {
		case 0:
			ret = ask_files(t);
			break;
		case 1 ... 3:
			ret = ask_device(t);
			break;
		case 4 ... 6:
			ret = ask_type1(t);
			break;
		default:
			ret = ask_iommufd(t);
			break;
		}
		if (fails && pwrite(t->fail_nth, "0", 1, 0) < 0)
			err(1, "fail-nth");
		__atomic_fetch_add(&good, !ret, __ATOMIC_RELAXED);
	}
	if (t->fail_nth >= 0)
		close(t->fail_nth);
	return NULL;
}

/* What can be mapped for the device; the rest is MMIO and the doorbells of MSIs. */
static bool is_usable(const struct range *ranges, int count, uint64_t iova)
{
	for (int i = 0; i < count; i++)
		if (iova >= ranges[i].first && iova <= ranges[i].last)
			return true;
	return false;
}

/* With nothing mapped the device reaches nothing. */
static int look(void)
{
	struct range ranges[MAX_RANGES];
	struct device device;
	struct space space;
	int reached = 0, count, ret;

	for (unsigned int i = 0; i < 4; i++)
		swap_fd(&fds[i], -1);
	swap_fd(&device_fd, -1);
	ret = space_open(&space, IOMMUFD);
	if (!ret)
		ret = device_open(&device, &space, bdf);
	if (ret)
		errx(1, "the device does not open again: %s", strerror(-ret));
	count = space_ranges(&space, ranges);
	if (count < 1)
		errx(1, "nothing can be mapped for the device");
	for (unsigned int i = 0; i < KEPT; i++) {
		if (is_usable(ranges, count, mapped[i]) && testdev_write(&device, mapped[i], 4)) {
			printf("FAIL the device reaches %#llx\n", (unsigned long long)mapped[i]);
			reached++;
		}
	}
	device_close(&device);
	space_close(&space);
	for (unsigned long i = 0; i < page; i++)
		if (canary[i] != 0xa5) {
			printf("FAIL memory that was never mapped has %#x at %lu\n", canary[i], i);
			return 1;
		}
	return reached;
}

int main(int argc, char **argv)
{
	struct thread threads[THREADS] = {};
	unsigned long operations;
	glob_t found;
	int number;

	if (argc != 3)
		errx(2, "usage: hostile SEED OPERATIONS");
	operations = strtoul(argv[2], NULL, 0);
	for (int i = 0; i < THREADS; i++)
		threads[i].state = (strtoull(argv[1], NULL, 0) * THREADS + i + 1) *
				   0x9e3779b97f4a7c15;
	number = find_device(ID_TESTDEV, 0, ANY_GROUP, bdf);
	if (number < 0)
		errx(1, "vfio-pci has no test device");
	snprintf(group, sizeof(group), "/dev/vfio/%d", number);
	snprintf(cdev, sizeof(cdev), "/sys/bus/pci/devices/%s/vfio-dev/vfio*", bdf);
	if (glob(cdev, 0, NULL, &found))
		errx(1, "the device has no cdev");
	snprintf(cdev, sizeof(cdev), "/dev/vfio/devices/%s", strrchr(found.gl_pathv[0], '/') + 1);

	page = sysconf(_SC_PAGESIZE);
	/* What reaches past the end of the arena reaches nothing */
	canary = mmap(NULL, page + ARENA + page * MOST, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS,
		      -1, 0);
	if (canary == MAP_FAILED || mprotect(canary, page + ARENA, PROT_READ | PROT_WRITE))
		err(1, "mmap");
	arena = canary + page;
	memset(canary, 0xa5, page);
	while (done < operations) {
		for (int i = 0; i < THREADS; i++) {
			threads[i].operations = BATCH / THREADS;
			if (pthread_create(&threads[i].id, NULL, work, &threads[i]))
				errx(1, "pthread_create");
		}
		for (int i = 0; i < THREADS; i++)
			pthread_join(threads[i].id, NULL);
		done += BATCH;
		if (look())
			return 1;
	}
	printf("%lu operations, of which %lu succeeded\n", done, good);
	return 0;
}
