// SPDX-License-Identifier: GPL-2.0
/*
 * Makes handing the windows of a PE over take longer, for races that are hard
 * to meet otherwise.
 */
#include <linux/delay.h>
#include <linux/iommu.h>
#include <linux/module.h>
#include <linux/pci.h>
#include <asm/iommu-tce.h>
#include <asm/pci-bridge.h>

static unsigned int ms = 50;
module_param(ms, uint, 0644);
MODULE_PARM_DESC(ms, "how much longer");

static const struct iommu_tce_ops *real;
static struct iommu_tce_ops slow;

static long slow_set_platform(struct iommu_table_group *table_group,
			      struct device *dev, bool on)
{
	long ret;

	msleep(ms);
	ret = real->set_platform(table_group, dev, on);
	msleep(ms);

	return ret;
}

static void replace(const struct iommu_tce_ops *ops)
{
	struct pci_dev *pdev = NULL;

	for_each_pci_dev(pdev) {
		struct pci_controller *hose = pci_bus_to_host(pdev->bus);
		struct iommu_table_group *table_group;
		struct iommu_group *group;

		if (!hose->controller_ops.device_group)
			continue;
		group = hose->controller_ops.device_group(hose, pdev);
		if (IS_ERR_OR_NULL(group))
			continue;
		table_group = iommu_group_get_iommudata(group);
		iommu_group_put(group);
		if (!table_group || !table_group->tce_ops)
			continue;

		if (!real) {
			real = table_group->tce_ops;
			slow = *real;
			slow.set_platform = slow_set_platform;
		}
		table_group->tce_ops = ops ?: real;
	}
}

static int __init slow_init(void)
{
	replace(&slow);
	return real ? 0 : -ENODEV;
}
module_init(slow_init);

static void __exit slow_exit(void)
{
	replace(NULL);
}
module_exit(slow_exit);

MODULE_DESCRIPTION("Makes taking PEs over slow");
MODULE_LICENSE("GPL");
