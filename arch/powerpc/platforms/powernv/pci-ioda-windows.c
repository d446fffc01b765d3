// SPDX-License-Identifier: GPL-2.0
/*
 * DMA windows of a PE of IODA2, and what an IOMMU driver may do with them.
 */

#include <linux/bits.h>
#include <linux/io.h>
#include <linux/iommu.h>
#include <linux/ratelimit.h>
#include <linux/sizes.h>

#include <asm/iommu-tce.h>
#include <asm/opal.h>
#include <asm/pci-bridge.h>

#include "powernv.h"
#include "pci.h"

#define PHB3_VERSION			0x800

static struct pnv_ioda_pe *to_pe(struct iommu_table_group *table_group)
{
	return container_of(table_group, struct pnv_ioda_pe, table_group);
}

/*
 * Map a TCE table through the TVT, or nothing if @levels is 0. The TVE index
 * is the PE number shifted by 1 bit for 32-bits DMA space.
 */
int64_t pnv_pci_ioda2_map_window(struct pnv_ioda_pe *pe, int num,
		unsigned int levels, u64 table_pa, u64 table_size, u64 page_size)
{
	return opal_pci_map_pe_dma_window(pe->phb->opal_id, pe->pe_number,
			(pe->pe_number << 1) + num, levels, table_pa,
			table_size, page_size);
}

int64_t pnv_pci_ioda2_map_table(struct pnv_ioda_pe *pe, int num,
		struct iommu_table *tbl)
{
	const unsigned long size = tbl->it_indirect_levels ?
			tbl->it_level_size : tbl->it_size;

	return pnv_pci_ioda2_map_window(pe, num, tbl->it_indirect_levels + 1,
			__pa(tbl->it_base), size << 3, IOMMU_PAGE_SIZE(tbl));
}

static const char *opal_name(int64_t rc)
{
	switch (rc) {
	case OPAL_PARAMETER:
		return "OPAL_PARAMETER";
	case OPAL_BUSY:
		return "OPAL_BUSY";
	case OPAL_HARDWARE:
		return "OPAL_HARDWARE";
	case OPAL_UNSUPPORTED:
		return "OPAL_UNSUPPORTED";
	case OPAL_PERMISSION:
		return "OPAL_PERMISSION";
	case OPAL_NO_MEM:
		return "OPAL_NO_MEM";
	case OPAL_RESOURCE:
		return "OPAL_RESOURCE";
	case OPAL_INTERNAL_ERROR:
		return "OPAL_INTERNAL_ERROR";
	case OPAL_BUSY_EVENT:
		return "OPAL_BUSY_EVENT";
	case OPAL_HARDWARE_FROZEN:
		return "OPAL_HARDWARE_FROZEN";
	case OPAL_WRONG_STATE:
		return "OPAL_WRONG_STATE";
	case OPAL_TIMEOUT:
		return "OPAL_TIMEOUT";
	default:
		return "unknown";
	}
}

static u64 window_base(struct pnv_ioda_pe *pe, int num)
{
	return num ? pe->tce_bypass_base : 0;
}

/* Say what OPAL answered, and what that means for a window; return an errno */
static long pnv_ioda2_refused(struct pnv_ioda_pe *pe, int num, const char *so,
			      int64_t rc)
{
	static DEFINE_RATELIMIT_STATE(limit, DEFAULT_RATELIMIT_INTERVAL,
				      DEFAULT_RATELIMIT_BURST);

	if (__ratelimit(&limit))
		pe_err(pe, "DMA window %d at %#llx: %s (%lld); %s\n", num,
		       window_base(pe, num), opal_name(rc), rc, so);

	return opal_error_code(rc);
}

static long pnv_ioda2_query(struct iommu_table_group *table_group,
		struct device *dev __always_unused, struct iommu_tce_query *query)
{
	struct pnv_ioda_pe *pe = to_pe(table_group);
	/* As for the tables that pnv_pci_ioda2_table_alloc_pages() makes */
	const struct iommu_tce_window win = {
		.tces = BIT_ULL(54 - IOMMU_PAGE_SHIFT_4K),
		.page_shift = IOMMU_PAGE_SHIFT_4K,
	};

	*query = (struct iommu_tce_query) {
		.firmware = IOMMU_TCE_IODA,
		.nr_windows = IOMMU_TABLE_GROUP_MAX_TABLES,
		.page_sizes = table_group->pgsizes,
		.max_tces = win.tces,
		.max_levels = table_group->max_levels,
		.win = { win, win },
		.mmio32_start = pe->phb->ioda.m32_pci_base,
		/* OPAL takes the top for MSIs */
		.mmio32_end = SZ_4G - 1,
	};
	if (pe->phb->ioda.m64_size) {
		query->mmio64_start = pe->phb->ioda.m64_base;
		query->mmio64_end = pe->phb->ioda.m64_base + pe->phb->ioda.m64_size - 1;
	}
	query->win[0].id = pe->pe_number << 1;
	query->win[1].id = (pe->pe_number << 1) + 1;
	query->win[1].base = pe->tce_bypass_base;

