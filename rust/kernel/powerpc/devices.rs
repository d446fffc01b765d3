// SPDX-License-Identifier: GPL-2.0

//! The devices of a PE: their locks, their drivers, and the fields that say who maps their DMA.
//!
//! The driver core binds and unbinds drivers with the lock of the device held. Who holds the locks
//! of all devices of a PE can therefore hand the PE over and knows that no driver is disturbed.

use crate::{
    alloc::AllocError,
    bindings,
    container_of,
    device::Device,
    error::to_result,
    pci,
    prelude::*,
    sync::aref::ARef,
    types::{
        NotThreadSafe,
        Opaque, //
    }, //
};

use core::ptr::{
    self,
    NonNull, //
};

use super::{
    owner::{
        DmaOwner,
        DriverKind, //
    },
    tce::{
        table_group,
        TableGroup, //
    }, //
};

impl TableGroup {
    /// Calls `f` for each PCI device of the PE, whether or not an IOMMU driver knows it.
    ///
    /// May sleep. Devices that come or go meanwhile may be missed, and those that the arch code has
    /// not set up yet are left out: no driver can be bound to them.
    pub fn for_each_device(&self, mut f: impl FnMut(&Device)) {
        for_each_pci_device(|dev| {
            if is_set_up(dev) && table_group(dev).is_ok_and(|tg| tg == self.as_raw()) {
                f(dev);
            }
        });
    }

    /// Writes the fields of a device that say who maps its DMA, all of them.
    ///
    /// # Safety
    ///
    /// - `dev` is a device of this PE.
    /// - Nobody maps or unmaps memory for `dev` by way of the DMA API during the call, and no
    ///   mapping that was made earlier is unmapped after it.
    /// - For [`DmaOwner::Platform`], the platform has the windows of the PE, and before it loses
    ///   them, or gets them back, the fields are written again.
    #[inline(never)]
    pub unsafe fn set_dma_owner(&self, dev: &Device, owner: DmaOwner) {
        let tg = self.as_raw().as_ptr();
        let (ops, table) = match owner {
            // SAFETY: The group is valid by the type invariant.
            DmaOwner::Platform => (&raw const bindings::dma_iommu_ops, unsafe {
                (*tg).tables[0]
            }),
            DmaOwner::Iommu => (ptr::null(), ptr::null_mut()),
            DmaOwner::Nobody => (&raw const bindings::dma_dummy_ops, ptr::null_mut()),
        };
        let dev = dev.as_raw();

        // SAFETY: `dev` is valid. Whether there are operations is looked at by anybody, see
        // `has_dma_ops`; that nobody uses the fields otherwise is in the caller's promise.
        unsafe {
            ptr::write_volatile(&raw mut (*dev).dma_ops, ops);
            (*dev).bus_dma_limit = 0;
            (*dev).archdata.iommu_table_base = table;
            (*dev).archdata.dma_offset = (*tg).dma_offset;
            bindings::dev_clear_dma_ops_bypass(dev);
        }
    }

    /// Asks the IOMMU core to probe a device of the PE (`iommu_add_device()`).
    ///
    /// Returns `EBUSY` if it has a group already. May sleep.
    ///
    /// # Safety
    ///
    /// `dev` is a device of this PE. Its lock is held, and it is not being removed.
    #[inline(never)]
    pub unsafe fn add_device(&self, dev: &Device) -> Result {
        // SAFETY: The group is valid by the type invariant, the rest by the safety requirements.
        to_result(unsafe { bindings::iommu_add_device(self.as_raw().as_ptr(), dev.as_raw()) })
    }
}

/// Calls `f` for each PCI device. May sleep.
pub fn for_each_pci_device(mut f: impl FnMut(&Device)) {
    let mut next = next_pci_device(None);

    while let Some(pdev) = next {
        f((*pdev).as_ref());
        next = next_pci_device(Some(pdev));
    }
}

/// Is the device in an IOMMU group? It may change at any time.
#[inline(never)]
pub fn is_in_group(dev: &Device) -> bool {
    // SAFETY: `dev` is valid. The pointer is not followed.
    !unsafe { ptr::read_volatile(&raw const (*dev.as_raw()).iommu_group) }.is_null()
}

