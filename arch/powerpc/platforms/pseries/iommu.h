/* SPDX-License-Identifier: GPL-2.0 */
/*
 * DMA windows as firmware and the device tree know them, shared by the DMA
 * code of the platform and the operations for an IOMMU driver.
 */

#ifndef _PSERIES_IOMMU_H
#define _PSERIES_IOMMU_H

#include <linux/list.h>
#include <linux/of.h>
#include <linux/pci.h>
#include <linux/spinlock.h>

#include <asm/iommu-tce.h>

/* Cells of "ibm,ddw-applicable" */
enum {
	DDW_QUERY_PE_DMA_WIN  = 0,
	DDW_CREATE_PE_DMA_WIN = 1,
	DDW_REMOVE_PE_DMA_WIN = 2,

	DDW_APPLICABLE_SIZE
};

/* Cells of "ibm,ddw-extensions" */
enum {
	DDW_EXT_SIZE = 0,
	DDW_EXT_RESET_DMA_WIN = 1,
	DDW_EXT_QUERY_OUT_SIZE = 2,
	DDW_EXT_LIMITED_ADDR_MODE = 3
};

/* this is compatible with cells for the device tree property */
struct dynamic_dma_window_prop {
	__be32	liobn;		/* tce table number */
	__be64	dma_base;	/* address hi,lo */
	__be32	tce_shift;	/* ilog2(tce_page_size) */
	__be32	window_shift;	/* ilog2(tce_window_size) */
};

struct dma_win {
	struct device_node *device;
	const struct dynamic_dma_window_prop *prop;
	bool    direct;
	struct property *property;	/* if an IOMMU driver opened it */
	struct list_head list;
};

/* Dynamic DMA Window support */
struct ddw_query_response {
	u32 windows_available;
	u64 largest_available_block;
	u32 page_size;
	u32 migration_capable;
};

struct ddw_create_response {
	u32 liobn;
	u32 addr_hi;
	u32 addr_lo;
};

/* iommu.c */
extern int disable_ddw;
extern struct list_head dma_win_list;
extern spinlock_t dma_win_list_lock;
extern struct iommu_table_ops iommu_table_lpar_multi_ops;

struct iommu_table *iommu_pseries_alloc_table(int node);
void iommu_table_setparms_common(struct iommu_table *tbl, unsigned long busno,
				 unsigned long liobn, unsigned long win_addr,
				 unsigned long window_size, unsigned long page_shift,
				 void *base, struct iommu_table_ops *table_ops);
struct device_node *pci_dma_find_parent_node(struct pci_dev *dev,
					     struct iommu_table_group *table_group);

struct dma_win *ddw_list_new_entry(struct device_node *pdn,
				   const struct dynamic_dma_window_prop *dma64);
struct property *ddw_property_create(const char *propname, u32 liobn, u64 dma_addr,
				     u32 page_shift, u32 window_shift);
__u64 query_page_size_to_mask(u32 query_page_size);

int ddw_read_ext(const struct device_node *np, int extnum, u32 *value);
int query_ddw(struct pci_dev *dev, const u32 *ddw_avail,
	      struct ddw_query_response *query, struct device_node *parent);
int create_ddw(struct pci_dev *dev, const u32 *ddw_avail,
	       struct ddw_create_response *create, int page_shift, int window_shift);
int __remove_dma_window(struct device_node *np, u32 *ddw_avail, u64 liobn);
int remove_dma_window(struct device_node *np, u32 *ddw_avail,
		      struct property *win, bool cleanup);
int reset_dma_window(struct pci_dev *dev, struct device_node *par_dn);

/* iommu-properties.c */
struct property *dup_property(struct device_node *pdn, const char *from, const char *to);
void free_property(struct property *prop);
void change_property_later(struct device_node *np, struct property *prop, bool add);
struct property *find_property_soon(struct device_node *np, const char *name);
const void *find_value_soon(struct device_node *np, const char *name);

/* iommu-windows.c */
extern const struct iommu_tce_ops pseries_tce_ops;

struct dma_win *find_ddw(struct device_node *pdn);
struct property *remove_default_dma_window(struct device_node *pdn, u32 *ddw_avail);

#endif /* _PSERIES_IOMMU_H */
