// SPDX-License-Identifier: GPL-2.0

//! The windows of a domain with their TCE tables, laid out for the hot path.
//!
//! What map and unmap need to know of a window is four numbers, found out once for each domain.

use crate::{
    layout::{
        IobaRange,
        Layout,
        TceRun, //
    },
    table::Table, //
};
use kernel::{
    powerpc::{
        mem::read,
        window::{
            Ioba,
            Levels,
            PageShift,
            TceIndex,
            Tces,
            Window,
            WindowNumber, //
        }, //
    },
    prelude::*,
    sync::atomic::{
        Atomic,
        Relaxed, //
    }, //
};

/// A window of a domain and its TCE table.
pub(crate) struct TableWindow {
    number: WindowNumber,
    first: Ioba,
    last: Ioba,
    /// `last`, or 0 while nothing can be mapped.
    end: Atomic<u64>,
    table: Table,
}

impl TableWindow {
    /// Makes an empty table for `window`. May sleep.
    fn new(number: WindowNumber, window: &Window) -> Result<Self> {
        let levels = Levels::for_tces(window.tces).ok_or(EINVAL)?;
        Ok(Self {
            number,
            first: window.base,
            last: window.last(),
            end: Atomic::new(window.last().get()),
            table: Table::new(levels, window.shift)?,
        })
    }

    /// Which window of a PE it is.
    #[inline(always)]
    pub(crate) fn number(&self) -> WindowNumber {
        self.number
    }

    /// The TCE table.
    #[inline(always)]
    pub(crate) fn table(&self) -> &Table {
        &self.table
    }

    /// The size of a page.
    #[inline(always)]
    pub(crate) fn shift(&self) -> PageShift {
        self.table.shift()
    }

    /// All TCEs of the window.
    pub(crate) fn all(&self) -> TceRun {
        self.run(IobaRange {
            first: self.first,
            last: self.last,
        })
    }

    /// The size of what one leaf maps, if the table can be without it.
    pub(crate) fn leaf_bytes(&self) -> Option<u64> {
        self.table
            .leaf_tces()
            .and_then(|tces| tces.bytes(self.shift()))
    }

    /// The TCE behind `ioba`, which is not below the window.
    #[inline(always)]
    fn index(&self, ioba: Ioba) -> TceIndex {
        let offset = ioba.get().wrapping_sub(self.first.get());
        TceIndex::new(self.shift().pages(offset))
    }

    /// The bus address that TCE `index` maps, which is one of the window's.
    #[inline(always)]
    pub(crate) fn ioba(&self, index: TceIndex) -> Ioba {
        // OVERFLOW: The window ends at an address.
        let offset = index.get().wrapping_shl(self.shift().get());
        Ioba::new(self.first.get().wrapping_add(offset))
    }

    /// Whether all of `range` lies in the window, and the window is not hidden.
    #[inline(always)]
    fn covers(&self, range: IobaRange) -> bool {
        let end = read(&self.end);
        range.first >= self.first && range.last.get() <= end
    }

    /// From now on nothing can be mapped or unmapped in the window, until it is
    /// [shown](Self::show).
    pub(crate) fn hide(&self) {
        self.end.store(0, Relaxed);
    }

    /// The reverse of [`hide`](Self::hide).
    pub(crate) fn show(&self) {
        self.end.store(self.last.get(), Relaxed);
    }

    /// The TCEs of `range`, all of which lies in the window.
    #[inline(always)]
    fn run(&self, range: IobaRange) -> TceRun {
        let (first, last) = (self.index(range.first), self.index(range.last));
        // OVERFLOW: A window has no more than 2^52 pages.
        let count = last.get().wrapping_sub(first.get()).wrapping_add(1);
        TceRun {
            first,
            count: Tces::new(count),
        }
    }

    /// The TCEs of the part of `range` that lies in the window.
    #[inline(always)]
    pub(crate) fn part(&self, range: IobaRange) -> Option<TceRun> {
        let all = IobaRange {
            first: self.first,
            last: self.last,
        };
        range.within(all).map(|part| self.run(part))
    }
}

/// The windows of a domain.
pub(crate) struct Windows {
    low: TableWindow,
    high: Option<TableWindow>,
    /// 32-bit MMIO; without it, a range that no address lies in.
    hole: IobaRange,
}

impl Windows {
    /// Makes empty tables for the windows of `layout`. May sleep.
    pub(crate) fn new(layout: &Layout) -> Result<Self> {
        let high = layout.window(WindowNumber::High);
        Ok(Self {
            low: TableWindow::new(
                WindowNumber::Low,
                layout.window(WindowNumber::Low).ok_or(EINVAL)?,
            )?,
            high: match high {
                Some(high) => Some(TableWindow::new(WindowNumber::High, high)?),
                None => None,
            },
            hole: layout.mmio().unwrap_or(IobaRange {
                first: Ioba::new(u64::MAX),
                last: Ioba::new(0),
            }),
        })
    }

    /// The windows in ascending order.
    #[inline(always)]
    pub(crate) fn iter(&self) -> impl Iterator<Item = &TableWindow> {
        [Some(&self.low), self.high.as_ref()].into_iter().flatten()
    }

    /// The window that every device reaches.
    pub(crate) fn low(&self) -> &TableWindow {
        &self.low
    }

    /// The window for 64-bit devices beside the low one, if there is one.
    pub(crate) fn high(&self) -> Option<&TableWindow> {
        self.high.as_ref()
    }

    /// The window that holds all of `range`, and where in it.
    ///
    /// Returns [`None`] if the range touches a hole or the 32-bit MMIO range.
    #[inline(always)]
    pub(crate) fn locate(&self, range: IobaRange) -> Option<(&TableWindow, TceRun)> {
        if range.first <= self.hole.last && range.last >= self.hole.first {
            return None;
        }
        self.holder(range)
    }

    /// The window that `range` begins and ends in, and where in it.
    #[inline(always)]
    pub(crate) fn holder(&self, range: IobaRange) -> Option<(&TableWindow, TceRun)> {
        let window = match &self.high {
            Some(high) if high.covers(range) => high,
            _ if self.low.covers(range) => &self.low,
            _ => return None,
        };
        Some((window, window.run(range)))
    }
}
