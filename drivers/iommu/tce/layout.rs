// SPDX-License-Identifier: GPL-2.0

//! Which windows a PE gets, and what a paging domain looks like on them.
//!
//! POWER translates DMA through *windows*: ranges of bus addresses, each with its own TCE table and
//! its own page size. A PE has at most two: one low window, which every device reaches, and one
//! high window for devices that drive 64 address bits. The IOMMU core knows one aperture and one
//! granule per domain, so a [`Layout`] presents both windows as one aperture with a hole, and the
//! larger page size as the granule.
//!
//! ```text
//!   0            4G (PowerNV: 32-bit MMIO below)      1<<59
//!   |-- window 0 --|xx|--...--|xxxxxxxxx hole xxxxxxxxx|-- window 1 --|
//!   |<---------------------------- aperture ------------------------->|
//! ```

use core::ops::RangeInclusive;
use kernel::{
    io::PhysAddr,
    page::PAGE_SHIFT,
    powerpc::window::{
        Firmware,
        Ioba,
        Levels,
        PageShift,
        PageShifts,
        TceIndex,
        Tces,
        Window,
        WindowNumber, //
    },
    prelude::*, //
};

/// Where the addresses end that every device reaches.
const FOUR_GIB: Ioba = Ioba::new(1 << 32);

/// An inclusive range of bus addresses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct IobaRange {
    /// The first address.
    pub(crate) first: Ioba,
    /// The last address.
    pub(crate) last: Ioba,
}

impl From<RangeInclusive<Ioba>> for IobaRange {
    fn from(range: RangeInclusive<Ioba>) -> Self {
        Self {
            first: *range.start(),
            last: *range.end(),
        }
    }
}

impl IobaRange {
    /// The part of the range that lies in `other`, if any.
    #[inline(always)]
    pub(crate) fn within(self, other: Self) -> Option<Self> {
        let first = self.first.max(other.first);
        let last = self.last.min(other.last);
        (first <= last).then_some(Self { first, last })
    }

    /// The beginning of the range that is as long as `count` TCEs for pages of `shift`, if any.
    pub(crate) fn beginning(self, count: Tces, shift: PageShift) -> Option<Self> {
        let rest = count.bytes(shift)?.checked_sub(1)?;
        let last = self.first.checked_add(rest)?;
        Some(Self { last, ..self })
    }
}

/// A run of TCEs of one window.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct TceRun {
    /// The first TCE, counted from the base of the window.
    pub(crate) first: TceIndex,
    /// How many; never 0.
    pub(crate) count: Tces,
}

impl TceRun {
    /// The number after that of the last TCE.
    pub(crate) fn end(self) -> TceIndex {
        TceIndex::new(self.first.get().saturating_add(self.count.get()))
    }

    /// Cuts the run into pieces. One that begins at `first` has up to `room(first)` TCEs, which are
    /// more than 0.
    pub(crate) fn cut(self, room: impl Fn(TceIndex) -> Tces) -> impl Iterator<Item = Self> {
        let mut at = self.first.get();
        core::iter::from_fn(move || {
            let first = TceIndex::new(at);
            let count = Tces::new(self.end().get().checked_sub(at)?).min(room(first));
            at = at.wrapping_add(count.get());
            (count.get() > 0).then_some(Self { first, count })
        })
    }

    /// Cuts the run into pieces of up to `most` TCEs, which are more than 0.
    pub(crate) fn pieces(self, most: Tces) -> impl Iterator<Item = Self> {
        self.cut(move |_| most)
    }

    /// The TCEs, one by one.
    pub(crate) fn indexes(self) -> impl Iterator<Item = TceIndex> {
        (self.first.get()..self.end().get()).map(TceIndex::new)
    }
}

/// The windows of a PE, as a paging domain sees them.
///
/// # Invariants
///
/// The windows are in ascending order, do not overlap, and none has pages larger than `granule`,
/// which is at most `PAGE_SIZE`.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    firmware: Firmware,
    low: Window,
    high: Option<Window>,
    /// What firmware calls the low one.
    low_number: WindowNumber,
    granule: PageShift,
    mmio: Option<IobaRange>,
    /// The part of the low window that is 64-bit MMIO.
    mmio64: Option<IobaRange>,
}

