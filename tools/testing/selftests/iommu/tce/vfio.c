// SPDX-License-Identifier: GPL-2.0
#define _GNU_SOURCE
#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <glob.h>
#include <libgen.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>
#include <linux/iommufd.h>
#include <linux/vfio.h>

#include "vfio.h"

#define PCI_COMMAND		4
#define MEMORY_AND_MASTER	6

static void die(const char *what)
{
	perror(what);
	exit(1);
}

/* -- sysfs ---------------------------------------------------------------- */

static uint32_t sysfs_hex(const char *directory, const char *name)
{
	char path[PATH_MAX];
	unsigned int value = 0;
	FILE *file;

	snprintf(path, sizeof(path), "%s/%s", directory, name);
	file = fopen(path, "r");
	if (!file || fscanf(file, "%x", &value) != 1)
		die(path);
	fclose(file);
	return value;
}

/* The last part of what a link points to, or "". */
static const char *sysfs_link(const char *directory, const char *name)
{
	static char target[PATH_MAX];
	char path[PATH_MAX];
	ssize_t length;

	snprintf(path, sizeof(path), "%s/%s", directory, name);
	length = readlink(path, target, sizeof(target) - 1);
	if (length < 0)
		return "";
	target[length] = 0;
	return basename(target);
}

int find_device(uint32_t id, int n, int group, char bdf[16])
{
	int found = -1;
	glob_t all;

	if (glob("/sys/bus/pci/devices/*", 0, NULL, &all))
		return -1;
	for (size_t i = 0; i < all.gl_pathc && found < 0; i++) {
		const char *path = all.gl_pathv[i];
		int its_group;

		if ((sysfs_hex(path, "vendor") << 16 | sysfs_hex(path, "device")) != id ||
		    strcmp(sysfs_link(path, "driver"), "vfio-pci"))
			continue;
		its_group = atoi(sysfs_link(path, "iommu_group"));
		if (group != ANY_GROUP && (group < 0 ? its_group == ~group : its_group != group))
			continue;
		if (n--)
			continue;
		snprintf(bdf, 16, "%s", strrchr(path, '/') + 1);
		found = its_group;
	}
	globfree(&all);
	return found;
}

/* -- address spaces ------------------------------------------------------- */

int space_open(struct space *space, enum api api)
{
	*space = (struct space){ .api = api, .type = VFIO_TYPE1v2_IOMMU };
	space->fd = open(api == TYPE1 ? "/dev/vfio/vfio" : "/dev/iommu", O_RDWR | O_CLOEXEC);
	if (space->fd < 0)
		return -errno;
	return api == IOMMUFD ? ioas_alloc(space, &space->ioas) : 0;
}

void space_close(struct space *space)
{
	while (space->nr_groups)
		close(space->groups[--space->nr_groups].fd);
	close(space->fd);
}

int space_map(struct space *space, uint64_t iova, void *memory, uint64_t length, int access)
{
	struct vfio_iommu_type1_dma_map type1 = {
		.argsz = sizeof(type1),
		.flags = (access & READ ? VFIO_DMA_MAP_FLAG_READ : 0) |
			 (access & WRITE ? VFIO_DMA_MAP_FLAG_WRITE : 0),
		.vaddr = (uintptr_t)memory,
		.iova = iova,
		.size = length,
	};
	struct iommu_ioas_map iommufd = {
		.size = sizeof(iommufd),
		.flags = IOMMU_IOAS_MAP_FIXED_IOVA |
			 (access & READ ? IOMMU_IOAS_MAP_READABLE : 0) |
			 (access & WRITE ? IOMMU_IOAS_MAP_WRITEABLE : 0),
		.ioas_id = space->ioas,
		.user_va = (uintptr_t)memory,
		.length = length,
		.iova = iova,
	};

	if (space->api == TYPE1 ? ioctl(space->fd, VFIO_IOMMU_MAP_DMA, &type1) :
				  ioctl(space->fd, IOMMU_IOAS_MAP, &iommufd))
		return -errno;
	return 0;
}

