// SPDX-License-Identifier: GPL-2.0
/*
 * svacheck BDF: what QEMU's edu reaches of a process that the test driver
 * tce_hold has bound to it. Says "ok: how many checks", or what is wrong.
 */
#define _GNU_SOURCE
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define ID	0x010000edU	/* in the first register */
#define HIGH	(1ULL << 59)
#define BUFFER	0x40000ULL	/* the device's own memory */
#define LEN	64

enum { SOURCE = 0x80, DESTINATION = 0x88, COUNT = 0x90, COMMAND = 0x98 };

static volatile uint8_t *regs;
static size_t page;
static int checks;
/* Low enough for any window. */
static char *area = (char *)0x20000000;

/* The device has the byte order of the machine that QEMU was built for. */
static uint64_t order(uint64_t value)
{
	return *(volatile uint32_t *)regs == ID ? value : __builtin_bswap64(value);
}

static void reg(int offset, uint64_t value)
{
	*(volatile uint64_t *)(regs + offset) = order(value);
}

static int is_busy(void)
{
	return order(*(volatile uint64_t *)(regs + COMMAND)) & 1;
}

static void transfer(uint64_t from, uint64_t to, int bits)
{
	reg(SOURCE, from);
	reg(DESTINATION, to);
	reg(COUNT, LEN);
	reg(COMMAND, 1 | bits);
	for (int i = 0; is_busy(); i++) {
		if (i == 5000)
			errx(1, "the device does not stop");
		usleep(2000);
	}
}

/* Has the device write a pattern to a bus address. */
static void device_writes(uint64_t at, char pattern)
{
	static char *own;

	/* The pattern gets into the device by a page of our own that it reads. */
	if (!own)
		own = area + 15 * page;
	memset(own, pattern, LEN);
	transfer(HIGH | (uintptr_t)own, BUFFER, 0);
	transfer(BUFFER, at, 2);
}

static int all(const char *at, char value)
{
	for (int i = 0; i < LEN; i++)
		if (at[i] != value)
			return 0;
	return 1;
}

static void check(int good, const char *what)
{
	if (!good)
		errx(1, "not so: %s", what);
	checks++;
}

struct request {
	uint64_t start, len, write;
	int result;
	pthread_t thread;
	volatile int done;
};

static void *writer(void *arg)
{
	struct request *request = arg;
	int fd = open("/dev/tce-hold", O_WRONLY);

	if (fd < 0)
		err(1, "/dev/tce-hold");
	request->result = write(fd, request, 24) == 24 ? 0 : errno;
	request->done = 1;
	close(fd);
	return NULL;
}

static int ask(int bytes)
{
	uint8_t held[2];
	int fd = open("/dev/tce-hold", O_RDONLY);

	if (fd < 0 || read(fd, held, bytes) != 1)
		err(1, "/dev/tce-hold");
	close(fd);
	return held[0];
}

/* One hold at a time can be waited for: the device's lock is held meanwhile. */
static void hold(struct request *request, void *start, size_t len, int write)
{
	*request = (struct request){ .start = (uintptr_t)start, .len = len, .write = write };
	if (pthread_create(&request->thread, NULL, writer, request))
		errx(1, "no thread");
	while (!request->done && !ask(1))
		usleep(1000);
}

static int let_go(struct request *request)
{
	while (!request->done) {
		ask(2);
		usleep(1000);
	}
	pthread_join(request->thread, NULL);
	return request->result;
}

static void fresh(void)
{
	if (mmap(area, 16 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) != area)
		err(1, "mmap");
	memset(area, 'a', 16 * page);
}

/* The device reaches what was prefaulted, and nothing else. */
static void inside_and_outside(void)
{
	struct request request;

	fresh();
	hold(&request, area, 16 * page, 1);
	check(!request.done, "it is bound");
	device_writes(HIGH | (uintptr_t)(area + 2 * page + 8), 'b');
	check(all(area + 2 * page + 8, 'b'), "the device writes to memory of the process");
	check(area[2 * page + 7] == 'a' && area[2 * page + 8 + LEN] == 'a', "and not beside it");
	device_writes((uintptr_t)(area + 3 * page), 'c');
	check(all(area + 3 * page, 'a'), "bit 59 clear is not the process");
	check(!let_go(&request), "it was live to the end");

	/* Unbound. */
	device_writes(HIGH | (uintptr_t)(area + 4 * page), 'd');
	check(all(area + 4 * page, 'a'), "after unbinding nothing is reached");

	/* A part of it; the page in which the device finds its pattern is in. */
	fresh();
	hold(&request, area + 8 * page, 8 * page, 1);
	device_writes(HIGH | (uintptr_t)(area + 9 * page), 'e');
	check(all(area + 9 * page, 'e'), "what is prefaulted is reached");
	device_writes(HIGH | (uintptr_t)(area + 4 * page), 'f');
	check(all(area + 4 * page, 'a'), "what is not prefaulted is not");
	let_go(&request);

	/* Bound and nothing prefaulted. */
	fresh();
	hold(&request, NULL, 0, 0);
	device_writes(HIGH | (uintptr_t)(area + 4 * page), 'g');
	check(all(area + 4 * page, 'a'), "a bond alone lets the device reach nothing");
	let_go(&request);
}

