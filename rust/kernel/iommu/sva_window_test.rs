// SPDX-License-Identifier: GPL-2.0

//! Tests of processes in a window, through the real IOMMU core and with real memory.
//!
//! The IOMMU driver of [`mock`](super::mock) has a window here in place of PASIDs.

#[macros::kunit_tests(rust_iommu_sva_window)]
mod tests {
    use super::super::{
        mock::*,
        sva::*,
        sva_mock::*,
        *, //
    };
    use crate::{
        bindings,
        io::PhysAddr,
        mm::MmWithUser,
        page::PAGE_SIZE,
        prelude::*,
        sync::{
            atomic::{
                Atomic,
                Relaxed, //
            },
            Arc, //
        }, //
    };

    const BASE: u64 = 1 << 59;
    const BYTES: u64 = 1 << 29;

    /// What a word of the table says besides the address.
    const PRESENT: u64 = 1;
    const WRITABLE: u64 = 2;
    /// Devices see the word as it is.
    const VISIBLE: u64 = 4;

    /// The pages from `AREA` on. A static, because the core makes the window; tests come one after
    /// the other.
    static TABLE: [Atomic<u64>; 64] = [const { Atomic::new(0) }; 64];
    /// What no user of a window may do.
    static WRONG: Atomic<i32> = Atomic::new(0);
    /// Which call of `set` fails: not this one, nor the next, but the one when it is 0.
    static FAIL: Atomic<i32> = Atomic::new(i32::MAX);

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
            Ok(())
        }

        fn set(&self, range: IovaRange, paddr: PhysAddr, write: bool) -> Result {
            if FAIL.fetch_add(-1, Relaxed) == 0 {
                return Err(EIO);
            }
            Self::each(range, |n, word| {
                Self::expect(word.load(Relaxed) == 0);
                let write = if write { WRITABLE } else { 0 };
                word.store(paddr + n * PAGE_SIZE as u64 + (PRESENT | write), Relaxed);
            });
            Ok(())
        }

        fn get(&self, iova: Iova) -> Option<PhysAddr> {
            let mut found = None;
            Self::each(IovaRange::from_len(iova, PAGE_SIZE as u64)?, |_, word| {
                let word = word.load(Relaxed);
                found = (word != 0).then_some(word & !(PAGE_SIZE as u64 - 1));
            });
            found
        }

        fn protect(&self, range: IovaRange, write: bool) -> Result {
            Self::each(range, |_, word| {
                let old = word.load(Relaxed);
                Self::expect(old & PRESENT != 0);
                let new = old & !(WRITABLE | VISIBLE);
                word.store(if write { new | WRITABLE } else { new }, Relaxed);
            });
            Ok(())
        }

        fn publish(&self, range: IovaRange) -> Result {
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
                if word.load(Relaxed) & PRESENT == 0 {
                    word.store(0, Relaxed);
                }
            });
        }
    }

    const ALL: IovaRange = match IovaRange::from_len(Iova::new(BASE), BYTES) {
        Some(range) => range,
        None => unreachable!(),
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

    fn new_bed() -> Result<Bed> {
        WRONG.store(0, Relaxed);
        FAIL.store(i32::MAX, Relaxed);
        Bed::with(&OPS, 64, &[(0, Some(5))])
    }

    /// The flags of the first page of area `n`.
    fn word(n: usize) -> u64 {
        let at = TABLE.get(n * AREA_SIZE / PAGE_SIZE);
        at.map_or(u64::MAX, |word| word.load(Relaxed) & 7)
    }

    /// Whether a device reaches nothing, and nobody did anything wrong.
    fn is_empty() -> bool {
        TABLE.iter().all(|word| word.load(Relaxed) == 0) && WRONG.load(Relaxed) == 0
    }

    fn area(n: usize) -> UserPtr {
        UserPtr::from_addr(AREA + n * AREA_SIZE)
    }

    /// An address space with memory in the first three areas.
    fn process() -> Result<crate::sync::aref::ARef<MmWithUser>> {
        let mm = new_mm()?;
        for n in 0..3 {
            map_area(&mm, AREA + n * AREA_SIZE, READ | WRITE)?;
        }
        Ok(mm)
    }

    fn unmap_area(mm: &MmWithUser, n: usize) {
        // SAFETY: The task has the address space.
        with_mm(mm, || unsafe {
            bindings::vm_munmap(AREA + n * AREA_SIZE, AREA_SIZE)
        });
    }

    fn locked_pages(mm: &MmWithUser) -> usize {
        // SAFETY: The address space is valid, and nobody else uses it.
        unsafe { (*mm.as_raw()).__bindgen_anon_1.locked_vm }
    }

    const READS: u64 = PRESENT | VISIBLE;
    const WRITES: u64 = READS | WRITABLE;

    #[test]
    fn addresses() -> Result {
        let (bed, mm) = (new_bed()?, process()?);
        let bond = Bond::bind(bed.dev(0)?, &mm)?;
        check!(bond.address(UserPtr::from_addr(5)) == Some(BASE + 5));
        let last = UserPtr::from_addr(BYTES as usize - 1);
        check!(bond.address(last) == Some(BASE + BYTES - 1));
        check!(bond.address(UserPtr::from_addr(BYTES as usize)).is_none());
        let beyond = bond.prefault(last, 2, Access::Read);
        check!(matches!(beyond, Err(PrefaultError::Outside(window)) if window.bytes() == BYTES));
        check!(is_empty());
        Ok(())
    }

    #[test]
    fn one_process_at_a_time() -> Result {
        let (bed, first, second) = (new_bed()?, process()?, process()?);
        let bond = Bond::bind(bed.dev(0)?, &first)?;
        let again = Bond::bind(bed.dev(0)?, &first)?;
        check!(bond.as_raw() == again.as_raw());
        let refused = Bond::bind(bed.dev(0)?, &second).err();
        check!(refused == Some(BindError::OtherProcess));
        check!(Error::from(BindError::OtherProcess) == EBUSY);
        drop((bond, again));
        Bond::bind(bed.dev(0)?, &second)?;
        Ok(())
    }

    #[test]
    fn memory_is_there_as_long_as_it_is_held() -> Result {
        let (bed, mm) = (new_bed()?, process()?);
        let bond = Bond::bind(bed.dev(0)?, &mm)?;
        check!(is_empty());
        // Eight bytes across the border of two areas.
        let ptr = UserPtr::from_addr(AREA + AREA_SIZE - 4);
        let held = bond.prefault(ptr, 8, Access::Write)?;
        check!(held.is_live());
        check!(locked_pages(&mm) == 2);
        check!(word(1) == WRITES && word(2) == 0);
        drop(held);
        check!(is_empty());
        check!(locked_pages(&mm) == 0);
        // A guard that outlives its bond.
        let held = bond.prefault(area(0), AREA_SIZE, Access::Read)?;
        check!(word(0) == READS);
        drop(bond);
        drop(held);
        check!(is_empty());
        check!(locked_pages(&mm) == 0);
        Ok(())
    }

    #[test]
    fn what_a_page_permits_follows_from_who_holds_it() -> Result {
        let (bed, mm) = (new_bed()?, process()?);
        let bond = Bond::bind(bed.dev(0)?, &mm)?;
        for read_first in [true, false] {
            for drop_read_first in [true, false] {
                let hold = |write| match write {
                    true => bond.prefault(area(1), AREA_SIZE, Access::Write),
                    false => bond.prefault(area(0), 3 * AREA_SIZE, Access::Read),
                };
                let (first, second) = (hold(!read_first)?, hold(read_first)?);
                let (read, write) = match read_first {
                    true => (first, second),
                    false => (second, first),
                };
                check!((word(0), word(1), word(2)) == (READS, WRITES, READS));
                let left = if drop_read_first {
                    drop(read);
                    check!((word(0), word(1), word(2)) == (0, WRITES, 0));
                    write
                } else {
                    drop(write);
                    check!((word(0), word(1), word(2)) == (READS, READS, READS));
                    read
                };
                check!(left.is_live());
                drop(left);
                check!(is_empty());
            }
        }
        Ok(())
    }

    #[test]
    fn what_the_process_unmaps_is_gone() -> Result {
        let (bed, mm) = (new_bed()?, process()?);
        let bond = Bond::bind(bed.dev(0)?, &mm)?;
        let all = bond.prefault(area(0), 3 * AREA_SIZE, Access::Read)?;
        let one = bond.prefault(area(1), AREA_SIZE, Access::Write)?;
        let other = bond.prefault(area(2), AREA_SIZE, Access::Write)?;
        unmap_area(&mm, 1);
        check!(!all.is_live() && !one.is_live() && other.is_live());
        check!((word(0), word(1), word(2)) == (0, 0, WRITES));
        // The old guards have nothing to say about new memory.
        map_area(&mm, AREA + AREA_SIZE, READ | WRITE)?;
        let new = bond.prefault(area(1), AREA_SIZE, Access::Write)?;
        drop((all, one));
        check!(new.is_live() && word(1) == WRITES);
        drop((new, other));
        check!(is_empty());
        check!(locked_pages(&mm) == 0);
        Ok(())
    }

    #[test]
    fn nothing_is_left_when_the_process_exits() -> Result {
        let (bed, mm) = (new_bed()?, process()?);
        let bond = Bond::bind(bed.dev(0)?, &mm)?;
        let held = bond.prefault(area(0), AREA_SIZE, Access::Write)?;
        drop(mm);
        check!(!held.is_live());
        check!(is_empty());
        let late = bond.prefault(area(0), AREA_SIZE, Access::Write).err();
        check!(late == Some(PrefaultError::Exited));
        drop(bond);
        drop(held);
        check!(bed.log.is_idle());
        Ok(())
    }

    #[test]
    fn refusals_leave_nothing_behind() -> Result {
        let (bed, mm) = (new_bed()?, process()?);
        let bond = Bond::bind(bed.dev(0)?, &mm)?;
        map_area(&mm, AREA, READ)?;
        let refused = |ptr, len, access| bond.prefault(ptr, len, access).err();
        check!(refused(area(0), 1, Access::Write) == Some(PrefaultError::NoMemory));
        check!(refused(area(2), 2 * AREA_SIZE, Access::Read) == Some(PrefaultError::NoMemory));
        check!(refused(area(2), 0, Access::Read) == Some(PrefaultError::NoMemory));
        check!(is_empty() && locked_pages(&mm) == 0);
        let held = bond.prefault(area(1), AREA_SIZE, Access::Read)?;
        // The memory of two areas need not be in one piece, so try every call.
        for n in 0.. {
            FAIL.store(n, Relaxed);
            let result = bond.prefault(area(1), 2 * AREA_SIZE, Access::Write);
            let failed = FAIL.load(Relaxed) < 0;
            if result.is_ok() {
                check!(!failed);
                break;
            }
            check!(word(1) == READS && word(2) == 0);
            check!(held.is_live());
        }
        drop(held);
        check!(is_empty() && locked_pages(&mm) == 0);
        Ok(())
    }
}