int space_unmap(struct space *space, uint64_t iova, uint64_t length)
{
	struct vfio_iommu_type1_dma_unmap type1 = {
		.argsz = sizeof(type1), .iova = iova, .size = length,
	};
	struct iommu_ioas_unmap iommufd = {
		.size = sizeof(iommufd), .ioas_id = space->ioas, .iova = iova, .length = length,
	};

	if (space->api == TYPE1) {
		if (ioctl(space->fd, VFIO_IOMMU_UNMAP_DMA, &type1))
			return -errno;
		return type1.size == length ? 0 : -ENOENT;
	}
	if (ioctl(space->fd, IOMMU_IOAS_UNMAP, &iommufd))
		return -errno;
	return iommufd.length == length ? 0 : -ENOENT;
}

static int type1_info(struct space *space, struct range ranges[MAX_RANGES], uint64_t *pgsizes)
{
	struct vfio_iommu_type1_info_cap_iova_range *cap;
	union {
		struct vfio_iommu_type1_info info;
		char room[4096];
	} buffer = { .info.argsz = sizeof(buffer) };
	uint32_t offset;

	if (ioctl(space->fd, VFIO_IOMMU_GET_INFO, &buffer))
		die("VFIO_IOMMU_GET_INFO");
	*pgsizes = buffer.info.iova_pgsizes;
	for (offset = buffer.info.cap_offset; offset; offset = cap->header.next) {
		cap = (void *)(buffer.room + offset);
		if (cap->header.id != VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE)
			continue;
		for (uint32_t i = 0; i < cap->nr_iovas && i < MAX_RANGES; i++)
			ranges[i] = (struct range){ cap->iova_ranges[i].start,
						    cap->iova_ranges[i].end };
		return cap->nr_iovas;
	}
	return 0;
}

static int ioas_info(struct space *space, struct range ranges[MAX_RANGES], uint64_t *granule)
{
	struct iommu_iova_range allowed[MAX_RANGES];
	struct iommu_ioas_iova_ranges query = {
		.size = sizeof(query),
		.ioas_id = space->ioas,
		.num_iovas = MAX_RANGES,
		.allowed_iovas = (uintptr_t)allowed,
	};

	if (ioctl(space->fd, IOMMU_IOAS_IOVA_RANGES, &query))
		die("IOMMU_IOAS_IOVA_RANGES");
	for (uint32_t i = 0; i < query.num_iovas; i++)
		ranges[i] = (struct range){ allowed[i].start, allowed[i].last };
	*granule = query.out_iova_alignment;
	return query.num_iovas;
}

int space_ranges(struct space *space, struct range ranges[MAX_RANGES])
{
	uint64_t unused;

	if (space->api == TYPE1)
		return type1_info(space, ranges, &unused);
	return ioas_info(space, ranges, &unused);
}

uint64_t space_granule(struct space *space)
{
	struct range ranges[MAX_RANGES];
	uint64_t sizes;

	if (space->api == IOMMUFD) {
		ioas_info(space, ranges, &sizes);
		return sizes;
	}
	type1_info(space, ranges, &sizes);
	return sizes & -sizes;
}

int ioas_alloc(struct space *space, uint32_t *ioas)
{
	struct iommu_ioas_alloc alloc = { .size = sizeof(alloc) };

	if (ioctl(space->fd, IOMMU_IOAS_ALLOC, &alloc))
		return -errno;
	*ioas = alloc.out_ioas_id;
	return 0;
}

int hwpt_alloc(struct device *device, uint32_t ioas, uint32_t *hwpt)
{
	struct iommu_hwpt_alloc alloc = { .size = sizeof(alloc), .dev_id = device->id,
					  .pt_id = ioas };

	if (ioctl(device->space->fd, IOMMU_HWPT_ALLOC, &alloc))
		return -errno;
	*hwpt = alloc.out_hwpt_id;
	return 0;
}

int object_destroy(struct space *space, uint32_t id)
{
	struct iommu_destroy destroy = { .size = sizeof(destroy), .id = id };

	return ioctl(space->fd, IOMMU_DESTROY, &destroy) ? -errno : 0;
}

/* -- devices -------------------------------------------------------------- */

