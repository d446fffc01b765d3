// SPDX-License-Identifier: GPL-2.0
/*
 * Tells the kernel that all nvme controllers of QEMU can do ATS, which they
 * cannot. The IOMMU core then blocks them around a reset.
 */
#include <linux/module.h>
#include <linux/pci.h>

#define ATS_OFFSET	0x100	/* any offset will do: nobody enables it */

static int __init ats_init(void)
{
	struct pci_dev *pdev = NULL;

	for_each_pci_dev(pdev)
		if (pdev->class >> 8 == PCI_CLASS_STORAGE_EXPRESS >> 8 && !pdev->ats_cap)
			pdev->ats_cap = ATS_OFFSET;

	return 0;
}
module_init(ats_init);

static void __exit ats_exit(void)
{
}
module_exit(ats_exit);

MODULE_DESCRIPTION("Pretends that nvme controllers have ATS");
MODULE_LICENSE("GPL");
