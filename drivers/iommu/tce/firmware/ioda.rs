// SPDX-License-Identifier: GPL-2.0

//! PowerNV: the PHB walks TCE tables in memory (IODA2, PHB3 to PHB5).
//!
//! Each PE has two Translation Validation Entries (TVEs), chosen by bit 59 of the bus address. A
//! TVE points at the root of a TCE table or says that the PE has no such window. OPAL writes TVEs;
//! TCEs are plain stores. The PHB caches TCEs, so after a change the cache has to be killed; on
//! PHB4 and PHB5 every kill is one of the whole PE, because those of pages may get lost there,
//! which is why callers gather ranges first.

use crate::{
    firmware::{
        calls::Calls,
        take,
        unclaim,
        Common,
        Firmware,
        NotClaimed, //
    },
    layout::{
        plan_table,
        Layout,
        TceRun, //
    },
    ownership::Holder,
    stats::{
        Event,
        Stats, //
    },
    windows::{
        TableWindow,
        Windows, //
    }, //
};
use kernel::{
    device::Device,
    powerpc::{
        mem::TceList,
        window::{
            Firmware as Kind,
            Query,
            Root,
            Tces,
            Window,
            WindowNumber, //
        }, //
    },
    prelude::*,
    sync::Arc, //
};

/// From this many TCEs on, all of the PE is killed: PHB3 takes one store for each page. A whole
/// leaf is as many, so that a kill of it reaches what the PHB knows of the levels above.
const MANY: Tces = Tces::new(512);

/// The windows of a PE on PowerNV.
pub(super) struct Ioda<C> {
    calls: Arc<C>,
    layout: Layout,
    stats: Arc<Stats>,
}

impl<C: Calls> Ioda<C> {
    /// See [`claim`](super::claim).
    ///
    /// # Safety
    ///
    /// As there.
    pub(super) unsafe fn claim(
        calls: Arc<C>,
        dev: &Device,
        common: &Common,
        query: &Query,
        stats: Arc<Stats>,
    ) -> Result<Self, NotClaimed> {
        let shift = query
            .page_sizes
            .largest_up_to(common.max_page)
            .ok_or(EINVAL)?;
        let window = |n: usize| {
            let range = query.windows.get(n).copied().flatten()?;
            let tces = plan_table(&range, shift, query.max_levels?)?;
            Window::new(range.base, tces, shift, range.id)
        };
        let layout = Layout::new(
            Kind::Ioda,
            window(0).ok_or(EINVAL)?,
            window(1),
            query.mmio32.clone(),
        )?
        .with_mmio64(query.mmio64.clone());
        let windows = Windows::new(&layout)?;
        let this = Self {
            layout,
            calls,
            stats,
        };
        // SAFETY: By the safety requirements.
        unsafe { take(&*this.calls, dev) }?;
        // A refusal is found out here, where the platform can have the PE back, and not by the
        // core when it attaches the first domain.
        let tried = windows
            .iter()
            .try_for_each(|window| this.connect(dev, window))
            .and_then(|()| this.close(dev));
        if let Err(e) = tried {
            // SAFETY: By the safety requirements.
            let why = unsafe { unclaim(&*this.calls, dev, e) };
            if why.holder == Holder::Nobody {
                // They may still be open.
                core::mem::forget(windows);
            }
            return Err(why);
        }
        Ok(this)
    }

    /// Closes both windows, or as many as OPAL lets.
    fn close(&self, dev: &Device) -> Result {
        let close = |(number, _)| self.disconnect(dev, number);
        self.layout.windows().map(close).fold(Ok(()), Result::and)
    }

    #[inline(always)]
    fn kill(&self, window: &TableWindow, run: TceRun, event: Event) {
        let some = (run.count < MANY).then(|| (window.ioba(run.first), run.count, window.shift()));
        self.stats.count(event);
        self.calls.kill(some);
    }
}

impl<C: Calls> Firmware for Ioda<C> {
    fn layout(&self) -> &Layout {
        &self.layout
    }

    fn is_broken(&self) -> bool {
        false
    }

    fn connect(&self, dev: &Device, window: &TableWindow) -> Result {
        let table = window.table();
        let root = Root {
            addr: table.root(),
            levels: table.levels(),
            level_tces: Tces::new(TceList::LEN as u64),
        };
        // SAFETY: `table` keeps its inner nodes valid until it drops, and its owner closes the
        // window before that. What a TCE lets a device reach is the business of `map`. The PE is
        // claimed, so nobody else uses its windows.
        let opened = unsafe {
            self.calls.open_window(
                dev,
                window.number(),
                Some(root),
                window.shift(),
                window.all().count,
            )
        };
        opened.inspect_err(|_| self.stats.count(Event::Error))?;
        Ok(())
    }

    fn disconnect(&self, dev: &Device, number: WindowNumber) -> Result {
        // SAFETY: The PE is claimed.
        unsafe { self.calls.close_window(dev, number) }
            .inspect_err(|_| self.stats.count(Event::Error))
    }

    unsafe fn publish(&self, window: &TableWindow, run: TceRun) -> Result {
        self.kill(window, run, Event::KillNew);
        Ok(())
    }

    unsafe fn withdraw(&self, window: &TableWindow, run: TceRun) {
        self.kill(window, run, Event::KillOld);
    }

    fn flush(&self) {
        self.stats.count(Event::KillAll);
        self.calls.kill(None);
    }

    unsafe fn release(&self, dev: &Device) -> Result {
        // SAFETY: By the safety requirements.
        unsafe { self.calls.set_platform(dev, true) }
    }
}
