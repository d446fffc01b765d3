// SPDX-License-Identifier: GPL-2.0
/*
 * KUnit tests of dma-iommu and the IOVA allocator, with an IOMMU that is an
 * array in memory.
 */

#include <kunit/test.h>
#include <linux/dma-map-ops.h>
#include <linux/iommu.h>
#include <linux/iova.h>
#include <linux/pci.h>
#include <linux/platform_device.h>
#include <linux/property.h>
#include <linux/sizes.h>

#include "dma-iommu.h"
#include "iommu-priv.h"

/* Larger than what the IOVA caches keep, so that every IOVA counts */
#define PAGES		64
#define APERTURE_START	SZ_256M
/* With low IOVAs: where the others begin, and which of those come first */
#define HIGH_START	(APERTURE_START + PAGES / 2 * PAGE_SIZE)
#define PREFERRED	(PAGES / 8)

struct mock_domain {
	struct iommu_domain domain;
	phys_addr_t phys[4 * PAGES];	/* for the smallest pages */
};

/* The tests run one after the other. */
static struct {
	struct iommu_device iommu;
	struct page *page;
	u64 aperture_end;
	bool has_low;
	unsigned int lookups;
	unsigned int syncs;
} mock;

static struct mock_domain *to_mock(struct iommu_domain *domain)
{
	return container_of(domain, struct mock_domain, domain);
}

static phys_addr_t *mock_entry(struct iommu_domain *domain, dma_addr_t iova)
{
	return &to_mock(domain)->phys[(iova - APERTURE_START) >> (PAGE_SHIFT - 2)];
}

static int mock_attach_dev(struct iommu_domain *domain, struct device *dev,
			   struct iommu_domain *old)
{
	return 0;
}

static int mock_map_pages(struct iommu_domain *domain, unsigned long iova,
			  phys_addr_t paddr, size_t pgsize, size_t pgcount,
			  int prot, gfp_t gfp, size_t *mapped)
{
	for (; pgcount; pgcount--, iova += pgsize, paddr += pgsize) {
		*mock_entry(domain, iova) = paddr;
		*mapped += pgsize;
	}
	return 0;
}

static size_t mock_unmap_pages(struct iommu_domain *domain, unsigned long iova,
			       size_t pgsize, size_t pgcount,
			       struct iommu_iotlb_gather *gather)
{
	size_t unmapped = 0;

	for (; pgcount && *mock_entry(domain, iova); pgcount--) {
		*mock_entry(domain, iova) = 0;
		iova += pgsize;
		unmapped += pgsize;
	}
	return unmapped;
}

static phys_addr_t mock_iova_to_phys(struct iommu_domain *domain,
				     dma_addr_t iova)
{
	phys_addr_t phys = *mock_entry(domain, iova & PAGE_MASK);

	mock.lookups++;
	return phys ? phys + offset_in_page(iova) : 0;
}

static void mock_flush_iotlb_all(struct iommu_domain *domain)
{
}

static void mock_iotlb_sync(struct iommu_domain *domain, struct iommu_iotlb_gather *gather)
{
	mock.syncs++;
}

static void mock_domain_free(struct iommu_domain *domain)
{
	kfree(to_mock(domain));
}

static const struct iommu_domain_ops mock_domain_ops = {
	.attach_dev		= mock_attach_dev,
	.map_pages		= mock_map_pages,
	.unmap_pages		= mock_unmap_pages,
	.iova_to_phys		= mock_iova_to_phys,
	.flush_iotlb_all	= mock_flush_iotlb_all,
	.iotlb_sync		= mock_iotlb_sync,
	.free			= mock_domain_free,
};

static struct iommu_domain *mock_domain_alloc_paging(struct device *dev)
{
	struct mock_domain *mock_domain = kzalloc_obj(*mock_domain);

	if (!mock_domain)
		return NULL;
	mock_domain->domain.pgsize_bitmap = PAGE_SIZE;
	mock_domain->domain.geometry = (struct iommu_domain_geometry) {
		.aperture_start	= APERTURE_START,
		.aperture_end	= mock.aperture_end,
		.force_aperture	= true,
	};
	if (mock.has_low) {
		mock_domain->domain.geometry.high_start = HIGH_START;
		mock_domain->domain.geometry.preferred_end = HIGH_START + PREFERRED * PAGE_SIZE - 1;
		mock_domain->domain.geometry.low_pgsize_bitmap = PAGE_SIZE / 4;
	}
	return &mock_domain->domain;
}