static int type1_open(struct device *device, struct space *space, const char *bdf)
{
	char path[64];
	int number, fd = -1;

	snprintf(path, sizeof(path), "/sys/bus/pci/devices/%s", bdf);
	number = atoi(sysfs_link(path, "iommu_group"));
	for (int i = 0; i < space->nr_groups; i++)
		if (space->groups[i].number == number)
			fd = space->groups[i].fd;
	if (fd < 0) {
		snprintf(path, sizeof(path), "/dev/vfio/%d", number);
		fd = open(path, O_RDWR | O_CLOEXEC);
		if (fd < 0)
			return -errno;
		space->groups[space->nr_groups].fd = fd;
		space->groups[space->nr_groups++].number = number;
		if (ioctl(fd, VFIO_GROUP_SET_CONTAINER, &space->fd) ||
		    (space->nr_groups == 1 && ioctl(space->fd, VFIO_SET_IOMMU, space->type)))
			return -errno;
	}
	device->fd = ioctl(fd, VFIO_GROUP_GET_DEVICE_FD, bdf);
	return device->fd < 0 ? -errno : 0;
}

static int open_cdev(const char *bdf)
{
	char path[PATH_MAX];
	glob_t found;
	int fd;

	snprintf(path, sizeof(path), "/sys/bus/pci/devices/%s/vfio-dev/vfio*", bdf);
	if (glob(path, 0, NULL, &found))
		return -ENOENT;
	snprintf(path, sizeof(path), "/dev/vfio/devices/%s", basename(found.gl_pathv[0]));
	globfree(&found);
	fd = open(path, O_RDWR | O_CLOEXEC);
	return fd < 0 ? -errno : fd;
}

/* Lets us talk to the device. */
static void enable(struct device *device)
{
	struct vfio_region_info config = { .argsz = sizeof(config),
					   .index = VFIO_PCI_CONFIG_REGION_INDEX };
	struct vfio_region_info bar = { .argsz = sizeof(bar), .index = VFIO_PCI_BAR0_REGION_INDEX };
	uint16_t command;

	if (ioctl(device->fd, VFIO_DEVICE_GET_REGION_INFO, &config) ||
	    ioctl(device->fd, VFIO_DEVICE_GET_REGION_INFO, &bar))
		die("VFIO_DEVICE_GET_REGION_INFO");
	device->config = config.offset;
	device->bar = bar.offset;
	if (pread(device->fd, &command, 2, config.offset + PCI_COMMAND) != 2)
		die("reading the command register");
	command |= htole16(MEMORY_AND_MASTER);
	if (pwrite(device->fd, &command, 2, config.offset + PCI_COMMAND) != 2)
		die("writing the command register");
}

int device_bind(struct device *device, struct space *space, const char *bdf)
{
	struct vfio_device_bind_iommufd bind = { .argsz = sizeof(bind), .iommufd = space->fd };

	*device = (struct device){ .space = space, .fd = open_cdev(bdf) };
	if (device->fd < 0)
		return device->fd;
	if (ioctl(device->fd, VFIO_DEVICE_BIND_IOMMUFD, &bind))
		return -errno;
	device->id = bind.out_devid;
	enable(device);
	return 0;
}

int device_attach(struct device *device, uint32_t id)
{
	struct vfio_device_attach_iommufd_pt attach = { .argsz = sizeof(attach), .pt_id = id };

	return ioctl(device->fd, VFIO_DEVICE_ATTACH_IOMMUFD_PT, &attach) ? -errno : 0;
}

int device_detach(struct device *device)
{
	struct vfio_device_detach_iommufd_pt detach = { .argsz = sizeof(detach) };

	return ioctl(device->fd, VFIO_DEVICE_DETACH_IOMMUFD_PT, &detach) ? -errno : 0;
}

int device_open(struct device *device, struct space *space, const char *bdf)
{
	int ret;

	if (space->api == IOMMUFD) {
		ret = device_bind(device, space, bdf);
		return ret ? ret : device_attach(device, space->ioas);
	}
	*device = (struct device){ .space = space };
	ret = type1_open(device, space, bdf);
	if (!ret)
		enable(device);
	return ret;
}

