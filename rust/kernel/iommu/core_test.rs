// SPDX-License-Identifier: GPL-2.0

//! Tests of the abstractions for IOMMU drivers, through the real IOMMU core.

#[macros::kunit_tests(rust_iommu)]
mod tests {
    use super::super::{
        mock::*,
        testing,
        *, //
    };
    use crate::{
        bindings,
        error::to_result,
        io::PhysAddr,
        page::PAGE_SHIFT,
        prelude::*,
        sync::atomic::Relaxed, //
    };

    fn new_bed(devices: &[c_int]) -> Result<Bed> {
        let mut bed = Bed::with(&PLAIN_OPS, 0, &[])?;
        for id in devices {
            bed.add(*id, None)?;
        }
        Ok(bed)
    }

    fn page(n: u64) -> u64 {
        FIRST + n * 0x1000
    }

    fn range(first: u64, last: u64) -> Result<IovaRange> {
        IovaRange::new(Iova::new(first), Iova::new(last)).ok_or(EINVAL)
    }

    /// A paging domain of the first device. What is not `raw` goes through the core.
    struct Domain(testing::Domain);

    impl Domain {
        fn new(bed: &Bed) -> Result<Self> {
            testing::Domain::new(bed.dev(0)?).map(Self)
        }

        fn map(&self, iova: u64, paddr: u64, size: usize) -> Result {
            let rw = ProtFlag::Read | ProtFlag::Write;
            // SAFETY: The devices do not exist.
            unsafe { self.0.map(Iova::new(iova), paddr as PhysAddr, size, rw) }
        }

        fn unmap(&self, iova: u64, size: usize) -> usize {
            IovaRange::from_len(Iova::new(iova), size as u64).map_or(0, |range| self.0.unmap(range))
        }

        fn phys(&self, iova: u64) -> u64 {
            self.0.iova_to_phys(Iova::new(iova))
        }

        fn raw(&self) -> *mut bindings::iommu_domain {
            self.0 .0
        }

        fn ops(&self) -> &bindings::iommu_domain_ops {
            // SAFETY: The domain is valid, and has operations.
            unsafe { &*(*self.raw()).ops }
        }

        /// Calls the driver as the core does. Returns the error and the bytes that were mapped.
        fn raw_map(
            &self,
            iova: u64,
            pgsize: usize,
            count: usize,
            prot: u32,
        ) -> Result<(c_int, usize)> {
            let map = self.ops().map_pages.ok_or(EINVAL)?;
            let (gfp, prot) = (GFP_KERNEL.as_raw(), prot as c_int);
            let mut mapped = 0;

            // SAFETY: The domain is valid.
            let ret = unsafe {
                map(
                    self.raw(),
                    iova as c_ulong,
                    0,
                    pgsize,
                    count,
                    prot,
                    gfp,
                    &mut mapped,
                )
            };
            Ok((ret, mapped))
        }

        /// The same; returns the bytes that were unmapped, and the range that was gathered.
        fn raw_unmap(
            &self,
            iova: u64,
            pgsize: usize,
            count: usize,
        ) -> Result<(usize, Option<IovaRange>)> {
            let unmap = self.ops().unmap_pages.ok_or(EINVAL)?;
            let mut raw = empty_gather();

            // SAFETY: The domain is valid, and so is the gather.
            let done = unsafe { unmap(self.raw(), iova as c_ulong, pgsize, count, &mut raw) };
            // SAFETY: The gather is valid and nobody else uses it.
            Ok((done, unsafe { IotlbGather::from_raw(&mut raw) }.range()))
        }

