// SPDX-License-Identifier: GPL-2.0

//! What is done last when the system goes down.
//!
//! C header: [`include/linux/syscore_ops.h`](srctree/include/linux/syscore_ops.h)

use crate::{
    bindings,
    prelude::*,
    types::Opaque, //
};

/// Who has something to do when the system goes down or hands over to another kernel.
pub trait Shutdown: Send + Sync + 'static {
    /// All devices have been shut down, and all CPUs are still at work.
    ///
    /// May sleep. This is not called when the kernel panics.
    fn shutdown(&self);
}

/// Has [`Shutdown::shutdown`] called, until it is dropped.
///
/// It stands for a `struct syscore`. Making and dropping it may sleep; dropping it waits for a call
/// that is under way.
///
/// # Invariants
///
/// `syscore` is registered, and its data is `target`.
#[pin_data(PinnedDrop)]
pub struct Registration<T: Shutdown> {
    target: T,
    #[pin]
    syscore: Opaque<bindings::syscore>,
}

// SAFETY: The C side has a lock of its own.
unsafe impl<T: Shutdown> Send for Registration<T> {}

// SAFETY: As above.
unsafe impl<T: Shutdown> Sync for Registration<T> {}

impl<T: Shutdown> Registration<T> {
    const OPS: &'static bindings::syscore_ops = &bindings::syscore_ops {
        suspend: None,
        resume: None,
        shutdown: Some(Self::call),
    };

    /// Begins to tell `target`.
    pub fn new(target: T) -> impl PinInit<Self> {
        pin_init!(&this in Self {
            target,
            // INVARIANT: It is registered here.
            syscore <- Opaque::ffi_init(|syscore: *mut bindings::syscore| {
                // SAFETY: `syscore` can be written and becomes pinned, as does what comes before
                // it, which is initialised; `drop` takes it off the list.
                unsafe {
                    syscore.write(bindings::syscore {
                        ops: Self::OPS,
                        data: (&raw mut (*this.as_ptr()).target).cast(),
                        ..Default::default()
                    });
                    bindings::register_syscore(syscore);
                }
            }),
        })
    }

    /// # Safety
    ///
    /// For `syscore_shutdown()`: `data` must be that of a registered value, which waits for this
    /// call when it drops.
    unsafe extern "C" fn call(data: *mut c_void) {
        // SAFETY: By the safety requirements and the type invariants.
        let target = unsafe { &*data.cast::<T>() };

        target.shutdown();
    }
}

#[pinned_drop]
impl<T: Shutdown> PinnedDrop for Registration<T> {
    fn drop(self: Pin<&mut Self>) {
        // SAFETY: By the type invariants.
        unsafe { bindings::unregister_syscore(self.syscore.get()) };
    }
}
