// SPDX-License-Identifier: GPL-2.0

//! Notification that an address space comes to its end.
//!
//! C header: [`include/linux/mmu_notifier.h`](srctree/include/linux/mmu_notifier.h)

use super::{
    Mm,
    MmWithUser, //
};
use crate::{
    bindings,
    container_of,
    error::to_result,
    prelude::*,
    sync::atomic::{
        Acquire,
        Atomic,
        Full, //
    },
    types::Opaque, //
};

/// What to do when an address space comes to its end.
pub trait Release: Send + Sync + 'static {
    /// The last user of `mm` is gone, and its pages are freed when this returns.
    ///
    /// Called at most once, in process context, by whichever task dropped the last user. May sleep,
    /// but the exit of a process, and the OOM killer, wait for it.
    ///
    /// The SRCU lock of all notifiers is held, and dropping a user or a notifier waits until it is
    /// free. So this must not
    ///
    /// * drop a [`Notifier`], of whatever address space;
    /// * drop the last `ARef<MmWithUser>` of another address space (use
    ///   [`MmWithUser::into_mmput_async`]);
    /// * wait for a task that does one of these, or take a lock that is held meanwhile.
    fn release(self: Pin<&Self>, mm: &Mm);
}

/// Nothing has happened yet.
const LIVE: u32 = 0;
/// The address space has come to its end.
const RELEASED: u32 = 1;
/// The notifier was dropped first.
const DROPPED: u32 = 2;

/// Calls [`Release::release`] at the end of an address space, unless it is dropped before.
///
/// It stands for a `struct mmu_notifier` with no other callback than `release`. It does not keep
/// the address space in use.
///
/// C calls `release` both at the end of the address space and when the notifier is unregistered,
/// also at the same time. Here the first of the two decides, and `data` sees at most one call: when
/// dropping begins first there is none, and when the end comes first, dropping waits for it.
///
/// # Invariants
///
/// - `raw` is registered, so its `mm` is counted with `mmgrab`.
/// - `state` starts as `LIVE` and changes at most once.
///
/// # Examples
///
/// ```
/// use kernel::mm::{
///     notifier::{
///         Notifier,
///         Release, //
///     },
///     Mm,
///     MmWithUser, //
/// };
///
/// struct Tell;
///
/// impl Release for Tell {
///     fn release(self: Pin<&Self>, _mm: &Mm) {
///         pr_info!("no more users\n");
///     }
/// }
///
/// fn watch(mm: &MmWithUser) -> Result<Pin<KBox<Notifier<Tell>>>> {
///     KBox::pin_init(Notifier::new(mm, Ok(Tell)), GFP_KERNEL)
/// }
/// # let _ = watch;
/// ```
#[pin_data(PinnedDrop)]
pub struct Notifier<T: Release> {
    #[pin]
    raw: Opaque<bindings::mmu_notifier>,
    state: Atomic<u32>,
    #[pin]
    data: T,
}

// SAFETY: The C side has its own lock for the list of notifiers, and `T` is `Send`.
unsafe impl<T: Release> Send for Notifier<T> {}

// SAFETY: Shared references only read `raw`, change `state` atomically, and `T` is `Sync`.
unsafe impl<T: Release> Sync for Notifier<T> {}

impl<T: Release> Notifier<T> {
    const OPS: bindings::mmu_notifier_ops = bindings::mmu_notifier_ops {
        release: Some(Self::release_callback),
        ..pin_init::zeroed()
    };

    /// Makes a notifier for `mm`.
    ///
    /// Stands for `mmu_notifier_register()`. May sleep; the caller must not hold the `mmap` lock of
    /// `mm`. The call of `data` may come before this returns.
    ///
    /// Fails with [`ENOMEM`], or [`EINTR`] if the task has a signal pending, or with what `data`
    /// fails with.
    pub fn new<'a>(
        mm: &'a MmWithUser,
        data: impl PinInit<T, Error> + 'a,
    ) -> impl PinInit<Self, Error> + 'a {
        try_pin_init!(Self {
            state: Atomic::new(LIVE),
            data <- data,
            // The callback may run at once, so this comes last.
            // INVARIANT: If this fails there is no value.
            raw <- Opaque::try_ffi_init(move |raw: *mut bindings::mmu_notifier| {
                // SAFETY: `raw` can be written.
                unsafe {
                    raw.write(bindings::mmu_notifier {
                        ops: const { &Self::OPS },
                        ..pin_init::zeroed()
                    })
                };

                // SAFETY: `raw` is initialised and pinned, and `drop` unregisters it. If it never
                // runs, the memory stays, and `T` borrows nothing; the code stays but for a module
                // that forgets the value and is unloaded, as with any callback. `mm` has a user
                // during the call.
                to_result(unsafe { bindings::mmu_notifier_register(raw, mm.as_raw()) })
            }),
        })
    }

    /// Returns the data.
    pub fn data<'a>(self: Pin<&'a Self>) -> Pin<&'a T> {
        ::pin_init::assert_pinned!(Notifier<T>, data, T, inline);

        // SAFETY: `data` is structurally pinned.
        unsafe { self.map_unchecked(|this| &this.data) }
    }

    /// Says whether the address space has come to its end: the call of `data` has begun.
    pub fn is_released(&self) -> bool {
        self.state.load(Acquire) == RELEASED
    }

    /// # Safety
    ///
    /// For `mm/mmu_notifier.c`: `raw` must be part of a `Notifier<T>` that is registered for `mm`,
    /// and unregistering must wait for the end of the call.
    unsafe extern "C" fn release_callback(
        raw: *mut bindings::mmu_notifier,
        mm: *mut bindings::mm_struct,
    ) {
        // SAFETY: By the safety requirements; a registered notifier is pinned.
        let this =
            unsafe { Pin::new_unchecked(&*container_of!(Opaque::cast_from(raw), Self, raw)) };

        if this.state.cmpxchg(LIVE, RELEASED, Full).is_ok() {
            // SAFETY: The caller has a reference to `mm`.
            this.data().release(unsafe { Mm::from_raw(mm) });
        }
    }
}

#[pinned_drop]
impl<T: Release> PinnedDrop for Notifier<T> {
    fn drop(self: Pin<&mut Self>) {
        let raw = self.raw.get();

        // If this fails the call has begun, and unregistering waits for its end.
        self.state.cmpxchg(LIVE, DROPPED, Full).ok();
        // SAFETY: By the type invariants `raw` is registered, and this is the only place that
        // unregisters it. C set `mm` when it was.
        unsafe { bindings::mmu_notifier_unregister(raw, (*raw).mm) };
    }
}
