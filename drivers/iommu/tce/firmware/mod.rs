// SPDX-License-Identifier: GPL-2.0

//! What the driver asks of firmware for one PE.
//!
//! Two firmwares offer the same thing in opposite ways. On pSeries the hypervisor keeps the TCE
//! tables, so every change is *published* to it by hypercall ([`papr`]). On PowerNV the hardware
//! reads tables in memory, so a change is there at once and only stale copies in the PHB's TCE
//! cache have to be *killed* ([`ioda`]). The trait [`Firmware`] is written so that callers need not
//! know which one they have.

mod bounce;
pub(crate) mod calls;
mod ioda;
mod papr;
#[cfg(CONFIG_TCE_IOMMU)]
mod real;

use crate::{
    firmware::{
        bounce::Bounce,
        calls::Calls,
        ioda::Ioda,
        papr::Papr, //
    },
    layout::{
        cpu_page_shift,
        Layout,
        TceRun, //
    },
    stats::Stats,
    windows::{
        TableWindow,
        Windows, //
    }, //
};
use kernel::{
    device::Device,
    powerpc::window::{
        Firmware as Kind,
        PageShift, //
    },
    prelude::*,
    sync::{
        Arc,
        UniqueArc, //
    }, //
};

/// The windows of one PE, while the driver owns them.
///
/// From construction to [`release`](Firmware::release) the windows exist and nobody else uses them.
/// Until [`connect`](Firmware::connect), and after [`disconnect`](Firmware::disconnect), no DMA of
/// the PE reaches memory.
pub(crate) trait Firmware: Send + Sync {
    /// The windows.
    fn layout(&self) -> &Layout;

    /// Lets the PE translate through the tables of `windows`. May sleep.
    ///
    /// On error the PE may translate through some of them until it is disconnected.
    fn connect(&self, dev: &Device, windows: &Windows) -> Result;

    /// Stops all translation. May sleep, but does not allocate.
    ///
    /// Where firmware holds a copy, the caller has withdrawn it. On error the PE may still
    /// translate through the tables, which have to stay; it is not connected before that is over.
    fn disconnect(&self, dev: &Device) -> Result;

    /// Makes new TCEs of `window` visible to the PE. Atomic context.
    ///
    /// On error, part of `run` may have been published; the caller withdraws all of it. Fails with
    /// [`EIO`] once firmware has refused to withdraw.
    fn publish(&self, window: &TableWindow, run: TceRun) -> Result;

    /// Makes the PE forget TCEs that were cleared. Atomic context.
    ///
    /// When this returns, no access through the old TCEs is possible or under way. Where firmware
    /// refuses, all that it does not refuse is withdrawn, the log has it once, and nothing is
    /// published to the PE any more.
    fn withdraw(&self, window: &TableWindow, run: TceRun);

    /// Makes the PE forget every cleared TCE. Atomic context.
    fn flush(&self);

    /// Gives the windows back to the platform's DMA code. May sleep.
    ///
    /// Nothing may use `self` afterwards. On error the PE stays without translation.
    fn release(&self, dev: &Device) -> Result;
}

/// What all PEs share.
pub(crate) struct Common {
    /// TCE pages are not larger: the CPU's pages, or what the administrator wants.
    max_page: PageShift,
    bounce: Bounce,
}

impl Common {
    /// Makes it. May sleep.
    pub(crate) fn new(max_page: PageShift) -> Result<Arc<Self>> {
        let common = Self {
            max_page: max_page.min(cpu_page_shift()?),
            bounce: Bounce::new()?,
        };
        Ok(Arc::new(common, GFP_KERNEL)?)
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
