// SPDX-License-Identifier: GPL-2.0

//! Devices that have a driver, for code that does not know whether they do.

use crate::{
    bindings,
    device::{
        Bound,
        Device, //
    },
    types::ScopeGuard, //
};

/// Runs `f` if the device has a driver, which it keeps meanwhile.
///
/// Binding wants a device that is bound, and a file that a process has open may outlive that. The
/// lock of the device is held, so who unbinds the driver waits for `f`. May sleep.
pub fn while_bound<R>(dev: &Device, f: impl FnOnce(&Device<Bound>) -> R) -> Option<R> {
    // SAFETY: The device is valid.
    unsafe { bindings::device_lock(dev.as_raw()) };
    let _lock = ScopeGuard::new(|| {
        // SAFETY: The lock was taken above.
        unsafe { bindings::device_unlock(dev.as_raw()) }
    });
    // SAFETY: The device is valid.
    if !unsafe { bindings::device_is_bound(dev.as_raw()) } {
        return None;
    }
    // SAFETY: The device is bound, and stays so while its lock is held.
    Some(f(unsafe { Device::<Bound>::from_raw(dev.as_raw()) }))
}
