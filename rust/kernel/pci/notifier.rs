// SPDX-License-Identifier: GPL-2.0

//! Notification of drivers that come to PCI devices and leave them.

use crate::{
    bindings,
    container_of,
    device::Device,
    error::to_result,
    prelude::*,
    types::Opaque,
    workqueue::{
        OwnedWork,
        Task, //
    }, //
};

/// Who wants to know of drivers that come to PCI devices and leave them.
///
/// The callbacks may sleep, and must not drop the [`DriverWatch`].
///
/// [`Task::run`] is called when some probe has failed, and after [`DriverWatch::kick`]. No lock is
/// held then: the driver core is not done with the device when it tells of a failed probe.
pub trait DriverEvents: Task + Sized + 'static {
    /// A driver is about to probe the device.
    ///
    /// The lock of the device is held. The device has been through `dma_configure()`, so it counts
    /// as a user of the default domain if it is in an IOMMU group.
    fn binding(&self, dev: &Device);

    /// A driver was unbound from the device.
    ///
    /// The lock of the device is held.
    fn unbound(&self, watch: &DriverWatch<Self>, dev: &Device);
}

/// Tells `T` of drivers that come and leave, until it is dropped.
///
/// It stands for a `struct notifier_block` on the PCI bus and a work item. Making and dropping it
/// may sleep; dropping it waits for calls that are under way.
///
/// # Invariants
///
/// `nb` is registered on the PCI bus.
#[pin_data(PinnedDrop)]
pub struct DriverWatch<T: DriverEvents> {
    // Dropped after the notifier is gone.
    #[pin]
    target: OwnedWork<T>,
    #[pin]
    nb: Opaque<bindings::notifier_block>,
}

// SAFETY: The C side has its own locks for notifiers and work items.
unsafe impl<T: DriverEvents> Send for DriverWatch<T> {}

// SAFETY: As above.
unsafe impl<T: DriverEvents> Sync for DriverWatch<T> {}

impl<T: DriverEvents> DriverWatch<T> {
    /// Begins to tell `target`.
    pub fn new(target: T) -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            target <- OwnedWork::new(target, c"DriverWatch", crate::sync::static_lock_class!()),
            // INVARIANT: If this fails there is no value.
            nb <- Opaque::try_ffi_init(|nb: *mut bindings::notifier_block| {
                // SAFETY: `nb` can be written.
                unsafe {
                    nb.write(bindings::notifier_block {
                        notifier_call: Some(Self::call),
                        ..Default::default()
                    })
                };

                // SAFETY: `nb` is initialised and pinned, and so is what comes before it; `drop`
                // removes it from the list.
                to_result(unsafe {
                    bindings::bus_register_notifier(&raw const bindings::pci_bus_type, nb)
                })
            }),
        })
    }

    /// Returns who is told.
    pub fn target(&self) -> &T {
        &self.target
    }

    /// Has [`Task::run`] called soon.
    pub fn kick(&self) {
        self.target.start();
    }

    /// # Safety
    ///
    /// For the PCI bus: `nb` must be part of a `Self` that is registered, and `data` a device, for
    /// the time of the call.
    unsafe extern "C" fn call(
        nb: *mut bindings::notifier_block,
        action: c_ulong,
        data: *mut c_void,
    ) -> c_int {
        // SAFETY: By the safety requirements.
        let this = unsafe { &*container_of!(Opaque::cast_from(nb), Self, nb) };
        // SAFETY: By the safety requirements.
        let dev = unsafe { Device::from_raw(data.cast()) };

        // CAST: Narrowing; there are less than ten of them.
        match action as bindings::bus_notifier_event {
            bindings::bus_notifier_event_BUS_NOTIFY_BIND_DRIVER => this.target.binding(dev),
            bindings::bus_notifier_event_BUS_NOTIFY_UNBOUND_DRIVER => {
                this.target.unbound(this, dev)
            }
            bindings::bus_notifier_event_BUS_NOTIFY_DRIVER_NOT_BOUND => this.kick(),
            _ => (),
        }

        // CAST: The value is 0.
        bindings::NOTIFY_DONE as c_int
    }
}

#[pinned_drop]
impl<T: DriverEvents> PinnedDrop for DriverWatch<T> {
    fn drop(self: Pin<&mut Self>) {
        // SAFETY: By the type invariant.
        unsafe {
            bindings::bus_unregister_notifier(&raw const bindings::pci_bus_type, self.nb.get())
        };
    }
}