int device_reset(struct device *device)
{
	if (ioctl(device->fd, VFIO_DEVICE_RESET))
		return -errno;
	enable(device);
	return 0;
}

int device_event(struct device *device, uint32_t index)
{
	struct {
		struct vfio_irq_set set;
		int32_t fd;
	} irq = {
		.set = {
			.argsz = sizeof(irq),
			.flags = VFIO_IRQ_SET_DATA_EVENTFD | VFIO_IRQ_SET_ACTION_TRIGGER,
			.index = index,
			.count = 1,
		},
		.fd = eventfd(0, EFD_CLOEXEC),
	};

	if (irq.fd < 0 || ioctl(device->fd, VFIO_DEVICE_SET_IRQS, &irq))
		return -errno;
	return irq.fd;
}

void device_close(struct device *device)
{
	close(device->fd);
}

static void reg_write(struct device *device, unsigned int reg, uint32_t value)
{
	value = htole32(value);
	if (pwrite(device->fd, &value, 4, device->bar + reg) != 4)
		die("writing a register");
}

static uint32_t reg_read(struct device *device, unsigned int reg)
{
	uint32_t value;

	if (pread(device->fd, &value, 4, device->bar + reg) != 4)
		die("reading a register");
	return le32toh(value);
}

/* Gives up after two seconds. */
static void wait_ms(int waited, const char *problem)
{
	if (waited > 2000) {
		fprintf(stderr, "%s\n", problem);
		exit(1);
	}
	usleep(1000);
}

/* -- iommu-testdev: 32-bit registers, little-endian ----------------------- */

enum {
	TESTDEV_TRIGGER = 0x00,
	TESTDEV_IOVA_LOW = 0x04,
	TESTDEV_IOVA_HIGH = 0x08,
	TESTDEV_LENGTH = 0x0c,
	TESTDEV_RESULT = 0x10,
	TESTDEV_DOORBELL = 0x14,
};

/* Its own check of another address fails, as that is not set: this is success. */
#define TESTDEV_DIFFERS	0xdead0004
#define TESTDEV_REFUSED	0xdead0002
#define TESTDEV_PATTERN	0x12345678

/* Shared with the processes that tests start. */
static unsigned long *refused;

__attribute__((constructor)) static void count_refused(void)
{
	refused = mmap(NULL, sizeof(*refused), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS,
		       -1, 0);
	if (refused == MAP_FAILED)
		die("mmap");
}

unsigned long testdev_refused(void)
{
	return *refused;
}

bool testdev_write(struct device *device, uint64_t iova, uint32_t length)
{
	uint32_t result;

	reg_write(device, TESTDEV_IOVA_LOW, iova);
	reg_write(device, TESTDEV_IOVA_HIGH, iova >> 32);
	reg_write(device, TESTDEV_LENGTH, length);
	reg_write(device, TESTDEV_DOORBELL, 1);
	reg_read(device, TESTDEV_TRIGGER);
	result = reg_read(device, TESTDEV_RESULT);
	if (result != TESTDEV_DIFFERS && result != TESTDEV_REFUSED) {
		fprintf(stderr, "iommu-testdev answers %#x\n", result);
		exit(1);
	}
	if (result == TESTDEV_REFUSED)
		__atomic_add_fetch(refused, 1, __ATOMIC_RELAXED);
	return result == TESTDEV_DIFFERS;
}

bool is_pattern(const void *memory, uint32_t length)
{
	const uint8_t *bytes = memory;

	for (uint32_t i = 0; i < length; i++)
		if (bytes[i] != (uint8_t)(TESTDEV_PATTERN >> 8 * (i % 4)))
			return false;
	return true;
}

/* -- edu: 64-bit registers in the byte order of a big-endian machine ------ */

enum {
	EDU_SOURCE = 0x80,
	EDU_DESTINATION = 0x88,
	EDU_COUNT = 0x90,
	EDU_COMMAND = 0x98,
};

#define EDU_BUFFER	0x40000
#define EDU_RUN		1
#define EDU_TO_MEMORY	2