static void read_only(void)
{
	struct request request;

	fresh();
	hold(&request, area, 16 * page, 0);
	device_writes(HIGH | (uintptr_t)(area + 5 * page), 'h');
	check(all(area + 5 * page, 'a'), "what is prefaulted to read is not written to");
	check(!let_go(&request), "it was live to the end");

	if (mprotect(area, page, PROT_READ))
		err(1, "mprotect");
	hold(&request, area, page, 1);
	check(let_go(&request) == EFAULT, "a page that the process may not write is refused");
	hold(&request, area, page, 0);
	check(!let_go(&request), "to read it is not");
	if (mprotect(area, page, PROT_NONE))
		err(1, "mprotect");
	hold(&request, area, page, 0);
	check(let_go(&request) == EFAULT, "a guard page is refused");
	munmap(area, page);
	hold(&request, area, 2 * page, 0);
	check(let_go(&request) == EFAULT, "a hole is refused");
}

/* Memory that the process gives up while the device may use it. */
static void taken_away(void)
{
	static const char *const ways[] = { "munmap", "MADV_DONTNEED", "mremap", "a new mapping" };
	struct request request;

	for (int way = 0; way < 4; way++) {
		char *page_6 = area + 6 * page;
		int result;

		fresh();
		hold(&request, area, 16 * page, 1);
		device_writes(HIGH | (uintptr_t)page_6, 'i');
		check(all(page_6, 'i'), "before the page is given up it is reached");
		if (way == 0)
			munmap(page_6, page);
		else if (way == 1)
			madvise(page_6, page, MADV_DONTNEED);
		else if (way == 2)
			mremap(page_6, page, page, MREMAP_MAYMOVE | MREMAP_FIXED, area + 32 * page);
		if (way != 1 && mmap(page_6, page, PROT_READ | PROT_WRITE,
				     MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) != page_6)
			err(1, "mmap");
		memset(page_6, 'j', LEN);
		device_writes(HIGH | (uintptr_t)page_6, 'k');
		check(all(page_6, 'j'), ways[way]);
		result = let_go(&request);
		check(result == ESTALE, "the driver is told");
	}
	munmap(area + 32 * page, page);
}

/* A child has memory of its own, and cannot bind while its parent is bound. */
static void fork_and_others(void)
{
	struct request request;
	int status, ready[2], go[2];
	char byte;
	pid_t child;

	fresh();
	if (pipe(ready) || pipe(go))
		err(1, "pipe");
	hold(&request, area, 16 * page, 1);
	child = fork();
	if (!child) {
		/* What the device writes for the parent is not here. */
		memset(area + 7 * page, 'l', LEN);
		if (write(ready[1], "", 1) != 1 || read(go[0], &byte, 1) != 1)
			_exit(2);
		_exit(all(area + 7 * page, 'l') && all(area + 8 * page, 'a') ? 0 : 3);
	}
	if (child < 0 || read(ready[0], &byte, 1) != 1)
		err(1, "fork");
	device_writes(HIGH | (uintptr_t)(area + 7 * page), 'm');
	device_writes(HIGH | (uintptr_t)(area + 8 * page), 'n');
	check(all(area + 7 * page, 'm') && all(area + 8 * page, 'n'), "the parent keeps its pages");
	if (write(go[1], "", 1) != 1 || waitpid(child, &status, 0) != child)
		err(1, "child");
	check(status == 0, "the child has other pages");
	check(!let_go(&request), "it was live to the end");
}

static void limits(void)
{
	struct rlimit few = { .rlim_cur = 4 * page, .rlim_max = 4 * page };
	struct request request;
	pid_t child = fork();
	int status;

	if (!child) {
		if (setrlimit(RLIMIT_MEMLOCK, &few) || setuid(1000))
			err(1, "setrlimit");
		fresh();
		hold(&request, area, 5 * page, 1);
		check(let_go(&request) == ENOMEM, "more than RLIMIT_MEMLOCK is refused");
		hold(&request, area, 4 * page, 1);
		check(!let_go(&request), "as much as that is not");
		hold(&request, area, 4 * page, 1);
		check(!let_go(&request), "and it is given back");
		_exit(0);
	}
	if (child < 0 || waitpid(child, &status, 0) != child)
		err(1, "fork");
	check(status == 0, "limits of locked memory");
}

/* The process is killed with the device at work. */
static void killed(void)
{
	int status;

	for (int round = 0; round < 20; round++) {
		pid_t child = fork();

		if (!child) {
			struct request request;

			fresh();
			hold(&request, area, 16 * page, 1);
			reg(SOURCE, BUFFER);
			reg(DESTINATION, HIGH | (uintptr_t)area);
			reg(COUNT, LEN);
			reg(COMMAND, 3);
			kill(getpid(), SIGKILL);
		}
		if (child < 0 || waitpid(child, &status, 0) != child)
			err(1, "fork");
		check(WIFSIGNALED(status), "it was killed");
		check(!ask(1), "nothing is held");
		while (is_busy())
			usleep(2000);
	}
}

int main(int argc, char **argv)
{
	char path[128];
	int fd;

	if (argc != 2)
		errx(2, "usage: svacheck BDF");
	page = sysconf(_SC_PAGESIZE);
	snprintf(path, sizeof(path), "/sys/bus/pci/devices/%s/resource0", argv[1]);
	fd = open(path, O_RDWR);
	regs = mmap(NULL, 0x100000, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (fd < 0 || regs == MAP_FAILED)
		err(1, "%s", path);
	chmod("/dev/tce-hold", 0666);
	inside_and_outside();
	read_only();
	taken_away();
	fork_and_others();
	limits();
	killed();
	printf("ok: %d checks\n", checks);
	return 0;
}
