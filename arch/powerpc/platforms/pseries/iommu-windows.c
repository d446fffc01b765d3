// SPDX-License-Identifier: GPL-2.0
/*
 * DMA windows for an IOMMU driver.
 *
 * The driver calls the operations one at a time for a PE that the platform
 * code does not use. So nobody else takes the entry that find_ddw() returns
 * off the list. The driver holds locks of the IOMMU core that notifiers of
 * device tree changes take too; dma_win_init_mutex, below which the platform
 * code changes properties, is not taken.
 */

#include <linux/ioport.h>
#include <linux/log2.h>
#include <linux/of.h>
#include <linux/pci.h>
#include <linux/slab.h>

#include <asm/iommu-tce.h>
#include <asm/pci-bridge.h>
#include <asm/ppc-pci.h>
#include <asm/prom.h>

#include "iommu.h"

struct dma_win *find_ddw(struct device_node *pdn)
{
	struct dma_win *window, *found = NULL;

	spin_lock(&dma_win_list_lock);
	list_for_each_entry(window, &dma_win_list, list) {
		if (window->device == pdn) {
			found = window;
			break;
		}
	}
	spin_unlock(&dma_win_list_lock);

	return found;
}

/*
 * Give up the default window, in which no TCE is set, so that there is room for
 * a larger one. Only if reset_dma_window() can bring it back. Returns its property.
 */
struct property *remove_default_dma_window(struct device_node *pdn, u32 *ddw_avail)
{
	struct property *default_win = find_property_soon(pdn, "ibm,dma-window");

	if (!default_win || ddw_read_ext(pdn, DDW_EXT_RESET_DMA_WIN, NULL) ||
	    remove_dma_window(pdn, ddw_avail, default_win, false))
		return NULL;

	return default_win;
}

static int read_ddw_tokens(struct device_node *pdn, u32 *ddw_avail)
{
	return of_property_read_u32_array(pdn, "ibm,ddw-applicable", ddw_avail,
					  DDW_APPLICABLE_SIZE) ? -ENODEV : 0;
}

/* Remove the DDW of a PE, and the table for it if any. The driver clears its own. */
static int spapr_tce_remove_ddw(struct iommu_table_group *table_group,
				struct pci_dev *pdev, struct device_node *pdn)
{
	struct dma_win *window = find_ddw(pdn);
	u32 ddw_avail[DDW_APPLICABLE_SIZE];
	struct property *win;
	u32 liobn;
	int i, ret;

	if (!window)
		return 0;

	ret = read_ddw_tokens(pdn, ddw_avail);
	if (ret)
		return ret;

	win = window->property;
	/* A window left by kexec has either name and is never direct */
	if (!win)
		win = of_find_property(pdn, DIRECT64_PROPNAME, NULL);
	if (!win || win->value != window->prop)
		win = of_find_property(pdn, DMA64_PROPNAME, NULL);
	if (!win)
		return -ENODEV;

	/* What comes online from here on does not go into this window */
	spin_lock(&dma_win_list_lock);
	window->direct = false;
	spin_unlock(&dma_win_list_lock);

	/* It may be gone, as after a migration */
	if (remove_dma_window(pdn, ddw_avail, win, !window->property) &&
	    reset_dma_window(pdev, pdn))
		return -EIO;

	liobn = be32_to_cpu(window->prop->liobn);
	for (i = 0; i < IOMMU_TABLE_GROUP_MAX_TABLES; i++) {
		if (table_group->tables[i] && table_group->tables[i]->it_index == liobn) {
			iommu_tce_table_put(table_group->tables[i]);
			table_group->tables[i] = NULL;
		}
	}

	spin_lock(&dma_win_list_lock);
	list_del(&window->list);
	spin_unlock(&dma_win_list_lock);
	kfree(window);

	change_property_later(pdn, win, false);

	return 0;
}

static const __be32 *default_window_prop(struct iommu_table_group *table_group,
					 struct device_node *pdn)
{
	return table_group->default_win_closed ? NULL :
	       find_value_soon(pdn, "ibm,dma-window");
}

/* Have the default window, clear, with tables[0] for it */
static int spapr_tce_default_window(struct iommu_table_group *table_group,
				    struct pci_dev *pdev, struct device_node *pdn)
{
	struct iommu_table *tbl = table_group->tables[0];
	struct pci_controller *phb = PCI_DN(pdn)->phb;
	unsigned long liobn, offset, size;
	const __be32 *default_prop;
	struct property *restored;

	default_prop = default_window_prop(table_group, pdn);
	if (table_group->default_win_closed || (!tbl && !default_prop)) {
		/* The one may be on its way out, the other on its way in */
		restored = dup_property(pdn, "ibm,dma-window", "ibm,dma-window") ?:
			   dup_property(pdn, "ibm,dma-window-saved", "ibm,dma-window");
		if (!restored)
			return -ENOMEM;
		if (reset_dma_window(pdev, pdn)) {
			free_property(restored);
			return -EIO;
		}
		default_prop = restored->value;
		change_property_later(pdn, restored, true);
		table_group->default_win_closed = false;
	}

