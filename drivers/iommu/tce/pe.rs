// SPDX-License-Identifier: GPL-2.0

//! One PE: the unit of isolation, and the only place that moves it between domains.
//!
//! The IOMMU core attaches domains to devices, one at a time. The hardware knows only PEs: all
//! devices of a PE translate through the same windows. What the windows do is therefore a function
//! of what the devices are attached to:
//!
//! * A paging or platform domain takes effect with the first device that is attached to it.
//! * The blocked domain takes effect when the last device is. The core blocks a single device of a
//!   PE around a reset, and its siblings keep working.
//! * The core also blocks a device around a reset whose driver stays bound. If its DMA is mapped by
//!   the platform, there are mappings that the driver of the IOMMU does not know and could not
//!   bring back, so the PE stays with the platform until the last such driver has gone.

mod lent;

use self::lent::Lent;
use crate::{
    bonds::{
        Bond,
        Spare, //
    },
    firmware::{
        self,
        calls::Calls,
        Common,
        Firmware,
        NotClaimed, //
    },
    layout::Layout,
    ownership::{
        Devices,
        Holder,
        Member,
        Members, //
    },
    space::{
        Part,
        Space, //
    },
    stats::Stats, //
};
use core::mem;
use kernel::{
    device::Device,
    fmt,
    new_mutex,
    prelude::*,
    sync::{
        Arc,
        Mutex, //
    }, //
};

/// A domain, as a PE sees it.
pub(crate) enum Target<'a> {
    /// No DMA.
    Blocked,
    /// The platform's own DMA code drives the windows.
    Platform,
    /// The tables of a paging domain.
    Paging(&'a Arc<Space>),
}

/// What a PE's windows do.
#[derive(Clone)]
enum Current {
    /// The platform's DMA code owns them.
    Platform,
    /// Nobody does: firmware took them from the platform, and then gave them to no one. No TCE of
    /// theirs is set, and the way out is to claim them, or to give them back, once more.
    Nobody,
    /// The driver owns them and nothing translates.
    Blocked(Arc<dyn Firmware>),
    /// They translate through the tables of a domain.
    Paging(Arc<dyn Firmware>, Arc<Space>),
    /// They should not translate, but firmware did not close them: they may still be walked from
    /// the tables of a domain.
    Stuck(Arc<dyn Firmware>, Arc<Space>),
}

/// What a PE's windows do, for who only wants to know: [`Current`] without what is behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Domain {
    Platform,
    Nobody,
    Blocked,
    Paging,
    Stuck,
}

impl fmt::Display for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Platform => "platform",
            Self::Nobody => "nobody",
            Self::Blocked => "blocked",
            Self::Paging => "paging",
            Self::Stuck => "stuck",
        })
    }
}

struct State {
    members: Members,
    current: Current,
    /// The process that has the high window, while a domain has the PE.
    lent: Option<Lent>,
    /// It is over, but firmware did not open the window for the domain again.
    is_hidden: bool,
    /// From the domain that last had the PE: to go back to one takes no memory.
    spare: Option<Spare>,
    /// The windows when the driver last owned them.
    layout: Layout,
    phase: Phase,
}

/// How far the end of the system has come.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Up,
    /// Nothing new is let through.
    Silent,
    /// Nothing is let through.
    Down,
}

impl State {
    fn holder(&self) -> Holder {
        match self.current {
            Current::Platform => Holder::Platform,
            Current::Nobody => Holder::Nobody,
            _ => Holder::Driver,
        }
    }

    fn is_platform(&self) -> bool {
        self.holder() == Holder::Platform
    }

    /// Whether the PE has to stay with the platform.
    fn is_held(&self) -> bool {
        self.is_platform() && self.members.in_use()
    }
}

/// A partitionable endpoint.
#[pin_data]
pub(crate) struct Pe<C> {
    calls: Arc<C>,
    common: Arc<Common>,
    stats: Arc<Stats>,
    #[pin]
    state: Mutex<State>,
}

