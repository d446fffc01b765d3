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
///
/// # Invariants
///
/// The PE is one of PAPR, and claimed from construction to release. The names that `windows` gives
/// belong to the PE as long as the RCU lock is held, or to no window.
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
    ///
    /// # Safety
    ///
    /// As there, and the PE is one of PAPR.
    pub(super) unsafe fn claim(
        calls: Arc<C>,
        name: CString,
        dev: &Device,
        common: &Arc<Common>,
        stats: Arc<Stats>,
    ) -> Result<impl PinInit<Self>, NotClaimed> {
        // SAFETY: By the safety requirements.
        unsafe { take(&*calls, dev) }?;
        // SAFETY: The PE has just been taken.
        let layout = unsafe { Self::open(&calls, common, dev) }
            // The way back also closes the window that the driver may have opened.
            // SAFETY: By the safety requirements.
            .map_err(|e| unsafe { unclaim(&*calls, dev, e) })?;
        // SAFETY: `open` has returned the windows of the PE.
        let shutdown = unsafe { Shutdown::new(calls.clone(), layout) };
        let common = common.clone();
        // INVARIANT: By the safety requirements, and `Shutdown` takes names back under RCU.
        Ok(pin_init!(Self {
            multi_tce: calls.multi_tce(),
            calls,
            common,
            stats,
            name,
            log <- RateLimit::new(c"tce_iommu"),
            windows <- OwnedWork::new(shutdown, c"tce_iommu", static_lock_class!()),
        }))
    }

    /// Opens the windows that the PE will have.
    ///
    /// # Safety
    ///
    /// The PE is claimed.
    unsafe fn open(calls: &C, common: &Common, dev: &Device) -> Result<Layout> {
        // SAFETY: By the safety requirements.
        let query = unsafe { calls.query(dev) }?;
        let low = default_window(&query)?;
        let mmio = query.mmio32.clone();
        if query.nr_windows > 1 {
            // SAFETY: By the safety requirements.
            return match unsafe { Self::open_high(calls, common, dev, &query) } {
                Ok(high) => Layout::new(Kind::Papr, low, Some(high), mmio),
                Err(e) => Self::do_without(dev, low, mmio, e),
            };
        }
        // SAFETY: By the safety requirements.
        if let Err(e) = unsafe { calls.close_window(dev, WindowNumber::Low) } {
            return Self::do_without(dev, low, mmio, e);
        }
        // SAFETY: As above.
        let high = unsafe { calls.query(dev) }
            // SAFETY: As above.
            .and_then(|query| unsafe { Self::open_high(calls, common, dev, &query) });
        match high {
            Ok(high) => {
                dev_info!(dev, "default DMA window given up for a 64-bit one\n");
                Ok(Layout::new(Kind::Papr, high, None, mmio)?.exchanged())
            }
            Err(e) => {
                // Brings the default window back.
                // SAFETY: By the safety requirements; who claimed the PE calls `settle`.
                unsafe { calls.set_platform(dev, false) }?;
                // SAFETY: As above.
                let query = unsafe { calls.query(dev) }?;
                Self::do_without(dev, default_window(&query)?, mmio, e)
            }
        }
    }

    /// Opens a window for 64-bit devices.
    ///
    /// # Safety
    ///
    /// The PE is claimed.
    unsafe fn open_high(calls: &C, common: &Common, dev: &Device, query: &Query) -> Result<Window> {
        let (shift, tces) = plan_high_window(
            query.page_sizes,
            common.max_page,
            query.max_tces,
            C::max_ram(),
        )
        .ok_or(ENOSPC)?;
        // SAFETY: By the safety requirements.
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

    /// What the hypervisor calls a window, while the RCU lock is held.
    #[inline(always)]
    fn liobn(&self, window: &TableWindow) -> Liobn {
        self.windows.liobn(window.number())
    }

    /// Sets or clears one TCE, which counts as `event`.
    ///
    /// # Safety
    ///
    /// The RCU lock is held. If `tce` is present, its page is mapped at `index` in the table of the
    /// window: the caller of `map` keeps it until `unmap` and sync have returned, and `withdraw`
    /// runs before that.
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
        // SAFETY: By the type invariants and the safety requirements.
        patiently(move || unsafe { calls.put(liobn, ioba, tce) })
    }

    /// Publishes TCEs of `leaf`.
    ///
    /// # Safety
    ///
    /// The RCU lock is held, and `leaf` is the one that has `part` in the table of the window.
    #[inline(always)]
    unsafe fn put_part(
        &self,
        window: &TableWindow,
        leaf: &TceList,
        part: TceRun,
    ) -> Result<(), Refused> {
        let singly = || {
            part.indexes().try_for_each(|n| {
                if n != part.first {
                    self.stats.count(Event::MorePuts);
                }
                // SAFETY: By the safety requirements the TCE is that of the table.
                unsafe { self.put_one(window, n, leaf.get(n), Event::Put) }
            })
        };
        if part.count == Tces::new(1) || !self.multi_tce {
            return singly();
        }
        // A list starts at a border of 4 KiB.
        if part.first.get() % TceList::LEN as u64 == 0 {
            // SAFETY: By the safety requirements. The box is the table's.
            return unsafe { self.put_list(window, leaf, part) };
        }
        let bounced = self.common.bounce.with(|page| {
            leaf.copy_to(part.first, part.count, page);
            // SAFETY: These are the TCEs of the leaf. The box is that of the page.
            unsafe { self.put_list(window, page, part) }
        });
        bounced.unwrap_or_else(singly)
    }

    /// Publishes the first TCEs of `list`.
    ///
    /// # Safety
    ///
    /// As for [`put_one`](Self::put_one), for all of `part`. The list is in the box that it was
    /// made in.
    #[inline]
    unsafe fn put_list(
        &self,
        window: &TableWindow,
        list: &TceList,
        part: TceRun,
    ) -> Result<(), Refused> {
        let (liobn, ioba) = (self.liobn(window), window.ioba(part.first));
        self.stats.count(Event::PutList);
        let calls = &*self.calls;
        // SAFETY: By the type invariants and the safety requirements.
        patiently(move || unsafe { calls.put_indirect(liobn, ioba, list, part.count) })
    }

    /// Clears up to 512 TCEs.
    ///
    /// # Safety
    ///
    /// The RCU lock is held.
    #[inline(always)]
    unsafe fn clear_part(&self, window: &TableWindow, part: TceRun) -> Result<(), Refused> {
        if self.multi_tce {
            let (liobn, ioba) = (self.liobn(window), window.ioba(part.first));
            self.stats.count(Event::Stuff);
            let calls = &*self.calls;
            // SAFETY: By the type invariants and the safety requirements.
            match patiently(move || unsafe { calls.stuff(liobn, ioba, part.count) }) {
                Ok(()) => return Ok(()),
                Err(refused) if refused.is_busy() => return Err(refused),
                Err(_) => (),
            }
        } else {
            self.stats.count(Event::ClearSingly);
        }
        // SAFETY: By the safety requirements.
        unsafe { self.clear_singly(window, part) }
    }

    /// Clears TCEs one by one: all that the hypervisor does not refuse twice.
    ///
    /// # Safety
    ///
    /// As for [`clear_part`](Self::clear_part).
    #[cold]
    unsafe fn clear_singly(&self, window: &TableWindow, part: TceRun) -> Result<(), Refused> {
        if self.liobn(window) == NOBODY {
            // The window has taken its TCEs with it.
            return Ok(());
        }
        let mut result = Ok(());
        for index in part.indexes() {
            // SAFETY: By the safety requirements. The TCE is empty.
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
    ///
    /// # Safety
    ///
    /// As for [`publish`](Firmware::publish), here and below.
    #[cold]
    unsafe fn publish_leaves(&self, window: &TableWindow, run: TceRun) -> Result {
        slices(run).try_for_each(|part| {
            if part.first != run.first {
                self.stats.count(Event::MorePuts);
            }
            // SAFETY: By the safety requirements.
            unsafe { self.publish_part(window, part) }
        })
    }

    /// Publishes TCEs of one leaf.
    ///
    /// # Safety
    ///
    /// See above.
    #[inline(never)]
    unsafe fn publish_part(&self, window: &TableWindow, part: TceRun) -> Result {
        // Who unmaps what is being published has to withdraw it.
        // SAFETY: By the safety requirements.
        let Some(leaf) = (unsafe { window.table().leaf_unguarded(part.first) }) else {
            return Ok(());
        };
        // SAFETY: By the safety requirements.
        unsafe { self.put_part(window, leaf, part) }.map_err(|e| self.refused(window, part, e))
    }

    /// Publishes one TCE.
    ///
    /// # Safety
    ///
    /// See above.
    #[inline(never)]
    unsafe fn publish_one(&self, window: &TableWindow, run: TceRun) -> Result {
        // SAFETY: By the safety requirements.
        let Some(leaf) = (unsafe { window.table().leaf_unguarded(run.first) }) else {
            return Ok(());
        };
        // SAFETY: By the safety requirements. The TCE is that of the table.
        unsafe { self.put_one(window, run.first, leaf.get(run.first), Event::Put) }
            .map_err(|e| self.refused(window, run, e))
    }

    /// Withdraws more TCEs than a hypercall takes.
    ///
    /// # Safety
    ///
    /// As for [`withdraw`](Firmware::withdraw).
    #[inline(never)]
    unsafe fn withdraw_many(&self, window: &TableWindow, run: TceRun) {
        for part in run.pieces(LIST) {
            if part.first != run.first {
                self.stats.count(Event::MoreClears);
            }
            // SAFETY: By the safety requirements.
            if let Err(refused) = unsafe { self.clear_part(window, part) } {
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

    unsafe fn publish(&self, window: &TableWindow, run: TceRun) -> Result {
        if self.is_broken() {
            return Err(EIO);
        }
        // SAFETY: By the safety requirements.
        unsafe {
            if run.count == Tces::new(1) {
                self.publish_one(window, run)
            } else if is_in_one_leaf(run) {
                self.publish_part(window, run)
            } else {
                self.publish_leaves(window, run)
            }
        }
    }

    unsafe fn withdraw(&self, window: &TableWindow, run: TceRun) {
        if run.count > LIST {
            // SAFETY: By the safety requirements.
            return unsafe { self.withdraw_many(window, run) };
        }
        // SAFETY: By the safety requirements.
        if let Err(refused) = unsafe { self.clear_part(window, run) } {
            self.stuck(window, run, refused);
        }
    }

    fn flush(&self) {}

    unsafe fn release(&self, dev: &Device) -> Result {
        // SAFETY: By the safety requirements.
        unsafe { self.windows.release(dev) }
    }
}
