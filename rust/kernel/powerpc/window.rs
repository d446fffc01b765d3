// SPDX-License-Identifier: GPL-2.0

//! The units of a DMA window, one TCE, and what a PE offers.
//!
//! A bus address, a TCE number and a count of TCEs are all 64-bit numbers. Each has its own type
//! here, so that they cannot be mixed up. Arithmetic that can leave its range is checked. The rest
//! is written as wrapping, so that no path to a panic is inlined into a driver.

use crate::io::PhysAddr;

use core::ops::RangeInclusive;

/// A bus address: what a device puts on the bus for a DMA.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(transparent)]
pub struct Ioba(u64);

impl Ioba {
    /// Makes a bus address of a number.
    #[inline]
    pub const fn new(addr: u64) -> Self {
        Self(addr)
    }

    /// Returns the number.
    #[inline]
    pub const fn get(self) -> u64 {
        self.0
    }

    /// Returns the address `bytes` above, if there is one.
    #[inline]
    pub const fn checked_add(self, bytes: u64) -> Option<Self> {
        match self.0.checked_add(bytes) {
            Some(addr) => Some(Self(addr)),
            None => None,
        }
    }
}

/// The size of an I/O page, as a power of two.
///
/// # Invariants
///
/// The number is at least 12 (no TCE maps less than 4 KiB) and at most 63.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(transparent)]
pub struct PageShift(u8);

impl PageShift {
    /// 4 KiB, the page size of the default window that PAPR firmware makes.
    pub const SHIFT_4K: Self = Self(12);

    /// Returns a page size, or [`None`] if `shift` is below 12 or above 63.
    #[inline]
    pub const fn new(shift: u32) -> Option<Self> {
        if shift < 12 || shift > 63 {
            return None;
        }

        // CAST: `shift` is at most 63.
        // INVARIANT: Both bounds are checked above.
        Some(Self(shift as u8))
    }

    /// Returns the exponent: 12 for 4 KiB.
    #[inline]
    pub const fn get(self) -> u32 {
        // CAST: Widening.
        self.0 as u32
    }

    /// Returns the size of the page in bytes.
    #[inline]
    pub const fn bytes(self) -> u64 {
        1u64.wrapping_shl(self.get())
    }

    /// Returns how many whole pages `bytes` are.
    #[inline]
    pub const fn pages(self, bytes: u64) -> u64 {
        bytes.wrapping_shr(self.get())
    }

    /// Returns the part of `addr` that says where in a page it lies.
    #[inline]
    pub const fn offset(self, addr: u64) -> u64 {
        addr & self.bytes().wrapping_sub(1)
    }
}

/// A set of page sizes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub struct PageShifts(u64);

impl PageShifts {
    /// Makes a set: bit `n` of `mask` stands for pages of `2^n` bytes. Bits below 12 say nothing.
    #[inline]
    pub const fn new(mask: u64) -> Self {
        Self(mask)
    }

    /// Returns the largest size of the set that is not above `limit`.
    #[inline]
    pub const fn largest_up_to(self, limit: PageShift) -> Option<PageShift> {
        // All bits up to the one of `limit`.
        let allowed = limit.bytes() | limit.bytes().wrapping_sub(1);

        match (self.0 & allowed).checked_ilog2() {
            Some(shift) => PageShift::new(shift),
            None => None,
        }
    }
}

/// A number of TCEs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(transparent)]
pub struct Tces(u64);

impl Tces {
    /// Makes a count of a number.
    #[inline]
    pub const fn new(tces: u64) -> Self {
        Self(tces)
    }

    /// Returns the number.
    #[inline]
    pub const fn get(self) -> u64 {
        self.0
    }

    /// Returns how many bytes these TCEs map, or [`None`] if that does not fit in 64 bits.
    #[inline]
    pub const fn bytes(self, shift: PageShift) -> Option<u64> {
        self.0.checked_mul(shift.bytes())
    }
}

/// How many nodes of a TCE table lie on the way to a TCE.
///
/// # Invariants
///
/// Between 1 and [`Levels::MAX`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(transparent)]
pub struct Levels(u32);

impl Levels {
    /// What IODA hardware can walk.
    pub const MAX: u32 = 5;

    /// The number of index bits that one node of 4 KiB resolves.
    pub const BITS: u32 = 9;

    /// Returns a depth, or [`None`] if it is 0 or above [`Levels::MAX`].
    #[inline]
    pub const fn new(levels: u32) -> Option<Self> {
        if levels == 0 || levels > Self::MAX {
            return None;
        }

        // INVARIANT: Both bounds are checked above.
        Some(Self(levels))
    }

