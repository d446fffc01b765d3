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
mod shutdown;

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
    ownership::{
        Devices,
        Holder, //
    },
    stats::Stats,
    windows::TableWindow, //
};
use core::convert::Infallible;
use kernel::{
    alloc::AllocError,
    device::Device,
    powerpc::window::{
        Firmware as Kind,
        PageShift,
        WindowNumber, //
    },
    prelude::*,
    str::CString,
    sync::{
        Arc,
        UniqueArc, //
    }, //
};

/// The windows of one PE, while the driver owns them.
///
/// From construction to [`release`](Firmware::release) the windows exist and nobody else uses them.
/// Until [`connect`](Firmware::connect), and after [`disconnect`](Firmware::disconnect), no DMA of
/// the PE reaches memory through a window.
pub(crate) trait Firmware: Send + Sync {
    /// The windows.
    fn layout(&self) -> &Layout;

    /// Whether firmware has refused to withdraw, so that nothing is published any more. The way out
    /// is to give the windows back.
    fn is_broken(&self) -> bool;

    /// Lets the PE translate through the table of `window`. May sleep. On error it does not.
    fn connect(&self, dev: &Device, window: &TableWindow) -> Result;

    /// Stops all translation of window `number`. May sleep, but does not allocate.
    ///
    /// Where firmware holds a copy, the caller has withdrawn it. On error the PE may still
    /// translate through the table, which has to stay; it is not connected before that is over.
    fn disconnect(&self, dev: &Device, number: WindowNumber) -> Result;

    /// Makes new TCEs of `window` visible to the PE. Atomic context.
    ///
    /// On error, part of `run` may have been published; the caller withdraws all of it. Fails with
    /// [`EIO`] once firmware has refused to withdraw.
    ///
    /// # Safety
    ///
    /// The RCU lock is held. There is no guard to show for it, which would take an instruction.
    unsafe fn publish(&self, window: &TableWindow, run: TceRun) -> Result;

    /// Makes the PE forget TCEs that were cleared. Atomic context.
    ///
    /// When this returns, no access through the old TCEs is possible or under way. Where firmware
    /// refuses, all that it does not refuse is withdrawn, the log has it once, nothing is published
    /// to the PE any more, and its windows are closed soon.
    ///
    /// # Safety
    ///
    /// As for [`publish`](Self::publish).
    unsafe fn withdraw(&self, window: &TableWindow, run: TceRun);

    /// Makes the PE forget every cleared TCE. Atomic context.
    fn flush(&self);

    /// Gives the windows back to the platform's DMA code. May sleep.
    ///
    /// Nothing may use `self` afterwards. On error the PE stays without translation.
    ///
    /// # Safety
    ///
    /// No driver uses the platform's DMA code for a device of the PE, and
    /// [`settle`](crate::ownership::Members::settle) is called afterwards, after an error too
    /// unless it would write what is there.
    unsafe fn release(&self, dev: &Device) -> Result;
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

/// Why windows could not be taken over.
pub(crate) struct NotClaimed {
    pub(crate) error: Error,
    /// Who has them now: not the driver.
    pub(crate) holder: Holder,
}

impl From<Error> for NotClaimed {
    /// For errors that come before anything has changed.
    fn from(error: Error) -> Self {
        Self {
            error,
            holder: Holder::Platform,
        }
    }
}

impl From<AllocError> for NotClaimed {
    fn from(error: AllocError) -> Self {
        Error::from(error).into()
    }
}

/// Gives the windows to the platform's DMA code, whoever has them. May sleep.
///
/// # Safety
///
/// As for [`Firmware::release`].
pub(crate) unsafe fn give_back<C: Calls>(calls: &C, dev: &Device) -> Result {
    // SAFETY: By the safety requirements.
    unsafe { calls.set_platform(dev, true) }
}

/// Undoes a claim that failed with `error` when the windows had been taken, or some of them.
///
/// # Safety
///
/// As for [`claim`].
unsafe fn unclaim<C: Calls>(calls: &C, dev: &Device, error: Error) -> NotClaimed {
    // SAFETY: By the safety requirements.
    let holder = match unsafe { give_back(calls, dev) } {
        Ok(()) => Holder::Platform,
        Err(e) => {
            dev_err!(dev, "cannot restore the DMA windows ({e:?}); no DMA\n");
            Holder::Nobody
        }
    };
    NotClaimed { error, holder }
}

/// Takes the windows from the platform's DMA code, if it has them. May sleep.
///
/// # Safety
///
/// As for [`claim`].
unsafe fn take<C: Calls>(calls: &C, dev: &Device) -> Result<(), NotClaimed> {
    // SAFETY: By the safety requirements.
    unsafe { calls.set_platform(dev, false) }.map_err(|e| match e {
        ENODEV => e.into(),
        // SAFETY: By the safety requirements.
        e => unsafe { unclaim(calls, dev, e) },
    })
}

/// Takes the windows of the PE of `dev` over from the platform's DMA code, or from nobody. May
/// sleep.
///
/// # Safety
///
/// No driver uses the platform's DMA code for a device of the PE, and nobody else its windows.
/// [`settle`](crate::ownership::Members::settle) is called afterwards, also after an error.
pub(crate) unsafe fn claim<C: Calls + Devices>(
    calls: &Arc<C>,
    dev: &Device,
    common: &Arc<Common>,
    stats: &Arc<Stats>,
) -> Result<Arc<dyn Firmware>, NotClaimed> {
    // SAFETY: By the safety requirements.
    let query = unsafe { calls.query(dev) }?;
    let (calls, stats) = (calls.clone(), stats.clone());
    // Memory comes first: without it the windows would have to be given back.
    Ok(match query.firmware {
        Kind::Papr => {
            let port = UniqueArc::<Papr<C>>::new_uninit(GFP_KERNEL)?;
            let name = CString::try_from(dev.name())?;
            // SAFETY: By the safety requirements, and the PE is one of PAPR.
            let init = unsafe { Papr::claim(calls, name, dev, common, stats) }?;
            match port.pin_init_with::<Infallible>(init) {
                Ok(port) => Arc::<Papr<C>>::from(port),
                Err(never) => match never {},
            }
        }
        Kind::Ioda => {
            let port = UniqueArc::new_uninit(GFP_KERNEL)?;
            // SAFETY: By the safety requirements.
            let claimed = unsafe { Ioda::claim(calls, dev, common, &query, stats) }?;
            Arc::<Ioda<C>>::from(port.write(claimed))
        }
    })
}