	if (tbl) {
		tbl->it_ops->clear(tbl, tbl->it_offset, tbl->it_size);
		return 0;
	}

	tbl = iommu_pseries_alloc_table(phb->node);
	if (!tbl)
		return -ENOMEM;

	of_parse_dma_window(pdn, default_prop, &liobn, &offset, &size);
	iommu_table_setparms_common(tbl, phb->bus->number, liobn, offset, size,
				    IOMMU_PAGE_SHIFT_4K, NULL,
				    &iommu_table_lpar_multi_ops);
	if (!iommu_init_table(tbl, phb->node, 0, 0)) {
		iommu_tce_table_put(tbl);
		return -ENOMEM;
	}
	table_group->tables[0] = tbl;

	return 0;
}

/*
 * A kernel before this one may have opened a window after its successor, us,
 * was loaded. Then there is no room for another, and none on our list. A PE
 * that may have one window only looks the same. No TCE is set in a reset.
 */
static int spapr_tce_reset_unknown(struct iommu_table_group *table_group,
				   struct pci_dev *pdev, struct device_node *pdn)
{
	struct iommu_table *tbl = table_group->tables[0];
	u32 ddw_avail[DDW_APPLICABLE_SIZE];
	struct ddw_query_response ddw;

	if (table_group->default_win_closed || disable_ddw ||
	    read_ddw_tokens(pdn, ddw_avail) ||
	    query_ddw(pdev, ddw_avail, &ddw, pdn) || ddw.windows_available ||
	    ddw_read_ext(pdn, DDW_EXT_RESET_DMA_WIN, NULL))
		return 0;

	if (tbl)
		tbl->it_ops->clear(tbl, tbl->it_offset, tbl->it_size);

	return reset_dma_window(pdev, pdn) ? -ENODEV : 0;
}

static long spapr_tce_query(struct iommu_table_group *table_group,
			    struct device *dev, struct iommu_tce_query *query)
{
	struct pci_dev *pdev = to_pci_dev(dev);
	u32 ddw_avail[DDW_APPLICABLE_SIZE];
	struct ddw_query_response ddw;
	const __be32 *default_prop;
	struct device_node *pdn;
	struct pci_controller *phb;
	struct dma_win *window;
	int i;

	pdn = pci_dma_find_parent_node(pdev, table_group);
	if (!pdn)
		return -ENODEV;

	*query = (struct iommu_tce_query) { .firmware = IOMMU_TCE_PAPR };

	default_prop = default_window_prop(table_group, pdn);
	if (default_prop) {
		unsigned long liobn, offset, size;

		of_parse_dma_window(pdn, default_prop, &liobn, &offset, &size);
		query->win[0] = (struct iommu_tce_window) {
			.base = offset,
			.tces = size >> IOMMU_PAGE_SHIFT_4K,
			.page_shift = IOMMU_PAGE_SHIFT_4K,
			.id = liobn,
		};
		query->nr_windows++;
	}

	window = find_ddw(pdn);
	if (window) {
		const struct dynamic_dma_window_prop *prop = window->prop;
		u32 shift = be32_to_cpu(prop->tce_shift);

		query->win[1] = (struct iommu_tce_window) {
			.base = be64_to_cpu(prop->dma_base),
			.tces = BIT_ULL(be32_to_cpu(prop->window_shift) - shift),
			.page_shift = shift,
			.id = be32_to_cpu(prop->liobn),
		};
		query->nr_windows++;
	}

	if (!disable_ddw && !read_ddw_tokens(pdn, ddw_avail)) {
		if (query_ddw(pdev, ddw_avail, &ddw, pdn)) {
			/* Not known, which is no reason to give up the default one */
			query->nr_windows++;
		} else if (ddw.windows_available) {
			query->nr_windows += ddw.windows_available;
			query->page_sizes = query_page_size_to_mask(ddw.page_size);
			query->max_tces = ddw.largest_available_block;
		}
	}

	phb = PCI_DN(pdn)->phb;
	for (i = 0; i < ARRAY_SIZE(phb->mem_resources); i++) {
		const unsigned long mask = IORESOURCE_MEM_64 | IORESOURCE_MEM;
		const struct resource *res = &phb->mem_resources[i];

		if ((res->flags & mask) == IORESOURCE_MEM) {
			query->mmio32_start = res->start - phb->mem_offset[i];
			query->mmio32_end = res->end - phb->mem_offset[i];
			break;
		}
	}

	return 0;
}

/*
 * What the platform code starts from is also what the driver starts from: the
 * default window, without a TCE.
 */
static long spapr_tce_set_platform(struct iommu_table_group *table_group,
				   struct device *dev, bool on)
{
	const bool had = table_group->driver_has_it;
	struct pci_dev *pdev = to_pci_dev(dev);
	struct device_node *pdn;
	bool had_ddw;
	int ret;

