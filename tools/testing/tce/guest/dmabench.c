// SPDX-License-Identifier: GPL-2.0
/*
 * dmabench BITS [PAGES]: maps and unmaps for one second with a DMA mask of BITS
 * on the device bound to dma_map_benchmark. Says "failed: why", or "ok" and how
 * many units of 100 ns map and unmap took.
 */
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <linux/types.h>

#include "../bench/marks.h"

/* include/uapi/linux/map_benchmark.h is newer than the C library's headers. */
struct map_benchmark {
	__u64 avg_map_100ns;
	__u64 map_stddev;
	__u64 avg_unmap_100ns;
	__u64 unmap_stddev;
	__u32 threads;
	__u32 seconds;
	__s32 node;
	__u32 dma_bits;
	__u32 dma_dir;
	__u32 dma_trans_ns;
	__u32 granule;
	__u8 map_mode;
	__u8 expansion[75];
};

#define DMA_MAP_BENCHMARK _IOWR('d', 1, struct map_benchmark)

int main(int argc, char **argv)
{
	struct map_benchmark request = { .threads = 1, .seconds = 1, .node = -1, .granule = 1 };
	int fd;

	if (argc < 2)
		errx(2, "usage: dmabench BITS [PAGES]");
	request.dma_bits = atoi(argv[1]);
	if (argc > 2)
		request.granule = atoi(argv[2]);
	fd = open("/sys/kernel/debug/dma_map_benchmark", O_RDWR);
	if (fd < 0)
		err(2, "dma_map_benchmark (is a device bound to it?)");
	if (ioctl(fd, DMA_MAP_BENCHMARK, &request)) {
		printf("failed: %s\n", strerror(errno));
		return 1;
	}
	printf("ok: map %llu, unmap %llu\n", (unsigned long long)request.avg_map_100ns,
	       (unsigned long long)request.avg_unmap_100ns);
	mark(MARK_WRITE);
	return 0;
}
