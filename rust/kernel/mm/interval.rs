// SPDX-License-Identifier: GPL-2.0

//! Notification that a part of an address space changes.
//!
//! C header: [`include/linux/mmu_notifier.h`](srctree/include/linux/mmu_notifier.h)

use super::MmWithUser;
use crate::{
    bindings,
    container_of,
    error::to_result,
    new_spinlock,
    prelude::*,
    sync::SpinLock,
    types::Opaque, //
};

/// What happens to a part of an address space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// The process loses the pages: it unmaps them, gives them back, or exits.
    Gone,
    /// The pages stay, but what the process may do with them changes, also for a moment.
    Protection,
}

impl Change {
    fn from_raw(event: bindings::mmu_notifier_event) -> Self {
        match event {
            bindings::mmu_notifier_event_MMU_NOTIFY_PROTECTION_VMA
            | bindings::mmu_notifier_event_MMU_NOTIFY_PROTECTION_PAGE
            | bindings::mmu_notifier_event_MMU_NOTIFY_SOFT_DIRTY => Self::Protection,
            _ => Self::Gone,
        }
    }
}

/// What to do when a part of an address space changes.
pub trait Invalidate: Send + Sync + 'static {
    /// Something in the range changes, perhaps all of it.
    ///
    /// May be called many times. A spinlock is held, so it must not sleep; when it returns the
    /// change happens, and nobody may rely on what was there before.
    fn invalidate(self: Pin<&Self>, change: Change);
}

/// A state of the range, from before it was looked at.
#[derive(Clone, Copy)]
pub struct Seen(usize);

/// Calls [`Invalidate::invalidate`] when something changes in a range of addresses.
///
/// It stands for a `struct mmu_interval_notifier`, with the lock that its users need. It does not
/// keep the address space in use.
///
/// # Invariants
///
/// `raw` is registered, so its `mm` is counted with `mmgrab`.
#[pin_data(PinnedDrop)]
pub struct Interval<T: Invalidate> {
    #[pin]
    raw: Opaque<bindings::mmu_interval_notifier>,
    /// Orders changes against those who rely on what they saw.
    #[pin]
    lock: SpinLock<()>,
    #[pin]
    data: T,
}

// SAFETY: The C side has its own lock for the tree of notifiers, and `T` is `Send`.
unsafe impl<T: Invalidate> Send for Interval<T> {}

// SAFETY: Shared references only read `raw`, under the locks of C and `lock`, and `T` is `Sync`.
unsafe impl<T: Invalidate> Sync for Interval<T> {}

impl<T: Invalidate> Interval<T> {
    const OPS: bindings::mmu_interval_notifier_ops = bindings::mmu_interval_notifier_ops {
        invalidate: Some(Self::invalidate_callback),
        ..pin_init::zeroed()
    };

    /// Makes a notifier for the `len` bytes from `start` on of `mm`.
    ///
    /// Stands for `mmu_interval_notifier_insert()`. May sleep; the caller must not hold the `mmap`
    /// lock of `mm`. Fails with [`EOVERFLOW`] if `len` is 0 or more than there is, with [`ENOMEM`],
    /// with [`EINTR`] if it is the first notifier of `mm` and a signal is pending, or with what
    /// `data` fails with.
    pub fn new<'a>(
        mm: &'a MmWithUser,
        start: usize,
        len: usize,
        data: impl PinInit<T, Error> + 'a,
    ) -> impl PinInit<Self, Error> + 'a {
        try_pin_init!(Self {
            lock <- new_spinlock!(()),
            data <- data,
            // The callback may run at once, so this comes last.
            // INVARIANT: If this fails there is no value.
            raw <- Opaque::try_ffi_init(move |raw: *mut bindings::mmu_interval_notifier| {
                // SAFETY: `raw` can be written.
                unsafe { raw.write(pin_init::zeroed()) };
                // SAFETY: `raw` is pinned, and `drop` removes it. If that never runs, the memory
                // stays, and `T` borrows nothing; the code stays but for a module that forgets the
                // value and is unloaded, as with any callback. `mm` has a user during the call.
                to_result(unsafe {
                    bindings::mmu_interval_notifier_insert(
                        raw,
                        mm.as_raw(),
                        start,
                        len,
                        const { &Self::OPS },
                    )
                })
            }),
        })
    }

    /// Returns the data.
    pub fn data<'a>(self: Pin<&'a Self>) -> Pin<&'a T> {
        ::pin_init::assert_pinned!(Interval<T>, data, T, inline);

        // SAFETY: `data` is structurally pinned.
        unsafe { self.map_unchecked(|this| &this.data) }
    }

    /// Waits until no change is under way. What is looked at from now on can be relied on if
    /// [`unless_changed`](Self::unless_changed) says so. Sleeps.
    ///
    /// Must not be called with the `mmap` lock held.
    pub fn begin(&self) -> Seen {
        // SAFETY: By the type invariants `raw` is registered.
        Seen(unsafe { bindings::mmu_interval_read_begin(self.raw.get()) })
    }

    /// Runs `f` if nothing has changed since `seen`, and lets no change happen meanwhile.
    ///
    /// A spinlock is held, so `f` must not sleep.
    pub fn unless_changed<R>(&self, seen: Seen, f: impl FnOnce() -> R) -> Option<R> {
        let _lock = self.lock.lock();
        // SAFETY: By the type invariants `raw` is registered, and the lock is that of the callback.
        let changed = unsafe { bindings::mmu_interval_read_retry(self.raw.get(), seen.0) };
        (!changed).then(f)
    }

    /// # Safety
    ///
    /// For `mm/mmu_notifier.c`: `raw` must be part of an `Interval<T>` that is registered, and
    /// removing it must wait for the end of the call.
    unsafe extern "C" fn invalidate_callback(
        raw: *mut bindings::mmu_interval_notifier,
        range: *const bindings::mmu_notifier_range,
        seq: usize,
    ) -> bool {
        // SAFETY: By the safety requirements; a registered notifier is pinned.
        let this =
            unsafe { Pin::new_unchecked(&*container_of!(Opaque::cast_from(raw), Self, raw)) };
        // SAFETY: C passes a valid range.
        let change = Change::from_raw(unsafe { (*range).event });

        let _lock = this.lock.lock();
        // SAFETY: `raw` is registered, and the lock is the one of `unless_changed`.
        unsafe { bindings::mmu_interval_set_seq(raw, seq) };
        this.data().invalidate(change);
        true
    }
}

#[pinned_drop]
impl<T: Invalidate> PinnedDrop for Interval<T> {
    fn drop(self: Pin<&mut Self>) {
        // SAFETY: By the type invariants `raw` is registered, and this is the only place that
        // removes it.
        unsafe { bindings::mmu_interval_notifier_remove(self.raw.get()) };
    }
}
