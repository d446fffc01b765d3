// SPDX-License-Identifier: GPL-2.0

//! Pages for lists of TCEs that do not start on a page border.
//!
//! `H_PUT_TCE_INDIRECT` takes a list that starts at a border of 4 KiB. Each CPU keeps one page for
//! the purpose. Who needs it takes it away and puts it back; who finds none, because an interrupt
//! came between, gets one of its own. So there is no lock.

use core::ptr;
use kernel::{
    cpu::{
        self,
        CpuId, //
    },
    powerpc::mem::TceList,
    prelude::*,
    sync::atomic::{
        Acquire,
        Atomic,
        Relaxed,
        Release, //
    }, //
};

/// The pages of all CPUs.
///
/// # Invariants
///
/// Each pointer is null or comes from a `KBox` that `self` owns.
pub(super) struct Bounce {
    pages: KVVec<Atomic<*mut TceList>>,
}

impl Bounce {
    /// Makes room for a page for each CPU; the pages are made when they are needed. May sleep.
    pub(super) fn new() -> Result<Self> {
        let mut pages = KVVec::new();
        for _ in 0..cpu::nr_cpu_ids() {
            pages.push(Atomic::new(ptr::null_mut()), GFP_KERNEL)?;
        }
        // INVARIANT: All are null.
        Ok(Self { pages })
    }

    /// Calls `f` with a page that nobody else uses meanwhile. Any context.
    ///
    /// Returns [`None`] if there is no memory for one.
    #[inline(always)]
    pub(super) fn with<T>(&self, f: impl FnOnce(&TceList) -> T) -> Option<T> {
        // CAST: `u32` fits `usize`.
        let place = self.pages.get(CpuId::current().as_u32() as usize)?;
        let page = match ptr::NonNull::new(place.xchg(ptr::null_mut(), Acquire)) {
            // SAFETY: By the type invariants; the exchange made it ours.
            Some(page) => unsafe { KBox::from_raw(page.as_ptr()) },
            None => TceList::new(GFP_ATOMIC | __GFP_NOWARN).ok()?,
        };
        let result = f(&page);
        // INVARIANT: The place has the page from here on.
        let other = place.xchg(KBox::into_raw(page), Release);
        if !other.is_null() {
            // SAFETY: By the type invariants; the exchange made it ours.
            drop(unsafe { KBox::from_raw(other) });
        }
        Some(result)
    }
}

impl Drop for Bounce {
    fn drop(&mut self) {
        for place in &self.pages {
            let page = place.load(Relaxed);
            if !page.is_null() {
                // SAFETY: By the type invariants, and with `&mut self` nobody takes it.
                drop(unsafe { KBox::from_raw(page) });
            }
        }
    }
}
