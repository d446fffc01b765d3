// SPDX-License-Identifier: GPL-2.0

//! IOMMU hardware instances.

use super::{
    registry::Header,
    DriverTypes, //
};
use crate::{
    bindings,
    container_of,
    prelude::*,
    sync::atomic::{
        Relaxed,
        Release, //
    },
    types::Opaque, //
};
use core::{
    any::TypeId,
    iter::FusedIterator,
    marker::PhantomData, //
};

/// An IOMMU, with the data that its driver keeps for it.
///
/// This is `struct iommu_device` of C. Most systems have several, but a driver for IOMMUs that
/// firmware hides may have a single one for all.
#[repr(C)]
#[pin_data]
pub struct Instance<T: DriverTypes> {
    #[pin]
    pub(super) header: Header,
    #[pin]
    pub(super) data: T::Instance,
}

impl<T: DriverTypes> Instance<T> {
    /// Returns the data of the driver.
    pub fn data(&self) -> Pin<&T::Instance> {
        ::pin_init::assert_pinned!(Instance<T>, data, T::Instance, inline);

        // SAFETY: An instance only exists inside a pinned allocation, and `data` is structurally
        // pinned.
        unsafe { Pin::new_unchecked(&self.data) }
    }

    /// Returns the instance as C knows it.
    pub(super) fn as_raw(&self) -> *mut bindings::iommu_device {
        self.header.raw.get()
    }

    /// Counts a device that is claimed. The probe lock is held.
    pub(super) fn count_claimed(&self) {
        self.header.claimed.add(1, Relaxed);
    }

    /// Counts a device that is claimed no more.
    pub(super) fn count_released(&self) {
        // Who finds that all are released may free the instance.
        self.header.claimed.fetch_sub(1, Release);
    }

    /// Borrows the instance that is known to C as `raw`.
    ///
    /// # Safety
    ///
    /// `raw` must be part of an `Instance<T>` that lives at least as long as the result.
    pub(super) unsafe fn from_raw<'a>(raw: *mut bindings::iommu_device) -> &'a Self {
        // SAFETY: By the safety requirements.
        unsafe { &*container_of!(Opaque::cast_from(raw), Self, header.raw) }
    }
}

// SAFETY: The header belongs to no thread, the data is `Send`.
unsafe impl<T: DriverTypes> Send for Instance<T> {}

// SAFETY: The header is only changed under locks of the core, the data is `Sync`.
unsafe impl<T: DriverTypes> Sync for Instance<T> {}

/// The registered instances of a driver, as [`Driver::probe_device`] gets them.
///
/// [`Driver::probe_device`]: super::Driver::probe_device
///
/// # Invariants
///
/// The probe lock is held for `'p`; `next` is null or a header in the list of all instances.
pub struct Instances<'p, T: DriverTypes> {
    next: *const Header,
    _lock: PhantomData<&'p Instance<T>>,
}

impl<T: DriverTypes> Instances<'_, T> {
    /// Makes the view of the list.
    ///
    /// # Safety
    ///
    /// The caller must hold the probe lock for the lifetime of the result.
    pub(super) unsafe fn new() -> Self {
        // INVARIANT: By the safety requirements.
        Self {
            // SAFETY: By the safety requirements.
            next: unsafe { Header::first() },
            _lock: PhantomData,
        }
    }
}

impl<'p, T: DriverTypes> Iterator for Instances<'p, T> {
    type Item = &'p Instance<T>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            // SAFETY: By the type invariant, the header is null or valid.
            let header = unsafe { self.next.as_ref() }?;
            // INVARIANT: By the type invariant of the header.
            // SAFETY: By the type invariant, the probe lock is held.
            self.next = unsafe { *header.next.get() };

            if header.driver == TypeId::of::<T>() {
                // SAFETY: By the type invariant of the header, this is an instance of `T`. It stays
                // registered during `'p`, because it must be taken from the list before it goes.
                return Some(unsafe { Instance::from_raw(header.raw.get()) });
            }
        }
    }
}

impl<T: DriverTypes> FusedIterator for Instances<'_, T> {}
