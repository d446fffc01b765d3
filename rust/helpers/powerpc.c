// SPDX-License-Identifier: GPL-2.0

#include <linux/io.h>
#include <linux/kmemleak.h>

__rust_helper phys_addr_t rust_helper_virt_to_phys(void *address)
{
	return virt_to_phys(address);
}

__rust_helper void *rust_helper_phys_to_virt(phys_addr_t address)
{
	return phys_to_virt(address);
}

__rust_helper void rust_helper_kmemleak_ignore(const void *ptr)
{
	kmemleak_ignore(ptr);
}

#ifdef CONFIG_PPC64

#include <linux/crash_dump.h>
#include <linux/device.h>
#include <linux/memblock.h>
#include <asm/iommu.h>
#include <asm/mmzone.h>
#include <asm/plpar_wrappers.h>
#include <asm/svm.h>

__rust_helper void rust_helper_dev_clear_dma_ops_bypass(struct device *dev)
{
	dev_clear_dma_ops_bypass(dev);
}

__rust_helper int rust_helper_device_trylock(struct device *dev)
{
	return device_trylock(dev);
}

__rust_helper int rust_helper_device_trylock_nested(struct device *dev,
						    struct mutex *outer)
{
	return mutex_trylock_nest_lock(&dev->mutex, outer);
}

__rust_helper bool rust_helper_is_kdump_kernel(void)
{
	return is_kdump_kernel();
}

__rust_helper bool rust_helper_is_secure_guest(void)
{
	return is_secure_guest();
}

#ifdef memory_hotplug_max
__rust_helper u64 rust_helper_memory_hotplug_max(void)
{
	return memory_hotplug_max();
}
#endif

#ifdef CONFIG_PPC_PSERIES
__rust_helper bool rust_helper_firmware_has_feature(unsigned long feature)
{
	return firmware_has_feature(feature);
}

__rust_helper long rust_helper_plpar_tce_put(u64 liobn, u64 ioba, u64 tceval)
{
	return plpar_tce_put(liobn, ioba, tceval);
}

__rust_helper long rust_helper_plpar_tce_put_indirect(u64 liobn, u64 ioba,
						      phys_addr_t page, u64 count)
{
	return plpar_tce_put_indirect(liobn, ioba, page, count);
}

__rust_helper long rust_helper_plpar_tce_stuff(u64 liobn, u64 ioba, u64 tceval,
					       u64 count)
{
	return plpar_tce_stuff(liobn, ioba, tceval, count);
}
#endif /* CONFIG_PPC_PSERIES */

#endif /* CONFIG_PPC64 */
