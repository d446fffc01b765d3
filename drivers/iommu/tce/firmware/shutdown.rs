// SPDX-License-Identifier: GPL-2.0

//! pSeries: the end of windows in which a TCE cannot be cleared.
//!
//! A TCE that stays leads a device to memory that may be somebody else's by now. Nothing takes it
//! away but to close its window. That sleeps, and TCEs are cleared in any context; so a work item
//! does it, unless the PE is detached first. Nothing is mapped for the PE meanwhile, nor later: the
//! platform, or the next claim, gets new windows.

use crate::{
    firmware::calls::{
        patiently,
        Calls,
        LIST, //
    },
    layout::{
        Layout,
        TceRun, //
    },
    ownership::Devices, //
};
use core::mem::replace;
use kernel::{
    device::Device,
    new_mutex,
    powerpc::{
        mem::read,
        window::{
            Liobn,
            Tce,
            TceIndex,
            Window,
            WindowNumber,
            MAX_WINDOWS, //
        }, //
    },
    prelude::*,
    sync::{
        aref::ARef,
        atomic::{
            Atomic,
            Relaxed, //
        },
        rcu,
        Arc,
        Mutex, //
    },
    workqueue::Task, //
};

/// A name that no window has.
pub(super) const NOBODY: Liobn = Liobn::new(u32::MAX);

const NUMBERS: [WindowNumber; MAX_WINDOWS] = [WindowNumber::Low, WindowNumber::High];

/// The windows of a PE, and how they end.
///
/// # Invariants
///
/// The PE is one of PAPR. From construction to [`release`](Self::release) it is claimed, with the
/// windows of `layout`, but for those that were closed.
#[pin_data]
pub(super) struct Shutdown<C> {
    calls: Arc<C>,
    layout: Layout,
    /// What the hypervisor calls the windows, by their number; [`NOBODY`] while they are being
    /// closed and from then on, because others may be called so then.
    liobns: [Atomic<u32>; MAX_WINDOWS],
    /// The hypervisor refused to clear a TCE, or has taken windows away.
    broken: Atomic<bool>,
    #[pin]
    ends: Mutex<Ends>,
}

/// How far the windows have come.
#[derive(Default)]
struct Ends {
    /// Which are closed, or clear for good, by their number.
    over: [bool; MAX_WINDOWS],
    /// All are.
    all: bool,
    /// It is in the log that one can be neither closed nor cleared.
    said: bool,
}

impl<C: Calls + Devices> Shutdown<C> {
    /// Makes one for windows that are open.
    ///
    /// # Safety
    ///
    /// The PE is one of PAPR that is claimed, with the windows of `layout`.
    pub(super) unsafe fn new(calls: Arc<C>, layout: Layout) -> impl PinInit<Self> {
        let liobns = NUMBERS.map(|number| {
            let window = layout.window(number);
            Atomic::new(window.map_or(NOBODY, |window| window.id.liobn()).get())
        });
        // INVARIANT: By the safety requirements.
        pin_init!(Self {
            liobns,
            calls,
            layout,
            broken: Atomic::new(false),
            ends <- new_mutex!(Ends::default()),
        })
    }

    pub(super) fn layout(&self) -> &Layout {
        &self.layout
    }

    /// What the hypervisor calls a window. Any context; with the RCU lock held as long as the name
    /// is in use.
    #[inline(always)]
    pub(super) fn liobn(&self, number: WindowNumber) -> Liobn {
        let liobn = self.liobns.get(number.get());
        liobn.map_or(NOBODY, |liobn| Liobn::new(read(liobn)))
    }

    /// Whether the hypervisor refused to clear a TCE, or has taken windows away.
    #[inline(always)]
    pub(super) fn is_broken(&self) -> bool {
        read(&self.broken)
    }

    /// Takes note that the hypervisor refused to clear a TCE. Says whether that is new.
    pub(super) fn set_broken(&self) -> bool {
        !self.broken.xchg(true, Relaxed)
    }

    /// Closes the windows, if they are open. Sleeps.
    ///
    /// On error devices may still reach what is not mapped any more.
    pub(super) fn close(&self, dev: &Device) -> Result {
        let mut ends = self.ends.lock();
        if ends.all {
            return Ok(());
        }
        let result = self.close_all(dev, &mut ends.over);
        match &result {
            Ok(()) => {
                ends.all = true;
                dev_err!(dev, "DMA windows closed, because a TCE cannot be cleared\n");
            }
            Err(e) if !replace(&mut ends.said, true) => dev_err!(
                dev,
                "DMA windows cannot be closed ({e:?}); devices may reach memory of others\n"
            ),
            Err(_) => (),
        }
        result
    }

