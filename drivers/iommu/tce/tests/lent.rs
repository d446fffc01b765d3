// SPDX-License-Identifier: GPL-2.0

//! A process loses its window while firmware refuses, or the system goes down.

use crate::{
    fake::Model,
    pe::Target,
    space::Space,
    tests::{
        clear,
        ensure,
        map,
        process::{
            on_two,
            Bed,
            PID, //
        },
        range,
        sweep,
        unmap,
        Rig,
        ONE_BY_ONE,
        PHYS,
        WRITE, //
    }, //
};
use kernel::{
    powerpc::window::Ioba,
    prelude::*,
    sync::rcu, //
};

#[kunit_tests(tce_lent)]
mod tests {
    use super::*;

    // What the kernel has unmapped may not be out of the windows yet.
    #[test]
    fn nothing_of_the_kernel_is_left_in_the_window() -> Result {
        on_two(|bed| {
            let page = range(bed.at(), bed.granule);
            map(&bed.kernel, page, PHYS, WRITE)?;
            assert!(bed.reaches_process());
            ensure(clear(&bed.kernel, page).is_some(), "it was mapped")?;
            bed.lend()?;
            assert!(!bed.reaches_process());
            bed.reclaim();
            bed.is_over()
        })
    }

    #[test]
    fn another_device_does_not_take_it_back() -> Result {
        on_two(|bed| {
            bed.fill()?;
            bed.lend()?;
            let sibling = bed.rig.sibling()?;
            bed.pe.reclaim(sibling.dev());
            assert!(bed.reaches_process() && bed.pe.process().is_some());
            bed.reclaim();
            bed.is_over()
        })
    }

    // It would reach the process, and have no window for its own 64-bit addresses.
    #[test]
    fn another_device_of_the_pe_ends_it() -> Result {
        on_two(|bed| {
            bed.fill()?;
            bed.lend()?;
            let sibling = bed.rig.sibling()?;
            assert!(bed.process.is_connected());
            sibling.join(&bed.pe)?;
            assert!(!bed.reaches_process() && bed.pe.process().is_none());
            assert!(!bed.process.is_connected());
            map(&bed.kernel, range(bed.at(), bed.granule), PHYS, WRITE)?;
            unmap(&bed.kernel, range(bed.at(), bed.granule));
            assert!(bed.lend() == Err(EOPNOTSUPP));
            sibling.leave(&bed.pe);
            bed.is_over()
        })
    }

    #[test]
    fn nothing_is_reached_when_the_system_goes_down() -> Result {
        for model in [Model::PSERIES, ONE_BY_ONE, Model::PHB3, Model::PHB4] {
            let rig = Rig::new(model)?;
            let bed = Bed::new(&rig)?;
            bed.fill()?;
            bed.lend()?;
            bed.pe.silence();
            rcu::synchronize_rcu();
            assert!(bed.lend() == Err(ESHUTDOWN));
            let next = bed.at() + bed.granule;
            map(&bed.process, range(next, bed.granule), PHYS, WRITE)?;
            // A PHB walks the tables themselves.
            let walks = !bed.process.layout().holds_copy();
            assert!(rig.reaches(next, true).is_some() == walks);
            bed.pe.shut_down();
            assert!(!bed.reaches_process() && !bed.reaches_kernel());
            assert!(rig.reaches(next, true).is_none());
            // The windows stay as they are, because the next kernel was told of them.
            bed.reclaim();
            let high = range(bed.at(), bed.granule);
            assert!(map(&bed.kernel, high, PHYS, WRITE) == Err(EINVAL));
            assert!(!bed.reaches_process());
            rig.leave(&bed.pe);
            rig.check()?;
        }
        Ok(())
    }

    // OPAL does not close the window; the next process finds it closed, or waits.
    #[test]
    fn the_next_process_comes_when_firmware_gives_in() -> Result {
        for model in [Model::PHB3, Model::PHB4] {
            let rig = Rig::new(model)?;
            let bed = Bed::new(&rig)?;
            let second = Space::for_process(bed.pe.layout())?;
            bed.fill()?;
            bed.lend()?;
            rig.fake.fail_from(0);
            bed.reclaim();
            assert!(bed.pe.process().is_some());
            assert!(bed.pe.lend(rig.dev(), &second, PID) == Err(EUSERS));
            rig.fake.fail_never();
            bed.pe.lend(rig.dev(), &second, PID)?;
            assert!(!bed.reaches_process() && bed.reaches_kernel());
            bed.reclaim();
            bed.is_over()?;
            rig.leave(&bed.pe);
            ensure(rig.fake.is_as_before(), "the platform has the PE")?;
            rig.check()?;
        }
        Ok(())
    }

    // Whichever call of the end fails: if all windows are closed then, that of the process is.
    #[test]
    fn what_is_closed_with_the_rest_is_the_kernels_again() -> Result {
        sweep(|rig, n| {
            let Ok(bed) = Bed::new(rig) else {
                return Ok(true);
            };
            let result = (|| {
                if bed.pe.layout().windows().count() < 2 {
                    return Ok(false);
                }
                bed.fill()?;
                bed.lend()?;
                rig.fake.fail_at(n.into());
                rig.attach(&bed.pe, &Target::Blocked)?;
                let failed = rig.fake.has_failed();
                rig.fake.fail_never();
                rig.attach(&bed.pe, &Target::Paging(&bed.kernel))?;
                ensure(bed.pe.process().is_none(), "no process has the window")?;
                bed.is_over()?;
                // The process has nothing to do with the PE any more.
                let page = range(bed.at(), bed.granule);
                map(&bed.kernel, page, PHYS, WRITE)?;
                bed.empty();
                let there = rig.reaches(bed.at(), true) == Some(PHYS);
                unmap(&bed.kernel, page);
                ensure(there, "what a process unmaps is its own")?;
                Ok(failed)
            })();
            rig.leave(&bed.pe);
            ensure(rig.fake.is_as_before(), "the platform has the PE")?;
            result
        })
    }

    // To close one window of such a PE would close all.
    #[test]
    fn refused_where_a_tce_is_stuck() -> Result {
        for model in [Model::PSERIES, ONE_BY_ONE] {
            let rig = Rig::new(model)?;
            let bed = Bed::new(&rig)?;
            rig.fake.keep_dirty(true);
            rig.fake.stick(Some(Ioba::new(bed.granule)));
            unmap(&bed.kernel, range(bed.granule, bed.granule));
            assert!(bed.lend() == Err(EIO) && bed.pe.process().is_none());
            rig.fake.stick(None);
            rig.fake.keep_dirty(false);
            rig.leave(&bed.pe);
            ensure(rig.fake.is_as_before(), "the platform has the PE")?;
            rig.check()?;
        }
        Ok(())
    }
}
