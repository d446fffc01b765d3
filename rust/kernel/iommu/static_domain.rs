// SPDX-License-Identifier: GPL-2.0

//! Domains that exist once: a device reaches nothing there, or all, or what the platform says.

use super::{
    AttachCtx,
    DriverTypes,
    Iova, //
};
use crate::{
    bindings,
    error::from_result,
    io::PhysAddr,
    prelude::*,
    task::might_sleep,
    types::Opaque, //
};
use core::marker::PhantomData;

mod sealed {
    pub trait Kind {
        const TYPE: u32;
    }
}

/// What a [`StaticDomain`] can be: [`Blocked`], [`Identity`] or [`Platform`].
pub trait StaticKind: sealed::Kind {}

/// What can be attached where the core wants no translation: [`Identity`] or [`Platform`].
pub trait IdentityKind: StaticKind {}

/// The kind of domain in which a device can reach nothing.
pub struct Blocked(());

/// The kind of domain in which a device uses physical addresses.
pub struct Identity(());

/// The kind of domain in which the architecture, not the DMA API, maps memory for a device.
pub struct Platform(());

impl sealed::Kind for Blocked {
    const TYPE: u32 = bindings::IOMMU_DOMAIN_BLOCKED;
}

impl sealed::Kind for Identity {
    const TYPE: u32 = bindings::IOMMU_DOMAIN_IDENTITY;
}

impl sealed::Kind for Platform {
    const TYPE: u32 = bindings::IOMMU_DOMAIN_PLATFORM;
}

impl StaticKind for Blocked {}
impl StaticKind for Identity {}
impl StaticKind for Platform {}

impl IdentityKind for Identity {}
impl IdentityKind for Platform {}

/// The operations of a [`StaticDomain`].
///
/// # Safety
///
/// While a device is attached to the domain, it must reach no more than the [`Kind`](Self::Kind)
/// says; in particular, nothing that it could reach in an earlier paging domain.
pub unsafe trait StaticOps: 'static {
    /// What the domain is.
    type Kind: StaticKind;

    /// The driver that has the domain.
    type Driver: DriverTypes;

    /// Attaches a device. May sleep; the mutex of the group is held.
    ///
    /// This is called for every device of a group in turn. A failure must leave the device where it
    /// was. The core counts on a [`Blocked`] domain, and on a domain that the device was in before,
    /// not to fail.
    ///
    /// Useful errors are [`EINVAL`], if the device and the domain do not fit, [`ENOMEM`],
    /// [`ENOSPC`], [`EBUSY`] and [`ENODEV`].
    fn attach(ctx: &AttachCtx<'_, Self::Driver>) -> Result;

    /// Returns the physical address that a device reaches at `iova`. Must not sleep.
    ///
    /// The core only asks domains of kind [`Platform`].
    fn iova_to_phys(_iova: Iova) -> Option<PhysAddr> {
        None
    }
}

/// A domain that exists once and is never freed.
///
/// It must be a `static`, because the core knows it by its address.
///
/// # Invariants
///
/// The domain has the type of `D::Kind`, the operations of this type, no cookie and no owner.
#[repr(transparent)]
pub struct StaticDomain<D: StaticOps>(Opaque<bindings::iommu_domain>, PhantomData<D>);

// SAFETY: After construction only the core uses the domain, under its own locks.
unsafe impl<D: StaticOps> Sync for StaticDomain<D> {}

impl<D: StaticOps> StaticDomain<D> {
    // The core calls `free` for every domain that it has done with, so this one must have none.
    pub(super) const OPS: bindings::iommu_domain_ops = bindings::iommu_domain_ops {
        attach_dev: Some(Self::attach_callback),
        iova_to_phys: Some(Self::iova_to_phys_callback),
        ..pin_init::zeroed()
    };

    /// Makes the domain.
    #[expect(clippy::new_without_default)]
    pub const fn new() -> Self {
        Self::with_ops(const { &Self::OPS })
    }

    /// Makes the domain with the operations of this type, and perhaps more that are for it.
    pub(super) const fn with_ops(ops: &'static bindings::iommu_domain_ops) -> Self {
        // INVARIANT: What is not set here is zero, which stands for no cookie and no owner.
        Self(
            Opaque::new(bindings::iommu_domain {
                type_: <D::Kind as sealed::Kind>::TYPE,
                ops,
                ..pin_init::zeroed()
            }),
            PhantomData,
        )
    }

    /// Returns the domain as C knows it.
    pub(super) const fn as_raw(&'static self) -> *mut bindings::iommu_domain {
        self.0.get()
    }

    /// # Safety
    ///
    /// For the core: as for [`AttachCtx::new`]. `domain` must be a `StaticDomain<D>`.
    unsafe extern "C" fn attach_callback(
        domain: *mut bindings::iommu_domain,
        dev: *mut bindings::device,
        old: *mut bindings::iommu_domain,
    ) -> c_int {
        might_sleep();

        from_result(|| {
            // SAFETY: The domain is one of `D::Driver`; the core holds the mutex of the group,
            // which keeps the device and the old domain.
            let ctx = unsafe { AttachCtx::new(domain, dev, old) }?;
            D::attach(&ctx)?;
            Ok(0)
        })
    }

    /// # Safety
    ///
    /// No precondition; the signature is that of C.
    unsafe extern "C" fn iova_to_phys_callback(
        _domain: *mut bindings::iommu_domain,
        iova: bindings::dma_addr_t,
    ) -> bindings::phys_addr_t {
        D::iova_to_phys(Iova::from_dma_addr(iova)).unwrap_or(0)
    }
}
