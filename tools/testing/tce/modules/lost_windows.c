// SPDX-License-Identifier: GPL-2.0
/*
 * Has firmware restore the DMA windows of QEMU's edu as they were at boot, and
 * tells nobody: what a partition may find after it has moved.
 */
#include <linux/module.h>
#include <linux/of.h>
#include <linux/pci.h>
#include <asm/pci-bridge.h>
#include <asm/rtas.h>

#define RESET_EXTENSION	1	/* in ibm,ddw-extensions, behind their number */

static int __init lost_windows_init(void)
{
	struct pci_dev *pdev = pci_get_device(0x1234, 0x11e8, NULL);
	struct pci_controller *phb;
	u32 token;
	int ret;

	if (!pdev)
		return -ENODEV;
	phb = pci_bus_to_host(pdev->bus);
	ret = of_property_read_u32_index(phb->dn, "ibm,ddw-extensions", RESET_EXTENSION, &token);
	if (!ret && rtas_call(token, 3, 1, NULL, pdev->bus->number << 16 | pdev->devfn << 8,
			      upper_32_bits(phb->buid), lower_32_bits(phb->buid)))
		ret = -EIO;
	pci_dev_put(pdev);
	return ret;
}
module_init(lost_windows_init);

static void __exit lost_windows_exit(void)
{
}
module_exit(lost_windows_exit);

MODULE_DESCRIPTION("DMA windows that are gone");
MODULE_LICENSE("GPL");