static void edu_set(struct device *device, unsigned int reg, uint64_t value)
{
	value = htobe64(value);
	if (pwrite(device->fd, &value, 8, device->bar + reg) != 8)
		die("writing a register");
}

void edu_start(struct device *device, uint64_t iova, uint32_t length, bool to_memory)
{
	edu_set(device, EDU_SOURCE, to_memory ? EDU_BUFFER : iova);
	edu_set(device, EDU_DESTINATION, to_memory ? iova : EDU_BUFFER);
	edu_set(device, EDU_COUNT, length);
	edu_set(device, EDU_COMMAND, EDU_RUN | (to_memory ? EDU_TO_MEMORY : 0));
}

void edu_wait(struct device *device)
{
	uint64_t command;

	for (int i = 0;; i++) {
		if (pread(device->fd, &command, 8, device->bar + EDU_COMMAND) != 8)
			die("reading a register");
		if (!(be64toh(command) & EDU_RUN))
			return;
		wait_ms(i, "edu does not finish");
	}
}

void edu_copy(struct device *device, uint64_t iova, uint32_t length, bool to_memory)
{
	edu_start(device, iova, length, to_memory);
	edu_wait(device);
}

/* -- nvme: 32-bit registers, little-endian -------------------------------- */

enum {
	NVME_CC = 0x14,
	NVME_CSTS = 0x1c,
	NVME_AQA = 0x24,
	NVME_ASQ = 0x28,
	NVME_ACQ = 0x30,
	NVME_SQ_TAIL = 0x1000,
	NVME_CQ_HEAD = 0x1004,
};

#define NVME_DEPTH		16
#define NVME_ENABLE		0x460001	/* entries of 64 and 16 bytes, pages of 4 KiB */
#define NVME_READY		1
#define NVME_IDENTIFY		6
#define NVME_CONTROLLER		1

struct nvme_command {
	uint32_t opcode, namespace, unused[4];
	uint64_t data[2];
	uint32_t more[6];
};

struct nvme_answer {
	uint32_t result, unused, queue, status;
};

static unsigned int phase_of(struct nvme_answer *answer)
{
	return le32toh(__atomic_load_n(&answer->status, __ATOMIC_ACQUIRE)) >> 16 & 1;
}

void nvme_start(struct nvme *nvme, struct device *device, void *queues, uint64_t iova)
{
	*nvme = (struct nvme){ .device = device, .queues = queues };
	memset(queues, 0, NVME_QUEUES);
	reg_write(device, NVME_AQA, (NVME_DEPTH - 1) << 16 | (NVME_DEPTH - 1));
	reg_write(device, NVME_ASQ, iova);
	reg_write(device, NVME_ASQ + 4, iova >> 32);
	reg_write(device, NVME_ACQ, iova + NVME_QUEUES / 2);
	reg_write(device, NVME_ACQ + 4, (iova + NVME_QUEUES / 2) >> 32);
	reg_write(device, NVME_CC, NVME_ENABLE);
	for (int i = 0; !(reg_read(device, NVME_CSTS) & NVME_READY); i++)
		wait_ms(i, "nvme does not start");
}

void nvme_identify(struct nvme *nvme, uint64_t iova)
{
	unsigned int slot = nvme->commands % NVME_DEPTH;
	/* The phase of an answer changes each time around. */
	unsigned int phase = !(nvme->commands / NVME_DEPTH % 2);
	struct nvme_command *command = (struct nvme_command *)nvme->queues + slot;
	struct nvme_answer *answer = (struct nvme_answer *)(nvme->queues + NVME_QUEUES / 2) + slot;
	unsigned int next = ++nvme->commands % NVME_DEPTH;

	*command = (struct nvme_command){
		.opcode = htole32(NVME_IDENTIFY | slot << 16),
		.data = { htole64(iova) },
		.more = { htole32(NVME_CONTROLLER) },
	};
	reg_write(nvme->device, NVME_SQ_TAIL, next);
	for (int i = 0; phase_of(answer) != phase; i++)
		wait_ms(i, "nvme does not answer");
	reg_write(nvme->device, NVME_CQ_HEAD, next);
}
