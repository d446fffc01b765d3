// SPDX-License-Identifier: GPL-2.0
/*
 * svacopy: has a device copy between two places of this program, with the
 * sample rust_sva_copy. Says how many bytes were copied.
 */
#include <err.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* Not on the stack: a small DMA window reaches only low addresses. */
static char source[3000], destination[3000];

static void ask(int fd, uint64_t what, const void *a, uint64_t b, uint64_t c)
{
	uint64_t request[4] = { what, (uintptr_t)a, b, c };

	if (write(fd, request, sizeof(request)) != sizeof(request))
		err(1, "request %llu", (unsigned long long)what);
}

int main(void)
{
	int fd = open("/dev/rust-sva-copy", O_RDWR);
	uint64_t copied;

	if (fd < 0)
		err(1, "/dev/rust-sva-copy");
	for (size_t i = 0; i < sizeof(source); i++)
		source[i] = i * 7;
	ask(fd, 1, source, sizeof(source), 0);
	ask(fd, 1, destination, sizeof(destination), 1);
	ask(fd, 2, destination, (uintptr_t)source, sizeof(source));
	if (read(fd, &copied, sizeof(copied)) != sizeof(copied))
		errx(1, "no answer");
	if (copied != sizeof(source) || memcmp(source, destination, sizeof(source)))
		errx(1, "the copy is not right");
	printf("%llu bytes\n", (unsigned long long)copied);
	return 0;
}
