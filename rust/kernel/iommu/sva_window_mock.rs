// SPDX-License-Identifier: GPL-2.0

//! A window in place of PASIDs for the IOMMU driver of [`mock`](super::mock), and processes with
//! memory.

use super::{
    mock::*,
    sva_mock::*,
    *, //
};
use crate::{
    bindings,
    io::PhysAddr,
    mm::MmWithUser,
    page::{
        PAGE_SHIFT,
        PAGE_SIZE, //
    },
    prelude::*,
    sync::{
        aref::ARef,
        atomic::{
            Atomic,
            Full,
            Relaxed, //
        },
        Arc, //
    }, //
};
use core::ptr;

pub(super) const BASE: u64 = 1 << 59;
pub(super) const BYTES: u64 = 1 << 29;

/// What a word of the table says besides the address.
const PRESENT: u64 = 1;
const WRITABLE: u64 = 2;
/// Devices see the word as it is.
const VISIBLE: u64 = 4;

/// The address in such a word.
const PAGE_MASK: u64 = !(PAGE_SIZE as u64 - 1);

/// The pages from `AREA` on. A static, because the core makes the window; tests come one after
/// the other.
static TABLE: [Atomic<u64>; 128] = [const { Atomic::new(0) }; 128];
/// What no user of a window may do.
static WRONG: Atomic<i32> = Atomic::new(0);
/// Which call that can fail does: not this one, nor the next, but the one when it is 0.
pub(super) static FAIL: Atomic<i32> = Atomic::new(i32::MAX);
/// So many calls of `set` say that the tables are gone.
pub(super) static AGAIN: Atomic<i32> = Atomic::new(0);
/// Whether there may be tables: not 0 since the last `prepare`.
static TABLES: Atomic<i32> = Atomic::new(0);
/// No device uses the window, if it is not 0.
pub(super) static CUT: Atomic<i32> = Atomic::new(0);
/// All of these calls fail, if it is not 0.
pub(super) static BROKEN: Atomic<i32> = Atomic::new(0);

/// A process that unmaps the first area and maps it anew when it is prefaulted next, or null.
pub(super) static REMAPS: Atomic<*mut MmWithUser> = Atomic::new(ptr::null_mut());

struct Window;

impl Window {
    /// Calls `f` with the word of each page of `range`.
    fn each(range: IovaRange, mut f: impl FnMut(u64, &Atomic<u64>)) {
        let first = range.first().get().wrapping_sub(BASE + AREA as u64) / PAGE_SIZE as u64;
        let count = range.bytes() / PAGE_SIZE as u64;
        for n in 0..count {
            match TABLE.get((first + n) as usize) {
                Some(word) => f(n, word),
                None => Self::expect(false),
            }
        }
    }

    fn may_fail() -> Result {
        let fails = FAIL.fetch_add(-1, Relaxed) == 0 || BROKEN.load(Relaxed) != 0;
        if fails {
            return Err(EIO);
        }
        Ok(())
    }

    fn expect(good: bool) {
        if !good {
            WRONG.add(1, Relaxed);
        }
    }
}

// SAFETY: The devices do not exist.
unsafe impl SvaWindow for Window {
    fn iovas(&self) -> IovaRange {
        ALL
    }

    fn prepare(&self, _range: IovaRange) -> Result {
        TABLES.store(1, Relaxed);
        Self::may_fail()?;
        // SAFETY: The test that stored it has the process.
        let Some(mm) = (unsafe { REMAPS.xchg(ptr::null_mut(), Full).as_ref() }) else {
            return Ok(());
        };
        unmap_area(mm, 0);
        map_area(mm, AREA, READ | WRITE)
    }

    fn set(&self, range: IovaRange, paddr: PhysAddr, write: bool) -> Result {
        Self::expect(TABLES.load(Relaxed) != 0);
        if AGAIN.load(Relaxed) > 0 {
            AGAIN.add(-1, Relaxed);
            return Err(EAGAIN);
        }
        let result = Self::may_fail();
        Self::each(range, |n, word| {
            Self::expect(word.load(Relaxed) == 0);
            let write = if write { WRITABLE } else { 0 };
            // After an error there is the first page.
            if result.is_ok() || n == 0 {
                word.store(paddr + n * PAGE_SIZE as u64 + (PRESENT | write), Relaxed);
            }
        });
        result
    }

    fn get(&self, iova: Iova) -> Option<PhysAddr> {
        let mut found = None;
        Self::each(IovaRange::from_len(iova, PAGE_SIZE as u64)?, |_, word| {
            let word = word.load(Relaxed);
            found = (word != 0).then_some(word & PAGE_MASK);
        });
        found
    }

    fn protect(&self, range: IovaRange, write: bool) -> Result {
        Self::may_fail()?;
        Self::each(range, |_, word| {
            let old = word.load(Relaxed);
            Self::expect(old & PRESENT != 0);
            let new = old & !(WRITABLE | VISIBLE);
            word.store(if write { new | WRITABLE } else { new }, Relaxed);
        });
        Ok(())
    }

    fn publish(&self, range: IovaRange) -> Result {
        Self::may_fail()?;
        Self::each(range, |_, word| {
            let old = word.load(Relaxed);
            Self::expect(old & PRESENT != 0);
            word.store(old | VISIBLE, Relaxed);
        });
        Ok(())
    }

    fn clear(&self, range: IovaRange) {
        // Devices see it as long as it is not withdrawn.
        Self::each(range, |_, word| {
            word.store(word.load(Relaxed) & !PRESENT, Relaxed)
        });
    }

