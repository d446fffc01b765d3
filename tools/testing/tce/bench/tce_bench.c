// SPDX-License-Identifier: GPL-2.0
/*
 * tce_bench: maps and unmaps through the DMA API, between the marks of marks.h.
 *
 * Bind a device to it by driver_override, then write to the file tce_bench in
 * debugfs:
 *
 *	mask BITS		the DMA mask of the device
 *	single BYTES COUNT WARM_UP	dma_map_single() and dma_unmap_single();
 *				interrupts are off, the parts are map and unmap
 *	sg ENTRIES COUNT WARM_UP	the same with dma_map_sg(), a page each
 *	stream BYTES COUNT WARM_UP	like single, interrupts on, all in the first part
 *	threads CPUS COUNT WARM_UP	like stream with a page, on so many CPUs at the same time
 *
 * WARM_UP operations come before what counts, so that caches are filled and
 * tables are there.
 *
 * The file reads as the DMA address of the last mapping. It works with any kind
 * of DMA and on any kernel.
 */
#include <linux/completion.h>
#include <linux/debugfs.h>
#include <linux/dma-mapping.h>
#include <linux/module.h>
#include <linux/pci.h>
#include <linux/scatterlist.h>
#include <linux/sizes.h>
#include <linux/slab.h>
#include <linux/uaccess.h>
#include <linux/workqueue.h>

#include "marks.h"

static struct pci_dev *bound;
static dma_addr_t last;
static DEFINE_MUTEX(lock);

static int single(struct device *dev, size_t bytes, unsigned int count, unsigned int warm_up,
		  bool stream)
{
	void *memory = alloc_pages_exact(PAGE_ALIGN(bytes), GFP_KERNEL);
	unsigned long flags;
	dma_addr_t address;
	int error = 0;

	if (!memory)
		return -ENOMEM;
	for (unsigned int i = 0; !error && i < warm_up + count; i++) {
		bool each = i >= warm_up && !stream;

		if (each)
			local_irq_save(flags);
		else if (i == warm_up)
			mark(MARK_FIRST);
		if (each)
			mark(MARK_FIRST);
		address = dma_map_single(dev, memory, bytes, DMA_TO_DEVICE);
		if (each)
			mark(MARK_STOP);
		error = dma_mapping_error(dev, address);
		if (each && !error)
			mark(MARK_SECOND);
		if (!error)
			dma_unmap_single(dev, address, bytes, DMA_TO_DEVICE);
		if (each) {
			mark(MARK_STOP);
			local_irq_restore(flags);
		}
	}
	mark(MARK_STOP);
	last = address;
	free_pages_exact(memory, PAGE_ALIGN(bytes));
	return error;
}

/* The same page in each entry, so that no two are neighbours in memory. */
static int sg(struct device *dev, unsigned int entries, unsigned int count, unsigned int warm_up)
{
	struct page *page = alloc_page(GFP_KERNEL);
	struct scatterlist *entry;
	struct sg_table table;
	unsigned long flags;
	unsigned int i;
	int error;

	if (!page)
		return -ENOMEM;
	error = sg_alloc_table(&table, entries, GFP_KERNEL);
	if (error)
		goto free_page;
	for_each_sg(table.sgl, entry, entries, i)
		sg_set_page(entry, page, PAGE_SIZE, 0);
	for (i = 0; !error && i < warm_up + count; i++) {
		local_irq_save(flags);
		if (i >= warm_up)
			mark(MARK_FIRST);
		error = dma_map_sg(dev, table.sgl, entries, DMA_TO_DEVICE) ? 0 : -EIO;
		mark(MARK_STOP);
		last = sg_dma_address(table.sgl);
		if (!error) {
			if (i >= warm_up)
				mark(MARK_SECOND);
			dma_unmap_sg(dev, table.sgl, entries, DMA_TO_DEVICE);
			mark(MARK_STOP);
		}
		local_irq_restore(flags);
	}
	sg_free_table(&table);
free_page:
	__free_page(page);
	return error;
}

/* What the CPUs of a measurement share. */
struct crowd {
	struct device *dev;
	unsigned int count, warm_up;
	atomic_t coming, working;
	struct completion go;
};

struct one {
	struct work_struct work;
	struct crowd *crowd;
	int error;
};

static int map_often(struct device *dev, void *memory, unsigned int count)
{
	dma_addr_t address;

	while (count--) {
		address = dma_map_single(dev, memory, PAGE_SIZE, DMA_TO_DEVICE);
		if (dma_mapping_error(dev, address))
			return -ENOMEM;
		WRITE_ONCE(last, address);
		dma_unmap_single(dev, address, PAGE_SIZE, DMA_TO_DEVICE);
	}
	return 0;
}

