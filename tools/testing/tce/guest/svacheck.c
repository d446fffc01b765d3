// SPDX-License-Identifier: GPL-2.0
/*
 * svacheck BDF [ROUNDS | waits]: what QEMU's edu reaches of a process that
 * the sample rust_sva_copy has bound to it; with a number, binding and exit so
 * many times; with "waits", it says "holds", and when a line comes the device has
 * to be gone. Without one of these there has to be an nvme disk, which is not
 * changed. Says "ok: how many checks", or what is wrong.
 *
 * The device is told what to do behind the driver's back, so what is seen is the
 * IOMMU, and not the good manners of a driver.
 */
#define _GNU_SOURCE
#include <err.h>
#include <errno.h>
#include <fcntl.h>
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
static int device;
static size_t page;
static int checks;
static const char *skipped = "";
/* Low enough for any window, and beyond the heap. */
static char *area = (char *)0x100000000;
#define OWN	(area + 64 * page)

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

static int ask(int file, uint64_t what, const void *start, uint64_t b, uint64_t c)
{
	uint64_t request[4] = { what, (uintptr_t)start, b, c };

	return write(file, request, sizeof(request)) == sizeof(request) ? 0 : errno;
}

static int reach(int file, const void *start, uint64_t len, int writes)
{
	return ask(file, 1, start, len, writes);
}

static int let_go(int file)
{
	return ask(file, 3, NULL, 0, 0);
}

/* Binds the process; the device reaches OWN, by which the patterns come and go. */
static int bind_process(void)
{
	int file = open("/dev/rust-sva-copy", O_RDWR);

	if (file < 0)
		err(1, "/dev/rust-sva-copy");
	if (reach(file, OWN, page, 1))
		errx(1, "the device cannot have a page");
	return file;
}

/* What the device writes from now on. */
static void load(char pattern)
{
	memset(OWN, pattern, LEN);
	transfer(HIGH | (uintptr_t)OWN, BUFFER, 0);
}

static void device_writes(uint64_t at, char pattern)
{
	load(pattern);
	transfer(BUFFER, at, 2);
}

/* What the device reads there, or '0' or something else that nobody has written. */
static char device_reads(const char *at)
{
	load('0');
	transfer(HIGH | (uintptr_t)at, BUFFER, 0);
	memset(OWN, 0, LEN);
	transfer(BUFFER, HIGH | (uintptr_t)OWN, 2);
	return all(OWN, *OWN) ? *OWN : 0;
}

/* A device that had stopped would reach nothing anyway. */
static void device_lives(char pattern)
{
	memset(OWN, 0, LEN);
	transfer(BUFFER, HIGH | (uintptr_t)OWN, 2);
	check(all(OWN, pattern), "the device still writes where it may");
}

static void fresh(void)
{
	if (mmap(area, 16 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) != area)
		err(1, "mmap");
	memset(area, 'a', 16 * page);
}

/* Where a page of ours is in memory. */
static uint64_t physical(const char *at)
{
	int fd = open("/proc/self/pagemap", O_RDONLY);
	uint64_t frame;

	if (fd < 0 || pread(fd, &frame, 8, (uintptr_t)at / page * 8) != 8)
		err(1, "pagemap");
	close(fd);
	return (frame & ((1ULL << 55) - 1)) * page;
}

