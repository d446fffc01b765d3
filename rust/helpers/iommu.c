// SPDX-License-Identifier: GPL-2.0

#include <linux/gfp.h>
#include <linux/iommu.h>
#include <linux/mmu_context.h>

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