    /// Returns the depth of a table that has room for `tces`, if there can be one.
    pub fn for_tces(tces: Tces) -> Option<Self> {
        let last = tces.0.checked_sub(1)?;
        let bits = last.checked_ilog2().map_or(1, |bit| bit.saturating_add(1));

        Self::new(bits.div_ceil(Self::BITS))
    }

    /// Returns the number of levels.
    #[inline]
    pub const fn get(self) -> u32 {
        self.0
    }

    /// Returns the number of TCEs that a table of this depth has room for.
    #[inline]
    pub const fn tces(self) -> Tces {
        // OVERFLOW: At most 5 * 9 bits.
        Tces(1u64.wrapping_shl(self.0.wrapping_mul(Self::BITS)))
    }
}

/// The number of a TCE in its window: 0 maps the window's first page.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(transparent)]
pub struct TceIndex(u64);

impl TceIndex {
    /// Makes an index of a number.
    #[inline]
    pub const fn new(index: u64) -> Self {
        Self(index)
    }

    /// Returns the number.
    #[inline]
    pub const fn get(self) -> u64 {
        self.0
    }
}

/// A *logical I/O bus number*: the name that PAPR gives to a window in hypercalls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub struct Liobn(u32);

impl Liobn {
    /// Makes a LIOBN of a number.
    #[inline]
    pub const fn new(liobn: u32) -> Self {
        Self(liobn)
    }

    /// Returns the number.
    #[inline]
    pub const fn get(self) -> u32 {
        self.0
    }
}

/// What the firmware calls a window: a LIOBN (PAPR) or the number of a TVE (IODA).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub struct WindowId(u32);

impl WindowId {
    /// Makes an id of a number.
    #[inline]
    pub const fn new(id: u32) -> Self {
        Self(id)
    }

    /// Returns the number.
    #[inline]
    pub const fn get(self) -> u32 {
        self.0
    }

    /// Returns the id as a LIOBN. Only a window of PAPR has one.
    #[inline]
    pub const fn liobn(self) -> Liobn {
        Liobn(self.0)
    }
}

/// A DMA window: a range of bus addresses and the pages it is cut into.
///
/// It is made by [`Window::new`] only, which checks that the range fits in 64 bits. The fields can
/// be changed afterwards, so the methods saturate instead of relying on it.
///
/// # Examples
///
/// ```
/// use kernel::powerpc::window::{Ioba, PageShift, TceIndex, Tces, Window, WindowId};
///
/// let shift = PageShift::new(16).ok_or(EINVAL)?;
/// let base = Ioba::new(1 << 59);
/// let win = Window::new(base, Tces::new(0x1000), shift, WindowId::new(1)).ok_or(EINVAL)?;
///
/// assert_eq!(win.bytes(), 0x1000_0000);
/// assert_eq!(win.index_of(Ioba::new((1 << 59) + 0x1ffff)), Some(TceIndex::new(1)));
/// assert_eq!(win.ioba_of(TceIndex::new(0x1000)), None);
/// # Ok::<(), Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Window {
    /// The first bus address.
    pub base: Ioba,
    /// The number of TCEs, hence of pages.
    pub tces: Tces,
    /// The size of a page.
    pub shift: PageShift,
    /// What the firmware calls it.
    pub id: WindowId,
}

impl Window {
    /// Makes a window.
    ///
    /// Returns [`None`] if it would have no TCE, if `base` is not a multiple of the page size, or
    /// if the last byte would lie above the 64-bit range.
    pub const fn new(base: Ioba, tces: Tces, shift: PageShift, id: WindowId) -> Option<Self> {
        let Some(bytes) = tces.bytes(shift) else {
            return None;
        };

        if bytes == 0 || shift.offset(base.0) != 0 {
            return None;
        }

        match base.checked_add(bytes.wrapping_sub(1)) {
            Some(_) => Some(Self {
                base,
                tces,
                shift,
                id,
            }),
            None => None,
        }
    }

    /// Returns the size of the window in bytes.
    #[inline]
    pub const fn bytes(&self) -> u64 {
        self.tces.0.saturating_mul(self.shift.bytes())
    }

    /// Returns the last bus address.
    #[inline]
    pub const fn last(&self) -> Ioba {
        Ioba(self.base.0.saturating_add(self.bytes().saturating_sub(1)))
    }

