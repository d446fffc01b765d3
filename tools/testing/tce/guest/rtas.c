// SPDX-License-Identifier: GPL-2.0
/*
 * rtas NAME RESULTS [ARGUMENT...]
 *
 * Calls a function of pseries firmware and prints its results, the status
 * first. The device tree has the token of each function by its name.
 */
#include <endian.h>
#include <err.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

/* What the system call takes and gives back, all of it big-endian */
struct call {
	uint32_t token, nargs, nret, words[16];
	uint64_t unused;
};

static uint32_t token_of(const char *name)
{
	char path[128];
	uint32_t token;
	FILE *file;

	snprintf(path, sizeof(path), "/proc/device-tree/rtas/%s", name);
	file = fopen(path, "r");
	if (!file || fread(&token, sizeof(token), 1, file) != 1)
		err(1, "%s", path);
	fclose(file);
	return token;
}

int main(int argc, char **argv)
{
	struct call call = {};
	int nargs = argc - 3, nret = argc < 3 ? 0 : atoi(argv[2]);

	if (argc < 3 || nargs + nret > 16)
		errx(2, "usage: rtas NAME RESULTS [ARGUMENT...]");
	call.token = token_of(argv[1]);
	call.nargs = htobe32(nargs);
	call.nret = htobe32(nret);
	for (int i = 0; i < nargs; i++)
		call.words[i] = htobe32(strtoul(argv[3 + i], NULL, 0));
	if (syscall(SYS_rtas, &call))
		err(1, "%s", argv[1]);
	for (int i = 0; i < nret; i++)
		printf("%d%c", (int32_t)be32toh(call.words[nargs + i]), i + 1 < nret ? ' ' : '\n');
	return call.words[nargs] != 0;
}
