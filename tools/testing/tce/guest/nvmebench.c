// SPDX-License-Identifier: GPL-2.0
/*
 * nvmebench DISK random|sequential BYTES DEPTH COUNT: reads with O_DIRECT and
 * asynchronous I/O. DEPTH requests are submitted at once, between the marks of
 * bench/marks.h, and the CPU is busy in user space until all are done; COUNT
 * times, each a measurement of its own. They differ in how many requests an
 * interrupt is for, which depends on how busy the host is. Pages that follow each
 * other in the buffer do not in memory, or the number of segments would depend on
 * what ran before.
 */
#define _GNU_SOURCE
#include <err.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <linux/aio_abi.h>
#include <linux/fs.h>

#include "../bench/marks.h"

#define MAX_DEPTH	64
#define ALIGN		0x10000

static int disk;
static bool is_random;
static size_t length;
static off_t size, place;
static aio_context_t context;
static struct iocb requests[MAX_DEPTH];

/* Not random, but not in order either, and the same each time. */
static off_t next(void)
{
	static uint64_t state = 1;

	state = state * 6364136223846793005ull + 1442695040888963407ull;
	if (is_random)
		place = (state >> 33) % (size / length) * length;
	else
		place = (place + length) % size;
	return place;
}

/* The beginning of what a context points to; the kernel lets user space look. */
struct ring {
	unsigned int id, size, head, tail;
};

static void work(unsigned int depth)
{
	const volatile struct ring *ring = (struct ring *)context;
	struct iocb *batch[MAX_DEPTH];
	struct io_event events[MAX_DEPTH];
	long submitted, got;

	for (unsigned int i = 0; i < depth; i++) {
		requests[i].aio_offset = next();
		batch[i] = &requests[i];
	}
	mark(MARK_FIRST);
	submitted = syscall(SYS_io_submit, context, (long)depth, batch);
	while (submitted == depth && (ring->tail + ring->size - ring->head) % ring->size < depth)
		;
	mark(MARK_STOP);
	got = syscall(SYS_io_getevents, context, (long)depth, (long)depth, events, NULL);
	if (submitted != depth || got != depth)
		err(1, "submitted %ld, got %ld", submitted, got);
	for (unsigned int i = 0; i < depth; i++)
		if (events[i].res != (long long)length)
			errx(1, "read %lld bytes", (long long)events[i].res);
	mark(MARK_WRITE);
}

int main(int argc, char **argv)
{
	size_t pages, page = 0;
	unsigned int depth;
	char *memory;

	if (argc != 6)
		errx(2, "usage: nvmebench DISK random|sequential BYTES DEPTH COUNT");
	disk = open(argv[1], O_RDONLY | O_DIRECT);
	if (disk < 0)
		err(1, "%s", argv[1]);
	/* Each read looks for cached pages first, unless there are none at all. */
	if (ioctl(disk, BLKFLSBUF, 0))
		err(1, "BLKFLSBUF");
	size = lseek(disk, 0, SEEK_END);
	is_random = !strcmp(argv[2], "random");
	length = strtoul(argv[3], NULL, 0);
	depth = strtoul(argv[4], NULL, 0);
	if (depth > MAX_DEPTH || !length || (off_t)length > size)
		errx(2, "too much");
	pages = (depth * length + ALIGN - 1) / ALIGN;
	memory = aligned_alloc(ALIGN, pages * ALIGN);
	if (!memory)
		err(1, "aligned_alloc");
	/* The kernel gives pages in order; there are a power of two of them. */
	for (size_t i = 0; i < pages; i++) {
		memory[page * ALIGN] = 1;
		page = (page + (pages / 3 | 1)) % pages;
	}
	if (syscall(SYS_io_setup, MAX_DEPTH, &context))
		err(1, "io_setup");
	for (unsigned int i = 0; i < depth; i++)
		requests[i] = (struct iocb){
			.aio_lio_opcode = IOCB_CMD_PREAD, .aio_fildes = disk, .aio_nbytes = length,
			.aio_buf = (uintptr_t)(memory + i * length),
		};
	for (unsigned long i = strtoul(argv[5], NULL, 0); i; i--)
		work(depth);
	return 0;
}
