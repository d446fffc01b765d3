// SPDX-License-Identifier: GPL-2.0

//! Reserved regions: addresses that no user of a device may map as it likes.

use super::{
    IovaRange,
    Prot, //
};
use crate::{
    bindings,
    io::PhysAddr,
    prelude::*, //
};
use core::{
    marker::PhantomData,
    ptr::NonNull, //
};

/// Why a region is reserved: `enum iommu_resv_type` of C.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Kind {
    /// Must be mapped one to one at all times.
    Direct = bindings::iommu_resv_type_IOMMU_RESV_DIRECT,
    /// Should be mapped one to one, but a device that is given away can do without.
    DirectRelaxable = bindings::iommu_resv_type_IOMMU_RESV_DIRECT_RELAXABLE,
    /// Must never be mapped.
    Reserved = bindings::iommu_resv_type_IOMMU_RESV_RESERVED,
    /// Writes here are interrupts, and the hardware does not translate them.
    Msi = bindings::iommu_resv_type_IOMMU_RESV_MSI,
    /// A window in which software maps the targets of interrupts.
    SwMsi = bindings::iommu_resv_type_IOMMU_RESV_SW_MSI,
}

/// The list of reserved regions of a device, while its driver fills it.
///
/// # Invariants
///
/// `list` is a valid list of `struct iommu_resv_region`, and nobody else uses it during `'a`.
pub struct ReservedRegions<'a> {
    list: NonNull<bindings::list_head>,
    _owner: PhantomData<&'a mut bindings::list_head>,
}

impl ReservedRegions<'_> {
    /// Borrows a C list.
    ///
    /// # Safety
    ///
    /// `list` must be a valid list of `struct iommu_resv_region`, and in use by nobody else, for
    /// the lifetime of the result.
    pub(super) unsafe fn from_raw(list: *mut bindings::list_head) -> Self {
        // INVARIANT: By the safety requirements.
        Self {
            // SAFETY: A valid pointer is not null.
            list: unsafe { NonNull::new_unchecked(list) },
            _owner: PhantomData,
        }
    }

    /// Adds a region. `prot` matters only if the region is to be mapped.
    ///
    /// Stands for `iommu_alloc_resv_region()`; may sleep.
    ///
    /// # Errors
    ///
    /// - [`ENOMEM`] if there is no memory for the region.
    /// - [`EOVERFLOW`] if C cannot express the address or the size, as for a region that is the
    ///   whole address space.
    pub fn add(&mut self, range: IovaRange, prot: Prot, kind: Kind) -> Result {
        let first = PhysAddr::try_from(range.first().get()).map_err(|_| EOVERFLOW)?;
        let size = range
            .last()
            .checked_sub(range.first().get())
            .and_then(|rest| rest.checked_add(1))
            .ok_or(EOVERFLOW)?;
        let size = size.get().try_into().map_err(|_| EOVERFLOW)?;

        // SAFETY: No precondition but process context, which the callback that lends the list has.
        // CAST: `Kind` is the C enum.
        let region = unsafe {
            bindings::iommu_alloc_resv_region(
                first,
                size,
                prot.as_raw(),
                kind as bindings::iommu_resv_type,
                GFP_KERNEL.as_raw(),
            )
        };
        let region = NonNull::new(region).ok_or(ENOMEM)?;

        // SAFETY: The region is valid and in no list; the list is valid by the type invariant. The
        // list owns the region from here on.
        unsafe {
            bindings::list_add_tail(&raw mut (*region.as_ptr()).list, self.list.as_ptr());
        }
        Ok(())
    }
}
