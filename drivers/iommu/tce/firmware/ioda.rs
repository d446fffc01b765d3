// SPDX-License-Identifier: GPL-2.0

//! PowerNV: the PHB walks TCE tables in memory (IODA2, PHB3 to PHB5).
//!
//! Each PE has two Translation Validation Entries (TVEs), chosen by bit 59 of the bus address. A
//! TVE points at the root of a TCE table or says that the PE has no such window. OPAL writes TVEs;
//! TCEs are plain stores. The PHB caches TCEs, so after a change the cache has to be killed; PHB4
//! and PHB5 turn every kill into one of the whole PE, which is why callers gather ranges first.

use crate::{
    firmware::{
        calls::Calls,
        Common,
        Firmware,
        Stats,
        Tables, //
    },
    layout::{
        Layout,
        TceRun, //
    },
    table::{
        Levels,
        Table, //
    }, //
};
use kernel::{
    device::Device,
    powerpc::{
        mem::TceList,
        window::{
            Query,
            Root,
            Tces,
            Window,
            WindowNumber, //
        }, //
    },
    prelude::*,
    sync::{
        atomic::{
            Atomic,
            Relaxed, //
        },
        Arc, //
    }, //
};

/// The TCEs of each window. With 4 KiB pages it spans 2^48 bytes, which covers every user address.
const TCES: Tces = Tces::new(1 << 36);

/// The most TCEs that are killed one by one.
const MANY: Tces = Tces::new(512);

/// The windows of a PE on PowerNV.
pub(super) struct Ioda<C> {
    calls: Arc<C>,
    layout: Layout,
    /// A window could not be closed. Only attach and detach look, with the PE locked.
    stuck: Atomic<bool>,
    stats: Arc<Stats>,
}

impl<C: Calls> Ioda<C> {
    /// See [`claim`](super::claim).
    pub(super) fn claim(
        calls: Arc<C>,
        dev: &Device,
        common: &Common,
        query: &Query,
        stats: Arc<Stats>,
    ) -> Result<Self> {
        let shift = query
            .page_sizes
            .largest_up_to(common.max_page)
            .ok_or(EINVAL)?;
        if Levels::for_tces(TCES).is_none_or(|levels| levels.get() > query.max_levels) {
            return Err(EINVAL);
        }
        let window = |n: usize| {
            let fixed = query.windows.get(n).copied().flatten()?;
            Window::new(fixed.base, TCES, shift, fixed.id)
        };
        let layout = Layout::new(window(0).ok_or(EINVAL)?, window(1), query.mmio32.clone())?;
        calls.set_platform(dev, false)?;
        Ok(Self {
            calls,
            layout,
            stuck: Atomic::new(false),
            stats,
        })
    }

    /// Closes both windows, or as many as OPAL lets.
    fn close(&self, dev: &Device) -> Result {
        let mut result = Ok(());
        for (number, _) in self.layout.windows() {
            if let Err(e) = self.calls.close_window(dev, number) {
                self.stats.errors.count();
                dev_err!(
                    dev,
                    "OPAL cannot close DMA window {} ({e:?})\n",
                    number.get()
                );
                result = Err(e);
            }
        }
        self.stuck.store(result.is_err(), Relaxed);
        result
    }

    fn kill(&self, number: WindowNumber, run: TceRun) {
        let window = self.layout.windows().find(|(n, _)| *n == number);
        if let Some((_, window)) = window {
            self.stats.kills.count();
            // PHB3 takes one store for each page, so a kill of all is sooner done.
            let run = (run.count <= MANY).then_some((window, run.first, run.count));
            self.calls.kill(run);
        }
    }
}

impl<C: Calls> Firmware for Ioda<C> {
    fn layout(&self) -> &Layout {
        &self.layout
    }

    fn holds_copy(&self) -> bool {
        false
    }

    fn connect(&self, dev: &Device, tables: &Tables) -> Result {
        if self.stuck.load(Relaxed) {
            self.close(dev)?;
        }
        for ((number, window), table) in self.layout.windows().zip(tables) {
            let table = table.as_ref().ok_or(EINVAL)?;
            let root = Root {
                addr: table.root(),
                levels: table.levels().get(),
                level_tces: Tces::new(TceList::LEN as u64),
            };
            // SAFETY: `table` keeps its inner nodes valid until it drops, and its domain closes the
            // window before that. What a TCE lets a device reach is the business of `map`. The PE is
            // claimed, so nobody else uses its windows.
            let opened = unsafe {
                self.calls
                    .open_window(dev, number, Some(root), window.shift, window.tces)
            };
            opened.inspect_err(|_| self.stats.errors.count())?;
        }
        Ok(())
    }

    fn disconnect(&self, dev: &Device) -> Result {
        self.close(dev)
    }

    fn publish(&self, number: WindowNumber, _: &Table, run: TceRun) -> Result {
        self.kill(number, run);
        Ok(())
    }

    fn withdraw(&self, number: WindowNumber, run: TceRun) {
        self.kill(number, run);
    }

    fn flush(&self) {
        self.stats.kills.count();
        self.calls.kill(None);
    }

    fn release(&self, dev: &Device) -> Result {
        self.calls.set_platform(dev, true)
    }
}