/// Who has the windows of a PE that the driver has just taken over.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Start {
    /// The driver.
    Owned,
    /// The platform. The driver has had them for a moment, to see that it can.
    Platform,
}

impl<C: Calls + Devices> Pe<C> {
    /// Takes over the PE of `dev`. May sleep.
    ///
    /// On error the platform has it again, if firmware lets it.
    ///
    /// # Safety
    ///
    /// No device of the PE has a driver that uses the DMA API, or gets one before this returns, or
    /// the driver has only been able to fail.
    pub(crate) unsafe fn new(
        calls: Arc<C>,
        dev: &Device,
        common: Arc<Common>,
        start: Start,
    ) -> Result<Arc<Self>> {
        let none = Members::new();
        let claim = || {
            let stats = Arc::init(Stats::new(), GFP_KERNEL)?;
            // SAFETY: By the safety requirements. `settle` is called below.
            let port = unsafe { firmware::claim(&calls, dev, &common, &stats) }?;
            Ok((port, stats))
        };
        let claimed = claim().map_err(|why: NotClaimed| {
            // SAFETY: By the safety requirements.
            unsafe { none.settle(&*calls, why.holder) }
            why.error
        });
        let (port, stats) = claimed?;
        let layout = port.layout().clone();
        let current = Current::Blocked(port.clone());
        let devices = calls.clone();
        let pe = Arc::pin_init(
            pin_init!(Self {
                calls,
                common,
                stats,
                state <- new_mutex!(State {
                    members: Members::new(),
                    current,
                    lent: None,
                    is_hidden: false,
                    spare: None,
                    layout,
                    phase: Phase::Up,
                }),
            }),
            GFP_KERNEL,
        );
        // A PE for which there is no memory is given back, too.
        let holder = match (&pe, start) {
            (Ok(_), Start::Owned) => Ok(Holder::Driver),
            // SAFETY: By the safety requirements. `settle` is called below.
            _ => unsafe { port.release(dev) }.map(|()| Holder::Platform),
        };
        // SAFETY: By the safety requirements.
        unsafe { none.settle(&*devices, holder.unwrap_or(Holder::Nobody)) };
        let (pe, holder) = (pe?, holder?);
        if holder == Holder::Platform {
            pe.state.lock().current = Current::Platform;
        }
        Ok(pe)
    }

    /// The PE as firmware knows it.
    pub(crate) fn calls(&self) -> &C {
        &self.calls
    }

    /// The windows, or those that the driver last had. May sleep.
    pub(crate) fn layout(&self) -> Layout {
        self.state.lock().layout.clone()
    }

    /// The windows that a new paging domain for the PE is made for. May sleep.
    ///
    /// Firmware may have others to give than it last had. So if the platform has the PE, the driver
    /// takes it for a moment to find out.
    ///
    /// # Safety
    ///
    /// A driver that binds to a device of the PE has [`set_in_use`](Self::set_in_use) called before
    /// it uses the DMA API.
    pub(crate) unsafe fn new_layout(&self, dev: &Device) -> Layout {
        let mut guard = self.state.lock();
        let state = &mut *guard;
        // A refusal is for the attach to tell.
        let ask = state.phase == Phase::Up && state.is_platform();
        if ask && self.own(state, dev).is_ok() {
            self.give_back_or_say(state, dev);
        }
        state.layout.clone()
    }

    /// What has been asked of firmware for this PE.
    pub(crate) fn stats(&self) -> &Stats {
        &self.stats
    }

    /// What the windows do. May sleep.
    pub(crate) fn domain(&self) -> Domain {
        match &self.state.lock().current {
            Current::Platform => Domain::Platform,
            Current::Nobody => Domain::Nobody,
            Current::Blocked(_) => Domain::Blocked,
            Current::Paging(..) => Domain::Paging,
            Current::Stuck(..) => Domain::Stuck,
        }
    }

