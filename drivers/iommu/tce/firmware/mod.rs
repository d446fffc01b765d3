// SPDX-License-Identifier: GPL-2.0

//! What the driver asks of firmware for one PE.
//!
//! Two firmwares offer the same thing in opposite ways. On pSeries the hypervisor keeps the TCE
//! tables, so every change is *published* to it by hypercall ([`papr`]). On PowerNV the hardware
//! reads tables in memory, so a change is there at once and only stale copies in the PHB's TCE
//! cache have to be *killed* ([`ioda`]). The trait [`Firmware`] is written so that callers need not
//! know which one they have.

pub(crate) mod calls;
mod ioda;
mod papr;
#[cfg(CONFIG_TCE_IOMMU)]
mod real;

use crate::{
    firmware::{
        calls::Calls,
        ioda::Ioda,
        papr::Papr, //
    },
    layout::{
        cpu_page_shift,
        Layout,
        TceRun, //
    },
    table::Table, //
};
use kernel::{
    device::Device,
    powerpc::window::{
        Firmware as Kind,
        PageShift,
        WindowNumber,
        MAX_WINDOWS, //
    },
    prelude::*,
    sync::{
        atomic::{
            Atomic,
            Relaxed, //
        },
        Arc,
        UniqueArc, //
    }, //
};

/// The TCE tables of a domain, by window.
pub(crate) type Tables = [Option<Table>; MAX_WINDOWS];

/// The windows of one PE, while the driver owns them.
///
/// From construction to [`release`](Firmware::release) the windows exist and nobody else uses them.
/// Until [`connect`](Firmware::connect), and after [`disconnect`](Firmware::disconnect), no DMA of
/// the PE reaches memory.
pub(crate) trait Firmware: Send + Sync {
    /// The windows.
    fn layout(&self) -> &Layout;

    /// Whether firmware holds a copy of the table, so that a populated one has to be published
    /// when the PE is connected to it.
    fn holds_copy(&self) -> bool;

    /// Lets the PE translate through `tables`. May sleep.
    ///
    /// On error the PE may translate through some of them until it is disconnected.
    fn connect(&self, dev: &Device, tables: &Tables) -> Result;

    /// Stops all translation. May sleep, but does not allocate.
    ///
    /// Where firmware holds a copy, the caller has withdrawn it. On error the PE may still
    /// translate through the tables, which have to stay; it is not connected again before that is
    /// over.
    fn disconnect(&self, dev: &Device) -> Result;

    /// Makes new TCEs of `table` visible to the PE. Atomic context.
    ///
    /// On error, part of `run` may have been published; the caller withdraws all of it.
    fn publish(&self, number: WindowNumber, table: &Table, run: TceRun) -> Result;

    /// Makes the PE forget TCEs that were cleared. Atomic context.
    ///
    /// When this returns, no access through the old TCEs is possible or under way. If firmware
    /// refuses, this says so once and the PE is not used again.
    fn withdraw(&self, number: WindowNumber, run: TceRun);

    /// Makes the PE forget every cleared TCE. Atomic context.
    fn flush(&self);

    /// Gives the windows back to the platform's DMA code. May sleep.
    ///
    /// Nothing may use `self` afterwards. On error the PE stays without translation.
    fn release(&self, dev: &Device) -> Result;
}

/// What all PEs share.
#[pin_data]
pub(crate) struct Common {
    /// TCE pages are not larger: the CPU's pages, or what the administrator wants.
    max_page: PageShift,
    #[pin]
    bounce: papr::Bounce,
}

impl Common {
    /// `multi_tce` says whether a hypervisor takes lists of TCEs. May sleep.
    pub(crate) fn new(multi_tce: bool, max_page: PageShift) -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            max_page: max_page.min(cpu_page_shift()?),
            bounce <- papr::Bounce::new(multi_tce),
        })
    }
}

/// Takes the windows of the PE of `dev` over from the platform's DMA code. May sleep.
///
/// No driver uses DMA through the PE. On error the platform has the windows again.
pub(crate) fn claim<C: Calls>(
    calls: &Arc<C>,
    dev: &Device,
    common: &Arc<Common>,
    stats: &Arc<Stats>,
) -> Result<Arc<dyn Firmware>> {
    let query = calls.query(dev)?;
    let (calls, stats) = (calls.clone(), stats.clone());
    // Memory comes first: without it the windows would have to be given back.
    Ok(match query.firmware {
        Kind::Papr => {
            let port = UniqueArc::new_uninit(GFP_KERNEL)?;
            Arc::<Papr<C>>::from(port.write(Papr::claim(calls, dev, common.clone(), stats)?))
        }
        Kind::Ioda => {
            let port = UniqueArc::new_uninit(GFP_KERNEL)?;
            Arc::<Ioda<C>>::from(port.write(Ioda::claim(calls, dev, common, &query, stats)?))
        }
    })
}

/// Counts of the calls that cost time.
pub(crate) struct Stats {
    /// `H_PUT_TCE` and `H_PUT_TCE_INDIRECT`.
    pub(crate) puts: Counter,
    /// `H_STUFF_TCE`.
    pub(crate) stuffs: Counter,
    /// TCE cache invalidations.
    pub(crate) kills: Counter,
    /// Calls that firmware refused.
    pub(crate) errors: Counter,
}

impl Stats {
    /// All zero.
    pub(crate) const fn new() -> Self {
        Self {
            puts: Counter::new(),
            stuffs: Counter::new(),
            kills: Counter::new(),
            errors: Counter::new(),
        }
    }
}

/// A statistics counter.
pub(crate) struct Counter(Atomic<u64>);

impl Counter {
    const fn new() -> Self {
        Self(Atomic::new(0))
    }

    /// Counts one.
    pub(crate) fn count(&self) {
        self.0.add(1, Relaxed);
    }

    /// The count so far.
    pub(crate) fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}
