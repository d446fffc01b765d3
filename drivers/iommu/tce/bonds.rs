// SPDX-License-Identifier: GPL-2.0

//! The PEs that translate through a domain: a list that map and unmap read without a lock.
//!
//! Map and unmap run in any context and on all CPUs at once, and almost always find one PE. So the
//! list is read under RCU. Attaching and detaching sleep and are rare; they take a mutex, and wait
//! for a grace period before a bond that readers may see goes away.

use crate::firmware::Firmware;
use core::{
    mem::MaybeUninit,
    ptr::{
        self,
        NonNull, //
    }, //
};
use kernel::{
    new_mutex,
    powerpc::{
        mem::read,
        window::WindowNumber, //
    },
    prelude::*,
    sync::{
        atomic::{
            Atomic,
            Relaxed,
            Release, //
        },
        rcu,
        Arc,
        Mutex, //
    }, //
};

/// The memory of a bond that has gone.
pub(crate) type Spare = KBox<MaybeUninit<Bond>>;

/// Values of [`Bond::limit`]: what is not published to the PE.
const NONE: i32 = 0;
const HIGH: i32 = 1;
const ALL: i32 = 2;

/// The tie between a domain and the windows of one PE.
///
/// # Invariants
///
/// `raw` is what is in `port`: a walk takes it from here, because the way through an [`Arc`] to an
/// object of unknown size is longer.
pub(crate) struct Bond {
    port: Arc<dyn Firmware>,
    raw: NonNull<dyn Firmware>,
    limit: Atomic<i32>,
    next: Atomic<*mut Bond>,
}

impl Bond {
    /// Makes a bond that is on no list yet. If there is a `spare`, this cannot fail. May sleep.
    pub(crate) fn new(port: Arc<dyn Firmware>, spare: Option<Spare>) -> Result<KBox<Self>> {
        // INVARIANT: It points into `port`.
        let bond = Self {
            raw: NonNull::from(&*port),
            port,
            limit: Atomic::new(NONE),
            next: Atomic::new(ptr::null_mut()),
        };
        match spare {
            Some(spare) => Ok(spare.write(bond)),
            None => Ok(KBox::new(bond, GFP_KERNEL)?),
        }
    }

    /// The PE's windows.
    #[inline(always)]
    pub(crate) fn port(&self) -> &dyn Firmware {
        // SAFETY: By the type invariants; `port` keeps it.
        unsafe { self.raw.as_ref() }
    }

    /// Whether all that is new is published to the PE.
    #[inline(always)]
    pub(crate) fn takes_all(&self) -> bool {
        read(&self.limit) == NONE
    }

    /// Whether what is new in a window is published to the PE, which is not so when it leaves.
    ///
    /// Fails with [`EADDRINUSE`] if somebody else has the window.
    #[cold]
    pub(crate) fn takes(&self, window: WindowNumber) -> Result<bool> {
        match self.limit.load(Relaxed) {
            ALL => Ok(false),
            HIGH if window == WindowNumber::High => Err(EADDRINUSE),
            _ => Ok(true),
        }
    }

    /// The next bond on the list. Any context.
    #[inline(always)]
    pub(crate) fn next<'a>(&'a self, rcu: &'a rcu::Guard) -> Option<&'a Bond> {
        follow(&self.next, rcu)
    }
}

/// Reads a pointer of a list: `rcu_dereference()`, without a call.
#[inline(always)]
fn follow<'a>(at: &'a Atomic<*mut Bond>, _rcu: &'a rcu::Guard) -> Option<&'a Bond> {
    // SAFETY: By the type invariants of `Bonds` this is null or a bond that is not freed before a
    // grace period after it left the list, and the RCU lock is held for `'a`. The address
    // dependency orders this after the release in `add`.
    unsafe { read(at).as_ref() }
}

// SAFETY: `raw` points to what `port` holds, and that can be sent and shared.
unsafe impl Send for Bond {}

// SAFETY: As above.
unsafe impl Sync for Bond {}

