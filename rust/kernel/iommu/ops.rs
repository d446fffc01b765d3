// SPDX-License-Identifier: GPL-2.0

//! The operations of an IOMMU driver, as the core calls them.

use super::{
    endpoint::Claimed,
    paging::PagingDomain,
    Blocked,
    Cap,
    Driver,
    EndpointCtx,
    IdentityKind,
    Instances,
    PagingOps,
    ReservedRegions,
    StaticDomain,
    StaticOps, //
};
use crate::{
    bindings,
    device::Device,
    module::this_module,
    prelude::*,
    sync::aref::ARef,
    task::might_sleep,
    types::ForeignOwnable, //
};
use core::marker::PhantomData;

/// The operations of an IOMMU driver: `struct iommu_ops` of C.
///
/// It must be a `static`, because the core tells drivers apart by its address.
///
/// # Invariants
///
/// - All callbacks are those of this type, for `T`.
/// - `blocked_domain` is null or a [`StaticDomain`] of kind [`Blocked`] for the driver `T`.
/// - `identity_domain` is null or a [`StaticDomain`] of kind [`Identity`] or [`Platform`] for the
///   driver `T`.
///
/// [`Identity`]: super::Identity
/// [`Platform`]: super::Platform
#[repr(transparent)]
pub struct Ops<T: Driver>(pub(super) bindings::iommu_ops, PhantomData<T>);

// SAFETY: Nothing changes the operations after their construction.
unsafe impl<T: Driver> Sync for Ops<T> {}

impl<T: Driver> Ops<T> {
    /// Makes the operations of `T`, without static domains.
    #[expect(clippy::new_without_default)]
    pub const fn new() -> Self {
        // INVARIANT: The callbacks are right, and the domains are null.
        Self(
            bindings::iommu_ops {
                capable: Some(Self::capable_callback),
                domain_alloc_paging: Some(PagingDomain::<T::Paging>::alloc_callback),
                probe_device: Some(Self::probe_device_callback),
                release_device: Some(Self::release_device_callback),
                probe_finalize: if T::HAS_PROBE_FINALIZE {
                    Some(Self::probe_finalize_callback)
                } else {
                    None
                },
                device_group: Some(Self::device_group_callback),
                get_resv_regions: Some(Self::get_resv_regions_callback),
                def_domain_type: if T::HAS_DEFAULT_DOMAIN {
                    Some(Self::def_domain_type_callback)
                } else {
                    None
                },
                owner: this_module::<T::OwnerModule>().as_ptr(),
                ..pin_init::zeroed()
            },
            PhantomData,
        )
    }

