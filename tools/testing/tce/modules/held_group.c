// SPDX-License-Identifier: GPL-2.0
/* Holds the IOMMU group of a PCI device, as anyone may, until the module goes. */
#include <linux/iommu.h>
#include <linux/module.h>
#include <linux/pci.h>

static char *device;
module_param(device, charp, 0);
MODULE_PARM_DESC(device, "the address of the device, as sysfs has it");

static struct iommu_group *group;

static int __init held_group_init(void)
{
	struct device *dev = device ? bus_find_device_by_name(&pci_bus_type, NULL, device) : NULL;

	if (!dev)
		return -ENODEV;
	group = iommu_group_get(dev);
	put_device(dev);
	return group ? 0 : -ENODEV;
}
module_init(held_group_init);

static void __exit held_group_exit(void)
{
	iommu_group_put(group);
}
module_exit(held_group_exit);

MODULE_DESCRIPTION("An IOMMU group that somebody holds");
MODULE_LICENSE("GPL");
