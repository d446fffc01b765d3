// SPDX-License-Identifier: GPL-2.0

//! Instances on their way into the core and out of it.

use super::{
    registry::Header,
    Driver,
    Instance,
    Ops, //
};
use crate::{
    device::Device,
    fmt,
    prelude::*,
    sync::atomic::Acquire, //
};
use core::{
    any::TypeId,
    mem::{
        self,
        ManuallyDrop, //
    },
    ptr, //
};

/// An instance that is complete, but that nobody sees yet.
///
/// Registration calls the driver back before it returns, so everything that the driver needs to
/// answer must be there before.
pub struct Unregistered<T: Driver>(Pin<KBox<Instance<T>>>);

impl<T: Driver> Unregistered<T> {
    /// Makes an instance with the data that `data` initialises.
    ///
    /// `max_pasids` is the number of PASIDs that the IOMMU supports, 0 for none.
    pub fn new(data: impl PinInit<T::Instance, Error>, max_pasids: u32) -> Result<Self> {
        KBox::try_pin_init(
            try_pin_init!(Instance::<T> {
                // INVARIANT: This is the header of an instance of `T`.
                header <- Header::new(TypeId::of::<T>(), max_pasids),
                data <- data,
            }),
            GFP_KERNEL,
        )
        .map(Self)
    }

    /// Returns the instance as C knows it.
    #[cfg(CONFIG_RUST_IOMMU_SVA_KUNIT_TEST)]
    pub(super) fn as_raw(&self) -> *mut bindings::iommu_device {
        self.0.as_raw()
    }

    /// Shows the instance to the core, which offers it all devices that have no IOMMU yet, and
    /// that firmware does not assign to another one.
    ///
    /// `name` is the name of the instance in `/sys/class/iommu`, `parent` is where its device is
    /// in sysfs.
    ///
    /// Stands for `iommu_device_sysfs_add()` and `iommu_device_register()`. May sleep, and must not
    /// be called from a callback of [`Driver`].
    ///
    /// # Errors
    ///
    /// Besides the errors of the core, every error that [`Driver::probe_device`] returned, except
    /// [`ENODEV`], and every failure to set up a default domain.
    pub fn register(
        self,
        ops: &'static Ops<T>,
        parent: Option<&Device>,
        name: fmt::Arguments<'_>,
    ) -> Result<Registration<T>> {
        let parent = parent.map_or(ptr::null_mut(), Device::as_raw);

        // SAFETY: The header is that of an instance of `T`. The box pins it, and lives until after
        // `unregister()`. `ops` lives forever, and `parent` is valid or null.
        match unsafe { self.0.header.register(ops.as_raw(), parent, name) } {
            // INVARIANT: The registration succeeded.
            Ok(()) => Ok(Registration(ManuallyDrop::new(self.0))),
            Err(e) => {
                let_go(self.0);
                Err(e)
            }
        }
    }
}

/// Frees an instance that the core has given up, unless [`Header::unregister`] found a device that
/// is still to be released. Nobody says when that is, so such an instance is never freed.
fn let_go<T: Driver>(instance: Pin<KBox<Instance<T>>>) {
    if instance.header.claimed.load(Acquire) > 0 {
        mem::forget(instance);
    }
}

/// The registration of an instance. Dropping it unregisters an instance without devices.
///
/// Each device that a driver has claimed holds a reference to the module of the driver, so a
/// registration that the module owns is not dropped before all devices are gone. If there are
/// devices all the same, the instance stays registered for ever, and with it the module, because
/// they may be in use: see [`unregister`](Self::unregister). A module whose `init` fails then never
/// comes back from that: let nothing fail after [`Unregistered::register`].
///
/// # Invariants
///
/// The instance is registered.
pub struct Registration<T: Driver>(ManuallyDrop<Pin<KBox<Instance<T>>>>);

impl<T: Driver> Registration<T> {
    /// Returns the instance.
    pub fn instance(&self) -> &Instance<T> {
        &self.0
    }

    /// Unregisters an instance with all its devices, which are released.
    ///
    /// # Safety
    ///
    /// No driver uses the DMA API for a device of the instance, and nobody has a domain of it. This
    /// stays so until the call returns.
    pub unsafe fn unregister(self) {
        let mut this = ManuallyDrop::new(self);

        // SAFETY: By the type invariant and the safety requirements; `this` is not dropped.
        let instance = unsafe {
            this.0.header.hide();
            this.0.header.unregister();
            ManuallyDrop::take(&mut this.0)
        };
        let_go(instance);
    }
}

impl<T: Driver> Drop for Registration<T> {
    fn drop(&mut self) {
        // SAFETY: By the type invariant.
        unsafe { self.0.header.hide() };

        let claimed = self.0.header.claimed.load(Acquire);

        if claimed > 0 {
            pr_err!("an IOMMU with {claimed} devices cannot be unregistered\n");
            // SAFETY: The instance is registered.
            unsafe { self.0.header.keep_module() };
            return;
        }

        // SAFETY: There are no devices, and will be none. `self` is not used again.
        unsafe {
            self.0.header.unregister();
            ManuallyDrop::drop(&mut self.0);
        }
    }
}
