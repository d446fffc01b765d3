/* SPDX-License-Identifier: GPL-2.0 */
/*
 * DMA windows of a partitionable endpoint, for an IOMMU driver that writes the
 * TCEs itself.
 */

#ifndef _ASM_POWERPC_IOMMU_TCE_H
#define _ASM_POWERPC_IOMMU_TCE_H

#include <linux/dma-map-ops.h>
#include <linux/iommu-dma.h>

#include <asm/iommu.h>

/* Who creates the DMA windows of a PE and holds their TCE tables */
enum iommu_tce_firmware {
	IOMMU_TCE_PAPR,		/* windows by RTAS, TCEs by hypercall */
	IOMMU_TCE_IODA,		/* windows by OPAL, TCEs in memory */
};

/**
 * struct iommu_tce_window - one DMA window of a PE
 * @base: first bus address
 * @tces: number of TCEs, 0 if there is no such window
 * @page_shift: log2 of the bytes that one TCE maps
 * @id: LIOBN (PAPR) or TVE number (IODA)
 */
struct iommu_tce_window {
	u64 base;
	u64 tces;
	u32 page_shift;
	u32 id;
};

/**
 * struct iommu_tce_query - what a PE has and what may be opened
 * @firmware: the interface below the table group
 * @nr_windows: windows that may exist at a time, counting one of which the
 *	 firmware does not say whether it may
 * @page_sizes: page sizes (bit n: 2^n bytes) of a further window
 * @max_tces: TCEs of a further window, at most; 0 if none can be opened
 * @max_levels: levels of a TCE table, at most; 0: the hypervisor holds it
 * @win: PAPR: the windows that exist, 0 is the firmware's default one.
 *	 IODA: the bus range of each TVE, counted in 4K pages.
 * @mmio32_start: first bus address of the 32-bit MMIO range
 * @mmio32_end: last bus address of it, 0 if there is none
 * @mmio64_start: first bus address of the 64-bit MMIO range
 * @mmio64_end: last bus address of it, 0 if there is none
 */
struct iommu_tce_query {
	enum iommu_tce_firmware firmware;
	u32 nr_windows;
	u64 page_sizes;
	u64 max_tces;
	u32 max_levels;
	struct iommu_tce_window win[IOMMU_TABLE_GROUP_MAX_TABLES];
	u64 mmio32_start;
	u64 mmio32_end;
	u64 mmio64_start;
	u64 mmio64_end;
};

/**
 * struct iommu_tce_ops - what the platform does for an IOMMU driver
 * @query: tell what the PE has and what may be opened.
 * @set_platform: hand all windows of the PE to the platform code (@on) or away
 *	from it. Away: PAPR is left with the default window, all TCEs clear;
 *	IODA with no window. tables[0] is valid either way. No device of the PE
 *	may be doing DMA, and the caller sets up the DMA of all of them
 *	(dma_ops, archdata, bus_dma_limit, dma_ops_bypass) afterwards.
 * @open_window: open window @num with @win->page_shift and @win->tces;
 *	@win->base and @win->id are filled in. IODA: @table_pa is the root of a
 *	table with @levels levels of @level_bytes each. PAPR: only window 1, the
 *	other arguments are unused. A failure leaves nothing behind.
 * @close_window: close an opened window. PAPR: its TCEs must be clear.
 *	Window 0, the default one, gives way to another; set_platform() brings
 *	it back.
 * @kill: forget cached TCEs: @npages pages of 2^@page_shift bytes from bus
 *	address @index << @page_shift, or everything of the PE if @npages is 0.
 *	Orders earlier TCE stores before the kill. NULL if the hypervisor does
 *	it.
 *
 * The caller serialises the calls for one table group. @dev is any device of
 * it. All but kill() may sleep; none takes the mutex of the iommu_group.
 */
struct iommu_tce_ops {
	long (*query)(struct iommu_table_group *table_group, struct device *dev,
		      struct iommu_tce_query *query);
	long (*set_platform)(struct iommu_table_group *table_group,
			     struct device *dev, bool on);
	long (*open_window)(struct iommu_table_group *table_group,
			    struct device *dev, int num, u64 table_pa,
			    u32 levels, u64 level_bytes,
			    struct iommu_tce_window *win);
	long (*close_window)(struct iommu_table_group *table_group,
			     struct device *dev, int num);
	void (*kill)(struct iommu_table_group *table_group, u32 page_shift,
		     u64 index, u64 npages);
};

/*
 * A device that the driver fails to probe must not use what the platform has
 * for the PE: the windows are the driver's. Called before the device is added.
 */
static inline void iommu_tce_setup_device(struct iommu_table_group *table_group,
					  struct device *dev)
{
	if (table_group->driver_has_it && !use_dma_iommu(dev)) {
		set_dma_ops(dev, &dma_dummy_ops);
		set_iommu_table_base(dev, NULL);
	}
}

#ifdef CONFIG_PPC_PSERIES
/* The device tree knows of all windows when this returns */
void pseries_settle_dma_windows(void);
#else
static inline void pseries_settle_dma_windows(void) { }
#endif

#endif /* _ASM_POWERPC_IOMMU_TCE_H */
