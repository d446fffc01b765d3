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
    #[inline]
    pub(super) unsafe fn from_raw(raw: *mut bindings::iommu_iotlb_gather) -> Self {
        // INVARIANT: By the safety requirements.
        Self {
            // SAFETY: A valid pointer is not null.
            raw: unsafe { NonNull::new_unchecked(raw) },
            _owner: PhantomData,
        }
    }

    /// Calls `f` with an empty gather of its own, for tests of drivers.
    #[cfg(CONFIG_KUNIT)]
    pub fn with_new<T>(queued: bool, f: impl FnOnce(&mut IotlbGather<'_>) -> T) -> T {
        let mut raw = bindings::iommu_iotlb_gather {
            start: c_ulong::MAX,
            queued,
            ..pin_init::zeroed()
        };

        // SAFETY: It is valid and nobody else uses it.
        f(&mut unsafe { IotlbGather::from_raw(&raw mut raw) })
    }

    /// Extends the range so that it holds `range` too.
    ///
    /// Does what `iommu_iotlb_gather_add_range()` does, without a call: every unmap is here.
    #[inline]
    pub fn add(&mut self, range: IovaRange) {
        let (first, last) = as_raw(range);

        // SAFETY: By the type invariant.
        unsafe {
            let raw = self.raw.as_ptr();
            (*raw).start = (*raw).start.min(first);
            (*raw).end = (*raw).end.max(last);
        }
    }

    /// Says whether `flush_iotlb_all` will be called some time later, in place of `iotlb_sync` now.
    ///
    /// Stands for `iommu_iotlb_gather_queued()`.
    #[inline]
    pub fn is_queued(&self) -> bool {
        // SAFETY: By the type invariant.
        unsafe { (*self.raw.as_ptr()).queued }
    }

    /// Says whether there is a range, and a gap between it and `range`.
    ///
    /// Does what `iommu_iotlb_gather_is_disjoint()` does, without a call.
    #[inline]
    pub fn is_disjoint(&self, range: IovaRange) -> bool {
        let (first, last) = as_raw(range);
        // SAFETY: By the type invariant.
        let (start, end) = unsafe { ((*self.raw.as_ptr()).start, (*self.raw.as_ptr()).end) };

        // An empty gather has the end 0, which is no end of a range: a page has more than a byte.
        // OVERFLOW: Nothing lies above the last address, so that a wrap there is no gap.
        end != 0
            && (first.checked_sub(1).is_some_and(|before| before > end)
                || start.checked_sub(1).is_some_and(|before| last < before))
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

/// Returns both ends as C has them.
#[inline]
fn as_raw(range: IovaRange) -> (c_ulong, c_ulong) {
    // CAST: The core gives no address to a domain that a `c_ulong` cannot hold.
    (
        range.first().get() as c_ulong,
        range.last().get() as c_ulong,
    )
}
