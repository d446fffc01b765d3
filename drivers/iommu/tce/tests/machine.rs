// SPDX-License-Identifier: GPL-2.0

//! The machine of the tests: it has the PEs that tests put there.

use crate::fake::Fake;
use kernel::{
    device::Device,
    iommu::Group,
    prelude::*,
    sync::{
        aref::ARef,
        global_lock,
        Arc, //
    }, //
};

/// A PE, as the driver reaches firmware for it.
pub(crate) type Machine = Fake;

/// A device with its PE.
struct Place {
    dev: ARef<Device>,
    pe: Arc<Fake>,
    group: ARef<Group>,
    is_bridge: bool,
}

global_lock! {
    // SAFETY: The module initialises it before the first test runs.
    unsafe(uninit) static PLACES: Mutex<KVec<Place>> = KVec::new();
}

/// Called once, by the module.
pub(crate) fn init() {
    // SAFETY: By the rule above.
    unsafe { PLACES.init() };
}

/// A device that is in the machine for as long as this lives.
pub(crate) struct Plugged(ARef<Device>);

/// Puts a device into the machine, in the PE `pe` with the group `group`.
pub(crate) fn plug(
    dev: &Device,
    pe: &Arc<Fake>,
    group: &ARef<Group>,
    is_bridge: bool,
) -> Result<Plugged> {
    let place = Place {
        dev: dev.into(),
        pe: pe.clone(),
        group: group.clone(),
        is_bridge,
    };
    PLACES.lock().push(place, GFP_KERNEL)?;
    Ok(Plugged(dev.into()))
}

impl Drop for Plugged {
    fn drop(&mut self) {
        let is_other = |place: &mut Place| !core::ptr::eq::<Device>(&*place.dev, &*self.0);
        PLACES.lock().retain(is_other);
    }
}

fn find<T>(dev: &Device, f: impl Fn(&Place) -> T) -> Result<T> {
    let places = PLACES.lock();
    let mut places = places.iter();
    let found = places.find(|place| core::ptr::eq::<Device>(&*place.dev, dev));
    found.map(f).ok_or(ENODEV)
}

/// The PE of a device.
///
/// # Safety
///
/// None here; that of the driver's own.
pub(crate) unsafe fn of_device(dev: &Device) -> Result<Arc<Machine>> {
    find(dev, |place| place.pe.clone())
}

/// The IOMMU group of a device, which is that of its PE.
pub(crate) fn group_of(dev: &Device) -> Result<ARef<Group>> {
    find(dev, |place| place.group.clone())
}

/// Whether a device forwards the DMA of others.
pub(crate) fn is_bridge(dev: &Device) -> bool {
    find(dev, |place| place.is_bridge) == Ok(true)
}

/// Calls `f` for each device of the machine. May sleep.
pub(crate) fn for_each_device(mut f: impl FnMut(&Device)) {
    let get = |n| PLACES.lock().get(n).map(|place: &Place| place.dev.clone());
    (0..).map_while(get).for_each(|dev| f(&dev));
}

/// Whether the administrator lets processes have windows.
pub(crate) fn allows_processes() -> bool {
    true
}
