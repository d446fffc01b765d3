// SPDX-License-Identifier: GPL-2.0
/*
 * Has the PHB of a PowerNV machine say that the PE of a device is frozen, as
 * after a bad DMA. QEMU keeps what the tables of its PHB say, so that firmware
 * and the kernel see a frozen PE, but it stops neither DMA nor MMIO.
 *
 * insmod freeze.ko dev=0000:01:00.0
 */
#include <linux/io.h>
#include <linux/module.h>
#include <linux/of_address.h>
#include <linux/pci.h>
#include <linux/stop_machine.h>
#include <asm/pci-bridge.h>

/* PHB4 and PHB5: the window to the tables, the tables, and their bits */
#define IODA_ADDR	0x220
#define IODA_DATA	0x228
#define IODA_TABLE(n)	((u64)(n) << 48)
#define PESTA		7
#define PESTB		8
#define PEEV		20
#define FROZEN		BIT_ULL(63)

static char *dev;
module_param(dev, charp, 0);
MODULE_PARM_DESC(dev, "address of the device");

struct place {
	void __iomem *regs;
	unsigned int pe;
};

/* Firmware uses the window too, so nobody else runs meanwhile */
static int freeze(void *data)
{
	struct place *place = data;
	u64 peev;

	out_be64(place->regs + IODA_ADDR, IODA_TABLE(PESTA) | place->pe);
	out_be64(place->regs + IODA_DATA, FROZEN);
	out_be64(place->regs + IODA_ADDR, IODA_TABLE(PESTB) | place->pe);
	out_be64(place->regs + IODA_DATA, FROZEN);
	out_be64(place->regs + IODA_ADDR, IODA_TABLE(PEEV) | place->pe / 64);
	peev = in_be64(place->regs + IODA_DATA);
	out_be64(place->regs + IODA_DATA, peev | FROZEN >> place->pe % 64);

	return 0;
}

static int __init freeze_init(void)
{
	unsigned int domain, bus, slot, function;
	struct device_node *node;
	struct pci_dev *pdev;
	struct place place;
	struct resource res;
	int ret = -ENODEV;

	if (!dev || sscanf(dev, "%x:%x:%x.%x", &domain, &bus, &slot, &function) != 4)
		return -EINVAL;
	pdev = pci_get_domain_bus_and_slot(domain, bus, PCI_DEVFN(slot, function));
	if (!pdev)
		return -ENODEV;

	node = pci_device_to_OF_node(pdev);
	if (!node || of_address_to_resource(pci_bus_to_host(pdev->bus)->dn, 0, &res))
		goto out;
	place.pe = PCI_DN(node)->pe_number;
	place.regs = ioremap(res.start, resource_size(&res));
	if (!place.regs)
		goto out;
	stop_machine(freeze, &place, NULL);
	iounmap(place.regs);
	pci_info(pdev, "PE %x is frozen\n", place.pe);
	ret = 0;
out:
	pci_dev_put(pdev);
	return ret;
}
module_init(freeze_init);

static void __exit freeze_exit(void)
{
}
module_exit(freeze_exit);

MODULE_DESCRIPTION("Freezes a PE");
MODULE_LICENSE("GPL");