/// Does somebody else than the IOMMU core map the DMA of the device? It may change at any time.
pub(super) fn has_dma_ops(dev: &Device) -> bool {
    // SAFETY: `dev` is valid. The pointer is not followed.
    !unsafe { ptr::read_volatile(&raw const (*dev.as_raw()).dma_ops) }.is_null()
}

/// Has the arch code set up the DMA of this device?
fn is_set_up(dev: &Device) -> bool {
    // Only a device in an IOMMU group can have lost the operations that the arch code gave it.
    has_dma_ops(dev) || is_in_group(dev)
}

/// Returns the PCI device after `from`, or the first one.
#[inline(never)]
fn next_pci_device(from: Option<ARef<pci::Device>>) -> Option<ARef<pci::Device>> {
    let from = from.map_or(ptr::null_mut(), |pdev| ARef::into_raw(pdev).as_ptr().cast());

    // CAST: The id is all ones, for any width.
    let any = bindings::PCI_ANY_ID as c_uint;

    // SAFETY: `from` is null or a device with a reference, which the function drops.
    let pdev = NonNull::new(unsafe { bindings::pci_get_device(any, any, from) })?;

    // SAFETY: `pci::Device` is a transparent wrapper; the function took a reference.
    Some(unsafe { ARef::from_raw(pdev.cast()) })
}

/// Says what kind of driver a device has.
///
/// While a driver is being bound or unbound, it counts.
///
/// # Safety
///
/// The lock of the device is held, as it is when the driver core calls.
#[inline(never)]
pub unsafe fn driver_kind(dev: &Device) -> DriverKind {
    let raw = dev.as_raw();
    // SAFETY: `raw` is valid, and the lock keeps the driver.
    let driver = unsafe { (*raw).driver };

    if driver.is_null() {
        return DriverKind::None;
    }

    // SAFETY: A driver of a PCI device is embedded in a `struct pci_driver`.
    let managed = unsafe {
        bindings::dev_is_pci(raw)
            && (*container_of!(driver, bindings::pci_driver, driver)).driver_managed_dma
    };

    match managed {
        true => DriverKind::ManagedDma,
        false => DriverKind::DmaApi,
    }
}

/// Is the device being removed?
///
/// If it is not, who wants to remove it has to wait for the lock.
///
/// # Safety
///
/// The lock of the device is held.
#[inline(never)]
pub unsafe fn is_going(dev: &Device) -> bool {
    // SAFETY: `dev` is valid and was added, so it has its private part; the lock guards the flag.
    unsafe { (*(*dev.as_raw()).p).dead() != 0 }
}

/// A device with its lock held: no driver is bound to it or unbound from it.
///
/// # Invariants
///
/// The lock of the device is held, and this value releases it.
pub struct DeviceGuard {
    dev: ARef<Device>,
    _thread: NotThreadSafe,
}

impl DeviceGuard {
    /// Takes the lock. May sleep, for as long as a driver takes to probe the device.
    #[inline(never)]
    pub fn lock(dev: &Device) -> Self {
        // SAFETY: `dev` is valid.
        unsafe { bindings::device_lock(dev.as_raw()) };

        // INVARIANT: The lock was taken.
        Self {
            dev: dev.into(),
            _thread: NotThreadSafe,
        }
    }

    /// Takes the lock unless somebody has it.
    #[inline(never)]
    pub fn try_lock(dev: &Device) -> Option<Self> {
        // SAFETY: `dev` is valid.
        (unsafe { bindings::device_trylock(dev.as_raw()) } != 0).then(|| Self {
            // INVARIANT: The lock was taken.
            dev: dev.into(),
            _thread: NotThreadSafe,
        })
    }

    /// Says what kind of driver the device has.
    pub fn driver(&self) -> DriverKind {
        // SAFETY: The lock is held by the type invariant.
        unsafe { driver_kind(&self.dev) }
    }

    /// Says whether the device is being removed. If not, it stays while the lock is held.
    pub fn is_going(&self) -> bool {
        // SAFETY: The lock is held by the type invariant.
        unsafe { is_going(&self.dev) }
    }
}

impl Drop for DeviceGuard {
    fn drop(&mut self) {
        // SAFETY: The lock is held by the type invariant.
        unsafe { bindings::device_unlock(self.dev.as_raw()) };
    }
}

