// SPDX-License-Identifier: GPL-2.0

//! Domains: what the devices attached to them can reach.

use super::{
    Driver,
    EndpointCtx,
    Geometry,
    IotlbGather,
    Iova,
    IovaRange,
    MapError,
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
    error::{
        from_result,
        VTABLE_DEFAULT_ERROR, //
    },
    io::PhysAddr,
    page::PAGE_SIZE,
    prelude::*,
    task::might_sleep,
    types::Opaque, //
};
use core::{
    marker::PhantomData,
    ops::Deref,
    ptr, //
};

mod sealed {
    pub trait Kind {
        const TYPE: u32;
    }
}

/// What a [`StaticDomain`] can be: [`Blocked`], [`Identity`] or [`Platform`].
pub trait StaticKind: sealed::Kind {}

/// What can be attached where the core wants no translation: [`Identity`] or [`Platform`].
pub trait IdentityKind: StaticKind {}

/// The kind of domain in which a device can reach nothing.
pub struct Blocked(());

/// The kind of domain in which a device uses physical addresses.
pub struct Identity(());

/// The kind of domain in which the architecture, not the DMA API, maps memory for a device.
pub struct Platform(());

impl sealed::Kind for Blocked {
    const TYPE: u32 = bindings::IOMMU_DOMAIN_BLOCKED;
}

impl sealed::Kind for Identity {
    const TYPE: u32 = bindings::IOMMU_DOMAIN_IDENTITY;
}

impl sealed::Kind for Platform {
    const TYPE: u32 = bindings::IOMMU_DOMAIN_PLATFORM;
}

impl StaticKind for Blocked {}
impl StaticKind for Identity {}
impl StaticKind for Platform {}

impl IdentityKind for Identity {}
impl IdentityKind for Platform {}

/// The operations of a [`StaticDomain`].
///
/// # Safety
///
/// While a device is attached to the domain, it must reach no more than the [`Kind`](Self::Kind)
/// says; in particular, nothing that it could reach in an earlier paging domain.
pub unsafe trait StaticOps: 'static {
    /// What the domain is.
    type Kind: StaticKind;

    /// The driver that has the domain.
    type Driver: Driver;

    /// Attaches a device. May sleep; the mutex of the group is held.
    ///
    /// This is called for every device of a group in turn. A failure must leave the device where it
    /// was. The core counts on a [`Blocked`] domain, and on a domain that the device was in before,
    /// not to fail.
    ///
    /// Useful errors are [`EINVAL`], if the device and the domain do not fit, [`ENOMEM`],
    /// [`ENOSPC`], [`EBUSY`] and [`ENODEV`].
    fn attach(ctx: &AttachCtx<'_, Self::Driver>) -> Result;

    /// Returns the physical address that a device reaches at `iova`. Must not sleep.
    ///
    /// The core only asks domains of kind [`Platform`].
    fn iova_to_phys(_iova: Iova) -> Option<PhysAddr> {
        None
    }
}

/// A domain that exists once and is never freed.
///
/// It must be a `static`, because the core knows it by its address.
///
/// # Invariants
///
/// The domain has the type of `D::Kind`, the operations of this type, no cookie and no owner.
#[repr(transparent)]
pub struct StaticDomain<D: StaticOps>(Opaque<bindings::iommu_domain>, PhantomData<D>);

// SAFETY: After construction only the core uses the domain, under its own locks.
unsafe impl<D: StaticOps> Sync for StaticDomain<D> {}

impl<D: StaticOps> StaticDomain<D> {
    // The core calls `free` for every domain that it has done with, so this one must have none.
    pub(super) const OPS: bindings::iommu_domain_ops = bindings::iommu_domain_ops {
        attach_dev: Some(Self::attach_callback),
        iova_to_phys: Some(Self::iova_to_phys_callback),
        ..pin_init::zeroed()
    };

    /// Makes the domain.
    #[expect(clippy::new_without_default)]
    pub const fn new() -> Self {
        Self::with_ops(const { &Self::OPS })
    }