    /// Does `ioba` lie in the window?
    #[inline]
    pub const fn contains(&self, ioba: Ioba) -> bool {
        ioba.0 >= self.base.0 && ioba.0 <= self.last().0
    }

    /// Returns the TCE that maps `ioba`.
    #[inline]
    pub const fn index_of(&self, ioba: Ioba) -> Option<TceIndex> {
        if !self.contains(ioba) {
            return None;
        }

        // `contains` says that `ioba` is not below the base.
        Some(TceIndex(self.shift.pages(ioba.0.wrapping_sub(self.base.0))))
    }

    /// Returns the first bus address that TCE `index` maps.
    #[inline]
    pub const fn ioba_of(&self, index: TceIndex) -> Option<Ioba> {
        if index.0 >= self.tces.0 {
            return None;
        }

        match index.0.checked_mul(self.shift.bytes()) {
            Some(offset) => self.base.checked_add(offset),
            None => None,
        }
    }
}

/// The number of windows that a PE can have.
pub const MAX_WINDOWS: usize = 2;

/// Names one of the windows of a PE.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WindowNumber {
    /// Window 0, which every device reaches.
    Low,
    /// Window 1, for devices that drive 64 address bits.
    High,
}

impl WindowNumber {
    /// The number, for firmware and as an index: less than [`MAX_WINDOWS`].
    #[inline]
    pub const fn get(self) -> usize {
        match self {
            Self::Low => 0,
            Self::High => 1,
        }
    }
}

/// The firmware interface below a PE.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Firmware {
    /// Windows by RTAS, TCEs by hypercall.
    Papr,
    /// Windows by OPAL, TCEs in memory.
    Ioda,
}

/// What a PE has, and what may be opened (`struct iommu_tce_query`).
#[derive(Clone, Debug)]
pub struct Query {
    /// The interface below the PE.
    pub firmware: Firmware,
    /// The number of windows that may exist at a time.
    pub nr_windows: u32,
    /// The page sizes that a further window can have.
    pub page_sizes: PageShifts,
    /// The largest number of TCEs that a further window can have; 0 if none can be opened.
    pub max_tces: Tces,
    /// The largest number of levels of a TCE table; none if the hypervisor holds it.
    pub max_levels: Option<Levels>,
    /// PAPR: the windows that exist; number 0 is the default window of the firmware, number 1 a
    /// dynamic one.
    ///
    /// IODA: the range of bus addresses that each window can cover, counted in pages of 4 KiB,
    /// whether it is open or not.
    pub windows: [Option<Window>; MAX_WINDOWS],
    /// The bus addresses that the host bridge takes for 32-bit MMIO, first and last.
    pub mmio32: Option<RangeInclusive<Ioba>>,
    /// The same for 64-bit MMIO, if that is not told apart by bit 59 anyway.
    pub mmio64: Option<RangeInclusive<Ioba>>,
}

/// The root of a TCE table in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Root {
    /// The physical address of the first level.
    pub addr: PhysAddr,
    /// The number of levels.
    pub levels: Levels,
    /// How many TCEs each level holds; a power of two, at least 512.
    pub level_tces: Tces,
}

/// One TCE, in the byte order of the CPU.
///
/// The low bits say what a device may do, the others are the physical address of the page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub struct Tce(u64);

impl Tce {
    const READ: u64 = 1 << 0;
    const WRITE: u64 = 1 << 1;
    const ADDR: u64 = !0xfff;

    /// The TCE that lets nothing through.
    pub const NONE: Self = Self(0);

    /// Makes a TCE for the page at `addr`.
    ///
    /// Who may write may read: some devices read back what they wrote, to know that it has arrived,
    /// and no driver on POWER has known it otherwise. With neither `read` nor `write` the result is
    /// [`Tce::NONE`]. Address bits below 4 KiB are left out.
    #[inline]
    #[allow(clippy::unnecessary_cast)] // `PhysAddr` has 32 bits on some architectures.
    pub const fn from_parts(addr: PhysAddr, read: bool, write: bool) -> Self {
        // CAST: A flag is 0 or 1, so its product with bits is the bits or nothing.
        let bits = (read as u64).wrapping_mul(Self::READ)
            | (write as u64).wrapping_mul(Self::READ | Self::WRITE);
        if bits == 0 {
            return Self::NONE;
        }

        // CAST: Widening, if anything.
        Self((addr as u64 & Self::ADDR) | bits)
    }

    /// Makes a TCE of its value in the byte order of the CPU.
    #[inline]
    pub const fn from_raw(value: u64) -> Self {
        Self(value)
    }

