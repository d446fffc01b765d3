// SPDX-License-Identifier: GPL-2.0

//! Taking over PEs that were there before the driver.
//!
//! A PE is taken over as a whole, with the locks of all its devices held: then none of them has a
//! driver that uses the DMA API of the platform, or gets one before the IOMMU core knows of the
//! device. From there on the core sees to it, see [`ownership`](crate::ownership). A PE with such a
//! driver is looked at again when the driver goes, or its probe fails.
//!
//! A device with a driver that manages DMA on its own (`driver_managed_dma`), such as pci-stub or
//! the port services, does not keep its PE from being taken over, but it is not offered to the
//! core before the driver goes: the core warns about devices that are bound.

use crate::{
    endpoint::{
        warn_left,
        PeList, //
    },
    machine, //
};
use kernel::{
    device::Device,
    pci,
    powerpc::tce::{
        driver_kind,
        for_each_pci_device,
        is_going,
        is_in_group,
        DeviceGuard,
        DeviceLocks,
        DriverKind,
        LockError, //
    },
    prelude::*,
    sync::{
        aref::ARef,
        Arc, //
    },
    workqueue::Task, //
};

/// Takes over PEs when nobody uses the platform's DMA code for them any more.
pub(crate) struct Adopter {
    pes: Arc<PeList>,
    locks: Pin<KBox<DeviceLocks>>,
}

impl Adopter {
    /// Makes one for the PEs of `pes`.
    pub(crate) fn new(pes: Arc<PeList>) -> Result<Self> {
        Ok(Self {
            pes,
            locks: KBox::pin_init(DeviceLocks::new(), GFP_KERNEL)?,
        })
    }

    /// Starts to take over PEs, here those that are free.
    pub(crate) fn start(watch: &pci::DriverWatch<Self>) {
        let this = watch.target();
        this.pes.open();
        let mut busy = false;
        for_each_pci_device(|dev| {
            let Some(lock) = DeviceGuard::try_lock(dev) else {
                busy = true;
                return;
            };
            busy |= this.look_at(dev, &lock).is_err();
            match lock.driver() {
                DriverKind::DmaApi if this.will_serve(dev) => {
                    dev_info!(dev, "PE in use; taken over when its driver unbinds\n")
                }
                DriverKind::ManagedDma if this.will_serve(dev) => {
                    dev_info!(dev, "in use; joins its PE when its driver unbinds\n")
                }
                _ => (),
            }
        });
        if busy {
            watch.kick();
        }
    }

    /// Whether the platform maps the DMA of a device that the driver will serve.
    fn will_serve(&self, dev: &Device) -> bool {
        // SAFETY: The handle is dropped at once, with the device locked.
        let group = unsafe { machine::of_device(dev) };
        !is_in_group(dev) && group.is_ok_and(|group| !self.pes.excludes(&group))
    }

    /// Looks at a device that is locked. On error the lock of that other device of its PE is busy.
    fn look_at(&self, dev: &Device, lock: &DeviceGuard) -> Result<(), ARef<Device>> {
        // Who removes a device has to wait for the lock from here on.
        if lock.is_going() {
            return Ok(());
        }
        if is_in_group(dev) {
            let in_use = lock.driver() == DriverKind::DmaApi;
            // SAFETY: `dev` is locked, so its driver stays.
            unsafe { self.pes.set_in_use(dev, in_use) };
            return Ok(());
        }
        // SAFETY: `dev` is locked.
        unsafe { self.adopt(dev) }
    }

    /// Takes over the PE of `dev` if it is free. May sleep.
    ///
    /// On error the lock of that other device of the PE is busy.
    ///
    /// # Safety
    ///
    /// The lock of `dev` is held, and it is not being removed.
    unsafe fn adopt(&self, dev: &Device) -> Result<(), ARef<Device>> {
        // SAFETY: The handle goes into the PE, which is dropped with its last endpoint, or before
        // this returns, when the lock keeps `dev` from being released.
        let Ok(group) = (unsafe { machine::of_device(dev) }) else {
            return Ok(());
        };
        // SAFETY: By the safety requirements.
        let locked = match unsafe { self.locks.as_ref().lock_all(&group, dev) } {
            Ok(locked) => locked,
            Err(LockError::Busy(other)) => return Err(other),
            Err(LockError::NoMemory) => {
                dev_warn!(dev, "no memory; DMA is left to the platform\n");
                return Ok(());
            }
        };
        let free = |dev: &Device, kind| kind == DriverKind::None && !is_in_group(dev);
        if !locked.iter().any(|(dev, kind)| free(dev, kind)) {
            return Ok(());
        }
        let in_use = locked.iter().any(|(_, kind)| kind == DriverKind::DmaApi);
        let pe = group.clone();
        let join = || {
            for (dev, kind) in locked.iter() {
                if free(dev, kind) {
                    // SAFETY: Both are of one PE, whose devices are locked. `lock_all` leaves out
                    // those that are being removed.
                    if let Err(e) = unsafe { pe.add_device(dev) } {
                        dev_warn!(dev, "gets no IOMMU ({e:?})\n");
                    }
                }
            }
        };
        // SAFETY: All devices of the PE are locked, so their drivers stay.
        match unsafe { self.pes.with_pe(dev, group, in_use, join) } {
            Ok(()) | Err(EBUSY | ECANCELED) => (),
            Err(e) => warn_left(dev, e),
        }
        Ok(())
    }
}

impl pci::DriverEvents for Adopter {
    fn binding(&self, dev: &Device) {
        // SAFETY: The driver core holds the lock of the device.
        let in_use = unsafe { driver_kind(dev) } == DriverKind::DmaApi;
        // SAFETY: As above: the driver that is about to probe stays.
        unsafe { self.pes.set_in_use(dev, in_use) };
    }

    fn unbound(&self, watch: &pci::DriverWatch<Self>, dev: &Device) {
        if is_in_group(dev) {
            // SAFETY: The driver core holds the lock of the device, whose driver is gone.
            unsafe { self.pes.set_in_use(dev, false) };
        // SAFETY: The driver core holds the lock of the device.
        } else if unsafe { is_going(dev) || self.adopt(dev).is_err() } {
            watch.kick();
        }
    }
}

impl Task for Adopter {
    fn run(self: Pin<&Self>) {
        for_each_pci_device(|dev| {
            // Others wait for these locks, or do not even try again: only if there may be news.
            if is_in_group(dev) && !self.pes.is_in_use(dev) {
                return;
            }
            let mut lock = DeviceGuard::lock(dev);
            while let Err(other) = self.look_at(dev, &lock) {
                drop(lock);
                drop(DeviceGuard::lock(&other));
                lock = DeviceGuard::lock(dev);
            }
        });
    }
}