        fn attach<'a>(&'a self, bed: &Bed) -> Result<testing::Attachment<'a>> {
            self.0.attach(bed.dev(0)?)
        }

        /// Says whether the core has the device in this domain.
        fn has(&self, bed: &Bed) -> Result<bool> {
            // SAFETY: The device is bound.
            let now = unsafe { bindings::iommu_get_domain_for_dev(bed.dev(0)?.as_raw()) };
            Ok(now == self.raw())
        }
    }

    fn empty_gather() -> bindings::iommu_iotlb_gather {
        bindings::iommu_iotlb_gather {
            start: c_ulong::MAX,
            ..pin_init::zeroed()
        }
    }

    const RW: u32 = bindings::IOMMU_READ | bindings::IOMMU_WRITE;

    // Devices.

    #[test]
    fn device_is_claimed_and_let_go() -> Result {
        let mut bed = new_bed(&[0])?;
        let log = bed.log.clone();

        check!(log.endpoints.load(Relaxed) == 1);
        check!(log.boards.load(Relaxed) == 1);
        bed.devices.clear();
        check!(log.endpoints.load(Relaxed) == 0);
        drop(bed);
        check!(log.boards.load(Relaxed) == 0);
        check!(log.is_idle());
        Ok(())
    }

    #[test]
    fn iommu_that_goes_lets_all_devices_go() -> Result {
        let mut bed = new_bed(&[0, 1, 2, 3])?;
        let log = bed.log.clone();

        check!(log.endpoints.load(Relaxed) == 4);
        bed.unregister();
        check!(log.endpoints.load(Relaxed) == 0);
        check!(log.boards.load(Relaxed) == 0);
        check!(!bed.has_iommu(0)?);
        Ok(())
    }

    // Its devices may be in use, so it stays, for ever.
    #[test]
    fn iommu_with_devices_is_not_dropped() -> Result {
        let mut bed = new_bed(&[0])?;
        let log = bed.log.clone();

        bed.drop_iommu();
        check!(bed.has_iommu(0)?);
        check!(log.boards.load(Relaxed) == 1);
        // It takes no more of them.
        bed.add(1, None)?;
        check!(!bed.has_iommu(1)?);
        check!(log.endpoints.load(Relaxed) == 1);
        bed.devices.clear();
        check!(log.endpoints.load(Relaxed) == 0);
        check!(log.boards.load(Relaxed) == 1);
        Ok(())
    }

    // The core does not find such a device when the IOMMU goes, and unlinks it later.
    #[test]
    fn iommu_goes_while_a_device_does() -> Result {
        let mut bed = new_bed(&[0, 1])?;
        let log = bed.log.clone();

        bed.unregister_as_device_goes()?;
        check!(log.endpoints.load(Relaxed) == 0);
        check!(!bed.has_iommu(0)?);
        // Nobody knows when the last one is gone, so the instance stays.
        check!(log.boards.load(Relaxed) == 1);
        Ok(())
    }

    #[test]
    fn failed_probe_leaves_nothing_behind() -> Result {
        let mut bed = new_bed(&[0])?;
        let log = bed.log.clone();
        let failures = [
            (&log.fail_probe, ENODEV),
            (&log.fail_probe, EIO),
            (&log.fail_endpoint, ENOMEM),
            (&log.fail_group, ENOMEM),
        ];

        for (failure, error) in failures {
            failure.store(error.to_errno(), Relaxed);
            // The device is there all the same, without an IOMMU.
            bed.add(1, None)?;
            check!(failure.load(Relaxed) == 0);
            check!(!bed.has_iommu(1)?);
            check!(log.endpoints.load(Relaxed) == 1);
            bed.devices.pop();
        }
        bed.add(1, None)?;
        check!(bed.has_iommu(1)?);
        check!(log.endpoints.load(Relaxed) == 2);
        check!(log.wrong.load(Relaxed) == 0);
        Ok(())
    }

    #[test]
    fn reserved_regions_and_capabilities_reach_the_core() -> Result {
        let bed = new_bed(&[0])?;
        let dev = bed.dev(0)?.as_raw();
        let mut list: bindings::list_head = pin_init::zeroed();
        let head = &raw mut list;
        (list.next, list.prev) = (head, head);

        // SAFETY: The device is bound, the list is initialised, and its entries are regions.
        let found = unsafe {
            bindings::iommu_get_resv_regions(dev, head);
            // The list is the first field of a region.
            let region = &*list.next.cast::<bindings::iommu_resv_region>();
            let found = (region.start, region.length, (*list.next).next == head);
            bindings::iommu_put_resv_regions(dev, head);
            found
        };
        check!(found == (FIRST as PhysAddr, 0x1000, true));

        let capable = |cap| {
            // SAFETY: The device is bound.
            unsafe { bindings::device_iommu_capable(dev, cap) }
        };
        check!(capable(bindings::iommu_cap::IOMMU_CAP_CACHE_COHERENCY));
        check!(!capable(bindings::iommu_cap::IOMMU_CAP_DEFERRED_FLUSH));
        check!(!capable(bindings::iommu_cap::IOMMU_CAP_DIRTY_TRACKING));
        Ok(())
    }

    #[test]
    fn owner_of_the_operations_is_the_module() {
        // A built-in driver has none. A loaded one cannot be unloaded while it has devices.
        assert!(PLAIN_OPS.0.owner.is_null());
    }

    // Attaching.

    #[test]
    fn device_goes_from_domain_to_domain() -> Result {
        let bed = new_bed(&[0])?;
        let (one, two) = (Domain::new(&bed)?, Domain::new(&bed)?);

        for domain in [&one, &two, &one] {
            let attached = domain.attach(&bed)?;
            check!(domain.has(&bed)?);
            drop(attached);
            check!(!domain.has(&bed)?);
        }
        drop((one, two));
        check!(bed.log.is_idle());
        Ok(())
    }

    #[test]
    fn failed_attach_leaves_the_old_domain() -> Result {
        let bed = new_bed(&[0])?;
        let domain = Domain::new(&bed)?;

        bed.log.fail_attach.store(1, Relaxed);
        check!(matches!(domain.attach(&bed), Err(ENOSPC)));
        check!(!domain.has(&bed)?);
        // The driver is told so when it is asked again.
        drop(domain.attach(&bed)?);
        drop(domain);
        check!(bed.log.is_idle());
        Ok(())
    }

    #[test]
    fn failed_attach_of_one_device_takes_the_group_back() -> Result {
        let bed = new_bed(&[2, 3])?;
        let domain = Domain::new(&bed)?;
        let group = bed.group(0)?;
        // SAFETY: The domain and the group are valid.
        let attach = || to_result(unsafe { bindings::iommu_attach_group(domain.raw(), group) });

        for device in [1, 2] {
            bed.log.fail_attach.store(device, Relaxed);
            check!(attach() == Err(ENOSPC));
            check!(!domain.has(&bed)?);
        }
        attach()?;
        check!(domain.has(&bed)?);
        // SAFETY: The group is attached to the domain.
        unsafe { bindings::iommu_detach_group(domain.raw(), group) };
        drop(domain);
        check!(bed.log.is_idle());
        Ok(())
    }

    #[test]
    fn domain_of_another_driver_is_refused() -> Result {
        static BLOCKED: StaticDomain<NoAccess> = StaticDomain::new();
        static OTHER: Ops<Mock> = Ops::new().blocked(&BLOCKED).identity(&DIRECT);

        let bed = new_bed(&[0])?;
        let domain = Domain::new(&bed)?;
        drop(bed);
        let other = Bed::with(&OTHER, 0, &[(0, None)])?;
        let attach = domain.ops().attach_dev.ok_or(EINVAL)?;
        // The core would refuse as well, so it is left out.
        // SAFETY: The domain is valid and the device is bound; nobody else changes its domain.
        let refused =
            unsafe { attach(domain.raw(), other.dev(0)?.as_raw(), core::ptr::null_mut()) };
        check!(refused == EINVAL.to_errno());
        Ok(())
    }

    // Mapping, by way of the core.

    #[test]
    fn mapped_and_unmapped() -> Result {
        let bed = new_bed(&[0])?;
        let domain = Domain::new(&bed)?;

        domain.map(page(3), 0x5_0000, 0x4000)?;
        check!(bed.log.sync_maps.load(Relaxed) == 1);
        check!(domain.phys(page(4) + 5) == 0x5_1005);
        check!(domain.phys(page(7)) == 0);
        check!(domain.unmap(page(3), 0x4000) == 0x4000);
        check!(domain.phys(page(4)) == 0);
        check!(*bed.log.synced.lock() == Some(range(page(3), page(7) - 1)?));
        Ok(())
    }

    #[test]
    fn core_takes_back_what_a_failed_map_counted() -> Result {
        let bed = new_bed(&[0])?;
        let domain = Domain::new(&bed)?;

        for done in [0, 3, 4, 1000] {
            bed.log.claim.store(done, Relaxed);
            bed.log.fail_map.store(ENOMEM.to_errno(), Relaxed);
            let failed = domain.map(page(0), 0x5_0000, 0x4000);
            bed.log.claim.store(-1, Relaxed);
            check!(failed == Err(ENOMEM));
            check!((0..5).all(|n| domain.phys(page(n)) == 0));
        }
        domain.map(page(0), 0x5_0000, 0x4000)
    }

    #[test]
    fn core_stops_where_nothing_is_unmapped() -> Result {
        let bed = new_bed(&[0])?;
        let domain = Domain::new(&bed)?;

        domain.map(page(0), 0, 0x4000)?;
        for (claim, done) in [(0, 0), (1000, 0x4000)] {
            bed.log.claim.store(claim, Relaxed);
            check!(domain.unmap(page(0), 0x4000) == done);
        }
        Ok(())
    }

    #[test]
    fn core_cannot_leave_the_aperture() -> Result {
        let bed = new_bed(&[0])?;
        let domain = Domain::new(&bed)?;

        check!(domain.map(FIRST - 0x1000, 0, 0x2000) == Err(ERANGE));
        check!(domain.map(LAST - 0xfff, 0, 0x2000) == Err(ERANGE));
        check!(domain.phys(FIRST) == 0 && domain.phys(LAST) == 0);
        check!(domain.unmap(LAST - 0xfff, 0x2000) == 0);
        domain.map(LAST - 0xfff, 0x5_0000, 0x1000)?;
        check!(domain.phys(LAST) == 0x5_0fff);
        Ok(())
    }

    // Pages that are smaller than those of the rest of the aperture.
    #[test]
    fn small_pages_are_for_low_addresses() -> Result {
        let size = |shift| PageSize::from_shift(shift).ok_or(EINVAL);
        let low = LowAddresses {
            high_start: Iova::new(0x40_0000),
            page: size(12)?,
            preferred_last: None,
        };
        let geometry = Geometry {
            pages: PageSizes::of(size(16)?),
            aperture: range(0, 0xffff_ffff)?,
            low: Some(low),
        };
        let fits = |iova, shift, count| {
            let request = UnmapRequest::new(&geometry, Iova::new(iova), size(shift)?, count);
            Ok::<_, Error>(request.is_ok())
        };

        check!(fits(0x3f_f000, 12, Pages::new(1))?);
        check!(!fits(0x3f_f000, 12, Pages::new(2))?);
        check!(!fits(0x40_0000, 12, Pages::new(1))?);
        check!(!fits(0x20_0000, 13, Pages::new(1))?);
        check!(fits(0x3f_0000, 16, Pages::new(2))?);
        check!(low.more_pages(geometry.pages) == 0x1000);
        check!(low.more_pages(PageSizes::of(size(12)?)) == 0);
        Ok(())
    }

    // Mapping, as only a faulty core could ask for it.

    #[test]
    fn map_success_is_all_of_the_request() -> Result {
        let bed = new_bed(&[0])?;
        let domain = Domain::new(&bed)?;

        check!(domain.raw_map(FIRST, 0x1000, 0x100, RW)? == (0, 0x10_0000));
        Ok(())
    }

    #[test]
    fn map_failure_counts_no_more_than_the_request() -> Result {
        let bed = new_bed(&[0])?;
        let domain = Domain::new(&bed)?;

        for (claim, count, done) in [(3, 4, 0x3000), (3, 2, 0x2000), (i64::MAX, 1, 0x1000)] {
            bed.log.claim.store(claim, Relaxed);
            bed.log.fail_map.store(ENOMEM.to_errno(), Relaxed);
            let failed = domain.raw_map(FIRST, 0x1000, count, RW)?;
            check!(failed == (ENOMEM.to_errno(), done));
        }
        Ok(())
    }

    #[test]
    fn map_rejects_bad_requests() -> Result {
        let bed = new_bed(&[0])?;
        let domain = Domain::new(&bed)?;
        let (inval, range) = (EINVAL.to_errno(), ERANGE.to_errno());
        let bad = [
            (FIRST - 0x1000, 0x1000, 2, RW, range),
            (LAST - 0xfff, 0x1000, 2, RW, range),
            (LAST + 1, 0x1000, 1, RW, range),
            (FIRST, 0x1000, 0, RW, inval),
            (FIRST, 0, 1, RW, inval),
            (FIRST, 0x3000, 1, RW, inval),
            (FIRST, 0x2000, 1, RW, inval),
            (FIRST + 0x800, 0x1000, 1, RW, inval),
            (FIRST, 0x1000, usize::MAX, RW, inval),
            (FIRST, 0x1000, 1, bindings::IOMMU_CACHE, inval),
        ];

        for (iova, pgsize, count, prot, error) in bad {
            check!(domain.raw_map(iova, pgsize, count, prot)? == (error, 0));
        }
        Ok(())
    }

    #[test]
    fn unmap_is_bounded() -> Result {
        let bed = new_bed(&[0])?;
        let domain = Domain::new(&bed)?;
        let gathered = |len| IovaRange::from_len(Iova::new(FIRST), len);

        bed.log.claim.store(3, Relaxed);
        check!(domain.raw_unmap(FIRST, 0x1000, 4)? == (0x3000, gathered(0x4000)));
        check!(domain.raw_unmap(FIRST, 0x1000, 2)? == (0x2000, gathered(0x2000)));
        let bad = [
            (FIRST - 0x1000, 0x1000, 2),
            (LAST - 0xfff, 0x1000, 2),
            (FIRST, 0, 2),
            (FIRST, 0x1000, usize::MAX),
        ];
        for (iova, pgsize, count) in bad {
            check!(domain.raw_unmap(iova, pgsize, count)? == (0, None));
        }
        Ok(())
    }

    #[test]
    fn other_callbacks_stay_in_the_aperture() -> Result {
        let bed = new_bed(&[0])?;
        let domain = Domain::new(&bed)?;
        let sync = domain.ops().iotlb_sync_map.ok_or(EINVAL)?;
        // SAFETY: The domain is valid.
        let sync = |iova: u64, size| unsafe { sync(domain.raw(), iova as c_ulong, size) };

        domain.map(FIRST, 0, 0x10_0000)?;
        check!(domain.phys(FIRST - 1) == 0);
        check!(domain.phys(FIRST + 1) == 1);
        check!(domain.phys(LAST) == 0xf_ffff);
        check!(domain.phys(LAST + 1) == 0);

        check!(sync(FIRST, 0x10_0000) == 0);
        check!(sync(FIRST, 0x10_0001) == ERANGE.to_errno());
        check!(sync(0, 0) == 0);
        check!(sync(1, usize::MAX) == ERANGE.to_errno());
        check!(sync(2, usize::MAX) == EINVAL.to_errno());
        Ok(())
    }

    #[test]
    fn absent_callbacks_are_null() -> Result {
        let bed = new_bed(&[0])?;
        let domain = Domain::new(&bed)?;

        check!(domain.ops().flush_iotlb_all.is_none());
        check!(domain.ops().iotlb_sync.is_some());
        check!(PLAIN_OPS.0.probe_finalize.is_none());
        check!(PLAIN_OPS.0.def_domain_type.is_some());
        Ok(())
    }

    #[test]
    fn granule_above_page_size_is_rejected() -> Result {
        let bed = new_bed(&[0])?;

        bed.log.shift.store(PAGE_SHIFT as u32 + 1, Relaxed);
        check!(matches!(Domain::new(&bed), Err(EINVAL)));
        bed.log.shift.store(PAGE_SHIFT as u32, Relaxed);
        drop(Domain::new(&bed)?);
        check!(bed.log.is_idle());
        Ok(())
    }

    #[test]
    fn domain_that_cannot_be_made_leaves_nothing_behind() -> Result {
        let bed = new_bed(&[0])?;

        bed.log.fail_new.store(ENOMEM.to_errno(), Relaxed);
        check!(matches!(Domain::new(&bed), Err(ENOMEM)));
        check!(bed.log.is_idle());
        Ok(())
    }

    #[test]
    fn static_domains_are_not_freed() {
        // SAFETY: The domain is a static.
        let domain = unsafe { &*PLAIN_BLOCKED.as_raw() };
        // SAFETY: A static domain has operations.
        let ops = unsafe { &*domain.ops };

        assert!(ops.free.is_none());
        assert!(ops.attach_dev.is_some());
        assert!(ops.iova_to_phys.is_some());
        assert_eq!(domain.type_, bindings::IOMMU_DOMAIN_BLOCKED);
        assert!(domain.owner.is_null());
    }

    #[test]
    fn gather_is_one_range() -> Result {
        let mut raw = empty_gather();
        // SAFETY: The gather is valid and nobody else uses it.
        let mut gather = unsafe { IotlbGather::from_raw(&mut raw) };

        assert!(!gather.is_queued());
        assert!(!gather.is_disjoint(range(0x1000, 0x1fff)?));
        gather.add(range(0x3000, 0x3fff)?);
        assert!(!gather.is_disjoint(range(0x4000, 0x4fff)?));
        assert!(gather.is_disjoint(range(0x5000, 0x5fff)?));
        gather.add(range(0x1000, 0x1fff)?);
        assert_eq!(gather.take(), Some(range(0x1000, 0x3fff)?));
        assert_eq!(gather.range(), None);
        // Nothing of the old range is left.
        gather.add(range(0x7000, 0x7fff)?);
        assert_eq!(gather.take(), Some(range(0x7000, 0x7fff)?));
        gather.add(range(0, u64::MAX)?);
        assert_eq!(gather.range(), Some(range(0, u64::MAX)?));
        Ok(())
    }
}