    fn withdraw(&self, range: IovaRange) {
        Self::each(range, |_, word| {
            let old = word.load(Relaxed);
            if old & PRESENT == 0 {
                // Until now devices reach the page.
                Self::expect(old == 0 || is_pinned(old & PAGE_MASK));
                word.store(0, Relaxed);
            }
        });
    }

    fn trim(&self, _range: IovaRange) {
        if TABLE.iter().all(|word| word.load(Relaxed) == 0) {
            TABLES.store(0, Relaxed);
        }
    }

    fn is_connected(&self) -> bool {
        CUT.load(Relaxed) == 0
    }
}

const ALL: IovaRange = match IovaRange::from_len(Iova::new(BASE), BYTES) {
    Some(range) => range,
    None => build_error!("no such range"),
};

struct Domain;

// SAFETY: The devices do not exist.
unsafe impl SvaOps for Domain {
    type Driver = Mock;

    fn new(_: &EndpointCtx<'_, Mock>, _: &MmWithUser) -> Result<impl PinInit<Self, Error>> {
        Ok(Ok(Domain))
    }

    fn set_pasid(self: Pin<&Self>, ctx: &EndpointCtx<'_, Mock>, pasid: Pasid) -> Result {
        let endpoint = ctx.endpoint();
        let mut table = endpoint.table.lock();
        if *table != 0 {
            return Err(EUSERS);
        }
        *table |= 1 << pasid.get();
        ctx.instance().data().log.pasids.add(1, Relaxed);
        Ok(())
    }

    fn window(self: Pin<&Self>) -> Option<Arc<dyn SvaWindow>> {
        let window: Arc<dyn SvaWindow> = Arc::new(Window, GFP_KERNEL).ok()?;
        Some(window)
    }
}

static OPS: Ops<Mock> = Ops::new()
    .blocked(&BLOCKED)
    .identity(&DIRECT)
    .sva::<Domain>();

pub(super) fn new_bed() -> Result<Bed> {
    WRONG.store(0, Relaxed);
    FAIL.store(i32::MAX, Relaxed);
    for unset in [&BROKEN, &AGAIN, &TABLES, &CUT] {
        unset.store(0, Relaxed);
    }
    Bed::with(&OPS, 64, &[(0, Some(5))])
}

/// The flags of the first page of area `n`.
pub(super) fn word(n: usize) -> u64 {
    let at = TABLE.get(n * AREA_SIZE / PAGE_SIZE);
    at.map_or(u64::MAX, |word| word.load(Relaxed) & 7)
}

/// The first `count` pages that a device reaches, or 0 where it reaches none.
pub(super) fn pages(count: usize) -> impl Iterator<Item = PhysAddr> {
    TABLE
        .iter()
        .take(count)
        .map(|word| word.load(Relaxed) & PAGE_MASK)
}

fn folio(phys: PhysAddr) -> *mut bindings::folio {
    // CAST: The number of a page.
    // SAFETY: The tests pass memory that was a process's.
    unsafe { bindings::pfn_folio((phys >> PAGE_SHIFT) as c_ulong) }
}

/// Whether somebody has pinned a page.
pub(super) fn is_pinned(phys: PhysAddr) -> bool {
    // SAFETY: The folio is valid.
    unsafe { bindings::folio_maybe_dma_pinned(folio(phys)) }
}

/// Whether a page counts as written, whatever page tables say.
pub(super) fn is_dirty(phys: PhysAddr) -> bool {
    // SAFETY: The folio is valid.
    unsafe { bindings::folio_test_dirty(folio(phys)) }
}

/// Tells those who watch the first area that something changes there, as mm/ does.
pub(super) fn announce(mm: &MmWithUser, event: bindings::mmu_notifier_event) {
    let mut range = bindings::mmu_notifier_range {
        mm: mm.as_raw(),
        start: AREA,
        end: AREA + AREA_SIZE,
        flags: bindings::MMU_NOTIFIER_RANGE_BLOCKABLE,
        event,
        ..pin_init::zeroed()
    };

    // SAFETY: The range is valid, somebody watches it, and nothing changes in fact.
    unsafe {
        bindings::__mmu_notifier_invalidate_range_start(&mut range);
        bindings::__mmu_notifier_invalidate_range_end(&mut range);
    }
}

/// Whether a device reaches nothing, no tables are left, and nobody did anything wrong.
pub(super) fn is_empty() -> bool {
    let is_unused = TABLE.iter().all(|word| word.load(Relaxed) == 0);
    is_unused && TABLES.load(Relaxed) == 0 && WRONG.load(Relaxed) == 0
}

pub(super) fn area(n: usize) -> UserPtr {
    UserPtr::from_addr(AREA + n * AREA_SIZE)
}

/// An address space with memory in the first three areas.
pub(super) fn process() -> Result<ARef<MmWithUser>> {
    let mm = new_mm()?;
    for n in 0..3 {
        map_area(&mm, AREA + n * AREA_SIZE, READ | WRITE)?;
    }
    Ok(mm)
}

pub(super) fn unmap_area(mm: &MmWithUser, n: usize) {
    // SAFETY: The task has the address space.
    with_mm(mm, || unsafe {
        bindings::vm_munmap(AREA + n * AREA_SIZE, AREA_SIZE)
    });
}

pub(super) fn locked_pages(mm: &MmWithUser) -> usize {
    // SAFETY: The address space is valid, and nobody else uses it.
    unsafe { (*mm.as_raw()).__bindgen_anon_1.locked_vm }
}

pub(super) const READS: u64 = PRESENT | VISIBLE;
pub(super) const WRITES: u64 = READS | WRITABLE;
