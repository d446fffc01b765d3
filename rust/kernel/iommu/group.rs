// SPDX-License-Identifier: GPL-2.0

//! IOMMU groups.

use crate::{
    bindings,
    error::from_err_ptr,
    prelude::*,
    sync::aref::{
        ARef,
        AlwaysRefCounted, //
    },
    types::Opaque, //
};
use core::ptr::NonNull;

/// A set of devices that the hardware cannot tell apart, or cannot isolate from each other.
///
/// All devices of a group are attached to the same domain. This is `struct iommu_group` of C.
///
/// # Invariants
///
/// The group is reference counted, and a reference is held as long as this value is borrowed.
#[repr(transparent)]
pub struct Group(Opaque<bindings::iommu_group>);

impl Group {
    /// Makes a group without devices.
    ///
    /// Returns `ENOMEM` if there is no memory. Stands for `iommu_group_alloc()`; may sleep.
    pub fn new() -> Result<ARef<Self>> {
        // SAFETY: No precondition but process context.
        let raw = from_err_ptr(unsafe { bindings::iommu_group_alloc() })?;
        let raw = NonNull::new(raw).ok_or(ENOMEM)?;

        // SAFETY: `iommu_group_alloc()` returns a reference, and nobody else knows of it.
        Ok(unsafe { Self::from_raw(raw) })
    }

    /// Takes over a reference to a C group.
    ///
    /// # Safety
    ///
    /// `group` must be a valid group, and the caller must own a reference and give it away.
    pub(crate) unsafe fn from_raw(group: NonNull<bindings::iommu_group>) -> ARef<Self> {
        // SAFETY: The caller gives a reference away. CAST: `Self` is a transparent wrapper.
        unsafe { ARef::from_raw(group.cast()) }
    }

    /// Returns the group as C knows it.
    #[inline]
    pub(crate) fn as_raw(&self) -> *mut bindings::iommu_group {
        self.0.get()
    }

    /// Returns the number of the group, its name in `/sys/kernel/iommu_groups`.
    pub fn id(&self) -> u32 {
        // SAFETY: By the type invariant the group is valid.
        let id = unsafe { bindings::iommu_group_id(self.as_raw()) };

        // CAST: The number comes from `ida_alloc()`, it is never negative.
        id as u32
    }

    /// Returns the number of devices in the group. It can change at any time.
    ///
    /// Stands for `iommu_group_for_each_dev()`. It takes the mutex of the group, so it may sleep,
    /// and must not be called from a callback that the core holds the mutex for.
    pub fn count_devices(&self) -> usize {
        /// # Safety
        ///
        /// For the core: `sum` must be the variable below, which nobody else uses meanwhile.
        unsafe extern "C" fn count(_dev: *mut bindings::device, sum: *mut c_void) -> c_int {
            // SAFETY: By the safety requirements.
            let sum = unsafe { &mut *sum.cast::<usize>() };

            // OVERFLOW: There are fewer devices than addresses.
            *sum = sum.wrapping_add(1);
            0
        }

        let mut sum = 0_usize;
        // SAFETY: By the type invariant the group is valid.
        unsafe {
            bindings::iommu_group_for_each_dev(
                self.as_raw(),
                (&raw mut sum).cast(),
                Some(count), //
            )
        };
        sum
    }
}

// SAFETY: `iommu_group_ref_get()` takes a reference that keeps the group until
// `iommu_group_put()`; every group lives in memory that the last put frees.
unsafe impl AlwaysRefCounted for Group {
    #[inline]
    fn inc_ref(&self) {
        // SAFETY: By the type invariant the group is valid.
        unsafe { bindings::iommu_group_ref_get(self.as_raw()) };
    }

    #[inline]
    unsafe fn dec_ref(group: NonNull<Self>) {
        // SAFETY: The caller gives a reference away.
        unsafe { bindings::iommu_group_put(group.as_ref().as_raw()) };
    }
}

// SAFETY: A group belongs to no thread: its last reference may be put by any.
unsafe impl Send for Group {}

// SAFETY: The methods use functions of the core that any number of threads may call at once.
unsafe impl Sync for Group {}