    /// Sets the domain in which a device can reach nothing.
    #[must_use]
    pub const fn blocked<D>(mut self, domain: &'static StaticDomain<D>) -> Self
    where
        D: StaticOps<Kind = Blocked, Driver = T>,
    {
        // INVARIANT: By the bound of `D`.
        self.0.blocked_domain = domain.as_raw();
        self
    }

    /// Sets the domain that the core attaches where it wants no translation.
    #[must_use]
    pub const fn identity<D>(mut self, domain: &'static StaticDomain<D>) -> Self
    where
        D: StaticOps<Driver = T>,
        D::Kind: IdentityKind,
    {
        // INVARIANT: By the bound of `D`.
        self.0.identity_domain = domain.as_raw();
        self
    }

    /// Returns the operations as C knows them.
    pub(super) const fn as_raw(&'static self) -> *const bindings::iommu_ops {
        &raw const self.0
    }

    /// # Safety
    ///
    /// For `iommu_init_device()` of the core, which holds the probe lock: `dev` must be valid and
    /// have IOMMU data, but not be claimed.
    unsafe extern "C" fn probe_device_callback(
        dev: *mut bindings::device,
    ) -> *mut bindings::iommu_device {
        might_sleep();

        let probe = || {
            // SAFETY: The core passes a valid device.
            let device = unsafe { Device::from_raw(dev) };
            // SAFETY: The core holds the probe lock during the call.
            let all = unsafe { Instances::new() };

            let (instance, endpoint) = T::probe_device(device, all)?;
            let claimed = KBox::pin_init(Claimed::<T>::new(endpoint), GFP_KERNEL)?;
            // SAFETY: The core holds the probe lock and has made IOMMU data for `dev`. The device
            // is claimed from here on, and `release_device_callback()` frees the box.
            unsafe { bindings::dev_iommu_priv_set(dev, claimed.into_foreign()) };
            instance.count_claimed();
            Ok(instance.as_raw())
        };
        probe().unwrap_or_else(Error::to_ptr)
    }

    /// # Safety
    ///
    /// For the core, once for each device that was claimed: no other callback for `dev` may run
    /// during or after this one, and the IOMMU data must be freed next.
    unsafe extern "C" fn release_device_callback(dev: *mut bindings::device) {
        might_sleep();

        // SAFETY: The core calls this for a device that is claimed until this returns.
        let ctx = unsafe { EndpointCtx::<T>::new(dev) };
        let instance = ctx.instance();
        T::release_device(&ctx);
        #[cfg(CONFIG_IOMMU_IOPF)]
        if let Some(port) = ctx.port().as_ref() {
            // SAFETY: The device is released after this callback.
            unsafe { port.close() };
        }

        // `priv` keeps its old value: it may only be set under the probe lock, which is not held
        // here, and nobody reads it any more.
        // SAFETY: `probe_device_callback()` set the value, and this is the only call that takes it.
        drop(unsafe { Pin::<KBox<Claimed<T>>>::from_foreign(bindings::dev_iommu_priv_get(dev)) });
        instance.count_released();
    }

    /// # Safety
    ///
    /// For the core: `dev` must be claimed, and not be released during the call.
    unsafe extern "C" fn probe_finalize_callback(dev: *mut bindings::device) {
        might_sleep();

        // SAFETY: The core calls this for a device that is claimed. One that was found on its bus
        // when the driver registers may be removed meanwhile: then the core's own list of devices,
        // which it walks without a lock (see `bus_iommu_probe()`), breaks as well.
        T::probe_finalize(&unsafe { EndpointCtx::new(dev) });
    }

    /// # Safety
    ///
    /// For the core: `dev` must be claimed, and not be released during the call.
    unsafe extern "C" fn device_group_callback(
        dev: *mut bindings::device,
    ) -> *mut bindings::iommu_group {
        might_sleep();

        // SAFETY: The core calls this for a device that is claimed, and does not release it now.
        match T::device_group(&unsafe { EndpointCtx::new(dev) }) {
            // The core takes over the reference.
            Ok(group) => ARef::into_raw(group).as_ptr().cast(),
            Err(error) => error.to_ptr(),
        }
    }

    /// # Safety
    ///
    /// For the core: `dev` must be claimed, and not be released during the call; `list` must be a
    /// list of regions that nobody else uses.
    unsafe extern "C" fn get_resv_regions_callback(
        dev: *mut bindings::device,
        list: *mut bindings::list_head,
    ) {
        might_sleep();

        // SAFETY: The core calls this for a device that is claimed, and does not release it now.
        let ctx = unsafe { EndpointCtx::new(dev) };
        // SAFETY: The core lends its list for the call.
        let mut out = unsafe { ReservedRegions::from_raw(list) };
        T::reserved_regions(&ctx, &mut out);
    }

    /// # Safety
    ///
    /// For the core: `dev` must be claimed, and not be released during the call.
    unsafe extern "C" fn def_domain_type_callback(dev: *mut bindings::device) -> c_int {
        might_sleep();

        // SAFETY: The core calls this for a device that is claimed, and does not release it now.
        T::default_domain(&unsafe { EndpointCtx::new(dev) }).as_raw()
    }

    /// # Safety
    ///
    /// For the core: `dev` must be claimed, and not be released during the call.
    unsafe extern "C" fn capable_callback(
        dev: *mut bindings::device,
        cap: bindings::iommu_cap,
    ) -> bool {
        let cap = Cap::from_raw(cap);
        let has_it = match cap {
            Cap::CacheCoherency => true,
            // A flush queue calls it.
            Cap::DeferredFlush => <T::Paging as PagingOps>::HAS_FLUSH_IOTLB_ALL,
            Cap::Other => false,
        };
        // SAFETY: The core calls this for a device that is claimed, and does not release it now.
        has_it && T::capable(&unsafe { EndpointCtx::new(dev) }, cap)
    }
}

/// Says whether devices get the domain without translation unless somebody asks for another one.
///
/// Stands for `iommu_default_passthrough()`.
pub fn default_passthrough() -> bool {
    // SAFETY: The function reads a variable.
    unsafe { bindings::iommu_default_passthrough() }
}
