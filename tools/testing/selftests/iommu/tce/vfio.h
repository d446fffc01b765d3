/* SPDX-License-Identifier: GPL-2.0 */
/* VFIO as these tests use it, and QEMU's devices that tell what DMA went through. */
#ifndef TCE_VFIO_H
#define TCE_VFIO_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* vendor << 16 | device */
#define ID_TESTDEV	0x1b360005	/* iommu-testdev: writes at once, says if it could */
#define ID_EDU		0x123411e8	/* edu: copies in both directions, takes 100 ms */
#define ID_NVME		0x1b360010	/* nvme: has a function reset */

enum api { TYPE1, IOMMUFD };

#define READ	1
#define WRITE	2

struct range {
	uint64_t first, last;
};

#define MAX_RANGES	8

/* An I/O address space: a type1 container or an IOAS. */
struct space {
	enum api api;
	int fd;			/* the container or /dev/iommu */
	int type;		/* of the container */
	uint32_t ioas;
	int nr_groups;
	struct { int fd, number; } groups[8];
};

struct device {
	struct space *space;
	int fd;
	uint32_t id;		/* as iommufd knows it */
	off_t config, bar;
};

/*
 * The n-th device with this ID that vfio-pci has: of group @group, or of any
 * group but ~@group if that is negative; ANY_GROUP takes all. Returns its
 * group, or -1.
 */
#define ANY_GROUP	INT32_MIN
int find_device(uint32_t id, int n, int group, char bdf[16]);

/* These return 0 or a negative errno. */
int space_open(struct space *space, enum api api);
int space_map(struct space *space, uint64_t iova, void *memory, uint64_t length, int access);
int space_unmap(struct space *space, uint64_t iova, uint64_t length);
int device_open(struct device *device, struct space *space, const char *bdf);
int device_reset(struct device *device);
/* An eventfd that is signalled by VFIO's interrupt @index. */
int device_event(struct device *device, uint32_t index);
void device_close(struct device *device);
void space_close(struct space *space);

/* Ascending; returns how many. */
int space_ranges(struct space *space, struct range ranges[MAX_RANGES]);
/* The smallest thing that can be mapped. */
uint64_t space_granule(struct space *space);

/* iommufd only */
int ioas_alloc(struct space *space, uint32_t *ioas);
int hwpt_alloc(struct device *device, uint32_t ioas, uint32_t *hwpt);
int object_destroy(struct space *space, uint32_t id);
int device_bind(struct device *device, struct space *space, const char *bdf);
int device_attach(struct device *device, uint32_t id);
int device_detach(struct device *device);

/* iommu-testdev: true if the write went through. It writes PATTERN bytes. */
bool testdev_write(struct device *device, uint64_t iova, uint32_t length);
/* How many writes did not, of all processes. */
unsigned long testdev_refused(void);
bool is_pattern(const void *memory, uint32_t length);

/* edu: from @iova to its buffer of 4 KiB, or the other way. */
void edu_start(struct device *device, uint64_t iova, uint32_t length, bool to_memory);
void edu_wait(struct device *device);
void edu_copy(struct device *device, uint64_t iova, uint32_t length, bool to_memory);

/* nvme: commands and their answers lie in @queues, NVME_QUEUES bytes that are mapped at @iova. */
#define NVME_QUEUES	8192
#define NVME_DATA	4096

struct nvme {
	struct device *device;
	uint8_t *queues;
	unsigned int commands;
};

/* When it was opened or reset. */
void nvme_start(struct nvme *nvme, struct device *device, void *queues, uint64_t iova);
/*
 * The controller describes itself in NVME_DATA bytes at @iova and answers. QEMU's
 * answers the same when the data was refused: look at the memory.
 */
void nvme_identify(struct nvme *nvme, uint64_t iova);

#endif
