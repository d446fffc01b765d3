// SPDX-License-Identifier: GPL-2.0

//! pSeries: windows and TCEs belong to the hypervisor.
//!
//! A partition changes TCEs by hypercall (PAPR, "TCE hcalls"): `H_PUT_TCE` sets one,
//! `H_PUT_TCE_INDIRECT` sets up to 512 from a 4 KiB aligned list, and `H_STUFF_TCE` sets up to 512
//! to one value. The hypervisor invalidates its caches before a call returns, so there are no
//! kills. Windows are created and removed by RTAS calls ("dynamic DMA windows"), which sleep.
//!
//! The window that firmware made at boot is used as it stands; one more is opened for 64-bit
//! devices if the PE may have it.

use crate::{
    firmware::{
        calls::{
            Calls,
            Refused, //
        },
        Common,
        Firmware,
        Stats,
        Tables, //
    },
    layout::{
        plan_high_window,
        Layout,
        TceRun, //
    },
    table::Table, //
};
use kernel::{
    cpu::CpuId,
    device::Device,
    new_spinlock_irq,
    powerpc::{
        mem::TceList,
        window::{
            Tce,
            TceIndex,
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
        Arc,
        SpinLockIrq, //
    }, //
};

/// How many CPUs can publish at the same time without waiting for each other.
const PAGES: usize = 64;

/// 4 KiB pages for lists that do not start on a page border.
///
/// A CPU uses the page of its number, so there is no contention on a machine of up to [`PAGES`]
/// CPUs, and little on a larger one.
#[pin_data]
pub(super) struct Bounce {
    #[pin]
    locks: [SpinLockIrq<()>; PAGES],
    /// Each is written with its lock held.
    pages: [Option<KBox<TceList>>; PAGES],
}

impl Bounce {
    /// Allocates the pages, if the hypervisor takes lists. May sleep.
    pub(super) fn new(multi_tce: bool) -> impl PinInit<Self, Error> {
        let pages = core::array::from_fn(|_| match multi_tce {
            true => TceList::new(GFP_KERNEL).ok(),
            false => None,
        });
        try_pin_init!(Self {
            locks <- pin_init::pin_init_array_from_fn(|_| new_spinlock_irq!(())),
            pages,
        })
        .pin_chain(move |this| {
            match multi_tce && this.pages.iter().any(Option::is_none) {
                true => Err(ENOMEM),
                false => Ok(()),
            }
        })
    }

    /// Calls `f` with a page that nobody else uses meanwhile. Any context.
    fn with<T>(&self, f: impl FnOnce(&TceList) -> T) -> Option<T> {
        // CAST: `u32` fits `usize`.
        let index = CpuId::current().as_u32() as usize % PAGES;
        let _lock = self.locks.get(index)?.lock();
        Some(f(self.pages.get(index)?.as_ref()?))
    }
}

/// The windows of a PE on pSeries.
pub(super) struct Papr<C> {
    calls: Arc<C>,
    layout: Layout,
    common: Arc<Common>,
    /// The hypervisor refused to clear a TCE.
    broken: Atomic<bool>,
    stats: Arc<Stats>,
}

impl<C: Calls> Papr<C> {
    /// See [`claim`](super::claim).
    pub(super) fn claim(
        calls: Arc<C>,
        dev: &Device,
        common: Arc<Common>,
        stats: Arc<Stats>,
    ) -> Result<Self> {
        calls.set_platform(dev, false)?;
        match Self::open(&calls, &common, dev) {
            Ok(layout) => Ok(Self {
                calls,
                layout,
                common,
                broken: Atomic::new(false),
                stats,
            }),
            Err(e) => {
                // Also closes the window that the driver may have opened.
                if calls.set_platform(dev, true).is_err() {
                    dev_err!(dev, "cannot restore the default DMA window\n");
                }
                Err(e)
            }
        }
    }

    fn open(calls: &C, common: &Common, dev: &Device) -> Result<Layout> {
        let query = calls.query(dev)?;
        let low = query.windows.first().copied().flatten().ok_or(ENODEV)?;
        let plan = plan_high_window(
            query.page_sizes,
            common.max_page,
            query.max_tces,
            calls.max_ram(),
        )
        .filter(|_| query.nr_windows > 1);
        let high = plan.and_then(|(shift, tces)| {
            // SAFETY: The PE is claimed, so nobody else uses its windows.
            unsafe { calls.open_window(dev, WindowNumber::High, None, shift, tces) }
                .inspect_err(|e| {
                    dev_info!(
                        dev,
                        "no 64-bit DMA window ({e:?}); using the default window\n"
                    )
                })
                .ok()
        });
        Layout::new(low, high, query.mmio32)
    }

    fn window(&self, number: WindowNumber) -> Option<&Window> {
        self.layout
            .windows()
            .find_map(|(n, window)| (n == number).then_some(window))
    }

    /// Publishes `count` TCEs of one leaf, from `first` on.
    fn put(
        &self,
        window: &Window,
        leaf: &TceList,
        first: TceIndex,
        count: u64,
    ) -> Result<(), Fault> {
        let ioba = window.ioba_of(first).ok_or(Fault::Range)?;
        // CAST: Below 512.
        let slot = (first.get() % TceList::LEN as u64) as usize;
        // CAST: At most 512.
        let n = count as usize;
        let entries = || leaf.words().iter().skip(slot).take(n);

        if n == 1 || !self.calls.multi_tce() {
            for (index, word) in (first.get()..first.get().saturating_add(count)).zip(entries()) {
                let ioba = window.ioba_of(TceIndex::new(index)).ok_or(Fault::Range)?;
                self.stats.puts.count();
                // SAFETY: The page is mapped in the domain's table: the caller of `map` keeps it
                // until `unmap` and sync have returned, and `withdraw` runs before that.
                unsafe {
                    self.calls
                        .put(window.id.liobn(), ioba, Tce::from_be(word.load(Relaxed)))
                }?;
            }
            return Ok(());
        }

        self.stats.puts.count();
        if slot == 0 {
            // SAFETY: As above.
            return Ok(unsafe { self.calls.put_indirect(window.id.liobn(), ioba, leaf, n) }?);
        }
        let bounced = self.common.bounce.with(|page| {
            for (to, from) in page.words().iter().zip(entries()) {
                to.store(from.load(Relaxed), Relaxed);
            }
            // SAFETY: As above.
            unsafe { self.calls.put_indirect(window.id.liobn(), ioba, page, n) }
        });
        Ok(bounced.ok_or(Fault::Range)??)
    }

    /// Clears up to 512 TCEs.
    fn stuff(&self, window: &Window, first: TceIndex, count: u64) -> Result<(), Fault> {
        let ioba = window.ioba_of(first).ok_or(Fault::Range)?;
        if self.calls.multi_tce() {
            self.stats.stuffs.count();
            let cleared = self.calls.stuff(window.id.liobn(), ioba, Tces::new(count));
            if cleared.is_ok() {
                return Ok(());
            }
        }
        for index in first.get()..first.get().saturating_add(count) {
            let ioba = window.ioba_of(TceIndex::new(index)).ok_or(Fault::Range)?;
            self.stats.puts.count();
            // SAFETY: An empty TCE takes access away and gives none.
            let clear = || unsafe { self.calls.put(window.id.liobn(), ioba, Tce::NONE) };
            // There is nothing to fall back to, so one refusal is not taken for an answer.
            clear().or_else(|_| clear())?;
        }
        Ok(())
    }
}

/// Why TCEs could not be changed.
enum Fault {
    /// They lie outside the window.
    Range,
    /// The hypervisor refused.
    Hypervisor(Refused),
}

impl From<Refused> for Fault {
    fn from(e: Refused) -> Self {
        Self::Hypervisor(e)
    }
}

impl From<Fault> for Error {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Range => EINVAL,
            Fault::Hypervisor(e) => e.into(),
        }
    }
}

