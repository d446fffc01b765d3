// SPDX-License-Identifier: GPL-2.0
/*
 * ddsum write DEVICE OFFSET LENGTH SEED: writes a pattern past the page cache.
 * ddsum read DEVICE OFFSET LENGTH: reads past the page cache.
 * Both print the CRC-32 (that of zlib) of the bytes and nothing else.
 */
#define _GNU_SOURCE
#include <err.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define CHUNK (1UL << 20)

static uint32_t table[4][256];

static void crc_init(void)
{
	for (unsigned int i = 0; i < 256; i++) {
		uint32_t c = i;

		for (int bit = 0; bit < 8; bit++)
			c = c & 1 ? c >> 1 ^ 0xedb88320 : c >> 1;
		table[0][i] = c;
	}
	for (unsigned int i = 0; i < 256; i++)
		for (int k = 1; k < 4; k++)
			table[k][i] = table[k - 1][i] >> 8 ^ table[0][table[k - 1][i] & 0xff];
}

/* @words is little-endian memory; four bytes at a time. */
static uint32_t crc_add(uint32_t crc, const uint32_t *words, size_t bytes)
{
	for (; bytes; bytes -= 4) {
		crc ^= *words++;
		crc = table[3][crc & 0xff] ^ table[2][crc >> 8 & 0xff] ^
		      table[1][crc >> 16 & 0xff] ^ table[0][crc >> 24];
	}
	return crc;
}

static uint64_t pattern;

static void fill(uint64_t *words, size_t bytes)
{
	for (size_t i = 0; i < bytes / 8; i++) {
		pattern ^= pattern << 13;
		pattern ^= pattern >> 7;
		pattern ^= pattern << 17;
		words[i] = pattern;
	}
}

int main(int argc, char **argv)
{
	int writing = argc == 6 && !strcmp(argv[1], "write");
	uint32_t crc = ~0u;
	off_t offset;
	size_t left;
	void *buffer;
	int fd;

	if (!writing && !(argc == 5 && !strcmp(argv[1], "read")))
		errx(2, "usage: ddsum write DEVICE OFFSET LENGTH SEED | read DEVICE OFFSET LENGTH");
	offset = strtoull(argv[3], NULL, 0);
	left = strtoull(argv[4], NULL, 0);
	if (left % 4096)
		errx(2, "the length is no multiple of 4096");
	if (writing)
		pattern = strtoull(argv[5], NULL, 0) * 0x9e3779b97f4a7c15ull | 1;
	fd = open(argv[2], (writing ? O_WRONLY : O_RDONLY) | O_DIRECT);
	if (fd < 0)
		err(1, "%s", argv[2]);
	if (posix_memalign(&buffer, 1 << 16, CHUNK))
		errx(1, "no memory");
	crc_init();
	while (left) {
		size_t bytes = left < CHUNK ? left : CHUNK;
		ssize_t done;

		if (writing) {
			fill(buffer, bytes);
			done = pwrite(fd, buffer, bytes, offset);
		} else {
			memset(buffer, 0, bytes);
			done = pread(fd, buffer, bytes, offset);
		}
		if (done != (ssize_t)bytes)
			err(1, "%s: moved %zd of %zu bytes at %lld", argv[2], done, bytes, (long long)offset);
		crc = crc_add(crc, buffer, bytes);
		offset += bytes;
		left -= bytes;
	}
	if (writing && fsync(fd))
		err(1, "%s: fsync", argv[2]);
	printf("%08x\n", ~crc);
	return 0;
}