static struct iommu_device *mock_probe_device(struct device *dev)
{
	return &mock.iommu;
}

static int mock_def_domain_type(struct device *dev)
{
	return IOMMU_DOMAIN_DMA;
}

static const struct iommu_ops mock_ops = {
	.probe_device		= mock_probe_device,
	.device_group		= generic_device_group,
	.def_domain_type	= mock_def_domain_type,
	.domain_alloc_paging	= mock_domain_alloc_paging,
	.default_domain_ops	= &mock_domain_ops,
};

KUNIT_DEFINE_ACTION_WRAPPER(page_free, __free_page, struct page *);
KUNIT_DEFINE_ACTION_WRAPPER(node_remove, fwnode_remove_software_node, struct fwnode_handle *);
KUNIT_DEFINE_ACTION_WRAPPER(sysfs_remove, iommu_device_sysfs_remove, struct iommu_device *);
KUNIT_DEFINE_ACTION_WRAPPER(iommu_unregister, iommu_device_unregister, struct iommu_device *);
KUNIT_DEFINE_ACTION_WRAPPER(device_remove, platform_device_unregister, struct platform_device *);

/* Makes a device whose IOVAs end at @end. */
static struct device *mock_add(struct kunit *test, u64 end)
{
	struct platform_device *pdev;
	struct device *dev;
	int ret;

	mock.aperture_end = end;
	pdev = platform_device_alloc("dma-iommu-test", PLATFORM_DEVID_NONE);
	KUNIT_ASSERT_NOT_NULL(test, pdev);
	dev = &pdev->dev;
	dev->dma_mask = &pdev->platform_dma_mask;
	mutex_lock(&iommu_probe_device_lock);
	ret = iommu_fwspec_init(dev, mock.iommu.fwnode);
	mutex_unlock(&iommu_probe_device_lock);
	ret = ret ?: platform_device_add(pdev);
	if (ret)
		platform_device_put(pdev);
	KUNIT_ASSERT_EQ(test, ret, 0);
	KUNIT_ASSERT_EQ(test, kunit_add_action_or_reset(test, device_remove, pdev), 0);
	KUNIT_ASSERT_TRUE(test, dev_dma_iommu(dev));
	KUNIT_ASSERT_EQ(test, dma_set_mask_and_coherent(dev, DMA_BIT_MASK(32)), 0);
	return dev;
}

static struct device *mock_add_small(struct kunit *test)
{
	return mock_add(test, APERTURE_START + PAGES * PAGE_SIZE - 1);
}

static dma_addr_t mock_map(struct device *dev)
{
	return dma_map_page(dev, mock.page, 0, PAGE_SIZE, DMA_TO_DEVICE);
}

static void mock_unmap(struct device *dev, dma_addr_t iova)
{
	dma_unmap_page(dev, iova, PAGE_SIZE, DMA_TO_DEVICE);
}

static int mock_init(struct kunit *test)
{
	memset(&mock, 0, sizeof(mock));
	mock.page = alloc_page(GFP_KERNEL);
	KUNIT_ASSERT_NOT_NULL(test, mock.page);
	KUNIT_ASSERT_EQ(test, kunit_add_action_or_reset(test, page_free, mock.page), 0);
	mock.iommu.fwnode = fwnode_create_software_node(NULL, NULL);
	KUNIT_ASSERT_NOT_ERR_OR_NULL(test, mock.iommu.fwnode);
	KUNIT_ASSERT_EQ(test, kunit_add_action_or_reset(test, node_remove, mock.iommu.fwnode), 0);
	KUNIT_ASSERT_EQ(test, iommu_device_sysfs_add(&mock.iommu, NULL, NULL, "dma-iommu-test"), 0);
	KUNIT_ASSERT_EQ(test, kunit_add_action_or_reset(test, sysfs_remove, &mock.iommu), 0);
	KUNIT_ASSERT_EQ(test, iommu_device_register(&mock.iommu, &mock_ops, NULL), 0);
	return kunit_add_action_or_reset(test, iommu_unregister, &mock.iommu);
}

