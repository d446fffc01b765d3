// SPDX-License-Identifier: GPL-2.0

//! Tests of processes in a window, through the real IOMMU core and with real memory.

#[macros::kunit_tests(rust_iommu_sva_window)]
mod tests {
    use super::super::{
        mock::*,
        sva::*,
        sva_mock::{
            map_area,
            AREA,
            AREA_SIZE,
            READ,
            WRITE, //
        },
        sva_window_mock::*, //
    };
    use crate::{
        bindings,
        error::to_result,
        page::PAGE_SIZE,
        prelude::*,
        sync::atomic::Relaxed, //
    };

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

    // VFIO and iommufd ask this way for the group of a device.
    #[test]
    fn a_group_with_a_bond_has_no_other_owner() -> Result {
        let (bed, mm) = (new_bed()?, process()?);
        let dev = bed.dev(0)?;
        let owner = (&raw const *mm).cast_mut().cast();
        let claim = || {
            // SAFETY: The device is there, and the owner is not null.
            to_result(unsafe { bindings::iommu_device_claim_dma_owner(dev.as_raw(), owner) })
        };
        // A driver that uses the DMA API has the group for itself, bond or not.
        check!(claim() == Err(EPERM));
        // SAFETY: The driver has not used the DMA API, and from now on is one that does not.
        unsafe { bindings::iommu_device_unuse_default_domain(dev.as_raw()) };
        let bond = Bond::bind(dev, &mm);
        let with_bond = claim();
        drop(bond);
        let without = claim();
        if without.is_ok() {
            // SAFETY: It was claimed.
            unsafe { bindings::iommu_device_release_dma_owner(dev.as_raw()) };
        }
        // SAFETY: The core takes this back when the driver unbinds.
        to_result(unsafe { bindings::iommu_device_use_default_domain(dev.as_raw()) })?;
        check!((with_bond, without) == (Err(EBUSY), Ok(())));
        Bond::bind(dev, &mm)?;
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

    // Whoever reads a page must not have it writable when nobody is to write there.
    #[test]
    fn a_page_that_stays_writable_is_lost() -> Result {
        let (bed, mm) = (new_bed()?, process()?);
        let bond = Bond::bind(bed.dev(0)?, &mm)?;
        let all = || bond.prefault(area(0), 3 * AREA_SIZE, Access::Read);
        let (read, other) = (all()?, bond.prefault(area(2), AREA_SIZE, Access::Read)?);
        let write = bond.prefault(area(1), AREA_SIZE, Access::Write)?;
        check!((word(0), word(1), word(2)) == (READS, WRITES, READS));
        BROKEN.store(1, Relaxed);
        drop(write);
        check!(!read.is_live() && other.is_live());
        check!((word(0), word(1), word(2)) == (0, 0, READS));
        BROKEN.store(0, Relaxed);
        // What the one has lost is not in the way of the next.
        let again = all()?;
        drop((read, other));
        check!(again.is_live() && (word(0), word(1), word(2)) == (READS, READS, READS));
        drop(again);
        check!(is_empty() && locked_pages(&mm) == 0);
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

    // Its own permissions are the process's business; what it loses is not.
    #[test]
    fn protection_that_changes_takes_nothing_away() -> Result {
        let (bed, mm) = (new_bed()?, process()?);
        let bond = Bond::bind(bed.dev(0)?, &mm)?;
        for event in [
            bindings::mmu_notifier_event_MMU_NOTIFY_PROTECTION_VMA,
            bindings::mmu_notifier_event_MMU_NOTIFY_PROTECTION_PAGE,
            bindings::mmu_notifier_event_MMU_NOTIFY_SOFT_DIRTY,
        ] {
            let held = bond.prefault(area(0), AREA_SIZE, Access::Write)?;
            announce(&mm, event);
            check!(held.is_live() && word(0) == WRITES);
        }
        for event in [
            bindings::mmu_notifier_event_MMU_NOTIFY_UNMAP,
            bindings::mmu_notifier_event_MMU_NOTIFY_CLEAR,
            bindings::mmu_notifier_event_MMU_NOTIFY_MIGRATE,
        ] {
            let held = bond.prefault(area(0), AREA_SIZE, Access::Write)?;
            announce(&mm, event);
            check!(!held.is_live() && is_empty());
        }
        Ok(())
    }

    #[test]
    fn memory_that_changes_meanwhile_is_looked_at_again() -> Result {
        let (bed, mm) = (new_bed()?, process()?);
        let bond = Bond::bind(bed.dev(0)?, &mm)?;
        let pages = || bond.prefault(area(0), AREA_SIZE, Access::Write);
        REMAPS.store((&raw const *mm).cast_mut(), Relaxed);
        let held = pages()?;
        check!(held.is_live() && word(0) == WRITES);
        // This one finds it if the device reaches other pages than the process.
        let again = pages()?;
        check!(again.is_live());
        drop((held, again));
        check!(is_empty());
        Ok(())
    }

    // The tables may be freed before they are used, but not for ever.
    #[test]
    fn tables_that_are_gone_are_made_again() -> Result {
        let (bed, mm) = (new_bed()?, process()?);
        let bond = Bond::bind(bed.dev(0)?, &mm)?;
        let pages = || bond.prefault(area(0), AREA_SIZE, Access::Write);
        AGAIN.store(3, Relaxed);
        let held = pages()?;
        check!(held.is_live() && AGAIN.load(Relaxed) == 0);
        drop(held);
        AGAIN.store(1000, Relaxed);
        check!(pages().err() == Some(PrefaultError::Other(EAGAIN)));
        check!(AGAIN.load(Relaxed) > 0);
        check!(is_empty() && locked_pages(&mm) == 0);
        Ok(())
    }

    // The IOMMU driver takes the window back while the bond lasts.
    #[test]
    fn what_no_device_reaches_is_not_live() -> Result {
        let (bed, mm) = (new_bed()?, process()?);
        let bond = Bond::bind(bed.dev(0)?, &mm)?;
        let held = bond.prefault(area(0), AREA_SIZE, Access::Write)?;
        CUT.store(1, Relaxed);
        check!(!held.is_live());
        CUT.store(0, Relaxed);
        check!(held.is_live());
        drop(held);
        check!(is_empty());
        Ok(())
    }

    #[test]
    fn pages_are_pinned_and_then_dirty() -> Result {
        let (bed, mm) = (new_bed()?, process()?);
        let bond = Bond::bind(bed.dev(0)?, &mm)?;
        for (write, access) in [(false, Access::Read), (true, Access::Write)] {
            let held = bond.prefault(area(0), 1, access)?;
            let page = pages(1).next().ok_or(EINVAL)?;
            check!(is_pinned(page));
            drop(held);
            check!(!is_pinned(page));
            check!(is_dirty(page) == write);
        }
        Ok(())
    }

    // More than are pinned with one call.
    #[test]
    fn many_pages() -> Result {
        const COUNT: usize = 100;

        let (bed, mm) = (new_bed()?, process()?);
        let bond = Bond::bind(bed.dev(0)?, &mm)?;
        for n in 3..(COUNT * PAGE_SIZE).div_ceil(AREA_SIZE) {
            map_area(&mm, AREA + n * AREA_SIZE, READ | WRITE)?;
        }
        // This one is then not between its neighbours in memory.
        drop(bond.prefault(area(1), 1, Access::Read)?);
        let held = bond.prefault(area(0), COUNT * PAGE_SIZE, Access::Read)?;
        check!(locked_pages(&mm) == COUNT);
        for (n, page) in pages(COUNT).enumerate() {
            check!(page != 0 && pages(COUNT).position(|other| other == page) == Some(n));
        }
        drop(held);
        check!(is_empty());
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
