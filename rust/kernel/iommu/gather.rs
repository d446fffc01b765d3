// SPDX-License-Identifier: GPL-2.0

//! Collecting the addresses whose invalidation is still due.

use super::{
    Iova,
    IovaRange, //
};
use crate::{
    bindings,
    prelude::*, //
};
use core::{
    marker::PhantomData,
    ptr::NonNull, //
};

/// The range of addresses that one or more `unmap` calls left for `iotlb_sync`.
///
/// It has one lowest and one highest address, so what lies between two unmapped pages is in the
/// range although it may still be mapped. A driver that cannot live with this looks at
/// [`is_disjoint`](Self::is_disjoint) before it [adds](Self::add), and syncs what it
/// [takes](Self::take) first.
///
/// This is `struct iommu_iotlb_gather` of C.
///
/// # Invariants
///
/// `raw` is valid for `'a`, and nobody else uses it in this time.
pub struct IotlbGather<'a> {
    raw: NonNull<bindings::iommu_iotlb_gather>,
    _owner: PhantomData<&'a mut bindings::iommu_iotlb_gather>,
}

impl IotlbGather<'_> {
    /// Borrows a C gather.
    ///
    /// # Safety
    ///
    /// `raw` must be valid, and in use by nobody else, for the lifetime of the result.
    pub(super) unsafe fn from_raw(raw: *mut bindings::iommu_iotlb_gather) -> Self {
        // INVARIANT: By the safety requirements.
        Self {
            // SAFETY: A valid pointer is not null.
            raw: unsafe { NonNull::new_unchecked(raw) },
            _owner: PhantomData,
        }
    }

    /// Extends the range so that it holds `range` too.
    ///
    /// Stands for `iommu_iotlb_gather_add_range()`.
    #[inline]
    pub fn add(&mut self, range: IovaRange) {
        let (iova, size) = as_raw(range);

        // SAFETY: By the type invariant.
        unsafe { bindings::iommu_iotlb_gather_add_range(self.raw.as_ptr(), iova, size) };
    }

    /// Says whether `flush_iotlb_all` will be called some time later, in place of `iotlb_sync` now.
    ///
    /// Stands for `iommu_iotlb_gather_queued()`.
    #[inline]
    pub fn is_queued(&self) -> bool {
        // SAFETY: By the type invariant.
        unsafe { bindings::iommu_iotlb_gather_queued(self.raw.as_ptr()) }
    }

    /// Says whether there is a range, and a gap between it and `range`.
    ///
    /// Stands for `iommu_iotlb_gather_is_disjoint()`.
    #[inline]
    pub fn is_disjoint(&self, range: IovaRange) -> bool {
        let (iova, size) = as_raw(range);

        // SAFETY: By the type invariant.
        unsafe { bindings::iommu_iotlb_gather_is_disjoint(self.raw.as_ptr(), iova, size) }
    }

    /// Returns the range collected so far, or [`None`] if nothing has been added.
    #[inline]
    pub fn range(&self) -> Option<IovaRange> {
        // SAFETY: By the type invariant.
        let (start, end) = unsafe { ((*self.raw.as_ptr()).start, (*self.raw.as_ptr()).end) };

        // An empty gather has the highest start and the lowest end. CAST: `c_ulong` fits in `u64`.
        IovaRange::new(Iova::new(start as u64), Iova::new(end as u64))
    }

    /// Empties the gather and returns the range collected so far.
    ///
    /// The caller must invalidate the range before `unmap` or `iotlb_sync` returns.
    #[inline]
    pub fn take(&mut self) -> Option<IovaRange> {
        let range = self.range();

        // SAFETY: By the type invariant.
        unsafe {
            (*self.raw.as_ptr()).start = c_ulong::MAX;
            (*self.raw.as_ptr()).end = 0;
        }
        range
    }
}

/// Returns start and size in bytes as C wants them.
fn as_raw(range: IovaRange) -> (c_ulong, usize) {
    // CAST: The core gives no address to a domain that a `c_ulong` cannot hold. The size of the
    // whole address space wraps to 0, and C wraps it back when it computes the end.
    let size = range.last().get().wrapping_sub(range.first().get()) as usize;
    (range.first().get() as c_ulong, size.wrapping_add(1))
}