/* Nobody asks where a buffer is that was neither bounced nor cached. */
static void test_unmap_without_lookup(struct kunit *test)
{
	struct device *dev = mock_add_small(test);
	dma_addr_t iova = mock_map(dev);
	unsigned int before = mock.lookups;

	KUNIT_ASSERT_FALSE(test, dma_mapping_error(dev, iova));
	if (!dev_is_dma_coherent(dev))
		kunit_skip(test, "cache maintenance needs the address");
	mock_unmap(dev, iova);
	KUNIT_EXPECT_EQ(test, mock.lookups, before);
}

static void expect_distinct(struct kunit *test, struct device *dev)
{
	dma_addr_t first = mock_map(dev), second = mock_map(dev);

	KUNIT_EXPECT_NE(test, first, second);
	mock_unmap(dev, first);
	if (second != first)
		mock_unmap(dev, second);
}

/* What is unmapped twice is not handed out twice. */
static void test_unmap_twice(struct kunit *test)
{
	struct device *dev = mock_add_small(test);
	dma_addr_t iova = mock_map(dev);

	KUNIT_ASSERT_FALSE(test, dma_mapping_error(dev, iova));
	mock_unmap(dev, iova);
	kunit_warning_suppress(test) {
		mock_unmap(dev, iova);
		/* Nobody ever asks where the memory of this one is. */
		dma_unmap_resource(dev, iova, PAGE_SIZE, DMA_TO_DEVICE, 0);
		/* CONFIG_DMA_API_DEBUG has something to say too. */
		KUNIT_EXPECT_GE(test, KUNIT_SUPPRESSED_WARNING_COUNT(), 2);
	}
	expect_distinct(test, dev);
}

/* Nor is what is destroyed twice. */
static void test_destroy_twice(struct kunit *test)
{
	struct device *dev = mock_add_small(test);
	phys_addr_t phys = page_to_phys(mock.page);
	struct dma_iova_state state = {}, again;

	KUNIT_ASSERT_TRUE(test, dma_iova_try_alloc(dev, &state, phys, PAGE_SIZE));
	KUNIT_ASSERT_EQ(test, dma_iova_link(dev, &state, phys, 0, PAGE_SIZE, DMA_TO_DEVICE, 0), 0);
	again = state;
	dma_iova_destroy(dev, &state, PAGE_SIZE, DMA_TO_DEVICE, 0);
	kunit_warning_suppress(test) {
		dma_iova_destroy(dev, &again, PAGE_SIZE, DMA_TO_DEVICE, 0);
		KUNIT_EXPECT_EQ(test, KUNIT_SUPPRESSED_WARNING_COUNT(), 1);
	}
	expect_distinct(test, dev);
}

/* IOVAs that wait to be flushed are there when the last one is gone. */
static void test_queue_flushed_when_full(struct kunit *test)
{
	struct device *dev = mock_add_small(test);
	dma_addr_t iova;

	/* One page at a time, and no time for the timer to run */
	KUNIT_ASSERT_EQ(test, iommu_dma_init_fq(iommu_get_dma_domain(dev)), 0);
	for (int i = 0; i < 3 * PAGES; i++) {
		iova = mock_map(dev);
		KUNIT_ASSERT_FALSE(test, dma_mapping_error(dev, iova));
		mock_unmap(dev, iova);
	}
}

static void mock_link(struct kunit *test, struct device *dev, unsigned long attrs)
{
	struct dma_iova_state state = {};
	phys_addr_t phys = page_to_phys(mock.page);

	KUNIT_ASSERT_TRUE(test, dma_iova_try_alloc(dev, &state, phys, PAGE_SIZE));
	KUNIT_EXPECT_EQ(test, dma_iova_link(dev, &state, phys, 0, PAGE_SIZE, DMA_TO_DEVICE,
					    attrs), 0);
	dma_iova_destroy(dev, &state, PAGE_SIZE, DMA_TO_DEVICE, attrs);
}

