// SPDX-License-Identifier: GPL-2.0

//! The calls that firmware offers for one PE.
//!
//! [`Calls`] is the border to the outside: above it there is no hardware, and tests put a firmware
//! of their own below it.

use kernel::{
    device::Device,
    io::PhysAddr,
    powerpc::{
        mem::TceList,
        window::{
            Ioba,
            Liobn,
            PageShift,
            Query,
            Root,
            Tce,
            Tces,
            Window,
            WindowNumber, //
        }, //
    },
    prelude::*,
    time::{
        delay::udelay,
        Delta, //
    }, //
};

/// The most TCEs that a hypercall takes.
// CAST: 512.
pub(crate) const LIST: Tces = Tces::new(TceList::LEN as u64);

/// The calls for one PE. The device that some of them take is any device of the PE.
///
/// Calls that change windows do not run at the same time for one PE: the mutex of
/// [`Pe`](crate::pe::Pe) sees to that, and for windows that are closed because a TCE is stuck a
/// mutex of their own. `H_` calls exist on pSeries, `kill` on PowerNV.
pub(crate) trait Calls: Send + Sync + 'static {
    /// Asks what windows the PE has and may have. May sleep.
    ///
    /// # Safety
    ///
    /// The caller owns the windows of the PE.
    unsafe fn query(&self, dev: &Device) -> Result<Query>;

    /// The end of RAM, with what firmware says can be added later. Any context.
    fn max_ram() -> PhysAddr;

    /// Gives all windows to the platform's DMA code, or takes them from it. May sleep.
    ///
    /// Taken, a PE on pSeries has the default window with no TCE set, one on PowerNV no window.
    /// After [`ENODEV`] nothing has changed; after other errors some windows may have.
    ///
    /// # Safety
    ///
    /// No driver uses the platform's DMA code for any device of the PE, and afterwards, also after
    /// an error, [`set_dma_owner`](crate::ownership::Devices::set_dma_owner) is called for all of
    /// them, unless it would write what is there.
    unsafe fn set_platform(&self, dev: &Device, on: bool) -> Result;

    /// Opens window `num`. May sleep. After an error nothing is open.
    ///
    /// # Safety
    ///
    /// The caller owns the windows of the PE. `root` is the root of a TCE table that stays one
    /// until the window is closed, and whose TCEs lead to memory that devices may access.
    unsafe fn open_window(
        &self,
        dev: &Device,
        num: WindowNumber,
        root: Option<Root>,
        shift: PageShift,
        tces: Tces,
    ) -> Result<Window>;

    /// Closes window `num`. May sleep. After an error it is still open.
    ///
    /// # Safety
    ///
    /// The caller owns the windows of the PE.
    unsafe fn close_window(&self, dev: &Device, num: WindowNumber) -> Result;

    /// Makes the PHB forget the TCEs of a run, or all of the PE. Any context.
    ///
    /// Stores to the table that came before are visible to the PHB. When it returns, no device
    /// reaches memory through the old TCEs.
    fn kill(&self, run: Option<(Ioba, Tces, PageShift)>);

    /// What PAPR calls the code of a refusal.
    fn code_name(code: c_long) -> &'static str;

    /// Whether [`put_indirect`](Self::put_indirect) and [`stuff`](Self::stuff) are there.
    fn multi_tce(&self) -> bool;

    /// `H_PUT_TCE`. Any context.
    ///
    /// # Safety
    ///
    /// The PE is PAPR's. The caller owns the window, or it has the name that no window has. Until
    /// the TCE is cleared devices may access its page.
    unsafe fn put(&self, liobn: Liobn, ioba: Ioba, tce: Tce) -> Result<(), Refused>;

    /// `H_PUT_TCE_INDIRECT` of the first `n` TCEs of `list`. Any context.
    ///
    /// After an error any of them may be set.
    ///
    /// # Safety
    ///
    /// As for [`put`](Self::put), for all of the TCEs, and `list` is in the box that it was made
    /// in.
    unsafe fn put_indirect(
        &self,
        liobn: Liobn,
        ioba: Ioba,
        list: &TceList,
        n: Tces,
    ) -> Result<(), Refused>;

    /// `H_STUFF_TCE` of `n` (at most 512) empty TCEs. Any context.
    ///
    /// # Safety
    ///
    /// As for [`put`](Self::put); empty TCEs have no page.
    unsafe fn stuff(&self, liobn: Liobn, ioba: Ioba, n: Tces) -> Result<(), Refused>;
}

/// A hypervisor's answer other than success.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Refused {
    /// The code of PAPR, for messages.
    pub(crate) code: c_long,
    /// What it means to callers.
    pub(crate) error: Error,
}

impl Refused {
    /// Whether asking again may help.
    pub(crate) fn is_busy(&self) -> bool {
        self.error == EBUSY
    }
}

/// How long a hypercall may be busy before that counts as a refusal. The hypervisor asks for up to
/// 100 s, but the caller may be in atomic context.
const PATIENCE: Delta = Delta::from_millis(20);

/// How long to wait for a busy hypercall at a time.
const WAIT: Delta = Delta::from_micros(50);

/// Makes a hypercall again while the hypervisor is busy, within bounds.
#[inline(always)]
pub(crate) fn patiently(call: impl Fn() -> Result<(), Refused>) -> Result<(), Refused> {
    match call() {
        Err(refused) if refused.is_busy() => wait_for(refused, call),
        result => result,
    }
}

#[cold]
fn wait_for(mut refused: Refused, call: impl Fn() -> Result<(), Refused>) -> Result<(), Refused> {
    let mut waited = Delta::ZERO;
    while refused.is_busy() && waited < PATIENCE {
        udelay(WAIT);
        waited += WAIT;
        match call() {
            Err(again) => refused = again,
            Ok(()) => return Ok(()),
        }
    }
    Err(refused)
}