    /// The tables that the PE translates through, if there are any. May sleep.
    pub(crate) fn space(&self) -> Option<Arc<Space>> {
        match &self.state.lock().current {
            Current::Paging(_, space) | Current::Stuck(_, space) => Some(space.clone()),
            Current::Platform | Current::Nobody | Current::Blocked(_) => None,
        }
    }

    /// Calls `f` with each device that the driver has. May sleep.
    pub(crate) fn for_each_member(&self, f: impl FnMut(&Member)) {
        self.state.lock().members.for_each(f);
    }

    /// Whether the driver has no device of the PE. May sleep.
    pub(crate) fn is_empty(&self) -> bool {
        self.state.lock().members.is_empty()
    }

    /// Adds a device, which is attached to nothing yet and has no driver. May sleep.
    ///
    /// # Safety
    ///
    /// The device gets no driver before this returns.
    pub(crate) unsafe fn join(&self, dev: &Device) -> Result {
        let mut guard = self.state.lock();
        let state = &mut *guard;
        // It is for the only device of a PE: another one would reach the process.
        if let Some(lent) = &state.lent {
            let pid = lent.pid();
            dev_warn!(dev, "joins its PE; process {pid} loses DMA window 1\n");
            self.take_back(state, dev);
        }
        let result = state.members.add(dev);
        if !state.is_platform() {
            // SAFETY: The device has no driver.
            unsafe { state.members.settle_one(&*self.calls, dev, state.holder()) };
        }
        result
    }

    /// Removes the device `dev`. Returns whether it was the last one. May sleep.
    ///
    /// After the last one the platform owns the windows again.
    ///
    /// # Safety
    ///
    /// No driver uses the DMA API for the device, or will before this returns.
    pub(crate) unsafe fn leave(&self, dev: &Device) -> bool {
        let mut guard = self.state.lock();
        let state = &mut *guard;
        state.members.remove(dev);
        let last = state.members.is_empty();
        if !state.is_platform() {
            // SAFETY: By the safety requirements.
            unsafe { state.members.settle_one(&*self.calls, dev, state.holder()) };
        }
        if last {
            self.give_back_or_say(state, dev);
        } else if state.members.all_blocked() && !state.is_held() {
            self.block_or_say(state, dev);
        }
        if last && !state.is_platform() {
            if let Current::Stuck(port, space) = mem::replace(&mut state.current, Current::Nobody) {
                Self::abandon_lent(state, &port);
                space.give_up(&port);
            }
        }
        last
    }

    /// Gives back a PE that no device has joined. May sleep.
    ///
    /// # Safety
    ///
    /// As for [`new`](Self::new).
    pub(crate) unsafe fn abandon(&self, dev: &Device) {
        // SAFETY: By the safety requirements.
        unsafe { self.leave(dev) };
    }

    /// Takes note whether the device `dev` has a driver that uses the DMA API. May sleep.
    ///
    /// # Safety
    ///
    /// `in_use` is right, and stays right until this returns.
    pub(crate) unsafe fn set_in_use(&self, dev: &Device, in_use: bool) {
        let mut guard = self.state.lock();
        let state = &mut *guard;
        state.members.set_in_use(dev, in_use);
        // What could not be done while there was such a driver.
        let late = state.is_platform() && !state.is_held() && !state.members.is_empty();
        if late && state.members.all_blocked() {
            self.block_or_say(state, dev);
        }
    }

    /// Whether the device `dev` is known to have a driver that uses the DMA API. May sleep.
    pub(crate) fn is_in_use(&self, dev: &Device) -> bool {
        self.state.lock().members.is_in_use(dev)
    }

