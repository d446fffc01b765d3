// SPDX-License-Identifier: GPL-2.0

//! Allocations that fail on purpose.
//!
//! A test counts through the allocations of what it tests: it makes the first one fail, then the
//! second one, and so on until a run needs no more than that. After each run it checks that nothing
//! is left behind.

use crate::{
    bindings,
    sync::atomic::{
        Atomic,
        Relaxed, //
    },
    types::NotThreadSafe, //
};

/// The task whose allocation is to fail, or 0.
static VICTIM: Atomic<usize> = Atomic::new(0);
/// How many of its allocations succeed first. Only the victim changes it.
static LEFT: Atomic<i64> = Atomic::new(0);

/// Makes one allocation of the current task fail while it lives.
///
/// There must be only one at a time in the whole system. Only allocations of Rust code count.
pub struct FailNth(NotThreadSafe);

impl FailNth {
    /// Makes the allocation with number `n` from now on fail, counted from 0.
    pub fn new(n: u32) -> Self {
        LEFT.store(i64::from(n), Relaxed);
        VICTIM.store(current(), Relaxed);
        Self(NotThreadSafe)
    }

    /// Says whether the allocation has been asked for, and has failed.
    pub fn has_failed(&self) -> bool {
        LEFT.load(Relaxed) < 0
    }
}

/// Runs `f` with allocations that do not count, for what is a part of the test.
pub fn exempt<T>(f: impl FnOnce() -> T) -> T {
    let victim = VICTIM.load(Relaxed);
    if victim != current() {
        return f();
    }
    VICTIM.store(0, Relaxed);
    let result = f();
    VICTIM.store(victim, Relaxed);
    result
}

impl Drop for FailNth {
    fn drop(&mut self) {
        VICTIM.store(0, Relaxed);
    }
}

/// Counts an allocation, and says whether it is the one to fail.
pub(super) fn strikes() -> bool {
    if VICTIM.load(Relaxed) != current() {
        return false;
    }
    let left = LEFT.load(Relaxed);
    LEFT.store(left.saturating_sub(1), Relaxed);
    left == 0
}

fn current() -> usize {
    // SAFETY: There is always a current task. Its address is only compared.
    unsafe { bindings::get_current() }.addr()
}
