// SPDX-License-Identifier: GPL-2.0
/*
 * Makes the PE of QEMU's edu look like an SR-IOV function of PowerVM: what it
 * may have beside the default DMA window is taken by a window that nobody uses.
 */
#include <linux/iommu.h>
#include <linux/module.h>
#include <linux/of.h>
#include <linux/pci.h>
#include <asm/iommu-tce.h>
#include <asm/pci-bridge.h>
#include <asm/ppc-pci.h>
#include <asm/rtas.h>

#define CREATE_TOKEN	1	/* in ibm,ddw-applicable */
#define PAGE_4K		12
#define SIZE_256M	28

static const struct iommu_tce_ops *real;
static struct iommu_tce_ops narrow;
static struct iommu_table_group *table_group;

static int take_window(struct pci_dev *pdev)
{
	struct pci_controller *phb = pci_bus_to_host(pdev->bus);
	u32 token, window[4];

	if (of_property_read_u32_index(phb->dn, "ibm,ddw-applicable", CREATE_TOKEN, &token) ||
	    rtas_call(token, 5, 4, window, pdev->bus->number << 16 | pdev->devfn << 8,
		      upper_32_bits(phb->buid), lower_32_bits(phb->buid), PAGE_4K, SIZE_256M))
		return -EIO;
	return 0;
}

/* It is taken again if firmware was asked to restore what it starts with. */
static long narrow_set_platform(struct iommu_table_group *group, struct device *dev, bool on)
{
	long ret = real->set_platform(group, dev, on);

	if (!ret)
		take_window(to_pci_dev(dev));
	return ret;
}

static int __init one_window_init(void)
{
	struct pci_dev *pdev = pci_get_device(0x1234, 0x11e8, NULL);
	struct pci_controller *phb;
	struct iommu_group *group;
	int ret;

	if (!pdev)
		return -ENODEV;
	phb = pci_bus_to_host(pdev->bus);
	group = phb->controller_ops.device_group(phb, pdev);
	ret = PTR_ERR_OR_ZERO(group);
	if (ret)
		goto out;
	table_group = iommu_group_get_iommudata(group);
	iommu_group_put(group);

	ret = take_window(pdev);
	if (ret)
		goto out;
	real = table_group->tce_ops;
	narrow = *real;
	narrow.set_platform = narrow_set_platform;
	table_group->tce_ops = &narrow;
out:
	pci_dev_put(pdev);
	return ret;
}
module_init(one_window_init);

static void __exit one_window_exit(void)
{
	table_group->tce_ops = real;
}
module_exit(one_window_exit);

MODULE_DESCRIPTION("A PE with one DMA window");
MODULE_LICENSE("GPL");
