// SPDX-License-Identifier: GPL-2.0
/*
 * vfiocheck type1|iommufd|spapr BDF [dma]
 *
 * Opens a device through one of the three VFIO interfaces, maps memory, unmaps
 * it and closes. With "dma" the device must be QEMU's iommu-testdev: it is told
 * to write inside the mapping (must succeed), one granule behind it (must be
 * refused) and inside it after the unmap (must be refused). One line per check.
 */
#define _GNU_SOURCE
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <glob.h>
#include <libgen.h>
#include <limits.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>
#include <linux/iommufd.h>
#include <linux/vfio.h>

#define IOVA 0x1000000ull
#define LENGTH 0x20000ull	/* two pages of 64K */

/* Registers of iommu-testdev in BAR 0, 32 bits each, little-endian. */
enum {
	REG_TRIGGER = 0x00,
	REG_IOVA_LO = 0x04,
	REG_IOVA_HI = 0x08,
	REG_LENGTH = 0x0c,
	REG_RESULT = 0x10,
	REG_DOORBELL = 0x14,
	REG_CHECK_LO = 0x1c,
	REG_CHECK_HI = 0x20,
};

#define RESULT_OK 0u
#define RESULT_REFUSED 0xdead0002u
#define RESULT_DIFFERS 0xdead0004u	/* written, but not where CHECK points */

static int failures;

static void check(int good, const char *what)
{
	printf("%s %s\n", good ? "ok" : "FAIL", what);
	failures += !good;
}

struct bus {
	int device;
	int container;	/* or /dev/iommu */
	uint32_t ioas;
	int is_iommufd;
};

static char *link_name(const char *path)
{
	static char target[PATH_MAX];
	ssize_t length = readlink(path, target, sizeof(target) - 1);

	if (length < 0)
		err(1, "%s", path);
	target[length] = 0;
	return basename(target);
}

static int must_open(const char *path)
{
	int fd = open(path, O_RDWR);

	if (fd < 0)
		err(1, "%s", path);
	return fd;
}

static int group_fd;

static void open_container(struct bus *bus, const char *bdf, int type)
{
	struct vfio_group_status status = { .argsz = sizeof(status) };
	char path[PATH_MAX];

	bus->container = must_open("/dev/vfio/vfio");
	if (!ioctl(bus->container, VFIO_CHECK_EXTENSION, type))
		errx(1, "this kernel has no VFIO IOMMU type %d", type);
	snprintf(path, sizeof(path), "/sys/bus/pci/devices/%s/iommu_group", bdf);
	snprintf(path, sizeof(path), "/dev/vfio/%s", link_name(path));
	group_fd = must_open(path);
	if (ioctl(group_fd, VFIO_GROUP_GET_STATUS, &status) || !(status.flags & VFIO_GROUP_FLAGS_VIABLE))
		errx(1, "%s is not viable", path);
	if (ioctl(group_fd, VFIO_GROUP_SET_CONTAINER, &bus->container))
		err(1, "VFIO_GROUP_SET_CONTAINER");
	if (ioctl(bus->container, VFIO_SET_IOMMU, type))
		err(1, "VFIO_SET_IOMMU");
	bus->device = ioctl(group_fd, VFIO_GROUP_GET_DEVICE_FD, bdf);
	if (bus->device < 0)
		err(1, "VFIO_GROUP_GET_DEVICE_FD");
}

static void open_cdev(struct bus *bus, const char *bdf)
{
	struct vfio_device_bind_iommufd bind = { .argsz = sizeof(bind) };
	struct vfio_device_attach_iommufd_pt attach = { .argsz = sizeof(attach) };
	struct iommu_ioas_alloc alloc = { .size = sizeof(alloc) };
	char path[PATH_MAX];
	glob_t found;

	snprintf(path, sizeof(path), "/sys/bus/pci/devices/%s/vfio-dev/vfio*", bdf);
	if (glob(path, 0, NULL, &found))
		errx(1, "%s has no VFIO character device", bdf);
	snprintf(path, sizeof(path), "/dev/vfio/devices/%s", basename(found.gl_pathv[0]));
	bus->device = must_open(path);
	bus->container = must_open("/dev/iommu");
	bus->is_iommufd = 1;
	bind.iommufd = bus->container;
	if (ioctl(bus->device, VFIO_DEVICE_BIND_IOMMUFD, &bind))
		err(1, "VFIO_DEVICE_BIND_IOMMUFD");
	if (ioctl(bus->container, IOMMU_IOAS_ALLOC, &alloc))
		err(1, "IOMMU_IOAS_ALLOC");
	bus->ioas = alloc.out_ioas_id;
	attach.pt_id = bus->ioas;
	if (ioctl(bus->device, VFIO_DEVICE_ATTACH_IOMMUFD_PT, &attach))
		err(1, "VFIO_DEVICE_ATTACH_IOMMUFD_PT");
}

static int map(struct bus *bus, void *memory, uint64_t iova, uint64_t length)
{
	struct iommu_ioas_map request = {
		.size = sizeof(request),
		.flags = IOMMU_IOAS_MAP_FIXED_IOVA | IOMMU_IOAS_MAP_READABLE | IOMMU_IOAS_MAP_WRITEABLE,
		.ioas_id = bus->ioas,
		.user_va = (uintptr_t)memory,
		.length = length,
		.iova = iova,
	};
	struct vfio_iommu_type1_dma_map old = {
		.argsz = sizeof(old),
		.flags = VFIO_DMA_MAP_FLAG_READ | VFIO_DMA_MAP_FLAG_WRITE,
		.vaddr = (uintptr_t)memory,
		.iova = iova,
		.size = length,
	};

	return bus->is_iommufd ? ioctl(bus->container, IOMMU_IOAS_MAP, &request) :
				 ioctl(bus->container, VFIO_IOMMU_MAP_DMA, &old);
}

