// SPDX-License-Identifier: GPL-2.0

//! What a driver does for its paging domains, and how the core asks for it.

use super::{
    paging::PagingDomain,
    AttachCtx,
    DriverTypes,
    EndpointCtx,
    Geometry,
    IotlbGather,
    Iova,
    IovaRange,
    MapError,
    MapRequest,
    Pages,
    UnmapRequest, //
};
use crate::{
    bindings,
    error::{
        from_result,
        VTABLE_DEFAULT_ERROR, //
    },
    io::PhysAddr,
    prelude::*,
    task::might_sleep, //
};

/// The operations of a domain that translates addresses with a table.
///
/// A domain may have devices of several groups, and all methods may be called from several CPUs at
/// a time, for requests that do not overlap: who calls `iommu_map()` or `iommu_unmap()` sees to
/// that. Only [`attach`](Self::attach) may always sleep.
///
/// # Safety
///
/// - An attached device may reach a page only while the page is mapped: from a
///   [`map`](Self::map) that succeeded (or counted the page before it failed) until the
///   invalidation after [`unmap`](Self::unmap).
/// - That invalidation is complete when `unmap` returns, or [`iotlb_sync`](Self::iotlb_sync) for a
///   gather that holds the page, or [`flush_iotlb_all`](Self::flush_iotlb_all) if the gather was
///   queued.
/// - A device that has been attached elsewhere, or released, may reach nothing through this domain.
#[vtable]
pub unsafe trait PagingOps: Sized + Send + Sync + 'static {
    /// The driver that has the domain.
    type Driver: DriverTypes<Paging = Self>;

    /// Makes a domain that can at least be attached to the device. May sleep.
    ///
    /// A smallest page size above `PAGE_SIZE` makes the allocation fail with [`EINVAL`], because
    /// the DMA API could not use the domain.
    fn new(ctx: &EndpointCtx<'_, Self::Driver>) -> Result<(Geometry, impl PinInit<Self, Error>)>;

    /// Attaches a device. May sleep; the mutex of the group is held.
    ///
    /// [`StaticOps::attach`](super::StaticOps::attach) has the rules. Map and unmap requests go on
    /// meanwhile.
    fn attach(self: Pin<&Self>, ctx: &AttachCtx<'_, Self::Driver>) -> Result;

    /// Maps all of `req`, if that takes few instructions; otherwise returns `false` and does
    /// nothing.
    ///
    /// A request that is declined comes again to [`map`](Self::map). An implementation that calls
    /// no function that is not inlined spares the usual request the cost of saving registers.
    fn try_map(self: Pin<&Self>, _req: &MapRequest) -> bool {
        build_error!(VTABLE_DEFAULT_ERROR)
    }

    /// Unmaps all of `req`, if that takes few instructions; otherwise returns `false` and does
    /// nothing.
    ///
    /// This is to [`unmap`](Self::unmap) what [`try_map`](Self::try_map) is to [`map`](Self::map).
    fn try_unmap(self: Pin<&Self>, _req: &UnmapRequest, _gather: &mut IotlbGather<'_>) -> bool {
        build_error!(VTABLE_DEFAULT_ERROR)
    }

    /// Maps all of `req`. Must not sleep, unless [`MapRequest::may_sleep`] says that it may.
    fn map(self: Pin<&Self>, req: &MapRequest) -> Result<(), MapError>;

    /// Unmaps `req` and returns how many of its pages, from the first on, were mapped.
    ///
    /// Must not sleep and must not need memory. Addresses whose invalidation is still due go into
    /// `gather`; if the driver adds none, the core adds the request.
    fn unmap(self: Pin<&Self>, req: &UnmapRequest, gather: &mut IotlbGather<'_>) -> Pages;

    /// Returns the physical address that a device reaches at `iova`, with the offset in the page.
    ///
    /// Must not sleep. C takes address 0 for "not mapped".
    fn iova_to_phys(self: Pin<&Self>, iova: Iova) -> Option<PhysAddr>;

    /// Completes the mapping of `range`, which one or more [`map`](Self::map) calls made.
    ///
    /// Must not sleep. After a failure the core unmaps the range.
    fn iotlb_sync_map(self: Pin<&Self>, _range: IovaRange) -> Result {
        build_error!(VTABLE_DEFAULT_ERROR)
    }

    /// Invalidates what `gather` holds. Must not sleep.
    fn iotlb_sync(self: Pin<&Self>, _gather: &mut IotlbGather<'_>) {
        build_error!(VTABLE_DEFAULT_ERROR)
    }

    /// Invalidates everything that has been unmapped. Must not sleep.
    fn flush_iotlb_all(self: Pin<&Self>) {
        build_error!(VTABLE_DEFAULT_ERROR)
    }
}

impl<P: PagingOps> PagingDomain<P> {
    const OPS: bindings::iommu_domain_ops = bindings::iommu_domain_ops {
        attach_dev: Some(Self::attach_callback),
        map_pages: Some(Self::map_callback),
        unmap_pages: Some(Self::unmap_callback),
        flush_iotlb_all: if P::HAS_FLUSH_IOTLB_ALL {
            Some(Self::flush_iotlb_all_callback)
        } else {
            None
        },
        iotlb_sync_map: if P::HAS_IOTLB_SYNC_MAP {
            Some(Self::iotlb_sync_map_callback)
        } else {
            None
        },
        iotlb_sync: if P::HAS_IOTLB_SYNC {
            Some(Self::iotlb_sync_callback)
        } else {
            None
        },
        // The core calls this one without a check.
        iova_to_phys: Some(Self::iova_to_phys_callback),
        free: Some(Self::free_callback),
        ..pin_init::zeroed()
    };

    /// # Safety
    ///
    /// For the core: `dev` must be claimed by the driver `P::Driver`, and not be released during
    /// the call.
    pub(super) unsafe extern "C" fn alloc_callback(
        dev: *mut bindings::device,
    ) -> *mut bindings::iommu_domain {
        might_sleep();

        let alloc = || {
            // SAFETY: The core calls this for a device that is claimed, and does not release it
            // now.
            let ctx = unsafe { EndpointCtx::new(dev) };
            let (geometry, data) = P::new(&ctx)?;
            // SAFETY: The operations are those of this type.
            unsafe { Self::alloc(const { &Self::OPS }, geometry, data) }
        };
        alloc().unwrap_or_else(Error::to_ptr)
    }

    /// # Safety
    ///
    /// For the core: as for [`AttachCtx::new`]. `domain` must come from `alloc()`.
    unsafe extern "C" fn attach_callback(
        domain: *mut bindings::iommu_domain,
        dev: *mut bindings::device,
        old: *mut bindings::iommu_domain,
    ) -> c_int {
        might_sleep();

        from_result(|| {
            // SAFETY: The core frees no domain that it is about to attach.
            let this = unsafe { Self::from_raw(domain) };
            // SAFETY: The domain is one of `P::Driver`; the core holds the mutex of the group,
            // which keeps the device and the old domain.
            let ctx = unsafe { AttachCtx::new(domain, dev, old) }?;
            this.data().attach(&ctx)?;
            Ok(0)
        })
    }

    /// # Safety
    ///
    /// For the core: `domain` must come from `alloc()` and not be freed during the call, and
    /// `mapped` must be valid.
    unsafe extern "C" fn map_callback(
        domain: *mut bindings::iommu_domain,
        iova: c_ulong,
        paddr: bindings::phys_addr_t,
        pgsize: usize,
        pgcount: usize,
        prot: c_int,
        gfp: bindings::gfp_t,
        mapped: *mut usize,
    ) -> c_int {
        if P::HAS_TRY_MAP {
            // SAFETY: The user of the domain, for whom the core calls, does not free it meanwhile.
            let this = unsafe { Self::from_raw(domain) };
            let req = this.map_request(iova, paddr, pgsize, pgcount, prot, gfp);

            if req.is_ok_and(|req| this.data().try_map(&req)) {
                // OVERFLOW: The size of a request does not overflow.
                // SAFETY: The core passes a variable of its own.
                unsafe { *mapped = pgcount.wrapping_mul(pgsize) };
                return 0;
            }
        }
        // The last thing that is done, with the same arguments: a jump, for which nothing is saved.
        // SAFETY: By the safety requirements.
        unsafe { Self::map_any(domain, iova, paddr, pgsize, pgcount, prot, gfp, mapped) }
    }

    /// Serves every request to map.
    ///
    /// # Safety
    ///
    /// As for `map_callback()`.
    #[cold]
    unsafe extern "C" fn map_any(
        domain: *mut bindings::iommu_domain,
        iova: c_ulong,
        paddr: bindings::phys_addr_t,
        pgsize: usize,
        pgcount: usize,
        prot: c_int,
        gfp: bindings::gfp_t,
        mapped: *mut usize,
    ) -> c_int {
        // SAFETY: The user of the domain, for whom the core calls, does not free it meanwhile.
        let this = unsafe { Self::from_raw(domain) };

        let map = || {
            let req = this.map_request(iova, paddr, pgsize, pgcount, prot, gfp)?;
            this.data().map(&req)
        };
        // The core goes on until all is mapped or there is an error. So success always means all
        // of the request, and never more than that.
        let (pages, ret) = match map() {
            Ok(()) => (pgcount, 0),
            Err(e) => (e.mapped.get().min(pgcount), e.error.to_errno()),
        };
        // OVERFLOW: With at least one page, there was a request, and its size did not overflow.
        // SAFETY: The core passes a variable of its own.
        unsafe { *mapped = pages.wrapping_mul(pgsize) };
        ret
    }

    /// # Safety
    ///
    /// For the core: `domain` must come from `alloc()` and not be freed during the call, and
    /// `gather` must be valid and in use by nobody else.
    unsafe extern "C" fn unmap_callback(
        domain: *mut bindings::iommu_domain,
        iova: c_ulong,
        pgsize: usize,
        pgcount: usize,
        gather: *mut bindings::iommu_iotlb_gather,
    ) -> usize {
        if P::HAS_TRY_UNMAP {
            // SAFETY: The user of the domain, for whom the core calls, does not free it meanwhile.
            let this = unsafe { Self::from_raw(domain) };
            // SAFETY: The core lends the gather of its caller for the call.
            let mut gather = unsafe { IotlbGather::from_raw(gather) };
            let req = this.unmap_request(iova, pgsize, pgcount);

            if req.is_ok_and(|req| this.data().try_unmap(&req, &mut gather)) {
                // OVERFLOW: The size of a request does not overflow.
                return pgcount.wrapping_mul(pgsize);
            }
        }
        // As in `map_callback()`.
        // SAFETY: By the safety requirements.
        unsafe { Self::unmap_any(domain, iova, pgsize, pgcount, gather) }
    }

    /// Serves every request to unmap.
    ///
    /// # Safety
    ///
    /// As for `unmap_callback()`.
    #[cold]
    unsafe extern "C" fn unmap_any(
        domain: *mut bindings::iommu_domain,
        iova: c_ulong,
        pgsize: usize,
        pgcount: usize,
        gather: *mut bindings::iommu_iotlb_gather,
    ) -> usize {
        // SAFETY: The user of the domain, for whom the core calls, does not free it meanwhile.
        let this = unsafe { Self::from_raw(domain) };
        // SAFETY: The core lends the gather of its caller for the call.
        let mut gather = unsafe { IotlbGather::from_raw(gather) };

        let Ok(req) = this.unmap_request(iova, pgsize, pgcount) else {
            return 0;
        };
        let done = this.data().unmap(&req, &mut gather);
        // OVERFLOW: The size of the request does not overflow.
        done.get().min(pgcount).wrapping_mul(pgsize)
    }

    /// # Safety
    ///
    /// For the core: `domain` must come from `alloc()` and not be freed during the call.
    unsafe extern "C" fn iotlb_sync_map_callback(
        domain: *mut bindings::iommu_domain,
        iova: c_ulong,
        size: usize,
    ) -> c_int {
        // SAFETY: The user of the domain, for whom the core calls, does not free it meanwhile.
        let this = unsafe { Self::from_raw(domain) };

        from_result(|| {
            if size == 0 {
                return Ok(0);
            }
            // CAST: `usize` and `c_ulong` have 64 bits or less.
            let range = IovaRange::from_len(Iova::new(iova as u64), size as u64).ok_or(EINVAL)?;
            if !this.geometry.aperture.covers(range) {
                return Err(ERANGE);
            }
            this.data().iotlb_sync_map(range)?;
            Ok(0)
        })
    }

    /// # Safety
    ///
    /// For the core: `domain` must come from `alloc()` and not be freed during the call, and
    /// `gather` must be valid and in use by nobody else.
    unsafe extern "C" fn iotlb_sync_callback(
        domain: *mut bindings::iommu_domain,
        gather: *mut bindings::iommu_iotlb_gather,
    ) {
        // SAFETY: The user of the domain, for whom the core calls, does not free it meanwhile.
        let this = unsafe { Self::from_raw(domain) };
        // SAFETY: The core lends the gather of its caller for the call.
        let mut gather = unsafe { IotlbGather::from_raw(gather) };
        this.data().iotlb_sync(&mut gather);
    }

    /// # Safety
    ///
    /// For the core: `domain` must come from `alloc()` and not be freed during the call.
    unsafe extern "C" fn flush_iotlb_all_callback(domain: *mut bindings::iommu_domain) {
        // SAFETY: The user of the domain, for whom the core calls, does not free it meanwhile.
        unsafe { Self::from_raw(domain) }.data().flush_iotlb_all();
    }

    /// # Safety
    ///
    /// For the core: `domain` must come from `alloc()` and not be freed during the call.
    unsafe extern "C" fn iova_to_phys_callback(
        domain: *mut bindings::iommu_domain,
        iova: bindings::dma_addr_t,
    ) -> bindings::phys_addr_t {
        // SAFETY: The user of the domain, for whom the core calls, does not free it meanwhile.
        let this = unsafe { Self::from_raw(domain) };
        let iova = Iova::from_dma_addr(iova);

        if this.geometry.aperture.contains(iova) {
            this.data().iova_to_phys(iova).unwrap_or(0)
        } else {
            0
        }
    }
}
