// SPDX-License-Identifier: GPL-2.0

//! Work items that do not outlive their owner.

use crate::{
    bindings,
    container_of,
    prelude::*,
    sync::LockClassKey,
    types::Opaque, //
};
use core::ops::Deref;

/// What an [`OwnedWork`] does.
pub trait Task: Send + Sync + 'static {
    /// Does it. May sleep.
    fn run(self: Pin<&Self>);
}

/// A value with a work item that works on it.
///
/// Other than a [`Work`](super::Work) it needs no reference count: when it drops it waits for what
/// is under way, and forgets what is not. So the code of the task can go afterwards, as when a
/// module unloads. The task must not drop it.
///
/// # Examples
///
/// ```
/// use kernel::{
///     static_lock_class,
///     sync::atomic::{
///         Atomic,
///         Relaxed, //
///     },
///     workqueue::{
///         OwnedWork,
///         Task, //
///     }, //
/// };
///
/// struct Counter(Atomic<u32>);
///
/// impl Task for Counter {
///     fn run(self: Pin<&Self>) {
///         self.0.add(1, Relaxed);
///     }
/// }
///
/// let counter = OwnedWork::new(Counter(Atomic::new(0)), c"Counter", static_lock_class!());
/// let counter = KBox::pin_init(counter, GFP_KERNEL)?;
///
/// counter.start();
/// # Ok::<(), Error>(())
/// ```
///
/// # Invariants
///
/// `work` is initialised.
#[pin_data(PinnedDrop)]
pub struct OwnedWork<T: Task> {
    #[pin]
    work: Opaque<bindings::work_struct>,
    #[pin]
    target: T,
}

// SAFETY: A work item can be used from any thread; the target says for itself.
unsafe impl<T: Task> Send for OwnedWork<T> {}

// SAFETY: As above.
unsafe impl<T: Task> Sync for OwnedWork<T> {}

impl<T: Task> OwnedWork<T> {
    /// Makes one.
    pub fn new(
        target: impl PinInit<T>,
        name: &'static CStr,
        key: Pin<&'static LockClassKey>,
    ) -> impl PinInit<Self> {
        // INVARIANT: The work item is initialised.
        pin_init!(Self {
            work <- Opaque::ffi_init(|work| {
                // SAFETY: `work` can be written, and becomes pinned.
                unsafe {
                    bindings::init_work_with_key(
                        work,
                        Some(Self::run),
                        false,
                        name.as_char_ptr(),
                        key.as_ptr(),
                    )
                }
            }),
            target <- target,
        })
    }

    /// Has the task done soon, once however often this is called before it begins. Any context.
    #[inline(never)]
    pub fn start(&self) {
        // SAFETY: The work item is initialised and pinned, and `drop` waits for it.
        unsafe {
            bindings::queue_work_on(
                // CAST: The number of no CPU fits.
                bindings::wq_misc_consts_WORK_CPU_UNBOUND as c_int,
                bindings::system_dfl_long_wq,
                self.work.get(),
            )
        };
    }

    /// # Safety
    ///
    /// For the workqueue: `work` must be part of a `Self`, which waits for it when it drops.
    unsafe extern "C" fn run(work: *mut bindings::work_struct) {
        // SAFETY: By the safety requirements.
        let this = unsafe { &*container_of!(Opaque::cast_from(work), Self, work) };

        // SAFETY: The target is structurally pinned.
        unsafe { Pin::new_unchecked(&this.target) }.run();
    }
}

impl<T: Task> Deref for OwnedWork<T> {
    type Target = T;

    #[inline(always)]
    fn deref(&self) -> &T {
        &self.target
    }
}

#[pinned_drop]
impl<T: Task> PinnedDrop for OwnedWork<T> {
    fn drop(self: Pin<&mut Self>) {
        // SAFETY: By the type invariants.
        unsafe { bindings::cancel_work_sync(self.work.get()) };
    }
}
