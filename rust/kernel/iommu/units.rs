// SPDX-License-Identifier: GPL-2.0

//! Units of the IOMMU API.
//!
//! Addresses, sizes and counts are all integers in C. Here each has a type of its own, and a value
//! only changes its unit in a named function. There are no arithmetic operators, because they
//! would hide an overflow.

use crate::{
    bindings,
    prelude::*, //
};

/// An I/O virtual address: what a device puts on the bus, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(transparent)]
pub struct Iova(u64);

impl Iova {
    /// Makes an I/O virtual address of a number of bytes.
    #[inline]
    pub const fn new(addr: u64) -> Self {
        Self(addr)
    }

    /// Takes an address that C keeps as a `dma_addr_t`.
    #[allow(clippy::unnecessary_cast)]
    pub(super) const fn from_dma_addr(addr: bindings::dma_addr_t) -> Self {
        // CAST: A `dma_addr_t` has 32 or 64 bits.
        Self(addr as u64)
    }

    /// Returns the address in bytes.
    #[inline]
    pub const fn get(self) -> u64 {
        self.0
    }

    /// Returns the address `bytes` higher, or [`None`] on overflow.
    #[inline]
    pub const fn checked_add(self, bytes: u64) -> Option<Self> {
        match self.0.checked_add(bytes) {
            Some(addr) => Some(Self(addr)),
            None => None,
        }
    }

    /// Returns the address `bytes` lower, or [`None`] on underflow.
    #[inline]
    pub const fn checked_sub(self, bytes: u64) -> Option<Self> {
        match self.0.checked_sub(bytes) {
            Some(addr) => Some(Self(addr)),
            None => None,
        }
    }

    /// Says whether a page of size `page` can start here.
    ///
    /// # Examples
    ///
    /// ```
    /// use kernel::iommu::{Iova, PageSize};
    ///
    /// let page = PageSize::from_bytes(0x1000).ok_or(EINVAL)?;
    /// assert!(Iova::new(0x3000).is_aligned(page));
    /// assert!(!Iova::new(0x3800).is_aligned(page));
    /// # Ok::<(), Error>(())
    /// ```
    #[inline]
    pub const fn is_aligned(self, page: PageSize) -> bool {
        self.0 & page.offset_mask() == 0
    }
}

/// The size of an IOMMU page: a power of two.
///
/// # Invariants
///
/// `bytes` has one bit set.
///
/// # Examples
///
/// ```
/// use kernel::iommu::PageSize;
///
/// let page = PageSize::from_shift(16).ok_or(EINVAL)?;
/// assert_eq!(page.bytes(), 0x10000);
/// assert_eq!(PageSize::from_bytes(0x10000), Some(page));
///
/// assert_eq!(PageSize::from_shift(64), None);
/// assert_eq!(PageSize::from_bytes(0), None);
/// assert_eq!(PageSize::from_bytes(0x3000), None);
/// # Ok::<(), Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PageSize {
    bytes: u64,
}

impl PageSize {
    /// Makes the page size of `1 << shift` bytes, or [`None`] if `shift` is 64 or more.
    #[inline]
    pub const fn from_shift(shift: u32) -> Option<Self> {
        if shift < u64::BITS {
            // INVARIANT: One bit, which is there because of the check above.
            Some(Self {
                bytes: 1u64.wrapping_shl(shift),
            })
        } else {
            None
        }
    }

    /// Makes the page size of `bytes` bytes, or [`None`] if that is not a power of two.
    #[inline]
    pub const fn from_bytes(bytes: u64) -> Option<Self> {
        if bytes.is_power_of_two() {
            // INVARIANT: Checked in the line above.
            Some(Self { bytes })
        } else {
            None
        }
    }

    /// Returns the size in bytes.
    #[inline]
    pub const fn bytes(self) -> u64 {
        self.bytes
    }

    /// Returns the base-2 logarithm of the size, less than 64.
    #[inline]
    pub const fn shift(self) -> u32 {
        self.bytes.trailing_zeros()
    }

    /// Returns a mask of the address bits inside a page.
    #[inline]
    pub(super) const fn offset_mask(self) -> u64 {
        // OVERFLOW: The size is not zero.
        self.bytes().wrapping_sub(1)
    }
}

/// A set of page sizes, never empty.
///
/// It stands for the `pgsize_bitmap` of C.
///
/// # Invariants
///
/// At least one bit is set; bit `n` stands for the page size `1 << n`.
///
/// # Examples
///
/// ```
/// use kernel::iommu::{PageSize, PageSizes};
///
/// let small = PageSize::from_shift(12).ok_or(EINVAL)?;
/// let large = PageSize::from_shift(16).ok_or(EINVAL)?;
///
/// let pages = PageSizes::of(large).with(small);
/// assert!(pages.contains(large));
/// assert!(!PageSizes::of(small).contains(large));
/// assert_eq!(pages.smallest(), small);
/// # Ok::<(), Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageSizes(u64);

