// SPDX-License-Identifier: GPL-2.0
/*
 * Asks OPAL for a DMA window with pages of 8 KiB, which no PHB has, as an IOMMU
 * driver would: twelve times, for the PE of QEMU's edu.
 */
#include <linux/iommu.h>
#include <linux/module.h>
#include <linux/pci.h>
#include <asm/iommu-tce.h>
#include <asm/pci-bridge.h>

#define TIMES		12
#define LEVEL_BYTES	4096

static int __init refused_init(void)
{
	struct iommu_tce_window win = { .tces = 512, .page_shift = 13 };
	struct pci_dev *pdev = pci_get_device(0x1234, 0x11e8, NULL);
	struct iommu_table_group *table_group;
	struct pci_controller *phb;
	struct iommu_group *group;
	long ret;
	int i;

	if (!pdev)
		return -ENODEV;
	phb = pci_bus_to_host(pdev->bus);
	group = phb->controller_ops.device_group(phb, pdev);
	ret = PTR_ERR_OR_ZERO(group);
	if (ret)
		goto out;
	table_group = iommu_group_get_iommudata(group);
	iommu_group_put(group);

	for (i = 0; i < TIMES; i++)
		ret = table_group->tce_ops->open_window(table_group, &pdev->dev, 1, 0, 1,
							LEVEL_BYTES, &win);
	pr_info("%ld\n", ret);
out:
	pci_dev_put(pdev);
	/* It has nothing to do but this. */
	return ret ?: -EIO;
}
module_init(refused_init);

MODULE_DESCRIPTION("What OPAL refuses");
MODULE_LICENSE("GPL");
