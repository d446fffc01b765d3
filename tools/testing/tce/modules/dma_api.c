// SPDX-License-Identifier: GPL-2.0
/*
 * Uses the DMA API for QEMU's edu devices and says in the log what came of it.
 *
 * insmod dma_api.ko do=count|share|queue|transfer|resource [bits= size= n= cpus= later=]
 */
#include <linux/delay.h>
#include <linux/dma-mapping.h>
#include <linux/io.h>
#include <linux/module.h>
#include <linux/pci.h>
#include <linux/smp.h>
#include <linux/swab.h>
#include <linux/vmalloc.h>

/* Registers, big-endian below POWER, and the buffer as the device addresses it */
#define EDU_BUFFER	0x40000
#define EDU_SOURCE	0x80
#define EDU_TARGET	0x88
#define EDU_COUNT	0x90
#define EDU_COMMAND	0x98
#define EDU_START	BIT(0)
#define EDU_TO_MEMORY	BIT(1)

static char *what = "count";
module_param_named(do, what, charp, 0);
static int bits = 32;
module_param(bits, int, 0);
static int size = 2048;
module_param(size, int, 0);
static int n = 1000;
module_param(n, int, 0);
/* For "queue": on how many CPUs at a time */
static int cpus = 1;
module_param(cpus, int, 0);
/* For "share": the mappings of the first device after the second took its own */
static int later = 1000;
module_param(later, int, 0);

static struct pci_dev *edu[2];
static struct page *memory;
static atomic_t refused;

/* Maps the memory up to @count times */
static int map_many(struct pci_dev *pdev, dma_addr_t *addr, int count)
{
	int i;

	for (i = 0; i < count; i++) {
		addr[i] = dma_map_page(&pdev->dev, memory, 0, size, DMA_BIDIRECTIONAL);
		if (dma_mapping_error(&pdev->dev, addr[i]))
			break;
	}
	return i;
}

static void unmap_many(struct pci_dev *pdev, const dma_addr_t *addr, int count)
{
	while (count--)
		dma_unmap_page(&pdev->dev, addr[count], size, DMA_BIDIRECTIONAL);
}

/* How many of the addresses every device reaches */
static int count_low(const dma_addr_t *addr, int count)
{
	int low = 0;

	while (count--)
		low += addr[count] < BIT_ULL(32);
	return low;
}

static void count(dma_addr_t *addr)
{
	int mapped = map_many(edu[0], addr, n);

	pci_info(edu[0], "dma_api: mapped %d low %d first %#llx\n", mapped,
		 count_low(addr, mapped), mapped ? (u64)addr[0] : 0);
	unmap_many(edu[0], addr, mapped);
}

/* The first device fills the caches with its addresses, and wants some again after the second. */
static void share(dma_addr_t *addr)
{
	int first, second, again, low;

	dma_set_mask_and_coherent(&edu[1]->dev, DMA_BIT_MASK(64));
	first = map_many(edu[0], addr, n);
	unmap_many(edu[0], addr, first);
	second = map_many(edu[1], addr, n);
	low = count_low(addr, second);
	again = map_many(edu[0], addr + second, later);
	pci_info(edu[1], "dma_api: first %d second %d low %d again %d\n", first, second, low, again);
	unmap_many(edu[0], addr + second, again);
	unmap_many(edu[1], addr, second);
}

/* On each CPU with interrupts off, so that no timer empties a flush queue */
static void map_and_unmap(void *unused)
{
	dma_addr_t addr;

	if (smp_processor_id() >= cpus)
		return;
	for (int i = 0; i < n; i++) {
		if (map_many(edu[0], &addr, 1))
			unmap_many(edu[0], &addr, 1);
		else
			atomic_inc(&refused);
	}
}

static void edu_dma(void __iomem *bar, u64 source, u64 target, u32 command)
{
	writeq(swab64(source), bar + EDU_SOURCE);
	writeq(swab64(target), bar + EDU_TARGET);
	writeq(swab64(256), bar + EDU_COUNT);
	writeq(swab64(command | EDU_START), bar + EDU_COMMAND);
	/* The device takes 100 ms */
	for (int i = 0; i < 500 && swab64(readq(bar + EDU_COMMAND)) & EDU_START; i++)
		msleep(10);
}

/* To the device and back, by its own DMA */
static void transfer(void)
{
	u8 *from = page_address(memory), *to = from + 1024;
	void __iomem *bar;
	dma_addr_t addr;

	if (pci_enable_device_mem(edu[0]))
		return;
	pci_set_master(edu[0]);
	bar = pci_iomap(edu[0], 0, 0);
	if (bar && map_many(edu[0], &addr, 1)) {
		for (int i = 0; i < 256; i++)
			from[i] = i ^ 0x5a;
		edu_dma(bar, addr, EDU_BUFFER, 0);
		edu_dma(bar, EDU_BUFFER, addr + 1024, EDU_TO_MEMORY);
		unmap_many(edu[0], &addr, 1);
		pci_info(edu[0], "dma_api: transfer at %#llx %s\n", (u64)addr,
			 memcmp(from, to, 256) ? "wrong" : "right");
	}
	if (bar)
		pci_iounmap(edu[0], bar);
	pci_clear_master(edu[0]);
	pci_disable_device(edu[0]);
}

/* A BAR of the second device for the first */
static void resource(void)
{
	dma_addr_t addr = dma_map_resource(&edu[0]->dev, pci_resource_start(edu[1], 0),
					   PAGE_SIZE, DMA_BIDIRECTIONAL, 0);

	if (dma_mapping_error(&edu[0]->dev, addr)) {
		pci_info(edu[0], "dma_api: resource refused\n");
		return;
	}
	pci_info(edu[0], "dma_api: resource at %#llx\n", (u64)addr);
	dma_unmap_resource(&edu[0]->dev, addr, PAGE_SIZE, DMA_BIDIRECTIONAL, 0);
}

static int __init dma_api_init(void)
{
	dma_addr_t *addr = vmalloc(array_size(n + later, sizeof(*addr)));
	int ret = -ENODEV;

	memory = alloc_pages(GFP_KERNEL | __GFP_COMP, get_order(size));
	edu[0] = pci_get_device(0x1234, 0x11e8, NULL);
	edu[1] = pci_get_device(0x1234, 0x11e8, pci_dev_get(edu[0])) ?: pci_dev_get(edu[0]);
	if (!addr || !memory || !edu[0])
		goto out;
	ret = dma_set_mask_and_coherent(&edu[0]->dev, DMA_BIT_MASK(bits));
	if (ret) {
		pci_info(edu[0], "dma_api: mask of %d bits refused: %d\n", bits, ret);
		goto out;
	}
	if (!strcmp(what, "share")) {
		share(addr);
	} else if (!strcmp(what, "queue")) {
		on_each_cpu(map_and_unmap, NULL, true);
		pci_info(edu[0], "dma_api: refused %d\n", atomic_read(&refused));
	} else if (!strcmp(what, "transfer")) {
		transfer();
	} else if (!strcmp(what, "resource")) {
		resource();
	} else {
		count(addr);
	}
out:
	pci_dev_put(edu[1]);
	pci_dev_put(edu[0]);
	if (memory)
		__free_pages(memory, get_order(size));
	vfree(addr);
	return ret;
}
module_init(dma_api_init);

static void __exit dma_api_exit(void)
{
}
module_exit(dma_api_exit);

MODULE_DESCRIPTION("Test of the DMA API with QEMU's edu");
MODULE_LICENSE("GPL");