    /// Returns the value in the byte order of the CPU.
    #[inline]
    pub const fn into_raw(self) -> u64 {
        self.0
    }

    /// Makes a TCE of the word that a table holds: TCE tables are big-endian.
    #[inline]
    pub const fn from_be(word: u64) -> Self {
        Self(u64::from_be(word))
    }

    /// Returns the word that a table holds.
    #[inline]
    pub const fn to_be(self) -> u64 {
        self.0.to_be()
    }

    /// Does it let anything through?
    #[inline]
    pub const fn is_present(self) -> bool {
        self.0 & (Self::READ | Self::WRITE) != 0
    }

    /// May a device read?
    #[inline]
    pub const fn can_read(self) -> bool {
        self.0 & Self::READ != 0
    }

    /// May a device write?
    #[inline]
    pub const fn can_write(self) -> bool {
        self.0 & Self::WRITE != 0
    }

    /// Returns the physical address of the page.
    #[inline]
    pub const fn addr(self) -> PhysAddr {
        // CAST: The address came in as a `PhysAddr`.
        (self.0 & Self::ADDR) as PhysAddr
    }
}

#[cfg(CONFIG_RUST_POWERPC_KUNIT_TEST)]
#[macros::kunit_tests(rust_kernel_powerpc_window)]
mod tests {
    use super::*;
    use crate::prelude::*;

    const ID: WindowId = WindowId::new(7);

    fn shift(shift: u32) -> Result<PageShift> {
        PageShift::new(shift).ok_or(EINVAL)
    }

    #[test]
    fn page_shifts() -> Result {
        assert_eq!(PageShift::new(11), None);
        assert_eq!(PageShift::new(64), None);
        assert_eq!(shift(63)?.bytes(), 1 << 63);

        // 4K, 64K, 2M, 16G.
        let set = PageShifts::new(1 << 12 | 1 << 16 | 1 << 21 | 1 << 34);
        assert_eq!(set.largest_up_to(shift(63)?), Some(shift(34)?));
        assert_eq!(set.largest_up_to(shift(21)?), Some(shift(21)?));
        assert_eq!(set.largest_up_to(shift(20)?), Some(shift(16)?));
        assert_eq!(PageShifts::new(1 << 16).largest_up_to(shift(12)?), None);
        assert_eq!(PageShifts::new(0xfff).largest_up_to(shift(63)?), None);
        Ok(())
    }

    #[test]
    fn window_limits() -> Result {
        let (k4, k64) = (shift(12)?, shift(16)?);
        let top = Ioba::new(u64::MAX - 0xffff);

        assert!(Window::new(Ioba::new(0), Tces::new(0), k4, ID).is_none());
        assert!(Window::new(Ioba::new(0x1000), Tces::new(1), k64, ID).is_none());
        assert!(Window::new(Ioba::new(0), Tces::new(1 << 52), k4, ID).is_none());
        assert!(Window::new(top, Tces::new(2), k64, ID).is_none());

        let win = Window::new(top, Tces::new(1), k64, ID).ok_or(EINVAL)?;
        assert_eq!(win.last(), Ioba::new(u64::MAX));
        assert!(win.contains(win.last()));
        assert_eq!(win.index_of(win.last()), Some(TceIndex::new(0)));
        assert_eq!(win.index_of(Ioba::new(u64::MAX - 0x10000)), None);
        assert_eq!(win.ioba_of(TceIndex::new(0)), Some(top));
        assert_eq!(win.ioba_of(TceIndex::new(1)), None);
        assert_eq!(win.id.liobn(), Liobn::new(7));
        Ok(())
    }

    #[test]
    fn tce_words() {
        let tce = Tce::from_parts(0x1234_5fff, true, true);

        assert!(tce.is_present() && tce.can_read() && tce.can_write());
        assert_eq!(tce.addr(), 0x1234_5000);
        assert_eq!(tce.into_raw(), 0x1234_5003);
        assert_eq!(tce.to_be().to_ne_bytes(), [0, 0, 0, 0, 0x12, 0x34, 0x50, 3]);
        assert_eq!(Tce::from_be(tce.to_be()), tce);

        let tce = Tce::from_parts(0x2000, true, false);
        assert!(tce.can_read() && !tce.can_write());
        let tce = Tce::from_parts(0x2000, false, true);
        assert!(tce.can_read() && tce.can_write());
        assert_eq!(Tce::from_parts(0x2000, false, false), Tce::NONE);
        assert!(!Tce::NONE.is_present());
    }
}