/* What goes with its IOVA waits in the queue, if there is one. */
static void test_destroy_is_queued(struct kunit *test)
{
	struct device *dev = mock_add_small(test);
	struct dma_iova_state state = {};

	mock_link(test, dev, 0);
	KUNIT_EXPECT_EQ(test, mock.syncs, 1);
	KUNIT_ASSERT_EQ(test, iommu_dma_init_fq(iommu_get_dma_domain(dev)), 0);
	for (int i = 0; i < 3 * PAGES; i++)
		mock_link(test, dev, 0);
	KUNIT_EXPECT_EQ(test, mock.syncs, 1);
	/* But for MMIO, which may be turned off as soon as it is unmapped. */
	mock_link(test, dev, DMA_ATTR_MMIO);
	KUNIT_EXPECT_EQ(test, mock.syncs, 2);

	/* Nothing was linked. */
	KUNIT_ASSERT_TRUE(test, dma_iova_try_alloc(dev, &state, 0, PAGE_SIZE));
	dma_iova_destroy(dev, &state, 0, DMA_TO_DEVICE, 0);
	KUNIT_EXPECT_EQ(test, mock.syncs, 2);
}

/* A mask must reach the first IOVA. */
static void test_mask(struct kunit *test)
{
	struct device *dev = mock_add_small(test);
	u64 first = APERTURE_START;

	KUNIT_EXPECT_EQ(test, dma_set_mask(dev, first - 1), -EIO);
	KUNIT_EXPECT_EQ(test, dma_set_coherent_mask(dev, first - 1), -EIO);
	KUNIT_EXPECT_EQ(test, dma_set_mask(dev, first + PAGE_SIZE - 1), 0);
	KUNIT_EXPECT_EQ(test, dma_set_coherent_mask(dev, DMA_BIT_MASK(64)), 0);
}

#ifdef CONFIG_PCI
/* Where 32-bit IOVAs do not come first, more bits are of use. */
static void test_required_mask(struct kunit *test)
{
	struct device *dev = mock_add(test, DMA_BIT_MASK(40) - SZ_1G);
	struct pci_dev *pdev = kunit_kzalloc(test, sizeof(*pdev), GFP_KERNEL);
	u64 mask = DMA_BIT_MASK(24);

	KUNIT_ASSERT_NOT_NULL(test, pdev);
	KUNIT_EXPECT_EQ(test, dma_get_required_mask(dev), DMA_BIT_MASK(32));

	/* No more of a PCI device than what is looked at */
	pdev->dev.bus = &pci_bus_type;
	pdev->dev.dma_mask = &mask;
	pdev->dev.iommu = dev->iommu;
	pdev->dev.iommu_group = dev->iommu_group;
	dev_assign_dma_iommu(&pdev->dev, true);
	dev->iommu->pci_32bit_workaround = true;
	KUNIT_EXPECT_EQ(test, dma_get_required_mask(&pdev->dev), DMA_BIT_MASK(32));
	dev->iommu->pci_32bit_workaround = false;
	KUNIT_EXPECT_EQ(test, dma_get_required_mask(&pdev->dev), DMA_BIT_MASK(40));
	KUNIT_EXPECT_FALSE(test, dma_addressing_limited(&pdev->dev));
}
#endif

/* What a narrow device cannot have, a less narrow one can. */
static void test_iova_limits(struct kunit *test)
{
	const unsigned long first = SZ_16M >> PAGE_SHIFT, limit = DMA_BIT_MASK(32) >> PAGE_SHIFT;
	struct iova_domain iovad = {};
	struct iova *iova, *all;

	init_iova_domain(&iovad, PAGE_SIZE, first);
	KUNIT_EXPECT_NULL(test, alloc_iova(&iovad, 1, first - 1, true));
	iova = alloc_iova(&iovad, 1, limit, true);
	KUNIT_EXPECT_NOT_NULL(test, iova);

	/* With nothing left, neither can; and both when there is something again. */
	all = alloc_iova(&iovad, limit - first, limit - 1, false);
	KUNIT_EXPECT_NOT_NULL(test, all);
	KUNIT_EXPECT_NULL(test, alloc_iova(&iovad, 1, limit, true));
	KUNIT_EXPECT_NULL(test, alloc_iova(&iovad, 1, first, true));
	if (all)
		__free_iova(&iovad, all);
	KUNIT_EXPECT_NOT_NULL(test, alloc_iova(&iovad, 1, first, true));
	KUNIT_EXPECT_NOT_NULL(test, alloc_iova(&iovad, 1, limit, true));
	put_iova_domain(&iovad);
}