    /// Attaches the device `dev` to `target`. May sleep.
    ///
    /// On error the PE is as it was. Fails with [`EINVAL`] if the domain was made for other
    /// windows, with [`EBUSY`] if a driver uses the platform's DMA code for any device of the PE,
    /// or would have to, with [`ENOMEM`], and with what firmware answers.
    ///
    /// # Safety
    ///
    /// The mutex of the IOMMU group is held, which keeps drivers from binding to the devices that
    /// the driver has.
    pub(crate) unsafe fn attach(&self, dev: &Device, target: &Target<'_>) -> Result {
        let mut guard = self.state.lock();
        let state = &mut *guard;
        if state.phase != Phase::Up {
            return Ok(());
        }
        match target {
            // Some other device is not blocked: the PE goes on.
            Target::Blocked if !state.members.others_blocked(dev) => (),
            Target::Blocked if state.is_held() => (),
            Target::Blocked => self.block(state, dev)?,
            Target::Platform if state.is_platform() => (),
            Target::Platform if state.members.in_use() => return Err(EBUSY),
            Target::Platform => self.change(state, dev, |state| self.give_back(state, dev))?,
            Target::Paging(space) => {
                self.change(state, dev, |state| self.translate(state, dev, space))?
            }
        }
        let blocked = matches!(target, Target::Blocked);
        state.members.set_blocked(dev, blocked);
        Ok(())
    }

    /// Lets the devices have no more than they have, after a grace period, for good. To attach does
    /// nothing from then on. May sleep.
    pub(crate) fn silence(&self) {
        let mut state = self.state.lock();
        state.phase = Phase::Silent;
        if let Current::Paging(port, space) | Current::Stuck(port, space) = &state.current {
            space.silence(port);
            if let Some(lent) = &state.lent {
                lent.silence(port);
            }
        }
    }

    /// Takes all access from the devices of a PE that was [silenced](Self::silence) a grace period
    /// ago. May sleep.
    ///
    /// The windows stay as they are, because the next kernel was told of them. Those that the
    /// platform has are left to it.
    pub(crate) fn shut_down(&self) {
        let mut state = self.state.lock();
        if state.phase != Phase::Silent {
            return;
        }
        state.phase = Phase::Down;
        let (Current::Paging(port, space) | Current::Stuck(port, space)) = &state.current else {
            return;
        };
        let Some(dev) = state.members.any() else {
            return;
        };
        if let Some(lent) = &state.lent {
            lent.cut(port, &dev);
        }
        if let Err(e) = space.cut(port, &dev, Part::All) {
            dev_err!(dev, "DMA goes on while the system goes down ({e:?})\n");
        }
    }

    /// Makes sure that the driver owns the windows.
    fn own(&self, state: &mut State, dev: &Device) -> Result<Arc<dyn Firmware>> {
        match &state.current {
            Current::Blocked(port) | Current::Paging(port, _) | Current::Stuck(port, _) => {
                return Ok(port.clone())
            }
            Current::Platform if state.members.in_use() => return Err(EBUSY),
            Current::Platform => state.members.seize(&*self.calls)?,
            Current::Nobody => (),
        }
        // SAFETY: No member is in use and the other devices were seized, or nobody had the windows
        // and drivers could only fail. `settle` is called below.
        let claimed = unsafe { firmware::claim(&self.calls, dev, &self.common, &self.stats) };
        let (current, result) = match claimed {
            Ok(port) => {
                state.layout = port.layout().clone();
                (Current::Blocked(port.clone()), Ok(port))
            }
            Err(why) if why.holder == Holder::Nobody => (Current::Nobody, Err(why.error)),
            Err(why) => (state.current.clone(), Err(why.error)),
        };
        state.current = current;
        // SAFETY: As above.
        unsafe { state.members.settle(&*self.calls, state.holder()) };
        result
    }

    /// Stops all translation, as far as firmware lets it.
    fn block(&self, state: &mut State, dev: &Device) -> Result {
        if let Current::Nobody = state.current {
            return Ok(());
        }
        self.own(state, dev)?;
        // Firmware's refusal is in the log. It is tried again before the windows are put to use.
        self.close(state, dev).ok();
        Ok(())
    }