    fn close_all(&self, dev: &Device, over: &mut [bool; MAX_WINDOWS]) -> Result {
        let mut result = Ok(());
        // The default window last: when the other one goes last, PAPR brings it back as it was.
        for number in [WindowNumber::High, WindowNumber::Low] {
            let n = number.get();
            let (Some(over), Some(liobn)) = (over.get_mut(n), self.liobns.get(n)) else {
                continue;
            };
            let Some(window) = self.layout.window(number).filter(|_| !*over) else {
                continue;
            };
            let end = self.close_one(dev, self.layout.number_of(number), window, liobn);
            *over = end.is_ok();
            result = result.and(end);
        }
        result
    }

    /// Closes a window, or clears it if it cannot be closed.
    fn close_one(
        &self,
        dev: &Device,
        number: WindowNumber,
        window: &Window,
        liobn: &Atomic<u32>,
    ) -> Result {
        let close = || {
            liobn.store(NOBODY.get(), Relaxed);
            // Who has read the old name is done with it after this.
            rcu::synchronize_rcu();
            // SAFETY: By the type invariants.
            unsafe { self.calls.close_window(dev, number) }
                // It is there still, and what is unmapped is withdrawn from it.
                .inspect_err(|_| liobn.store(window.id.liobn().get(), Relaxed))
        };
        if close().is_ok() {
            return Ok(());
        }
        // It may have to be clear, and then it is harmless, too.
        let cleared = self.clear(window);
        close().or(cleared)
    }

    /// Clears all TCEs of a window that the hypervisor does not refuse to clear.
    fn clear(&self, window: &Window) -> Result {
        let (calls, liobn) = (&*self.calls, window.id.liobn());
        let all = TceRun {
            first: TceIndex::new(0),
            count: window.tces,
        };
        let mut result = Ok(());
        for part in all.pieces(LIST) {
            let first = window.ioba_of(part.first).ok_or(EINVAL)?;
            // SAFETY: By the type invariants; the window is not closed.
            let stuff = || unsafe { calls.stuff(liobn, first, part.count) };
            if calls.multi_tce() && patiently(stuff).is_ok() {
                continue;
            }
            let mut any = false;
            for ioba in part.indexes().filter_map(|index| window.ioba_of(index)) {
                // SAFETY: As above. An empty TCE takes access away and gives none.
                let put = || unsafe { calls.put(liobn, ioba, Tce::NONE) };
                match patiently(put) {
                    Ok(()) => any = true,
                    // There may be millions more to wait for.
                    Err(refused) if refused.is_busy() => return Err(refused.error),
                    Err(refused) => result = Err(refused.error),
                }
            }
            if !any {
                // It does nothing for the PE any more.
                break;
            }
        }
        result
    }

    /// Gives the windows back to the platform's DMA code. Sleeps.
    ///
    /// Those with a TCE that cannot be cleared are not given, and on error the driver has them
    /// still. When firmware did not do the rest, it may have removed some: they are not used again,
    /// and the next claim gets new ones.
    ///
    /// # Safety
    ///
    /// As for [`Firmware::release`](super::Firmware::release).
    pub(super) unsafe fn release(&self, dev: &Device) -> Result {
        if self.is_broken() {
            self.close(dev)?;
        }
        // SAFETY: By the safety requirements.
        unsafe { self.calls.set_platform(dev, true) }.inspect_err(|_| {
            for liobn in &self.liobns {
                liobn.store(NOBODY.get(), Relaxed);
            }
            self.set_broken();
            self.ends.lock().all = true;
        })
    }
}

impl<C: Calls + Devices> Task for Shutdown<C> {
    fn run(self: Pin<&Self>) {
        let mut any: Option<ARef<Device>> = None;
        self.calls.for_each_device(&mut |dev| {
            if any.is_none() {
                any = Some(dev.into());
            }
        });
        // A PE without devices is on its way out. A refusal is in the log.
        if let Some(dev) = any {
            self.close(&dev).ok();
        }
    }
}
