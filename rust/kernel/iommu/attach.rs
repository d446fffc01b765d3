// SPDX-License-Identifier: GPL-2.0

//! Where a device comes from when it is attached to a domain.

use super::{
    paging::PagingDomain,
    DriverTypes,
    EndpointCtx, //
};
use crate::{
    bindings,
    prelude::*, //
};
use core::{
    ops::Deref,
    ptr, //
};

/// What a device is attached to before an attach callback.
pub enum Attached<'a, T: DriverTypes> {
    /// Nothing: the device is new to its group, or the core does not know.
    None,
    /// The domain given to [`Ops::blocked`](super::Ops::blocked).
    Blocked,
    /// The domain given to [`Ops::identity`](super::Ops::identity), if it is of that kind.
    Identity,
    /// The domain given to [`Ops::identity`], if it is a [`Platform`] domain.
    ///
    /// [`Ops::identity`]: super::Ops::identity
    /// [`Platform`]: super::Platform
    Platform,
    /// A paging domain.
    Paging(Pin<&'a T::Paging>),
}

impl<'a, T: DriverTypes> Attached<'a, T> {
    /// Finds out what `domain` is for a device with the operations `ops`.
    ///
    /// # Safety
    ///
    /// - `ops` must be part of an [`Ops<T>`](super::Ops).
    /// - `domain` must be null or valid for `'a`.
    unsafe fn from_raw(ops: &'a bindings::iommu_ops, domain: *mut bindings::iommu_domain) -> Self {
        if domain.is_null() {
            Self::None
        } else if domain == ops.blocked_domain {
            Self::Blocked
        } else if domain == ops.identity_domain {
            // SAFETY: The domain is valid, and the type of a static domain does not change.
            match unsafe { (*domain).type_ } {
                bindings::IOMMU_DOMAIN_PLATFORM => Self::Platform,
                _ => Self::Identity,
            }
        // SAFETY: The domain is valid, and the core sets the owner before anybody attaches it.
        } else if ptr::eq(unsafe { (*domain).owner }, ops) {
            // SAFETY: `PagingDomain::alloc_callback` is the only function of `ops` that
            // allocates domains for a device; those for its PASIDs are no old domains of it.
            Self::Paging(unsafe { PagingDomain::<T::Paging>::from_raw(domain) }.data())
        } else {
            Self::None
        }
    }
}

/// The device that an attach callback is about, and where it was.
///
/// Everything that can be done with an [`EndpointCtx`] can be done with this too.
pub struct AttachCtx<'a, T: DriverTypes> {
    endpoint: EndpointCtx<'a, T>,
    old: Attached<'a, T>,
}

impl<'a, T: DriverTypes> AttachCtx<'a, T> {
    /// Makes the context for a callback that attaches `dev` to `domain`.
    ///
    /// Returns [`EINVAL`] if the device does not belong to the driver that has the domain.
    ///
    /// # Safety
    ///
    /// - `domain` must be a static or a paging domain of the driver `T`.
    /// - `dev` must be valid and have an IOMMU, and `old` must be null or valid, as long as the
    ///   result is in use. The mutex of the group, which the core holds, guarantees this.
    pub(super) unsafe fn new(
        domain: *mut bindings::iommu_domain,
        dev: *mut bindings::device,
        old: *mut bindings::iommu_domain,
    ) -> Result<Self> {
        // SAFETY: By the safety requirements.
        let endpoint = unsafe { EndpointCtx::of_domain(domain, dev) }?;
        Ok(Self {
            // SAFETY: The operations are those of `T`, and the mutex keeps `old` alive.
            old: unsafe { Attached::from_raw(endpoint.ops(), old) },
            endpoint,
        })
    }

    /// Returns what the device is attached to now.
    pub fn old(&self) -> Attached<'a, T> {
        self.old
    }
}

impl<T: DriverTypes> Clone for Attached<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T: DriverTypes> Copy for Attached<'_, T> {}

impl<'a, T: DriverTypes> Deref for AttachCtx<'a, T> {
    type Target = EndpointCtx<'a, T>;

    fn deref(&self) -> &Self::Target {
        &self.endpoint
    }
}