    fn block_or_say(&self, state: &mut State, dev: &Device) {
        if let Err(e) = self.block(state, dev) {
            dev_err!(dev, "cannot block DMA of the PE ({e:?})\n");
        }
    }

    /// Stops all translation of windows that the driver owns.
    fn close(&self, state: &mut State, dev: &Device) -> Result {
        let (Current::Paging(port, space) | Current::Stuck(port, space)) = state.current.clone()
        else {
            return Ok(());
        };
        self.take_back(state, dev);
        let result = space.detach(&port, dev, Part::All).map(|spare| {
            Self::all_closed(state, &port, &space);
            state.spare = spare;
        });
        state.current = match result {
            Ok(()) => Current::Blocked(port),
            Err(_) => Current::Stuck(port, space),
        };
        result
    }

    fn give_back(&self, state: &mut State, dev: &Device) -> Result {
        // What could not be closed goes with the rest, so that is no reason to stop.
        self.close(state, dev).ok();
        // Since the windows were taken nobody has been able to use the platform's DMA code.
        match state.current.clone() {
            Current::Platform => return Ok(()),
            // SAFETY: As said above. `settle` is called below, and has called the PE nobody's.
            Current::Nobody => unsafe { firmware::give_back(&*self.calls, dev) }?,
            // SAFETY: As said above. `settle` is called below, and has called the PE the driver's.
            Current::Blocked(port) | Current::Paging(port, _) => unsafe { port.release(dev) }?,
            Current::Stuck(port, space) => {
                // SAFETY: As above.
                unsafe { port.release(dev) }?;
                space.forget(&port);
                Self::all_closed(state, &port, &space);
            }
        }
        state.current = Current::Platform;
        // SAFETY: Nobody has been able to use the platform's DMA code, and the devices that the
        // driver has are not in use.
        unsafe { state.members.settle(&*self.calls, Holder::Platform) };
        Ok(())
    }

    fn give_back_or_say(&self, state: &mut State, dev: &Device) {
        if let Err(e) = self.give_back(state, dev) {
            dev_err!(dev, "firmware does not take back the DMA windows ({e:?})\n");
        }
    }

    /// Does `f`, which changes what the windows do. On error they do what they did before.
    fn change(
        &self,
        state: &mut State,
        dev: &Device,
        f: impl FnOnce(&mut State) -> Result,
    ) -> Result {
        let old = state.current.clone();
        let result = f(state);
        if result.is_err() {
            let restored = match &old {
                Current::Blocked(_) | Current::Stuck(..) | Current::Nobody => {
                    self.block(state, dev)
                }
                Current::Platform => self.give_back(state, dev),
                Current::Paging(_, old) => self.translate(state, dev, old),
            };
            if let Err(e) = restored {
                dev_err!(dev, "cannot restore DMA of the PE ({e:?})\n");
            }
        }
        result
    }

    fn translate(&self, state: &mut State, dev: &Device, space: &Arc<Space>) -> Result {
        let mut port = self.own(state, dev)?;
        if let Current::Paging(_, current) = &state.current {
            if Arc::ptr_eq(current, space) {
                return Ok(());
            }
        }
        // New windows have none of the TCEs that could not be cleared.
        if port.is_broken() && !state.members.in_use() {
            self.give_back(state, dev)?;
            port = self.own(state, dev)?;
        }
        if !space.layout().is_compatible(port.layout()) {
            return Err(EINVAL);
        }
        self.close(state, dev)?;
        // The domain that had the PE leaves the memory for this.
        let bond = Bond::new(port.clone(), state.spare.take())?;
        let result = space.attach(bond, &port, dev, Part::All);
        state.current = Current::Paging(port, space.clone());
        if result.is_err() {
            self.close(state, dev).ok();
        }
        result
    }
}