/// Lets a thread hold the locks of all devices of a PE.
///
/// Only one thread at a time does so. That spares it deadlocks with its like, and lets lockdep
/// count any number of device locks as one.
#[pin_data]
pub struct DeviceLocks {
    #[pin]
    outer: Opaque<bindings::mutex>,
}

// SAFETY: A mutex can be used from any thread.
unsafe impl Send for DeviceLocks {}

// SAFETY: As above.
unsafe impl Sync for DeviceLocks {}

/// Why the devices of a PE could not be locked.
pub enum LockError {
    /// Somebody holds the lock of this device.
    Busy(ARef<Device>),
    /// There was no memory.
    NoMemory,
}

impl From<AllocError> for LockError {
    fn from(_: AllocError) -> Self {
        Self::NoMemory
    }
}

impl DeviceLocks {
    /// Makes an unlocked one.
    pub fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            outer <- Opaque::ffi_init(|slot| {
                // SAFETY: `slot` can be written, and becomes pinned.
                unsafe {
                    bindings::__mutex_init(
                        slot,
                        c"DeviceLocks".as_char_ptr(),
                        crate::sync::static_lock_class!().as_ptr(),
                    )
                }
            }),
        })
    }

    /// Takes the locks of all devices of a PE, `held` excepted. Does not wait for any. May sleep.
    ///
    /// Devices that the arch code has not set up yet are left out: no driver can be bound to them
    /// before the IOMMU core has been offered them. So are those that are being removed and have no
    /// driver any more.
    ///
    /// # Safety
    ///
    /// The lock of `held`, a device of the PE, is held as long as the result is in use.
    #[inline(never)]
    pub unsafe fn lock_all<'a>(
        self: Pin<&'a Self>,
        group: &TableGroup,
        held: &'a Device,
    ) -> Result<LockedDevices<'a>, LockError> {
        // SAFETY: The mutex is initialised.
        unsafe { bindings::mutex_lock(self.outer.get()) };
        // INVARIANT: The caller holds the lock of `held`, and the mutex was taken.
        let mut locked = LockedDevices {
            devices: KVec::new(),
            held,
            locks: self.get_ref(),
            _thread: NotThreadSafe,
        };
        let mut result = Ok(());

        group.for_each_device(|dev| {
            if result.is_ok() && !ptr::eq(dev, held) {
                result = locked.add(dev);
            }
        });

        result.map(|()| locked)
    }
}

/// All devices of a PE, with their locks held.
///
/// # Invariants
///
/// The locks of `devices` and `held` and the mutex of `locks` are held. This value releases all but
/// the one of `held`.
pub struct LockedDevices<'a> {
    devices: KVec<ARef<Device>>,
    held: &'a Device,
    locks: &'a DeviceLocks,
    _thread: NotThreadSafe,
}

impl LockedDevices<'_> {
    fn add(&mut self, dev: &Device) -> Result<(), LockError> {
        self.devices.reserve(1, GFP_KERNEL)?;
        // SAFETY: `dev` is valid, and the outer mutex is held by the type invariant.
        if unsafe { bindings::device_trylock_nested(dev.as_raw(), self.locks.outer.get()) } == 0 {
            return Err(LockError::Busy(dev.into()));
        }
        // SAFETY: The lock was taken.
        if unsafe { is_going(dev) && driver_kind(dev) == DriverKind::None } {
            // SAFETY: As above.
            unsafe { bindings::device_unlock(dev.as_raw()) };
            return Ok(());
        }
        // INVARIANT: The lock was taken. There is room.
        Ok(self.devices.push(dev.into(), GFP_KERNEL)?)
    }

    /// The devices, with the kind of driver that each has.
    pub fn iter(&self) -> impl Iterator<Item = (&Device, DriverKind)> {
        let others = self.devices.iter().map(|dev| &**dev);

        Iterator::chain(core::iter::once(self.held), others)
            // SAFETY: The lock is held by the type invariant.
            .map(|dev| (dev, unsafe { driver_kind(dev) }))
    }
}

impl Drop for LockedDevices<'_> {
    fn drop(&mut self) {
        for dev in &self.devices {
            // SAFETY: The lock is held by the type invariant.
            unsafe { bindings::device_unlock(dev.as_raw()) };
        }
        // SAFETY: The mutex is held by the type invariant.
        unsafe { bindings::mutex_unlock(self.locks.outer.get()) };
    }
}
