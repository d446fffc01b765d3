// SPDX-License-Identifier: GPL-2.0

//! pSeries: windows and TCEs belong to the hypervisor.
//!
//! A partition changes TCEs by hypercall (PAPR, "TCE hcalls"): `H_PUT_TCE` sets one,
//! `H_PUT_TCE_INDIRECT` sets up to 512 from a 4 KiB aligned list, and `H_STUFF_TCE` sets up to 512
//! to one value. The hypervisor invalidates its caches before a call returns, so there are no
//! kills. Windows are created and removed by RTAS calls ("dynamic DMA windows"), which sleep.
//!
//! The window that firmware made at boot is used as it stands; one more is opened for 64-bit
//! devices if the PE may have it. A PE that may have only one window exchanges it for a 64-bit one.

use crate::{
    firmware::{
        calls::{
            patiently,
            Calls,
            Refused,
            LIST, //
        },
        shutdown::{
            Shutdown,
            NOBODY, //
        },
        take,
        unclaim,
        Common,
        Firmware,
        NotClaimed, //
    },
    layout::{
        plan_high_window,
        Layout,
        TceRun, //
    },
    ownership::Devices,
    stats::{
        Event,
        Stats, //
    },
    table::{
        is_in_one_leaf,
        slices, //
    },
    windows::TableWindow, //
};
use core::ops::RangeInclusive;
use kernel::{
    device::Device,
    powerpc::{
        mem::TceList,
        window::{
            Firmware as Kind,
            Ioba,
            Liobn,
            Query,
            Tce,
            TceIndex,
            Tces,
            Window,
            WindowNumber, //
        }, //
    },
    prelude::*,
    ratelimit::RateLimit,
    static_lock_class,
    str::CString,
    sync::Arc,
    workqueue::OwnedWork, //
};

/// The windows of a PE on pSeries.
#[pin_data]
pub(super) struct Papr<C: Calls + Devices> {
    calls: Arc<C>,
    common: Arc<Common>,
    /// Whether the hypervisor takes and clears several TCEs at a time.
    multi_tce: bool,
    stats: Arc<Stats>,
    /// The device that the PE was claimed for, for messages.
    name: CString,
    /// For what can be said for each mapping.
    #[pin]
    log: RateLimit,
    #[pin]
    windows: OwnedWork<Shutdown<C>>,
}

impl<C: Calls + Devices> Papr<C> {
    /// See [`claim`](super::claim).
    pub(super) fn claim(calls: &C, dev: &Device, common: &Common) -> Result<Layout, NotClaimed> {
        take(calls, dev)?;
        // The way back also closes the window that the driver may have opened.
        Self::open(calls, common, dev).map_err(|e| unclaim(calls, dev, e))
    }

    /// Makes one for windows that were claimed.
    pub(super) fn new(
        calls: Arc<C>,
        name: CString,
        layout: Layout,
        common: Arc<Common>,
        stats: Arc<Stats>,
    ) -> impl PinInit<Self> {
        let shutdown = Shutdown::new(calls.clone(), layout);
        pin_init!(Self {
            multi_tce: calls.multi_tce(),
            calls,
            common,
            stats,
            name,
            log <- RateLimit::new(c"tce_iommu"),
            windows <- OwnedWork::new(shutdown, c"tce_iommu", static_lock_class!()),
        })
    }

    /// Opens the windows that the PE will have.
    fn open(calls: &C, common: &Common, dev: &Device) -> Result<Layout> {
        // SAFETY: The PE is claimed, here and below.
        let query = unsafe { calls.query(dev) }?;
        let low = default_window(&query)?;
        let mmio = query.mmio32.clone();
        if query.nr_windows > 1 {
            return match Self::open_high(calls, common, dev, &query) {
                Ok(high) => Layout::new(Kind::Papr, low, Some(high), mmio),
                Err(e) => Self::do_without(dev, low, mmio, e),
            };
        }
        // SAFETY: The PE is claimed.
        if let Err(e) = unsafe { calls.close_window(dev, WindowNumber::Low) } {
            return Self::do_without(dev, low, mmio, e);
        }
        // SAFETY: As above.
        let high = unsafe { calls.query(dev) }
            .and_then(|query| Self::open_high(calls, common, dev, &query));
        match high {
            Ok(high) => {
                dev_info!(dev, "default DMA window given up for a 64-bit one\n");
                Ok(Layout::new(Kind::Papr, high, None, mmio)?.exchanged())
            }
            Err(e) => {
                // Brings the default window back.
                // SAFETY: The PE is claimed.
                unsafe { calls.set_platform(dev, false) }?;
                // SAFETY: As above.
                let query = unsafe { calls.query(dev) }?;
                Self::do_without(dev, default_window(&query)?, mmio, e)
            }
        }
    }