    /// Makes the domain with the operations of this type, and perhaps more that are for it.
    pub(super) const fn with_ops(ops: &'static bindings::iommu_domain_ops) -> Self {
        // INVARIANT: What is not set here is zero, which stands for no cookie and no owner.
        Self(
            Opaque::new(bindings::iommu_domain {
                type_: <D::Kind as sealed::Kind>::TYPE,
                ops,
                ..pin_init::zeroed()
            }),
            PhantomData,
        )
    }

    /// Returns the domain as C knows it.
    pub(super) const fn as_raw(&'static self) -> *mut bindings::iommu_domain {
        self.0.get()
    }

    /// # Safety
    ///
    /// For the core: as for [`AttachCtx::new`]. `domain` must be a `StaticDomain<D>`.
    unsafe extern "C" fn attach_callback(
        domain: *mut bindings::iommu_domain,
        dev: *mut bindings::device,
        old: *mut bindings::iommu_domain,
    ) -> c_int {
        might_sleep();

        from_result(|| {
            // SAFETY: The domain is one of `D::Driver`; the core holds the mutex of the group,
            // which keeps the device and the old domain.
            let ctx = unsafe { AttachCtx::new(domain, dev, old) }?;
            D::attach(&ctx)?;
            Ok(0)
        })
    }

    /// # Safety
    ///
    /// No precondition; the signature is that of C.
    unsafe extern "C" fn iova_to_phys_callback(
        _domain: *mut bindings::iommu_domain,
        iova: bindings::dma_addr_t,
    ) -> bindings::phys_addr_t {
        D::iova_to_phys(Iova::from_dma_addr(iova)).unwrap_or(0)
    }
}