impl Layout {
    /// Describes a PE with one or two windows below `firmware`.
    ///
    /// `mmio` is the range of bus addresses that the PHB routes to 32-bit MMIO. Fails with
    /// [`EINVAL`] if the windows overlap or have pages larger than the CPU's: the IOMMU core
    /// cannot use a granule above `PAGE_SIZE`.
    pub(crate) fn new(
        firmware: Firmware,
        low: Window,
        high: Option<Window>,
        mmio: Option<RangeInclusive<Ioba>>,
    ) -> Result<Self> {
        let granule = match &high {
            Some(high) if high.base <= low.last() => return Err(EINVAL),
            Some(high) => high.shift.max(low.shift),
            None => low.shift,
        };
        if granule > cpu_page_shift()? {
            return Err(EINVAL);
        }
        // INVARIANT: Checked above.
        Ok(Self {
            firmware,
            low,
            high,
            low_number: WindowNumber::Low,
            granule,
            mmio: mmio.map(IobaRange::from),
            mmio64: None,
        })
    }

    /// The same, below a PHB that routes `mmio` to 64-bit MMIO.
    ///
    /// Bridges take a DMA to it for themselves. TCEs there do no harm, so it is only reported: the
    /// IOMMU core keeps VFIO and iommufd off it, and the DMA API knows what bridges take.
    pub(crate) fn with_mmio64(self, mmio: Option<RangeInclusive<Ioba>>) -> Self {
        let low = IobaRange {
            first: self.low.base,
            last: self.low.last(),
        };
        Self {
            mmio64: mmio.and_then(|mmio| IobaRange::from(mmio).within(low)),
            ..self
        }
    }

    /// Whether firmware holds a copy of the tables, which has to be told of every change.
    #[inline]
    pub(crate) fn holds_copy(&self) -> bool {
        matches!(self.firmware, Firmware::Papr)
    }

    /// The page size of a domain on these windows.
    pub(crate) fn granule(&self) -> PageShift {
        self.granule
    }

    /// The windows in ascending order.
    pub(crate) fn windows(&self) -> impl Iterator<Item = (WindowNumber, &Window)> {
        let high = self.high.as_ref().map(|high| (WindowNumber::High, high));
        [Some((WindowNumber::Low, &self.low)), high]
            .into_iter()
            .flatten()
    }

    /// The same, if the only window is one that firmware opened in place of the default window.
    pub(crate) fn exchanged(self) -> Self {
        // INVARIANT: The windows are the same.
        Self {
            low_number: WindowNumber::High,
            ..self
        }
    }

    /// What firmware calls window `number`.
    pub(crate) fn number_of(&self, number: WindowNumber) -> WindowNumber {
        match number {
            WindowNumber::Low => self.low_number,
            WindowNumber::High => number,
        }
    }

    /// The page size below [`high_start`](Self::high_start).
    pub(crate) fn low_granule(&self) -> PageShift {
        self.low.shift
    }

    /// Where the addresses begin that the DMA API gives to every device that reaches them.
    ///
    /// Those below are few, and left to devices that have no others. [`None`] if there are not
    /// both.
    pub(crate) fn high_start(&self) -> Option<Ioba> {
        if self.low.base >= FOUR_GIB {
            None
        } else if self.low.last() > FOUR_GIB {
            Some(FOUR_GIB)
        } else {
            self.high.as_ref().map(|high| high.base)
        }
    }

    /// The last address that the DMA API uses while there is room below it.
    ///
    /// Devices that claim to drive 64 address bits may drive fewer, so addresses are as low as they
    /// can be, with room for several times the memory, which ends at `max_ram`. But memory has
    /// holes of up to 2^44 from chip to chip, so that is no reason to go above 48 bits. [`None`] if
    /// all are high.
    pub(crate) fn preferred_last(&self, max_ram: PhysAddr) -> Option<Ioba> {
        const AT_LEAST: u64 = 1 << 40;
        const AT_MOST: u64 = 1 << 48;

        if self.low.base >= FOUR_GIB || self.low.last() <= FOUR_GIB {
            return None;
        }
        let room = max_ram.saturating_mul(4).clamp(AT_LEAST, AT_MOST);
        let last = Ioba::new(room.checked_next_power_of_two()?.checked_sub(1)?);
        Some(last.min(self.low.last()))
    }

