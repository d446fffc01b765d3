// SPDX-License-Identifier: GPL-2.0

//! Requests to change a paging domain.
//!
//! A request that exists is a valid one: it has been checked against the [`Geometry`] of its
//! domain, so a driver needs no checks of its own and its address arithmetic cannot overflow.

use super::{
    Geometry,
    Iova,
    IovaRange,
    LowAddresses,
    PageSize,
    Pages,
    Prot,
    ProtFlag, //
};
use crate::{
    alloc::{
        self,
        AllocError, //
    },
    bindings,
    io::PhysAddr,
    prelude::*, //
};

/// A row of pages of one size, inside the aperture of a domain.
///
/// # Invariants
///
/// `range` starts at a multiple of `page`, and is `count` (at least one) pages long.
#[derive(Clone, Copy, Debug)]
struct Span {
    range: IovaRange,
    page: PageSize,
    count: Pages,
}

impl Span {
    #[inline]
    fn new(geometry: &Geometry, iova: Iova, page: PageSize, count: Pages) -> Result<Self> {
        if !iova.is_aligned(page) {
            return Err(EINVAL);
        }

        // CAST: A `usize` has 64 bits or less.
        let bytes = page.bytes().checked_mul(count.get() as u64).ok_or(EINVAL)?;
        let range = IovaRange::from_len(iova, bytes).ok_or(EINVAL)?;
        let is_low = |low: LowAddresses| low.page == page && range.last() < low.high_start;
        if !geometry.pages.contains(page) && !geometry.low.is_some_and(is_low) {
            return Err(EINVAL);
        }
        if !geometry.aperture.covers(range) {
            return Err(ERANGE);
        }

        // INVARIANT: The start was checked above, and so was the length, which is not zero because
        // there is such a range.
        Ok(Self { range, page, count })
    }
}

/// A request to map a physically contiguous row of pages.
///
/// # Invariants
///
/// - `span` is inside the aperture of the domain, which supports its page size.
/// - `paddr` is a multiple of the page size, and the last byte of the last page has a physical
///   address that fits a [`PhysAddr`].
/// - `prot` allows reads, writes or both.
///
/// # Examples
///
/// ```
/// use kernel::iommu::*;
///
/// let page = PageSize::from_shift(16).ok_or(EINVAL)?;
/// let geometry = Geometry {
///     pages: PageSizes::of(page),
///     aperture: IovaRange::new(Iova::new(0x10000), Iova::new(0x7fff_ffff)).ok_or(EINVAL)?,
///     low: Some(LowAddresses {
///         high_start: Iova::new(0x40_0000),
///         page: PageSize::from_shift(12).ok_or(EINVAL)?,
///         preferred_last: None,
///     }),
/// };
/// let map = |iova, paddr, n, prot| {
///     MapRequest::new(&geometry, Iova::new(iova), paddr, page, Pages::new(n), prot, GFP_ATOMIC)
/// };
///
/// let req = map(0x20000, 0x5_0000, 2, ProtFlag::Read.into())?;
/// assert!(!req.may_sleep());
/// assert_eq!(req.range().last(), Iova::new(0x3ffff));
/// assert_eq!(req.paddr_last(), 0x6_ffff);
///
/// let mut pages = req.pages();
/// assert_eq!(pages.next(), Some((Iova::new(0x20000), 0x5_0000)));
/// assert_eq!(pages.next(), Some((Iova::new(0x30000), 0x6_0000)));
/// assert_eq!(pages.next(), None);
///
/// let rw = ProtFlag::Read | ProtFlag::Write;
/// // Small pages are for low addresses.
/// let small = |iova, n| {
///     let page = PageSize::from_shift(12).ok_or(EINVAL)?;
///     MapRequest::new(&geometry, Iova::new(iova), 0, page, Pages::new(n), rw, GFP_ATOMIC)
/// };
/// assert!(small(0x3f_e000, 2).is_ok());
/// assert!(matches!(small(0x3f_e000, 3), Err(EINVAL)));
/// assert!(matches!(small(0x40_0000, 1), Err(EINVAL)));
///
/// // Nothing to map.
/// assert!(matches!(map(0x20000, 0, 0, rw), Err(EINVAL)));
/// // Not aligned.
/// assert!(matches!(map(0x21000, 0, 1, rw), Err(EINVAL)));
/// assert!(matches!(map(0x20000, 0x1000, 1, rw), Err(EINVAL)));
/// // Not in the aperture.
/// assert!(matches!(map(0, 0, 1, rw), Err(ERANGE)));
/// assert!(matches!(map(0x7fff_0000, 0, 2, rw), Err(ERANGE)));
/// // The size overflows.
/// assert!(matches!(map(0x20000, 0, usize::MAX, rw), Err(EINVAL)));
/// // The device could do nothing with it.
/// assert!(matches!(map(0x20000, 0, 1, Prot::empty()), Err(EINVAL)));
/// # Ok::<(), Error>(())
/// ```
pub struct MapRequest {
    span: Span,
    paddr: PhysAddr,
    prot: Prot,
    flags: alloc::Flags,
}

