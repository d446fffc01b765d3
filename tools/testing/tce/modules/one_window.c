// SPDX-License-Identifier: GPL-2.0
/*
 * Makes the PE of QEMU's edu look like an SR-IOV function of PowerVM: what it
 * may have beside the default DMA window is taken by a window that nobody uses.
 */
#include <linux/module.h>
#include <linux/of.h>
#include <linux/pci.h>
#include <asm/pci-bridge.h>
#include <asm/ppc-pci.h>
#include <asm/rtas.h>

#define CREATE_TOKEN	1	/* in ibm,ddw-applicable */
#define PAGE_4K		12
#define SIZE_256M	28

static int __init one_window_init(void)
{
	struct pci_dev *pdev = pci_get_device(0x1234, 0x11e8, NULL);
	struct pci_controller *phb;
	u32 token, window[4];
	int ret;

	if (!pdev)
		return -ENODEV;
	phb = pci_bus_to_host(pdev->bus);
	ret = of_property_read_u32_index(phb->dn, "ibm,ddw-applicable", CREATE_TOKEN, &token);
	if (!ret && rtas_call(token, 5, 4, window, pdev->bus->number << 16 | pdev->devfn << 8,
			      upper_32_bits(phb->buid), lower_32_bits(phb->buid), PAGE_4K, SIZE_256M))
		ret = -EIO;
	pci_dev_put(pdev);
	return ret;
}
module_init(one_window_init);

static void __exit one_window_exit(void)
{
}
module_exit(one_window_exit);

MODULE_DESCRIPTION("A PE with one DMA window");
MODULE_LICENSE("GPL");
