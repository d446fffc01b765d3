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

/// Pages that follow each other in memory.
pub struct Run {
    /// The number of the first, counted from that where the pinned memory begins.
    pub first: usize,
    /// How many there are.
    pub count: usize,
    /// The physical address.
    pub phys: PhysAddr,
}

/// The same as it is kept, if there are any.
#[derive(Clone, Copy)]
struct Row {
    first: *mut bindings::page,
    count: usize,
}

impl Row {
    /// The physical address of page number `n`.
    fn phys(&self, n: usize) -> PhysAddr {
        // CAST: A number of bytes fits 64 bits.
        let offset = (n as u64).wrapping_shl(PAGE_SHIFT as u32);
        // SAFETY: A run has pages, and they are pinned.
        unsafe { bindings::page_to_phys(self.first) }.wrapping_add(offset)
    }

    /// Adds `run` if it follows.
    fn join(&mut self, run: Row) -> bool {
        let last = self.first.wrapping_add(self.count.wrapping_sub(1));
        let follows = self.count > 0 && follows(last, run.first);
        if follows {
            self.count = self.count.wrapping_add(run.count);
        }
        follows
    }
}

/// Whether a page follows another one in memory.
#[inline(always)]
fn follows(one: *mut bindings::page, next: *mut bindings::page) -> bool {
    // SAFETY: Who asks has pinned both pages.
    let phys = |page| unsafe { bindings::page_to_phys(page) };
    // CAST: A number of bytes fits 64 bits.
    let in_a_row = || phys(next) == phys(one).wrapping_add(PAGE_SIZE as PhysAddr);
    // `struct page`s may follow each other where memory does not, between two sections.
    next == one.wrapping_add(1) && (cfg!(CONFIG_SPARSEMEM_VMEMMAP) || in_a_row())
}

/// Pages of a process that are pinned for a long time, and thus neither move nor get used for
/// anything else.
///
/// # Invariants
///
/// The pages of `runs` and `last` are pinned once for each place, with `FOLL_LONGTERM`.
pub struct PinnedPages {
    runs: KVVec<Row>,
    /// What comes after `runs`. Often it is all there is.
    last: Row,
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
    /// they are unpinned. Fails with [`EINVAL`] if `count` is 0, with [`EFAULT`] where the process
    /// has no such memory, or memory that cannot be pinned for long, and with [`EINTR`] if the
    /// current task is being killed.
    ///
    /// Stands for `pin_user_pages_fast()`, and `pin_user_pages_remote()` for another address space
    /// than the current one.
    pub fn new(mm: &MmWithUser, start: usize, count: usize, write: bool) -> Result<Self> {
        let mut batch = [ptr::null_mut(); 64];
        // INVARIANT: There are none yet.
        let mut this = Self {
            runs: KVVec::new(),
            last: Row {
                first: ptr::null_mut(),
                count: 0,
            },
            write,
        };
        if count == 0 {
            return Err(EINVAL);
        }
        let mut done = 0;
        while done < count {
            let room = count.wrapping_sub(done).min(batch.len());
            let at = start.wrapping_add(done.wrapping_mul(PAGE_SIZE));
            let got = Self::pin(mm, at, batch.get_mut(..room).ok_or(EINVAL)?, write);
            // CAST: An error fits.
            let got = usize::try_from(got).map_err(|_| Error::from_errno(got as c_int))?;
            let pages = batch.get(..got).filter(|pages| !pages.is_empty());
            this.take(pages.ok_or(EFAULT)?)?;
            done = done.wrapping_add(got);
        }
        Ok(this)
    }

    /// Pins pages from `at` on. Returns how many of `pages` it has filled, or an error.
    fn pin(mm: &MmWithUser, at: usize, pages: &mut [*mut bindings::page], write: bool) -> c_long {
        let mut flags = bindings::FOLL_LONGTERM;
        if write {
            flags |= bindings::FOLL_WRITE;
        }
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

    /// Takes over pages that [`pin`](Self::pin) has pinned, also on error.
    fn take(&mut self, pages: &[*mut bindings::page]) -> Result {
        let mut rest = pages;
        while let Some(&first) = rest.first() {
            let in_a_row = |pair: &&[_]| matches!(pair, [one, next] if follows(*one, *next));
            let more = rest.windows(2).take_while(in_a_row).count();
            let count = more.wrapping_add(1);
            let run = Row { first, count };
            // INVARIANT: The pages are pinned.
            if !self.last.join(run) {
                if self.last.count > 0 {
                    // How many there are may be up to the process.
                    let flags = GFP_KERNEL_ACCOUNT | __GFP_NOWARN;
                    self.runs.push(self.last, flags).inspect_err(|_| {
                        for page in rest {
                            // SAFETY: The page is pinned, and nobody else unpins it.
                            unsafe { bindings::unpin_user_page(*page) };
                        }
                    })?;
                }
                self.last = run;
            }
            rest = rest.get(count..).unwrap_or(&[]);
        }
        Ok(())
    }

    fn all(&self) -> impl Iterator<Item = &Row> {
        Iterator::chain(self.runs.iter(), [&self.last])
    }

    /// The physical addresses of the pages.
    pub fn each(&self) -> impl Iterator<Item = PhysAddr> + '_ {
        let each = |row: Row| (0..row.count).map(move |n| row.phys(n));
        self.all().copied().flat_map(each)
    }

    /// The same as runs of pages that follow each other in memory.
    pub fn runs(&self) -> impl Iterator<Item = Run> + '_ {
        self.all().scan(0_usize, |next, row| {
            let run = Run {
                first: *next,
                count: row.count,
                phys: row.phys(0),
            };
            *next = next.wrapping_add(row.count);
            Some(run)
        })
    }
}

impl Drop for PinnedPages {
    fn drop(&mut self) {
        for run in self.all() {
            // SAFETY: By the type invariants they are pinned, and they follow each other.
            unsafe { bindings::unpin_user_page_range_dirty_lock(run.first, run.count, self.write) };
        }
    }
}
