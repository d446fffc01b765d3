// SPDX-License-Identifier: GPL-2.0

//! Devices that a driver has claimed.

#[cfg(CONFIG_IOMMU_IOPF)]
use super::page_request::Port;
use super::{
    DriverTypes,
    Instance,
    Iova, //
};
#[cfg(CONFIG_IOMMU_IOPF)]
use crate::sync::{
    Arc,
    SetOnce, //
};
use crate::{
    bindings,
    device::Device,
    prelude::*,
    types::ForeignOwnable, //
};
use core::{
    marker::PhantomData,
    ptr, //
};

/// What there is for each claimed device.
#[pin_data]
pub(super) struct Claimed<T: DriverTypes> {
    #[pin]
    endpoint: T::Endpoint,
    /// Where its page requests enter the core, from when the driver wants them.
    #[cfg(CONFIG_IOMMU_IOPF)]
    port: SetOnce<Arc<Port>>,
}

impl<T: DriverTypes> Claimed<T> {
    pub(super) fn new(endpoint: impl PinInit<T::Endpoint, Error>) -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            endpoint <- endpoint,
            #[cfg(CONFIG_IOMMU_IOPF)]
            port: SetOnce::new(),
        })
    }
}

/// A device that a driver has claimed, for the time of a callback.
///
/// # Invariants
///
/// The core has IOMMU data for `dev`, in which `iommu_dev` is part of an [`Instance<T>`] that was
/// registered with an [`Ops<T>`], and `priv` is a `Pin<KBox<Claimed<T>>>`. All of this stays so
/// during `'a`.
///
/// [`Ops<T>`]: super::Ops
pub struct EndpointCtx<'a, T: DriverTypes> {
    dev: &'a Device,
    _driver: PhantomData<&'a T>,
}

impl<'a, T: DriverTypes> EndpointCtx<'a, T> {
    /// Makes the context for a callback.
    ///
    /// # Safety
    ///
    /// `dev` must be a valid device that a `probe_device` callback of [`Ops<T>`] has claimed, and
    /// that is not released as long as the result is in use.
    ///
    /// [`Ops<T>`]: super::Ops
    pub(super) unsafe fn new(dev: *mut bindings::device) -> Self {
        // INVARIANT: The `probe_device` callback has set up `priv`, and the core has set
        // `iommu_dev` to what it returned. Both stay until the device is released.
        Self {
            // SAFETY: By the safety requirements.
            dev: unsafe { Device::from_raw(dev) },
            _driver: PhantomData,
        }
    }

    /// Makes the context for a callback of a domain.
    ///
    /// Returns [`EINVAL`] if the device does not belong to the driver that has the domain.
    ///
    /// # Safety
    ///
    /// - `domain` must be a domain of the driver `T`.
    /// - `dev` must be valid and have an IOMMU as long as the result is in use. The mutex of the
    ///   group, which the core holds, guarantees this.
    pub(super) unsafe fn of_domain(
        domain: *mut bindings::iommu_domain,
        dev: *mut bindings::device,
    ) -> Result<Self> {
        // SAFETY: A device with an IOMMU has these pointers.
        let ops = unsafe { &*(*(*(*dev).iommu).iommu_dev).ops };

        // SAFETY: By the safety requirements, the domain is valid.
        let owner = unsafe { (*domain).owner };

        // A domain is bound to one `Ops<T>`, by its owner or by the builder of the operations. So
        // a device with the same operations is one that the driver `T` has claimed.
        if domain != ops.blocked_domain && domain != ops.identity_domain && !ptr::eq(owner, ops) {
            return Err(EINVAL);
        }

        // SAFETY: `dev` is claimed, as said above, and the mutex keeps it so.
        Ok(unsafe { Self::new(dev) })
    }

    /// Returns the device. It need not be bound to a driver.
    pub fn device(&self) -> &'a Device {
        self.dev
    }

    /// The highest address that the DMA API may map for the device, by its masks.
    pub fn dma_mask(&self) -> Iova {
        let dev = self.dev.as_raw();
        // SAFETY: The device is valid, and so is its mask, if it has one.
        let (coherent, other) = unsafe { ((*dev).coherent_dma_mask, (*dev).dma_mask.as_ref()) };
        Iova::new(coherent.max(other.copied().unwrap_or(0)))
    }

    fn claimed(&self) -> Pin<&'a Claimed<T>> {
        // SAFETY: By the type invariant.
        unsafe {
            let data = bindings::dev_iommu_priv_get(self.dev.as_raw());
            Pin::<KBox<Claimed<T>>>::borrow(data)
        }
    }

    /// Returns what the driver keeps for the device.
    pub fn endpoint(&self) -> Pin<&'a T::Endpoint> {
        // SAFETY: The endpoint is structurally pinned.
        unsafe { self.claimed().map_unchecked(|claimed| &claimed.endpoint) }
    }

    /// Returns where the page requests of the device enter the core, once there is a port.
    #[cfg(CONFIG_IOMMU_IOPF)]
    pub(super) fn port(&self) -> &'a SetOnce<Arc<Port>> {
        &Pin::get_ref(self.claimed()).port
    }

    /// Returns the instance that the device was claimed for.
    pub fn instance(&self) -> &'a Instance<T> {
        // SAFETY: By the type invariant.
        unsafe { Instance::from_raw((*(*self.dev.as_raw()).iommu).iommu_dev) }
    }

    /// Returns the operations that the instance was registered with.
    pub(super) fn ops(&self) -> &'a bindings::iommu_ops {
        // SAFETY: By the type invariant. The operations of an instance live forever and do not
        // change.
        unsafe { &*(*self.instance().as_raw()).ops }
    }
}