impl MapRequest {
    /// Makes a request to map `count` pages of size `page` at `iova` to memory at `paddr`.
    ///
    /// `flags` are for the memory that the driver needs for its tables. Drivers get requests from
    /// the core; this function is public for their tests.
    ///
    /// # Errors
    ///
    /// - [`ERANGE`] if a page is outside the aperture of `geometry`.
    /// - [`EINVAL`] for anything else that the invariants of the type exclude.
    #[inline]
    pub fn new(
        geometry: &Geometry,
        iova: Iova,
        paddr: PhysAddr,
        page: PageSize,
        count: Pages,
        prot: Prot,
        flags: alloc::Flags,
    ) -> Result<Self> {
        let span = Span::new(geometry, iova, page, count)?;

        // CAST: The bits that a `PhysAddr` does not have are zero in `paddr`.
        let mask = page.offset_mask() as PhysAddr;
        // OVERFLOW: A range ends where it begins or above.
        let rest = span
            .range
            .last()
            .get()
            .wrapping_sub(span.range.first().get());
        let rest = PhysAddr::try_from(rest).map_err(|_| EINVAL)?;
        if paddr & mask != 0 || paddr.checked_add(rest).is_none() {
            return Err(EINVAL);
        }
        if !prot.contains_any(ProtFlag::Read | ProtFlag::Write) {
            return Err(EINVAL);
        }

        // INVARIANT: `Span::new()` checked the addresses, the lines above checked the rest.
        Ok(Self {
            span,
            paddr,
            prot,
            flags,
        })
    }

    /// Returns the address of the first page.
    #[inline]
    pub fn iova(&self) -> Iova {
        self.span.range.first()
    }

    /// Returns the physical address of the first page.
    #[inline]
    pub fn paddr(&self) -> PhysAddr {
        self.paddr
    }

    /// Returns the physical address of the last byte of the last page.
    #[inline]
    pub fn paddr_last(&self) -> PhysAddr {
        let range = self.span.range;
        // CAST: By the type invariant the length fits a `PhysAddr`.
        // OVERFLOW: By the type invariant, for the sum too.
        let rest = range.last().get().wrapping_sub(range.first().get()) as PhysAddr;
        self.paddr.wrapping_add(rest)
    }

    /// Returns the size of each page.
    #[inline]
    pub fn page_size(&self) -> PageSize {
        self.span.page
    }

    /// Returns the number of pages, at least one.
    #[inline]
    pub fn count(&self) -> Pages {
        self.span.count
    }

    /// Returns all addresses of the request.
    #[inline]
    pub fn range(&self) -> IovaRange {
        self.span.range
    }

    /// Returns what the device may do with the pages.
    #[inline]
    pub fn prot(&self) -> Prot {
        self.prot
    }