    /// Opens a window for 64-bit devices.
    fn open_high(calls: &C, common: &Common, dev: &Device, query: &Query) -> Result<Window> {
        let (shift, tces) = plan_high_window(
            query.page_sizes,
            common.max_page,
            query.max_tces,
            C::max_ram(),
        )
        .ok_or(ENOSPC)?;
        // SAFETY: The PE is claimed, so nobody else uses its windows.
        unsafe { calls.open_window(dev, WindowNumber::High, None, shift, tces) }
    }

    fn do_without(
        dev: &Device,
        low: Window,
        mmio: Option<RangeInclusive<Ioba>>,
        e: Error,
    ) -> Result<Layout> {
        dev_info!(
            dev,
            "no 64-bit DMA window ({e:?}); all DMA goes through the default window of {} MiB\n",
            low.bytes().wrapping_shr(20)
        );
        Layout::new(Kind::Papr, low, None, mmio)
    }

    /// What the hypervisor calls a window.
    #[inline(always)]
    fn liobn(&self, window: &TableWindow) -> Liobn {
        self.windows.liobn(window.number())
    }

    /// Sets or clears one TCE, which counts as `event`.
    ///
    /// # Safety
    ///
    /// If `tce` is present, its page is mapped at `index` in the table of the window: the caller of
    /// `map` keeps it until `unmap` and sync have returned, and `withdraw` runs before that.
    #[inline(always)]
    unsafe fn put_one(
        &self,
        window: &TableWindow,
        index: TceIndex,
        tce: Tce,
        event: Event,
    ) -> Result<(), Refused> {
        let (liobn, ioba) = (self.liobn(window), window.ioba(index));
        self.stats.count(event);
        let calls = &*self.calls;
        // SAFETY: By the safety requirements.
        patiently(move || unsafe { calls.put(liobn, ioba, tce) })
    }

    /// Publishes TCEs of `leaf`.
    #[inline(always)]
    fn put_part(&self, window: &TableWindow, leaf: &TceList, part: TceRun) -> Result<(), Refused> {
        let singly = || {
            part.indexes().try_for_each(|n| {
                if n != part.first {
                    self.stats.count(Event::MorePuts);
                }
                // SAFETY: The TCE is that of the table.
                unsafe { self.put_one(window, n, leaf.get(n), Event::Put) }
            })
        };
        if part.count == Tces::new(1) || !self.multi_tce {
            return singly();
        }
        // A list starts at a border of 4 KiB.
        if part.first.get() % TceList::LEN as u64 == 0 {
            return self.put_list(window, leaf, part);
        }
        let bounced = self.common.bounce.with(|page| {
            leaf.copy_to(part.first, part.count, page);
            self.put_list(window, page, part)
        });
        bounced.unwrap_or_else(singly)
    }

    /// Publishes the first TCEs of `list`, which is a copy of the table's, or the table's own.
    #[inline]
    fn put_list(&self, window: &TableWindow, list: &TceList, part: TceRun) -> Result<(), Refused> {
        let (liobn, ioba) = (self.liobn(window), window.ioba(part.first));
        self.stats.count(Event::PutList);
        let calls = &*self.calls;
        // SAFETY: As for `put_one`.
        patiently(move || unsafe { calls.put_indirect(liobn, ioba, list, part.count) })
    }

    /// Clears up to 512 TCEs.
    #[inline(always)]
    fn clear_part(&self, window: &TableWindow, part: TceRun) -> Result<(), Refused> {
        if self.multi_tce {
            let (liobn, ioba) = (self.liobn(window), window.ioba(part.first));
            self.stats.count(Event::Stuff);
            let calls = &*self.calls;
            match patiently(move || calls.stuff(liobn, ioba, part.count)) {
                Ok(()) => return Ok(()),
                Err(refused) if refused.is_busy() => return Err(refused),
                Err(_) => (),
            }
        } else {
            self.stats.count(Event::ClearSingly);
        }
        self.clear_singly(window, part)
    }

    /// Clears TCEs one by one: all that the hypervisor does not refuse twice.
    #[cold]
    fn clear_singly(&self, window: &TableWindow, part: TceRun) -> Result<(), Refused> {
        if self.liobn(window) == NOBODY {
            // The window has taken its TCEs with it.
            return Ok(());
        }
        let mut result = Ok(());
        for index in part.indexes() {
            // SAFETY: An empty TCE takes access away and gives none.
            let clear = || unsafe { self.put_one(window, index, Tce::NONE, Event::Clear) };
            match clear() {
                Ok(()) => (),
                // It has been waited for, and there may be hundreds of TCEs more.
                Err(refused) if refused.is_busy() => return Err(refused),
                // There is nothing to fall back to, so one refusal is not taken for an answer.
                Err(_) => result = result.and(clear()),
            }
        }
        result
    }