/* Maps @size bytes of the page as often as it goes */
static unsigned int mock_map_all(struct device *dev, size_t size, dma_addr_t *iova)
{
	unsigned int count = 0;

	for (; count < 4 * PAGES; count++) {
		iova[count] = dma_map_page(dev, mock.page, 0, size, DMA_TO_DEVICE);
		if (dma_mapping_error(dev, iova[count]))
			break;
	}
	return count;
}

static void mock_unmap_all(struct device *dev, size_t size, const dma_addr_t *iova,
			   unsigned int count)
{
	while (count--)
		dma_unmap_page(dev, iova[count], size, DMA_TO_DEVICE);
}

/* Low IOVAs are for masks that reach no others, and may have smaller pages. */
static void test_low_iovas(struct kunit *test)
{
	dma_addr_t *low = kunit_kcalloc(test, 4 * PAGES, sizeof(*low), GFP_KERNEL);
	dma_addr_t *high = kunit_kcalloc(test, 4 * PAGES, sizeof(*high), GFP_KERNEL);
	unsigned int all = PAGES / 2, lows, highs;
	size_t small = PAGE_SIZE / 4;
	struct device *dev;
	dma_addr_t first;

	KUNIT_ASSERT_NOT_NULL(test, low);
	KUNIT_ASSERT_NOT_NULL(test, high);
	mock.has_low = true;
	dev = mock_add_small(test);

	/* What was low once stays low, also in the caches. */
	for (int round = 0; round < 2; round++) {
		KUNIT_EXPECT_EQ(test, dma_set_mask(dev, HIGH_START - 1), 0);
		KUNIT_EXPECT_EQ(test, dma_get_merge_boundary(dev), small - 1);
		lows = mock_map_all(dev, small, low);
		KUNIT_EXPECT_EQ(test, lows, 4 * all);
		mock_unmap_all(dev, small, low, lows);

		KUNIT_EXPECT_EQ(test, dma_set_mask(dev, DMA_BIT_MASK(64)), 0);
		highs = mock_map_all(dev, small, high);
		KUNIT_EXPECT_EQ(test, highs, all);
		for (int i = 0; i < highs; i++) {
			KUNIT_EXPECT_GE(test, high[i], HIGH_START);
			/* Later the caches of other CPUs may have some */
			if (!round)
				KUNIT_EXPECT_EQ(test, high[i] < HIGH_START + PREFERRED * PAGE_SIZE,
						i < PREFERRED);
		}

		/* The mask may have changed since something was mapped. */
		KUNIT_EXPECT_EQ(test, dma_set_mask(dev, HIGH_START - 1), 0);
		mock_unmap_all(dev, small, high, highs);
	}

	KUNIT_EXPECT_EQ(test, dma_set_mask(dev, HIGH_START), 0);
	KUNIT_EXPECT_EQ(test, dma_get_merge_boundary(dev), PAGE_SIZE - 1);
	first = mock_map(dev);
	KUNIT_EXPECT_EQ(test, first, HIGH_START);
	mock_unmap(dev, first);
}

static struct kunit_case dma_iommu_cases[] = {
	KUNIT_CASE(test_unmap_without_lookup),
	KUNIT_CASE(test_unmap_twice),
	KUNIT_CASE(test_destroy_twice),
	KUNIT_CASE(test_queue_flushed_when_full),
	KUNIT_CASE(test_destroy_is_queued),
	KUNIT_CASE(test_mask),
#ifdef CONFIG_PCI
	KUNIT_CASE(test_required_mask),
#endif
	KUNIT_CASE(test_iova_limits),
	KUNIT_CASE(test_low_iovas),
	{}
};

static struct kunit_suite dma_iommu_suite = {
	.name = "dma_iommu",
	.init = mock_init,
	.test_cases = dma_iommu_cases,
};

kunit_test_suite(dma_iommu_suite);
