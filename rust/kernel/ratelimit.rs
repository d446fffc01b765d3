// SPDX-License-Identifier: GPL-2.0

//! Limits for messages that may come too often.
//!
//! C header: [`include/linux/ratelimit.h`](srctree/include/linux/ratelimit.h)

use crate::{
    bindings,
    prelude::*,
    types::Opaque, //
};

/// Lets ten messages pass in five seconds, as `dev_err_ratelimited()` does. The log tells how many
/// were suppressed.
///
/// # Examples
///
/// ```
/// use kernel::ratelimit::RateLimit;
///
/// let limit = KBox::pin_init(RateLimit::new(c"my driver"), GFP_KERNEL)?;
/// for n in 0..20 {
///     if limit.allows() {
///         pr_err!("channel {n} does not answer\n");
///     }
/// }
/// assert!(!limit.allows());
/// # Ok::<(), Error>(())
/// ```
#[pin_data]
pub struct RateLimit {
    /// Stands before the number of suppressed messages.
    name: &'static CStr,
    #[pin]
    state: Opaque<bindings::ratelimit_state>,
}

// SAFETY: The state has a lock.
unsafe impl Send for RateLimit {}

// SAFETY: As above.
unsafe impl Sync for RateLimit {}

impl RateLimit {
    /// Makes one; `name` stands before the number of suppressed messages.
    pub fn new(name: &'static CStr) -> impl PinInit<Self> {
        pin_init!(Self {
            name,
            // SAFETY: The state can be written and becomes pinned.
            state <- Opaque::ffi_init(|state| unsafe {
                bindings::ratelimit_default_init(state);
            }),
        })
    }

    /// Whether another message may pass now. Any context.
    #[inline]
    pub fn allows(&self) -> bool {
        // SAFETY: `new` has initialised the state; the name is a string that stays.
        unsafe { bindings::___ratelimit(self.state.get(), self.name.as_char_ptr()) != 0 }
    }
}