/// A list of bonds.
///
/// # Invariants
///
/// `head` and the `next` of each bond on the list are null or a `KBox<Bond>` that the list owns.
/// They change only under `writers`, and a bond is freed a grace period after it left the list.
#[pin_data(PinnedDrop)]
pub(crate) struct Bonds {
    head: Atomic<*mut Bond>,
    #[pin]
    writers: Mutex<()>,
}

impl Bonds {
    /// Makes an empty list.
    pub(crate) fn new() -> impl PinInit<Self> {
        // INVARIANT: Empty.
        pin_init!(Self {
            head: Atomic::new(ptr::null_mut()),
            writers <- new_mutex!(()),
        })
    }

    /// The first bond. Any context.
    #[inline(always)]
    pub(crate) fn first<'a>(&'a self, rcu: &'a rcu::Guard) -> Option<&'a Bond> {
        follow(&self.head, rcu)
    }

    /// Whether there is none. Any context.
    pub(crate) fn is_empty(&self) -> bool {
        self.head.load(Relaxed).is_null()
    }

    /// Adds a bond. May sleep; cannot fail.
    pub(crate) fn add(&self, bond: KBox<Bond>) {
        let _writers = self.writers.lock();
        bond.next.store(self.head.load(Relaxed), Relaxed);
        // INVARIANT: The list owns the bond from here on.
        self.head.store(KBox::into_raw(bond), Release);
    }

    /// Returns the pointer that leads to the bond with `port`, if there is one.
    ///
    /// The caller holds `writers`.
    fn find(&self, port: &Arc<dyn Firmware>) -> Option<&Atomic<*mut Bond>> {
        let mut at = &self.head;
        loop {
            // SAFETY: The caller holds `writers`, so no bond leaves the list.
            let bond = unsafe { at.load(Relaxed).as_ref() }?;
            if Arc::ptr_eq(&bond.port, port) {
                return Some(at);
            }
            at = &bond.next;
        }
    }

    /// Stops publishing to `port`. Everybody has noticed after a grace period. May sleep; cannot
    /// fail.
    pub(crate) fn close(&self, port: &Arc<dyn Firmware>) {
        self.limit(port, ALL);
    }

    /// Has what is new in the high window refused for `port`, or published again. As
    /// [`close`](Self::close).
    pub(crate) fn refuse_high(&self, port: &Arc<dyn Firmware>, refuse: bool) {
        self.limit(port, if refuse { HIGH } else { NONE });
    }

    fn limit(&self, port: &Arc<dyn Firmware>, limit: i32) {
        let _writers = self.writers.lock();
        let Some(at) = self.find(port) else { return };
        // SAFETY: As in `find`; `at` holds a bond and `writers` is still held.
        if let Some(bond) = unsafe { at.load(Relaxed).as_ref() } {
            // Who leaves comes back as another bond.
            if bond.limit.load(Relaxed) != ALL {
                bond.limit.store(limit, Relaxed);
            }
        }
    }

    /// Takes `port` off the list and forgets it. Sleeps; cannot fail.
    pub(crate) fn remove(&self, port: &Arc<dyn Firmware>) -> Option<Spare> {
        let bond = {
            let _writers = self.writers.lock();
            let at = self.find(port)?;
            let bond = at.load(Relaxed);
            // SAFETY: As in `find`; `at` holds a bond and `writers` is still held.
            at.store(unsafe { (*bond).next.load(Relaxed) }, Release);
            bond
        };
        rcu::synchronize_rcu();
        // SAFETY: The list owned the bond; it left the list a grace period ago, so no reader has
        // it.
        Some(KBox::drop_contents(unsafe { KBox::from_raw(bond) }))
    }
}

#[pinned_drop]
impl PinnedDrop for Bonds {
    fn drop(self: Pin<&mut Self>) {
        let mut at = self.head.load(Relaxed);
        while !at.is_null() {
            // SAFETY: The list owns its bonds, and with `&mut self` there are no readers.
            let bond = unsafe { KBox::from_raw(at) };
            at = bond.next.load(Relaxed);
        }
    }
}