/* The device reaches what was prefaulted, and nothing else. */
static void inside_and_outside(void)
{
	int file = bind_process(), answer;
	char stack[LEN];
	uint64_t outside;

	fresh();
	check(!reach(file, area + page, 2 * page, 1), "memory can be prefaulted");
	device_writes(HIGH | (uintptr_t)(area + 2 * page + 8), 'b');
	check(all(area + 2 * page + 8, 'b'), "the device writes to memory of the process");
	check(area[2 * page + 7] == 'a' && area[2 * page + 8 + LEN] == 'a', "and not beside it");
	device_writes((uintptr_t)(area + 2 * page), 'c');
	check(area[2 * page] == 'a', "bit 59 clear is not the process");
	device_lives('c');
	device_writes(HIGH | (uintptr_t)(area + 3 * page), 'd');
	check(all(area + 3 * page, 'a'), "the page behind is not reached");
	device_writes(HIGH | (uintptr_t)area, 'e');
	check(all(area, 'a'), "nor the one before");
	device_lives('e');

	/* Memory of the kernel has no address but that in memory. */
	outside = physical(area + 4 * page);
	device_writes(outside, 'f');
	check(all(area + 4 * page, 'a'), "a physical address reaches nothing");
	device_writes(HIGH | outside, 'g');
	check(all(area + 4 * page, 'a'), "nor with bit 59");
	device_lives('g');

	/* Firmware need not give room for all addresses. */
	answer = reach(file, stack, LEN, 1);
	check(!answer || answer == ERANGE, "the stack is reached, or beyond the window");
	memset(stack, 'a', LEN);
	device_writes(HIGH | (uintptr_t)stack, 'z');
	check(all(stack, answer ? 'a' : 'z'), "the device writes there, or does not");
	check(!let_go(file), "it was live to the end");
	transfer(BUFFER, HIGH | (uintptr_t)(area + page), 2);
	check(all(area + page, 'a'), "what was let go is not reached");
	check(!reach(file, OWN, page, 1), "a page again");
	memset(area + page, 's', LEN);
	check(device_reads(area + page) != 's', "what was let go is not read");
	check(!reach(file, area + page, page, 0), "memory can be prefaulted to read");
	check(device_reads(area + page) == 's', "the device reads memory of the process");
	close(file);

	file = bind_process();
	load('h');
	close(file);
	transfer(BUFFER, HIGH | (uintptr_t)OWN, 2);
	check(all(OWN, 'h'), "after unbinding nothing changes");
	memset(OWN, 'a', LEN);
	transfer(BUFFER, HIGH | (uintptr_t)OWN, 2);
	check(all(OWN, 'a'), "after unbinding nothing is reached");
}

static void read_only(void)
{
	int file = bind_process();

	fresh();
	check(!reach(file, area, 16 * page, 0), "memory can be prefaulted to read");
	device_writes(HIGH | (uintptr_t)(area + 5 * page), 'h');
	check(all(area + 5 * page, 'a'), "what is prefaulted to read is not written to");
	memset(area + 6 * page, 'r', LEN);
	transfer(HIGH | (uintptr_t)(area + 6 * page), BUFFER, 0);
	device_lives('r');
	/* Who may write makes it writable for as long as he holds it. */
	check(!reach(file, area + 5 * page, page, 1), "and to write besides");
	device_writes(HIGH | (uintptr_t)(area + 5 * page), 's');
	check(all(area + 5 * page, 's'), "now it is written to");
	check(!let_go(file), "it was live to the end");
	check(!reach(file, OWN, page, 1), "a page again");

	if (mprotect(area, page, PROT_READ))
		err(1, "mprotect");
	check(reach(file, area, page, 1) == EFAULT, "a page that the process may not write is refused");
	check(!reach(file, area, page, 0), "to read it is not");
	if (mprotect(area + 2 * page, page, PROT_NONE))
		err(1, "mprotect");
	check(reach(file, area + page, 3 * page, 0) == EFAULT, "a guard page is refused");
	munmap(area + 8 * page, page);
	check(reach(file, area + 7 * page, 3 * page, 0) == EFAULT, "a hole is refused");
	device_writes(HIGH | (uintptr_t)(area + 7 * page), 't');
	check(all(area + 7 * page, 'a'), "what was refused is not reached");
	device_lives('t');
	close(file);

	/* What the process itself may do later is another matter. */
	file = bind_process();
	fresh();
	check(!reach(file, area, 4 * page, 1), "memory can be prefaulted");
	for (int prot = PROT_READ; prot >= PROT_NONE; prot--) {
		if (mprotect(area + page, page, prot))
			err(1, "mprotect");
		device_writes(HIGH | (uintptr_t)(area + page), 'u' + prot);
	}
	if (mprotect(area + page, page, PROT_READ))
		err(1, "mprotect");
	check(all(area + page, 'u'), "mprotect takes nothing away");
	check(!let_go(file), "it was live to the end");
	close(file);
}