impl<C: Calls> Firmware for Papr<C> {
    fn layout(&self) -> &Layout {
        &self.layout
    }

    fn holds_copy(&self) -> bool {
        true
    }

    fn connect(&self, _: &Device, _: &Tables) -> Result {
        if self.broken.load(Relaxed) {
            return Err(EIO);
        }
        Ok(())
    }

    fn disconnect(&self, _: &Device) -> Result {
        Ok(())
    }

    fn publish(&self, number: WindowNumber, table: &Table, run: TceRun) -> Result {
        let window = self.window(number).ok_or(EINVAL)?;
        table.for_each_leaf(run, |part, leaf| {
            self.put(window, leaf, part.first, part.count.get())
                .inspect_err(|_| self.stats.errors.count())
                .map_err(Error::from)
        })
    }

    fn withdraw(&self, number: WindowNumber, run: TceRun) {
        let Some(window) = self.window(number) else {
            return;
        };
        let mut at = run.first.get();
        let mut left = run.count.get();
        while left > 0 {
            let count = left.min(TceList::LEN as u64);
            if let Err(fault) = self.stuff(window, TceIndex::new(at), count) {
                self.stats.errors.count();
                if !self.broken.xchg(true, Relaxed) {
                    let code = match fault {
                        Fault::Range => 0,
                        Fault::Hypervisor(e) => e.code,
                    };
                    pr_err!(
                        "LIOBN {:#x}: hypervisor error {code} when clearing TCEs; device not usable\n",
                        window.id.liobn().get()
                    );
                }
            }
            at = at.saturating_add(count);
            left = left.wrapping_sub(count);
        }
    }

    fn flush(&self) {}

    fn release(&self, dev: &Device) -> Result {
        if self.layout.has_high_window() {
            self.calls.close_window(dev, WindowNumber::High)?;
        }
        self.calls.set_platform(dev, true)
    }
}
