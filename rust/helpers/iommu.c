// SPDX-License-Identifier: GPL-2.0

#include <linux/device.h>
#include <linux/gfp.h>
#include <linux/iommu.h>
#include <linux/mm.h>
#include <linux/mmu_context.h>
#include <linux/mmu_notifier.h>
#include <linux/module.h>

__rust_helper void rust_helper_device_lock(struct device *dev)
{
	device_lock(dev);
}

__rust_helper void rust_helper_device_unlock(struct device *dev)
{
	device_unlock(dev);
}

#ifdef CONFIG_IOMMU_API
__rust_helper void *rust_helper_dev_iommu_priv_get(struct device *dev)
{
	return dev_iommu_priv_get(dev);
}

__rust_helper bool rust_helper_gfpflags_allow_blocking(gfp_t gfp_flags)
{
	return gfpflags_allow_blocking(gfp_flags);
}

__rust_helper bool rust_helper_arch_pgtable_dma_compat(struct mm_struct *mm)
{
	return arch_pgtable_dma_compat(mm);
}
#endif

__rust_helper phys_addr_t rust_helper_page_to_phys(struct page *page)
{
	return page_to_phys(page);
}

#ifdef CONFIG_RUST_IOMMU_SVA_KUNIT_TEST
__rust_helper struct folio *rust_helper_pfn_folio(unsigned long pfn)
{
	return pfn_folio(pfn);
}

__rust_helper bool rust_helper_folio_maybe_dma_pinned(struct folio *folio)
{
	return folio_maybe_dma_pinned(folio);
}

__rust_helper bool rust_helper_folio_test_dirty(struct folio *folio)
{
	return folio_test_dirty(folio);
}
#endif

#ifndef CONFIG_MODULE_UNLOAD
__rust_helper void rust_helper___module_get(struct module *module)
{
	__module_get(module);
}

__rust_helper void rust_helper_module_put(struct module *module)
{
	module_put(module);
}
#endif

#ifdef CONFIG_MMU_NOTIFIER
__rust_helper bool
rust_helper_mmu_interval_read_retry(struct mmu_interval_notifier *interval_sub,
				    unsigned long seq)
{
	return mmu_interval_read_retry(interval_sub, seq);
}

__rust_helper void
rust_helper_mmu_interval_set_seq(struct mmu_interval_notifier *interval_sub,
				 unsigned long cur_seq)
{
	mmu_interval_set_seq(interval_sub, cur_seq);
}
#endif
