// SPDX-License-Identifier: GPL-2.0

//! Shared virtual addressing as an IOMMU driver sees it.

use super::{
    sva_mirror::Mirror,
    sva_window::{
        Module,
        SvaWindow, //
    },
    Blocked,
    Driver,
    DriverTypes,
    EndpointCtx,
    Ops,
    Pasid,
    StaticDomain,
    StaticOps, //
};
use crate::{
    bindings,
    container_of,
    error::from_result,
    mm::MmWithUser,
    prelude::*,
    sync::Arc,
    task::might_sleep,
    types::Opaque, //
};
use core::ptr;

/// The operations of a domain that stands for the address space of a process.
///
/// A driver that has them gives them to [`Ops::sva`], and makes its blocked domain with
/// [`StaticDomain::with_pasids`]. The core binds a device to a process by setting a PASID of the
/// device to such a domain. One domain may serve several devices of the driver.
///
/// All callbacks may sleep. The mutex of all bonds is held, so they must not drop a [`Bond`], and
/// must not wait for an [`MmExit`] that could wait for a bond.
///
/// [`Bond`]: super::sva::Bond
/// [`MmExit`]: super::sva::MmExit
///
/// # Safety
///
/// While a PASID is set to the domain, the device may reach with it what the process may, and no
/// more: nothing that the process has unmapped, and nothing at all once the last user of the
/// address space is gone. The domain has to find out about both by itself.
pub unsafe trait SvaOps: Sized + Send + Sync + 'static {
    /// The driver that has the domain.
    type Driver: Driver;

    /// Makes a domain for `mm` that can at least be set for the device.
    ///
    /// The core keeps the memory of `mm` as long as the domain, but not its use.
    fn new(
        ctx: &EndpointCtx<'_, Self::Driver>,
        mm: &MmWithUser,
    ) -> Result<impl PinInit<Self, Error>>;

    /// Lets the device use the address space with `pasid`, which it does not use so far.
    ///
    /// The mutex of the group is held. On failure the PASID stays blocked. [`EINVAL`] says that the
    /// device and the domain do not fit; the core then makes a domain for the device.
    /// [`EUSERS`] says that the IOMMU has room for one process, and another one has it, and
    /// [`EADDRINUSE`] that the kernel's own DMA uses the addresses of the process, or may.
    fn set_pasid(self: Pin<&Self>, ctx: &EndpointCtx<'_, Self::Driver>, pasid: Pasid) -> Result;

    /// The window that stands for the address space on an IOMMU without PASIDs.
    fn window(self: Pin<&Self>) -> Option<Arc<dyn SvaWindow>> {
        None
    }
}

/// A blocked domain that can also block a single PASID.
///
/// # Safety
///
/// When [`remove_pasid`](Self::remove_pasid) returns, the device must reach nothing with the PASID.
pub unsafe trait BlockPasid: StaticOps<Kind = Blocked> {
    /// Takes `pasid` away from the device. C has no way for this to fail.
    ///
    /// May sleep; the mutex of the group is held. The domain that the PASID was set to may be freed
    /// next. The core also calls this for devices that joined the group after the PASID was set,
    /// and so never had it.
    ///
    /// The page requests with the PASID that have reached the core are answered afterwards; those
    /// that are still in a queue of the hardware are reported best now.
    fn remove_pasid(ctx: &EndpointCtx<'_, Self::Driver>, pasid: Pasid);
}

impl<D: BlockPasid> StaticDomain<D> {
    const PASID_OPS: bindings::iommu_domain_ops = bindings::iommu_domain_ops {
        set_dev_pasid: Some(Self::remove_pasid_callback),
        ..Self::OPS
    };

    /// Makes a blocked domain that PASIDs can be set to.
    pub const fn with_pasids() -> Self {
        Self::with_ops(const { &Self::PASID_OPS })
    }