    /// Publishes TCEs of several leaves.
    #[cold]
    fn publish_leaves(&self, window: &TableWindow, run: TceRun) -> Result {
        slices(run).try_for_each(|part| {
            if part.first != run.first {
                self.stats.count(Event::MorePuts);
            }
            self.publish_part(window, part)
        })
    }

    /// Publishes TCEs of one leaf.
    #[inline(never)]
    fn publish_part(&self, window: &TableWindow, part: TceRun) -> Result {
        // Who unmaps what is being published has to withdraw it.
        let Some(leaf) = window.table().leaf(part.first) else {
            return Ok(());
        };
        self.put_part(window, leaf, part)
            .map_err(|e| self.refused(window, part, e))
    }

    /// Publishes one TCE.
    #[inline(never)]
    fn publish_one(&self, window: &TableWindow, run: TceRun) -> Result {
        let Some(leaf) = window.table().leaf(run.first) else {
            return Ok(());
        };
        // SAFETY: The TCE is that of the table.
        unsafe { self.put_one(window, run.first, leaf.get(run.first), Event::Put) }
            .map_err(|e| self.refused(window, run, e))
    }

    /// Withdraws more TCEs than a hypercall takes.
    #[inline(never)]
    fn withdraw_many(&self, window: &TableWindow, run: TceRun) {
        for part in run.pieces(LIST) {
            if part.first != run.first {
                self.stats.count(Event::MoreClears);
            }
            if let Err(refused) = self.clear_part(window, part) {
                self.stuck(window, part, refused);
            }
        }
    }

    /// Takes note that TCEs could not be set.
    #[cold]
    fn refused(&self, window: &TableWindow, run: TceRun, refused: Refused) -> Error {
        self.stats.count(Event::Error);
        if self.log.allows() {
            pr_err!(
                "{}: LIOBN {:#x}, address {:#x}: TCEs not set, {} ({}); mapping fails with {:?}\n",
                &*self.name,
                self.liobn(window).get(),
                window.ioba(run.first).get(),
                C::code_name(refused.code),
                refused.code,
                refused.error
            );
        }
        refused.error
    }

    /// Has the windows closed, because a TCE could not be cleared.
    #[cold]
    fn stuck(&self, window: &TableWindow, run: TceRun, refused: Refused) {
        self.stats.count(Event::Error);
        if self.windows.set_broken() {
            pr_err!(
                "{}: LIOBN {:#x}, address {:#x}: TCEs not cleared, {} ({}); PE not usable\n",
                &*self.name,
                self.liobn(window).get(),
                window.ioba(run.first).get(),
                C::code_name(refused.code),
                refused.code
            );
            self.windows.start();
        }
    }
}

/// The window that firmware made at boot.
fn default_window(query: &Query) -> Result<Window> {
    query.windows.first().copied().flatten().ok_or(ENODEV)
}

impl<C: Calls + Devices> Firmware for Papr<C> {
    fn layout(&self) -> &Layout {
        self.windows.layout()
    }

    fn is_broken(&self) -> bool {
        self.windows.is_broken()
    }

    fn connect(&self, _: &Device, _: &TableWindow) -> Result {
        match self.is_broken() {
            true => Err(EIO),
            false => Ok(()),
        }
    }

    fn disconnect(&self, dev: &Device, _: WindowNumber) -> Result {
        match self.is_broken() {
            true => self.windows.close(dev),
            false => Ok(()),
        }
    }

    fn publish(&self, window: &TableWindow, run: TceRun) -> Result {
        if self.is_broken() {
            return Err(EIO);
        }
        if run.count == Tces::new(1) {
            self.publish_one(window, run)
        } else if is_in_one_leaf(run) {
            self.publish_part(window, run)
        } else {
            self.publish_leaves(window, run)
        }
    }

    fn withdraw(&self, window: &TableWindow, run: TceRun) {
        if run.count > LIST {
            return self.withdraw_many(window, run);
        }
        if let Err(refused) = self.clear_part(window, run) {
            self.stuck(window, run, refused);
        }
    }

    fn flush(&self) {}

    fn release(&self, dev: &Device) -> Result {
        self.windows.release(dev)
    }
}
