// SPDX-License-Identifier: GPL-2.0

//! What the core and a driver tell each other about devices, domains and mappings.

use super::{
    Iova,
    IovaRange,
    PageSize,
    PageSizes, //
};
use crate::{
    bindings,
    impl_flags,
    prelude::*, //
};
use core::num::NonZeroU32;

/// The number by which a device and its IOMMU mean an address space.
///
/// # Invariants
///
/// It is neither 0, which stands for DMA without a PASID, nor `IOMMU_PASID_INVALID`.
///
/// # Examples
///
/// ```
/// use kernel::iommu::Pasid;
///
/// assert_eq!(Pasid::new(5).map(Pasid::get), Some(5));
/// assert_eq!(Pasid::new(0), None);
/// assert_eq!(Pasid::new(u32::MAX), None);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pasid(NonZeroU32);

impl Pasid {
    /// Makes a PASID, unless the number cannot be one.
    #[inline]
    pub const fn new(number: u32) -> Option<Self> {
        // CAST: The C constant is all ones.
        if number == bindings::IOMMU_PASID_INVALID as u32 {
            return None;
        }
        match NonZeroU32::new(number) {
            // INVARIANT: Checked here and above.
            Some(number) => Some(Self(number)),
            None => None,
        }
    }

    /// Returns the number.
    #[inline]
    pub const fn get(self) -> u32 {
        self.0.get()
    }
}

impl_flags!(
    /// What a device may do with a mapping, and how: the `IOMMU_READ` family of C.
    ///
    /// # Examples
    ///
    /// ```
    /// use kernel::iommu::{Prot, ProtFlag};
    ///
    /// let prot = ProtFlag::Read | ProtFlag::Cache;
    /// assert!(prot.contains(ProtFlag::Read));
    /// assert!(!prot.contains(ProtFlag::Write));
    /// assert_eq!(Prot::empty(), prot & ProtFlag::Write);
    /// ```
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct Prot(u32);

    /// One flag of a [`Prot`].
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum ProtFlag {
        /// The device may read memory.
        Read = bindings::IOMMU_READ,
        /// The device may write memory.
        Write = bindings::IOMMU_WRITE,
        /// DMA is coherent with the caches of the CPUs.
        Cache = bindings::IOMMU_CACHE,
        /// The device may not fetch instructions.
        Noexec = bindings::IOMMU_NOEXEC,
        /// The target is a device, not memory.
        Mmio = bindings::IOMMU_MMIO,
        /// Only privileged transactions of the device may use the mapping.
        Priv = bindings::IOMMU_PRIV,
    }
);

impl Prot {
    /// Keeps the flags of a C `prot` argument that this kernel knows.
    #[inline]
    pub(super) const fn from_raw(prot: c_int) -> Self {
        // CAST: The C argument is a set of bits, its sign means nothing.
        Self(prot as u32 & Self::all_bits())
    }

    /// Returns the flags as a C `prot` argument.
    pub(super) const fn as_raw(self) -> c_int {
        // CAST: As in `from_raw()`.
        self.0 as c_int
    }
}

/// What a paging domain can map.
#[derive(Clone, Copy, Debug)]
pub struct Geometry {
    /// The page sizes that can be used everywhere in the aperture.
    ///
    /// The smallest may not exceed the `PAGE_SIZE` of the CPU.
    pub pages: PageSizes,
    /// The addresses that a device can use.
    ///
    /// It is always enforced (`force_aperture` of C): a request outside never reaches the driver.
    pub aperture: IovaRange,
    /// The low addresses, if the DMA API is to keep them for devices that have no others.
    pub low: Option<LowAddresses>,
}

/// Addresses that are few, for devices that do not reach those above.
///
/// VFIO and iommufd, whose users choose addresses themselves, take no notice.
#[derive(Clone, Copy, Debug)]
pub struct LowAddresses {
    /// The first address above them, a multiple of all page sizes. The DMA API gives devices that
    /// reach it none below.
    pub high_start: Iova,
    /// The page size of the low addresses. It may be smaller than [`Geometry::pages`].
    pub page: PageSize,
    /// The last address that the DMA API uses while there is room below it, if it should not
    /// start from the top.
    pub preferred_last: Option<Iova>,
}

impl LowAddresses {
    /// The pages that can be mapped here and not in all of the aperture, as C wants them.
    pub(super) const fn more_pages(&self, pages: PageSizes) -> c_ulong {
        if pages.contains(self.page) {
            0
        } else {
            PageSizes::of(self.page).as_raw()
        }
    }
}

/// A capability that the IOMMU core asks for: `enum iommu_cap` of C.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Cap {
    /// [`ProtFlag::Cache`] is honoured, or all DMA of the device is coherent anyway.
    CacheCoherency,
    /// `unmap` leaves invalidation to `iotlb_sync` or `flush_iotlb_all`, so the DMA API may
    /// collect freed addresses in a flush queue. Without `flush_iotlb_all` a driver is not asked.
    DeferredFlush,
    /// A capability that no Rust driver has yet: drivers are not asked for it.
    Other,
}

impl Cap {
    /// Takes a capability from C.
    pub(super) const fn from_raw(cap: bindings::iommu_cap) -> Self {
        match cap {
            bindings::iommu_cap::IOMMU_CAP_CACHE_COHERENCY => Self::CacheCoherency,
            bindings::iommu_cap::IOMMU_CAP_DEFERRED_FLUSH => Self::DeferredFlush,
            _ => Self::Other,
        }
    }
}

/// The type of default domain that a device needs: the result of `def_domain_type` in C.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DefaultDomain {
    /// The device has no needs; the kernel's configuration decides.
    Any,
    /// The domain given to [`Ops::identity`].
    ///
    /// [`Ops::identity`]: super::Ops::identity
    Identity,
    /// A paging domain that the DMA API manages.
    Dma,
}

impl DefaultDomain {
    /// Returns the domain type that stands for this choice in C, 0 for no choice.
    pub(super) const fn as_raw(self) -> c_int {
        // CAST: The domain types are small sets of flags.
        match self {
            Self::Any => 0,
            Self::Identity => bindings::IOMMU_DOMAIN_IDENTITY as c_int,
            Self::Dma => bindings::IOMMU_DOMAIN_DMA as c_int,
        }
    }
}