impl PageSizes {
    /// Makes the set that holds `page` alone.
    #[inline]
    pub const fn of(page: PageSize) -> Self {
        // INVARIANT: A page size has one bit set.
        Self(page.bytes())
    }

    /// Returns this set and `page`.
    #[must_use]
    #[inline]
    pub const fn with(self, page: PageSize) -> Self {
        // INVARIANT: No bit is cleared.
        Self(self.0 | page.bytes())
    }

    /// Says whether `page` is in the set.
    #[inline]
    pub const fn contains(self, page: PageSize) -> bool {
        self.0 & page.bytes() != 0
    }

    /// Returns the smallest page size of the set, the granule of a domain.
    #[inline]
    pub const fn smallest(self) -> PageSize {
        // INVARIANT: By the type invariant a bit is set, and this is the lowest one.
        PageSize {
            bytes: self.0 & self.0.wrapping_neg(),
        }
    }

    /// Returns the bitmap as C wants it.
    pub(super) const fn as_raw(self) -> c_ulong {
        // CAST: `iommu_pgsize()` cannot use a size that a `c_ulong` does not hold.
        self.0 as c_ulong
    }
}

/// A count of pages, whatever their size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Pages(usize);

impl Pages {
    /// Makes a count of `n` pages.
    #[inline]
    pub const fn new(n: usize) -> Self {
        Self(n)
    }

    /// Returns the number of pages.
    #[inline]
    pub const fn get(self) -> usize {
        self.0
    }
}

/// A range of I/O virtual addresses that is not empty.
///
/// Both ends are inclusive, so that a range can reach the end of the address space.
///
/// # Invariants
///
/// `first` is not greater than `last`.
///
/// # Examples
///
/// ```
/// use kernel::iommu::{Iova, IovaRange};
///
/// let range = IovaRange::from_len(Iova::new(0x1000), 0x2000).ok_or(EINVAL)?;
/// assert_eq!(range.last(), Iova::new(0x2fff));
/// assert_eq!(range.bytes(), 0x2000);
/// assert!(range.contains(Iova::new(0x2fff)));
/// assert!(!range.contains(Iova::new(0x3000)));
///
/// assert_eq!(IovaRange::from_len(Iova::new(0x1000), 0), None);
/// assert_eq!(IovaRange::from_len(Iova::new(u64::MAX), 2), None);
/// assert_eq!(IovaRange::new(Iova::new(1), Iova::new(0)), None);
/// # Ok::<(), Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IovaRange {
    first: Iova,
    last: Iova,
}

impl IovaRange {
    /// Makes the range from `first` to `last`, both included, or [`None`] if `last` comes first.
    #[inline]
    pub const fn new(first: Iova, last: Iova) -> Option<Self> {
        if first.0 <= last.0 {
            // INVARIANT: Checked in the line above.
            Some(Self { first, last })
        } else {
            None
        }
    }

    /// Makes the range of `bytes` bytes from `first` on, or [`None`] if it is empty or overflows.
    #[inline]
    pub const fn from_len(first: Iova, bytes: u64) -> Option<Self> {
        match bytes.checked_sub(1) {
            Some(rest) => match first.checked_add(rest) {
                // INVARIANT: Adding did not overflow, so `last` is not below `first`.
                Some(last) => Some(Self { first, last }),
                None => None,
            },
            None => None,
        }
    }

    /// Returns the lowest address of the range.
    #[inline]
    pub const fn first(self) -> Iova {
        self.first
    }

    /// Returns the highest address of the range.
    #[inline]
    pub const fn last(self) -> Iova {
        self.last
    }

    /// Returns the number of bytes, [`u64::MAX`] for the whole address space.
    #[inline]
    pub const fn bytes(self) -> u64 {
        // OVERFLOW: By the type invariant.
        self.last.0.wrapping_sub(self.first.0).saturating_add(1)
    }

    /// Says whether `iova` is in the range.
    #[inline]
    pub const fn contains(self, iova: Iova) -> bool {
        self.first.0 <= iova.0 && iova.0 <= self.last.0
    }

    /// Says whether all of `other` is in the range.
    #[inline]
    pub const fn covers(self, other: Self) -> bool {
        self.contains(other.first) && self.contains(other.last)
    }
}