    /// Returns the flags for memory that the tables of the domain need.
    #[inline]
    pub fn flags(&self) -> alloc::Flags {
        self.flags
    }

    /// Says whether the driver may sleep while it serves the request.
    #[inline]
    pub fn may_sleep(&self) -> bool {
        // SAFETY: A test of bits, no precondition.
        unsafe { bindings::gfpflags_allow_blocking(self.flags.as_raw()) }
    }

    /// Returns the address on both sides of each page, from the lowest up.
    #[inline]
    pub fn pages(&self) -> impl ExactSizeIterator<Item = (Iova, PhysAddr)> + '_ {
        let (iova, page) = (self.iova().get(), self.span.page);

        (0..self.span.count.get()).map(move |n| {
            // CAST: A `usize` has 64 bits or less, and by the type invariant the offset of a page
            // fits a `PhysAddr`.
            // OVERFLOW: By the type invariant, for both sums and the product.
            let offset = (n as u64).wrapping_mul(page.bytes());
            (
                Iova::new(iova.wrapping_add(offset)),
                self.paddr.wrapping_add(offset as PhysAddr),
            )
        })
    }
}

/// A request to unmap a row of pages.
///
/// # Examples
///
/// ```
/// use kernel::iommu::*;
///
/// let page = PageSize::from_shift(12).ok_or(EINVAL)?;
/// let geometry = Geometry {
///     pages: PageSizes::of(page),
///     aperture: IovaRange::new(Iova::new(0), Iova::new(0xffff_ffff)).ok_or(EINVAL)?,
///     low: None,
/// };
///
/// let req = UnmapRequest::new(&geometry, Iova::new(0xffff_e000), page, Pages::new(2))?;
/// assert_eq!(req.range().bytes(), 0x2000);
///
/// let over = UnmapRequest::new(&geometry, Iova::new(0xffff_e000), page, Pages::new(3));
/// assert!(matches!(over, Err(ERANGE)));
/// # Ok::<(), Error>(())
/// ```
pub struct UnmapRequest(Span);

impl UnmapRequest {
    /// Makes a request to unmap `count` pages of size `page` at `iova`.
    ///
    /// Drivers get requests from the core; this function is public for their tests.
    ///
    /// # Errors
    ///
    /// - [`ERANGE`] if a page is outside the aperture of `geometry`.
    /// - [`EINVAL`] if there is no page, the address is not aligned, or `geometry` does not support
    ///   the page size.
    #[inline]
    pub fn new(geometry: &Geometry, iova: Iova, page: PageSize, count: Pages) -> Result<Self> {
        Span::new(geometry, iova, page, count).map(Self)
    }

    /// Returns the address of the first page.
    #[inline]
    pub fn iova(&self) -> Iova {
        self.0.range.first()
    }

    /// Returns the size of each page.
    #[inline]
    pub fn page_size(&self) -> PageSize {
        self.0.page
    }

    /// Returns the number of pages, at least one.
    #[inline]
    pub fn count(&self) -> Pages {
        self.0.count
    }

    /// Returns all addresses of the request.
    #[inline]
    pub fn range(&self) -> IovaRange {
        self.0.range
    }
}

/// The failure of a [`MapRequest`].
///
/// The core unmaps the pages that were mapped before the failure, so a driver need not undo them.
#[derive(Debug)]
pub struct MapError {
    /// Why it failed.
    pub error: Error,
    /// How many pages, from the first one on, are mapped nevertheless.
    pub mapped: Pages,
}

impl From<Error> for MapError {
    /// Makes a failure that left no page mapped.
    fn from(error: Error) -> Self {
        Self {
            error,
            mapped: Pages::new(0),
        }
    }
}

impl From<AllocError> for MapError {
    /// Makes a failure that left no page mapped, because there was no memory for a table.
    fn from(error: AllocError) -> Self {
        Error::from(error).into()
    }
}