static int unmap(struct bus *bus, uint64_t iova, uint64_t length)
{
	struct iommu_ioas_unmap request = {
		.size = sizeof(request), .ioas_id = bus->ioas, .iova = iova, .length = length,
	};
	struct vfio_iommu_type1_dma_unmap old = { .argsz = sizeof(old), .iova = iova, .size = length };

	return bus->is_iommufd ? ioctl(bus->container, IOMMU_IOAS_UNMAP, &request) :
				 ioctl(bus->container, VFIO_IOMMU_UNMAP_DMA, &old);
}

/* What the interface of the legacy driver wants before a mapping. */
static int spapr_register(struct bus *bus, void *memory)
{
	struct vfio_iommu_spapr_register_memory request = {
		.argsz = sizeof(request), .vaddr = (uintptr_t)memory, .size = LENGTH,
	};

	return ioctl(bus->container, VFIO_IOMMU_SPAPR_REGISTER_MEMORY, &request);
}

static off_t bar0;

static void reg_write(int device, unsigned int reg, uint32_t value)
{
	if (pwrite(device, &value, 4, bar0 + reg) != 4)
		err(1, "writing register %#x", reg);
}

static uint32_t reg_read(int device, unsigned int reg)
{
	uint32_t value;

	if (pread(device, &value, 4, bar0 + reg) != 4)
		err(1, "reading register %#x", reg);
	return value;
}

static void enable_memory(int device)
{
	struct vfio_region_info config = { .argsz = sizeof(config), .index = VFIO_PCI_CONFIG_REGION_INDEX };
	struct vfio_region_info bar = { .argsz = sizeof(bar), .index = VFIO_PCI_BAR0_REGION_INDEX };
	uint16_t command;

	if (ioctl(device, VFIO_DEVICE_GET_REGION_INFO, &config) || ioctl(device, VFIO_DEVICE_GET_REGION_INFO, &bar))
		err(1, "VFIO_DEVICE_GET_REGION_INFO");
	bar0 = bar.offset;
	if (pread(device, &command, 2, config.offset + 4) != 2)
		err(1, "reading the command register");
	command |= 6;	/* memory space and bus master */
	if (pwrite(device, &command, 2, config.offset + 4) != 2)
		err(1, "writing the command register");
}

static uint32_t testdev_write(int device, uint64_t iova)
{
	reg_write(device, REG_IOVA_LO, iova);
	reg_write(device, REG_IOVA_HI, iova >> 32);
	reg_write(device, REG_LENGTH, 16);
	reg_write(device, REG_CHECK_LO, 0);
	reg_write(device, REG_CHECK_HI, 0);
	reg_write(device, REG_DOORBELL, 1);
	reg_read(device, REG_TRIGGER);
	return reg_read(device, REG_RESULT);
}

static int arrived(volatile uint32_t *memory)
{
	int yes = memory[0] != 0;

	memory[0] = 0;
	return yes;
}

static void check_dma(struct bus *bus, uint8_t *memory)
{
	uint32_t result = testdev_write(bus->device, IOVA);

	check((result == RESULT_OK || result == RESULT_DIFFERS) && arrived((uint32_t *)memory), "first granule written");
	result = testdev_write(bus->device, IOVA + LENGTH - 16);
	check((result == RESULT_OK || result == RESULT_DIFFERS) && arrived((uint32_t *)(memory + LENGTH - 16)),
	      "last bytes written");
	check(testdev_write(bus->device, IOVA + LENGTH) == RESULT_REFUSED, "granule behind refused");
	check(testdev_write(bus->device, IOVA - 16) == RESULT_REFUSED, "granule before refused");
}

int main(int argc, char **argv)
{
	struct bus bus = { 0 };
	int dma = argc > 3 && !strcmp(argv[3], "dma");
	uint8_t *memory;

	setvbuf(stdout, NULL, _IOLBF, 0);
	if (argc < 3)
		errx(2, "usage: vfiocheck type1|iommufd|spapr BDF [dma]");
	if (!strcmp(argv[1], "iommufd"))
		open_cdev(&bus, argv[2]);
	else
		open_container(&bus, argv[2], strcmp(argv[1], "spapr") ? VFIO_TYPE1v2_IOMMU : VFIO_SPAPR_TCE_v2_IOMMU);
	check(1, "open");
	memory = mmap(NULL, LENGTH + 0x10000, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (memory == MAP_FAILED)
		err(1, "mmap");
	memory = (uint8_t *)(((uintptr_t)memory + 0xffff) & ~0xffffull);
	memset(memory, 0, LENGTH);
	if (!strcmp(argv[1], "spapr"))
		check(!spapr_register(&bus, memory), "register memory");
	check(!map(&bus, memory, IOVA, LENGTH), "map");
	if (dma) {
		enable_memory(bus.device);
		check_dma(&bus, memory);
	}
	if (strcmp(argv[1], "spapr"))
		check(map(&bus, memory, IOVA, LENGTH) && (errno == EEXIST || errno == EADDRINUSE),
		      "second map refused");
	check(!unmap(&bus, IOVA, LENGTH), "unmap");
	if (dma) {
		check(testdev_write(bus.device, IOVA) == RESULT_REFUSED, "after unmap refused");
		check(!arrived((uint32_t *)memory), "nothing arrived after unmap");
	}
	/* Left mapped: closing must take it down. */
	check(!map(&bus, memory, IOVA, LENGTH), "map again");
	close(bus.device);
	return failures != 0;
}