/// The operations of a domain that translates addresses with a table.
///
/// A domain may have devices of several groups, and all methods may be called from several CPUs at
/// a time, for requests that should not overlap. Only [`attach`](Self::attach) may always sleep.
///
/// # Safety
///
/// - An attached device may reach a page only while the page is mapped: from a
///   [`map`](Self::map) that succeeded (or counted the page before it failed) until the
///   invalidation after [`unmap`](Self::unmap).
/// - That invalidation is complete when `unmap` returns, or [`iotlb_sync`](Self::iotlb_sync) for a
///   gather that holds the page, or [`flush_iotlb_all`](Self::flush_iotlb_all) if the gather was
///   queued.
/// - A device that has been attached elsewhere may reach nothing through this domain.
/// - Calls that overlap may give wrong results, but must not break memory safety.
#[vtable]
pub unsafe trait PagingOps: Sized + Send + Sync + 'static {
    /// The driver that has the domain.
    type Driver: Driver<Paging = Self>;

    /// Makes a domain that can at least be attached to the device. May sleep.
    ///
    /// A smallest page size above `PAGE_SIZE` makes the allocation fail with [`EINVAL`], because
    /// the DMA API could not use the domain.
    fn new(ctx: &EndpointCtx<'_, Self::Driver>) -> Result<(Geometry, impl PinInit<Self, Error>)>;

    /// Attaches a device. May sleep; the mutex of the group is held.
    ///
    /// [`StaticOps::attach`] has the rules. Map and unmap requests go on meanwhile.
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

/// A paging domain: what the core sees, and what its driver keeps.
///
/// # Invariants
///
/// `raw` is initialised, with the operations of this type, and its geometry is `geometry`. The
/// domain is in a `KBox` that the core owns.
#[repr(C)]
#[pin_data]
pub(super) struct PagingDomain<T: Driver> {
    #[pin]
    raw: Opaque<bindings::iommu_domain>,
    geometry: Geometry,
    #[pin]
    data: T::Paging,
}

impl<T: Driver> PagingDomain<T> {
    const OPS: bindings::iommu_domain_ops = bindings::iommu_domain_ops {
        attach_dev: Some(Self::attach_callback),
        map_pages: Some(Self::map_callback),
        unmap_pages: Some(Self::unmap_callback),
        flush_iotlb_all: if T::Paging::HAS_FLUSH_IOTLB_ALL {
            Some(Self::flush_iotlb_all_callback)
        } else {
            None
        },
        iotlb_sync_map: if T::Paging::HAS_IOTLB_SYNC_MAP {
            Some(Self::iotlb_sync_map_callback)
        } else {
            None
        },
        iotlb_sync: if T::Paging::HAS_IOTLB_SYNC {
            Some(Self::iotlb_sync_callback)
        } else {
            None
        },
        // The core calls this one without a check.
        iova_to_phys: Some(Self::iova_to_phys_callback),
        free: Some(Self::free_callback),
        ..pin_init::zeroed()
    };

    /// Makes a domain for the core, which gives it back to `free_callback()`.
    fn alloc(
        geometry: Geometry,
        data: impl PinInit<T::Paging, Error>,
    ) -> Result<*mut bindings::iommu_domain> {
        // CAST: `PAGE_SIZE` fits in 64 bits.
        if geometry.pages.smallest().bytes() > PAGE_SIZE as u64 {
            // `init_iova_domain()` has a `BUG_ON()` for this.
            return Err(EINVAL);
        }

        let this = KBox::try_pin_init(
            // INVARIANT: The geometry is the same on both sides. The core sets type and owner.
            try_pin_init!(Self {
                raw: Opaque::new(bindings::iommu_domain {
                    ops: const { &Self::OPS },
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
    /// `raw` must be part of a `PagingDomain<T>` that lives at least as long as the result.
    unsafe fn from_raw<'a>(raw: *mut bindings::iommu_domain) -> Pin<&'a Self> {
        // SAFETY: By the safety requirements; the box in which the domain lives pins it.
        unsafe { Pin::new_unchecked(&*container_of!(Opaque::cast_from(raw), Self, raw)) }
    }

    fn data<'a>(self: Pin<&'a Self>) -> Pin<&'a T::Paging> {
        ::pin_init::assert_pinned!(PagingDomain<T>, data, T::Paging, inline);

        // SAFETY: `data` is structurally pinned.
        unsafe { self.map_unchecked(|domain| &domain.data) }
    }

    /// # Safety
    ///
    /// For the core: `dev` must be claimed by the driver `T`, and not be released during the call.
    pub(super) unsafe extern "C" fn alloc_callback(
        dev: *mut bindings::device,
    ) -> *mut bindings::iommu_domain {
        might_sleep();

        let alloc = || {
            // SAFETY: The core calls this for a device that is claimed, and does not release it
            // now.
            let ctx = unsafe { EndpointCtx::new(dev) };
            let (geometry, data) = T::Paging::new(&ctx)?;
            Self::alloc(geometry, data)
        };
        alloc().unwrap_or_else(Error::to_ptr)
    }

    /// # Safety
    ///
    /// For the core: `domain` must come from `alloc()`, and nobody may use it any more.
    unsafe extern "C" fn free_callback(domain: *mut bindings::iommu_domain) {
        might_sleep();

        // SAFETY: The domain comes from `alloc()`.
        let this = unsafe { container_of!(Opaque::cast_from(domain), Self, raw) };
        // SAFETY: `alloc()` took it out of a box, and the core gives it back.
        drop(unsafe { KBox::from_raw(this.cast_mut()) });
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
            // SAFETY: The domain is one of `T`; the core holds the mutex of the group, which keeps
            // the device and the old domain.
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
        if T::Paging::HAS_TRY_MAP {
            // SAFETY: The user of the domain, for whom the core calls, does not free it meanwhile.
            let this = unsafe { Self::from_raw(domain) };
            let req = this.map_request(iova, paddr, pgsize, pgcount, prot, gfp);

            if req.is_ok_and(|req| this.data().try_map(&req)) {
                // NO-OVERFLOW: The size of a request does not overflow.
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
        // NO-OVERFLOW: With at least one page, there was a request, and its size did not overflow.
        // SAFETY: The core passes a variable of its own.
        unsafe { *mapped = pages.wrapping_mul(pgsize) };
        ret
    }

    /// Checks a request of the core to map.
    #[inline(always)]
    fn map_request(
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
        if T::Paging::HAS_TRY_UNMAP {
            // SAFETY: The user of the domain, for whom the core calls, does not free it meanwhile.
            let this = unsafe { Self::from_raw(domain) };
            // SAFETY: The core lends the gather of its caller for the call.
            let mut gather = unsafe { IotlbGather::from_raw(gather) };
            let req = this.unmap_request(iova, pgsize, pgcount);

            if req.is_ok_and(|req| this.data().try_unmap(&req, &mut gather)) {
                // NO-OVERFLOW: The size of a request does not overflow.
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
        // NO-OVERFLOW: The size of the request does not overflow.
        done.get().min(pgcount).wrapping_mul(pgsize)
    }

    /// Checks a request of the core to unmap.
    #[inline(always)]
    fn unmap_request(&self, iova: c_ulong, pgsize: usize, pgcount: usize) -> Result<UnmapRequest> {
        // CAST: `usize` and `c_ulong` have 64 bits or less.
        let page = PageSize::from_bytes(pgsize as u64).ok_or(EINVAL)?;
        UnmapRequest::new(
            &self.geometry,
            Iova::new(iova as u64),
            page,
            Pages::new(pgcount),
        )
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

/// What a device is attached to before an attach callback.
pub enum Attached<'a, T: Driver> {
    /// Nothing: the device is new to its group, or the core does not know.
    None,
    /// The domain given to [`Ops::blocked`](super::Ops::blocked).
    Blocked,
    /// The domain given to [`Ops::identity`](super::Ops::identity), if it is of that kind.
    Identity,
    /// The domain given to [`Ops::identity`](super::Ops::identity), if it is a [`Platform`] domain.
    Platform,
    /// A paging domain.
    Paging(Pin<&'a T::Paging>),
}

impl<'a, T: Driver> Attached<'a, T> {
    /// Finds out what `domain` is for a device with the operations `ops`.
    ///
    /// # Safety
    ///
    /// - `ops` must be part of an [`Ops<T>`](super::Ops).
    /// - `domain` must be null or valid for `'a`.
    unsafe fn from_raw(ops: &'a bindings::iommu_ops, domain: *mut bindings::iommu_domain) -> Self {
        if domain.is_null() {
            Self::None
        } else if domain == ops.blocked_domain {
            Self::Blocked
        } else if domain == ops.identity_domain {
            // SAFETY: The domain is valid, and the type of a static domain does not change.
            match unsafe { (*domain).type_ } {
                bindings::IOMMU_DOMAIN_PLATFORM => Self::Platform,
                _ => Self::Identity,
            }
        // SAFETY: The domain is valid, and the core sets the owner before anybody attaches it.
        } else if ptr::eq(unsafe { (*domain).owner }, ops) {
            // SAFETY: `PagingDomain<T>::alloc_callback` is the only function of `ops` that
            // allocates domains for a device; those for its PASIDs are no old domains of it.
            Self::Paging(unsafe { PagingDomain::<T>::from_raw(domain) }.data())
        } else {
            Self::None
        }
    }
}

/// The device that an attach callback is about, and where it was.
///
/// Everything that can be done with an [`EndpointCtx`] can be done with this too.
pub struct AttachCtx<'a, T: Driver> {
    endpoint: EndpointCtx<'a, T>,
    old: Attached<'a, T>,
}

impl<'a, T: Driver> AttachCtx<'a, T> {
    /// Makes the context for a callback that attaches `dev` to `domain`.
    ///
    /// Returns [`EINVAL`] if the device does not belong to the driver that has the domain.
    ///
    /// # Safety
    ///
    /// - `domain` must be a static or a paging domain of the driver `T`.
    /// - `dev` must be valid and have an IOMMU, and `old` must be null or valid, as long as the
    ///   result is in use. The mutex of the group, which the core holds, guarantees this.
    unsafe fn new(
        domain: *mut bindings::iommu_domain,
        dev: *mut bindings::device,
        old: *mut bindings::iommu_domain,
    ) -> Result<Self> {
        // SAFETY: By the safety requirements.
        let endpoint = unsafe { EndpointCtx::of_domain(domain, dev) }?;
        Ok(Self {
            // SAFETY: The operations are those of `T`, and the mutex keeps `old` alive.
            old: unsafe { Attached::from_raw(endpoint.ops(), old) },
            endpoint,
        })
    }

    /// Returns what the device is attached to now.
    pub fn old(&self) -> Attached<'a, T> {
        self.old
    }
}

impl<T: Driver> Clone for Attached<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T: Driver> Copy for Attached<'_, T> {}

impl<'a, T: Driver> Deref for AttachCtx<'a, T> {
    type Target = EndpointCtx<'a, T>;

    fn deref(&self) -> &Self::Target {
        &self.endpoint
    }
}
