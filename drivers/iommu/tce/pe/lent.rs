// SPDX-License-Identifier: GPL-2.0

//! A process that has one of the windows of a PE.
//!
//! The hardware chooses between two translations by bit 59 of the bus address. While a process is
//! bound to a device, the translation with the bit set goes through the tables of the process, and
//! the kernel keeps the other one for its own DMA.
//!
//! The PE is in a domain of the kernel meanwhile, and when it leaves that domain, for whatever
//! reason, the process loses the window first.

use super::{
    Current,
    Pe,
    Phase,
    State, //
};
use crate::{
    bonds::Bond,
    firmware::{
        calls::Calls,
        Firmware, //
    },
    ownership::Devices,
    space::{
        Part,
        Space, //
    }, //
};
use core::mem;
use kernel::{
    device::Device,
    prelude::*,
    sync::{
        aref::ARef,
        Arc, //
    },
    task::Pid, //
};

/// Who has the high window instead of the kernel.
pub(super) struct Lent {
    space: Arc<Space>,
    /// The device that the process is bound to.
    dev: ARef<Device>,
    pid: Pid,
    /// The process is not bound any more, but firmware did not close the window.
    is_over: bool,
}

impl Lent {
    pub(super) fn pid(&self) -> Pid {
        self.pid
    }

    /// Lets the process have no more than it has, when the system goes down.
    pub(super) fn silence(&self, port: &Arc<dyn Firmware>) {
        self.space.silence(port);
    }

    /// Takes all access from it, a grace period later. The caller closes all windows next, and
    /// says so if firmware refuses.
    pub(super) fn cut(&self, port: &Arc<dyn Firmware>, dev: &Device) {
        self.space.cut(port, dev, Part::High).ok();
    }
}

impl<C: Calls + Devices> Pe<C> {
    /// Gives the high window to the process `pid`, whose memory is in the tables of `space`. May
    /// sleep.
    ///
    /// On error nothing has changed. Fails with [`EUSERS`] if another process has it, with
    /// [`EADDRINUSE`] if the kernel has mappings there, with [`EOPNOTSUPP`] if the PE has several
    /// devices or is not in a domain of the driver, with [`EINVAL`] if `space` was made for other
    /// windows, with [`ESHUTDOWN`] if the system goes down, and with what firmware answers.
    pub(crate) fn lend(&self, dev: &Device, space: &Arc<Space>, pid: Pid) -> Result {
        let mut guard = self.state.lock();
        let state = &mut *guard;
        if state.phase != Phase::Up {
            return Err(ESHUTDOWN);
        }
        if state.lent.as_ref().is_some_and(|lent| lent.is_over) {
            self.take_back(state, dev);
        }
        if let Some(lent) = &state.lent {
            let same = Arc::ptr_eq(&lent.space, space);
            return same.then_some(()).ok_or(EUSERS);
        }
        let Current::Paging(port, kernel) = state.current.clone() else {
            return Err(EOPNOTSUPP);
        };
        if !state.members.is_only(dev) {
            return Err(EOPNOTSUPP);
        }
        if !space.layout().is_compatible(port.layout()) {
            return Err(EINVAL);
        }
        // Closing one window would close all.
        if port.is_broken() {
            return Err(EIO);
        }
        let bond = Bond::new(port.clone(), None)?;
        kernel.give_high(&port, dev)?;
        let result = space.attach(bond, &port, dev, Part::High);
        state.lent = Some(Lent {
            space: space.clone(),
            dev: dev.into(),
            pid,
            is_over: false,
        });
        if result.is_err() {
            self.take_back(state, dev);
        }
        result
    }

    /// Takes the high window back from the process that is bound to `dev`, if there is one. May
    /// sleep; cannot fail.
    ///
    /// When this returns, no DMA of the PE reaches the memory of the process. Where firmware does
    /// not close the window, that is so for what is taken out of the tables of the process, and
    /// nothing is put in.
    pub(crate) fn reclaim(&self, dev: &Device) {
        let mut guard = self.state.lock();
        let state = &mut *guard;
        let is_bound = |lent: &Lent| core::ptr::eq::<Device>(&*lent.dev, dev);
        if state.lent.as_ref().is_some_and(is_bound) {
            self.take_back(state, dev);
        }
    }

    /// The process that has the high window. May sleep.
    pub(crate) fn process(&self) -> Option<Pid> {
        self.state.lock().lent.as_ref().map(Lent::pid)
    }

    /// Gives the high window back to the domain of the kernel, as far as firmware lets it.
    pub(super) fn take_back(&self, state: &mut State, dev: &Device) {
        let (Some(mut lent), Current::Paging(port, kernel) | Current::Stuck(port, kernel)) =
            (state.lent.take(), state.current.clone())
        else {
            return;
        };
        if lent.space.detach(&port, dev, Part::High).is_err() {
            // The PHB may walk the tables still.
            lent.is_over = true;
            state.lent = Some(lent);
            return;
        }
        // What is closed when the system goes down stays closed.
        if state.phase != Phase::Up {
            return;
        }
        let opened = kernel.take_high(&port, dev);
        if let Err(e) = &opened {
            dev_err!(dev, "DMA window 1 stays closed ({e:?})\n");
        }
        state.is_hidden = opened.is_err();
    }

    /// Takes note that the windows of `port` are closed, also one that was not to be closed or
    /// opened before. When they are open again, both are the domain's.
    pub(super) fn all_closed(state: &mut State, port: &Arc<dyn Firmware>, kernel: &Space) {
        let lent = state.lent.take();
        let is_hidden = mem::take(&mut state.is_hidden) || lent.is_some();
        if let Some(lent) = lent {
            lent.space.forget(port);
        }
        if is_hidden {
            kernel.show_high(port);
        }
    }

    /// Gives up a window that could not be closed, with the tables of its process.
    pub(super) fn abandon_lent(state: &mut State, port: &Arc<dyn Firmware>) {
        if let Some(lent) = state.lent.take() {
            lent.space.give_up(port);
        }
    }
}