	return 0;
}

static void pnv_ioda2_kill(struct iommu_table_group *table_group,
		u32 page_shift, u64 index, u64 npages)
{
	struct pnv_ioda_pe *pe = to_pe(table_group);
	struct pnv_phb *phb = pe->phb;

	mb(); /* The TCEs are in memory before the PHB may fetch them again */
	/*
	 * PHB4 and PHB5 may drop an invalidation of single pages. OPAL knows
	 * that since skiboot 7.0 only.
	 */
	if (npages && phb->model == PNV_PHB_MODEL_PHB3)
		pnv_pci_ioda2_tce_invalidate_pages(pe, page_shift, index,
						   npages);
	else
		pnv_pci_ioda2_tce_invalidate_pe(pe);

	/*
	 * OPAL waits, a store to PHB3 does not. The load cannot pass it. The
	 * version register is the one that is always there.
	 */
	if (phb->model == PNV_PHB_MODEL_PHB3 && phb->regs)
		in_be64(phb->regs + PHB3_VERSION);
}

/* Window 0 is there with the table of the platform, or not at all */
static int64_t pnv_ioda2_set_low(struct pnv_ioda_pe *pe,
		struct iommu_table *tbl, bool on)
{
	return on ? pnv_pci_ioda2_map_table(pe, 0, tbl) :
		    pnv_pci_ioda2_map_window(pe, 0, 0, 0, 0, 0);
}

static long pnv_ioda2_set_platform(struct iommu_table_group *table_group,
		struct device *dev __always_unused, bool on)
{
	struct pnv_ioda_pe *pe = to_pe(table_group);
	struct iommu_table *tbl = table_group->tables[0];
	int num = 0;
	int64_t rc;

	if (!tbl)
		return -ENODEV;

	table_group->driver_has_it |= !on;
	rc = pnv_ioda2_set_low(pe, tbl, on);
	if (!rc) {
		num = 1;
		rc = pnv_pci_ioda2_set_bypass(pe,
				on && !pnv_iommu_bypass_disabled);
		/* Both or none */
		if (rc)
			pnv_ioda2_set_low(pe, tbl, !on);
	}
	pnv_ioda2_kill(table_group, 0, 0, 0);
	if (rc)
		return pnv_ioda2_refused(pe, num, on ? "not given back" :
					 "not taken over", rc);
	table_group->driver_has_it = !on;

	return 0;
}

static long pnv_ioda2_open_window(struct iommu_table_group *table_group,
		struct device *dev __always_unused, int num, u64 table_pa,
		u32 levels, u64 level_bytes, struct iommu_tce_window *win)
{
	struct pnv_ioda_pe *pe = to_pe(table_group);
	int64_t rc;

	if (num < 0 || num >= IOMMU_TABLE_GROUP_MAX_TABLES || !levels ||
	    win->page_shift >= BITS_PER_LONG)
		return -EINVAL;

	rc = pnv_pci_ioda2_map_window(pe, num, levels, table_pa, level_bytes,
				      BIT_ULL(win->page_shift));
	if (rc)
		return pnv_ioda2_refused(pe, num, "not opened", rc);

	pnv_ioda2_kill(table_group, 0, 0, 0);
	win->base = window_base(pe, num);
	win->id = (pe->pe_number << 1) + num;

	return 0;
}

static long pnv_ioda2_close_window(struct iommu_table_group *table_group,
		struct device *dev __always_unused, int num)
{
	struct pnv_ioda_pe *pe = to_pe(table_group);
	int64_t rc;

	if (num < 0 || num >= IOMMU_TABLE_GROUP_MAX_TABLES)
		return -EINVAL;

	rc = pnv_pci_ioda2_map_window(pe, num, 0, 0, 0, 0);
	if (rc)
		return pnv_ioda2_refused(pe, num, "stays open", rc);

	pnv_ioda2_kill(table_group, 0, 0, 0);

	return 0;
}

const struct iommu_tce_ops pnv_ioda2_tce_ops = {
	.query = pnv_ioda2_query,
	.set_platform = pnv_ioda2_set_platform,
	.open_window = pnv_ioda2_open_window,
	.close_window = pnv_ioda2_close_window,
	.kill = pnv_ioda2_kill,
};
