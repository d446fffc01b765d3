// SPDX-License-Identifier: GPL-2.0
/*
 * Properties of DMA windows in the device tree.
 *
 * An IOMMU driver holds locks of the IOMMU core that notifiers of property
 * changes take too, so a work item makes its changes, in order.
 */

#include <linux/list.h>
#include <linux/of.h>
#include <linux/slab.h>
#include <linux/spinlock.h>
#include <linux/string.h>
#include <linux/workqueue.h>

#include "iommu.h"

struct dn_change {
	struct list_head list;
	struct device_node *np;
	struct property *prop;
	bool add;
};

static LIST_HEAD(dn_changes);
static DEFINE_SPINLOCK(dn_changes_lock);

static void dn_changes_fn(struct work_struct *work)
{
	struct dn_change *change;
	int ret;

	for (;;) {
		spin_lock(&dn_changes_lock);
		change = list_first_entry_or_null(&dn_changes, struct dn_change, list);
		spin_unlock(&dn_changes_lock);
		if (!change)
			break;

		if (change->add)
			ret = of_add_property(change->np, change->prop);
		else
			ret = of_remove_property(change->np, change->prop);
		if (ret)
			pr_warn("%pOF: failed to %s property %s: %d\n", change->np,
				change->add ? "add" : "remove", change->prop->name, ret);

		/* Either on the list or in the tree, for find_property_soon() */
		spin_lock(&dn_changes_lock);
		list_del(&change->list);
		spin_unlock(&dn_changes_lock);
		of_node_put(change->np);
		kfree(change);
	}
}

static DECLARE_WORK(dn_changes_work, dn_changes_fn);

/* Add a property to a node, which then owns it, or remove one */
void change_property_later(struct device_node *np, struct property *prop, bool add)
{
	struct dn_change *change = kmalloc_obj(*change, GFP_KERNEL | __GFP_NOFAIL);

	*change = (struct dn_change) {
		.np = of_node_get(np), .prop = prop, .add = add,
	};
	spin_lock(&dn_changes_lock);
	list_add_tail(&change->list, &dn_changes);
	spin_unlock(&dn_changes_lock);
	schedule_work(&dn_changes_work);
}

/* The property that a node has once all changes are made. It lives as long as that. */
struct property *find_property_soon(struct device_node *np, const char *name)
{
	struct property *prop = NULL;
	struct dn_change *change;
	bool changes = false;

	spin_lock(&dn_changes_lock);
	list_for_each_entry(change, &dn_changes, list) {
		if (change->np == np && !strcmp(change->prop->name, name)) {
			prop = change->add ? change->prop : NULL;
			changes = true;
		}
	}
	spin_unlock(&dn_changes_lock);

	return changes ? prop : of_find_property(np, name, NULL);
}

const void *find_value_soon(struct device_node *np, const char *name)
{
	struct property *prop = find_property_soon(np, name);

	return prop ? prop->value : NULL;
}

void pseries_settle_dma_windows(void)
{
	flush_work(&dn_changes_work);
}

/* Copy a property of a node under a new name. The copy is not in the tree yet. */
struct property *dup_property(struct device_node *pdn, const char *from, const char *to)
{
	struct property *src, *dst;

	src = of_find_property(pdn, from, NULL);
	if (!src)
		return NULL;

	dst = kzalloc_obj(*dst);
	if (!dst)
		return NULL;

	dst->name = kstrdup(to, GFP_KERNEL);
	dst->value = kmemdup(src->value, src->length, GFP_KERNEL);
	dst->length = src->length;
	if (!dst->name || !dst->value) {
		free_property(dst);
		return NULL;
	}

	return dst;
}

void free_property(struct property *prop)
{
	if (!prop)
		return;

	kfree(prop->name);
	kfree(prop->value);
	kfree(prop);
}
