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

use crate::{
    bonds::Bond,
    firmware::{
        self,
        calls::Calls,
        Common,
        Firmware, //
    },
    layout::Layout,
    space::Space,
    stats::Stats, //
};
use kernel::{
    device::Device,
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
    /// The driver owns them and nothing translates.
    Blocked(Arc<dyn Firmware>),
    /// They translate through the tables of a domain.
    Paging(Arc<dyn Firmware>, Arc<Space>),
}

struct State {
    /// How many devices the PE has.
    devices: usize,
    /// How many of them are attached to the blocked domain.
    blocked: usize,
    current: Current,
    /// The windows when the driver last owned them.
    layout: Layout,
}

impl State {
    /// How many devices besides one are not blocked; `blocked` says whether that one is.
    fn others_at_work(&self, blocked: bool) -> usize {
        let at_work = self.devices.saturating_sub(self.blocked);
        at_work.saturating_sub(usize::from(!blocked))
    }

    fn count_blocked(&mut self, was: bool, is: bool) {
        match (was, is) {
            (true, false) => self.blocked = self.blocked.saturating_sub(1),
            (false, true) => self.blocked = self.blocked.saturating_add(1),
            _ => (),
        }
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

impl<C: Calls> Pe<C> {
    /// Takes over the PE of `dev`, which no driver uses. May sleep.
    pub(crate) fn new(calls: Arc<C>, dev: &Device, common: Arc<Common>) -> Result<Arc<Self>> {
        let stats = Arc::init(Stats::new(), GFP_KERNEL)?;
        let port = firmware::claim(&calls, dev, &common, &stats)?;
        let layout = port.layout().clone();
        let current = Current::Blocked(port.clone());
        let pe = Arc::pin_init(
            pin_init!(Self {
                calls,
                common,
                stats,
                state <- new_mutex!(State {
                    devices: 0,
                    blocked: 0,
                    current,
                    layout,
                }),
            }),
            GFP_KERNEL,
        );
        if pe.is_err() {
            port.release(dev)?;
        }
        pe
    }

    /// The PE as firmware knows it.
    pub(crate) fn calls(&self) -> &C {
        &self.calls
    }

    /// The windows that a paging domain for this PE has. May sleep.
    pub(crate) fn layout(&self) -> Layout {
        self.state.lock().layout.clone()
    }

    /// What has been asked of firmware for this PE.
    pub(crate) fn stats(&self) -> &Stats {
        &self.stats
    }

    /// The number of TCEs that are present in the tables the PE translates through. May sleep.
    pub(crate) fn populated(&self) -> u64 {
        match &self.state.lock().current {
            Current::Paging(_, space) => space.populated(),
            _ => 0,
        }
    }

    /// The number of 4 KiB nodes of the tables the PE translates through. May sleep.
    pub(crate) fn table_nodes(&self) -> u64 {
        match &self.state.lock().current {
            Current::Paging(_, space) => space.table_nodes(),
            _ => 0,
        }
    }

    /// Adds a device, which is attached to nothing yet. May sleep.
    pub(crate) fn join(&self) {
        let mut state = self.state.lock();
        state.devices = state.devices.saturating_add(1);
    }

    /// Removes the device `dev`. Returns whether it was the last one. May sleep.
    ///
    /// After the last one the platform owns the windows again.
    pub(crate) fn leave(&self, dev: &Device, was_blocked: bool) -> bool {
        let mut guard = self.state.lock();
        let state = &mut *guard;
        state.devices = state.devices.saturating_sub(1);
        state.count_blocked(was_blocked, false);
        let result = if state.devices == 0 {
            self.give_back(state, dev)
        } else if state.blocked == state.devices {
            self.block(state, dev)
        } else {
            Ok(())
        };
        if let Err(e) = result {
            dev_err!(dev, "firmware does not take back the DMA windows ({e:?})\n");
        }
        state.devices == 0
    }

    /// Attaches the device `dev` to `target`. May sleep.
    ///
    /// `was_blocked` says whether it is attached to the blocked domain now. On error the PE is as
    /// it was. Fails with [`EINVAL`] if the domain was made for other windows, and with what
    /// firmware answers.
    pub(crate) fn attach(&self, dev: &Device, target: &Target<'_>, was_blocked: bool) -> Result {
        let mut guard = self.state.lock();
        let state = &mut *guard;
        let blocks = matches!(target, Target::Blocked);
        match target {
            // Some other device is not blocked: the PE goes on.
            Target::Blocked if state.others_at_work(was_blocked) > 0 => (),
            Target::Blocked => self.block(state, dev)?,
            Target::Platform => self.give_back(state, dev)?,
            Target::Paging(space) => self.translate(state, dev, space)?,
        }
        state.count_blocked(was_blocked, blocks);
        Ok(())
    }

    /// Makes sure that the driver owns the windows.
    fn own(&self, state: &mut State, dev: &Device) -> Result<Arc<dyn Firmware>> {
        match &state.current {
            Current::Blocked(port) | Current::Paging(port, _) => Ok(port.clone()),
            Current::Platform => {
                let port = firmware::claim(&self.calls, dev, &self.common, &self.stats)?;
                state.layout = port.layout().clone();
                state.current = Current::Blocked(port.clone());
                Ok(port)
            }
        }
    }

    fn block(&self, state: &mut State, dev: &Device) -> Result {
        let port = self.own(state, dev)?;
        if let Current::Paging(_, space) = &state.current {
            space.detach(&port, dev);
        }
        state.current = Current::Blocked(port);
        Ok(())
    }

    fn give_back(&self, state: &mut State, dev: &Device) -> Result {
        if let Current::Platform = state.current {
            return Ok(());
        }
        self.block(state, dev)?;
        self.own(state, dev)?.release(dev)?;
        state.current = Current::Platform;
        Ok(())
    }

    fn translate(&self, state: &mut State, dev: &Device, space: &Arc<Space>) -> Result {
        if let Current::Paging(_, current) = &state.current {
            if Arc::ptr_eq(current, space) {
                return Ok(());
            }
        }
        let old = state.current.clone();
        let result = self.switch(state, dev, space);
        if result.is_err() {
            let restored = match &old {
                Current::Blocked(_) => self.block(state, dev),
                Current::Platform => self.give_back(state, dev),
                Current::Paging(_, old) => self.switch(state, dev, old),
            };
            if let Err(e) = restored {
                dev_err!(dev, "cannot restore DMA of the PE ({e:?}); it is blocked\n");
            }
        }
        result
    }

    fn switch(&self, state: &mut State, dev: &Device, space: &Arc<Space>) -> Result {
        let port = self.own(state, dev)?;
        if let Current::Paging(_, current) = &state.current {
            if Arc::ptr_eq(current, space) {
                return Ok(());
            }
        }
        // What can fail for reasons of our own comes before the old domain loses the PE.
        if !space.layout().is_compatible(port.layout()) {
            return Err(EINVAL);
        }
        let bond = Bond::new(port.clone())?;
        self.block(state, dev)?;
        space.attach(bond, &port, dev)?;
        state.current = Current::Paging(port, space.clone());
        Ok(())
    }
}