	pdn = pci_dma_find_parent_node(pdev, table_group);
	if (!pdn)
		return -ENODEV;

	/* Do not remove the only window if there is no way back */
	if (!table_group->default_win_closed &&
	    !default_window_prop(table_group, pdn) &&
	    (!of_property_present(pdn, "ibm,dma-window-saved") ||
	     ddw_read_ext(pdn, DDW_EXT_RESET_DMA_WIN, NULL)))
		return -ENODEV;

	table_group->driver_has_it |= !on;
	had_ddw = find_ddw(pdn);
	ret = spapr_tce_remove_ddw(table_group, pdev, pdn);
	if (!ret && !on) {
		ret = spapr_tce_reset_unknown(table_group, pdev, pdn);
		if (ret && had_ddw)
			ret = -EIO;
	}
	if (!ret)
		ret = spapr_tce_default_window(table_group, pdev, pdn);

	/* Nothing has changed after -ENODEV */
	if (!ret)
		table_group->driver_has_it = !on;
	else if (ret == -ENODEV)
		table_group->driver_has_it = had;

	return ret;
}

static long spapr_tce_open_window(struct iommu_table_group *table_group,
				  struct device *dev, int num, u64 table_pa,
				  u32 levels, u64 level_bytes,
				  struct iommu_tce_window *win)
{
	struct pci_dev *pdev = to_pci_dev(dev);
	u32 ddw_avail[DDW_APPLICABLE_SIZE];
	struct ddw_create_response create;
	struct property *prop = NULL;
	struct device_node *pdn;
	struct dma_win *window;
	u32 window_shift;
	u64 base;
	int ret;

	if (num != 1 || !is_power_of_2(win->tces))
		return -EINVAL;

	window_shift = ilog2(win->tces) + win->page_shift;
	if (window_shift >= BITS_PER_LONG)
		return -EINVAL;

	pdn = pci_dma_find_parent_node(pdev, table_group);
	if (!pdn)
		return -ENODEV;

	if (find_ddw(pdn))
		return -EBUSY;

	ret = read_ddw_tokens(pdn, ddw_avail);
	if (ret)
		return ret;

	if (create_ddw(pdev, ddw_avail, &create, win->page_shift, window_shift))
		return -ENOSPC;

	base = ((u64)create.addr_hi << 32) | create.addr_lo;
	window = ddw_list_new_entry(pdn, NULL);
	if (window)
		prop = ddw_property_create(DMA64_PROPNAME, create.liobn, base,
					   win->page_shift, window_shift);
	if (!prop)
		goto out_remove_win;

	change_property_later(pdn, prop, true);
	window->prop = prop->value;
	window->property = prop;
	spin_lock(&dma_win_list_lock);
	list_add(&window->list, &dma_win_list);
	spin_unlock(&dma_win_list_lock);

	win->base = base;
	win->id = create.liobn;

	return 0;

out_remove_win:
	kfree(window);
	/* The new DDW is clean */
	__remove_dma_window(pdn, ddw_avail, create.liobn);

	return -ENOMEM;
}

/* The driver made sure that no TCE is set. tables[0] stays for the way back. */
static int spapr_tce_close_default_window(struct iommu_table_group *table_group,
					  struct device_node *pdn)
{
	struct property *win, *saved = NULL;
	u32 ddw_avail[DDW_APPLICABLE_SIZE];
	int ret;

	if (disable_ddw || !default_window_prop(table_group, pdn))
		return -ENODEV;

	ret = read_ddw_tokens(pdn, ddw_avail);
	if (ret)
		return ret;

	if (!of_property_present(pdn, "ibm,dma-window-saved")) {
		saved = dup_property(pdn, "ibm,dma-window", "ibm,dma-window-saved");
		if (!saved)
			return -ENOMEM;
	}

	win = remove_default_dma_window(pdn, ddw_avail);
	if (win) {
		if (saved)
			change_property_later(pdn, saved, true);
		change_property_later(pdn, win, false);
		table_group->default_win_closed = true;
		return 0;
	}

	free_property(saved);

	return -ENODEV;
}

static long spapr_tce_close_window(struct iommu_table_group *table_group,
				   struct device *dev, int num)
{
	struct pci_dev *pdev = to_pci_dev(dev);
	struct device_node *pdn;

	if (num < 0 || num >= IOMMU_TABLE_GROUP_MAX_TABLES)
		return -EINVAL;

	pdn = pci_dma_find_parent_node(pdev, table_group);
	if (!pdn)
		return -ENODEV;

	return num ? spapr_tce_remove_ddw(table_group, pdev, pdn) :
		     spapr_tce_close_default_window(table_group, pdn);
}

const struct iommu_tce_ops pseries_tce_ops = {
	.query = spapr_tce_query,
	.set_platform = spapr_tce_set_platform,
	.open_window = spapr_tce_open_window,
	.close_window = spapr_tce_close_window,
};
