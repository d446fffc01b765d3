// SPDX-License-Identifier: GPL-2.0

//! Memory of a process that stays where it is, for devices.
//!
//! C header: [`include/linux/mm.h`](srctree/include/linux/mm.h)

use super::{
    Mm,
    MmWithUser, //
};
use crate::{
    alloc::flags::__GFP_NOWARN,
    bindings,
    error::to_result,
    io::PhysAddr,
    page::{
        PAGE_SHIFT,
        PAGE_SIZE, //
    },
    prelude::*,
    sync::aref::ARef, //
};
use core::ptr;

/// Pages that count as locked memory of a process (`VmLck` in its `status`).
pub struct Locked {
    mm: ARef<Mm>,
    pages: usize,
}

impl Locked {
    /// Counts `pages` more pages of `mm`. Takes the `mmap` lock; sleeps.
    ///
    /// Returns [`None`] if that is more than the current task may lock (`RLIMIT_MEMLOCK`), which
    /// does not hold for who has `CAP_IPC_LOCK`.
    ///
    /// Stands for `account_locked_vm()`.
    pub fn new(mm: &Mm, pages: usize) -> Option<Self> {
        // SAFETY: `mm` is valid.
        to_result(unsafe { bindings::account_locked_vm(mm.as_raw(), pages, true) }).ok()?;
        Some(Self {
            mm: mm.into(),
            pages,
        })
    }
}

impl Drop for Locked {
    fn drop(&mut self) {
        // SAFETY: `mm` is counted. As many pages were added in `new`.
        unsafe { bindings::account_locked_vm(self.mm.as_raw(), self.pages, false) };
    }
}

/// Pages of a process that are pinned for a long time, and thus neither move nor get used for
/// anything else.
///
/// # Invariants
///
/// The pages of `pages` are pinned once for each place, with `FOLL_LONGTERM`.
pub struct PinnedPages {
    pages: KVVec<*mut bindings::page>,
    write: bool,
}

// SAFETY: Pages can be unpinned by any thread.
unsafe impl Send for PinnedPages {}

// SAFETY: Shared references only read addresses.
unsafe impl Sync for PinnedPages {}

impl PinnedPages {
    /// Faults in and pins `count` pages from the page-aligned address `start` on. Takes the `mmap`
    /// lock; sleeps.
    ///
    /// With `write`, the process must be allowed to write to them, and they count as written when
    /// they are unpinned. Fails with [`EFAULT`] where the process has no such memory, or memory
    /// that cannot be pinned for long, and with [`EINTR`] if the current task is being killed.
    ///
    /// Stands for `pin_user_pages_fast()`, and `pin_user_pages_remote()` for another address space
    /// than the current one.
    pub fn new(mm: &MmWithUser, start: usize, count: usize, write: bool) -> Result<Self> {
        // How many there are may be up to the process.
        let mut pages =
            KVVec::from_elem(ptr::null_mut(), count, GFP_KERNEL_ACCOUNT | __GFP_NOWARN)?;
        let mut flags = bindings::FOLL_LONGTERM;
        if write {
            flags |= bindings::FOLL_WRITE;
        }
        // INVARIANT: There are none yet.
        let mut this = Self {
            pages: KVVec::new(),
            write,
        };
        let mut done = 0;
        while let Some(rest) = pages.get_mut(done..).filter(|rest| !rest.is_empty()) {
            let at = start.wrapping_add(done.wrapping_mul(PAGE_SIZE));
            let got = Self::pin(mm, at, rest, flags);
            match usize::try_from(got) {
                Ok(got) if got > 0 => done = done.wrapping_add(got),
                result => {
                    pages.truncate(done);
                    // INVARIANT: These are pinned; they are unpinned here.
                    this.pages = pages;
                    return Err(match result {
                        // CAST: An error fits.
                        Err(_) => Error::from_errno(got as c_int),
                        Ok(_) => EFAULT,
                    });
                }
            }
        }
        // INVARIANT: All are pinned.
        this.pages = pages;
        Ok(this)
    }

    /// Pins pages from `at` on. Returns how many of `pages` it has filled, or an error.
    fn pin(mm: &MmWithUser, at: usize, pages: &mut [*mut bindings::page], flags: c_uint) -> c_long {
        // The page tables of the current task can be looked at without a lock.
        if kernel::current!().mm().is_some_and(|own| ptr::eq(own, mm)) {
            // CAST: What is left is for the next call.
            let count = pages.len().min(c_int::MAX as usize) as c_int;
            // SAFETY: `pages` has room for as many pages.
            let got =
                unsafe { bindings::pin_user_pages_fast(at, count, flags, pages.as_mut_ptr()) };
            // CAST: To a larger type.
            return got as c_long;
        }
        let _lock = mm.mmap_read_lock();
        // SAFETY: `pages` has room for as many pages, the lock is held, and it stays so because
        // `locked` is null.
        unsafe {
            bindings::pin_user_pages_remote(
                mm.as_raw(),
                at,
                pages.len(),
                flags,
                pages.as_mut_ptr(),
                ptr::null_mut(),
            )
        }
    }

    /// The number of pages.
    pub fn count(&self) -> usize {
        self.pages.len()
    }

    /// The physical address of page number `n`.
    pub fn phys(&self, n: usize) -> Option<PhysAddr> {
        let page = *self.pages.get(n)?;
        // SAFETY: By the type invariants it is a page.
        Some(unsafe { bindings::page_to_phys(page) })
    }

    /// Runs of pages that follow each other in memory: the number of the first, how many, and the
    /// physical address.
    pub fn runs(&self) -> impl Iterator<Item = (usize, usize, PhysAddr)> + '_ {
        let mut at = 0;
        core::iter::from_fn(move || {
            let (first, phys) = (at, self.phys(at)?);
            let follows = |n: usize| {
                // CAST: A number of bytes fits 64 bits.
                let offset = (n.wrapping_sub(first) as u64).wrapping_shl(PAGE_SHIFT as u32);
                self.phys(n) == Some(phys.wrapping_add(offset))
            };
            while follows(at) {
                at = at.wrapping_add(1);
            }
            Some((first, at.wrapping_sub(first), phys))
        })
    }
}

impl Drop for PinnedPages {
    fn drop(&mut self) {
        // SAFETY: By the type invariants they are pinned.
        unsafe {
            bindings::unpin_user_pages_dirty_lock(
                self.pages.as_mut_ptr(),
                self.pages.len(),
                self.write,
            )
        };
    }
}