/* Memory that the process gives up while the device may use it, or uses it. */
static void taken_away(void)
{
	static const char *const ways[] = { "munmap", "MADV_DONTNEED", "mremap", "a new mapping" };
	char *page_6 = area + 6 * page;

	for (int way = 0; way < 8; way++) {
		int under_way = way / 4, file = bind_process();

		fresh();
		check(!reach(file, area, 16 * page, 1), "memory can be prefaulted");
		device_writes(HIGH | (uintptr_t)page_6, 'i');
		check(all(page_6, 'i'), "before the page is given up it is reached");
		load('k');
		if (under_way) {
			reg(SOURCE, BUFFER);
			reg(DESTINATION, HIGH | (uintptr_t)page_6);
			reg(COUNT, LEN);
			reg(COMMAND, 3);
		}
		switch (way % 4) {
		case 0:
			munmap(page_6, page);
			break;
		case 1:
			madvise(page_6, page, MADV_DONTNEED);
			break;
		case 2:
			if (mremap(page_6, page, page, MREMAP_MAYMOVE | MREMAP_FIXED, area + 32 * page) == MAP_FAILED)
				err(1, "mremap");
		}
		if (way % 4 != 1 && mmap(page_6, page, PROT_READ | PROT_WRITE,
					 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) != page_6)
			err(1, "mmap");
		memset(page_6, 'j', LEN);
		while (is_busy())
			usleep(2000);
		transfer(BUFFER, HIGH | (uintptr_t)page_6, 2);
		check(all(page_6, 'j'), ways[way % 4]);
		device_lives('k');
		/* The page that was there has the one or the other. */
		check(!strchr("ijk", device_reads(page_6) ?: '0'), "what is given up is not read");
		check(let_go(file) == ESTALE, "the driver is told");
		close(file);
	}
	munmap(area + 32 * page, page);
}