    /// # Safety
    ///
    /// For the core, which holds the mutex of the group: `domain` must be a `StaticDomain<D>`, and
    /// `dev` must have an IOMMU.
    unsafe extern "C" fn remove_pasid_callback(
        domain: *mut bindings::iommu_domain,
        dev: *mut bindings::device,
        pasid: bindings::ioasid_t,
        _old: *mut bindings::iommu_domain,
    ) -> c_int {
        might_sleep();

        from_result(|| {
            // SAFETY: The domain is one of `D::Driver`, and the mutex keeps the device.
            let ctx = unsafe { EndpointCtx::<D::Driver>::of_domain(domain, dev) }?;
            let pasid = Pasid::new(pasid).ok_or(EINVAL)?;
            D::remove_pasid(&ctx, pasid);
            ctx.dismiss(pasid);
            Ok(0)
        })
    }
}

impl<T: DriverTypes> EndpointCtx<'_, T> {
    /// Has the core bind the device to processes although it has no PASIDs.
    ///
    /// The core numbers processes with PASIDs and knows from PCI how many a device has. For an
    /// IOMMU that needs none on the bus, the driver calls this in
    /// [`probe_finalize`](Driver::probe_finalize). A device that has PASIDs keeps its number.
    pub fn offer_processes(&self) {
        const MOST: u32 = 1 << 20;

        // SAFETY: By the type invariants the device has IOMMU data.
        let max_pasids = unsafe { &raw mut (*(*self.device().as_raw()).iommu).max_pasids };
        // SAFETY: The word is valid, and aligned. Who binds the device at this moment finds the one
        // value or the other.
        unsafe {
            if max_pasids.read_volatile() == 0 {
                max_pasids.write_volatile(MOST);
            }
        }
    }

    /// Lets the core handle page requests with a PASID.
    #[cfg(CONFIG_IOMMU_IOPF)]
    fn admit(&self, pasid: Pasid) -> Result {
        self.port()
            .as_ref()
            .map_or(Ok(()), |port| port.admit(pasid))
    }

    /// Ends that, after those that are there.
    #[cfg(CONFIG_IOMMU_IOPF)]
    fn dismiss(&self, pasid: Pasid) {
        if let Some(port) = self.port().as_ref() {
            // SAFETY: By the type invariant, the device is not released.
            unsafe { port.dismiss(pasid) };
        }
    }

    #[cfg(not(CONFIG_IOMMU_IOPF))]
    fn admit(&self, _pasid: Pasid) -> Result {
        Ok(())
    }

    #[cfg(not(CONFIG_IOMMU_IOPF))]
    fn dismiss(&self, _pasid: Pasid) {}
}

impl<T: Driver> Ops<T> {
    /// Sets the domain that stands for an address space.
    ///
    /// The core only uses it together with a blocked domain that was made with
    /// [`StaticDomain::with_pasids`].
    #[must_use]
    pub const fn sva<S: SvaOps<Driver = T>>(mut self) -> Self {
        // INVARIANT: The callback is one for `T`, by the bound of `S`.
        self.0.domain_alloc_sva = Some(SvaDomain::alloc_callback::<S>);
        self
    }
}

/// What the core asks of the domain of an address space, whatever driver it belongs to.
trait AnyDomain: Send + Sync {
    /// Lets the device use the address space.
    ///
    /// # Safety
    ///
    /// As for [`EndpointCtx::of_domain`], where `domain` is the one that `self` is part of.
    unsafe fn set_pasid(
        &self,
        domain: *mut bindings::iommu_domain,
        dev: *mut bindings::device,
        pasid: Pasid,
    ) -> Result;
}

impl<S: SvaOps> AnyDomain for S {
    unsafe fn set_pasid(
        &self,
        domain: *mut bindings::iommu_domain,
        dev: *mut bindings::device,
        pasid: Pasid,
    ) -> Result {
        // SAFETY: By the safety requirements.
        let ctx = unsafe { EndpointCtx::<S::Driver>::of_domain(domain, dev) }?;
        // SAFETY: It is pinned in its domain.
        let this = unsafe { Pin::new_unchecked(self) };
        ctx.admit(pasid)?;
        SvaOps::set_pasid(this, &ctx, pasid).inspect_err(|_| ctx.dismiss(pasid))
    }
}

/// The domain of an address space: what the core sees, and what its driver keeps.
///
/// # Invariants
///
/// `raw` is initialised, with the operations [`OPS`]. The domain is in a `KBox` that the core owns,
/// and `data` stays where it is.
#[repr(C)]
#[pin_data]
pub(super) struct SvaDomain {
    #[pin]
    raw: Opaque<bindings::iommu_domain>,
    /// For an IOMMU without PASIDs.
    mirror: Option<Arc<Mirror>>,
    data: KBox<dyn AnyDomain>,
    /// Dropped last: the code of `data`. A bond that is forgotten outlives the driver's devices.
    _module: Module,
}

