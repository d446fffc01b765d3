// SPDX-License-Identifier: GPL-2.0

//! The list of all instances, and how the core learns of one.

use crate::{
    bindings,
    error::to_result,
    fmt,
    prelude::*,
    sync::atomic::{
        Acquire,
        Atomic,
        Relaxed, //
    },
    time::{
        delay::fsleep,
        Delta, //
    },
    types::{
        NotThreadSafe,
        Opaque, //
    }, //
};
use core::{
    any::TypeId,
    cell::UnsafeCell,
    ptr, //
};

/// Holds `iommu_probe_device_lock` of the core.
///
/// The lock is not exported to modules, so everything that takes it is not generic and never
/// inlined.
pub(super) struct ProbeLock(#[allow(dead_code)] NotThreadSafe);

impl ProbeLock {
    #[inline(never)]
    pub(super) fn lock() -> Self {
        // SAFETY: The mutex is a static of the core.
        unsafe { bindings::mutex_lock(&raw mut bindings::iommu_probe_device_lock) };
        Self(NotThreadSafe)
    }
}

impl Drop for ProbeLock {
    #[inline(never)]
    fn drop(&mut self) {
        // SAFETY: `lock()` locked the mutex, and the guard did not leave its thread.
        unsafe { bindings::mutex_unlock(&raw mut bindings::iommu_probe_device_lock) };
    }
}

/// The part of an instance that is the same for all drivers.
///
/// # Invariants
///
/// - `raw` is initialised.
/// - Unless it is null, `next` is a header that is in the list of all registered instances.
/// - `driver` is the type of the driver whose [`Instance`](super::Instance) this is the header of.
#[pin_data]
pub(super) struct Header {
    #[pin]
    pub(super) raw: Opaque<bindings::iommu_device>,
    /// Guarded by the probe lock.
    pub(super) next: UnsafeCell<*const Header>,
    pub(super) driver: TypeId,
    /// How many devices are claimed. Only grows with the probe lock held, and once, for good, if
    /// there are any when the instance is unregistered.
    pub(super) claimed: Atomic<usize>,
}

/// The list of all registered instances of all Rust drivers.
///
/// The core does not tell `probe_device` which of them could be meant.
struct List(UnsafeCell<*const Header>);

// SAFETY: The list is only used with the probe lock held.
unsafe impl Sync for List {}

static REGISTERED: List = List(UnsafeCell::new(ptr::null()));

impl Header {
    pub(super) fn new(driver: TypeId, max_pasids: u32) -> impl PinInit<Self> {
        // INVARIANT: The list of instances ends here.
        pin_init!(Self {
            raw: Opaque::new(bindings::iommu_device {
                max_pasids,
                ..pin_init::zeroed()
            }),
            next: UnsafeCell::new(ptr::null()),
            driver,
            claimed: Atomic::new(0),
        })
    }

    /// Returns the first header of the list.
    ///
    /// # Safety
    ///
    /// The caller must hold the probe lock.
    #[inline(never)]
    pub(super) unsafe fn first() -> *const Self {
        // SAFETY: The lock guards the list.
        unsafe { *REGISTERED.0.get() }
    }

    /// Makes the instance visible, first to `probe_device`, then to the core.
    ///
    /// On failure the instance is not visible.
    ///
    /// # Safety
    ///
    /// - This must be the header of an instance of the driver of `ops`, and not be registered.
    /// - `ops` must be valid, and the instance must stay where it is, until `unregister()` returns.
    /// - `parent` must be null or valid.
    #[inline(never)]
    pub(super) unsafe fn register(
        &self,
        ops: *const bindings::iommu_ops,
        parent: *mut bindings::device,
        name: fmt::Arguments<'_>,
    ) -> Result {
        let raw = self.raw.get();

        // The core links each device that it probes to the device in sysfs, so this comes first.
        // SAFETY: `raw` is initialised by the type invariant, `%pA` takes a `fmt::Arguments`.
        to_result(unsafe {
            bindings::iommu_device_sysfs_add(
                raw,
                parent,
                ptr::null_mut(),
                c"%pA".as_char_ptr(),
                (&raw const name).cast::<c_void>(),
            )
        })?;

        {
            let _lock = ProbeLock::lock();
            // Who finds the instance takes the operations from it, before the core knows of it.
            // SAFETY: Nobody else has `raw` yet.
            unsafe { (*raw).ops = ops };
            // INVARIANT: The head of the list is null or in the list.
            // SAFETY: The lock guards the list.
            unsafe { *self.next.get() = ptr::replace(REGISTERED.0.get(), self) };
        }

        // This calls back into the driver before it returns.
        // SAFETY: `raw` is initialised and has its device in sysfs, the caller guarantees the rest.
        let ret = to_result(unsafe { bindings::iommu_device_register(raw, ops, ptr::null_mut()) });
        if ret.is_err() {
            // The core has taken the instance back, but `probe_device` may have handed it out once
            // more since. Go through the whole release: on a list node that is linked to itself it
            // may run again.
            // SAFETY: After a failure the instance is not in the list of the core.
            unsafe { bindings::INIT_LIST_HEAD(&raw mut (*raw).list) };
            // SAFETY: The instance is in the list of instances and in sysfs.
            unsafe {
                self.hide();
                self.unregister();
            }
        }
        ret
    }

    /// Takes the instance off the list, so that no more devices are claimed.
    ///
    /// A probe that found the instance has claimed its device before the lock is free.
    ///
    /// # Safety
    ///
    /// The instance must be in the list of instances.
    #[inline(never)]
    pub(super) unsafe fn hide(&self) {
        let _lock = ProbeLock::lock();
        let mut link = REGISTERED.0.get();
        // SAFETY: The lock guards the list, all its headers are valid, and by the caller this one
        // is among them.
        unsafe {
            while !ptr::eq(*link, self) {
                link = (**link).next.get();
            }
            *link = *self.next.get();
        }
    }

    /// Keeps the code of the driver, for good. That of a module is counted. A module whose `init`
    /// fails goes whatever is counted, so for one that is not loaded yet this never returns.
    ///
    /// # Safety
    ///
    /// The instance must be, or have been, registered.
    #[inline(never)]
    pub(super) unsafe fn keep_module(&self) {
        // SAFETY: The instance has operations. They are part of their module, which the caller is
        // in, or of the kernel.
        let owner = unsafe { (*(*self.raw.get()).ops).owner };
        // SAFETY: As above. The state changes with the thread that loads or unloads the module.
        let is_live = || unsafe { (*owner).state } == bindings::module_state_MODULE_STATE_LIVE;
        if !owner.is_null() && !is_live() {
            pr_err!("a module that fails to load has devices, and stays as it is\n");
            loop {
                fsleep(Delta::from_secs(1));
            }
        }
        // SAFETY: The module is live, so it is counted already; or there is none.
        unsafe { bindings::__module_get(owner) };
    }

    /// Takes the instance back. All devices that are on their bus are released when this returns.
    ///
    /// A device that is on its way out of the system is not on its bus any more, so the core does
    /// not find it, and unlinks it from the instance later. If there is one, the instance counts
    /// one for good, stays in sysfs, and its module is kept; who calls must not free it.
    ///
    /// # Safety
    ///
    /// The instance must be hidden and in sysfs, and its node for the list of the core must be
    /// linked. No driver uses the DMA API for a claimed device, and nobody uses a domain of it.
    #[inline(never)]
    pub(super) unsafe fn unregister(&self) {
        // SAFETY: By the safety requirements.
        unsafe { bindings::iommu_device_unregister(self.raw.get()) };
        // A device is unlinked before it is released, and no more of them are claimed.
        if self.claimed.load(Acquire) > 0 {
            self.claimed.add(1, Relaxed);
            // SAFETY: The instance has been registered.
            return unsafe { self.keep_module() };
        }
        // SAFETY: By the safety requirements.
        unsafe { bindings::iommu_device_sysfs_remove(self.raw.get()) };
    }
}
