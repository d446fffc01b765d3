// SPDX-License-Identifier: GPL-2.0

//! Memory that runs out.

use crate::{
    fake::Model,
    pe::Target,
    space::Space,
    tests::{
        ensure,
        granule,
        life,
        map,
        populated,
        range,
        sweep,
        Rig,
        PHYS,
        WRITE, //
    }, //
};
use kernel::{
    alloc::faults::FailNth,
    new_spinlock_irq,
    powerpc::window::{
        Firmware as Kind,
        PageShift, //
    },
    prelude::*,
    sync::Arc, //
};

#[kunit_tests(tce_memory)]
mod tests {
    use super::*;

    // Firmware refuses nothing here, so the platform always has the PE again.
    #[test]
    fn every_allocation_fails_once() -> Result {
        sweep(|rig, n| {
            let fault = FailNth::new(n);
            let result = life(rig);
            let failed = fault.has_failed();
            drop(fault);
            ensure(matches!(result, Ok(()) | Err(ENOMEM)), "no other error")?;
            ensure(failed || result.is_ok(), "a life with enough memory")?;
            ensure(rig.fake.is_as_before(), "the platform has the PE again")?;
            Ok(failed)
        })
    }

    // An attach without memory leaves the PE where it was.
    #[test]
    fn attach_without_memory_changes_nothing() -> Result {
        sweep(|rig, n| {
            let (pe, first) = rig.attached()?;
            let granule = granule(&first);
            let second = Space::new(pe.layout())?;
            map(&first, range(granule, granule), PHYS, WRITE)?;
            let fault = FailNth::new(n);
            let result = rig.attach(&pe, &Target::Paging(&second));
            let failed = fault.has_failed();
            drop(fault);
            ensure(failed != result.is_ok(), "the failure was told")?;
            let expected = failed.then_some(PHYS);
            ensure(rig.reaches(granule, true) == expected, "where it was")?;
            Ok(failed)
        })
    }

    // Going back to a domain takes no memory, also when firmware did not close the other one at
    // first.
    #[test]
    fn way_back_takes_no_memory() -> Result {
        for model in [Model::PSERIES, Model::PHB3, Model::PHB4] {
            let rig = Rig::new(model)?;
            let (pe, first) = rig.attached()?;
            let second = Space::new(pe.layout())?;
            rig.attach(&pe, &Target::Paging(&second))?;
            // On pSeries windows that could not be closed are opened anew, which takes memory.
            if model.kind == Kind::Ioda {
                rig.fake.fail_from(0);
                assert!(rig.attach(&pe, &Target::Paging(&first)).is_err());
                rig.fake.fail_never();
            }
            let fault = FailNth::new(0);
            let result = rig.attach(&pe, &Target::Paging(&first));
            drop(fault);
            assert_eq!(result, Ok(()));
        }
        Ok(())
    }

    // The table grows in atomic context, where memory is short most often.
    #[test]
    fn table_grows_or_says_how_far_it_came() -> Result {
        let lock = Arc::pin_init(new_spinlock_irq!(()), GFP_KERNEL)?;
        sweep(|rig, n| {
            let (_pe, space) = rig.attached()?;
            // So many TCEs need three leaves.
            let (_, low) = space.layout().windows().next().ok_or(EINVAL)?;
            let (shift, page) = (low.shift, low.shift.bytes());
            let at = range(100 * page, 1200 * page);
            let result = {
                let _atomic = lock.lock();
                let fault = FailNth::new(n);
                let result = space.map(at, WRITE.tce(PHYS), shift, GFP_ATOMIC);
                ensure(
                    fault.has_failed() == result.is_err(),
                    "the failure was told",
                )?;
                result
            };
            let done = match result {
                Ok(()) => Some(at),
                Err((ENOMEM, mapped)) => mapped,
                Err((e, _)) => return Err(e),
            };
            space.publish(at)?;
            for offset in (0..1200).map(|n| n * page) {
                let addr = at.first.get() + offset;
                let is_mapped = done.is_some_and(|done| addr <= done.last.get());
                let expected = is_mapped.then_some(PHYS + offset);
                let reached = rig.reaches(addr, true);
                ensure(reached == expected, "mapped as far as it was told")?;
            }
            // What the core does next.
            ensure(space.unmap(at) == done, "as much is unmapped")?;
            space.withdraw(at);
            ensure(
                !rig.reaches_any() && populated(&space) == 0,
                "nothing is left",
            )?;
            Ok(result.is_err())
        })
    }

    // The core unmaps whole pages, so half of one is not left mapped.
    #[test]
    fn half_a_large_page_is_taken_back() -> Result {
        let rig = Rig::new(Model::PSERIES)?;
        let (_pe, space) = rig.attached()?;
        // A page that needs two leaves, because each TCE of the low window is for 4 KiB.
        let page = PageShift::new(22).ok_or(EINVAL)?;
        let at = range(page.bytes(), 2 * page.bytes());
        for (n, pages) in [(0, 0), (1, 0), (1, 1), (1, 1)] {
            let fault = FailNth::new(n);
            let result = space.map(at, WRITE.tce(PHYS), page, GFP_ATOMIC);
            drop(fault);
            let wanted = (pages > 0).then(|| range(page.bytes(), pages * page.bytes()));
            assert_eq!(result, Err((ENOMEM, wanted)));
            assert_eq!(populated(&space), pages << 10);
            space.unmap(at);
            assert_eq!(populated(&space), 0);
        }
        Ok(())
    }
}
