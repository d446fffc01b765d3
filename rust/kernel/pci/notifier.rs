// SPDX-License-Identifier: GPL-2.0

//! Notification of what happens on the PCI bus.

use crate::{
    bindings,
    device,
    error::to_result,
    prelude::*,
    types::Opaque, //
};

use core::marker::PhantomData;

/// What to do when a driver left a device.
pub trait DriverUnbound: 'static {
    /// A driver was unbound from a PCI device.
    ///
    /// Called with the lock of the device held. May sleep, and must not drop the
    /// [`DriverUnboundRegistration`].
    fn driver_unbound(dev: &device::Device);
}

/// Calls `T` for each driver that is unbound from a PCI device, until it is dropped.
///
/// It stands for a `struct notifier_block` on the PCI bus that looks at
/// `BUS_NOTIFY_UNBOUND_DRIVER`. Making and dropping it may sleep; dropping it waits for a call that
/// is under way.
///
/// # Invariants
///
/// `nb` is registered on the PCI bus.
#[pin_data(PinnedDrop)]
pub struct DriverUnboundRegistration<T: DriverUnbound> {
    #[pin]
    nb: Opaque<bindings::notifier_block>,
    _target: PhantomData<fn(T)>,
}

// SAFETY: The C side has its own lock for the list of notifiers.
unsafe impl<T: DriverUnbound> Send for DriverUnboundRegistration<T> {}

// SAFETY: There is nothing to do with a shared reference.
unsafe impl<T: DriverUnbound> Sync for DriverUnboundRegistration<T> {}

impl<T: DriverUnbound> DriverUnboundRegistration<T> {
    /// Registers `T`.
    pub fn new() -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            // INVARIANT: If this fails there is no value.
            nb <- Opaque::try_ffi_init(|nb: *mut bindings::notifier_block| {
                // SAFETY: `nb` can be written.
                unsafe {
                    nb.write(bindings::notifier_block {
                        notifier_call: Some(Self::call),
                        ..Default::default()
                    })
                };

                // SAFETY: `nb` is initialised and pinned; `drop` removes it from the list.
                to_result(unsafe {
                    bindings::bus_register_notifier(&raw const bindings::pci_bus_type, nb)
                })
            }),
            _target: PhantomData,
        })
    }

    extern "C" fn call(
        _nb: *mut bindings::notifier_block,
        action: c_ulong,
        data: *mut c_void,
    ) -> c_int {
        // CAST: Widening.
        if action == bindings::bus_notifier_event_BUS_NOTIFY_UNBOUND_DRIVER as c_ulong {
            // SAFETY: The bus passes a device that is alive during the call.
            T::driver_unbound(unsafe { device::Device::from_raw(data.cast()) });
        }

        // CAST: The value is 0.
        bindings::NOTIFY_DONE as c_int
    }
}

#[pinned_drop]
impl<T: DriverUnbound> PinnedDrop for DriverUnboundRegistration<T> {
    fn drop(self: Pin<&mut Self>) {
        // SAFETY: By the type invariant `nb` is registered.
        unsafe {
            bindings::bus_unregister_notifier(&raw const bindings::pci_bus_type, self.nb.get())
        };
    }
}