/* A child has memory of its own, and cannot use the bond of its parent. */
static void fork_and_others(void)
{
	int file = bind_process(), status, ready[2], go[2];
	char byte;
	pid_t child;

	fresh();
	if (pipe(ready) || pipe(go))
		err(1, "pipe");
	check(!reach(file, area, 16 * page, 1), "memory can be prefaulted");
	child = fork();
	if (!child) {
		if (reach(file, area, page, 0) != EXDEV || open("/dev/rust-sva-copy", O_RDWR) >= 0 || errno != EBUSY)
			_exit(4);
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
	check(!let_go(file), "it was live to the end");
	close(file);
}

static void limits(void)
{
	struct rlimit few = { .rlim_cur = 5 * page, .rlim_max = 5 * page };
	pid_t child = fork();
	int status;

	if (!child) {
		int file;

		if (setrlimit(RLIMIT_MEMLOCK, &few) || setuid(1000))
			err(1, "setrlimit");
		fresh();
		file = bind_process();
		check(reach(file, area, 5 * page, 1) == ENOMEM, "more than RLIMIT_MEMLOCK is refused");
		check(!reach(file, area, 4 * page, 1), "as much as that is not");
		check(reach(file, area, page, 1) == ENOMEM, "what is held counts");
		check(!let_go(file), "it was live to the end");
		check(!reach(file, area, 5 * page, 1), "and it is given back");
		_exit(0);
	}
	if (child < 0 || waitpid(child, &status, 0) != child)
		err(1, "fork");
	check(status == 0, "limits of locked memory");
}

static char *map_at(char *at, size_t size, int prot, int flags, int fd)
{
	char *got = mmap(at, size, prot, flags | MAP_FIXED, fd, 0);

	if (got != at)
		err(1, "mmap");
	return got;
}

static void writes_all_over(int file, char *at, size_t size, char pattern, const char *kind)
{
	check(!reach(file, at, size, 1), kind);
	for (size_t offset = 0; offset < size; offset += size / 4) {
		device_writes(HIGH | (uintptr_t)(at + offset), pattern);
		check(all(at + offset, pattern), kind);
	}
}

/* How many bytes of a field the mapping at an address has. */
static size_t has(const char *at, const char *field)
{
	FILE *smaps = fopen("/proc/self/smaps", "r");
	size_t amount = 0, length = strlen(field);
	unsigned long first, end;
	char line[256];
	int here = 0;

	while (smaps && fgets(line, sizeof(line), smaps)) {
		if (sscanf(line, "%lx-%lx ", &first, &end) == 2)
			here = first <= (uintptr_t)at && (uintptr_t)at < end;
		else if (here && !strncmp(line, field, length))
			amount = strtoul(line + length, NULL, 10) << 10;
	}
	if (!smaps)
		err(1, "smaps");
	fclose(smaps);
	return amount;
}

/* How large transparent huge pages are, if there are any. */
static size_t huge_size(void)
{
	FILE *file = fopen("/sys/kernel/mm/transparent_hugepage/hpage_pmd_size", "r");
	size_t size = 0;

	if (file && fscanf(file, "%zu", &size) != 1)
		size = 0;
	if (file)
		fclose(file);
	return size;
}

static void child_comes_and_goes(void)
{
	int status;
	pid_t child = fork();

	if (!child)
		_exit(0);
	if (child < 0 || waitpid(child, &status, 0) != child)
		err(1, "fork");
}

static void kinds(void)
{
	const size_t huge = 2 << 20;
	char *at = (char *)0x180000000;
	int file = bind_process(), fd, is_huge = huge_size() == huge;

	/* One of which half is held: a fork and what becomes of the rest leave that alone. */
	map_at(at, huge, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1);
	madvise(at, huge, MADV_HUGEPAGE);
	writes_all_over(file, at, huge / 2, 'I', "half a huge page");
	check(has(at, "AnonHugePages:") == (is_huge ? huge : 0), "it is a huge page");
	if (!is_huge)
		skipped = "; skipped: transparent huge pages";
	child_comes_and_goes();
	madvise(at + huge / 2, page, MADV_DONTNEED);
	load('J');
	transfer(BUFFER, HIGH | (uintptr_t)(at + page), 2);
	check(all(at + page, 'J'), "it is reached after a fork, and when the other half is given up");
	check(!let_go(file), "it was live to the end");
	check(!reach(file, OWN, page, 1), "a page again");
	munmap(at, huge);

	/* Held in two pieces. */
	map_at(at - 2 * page, 4 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1);
	writes_all_over(file, at - 2 * page, 4 * page, 'K', "across a gigabyte");
	munmap(at + page, page);
	check(let_go(file) == ESTALE, "the driver is told");
	check(!reach(file, OWN, page, 1), "a page again");
	munmap(at - 2 * page, 3 * page);

	/* A huge page that breaks in pieces. */
	map_at(at, huge, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1);
	madvise(at, huge, MADV_HUGEPAGE);
	writes_all_over(file, at, huge, 'A', "transparent huge pages");
	check(has(at, "AnonHugePages:") == (is_huge ? huge : 0), "it is a huge page");
	madvise(at + 2 * page, page, MADV_DONTNEED);
	load('B');
	transfer(BUFFER, HIGH | (uintptr_t)(at + 2 * page), 2);
	check(!at[2 * page], "a piece of a huge page is given up");
	device_lives('B');
	check(let_go(file) == ESTALE, "the driver is told");
	check(!reach(file, OWN, page, 1), "a page again");
	munmap(at, huge);

	/* Only if the test has set such pages aside. */
	if (mmap(at, huge, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB | MAP_FIXED, -1, 0) == at) {
		writes_all_over(file, at, huge, 'C', "hugetlbfs");
		check(has(at, "Private_Hugetlb:") == huge, "it is a huge page");
		child_comes_and_goes();
		load('L');
		transfer(BUFFER, HIGH | (uintptr_t)(at + page), 2);
		check(all(at + page, 'L'), "hugetlbfs is reached after a fork");
		check(!let_go(file), "a fork takes nothing away");
		check(!reach(file, OWN, page, 1) && !reach(file, at, huge, 1), "once more");
		munmap(at, huge);
		check(let_go(file) == ESTALE, "the driver is told");
		check(!reach(file, OWN, page, 1), "a page again");
	} else {
		skipped = is_huge ? "; skipped: hugetlbfs" : "; skipped: huge pages";
	}

	/* A private mapping is written to, and the file is not; a shared one is the file. */
	fd = memfd_create("file", 0);
	if (fd < 0 || ftruncate(fd, 8 * page))
		err(1, "memfd");
	map_at(at, 8 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd);
	map_at(at + 8 * page, 8 * page, PROT_READ | PROT_WRITE, MAP_SHARED, fd);
	writes_all_over(file, at, 8 * page, 'D', "a private file mapping");
	check(!at[8 * page], "the file is as before");
	writes_all_over(file, at + 8 * page, 8 * page, 'E', "a shared file mapping");
	if (ftruncate(fd, 0) || ftruncate(fd, 8 * page))
		err(1, "ftruncate");
	load('F');
	transfer(BUFFER, HIGH | (uintptr_t)(at + 8 * page), 2);
	check(!at[8 * page], "what was cut off the file is not reached");
	device_lives('F');
	check(let_go(file) == ESTALE, "the driver is told");
	check(!reach(file, OWN, page, 1), "a page again");
	munmap(at, 16 * page);
	close(fd);

	/* The kernel has to know who writes to the page cache of a disk. */
	fd = open("/dev/nvme0n1", O_RDWR);
	map_at(at, page, PROT_READ | PROT_WRITE, MAP_SHARED, fd);
	check(reach(file, at, page, 1) == EFAULT, "a file on a disk cannot be written to");
	check(!reach(file, at, page, 0), "it can be read");
	memcpy(OWN, at, LEN);
	transfer(HIGH | (uintptr_t)at, BUFFER, 0);
	transfer(BUFFER, HIGH | (uintptr_t)(OWN + LEN), 2);
	check(!memcmp(OWN, OWN + LEN, LEN), "what is read is the file");
	map_at(at + page, page, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd);
	writes_all_over(file, at + page, page, 'H', "a private mapping of a disk");
	check(!memcmp(OWN + LEN, at, LEN), "the disk is as before");
	check(!let_go(file), "it was live to the end");
	check(!reach(file, OWN, page, 1), "a page again");
	munmap(at, 2 * page);
	close(fd);

	/* Registers are no memory. */
	map_at(at, page, PROT_READ | PROT_WRITE, MAP_SHARED, device);
	for (int writes = 0; writes < 2; writes++)
		check(reach(file, at, page, writes) == EFAULT, "registers of a device are refused");
	munmap(at, page);

	/* A stack that has grown. */
	map_at(at + 63 * page, page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_GROWSDOWN, -1);
	at[62 * page] = 1;
	writes_all_over(file, at + 62 * page, 2 * page, 'G', "a stack");
	check(!let_go(file), "it was live to the end");
	munmap(at + 62 * page, 2 * page);
	close(file);
}

/* The process exits or becomes another program; somebody else has the memory, too. */
static void gone(int how)
{
	int fd = memfd_create("shared", 0), status, ready[2];
	char *shared = (char *)0x180000000, byte;
	pid_t child;

	if (fd < 0 || ftruncate(fd, page) || pipe(ready))
		err(1, "memfd");
	map_at(shared, page, PROT_READ | PROT_WRITE, MAP_SHARED, fd);
	memset(shared, 'a', page);
	child = fork();
	if (!child) {
		int file = bind_process();

		check(!reach(file, shared, page, 1), "shared memory can be prefaulted");
		device_writes(HIGH | (uintptr_t)shared, 'b');
		check(all(shared, 'b'), "it is reached");
		load('c');
		reg(SOURCE, BUFFER);
		reg(DESTINATION, HIGH | (uintptr_t)shared);
		reg(COUNT, LEN);
		if (how == SIGKILL) {
			reg(COMMAND, 3);
			kill(getpid(), SIGKILL);
		}
		dup2(ready[1], 1);
		execl("/bin/sh", "sh", "-c", "echo; read byte", NULL);
		_exit(1);
	}
	if (child < 0)
		err(1, "fork");
	if (how == SIGKILL) {
		if (waitpid(child, &status, 0) != child)
			err(1, "waitpid");
		check(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL, "it was killed");
	} else if (read(ready[0], &byte, 1) != 1) {
		errx(1, "the child did not become another program");
	}
	while (is_busy())
		usleep(2000);
	memset(shared, 'd', page);
	transfer(BUFFER, HIGH | (uintptr_t)shared, 2);
	check(all(shared, 'd'), how == SIGKILL ? "nothing is reached after the exit" : "nor after exec");
	if (how != SIGKILL) {
		kill(child, SIGKILL);
		waitpid(child, &status, 0);
	}
	munmap(shared, page);
	close(fd);
	close(ready[0]);
	close(ready[1]);
}

/* The device goes while it reaches memory. */
static void waits(void)
{
	int file = bind_process();

	memset(OWN, 'a', LEN);
	check(!ask(file, 2, OWN + LEN, (uintptr_t)OWN, LEN) && all(OWN + LEN, 'a'), "the driver copies");
	puts("holds");
	fflush(stdout);
	getchar();
	check(ask(file, 2, OWN + LEN, (uintptr_t)OWN, LEN) == ENODEV, "the device is gone");
	check(reach(file, OWN, page, 1) == ENODEV, "and reaches nothing more");
	check(let_go(file) == ESTALE, "nor what it reached before");
}

/* Binds, prefaults and exits in all ways. */
static void rounds(int number)
{
	for (int round = 0; round < number; round++) {
		pid_t child = fork();
		int status;

		if (!child) {
			int file = open("/dev/rust-sva-copy", O_RDWR);

			fresh();
			if (file < 0 || reach(file, area, (1 + round % 16) * page, round & 1))
				_exit(1);
			if (round % 4 == 1 && let_go(file))
				_exit(2);
			if (round % 4 == 2)
				munmap(area, page);
			if (round % 4 == 3)
				kill(getpid(), SIGKILL);
			_exit(0);
		}
		if (child < 0 || waitpid(child, &status, 0) != child)
			err(1, "fork");
		check(status == (round % 4 == 3 ? SIGKILL : 0), "a round");
	}
}

int main(int argc, char **argv)
{
	char path[128];

	if (argc < 2)
		errx(2, "usage: svacheck BDF [ROUNDS | waits]");
	page = sysconf(_SC_PAGESIZE);
	snprintf(path, sizeof(path), "/sys/bus/pci/devices/%s/resource0", argv[1]);
	device = open(path, O_RDWR);
	regs = mmap(NULL, 0x100000, PROT_READ | PROT_WRITE, MAP_SHARED, device, 0);
	if (device < 0 || regs == MAP_FAILED)
		err(1, "%s", path);
	chmod("/dev/rust-sva-copy", 0666);
	map_at(OWN, page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1);
	if (argc > 2 && !strcmp(argv[2], "waits")) {
		waits();
	} else if (argc > 2) {
		rounds(atoi(argv[2]));
	} else {
		inside_and_outside();
		read_only();
		taken_away();
		fork_and_others();
		limits();
		kinds();
		gone(SIGKILL);
		gone(0);
	}
	printf("ok: %d checks%s\n", checks, skipped);
	return 0;
}