static void on_one(struct work_struct *work)
{
	struct one *one = container_of(work, struct one, work);
	struct crowd *crowd = one->crowd;
	void *memory = (void *)__get_free_page(GFP_KERNEL);

	one->error = memory ? map_often(crowd->dev, memory, crowd->warm_up) : -ENOMEM;
	if (atomic_dec_and_test(&crowd->coming)) {
		mark(MARK_FIRST);
		complete_all(&crowd->go);
	}
	wait_for_completion(&crowd->go);
	if (!one->error)
		one->error = map_often(crowd->dev, memory, crowd->count);
	if (atomic_dec_and_test(&crowd->working))
		mark(MARK_STOP);
	free_page((unsigned long)memory);
}

static int threads(struct device *dev, unsigned int cpus, unsigned int count, unsigned int warm_up)
{
	struct crowd crowd = {
		.dev = dev, .count = count, .warm_up = warm_up,
		.coming = ATOMIC_INIT(cpus), .working = ATOMIC_INIT(cpus),
		.go = COMPLETION_INITIALIZER_ONSTACK(crowd.go),
	};
	struct workqueue_struct *queue;
	struct one *all;
	int error = 0;

	if (cpus > num_online_cpus() || cpumask_last(cpu_online_mask) >= num_online_cpus())
		return -EINVAL;
	all = kcalloc(cpus, sizeof(*all), GFP_KERNEL);
	queue = alloc_workqueue("tce_bench", WQ_PERCPU | WQ_CPU_INTENSIVE, 0);
	if (!all || !queue) {
		error = -ENOMEM;
		goto out;
	}
	for (unsigned int cpu = 0; cpu < cpus; cpu++) {
		INIT_WORK(&all[cpu].work, on_one);
		all[cpu].crowd = &crowd;
		queue_work_on(cpu, queue, &all[cpu].work);
	}
	for (unsigned int cpu = 0; cpu < cpus; cpu++) {
		flush_work(&all[cpu].work);
		error = error ?: all[cpu].error;
	}
out:
	if (queue)
		destroy_workqueue(queue);
	kfree(all);
	return error;
}

static int command(struct device *dev, const char *text)
{
	unsigned int count = 0, warm_up = 0;
	unsigned long size;
	char what[8];
	int error;

	if (sscanf(text, "%7s %lu %u %u", what, &size, &count, &warm_up) < 2 || !size)
		return -EINVAL;
	if (!strcmp(what, "mask"))
		return dma_set_mask_and_coherent(dev, DMA_BIT_MASK(size));
	if (!strcmp(what, "sg"))
		error = sg(dev, size, count, warm_up);
	else if (!strcmp(what, "threads"))
		error = threads(dev, size, count, warm_up);
	else if (!strcmp(what, "single") || !strcmp(what, "stream"))
		error = single(dev, size, count, warm_up, what[1] == 't');
	else
		return -EINVAL;
	mark(MARK_WRITE);
	return error;
}

static ssize_t bench_write(struct file *file, const char __user *from, size_t length, loff_t *offset)
{
	char text[32];
	ssize_t ret;

	ret = simple_write_to_buffer(text, sizeof(text) - 1, offset, from, length);
	if (ret < 0)
		return ret;
	text[ret] = 0;
	guard(mutex)(&lock);
	ret = bound ? command(&bound->dev, text) : -ENODEV;
	return ret ?: length;
}

static ssize_t bench_read(struct file *file, char __user *to, size_t length, loff_t *offset)
{
	char text[32];

	return simple_read_from_buffer(to, length, offset, text, scnprintf(text, sizeof(text), "%pad\n", &last));
}

static const struct file_operations bench_operations = {
	.owner = THIS_MODULE,
	.write = bench_write,
	.read = bench_read,
};

static int bench_probe(struct pci_dev *pdev, const struct pci_device_id *id)
{
	int error = pci_enable_device(pdev);

	if (error)
		return error;
	pci_set_master(pdev);
	guard(mutex)(&lock);
	bound = pdev;
	return 0;
}

static void bench_remove(struct pci_dev *pdev)
{
	guard(mutex)(&lock);
	if (bound == pdev)
		bound = NULL;
	pci_disable_device(pdev);
}

static struct pci_driver bench_driver = {
	.name = "tce_bench",
	.probe = bench_probe,
	.remove = bench_remove,
};

static struct dentry *bench_file;

static int __init bench_init(void)
{
	bench_file = debugfs_create_file("tce_bench", 0600, NULL, NULL, &bench_operations);
	return pci_register_driver(&bench_driver);
}
module_init(bench_init);

static void __exit bench_exit(void)
{
	debugfs_remove(bench_file);
	pci_unregister_driver(&bench_driver);
}
module_exit(bench_exit);

MODULE_DESCRIPTION("Measures the DMA API");
MODULE_LICENSE("GPL");
