// SPDX-License-Identifier: GPL-2.0
/*
 * A PCI driver that does nothing but own a DMA mapping, and that says so in
 * the log if anybody changes the way DMA is mapped while it is bound. It takes
 * QEMU's edu, or any other device by way of driver_override.
 *
 * Parameters make it behave like drivers that are difficult for an IOMMU
 * driver which is loaded late.
 */
#include <linux/delay.h>
#include <linux/dma-mapping.h>
#include <linux/kthread.h>
#include <linux/module.h>
#include <linux/pci.h>

static bool managed;
module_param(managed, bool, 0444);
MODULE_PARM_DESC(managed, "leave DMA to others, as pci-stub does");

static unsigned int probe_ms;
module_param(probe_ms, uint, 0444);
MODULE_PARM_DESC(probe_ms, "how long a probe takes");

static unsigned int fail;
module_param(fail, uint, 0444);
MODULE_PARM_DESC(fail, "if not 0: every so many-th probe fails");

static unsigned int hold_us;
module_param(hold_us, uint, 0444);
MODULE_PARM_DESC(hold_us, "if not 0: unbind after so long, again and again");

static unsigned int gap_us = 500;
module_param(gap_us, uint, 0444);
MODULE_PARM_DESC(gap_us, "bind again after so long");

static bool wants_reset;
module_param(wants_reset, bool, 0444);
MODULE_PARM_DESC(wants_reset, "has EEH reset the slot after any error");

/* What decides who maps the DMA of a device */
struct owner {
	const struct dma_map_ops *ops;
	struct iommu_group *group;
	struct iommu_table *table;
	dma_addr_t offset;
	u64 limit;
	bool bypass;
};

struct binding {
	struct owner owner;
	void *page;
	dma_addr_t addr;
};

static struct owner owner_of(struct device *dev)
{
	struct owner owner = {
		.ops = dev->dma_ops,
		.group = dev->iommu_group,
		.table = dev->archdata.iommu_table_base,
		.offset = dev->archdata.dma_offset,
		.limit = dev->bus_dma_limit,
		.bypass = dev_dma_ops_bypass(dev),
	};

	return owner;
}

static bool is_same(const struct owner *a, const struct owner *b)
{
	return a->ops == b->ops && a->group == b->group && a->table == b->table &&
	       a->offset == b->offset && a->limit == b->limit && a->bypass == b->bypass;
}

static atomic_t probes;

static int binder_probe(struct pci_dev *pdev, const struct pci_device_id *id)
{
	struct device *dev = &pdev->dev;
	struct binding *binding;

	if (probe_ms)
		msleep(probe_ms);
	if (fail && !(atomic_inc_return(&probes) % fail))
		return -ENODEV;
	if (managed)
		return 0;

	binding = devm_kzalloc(dev, sizeof(*binding), GFP_KERNEL);
	if (!binding)
		return -ENOMEM;
	if (dma_set_mask_and_coherent(dev, DMA_BIT_MASK(64)))
		return dev_err_probe(dev, -EIO, "no DMA\n");

	binding->page = (void *)devm_get_free_pages(dev, GFP_KERNEL, 0);
	if (!binding->page)
		return -ENOMEM;
	binding->addr = dma_map_single(dev, binding->page, PAGE_SIZE, DMA_BIDIRECTIONAL);
	if (dma_mapping_error(dev, binding->addr))
		return dev_err_probe(dev, -EIO, "no mapping\n");

	dev_info(dev, "holds %pad\n", &binding->addr);

	binding->owner = owner_of(dev);
	pci_set_drvdata(pdev, binding);

	return 0;
}

static void binder_remove(struct pci_dev *pdev)
{
	struct binding *binding = pci_get_drvdata(pdev);
	struct device *dev = &pdev->dev;
	struct owner now = owner_of(dev);
	dma_addr_t addr;

	if (!binding)
		return;

	if (!is_same(&binding->owner, &now))
		dev_err(dev, "DMA of a bound device changed hands: %ps, was %ps\n",
			now.ops, binding->owner.ops);

	dma_unmap_single(dev, binding->addr, PAGE_SIZE, DMA_BIDIRECTIONAL);

	/* The bus address tells a direct mapping from one in a table */
	addr = dma_map_single(dev, binding->page, PAGE_SIZE, DMA_BIDIRECTIONAL);
	if (dma_mapping_error(dev, addr)) {
		dev_err(dev, "nothing can be mapped any more\n");
		return;
	}
	if (addr >> 32 != binding->addr >> 32)
		dev_err(dev, "mapped at %pad, was at %pad\n", &addr, &binding->addr);
	dma_unmap_single(dev, addr, PAGE_SIZE, DMA_BIDIRECTIONAL);
}

static pci_ers_result_t binder_error_detected(struct pci_dev *pdev, pci_channel_state_t state)
{
	return PCI_ERS_RESULT_NEED_RESET;
}

static pci_ers_result_t binder_slot_reset(struct pci_dev *pdev)
{
	return PCI_ERS_RESULT_RECOVERED;
}

static const struct pci_error_handlers binder_error_handlers = {
	.error_detected = binder_error_detected,
	.slot_reset = binder_slot_reset,
};

static const struct pci_device_id binder_ids[] = {
	{ PCI_DEVICE(0x1234, 0x11e8) },
	{}
};

static struct pci_driver binder = {
	.name = "binder",
	.id_table = binder_ids,
	.probe = binder_probe,
	.remove = binder_remove,
	.driver = { .probe_type = PROBE_PREFER_ASYNCHRONOUS },
};

#define MAX_TASKS 8
static struct task_struct *tasks[MAX_TASKS];
static unsigned int nr_tasks;

static int binder_loop(void *data)
{
	struct pci_dev *pdev = data;
	unsigned long rounds = 0;

	while (!kthread_should_stop()) {
		fsleep(hold_us);
		device_release_driver(&pdev->dev);
		fsleep(gap_us);
		rounds += device_attach(&pdev->dev) == 1;
	}
	pci_info(pdev, "bound %lu times\n", rounds);
	pci_dev_put(pdev);

	return 0;
}

/* A thread for each device binds and unbinds it. */
static int start_loops(void)
{
	struct pci_dev *pdev = NULL;
	struct task_struct *task;

	while (nr_tasks < MAX_TASKS &&
	       (pdev = pci_get_device(binder_ids->vendor, binder_ids->device, pdev))) {
		task = kthread_run(binder_loop, pci_dev_get(pdev), "binder/%s", pci_name(pdev));
		if (IS_ERR(task)) {
			pci_dev_put(pdev);
			pci_dev_put(pdev);
			return PTR_ERR(task);
		}
		tasks[nr_tasks++] = task;
	}
	pci_dev_put(pdev);

	return 0;
}

static void binder_exit(void)
{
	while (nr_tasks)
		kthread_stop(tasks[--nr_tasks]);
	pci_unregister_driver(&binder);
}
module_exit(binder_exit);

static int __init binder_init(void)
{
	int ret;

	binder.driver_managed_dma = managed;
	if (wants_reset)
		binder.err_handler = &binder_error_handlers;
	ret = pci_register_driver(&binder);
	if (ret || !hold_us)
		return ret;

	ret = start_loops();
	if (ret)
		binder_exit();

	return ret;
}
module_init(binder_init);

MODULE_DESCRIPTION("PCI driver that watches its DMA");
MODULE_LICENSE("GPL");
