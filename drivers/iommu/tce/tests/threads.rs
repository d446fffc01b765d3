// SPDX-License-Identifier: GPL-2.0

//! Something that runs beside a test, and a way to stop it in the middle of a firmware call.

use crate::{
    fake::Event,
    tests::Rig, //
};
use kernel::{
    prelude::*,
    sync::{
        atomic::{
            Atomic,
            Full,
            Relaxed, //
        },
        Arc,
        Completion, //
    },
    time::{
        delay::udelay,
        Delta, //
    },
    workqueue::{
        self,
        impl_has_work,
        new_work,
        Work,
        WorkItem, //
    }, //
};

/// Something that runs beside the test.
#[pin_data]
pub(super) struct Thread {
    f: Arc<dyn Fn() + Send + Sync>,
    #[pin]
    work: Work<Thread>,
    #[pin]
    done: Completion,
}

impl_has_work! {
    impl HasWork<Self> for Thread { self.work }
}

impl WorkItem for Thread {
    type Pointer = Arc<Self>;

    fn run(this: Arc<Self>) {
        (this.f)();
        this.done.complete_all();
    }
}

impl Thread {
    pub(super) fn spawn(f: impl Fn() + Send + Sync + 'static) -> Result<Arc<Self>> {
        let f = Arc::new(f, GFP_KERNEL)?;
        let this = Arc::pin_init(
            pin_init!(Self {
                f,
                work <- new_work!("Thread::work"),
                done <- Completion::new(),
            }),
            GFP_KERNEL,
        )?;
        workqueue::system_unbound().enqueue(this.clone()).ok();
        Ok(this)
    }

    pub(super) fn join(&self) {
        self.done.wait_for_completion();
    }
}

/// Stops the first call of a kind, until it is opened or for 300 ms.
///
/// A correct driver never opens it in time, because it waits for the call. Where it must not wait,
/// the gate is [patient](Self::patient).
#[pin_data]
pub(super) struct Gate {
    event: Event,
    patience: u32,
    used: Atomic<bool>,
    pub(super) open: Atomic<bool>,
    pub(super) passed: Atomic<bool>,
    pub(super) missed: Atomic<bool>,
    #[pin]
    pub(super) arrived: Completion,
}

impl Gate {
    pub(super) fn new(event: Event) -> Result<Arc<Self>> {
        Self::with(event, 3000)
    }

    /// It stays shut for 5 s, however slow the machine is.
    pub(super) fn patient(event: Event) -> Result<Arc<Self>> {
        Self::with(event, 50_000)
    }

    fn with(event: Event, patience: u32) -> Result<Arc<Self>> {
        Arc::pin_init(
            pin_init!(Self {
                event,
                patience,
                used: Atomic::new(false),
                open: Atomic::new(false),
                passed: Atomic::new(false),
                missed: Atomic::new(false),
                arrived <- Completion::new(),
            }),
            GFP_KERNEL,
        )
    }

    pub(super) fn call(&self, event: Event) {
        if event != self.event || self.used.xchg(true, Full) {
            return;
        }
        self.arrived.complete_all();
        for _ in 0..self.patience {
            if self.open.load(Relaxed) {
                break;
            }
            udelay(Delta::from_micros(100));
        }
        self.passed.store(true, Relaxed);
    }

    /// Waits until somebody is at the gate, for 5 s at most; then `missed` is set. Any context.
    pub(super) fn watch(&self) {
        for _ in 0..50_000 {
            if self.used.load(Relaxed) {
                return;
            }
            udelay(Delta::from_micros(100));
        }
        self.missed.store(true, Relaxed);
    }

    /// Makes the calls of `rig` go through the gate.
    pub(super) fn put_up(self: &Arc<Self>, rig: &Rig) -> Result {
        let gate = self.clone();
        rig.fake
            .hook(Some(Arc::new(move |event| gate.call(event), GFP_KERNEL)?));
        Ok(())
    }
}