    /// Everything between the first and the last translatable address.
    pub(crate) fn aperture(&self) -> IobaRange {
        IobaRange {
            first: self.low.base,
            last: self.high.as_ref().unwrap_or(&self.low).last(),
        }
    }

    /// The parts of the aperture where nothing is to be mapped, in ascending order.
    pub(crate) fn reserved(&self) -> impl Iterator<Item = IobaRange> {
        let hole = self.high.as_ref().and_then(|high| {
            let first = self.low.last().checked_add(1)?;
            let last = Ioba::new(high.base.get().checked_sub(1)?);
            (first <= last).then_some(IobaRange { first, last })
        });
        let mmio = self.mmio.and_then(|mmio| mmio.within(self.aperture()));
        [mmio, self.mmio64, hole].into_iter().flatten()
    }

    /// The window `number`, if the PE has it.
    #[inline]
    pub(crate) fn window(&self, number: WindowNumber) -> Option<&Window> {
        match number {
            WindowNumber::Low => Some(&self.low),
            WindowNumber::High => self.high.as_ref(),
        }
    }

    /// The bus addresses that the PHB routes to 32-bit MMIO, if there are any.
    pub(crate) fn mmio(&self) -> Option<IobaRange> {
        self.mmio
    }

    /// Whether a domain made for `self` works on a PE with the windows `other`.
    ///
    /// Only the identifiers that firmware gave the windows may differ.
    pub(crate) fn is_compatible(&self, other: &Layout) -> bool {
        self.firmware == other.firmware
            && self.granule == other.granule
            && self.mmio == other.mmio
            && self.high.is_some() == other.high.is_some()
            && self
                .windows()
                .zip(other.windows())
                .all(|((_, a), (_, b))| a.base == b.base && a.tces == b.tces && a.shift == b.shift)
    }
}

/// The page shift of the CPU: no IOMMU page may be larger.
pub(crate) fn cpu_page_shift() -> Result<PageShift> {
    // CAST: `PAGE_SHIFT` is at most 18.
    PageShift::new(PAGE_SHIFT as u32).ok_or(EINVAL)
}

/// Chooses page size and size of a further window on pSeries.
///
/// The table lives in the hypervisor, which reserves 8 bytes for every TCE of the window, for every
/// PE. So the window covers the memory that the partition can have, `max_ram`, at least 16 GiB, and
/// no more than a device can be thought to have mapped at a time: its table takes 512 MiB at most.
/// `largest` is the most TCEs that firmware offers. Returns [`None`] if all offered pages are above
/// `max_page`, or if the window would not even reach 4 GiB.
pub(crate) fn plan_high_window(
    shifts: PageShifts,
    max_page: PageShift,
    largest: Tces,
    max_ram: PhysAddr,
) -> Option<(PageShift, Tces)> {
    const MIN_BYTES: u64 = 1 << 34;
    /// 4 TiB with pages of 64 KiB. Current hypervisors count TCEs in 32 bits.
    const MAX_TCES: u64 = 1 << 26;
    const WORTHWHILE: u64 = 1 << 32;

    let shift = shifts.largest_up_to(max_page)?;
    let bytes = max_ram.checked_next_power_of_two()?.max(MIN_BYTES);
    let offered = largest.get().min(MAX_TCES);
    let offered = 1u64.wrapping_shl(offered.checked_ilog2()?);
    let tces = Tces::new(shift.pages(bytes).min(offered));
    (tces.bytes(shift)? > WORTHWHILE).then_some((shift, tces))
}

/// Chooses the size of a window on PowerNV.
///
/// The table is made as it fills, so it is as deep as the hardware walks, up to four levels: enough
/// for 2^48 bytes with pages of 4 KiB, which covers every user address. `range` is what the window
/// may cover. Returns [`None`] if that is less than a table of one level.
pub(crate) fn plan_table(range: &Window, shift: PageShift, max_levels: Levels) -> Option<Tces> {
    const MAX_LEVELS: u32 = 4;

    let deepest = max_levels.get().min(MAX_LEVELS);
    let fits = (range.bytes().checked_ilog2()?).checked_sub(shift.get())?;
    let levels = deepest.min(fits.checked_div(Levels::BITS)?);
    Levels::new(levels).map(Levels::tces)
}
