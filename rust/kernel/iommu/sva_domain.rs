// SPDX-License-Identifier: GPL-2.0

//! Shared virtual addressing as an IOMMU driver sees it.

use super::{
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
    task::might_sleep,
    types::Opaque, //
};

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
    fn set_pasid(self: Pin<&Self>, ctx: &EndpointCtx<'_, Self::Driver>, pasid: Pasid) -> Result;
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
        self.0.domain_alloc_sva = Some(SvaDomain::<S>::alloc_callback);
        self
    }
}

/// The domain of an address space: what the core sees, and what its driver keeps.
///
/// # Invariants
///
/// `raw` is initialised, with the operations of this type. The domain is in a `KBox` that the core
/// owns.
#[repr(C)]
#[pin_data]
struct SvaDomain<S: SvaOps> {
    #[pin]
    raw: Opaque<bindings::iommu_domain>,
    #[pin]
    data: S,
}

impl<S: SvaOps> SvaDomain<S> {
    const OPS: bindings::iommu_domain_ops = bindings::iommu_domain_ops {
        set_dev_pasid: Some(Self::set_pasid_callback),
        free: Some(Self::free_callback),
        ..pin_init::zeroed()
    };

    /// # Safety
    ///
    /// For the core: `dev` must be claimed by the driver `S::Driver`, and not be released during
    /// the call; `mm` must have a user as long.
    unsafe extern "C" fn alloc_callback(
        dev: *mut bindings::device,
        mm: *mut bindings::mm_struct,
    ) -> *mut bindings::iommu_domain {
        might_sleep();

        let alloc = || {
            // SAFETY: The core calls this for a device that is claimed and bound to a driver.
            let ctx = unsafe { EndpointCtx::new(dev) };
            // SAFETY: Who binds has a user of `mm`.
            let mm = unsafe { MmWithUser::from_raw(mm) };

            let this = KBox::try_pin_init(
                // INVARIANT: The core sets type, owner and `mm`.
                try_pin_init!(Self {
                    raw: Opaque::new(bindings::iommu_domain {
                        ops: const { &Self::OPS },
                        ..pin_init::zeroed()
                    }),
                    data <- S::new(&ctx, mm)?,
                }),
                GFP_KERNEL,
            )?;
            // SAFETY: The domain stays where it is until `free_callback()`.
            let this = KBox::into_raw(unsafe { Pin::into_inner_unchecked(this) });
            // SAFETY: `this` comes from a box.
            Ok(Opaque::cast_into(unsafe { &raw const (*this).raw }))
        };
        alloc().unwrap_or_else(Error::to_ptr)
    }

    /// # Safety
    ///
    /// For the core: `domain` must come from `alloc_callback()`, and nobody may use it any more.
    unsafe extern "C" fn free_callback(domain: *mut bindings::iommu_domain) {
        might_sleep();

        // SAFETY: The domain comes from `alloc_callback()`.
        let this = unsafe { container_of!(Opaque::cast_from(domain), Self, raw) };
        // SAFETY: `alloc_callback()` took it out of a box, and the core gives it back.
        drop(unsafe { KBox::from_raw(this.cast_mut()) });
    }

    /// # Safety
    ///
    /// For the core, which holds the mutex of the group: `domain` must come from
    /// `alloc_callback()`, and `dev` must have an IOMMU.
    unsafe extern "C" fn set_pasid_callback(
        domain: *mut bindings::iommu_domain,
        dev: *mut bindings::device,
        pasid: bindings::ioasid_t,
        _old: *mut bindings::iommu_domain,
    ) -> c_int {
        might_sleep();

        from_result(|| {
            // SAFETY: The domain is one of `S::Driver`, and the mutex keeps the device.
            let ctx = unsafe { EndpointCtx::<S::Driver>::of_domain(domain, dev) }?;
            // SAFETY: The core frees no domain that it sets; `data` is pinned with its box.
            let data = unsafe {
                let this = &*container_of!(Opaque::cast_from(domain), Self, raw);
                Pin::new_unchecked(&this.data)
            };
            let pasid = Pasid::new(pasid).ok_or(EINVAL)?;
            ctx.admit(pasid)?;
            data.set_pasid(&ctx, pasid)
                .inspect_err(|_| ctx.dismiss(pasid))?;
            Ok(0)
        })
    }
}