/// The operations of all of them. A static, because [`SvaDomain::of`] compares the address.
static OPS: bindings::iommu_domain_ops = bindings::iommu_domain_ops {
    set_dev_pasid: Some(SvaDomain::set_pasid_callback),
    free: Some(SvaDomain::free_callback),
    ..pin_init::zeroed()
};

impl SvaDomain {
    /// Makes a domain for the core, which gives it back to `free_callback()`.
    fn alloc<S: SvaOps>(
        ctx: &EndpointCtx<'_, S::Driver>,
        mm: &MmWithUser,
    ) -> Result<*mut bindings::iommu_domain> {
        let data = KBox::pin_init(S::new(ctx, mm)?, GFP_KERNEL)?;
        let mirror = match data.as_ref().window() {
            Some(window) => Some(Mirror::new(mm, window, ctx.ops())?),
            None => None,
        };
        // SAFETY: The box is not taken apart.
        let data = unsafe { Pin::into_inner_unchecked(data) };
        let this = KBox::pin_init(
            // INVARIANT: The core sets type, owner and `mm`.
            pin_init!(Self {
                raw: Opaque::new(bindings::iommu_domain {
                    ops: &OPS,
                    ..pin_init::zeroed()
                }),
                mirror,
                data: data as KBox<dyn AnyDomain>,
                _module: Module::get(ctx.ops()),
            }),
            GFP_KERNEL,
        )?;
        // SAFETY: The domain stays where it is until `free_callback()`.
        let this = KBox::into_raw(unsafe { Pin::into_inner_unchecked(this) });
        // SAFETY: `this` comes from a box.
        Ok(Opaque::cast_into(unsafe { &raw const (*this).raw }))
    }

    /// # Safety
    ///
    /// For the core: `dev` must be claimed by the driver `S::Driver`, and not be released during
    /// the call; `mm` must have a user as long.
    unsafe extern "C" fn alloc_callback<S: SvaOps>(
        dev: *mut bindings::device,
        mm: *mut bindings::mm_struct,
    ) -> *mut bindings::iommu_domain {
        might_sleep();

        // SAFETY: The core calls this for a device that is claimed and bound to a driver.
        let ctx = unsafe { EndpointCtx::new(dev) };
        // SAFETY: Who binds has a user of `mm`.
        let mm = unsafe { MmWithUser::from_raw(mm) };
        Self::alloc::<S>(&ctx, mm).unwrap_or_else(Error::to_ptr)
    }

    /// Returns the domain behind one of the core, unless a driver in C made it.
    ///
    /// # Safety
    ///
    /// `domain` must be valid, and not be freed during `'a`.
    pub(super) unsafe fn of<'a>(domain: *mut bindings::iommu_domain) -> Option<&'a Self> {
        // SAFETY: By the safety requirements.
        let is_ours = ptr::eq(unsafe { (*domain).ops }, &OPS);
        // SAFETY: Only `alloc` makes domains with these operations.
        is_ours.then(|| unsafe { &*container_of!(Opaque::cast_from(domain), Self, raw) })
    }

    /// Returns the window, if the IOMMU has that in place of PASIDs.
    pub(super) fn mirror(&self) -> Option<&Arc<Mirror>> {
        self.mirror.as_ref()
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
    /// For the core, which holds the mutex of the group: `domain` must come from `alloc()`, and
    /// `dev` must have an IOMMU.
    unsafe extern "C" fn set_pasid_callback(
        domain: *mut bindings::iommu_domain,
        dev: *mut bindings::device,
        pasid: bindings::ioasid_t,
        _old: *mut bindings::iommu_domain,
    ) -> c_int {
        might_sleep();

        from_result(|| {
            // SAFETY: The core frees no domain that it sets.
            let this = unsafe { Self::of(domain) }.ok_or(EINVAL)?;
            let pasid = Pasid::new(pasid).ok_or(EINVAL)?;
            // SAFETY: The domain is one of the driver that made `data`, and the mutex keeps the
            // device.
            unsafe { this.data.set_pasid(domain, dev, pasid) }?;
            Ok(0)
        })
    }
}
