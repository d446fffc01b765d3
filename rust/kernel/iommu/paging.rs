// SPDX-License-Identifier: GPL-2.0

//! Paging domains, as the core has them.

use super::{
    Geometry,
    Iova,
    MapRequest,
    PageSize,
    Pages,
    Prot,
    UnmapRequest, //
};
use crate::{
    alloc,
    bindings,
    container_of,
    page::PAGE_SIZE,
    prelude::*,
    task::might_sleep,
    types::Opaque, //
};

/// A paging domain: what the core sees, and what its driver keeps.
///
/// # Invariants
///
/// `raw` is initialised, with operations for this type, and its geometry is `geometry`. The domain
/// is in a `KBox` that the core owns.
#[repr(C)]
#[pin_data]
pub(super) struct PagingDomain<P> {
    #[pin]
    raw: Opaque<bindings::iommu_domain>,
    pub(super) geometry: Geometry,
    #[pin]
    data: P,
}

impl<P> PagingDomain<P> {
    /// Makes a domain for the core, which gives it back to `free_callback()`.
    ///
    /// # Safety
    ///
    /// The callbacks of `ops` must be for domains of this type.
    pub(super) unsafe fn alloc(
        ops: &'static bindings::iommu_domain_ops,
        geometry: Geometry,
        data: impl PinInit<P, Error>,
    ) -> Result<*mut bindings::iommu_domain> {
        // CAST: `PAGE_SIZE` fits in 64 bits.
        if geometry.pages.smallest().bytes() > PAGE_SIZE as u64 {
            // `init_iova_domain()` has a `BUG_ON()` for this.
            return Err(EINVAL);
        }

        let this = KBox::try_pin_init(
            // INVARIANT: The operations are for this type, and the geometry is the same on both
            // sides. The core sets type and owner.
            try_pin_init!(Self {
                raw: Opaque::new(bindings::iommu_domain {
                    ops,
                    pgsize_bitmap: geometry.pages.as_raw(),
                    geometry: bindings::iommu_domain_geometry {
                        // CAST: What a `dma_addr_t` does not hold cannot be asked for from C.
                        aperture_start: geometry.aperture.first().get() as bindings::dma_addr_t,
                        aperture_end: geometry.aperture.last().get() as bindings::dma_addr_t,
                        force_aperture: true,
                        high_start: geometry.low.map_or(0, |low| low.high_start.get())
                            as bindings::dma_addr_t,
                        preferred_end: geometry
                            .low
                            .and_then(|low| low.preferred_last)
                            .map_or(0, Iova::get)
                            as bindings::dma_addr_t,
                        low_pgsize_bitmap: geometry
                            .low
                            .map_or(0, |low| low.more_pages(geometry.pages)),
                    },
                    ..pin_init::zeroed()
                }),
                geometry,
                data <- data,
            }),
            GFP_KERNEL,
        )?;
        // SAFETY: The domain stays where it is until `free_callback()`.
        let this = KBox::into_raw(unsafe { Pin::into_inner_unchecked(this) });
        // SAFETY: `this` comes from a box.
        Ok(Opaque::cast_into(unsafe { &raw const (*this).raw }))
    }

    /// Borrows the domain that is known to C as `raw`.
    ///
    /// # Safety
    ///
    /// `raw` must be part of a `PagingDomain<P>` that lives at least as long as the result.
    pub(super) unsafe fn from_raw<'a>(raw: *mut bindings::iommu_domain) -> Pin<&'a Self> {
        // SAFETY: By the safety requirements; the box in which the domain lives pins it.
        unsafe { Pin::new_unchecked(&*container_of!(Opaque::cast_from(raw), Self, raw)) }
    }

    pub(super) fn data<'a>(self: Pin<&'a Self>) -> Pin<&'a P> {
        ::pin_init::assert_pinned!(PagingDomain<P>, data, P, inline);

        // SAFETY: `data` is structurally pinned.
        unsafe { self.map_unchecked(|domain| &domain.data) }
    }

    /// # Safety
    ///
    /// For the core: `domain` must come from `alloc()`, and nobody may use it any more.
    pub(super) unsafe extern "C" fn free_callback(domain: *mut bindings::iommu_domain) {
        might_sleep();

        // SAFETY: The domain comes from `alloc()`.
        let this = unsafe { container_of!(Opaque::cast_from(domain), Self, raw) };
        // SAFETY: `alloc()` took it out of a box, and the core gives it back.
        drop(unsafe { KBox::from_raw(this.cast_mut()) });
    }

    /// Checks a request of the core to map.
    #[inline(always)]
    pub(super) fn map_request(
        &self,
        iova: c_ulong,
        paddr: bindings::phys_addr_t,
        pgsize: usize,
        pgcount: usize,
        prot: c_int,
        gfp: bindings::gfp_t,
    ) -> Result<MapRequest> {
        // CAST: `usize` and `c_ulong` have 64 bits or less.
        MapRequest::new(
            &self.geometry,
            Iova::new(iova as u64),
            paddr,
            PageSize::from_bytes(pgsize as u64).ok_or(EINVAL)?,
            Pages::new(pgcount),
            Prot::from_raw(prot),
            alloc::Flags::from_raw(gfp),
        )
    }

    /// Checks a request of the core to unmap.
    #[inline(always)]
    pub(super) fn unmap_request(
        &self,
        iova: c_ulong,
        pgsize: usize,
        pgcount: usize,
    ) -> Result<UnmapRequest> {
        // CAST: `usize` and `c_ulong` have 64 bits or less.
        let page = PageSize::from_bytes(pgsize as u64).ok_or(EINVAL)?;
        UnmapRequest::new(
            &self.geometry,
            Iova::new(iova as u64),
            page,
            Pages::new(pgcount),
        )
    }
}
