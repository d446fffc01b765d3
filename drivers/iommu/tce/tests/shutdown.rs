// SPDX-License-Identifier: GPL-2.0

//! The hypervisor does not clear a TCE: its window has to go.

use crate::{
    fake::{
        Event as Call,
        Fake,
        Model, //
    },
    pe::{
        Pe,
        Target, //
    },
    space::Space,
    tests::{
        ensure,
        granule,
        map,
        range,
        threads::{
            Gate,
            Thread, //
        },
        unmap,
        Rig,
        HIGH,
        PHYS,
        WRITE, //
    }, //
};
use kernel::{
    powerpc::{
        owner::DmaOwner::{
            Iommu,
            Nobody,
            Platform, //
        },
        window::Ioba, //
    },
    prelude::*,
    sync::{
        atomic::{
            Atomic,
            Relaxed, //
        },
        Arc, //
    },
    time::{
        delay::fsleep,
        Delta, //
    }, //
};

/// A PE below a hypervisor, of whose mapping in the middle of the high window one TCE sticks.
fn stuck(rig: &Rig) -> Result<(Arc<Pe<Fake>>, Arc<Space>)> {
    let (pe, space) = rig.attached()?;
    let granule = granule(&space);
    // What is still mapped in both windows is for nobody either.
    map(&space, range(granule, 3 * granule), PHYS, WRITE)?;
    let at = range(HIGH, 600 * granule);
    map(&space, at, PHYS, WRITE)?;
    rig.fake.stick(Some(Ioba::new(HIGH + 100 * granule)));
    unmap(&space, range(HIGH, 200 * granule));
    Ok((pe, space))
}

/// Does `f` whenever a window is about to be closed. The flag says that one was.
fn at_close(rig: &Rig, f: impl Fn(&Fake) + Send + Sync + 'static) -> Result<Arc<Atomic<bool>>> {
    let tried = Arc::new(Atomic::new(false), GFP_KERNEL)?;
    let (fake, tell) = (rig.fake.clone(), tried.clone());
    let hook = move |event| {
        if event == Call::Close {
            f(&fake);
            tell.store(true, Relaxed);
        }
    };
    rig.fake.hook(Some(Arc::new(hook, GFP_KERNEL)?));
    Ok(tried)
}

/// Waits until `done` says so.
fn wait(done: impl Fn() -> bool) -> Result {
    for _ in 0..6000 {
        if done() {
            return Ok(());
        }
        fsleep(Delta::from_millis(10));
    }
    ensure(false, "in time")
}

#[kunit_tests(tce_shutdown)]
mod tests {
    use super::*;

    #[test]
    fn windows_are_closed_by_themselves() -> Result {
        let rig = Rig::new(Model::PSERIES)?;
        let (pe, space) = stuck(&rig)?;
        let granule = granule(&space);
        wait(|| rig.fake.open_windows() == 0)?;
        assert!(!rig.reaches_any());
        // Nobody is asked to do anything with windows that are not there.
        let before = pe.stats().read().errors;
        assert!(map(&space, range(HIGH, granule), PHYS, WRITE) == Err(EIO));
        unmap(&space, range(granule, granule));
        unmap(&space, range(HIGH + 200 * granule, 300 * granule));
        rig.attach(&pe, &Target::Blocked)?;
        assert_eq!(pe.stats().read().errors, before);
        assert!(rig.owner() == Some(Iommu));
        // As long as a driver is bound there can be no new windows.
        rig.set_in_use(&pe, true);
        let other = Space::new(pe.layout())?;
        assert!(rig.attach(&pe, &Target::Paging(&other)) == Err(EIO));
        rig.set_in_use(&pe, false);
        // The next domain gets new windows, with what is mapped in it and nothing else.
        rig.attach(&pe, &Target::Paging(&space))?;
        assert!(rig.reaches(granule, true).is_none());
        assert_eq!(rig.reaches(2 * granule, true), Some(PHYS + granule));
        map(&space, range(HIGH, granule), PHYS, WRITE)?;
        assert_eq!(rig.reaches(HIGH, true), Some(PHYS));
        assert!(rig.reaches(HIGH + 100 * granule, true).is_none());
        let last = 599 * granule;
        assert_eq!(rig.reaches(HIGH + last, true), Some(PHYS + last));
        rig.fake.stick(None);
        assert!(rig.leave(&pe) && rig.fake.is_as_before());
        rig.check()
    }

    // Whoever comes before the work item does not wait for it.
    #[test]
    fn windows_are_closed_by_a_detach() -> Result {
        for platform in [false, true] {
            let rig = Rig::new(Model::PSERIES)?;
            let (pe, _space) = stuck(&rig)?;
            if platform {
                rig.attach(&pe, &Target::Platform)?;
                assert!(rig.fake.is_as_before() && rig.owner() == Some(Platform));
            } else {
                rig.attach(&pe, &Target::Blocked)?;
                assert_eq!(rig.fake.open_windows(), 0);
            }
            assert!(!rig.reaches_any());
            assert!(rig.leave(&pe) && rig.fake.is_as_before());
            rig.check()?;
        }
        Ok(())
    }

    // A hypervisor that does not close a window with TCEs: the rest is cleared, and the PE is
    // nobody's until it gives in.
    #[test]
    fn window_that_cannot_be_closed() -> Result {
        for gives_in in [true, false] {
            let rig = Rig::new(Model::PSERIES)?;
            rig.fake.keep_dirty(true);
            let (pe, space) = stuck(&rig)?;
            let granule = granule(&space);
            wait(|| rig.reaches(2 * granule, false).is_none())?;
            rig.attach(&pe, &Target::Blocked)?;
            assert_eq!(rig.fake.open_windows(), 1);
            let mut count = 0;
            rig.fake.for_each_reached(|_| count += 1);
            assert_eq!(count, 1);
            let other = Space::new(pe.layout())?;
            assert!(rig.attach(&pe, &Target::Paging(&other)) == Err(EIO));
            assert!(rig.attach(&pe, &Target::Platform) == Err(EIO));
            assert!(rig.owner() == Some(Iommu));
            if gives_in {
                rig.fake.stick(None);
                rig.attach(&pe, &Target::Paging(&other))?;
                map(&other, range(HIGH, granule), PHYS, WRITE)?;
                assert_eq!(rig.reaches(HIGH, true), Some(PHYS));
                assert!(rig.leave(&pe) && rig.fake.is_as_before());
            } else {
                assert!(rig.leave(&pe));
                assert!(rig.owner() == Some(Nobody) && !rig.fake.is_platform());
            }
            rig.check()?;
        }
        Ok(())
    }

    // What the hypervisor keeps because it is not clear is cleared, and closed then.
    #[test]
    fn window_that_can_be_closed_when_it_is_clear() -> Result {
        let rig = Rig::new(Model::PSERIES)?;
        rig.fake.keep_dirty(true);
        let (pe, space) = rig.attached()?;
        let at = range(HIGH, granule(&space));
        map(&space, at, PHYS, WRITE)?;
        rig.fake.stick(Some(at.first));
        at_close(&rig, |fake| fake.stick(None))?;
        unmap(&space, at);
        rig.attach(&pe, &Target::Blocked)?;
        rig.fake.hook(None);
        assert_eq!(rig.fake.open_windows(), 0);
        assert!(rig.leave(&pe) && rig.fake.is_as_before());
        rig.check()
    }

    // Nobody waits for a hypervisor that is busy for each of millions of TCEs.
    #[test]
    fn a_busy_hypervisor_is_left_alone() -> Result {
        let rig = Rig::new(Model::PSERIES)?;
        rig.fake.keep_dirty(true);
        let (pe, space) = rig.attached()?;
        let at = range(HIGH, granule(&space));
        map(&space, at, PHYS, WRITE)?;
        rig.fake.stick(Some(at.first));
        let tried = at_close(&rig, |fake| fake.busy(u32::MAX))?;
        let before = rig.fake.hcalls();
        unmap(&space, at);
        wait(|| tried.load(Relaxed))?;
        rig.attach(&pe, &Target::Blocked)?;
        // The work item and the detach, for two windows, a list and a TCE of each.
        assert!(rig.fake.hcalls() - before < 10_000);
        rig.fake.hook(None);
        rig.fake.fail_never();
        rig.fake.stick(None);
        assert!(rig.leave(&pe) && rig.fake.is_as_before());
        rig.check()
    }

    // A window that could be neither closed nor cleared is still in use, and the one that was
    // closed is not: its name may be somebody else's.
    #[test]
    fn unmap_after_a_failed_close() -> Result {
        let rig = Rig::new(Model::PSERIES)?;
        rig.fake.keep_dirty(true);
        let (pe, space) = rig.attached()?;
        let granule = granule(&space);
        let (first, second) = (range(HIGH, granule), range(HIGH + 20 * granule, granule));
        map(&space, first, PHYS, WRITE)?;
        map(&space, second, PHYS, WRITE)?;
        rig.fake.stick(Some(first.first));
        // From the first attempt on it is another TCE, which is mapped.
        let tried = at_close(&rig, move |fake| fake.stick(Some(second.first)))?;
        unmap(&space, first);
        // A detach that came before would clear the other one.
        wait(|| tried.load(Relaxed))?;
        rig.attach(&pe, &Target::Blocked)?;
        rig.attach(&pe, &Target::Blocked)?;
        rig.fake.hook(None);
        assert_eq!(rig.fake.open_windows(), 1);
        assert_eq!(rig.reaches(second.first.get(), true), Some(PHYS));
        rig.fake.stick(None);
        unmap(&space, second);
        assert!(!rig.reaches_any());
        assert!(rig.leave(&pe) && rig.fake.is_as_before());
        rig.check()
    }

    // Where the default window is the only one and stays, it is cleared.
    #[test]
    fn default_window_that_cannot_be_closed() -> Result {
        let rig = Rig::new(Model {
            ddw: false,
            ..Model::PSERIES
        })?;
        let (pe, space) = rig.attached()?;
        let granule = granule(&space);
        map(&space, range(granule, 3 * granule), PHYS, WRITE)?;
        rig.fake.stick(Some(Ioba::new(granule)));
        unmap(&space, range(granule, granule));
        rig.attach(&pe, &Target::Blocked)?;
        assert_eq!(rig.fake.open_windows(), 1);
        assert!(rig.reaches(granule, true).is_some());
        assert!(rig.reaches(2 * granule, true).is_none());
        rig.fake.stick(None);
        rig.attach(&pe, &Target::Paging(&space))?;
        assert!(rig.reaches(granule, true).is_none());
        assert_eq!(rig.reaches(2 * granule, true), Some(PHYS + granule));
        assert!(rig.leave(&pe) && rig.fake.is_as_before());
        rig.check()
    }

    // A reset of a bound device, whose fields nobody may write.
    #[test]
    fn bound_device_gets_no_new_windows() -> Result {
        let rig = Rig::new(Model::PSERIES)?;
        let (pe, space) = stuck(&rig)?;
        rig.fake.set_in_use(rig.dev(), true);
        rig.set_in_use(&pe, true);
        let writes = rig.fake.owner(rig.dev());
        rig.attach(&pe, &Target::Blocked)?;
        assert!(rig.attach(&pe, &Target::Paging(&space)) == Err(EIO));
        assert!(rig.fake.owner(rig.dev()) == writes);
        assert!(!rig.reaches_any());
        rig.fake.set_in_use(rig.dev(), false);
        rig.set_in_use(&pe, false);
        rig.attach(&pe, &Target::Paging(&space))?;
        rig.fake.stick(None);
        rig.check()
    }

    // The device goes while the work item is in the middle of it: whoever lets it go waits.
    #[test]
    fn removal_waits_for_the_work_item() -> Result {
        let rig = Rig::new(Model::PSERIES)?;
        let (pe, space) = rig.attached()?;
        let gate = Gate::new(Call::Close)?;
        gate.put_up(&rig)?;
        let at = range(HIGH, granule(&space));
        map(&space, at, PHYS, WRITE)?;
        rig.fake.stick(Some(at.first));
        unmap(&space, at);
        gate.arrived.wait_for_completion();
        assert!(rig.leave(&pe));
        drop(pe);
        let passed = gate.passed.load(Relaxed);
        rig.fake.hook(None);
        assert!(passed && rig.fake.is_as_before());
        rig.check()
    }

    // Who clears a TCE in a window that is about to be closed must be done with its name, which
    // another window may get.
    #[test]
    fn close_waits_for_unmap() -> Result {
        let rig = Rig::new(Model::PSERIES)?;
        let (pe, space) = rig.attached()?;
        let granule = granule(&space);
        let (first, second) = (range(HIGH, granule), range(HIGH + 20 * granule, granule));
        map(&space, first, PHYS, WRITE)?;
        map(&space, second, PHYS, WRITE)?;
        rig.fake.stick(Some(first.first));

        let gate = Gate::new(Call::Clear(second.first))?;
        let early = Arc::new(Atomic::new(false), GFP_KERNEL)?;
        let hook = {
            let (gate, early) = (gate.clone(), early.clone());
            move |event| {
                gate.call(event);
                if event == Call::Close && !gate.passed.load(Relaxed) {
                    early.store(true, Relaxed);
                }
            }
        };
        rig.fake.hook(Some(Arc::new(hook, GFP_KERNEL)?));
        let other = {
            let space = space.clone();
            Thread::spawn(move || unmap(&space, second))?
        };
        gate.arrived.wait_for_completion();
        unmap(&space, first);
        wait(|| rig.fake.open_windows() == 0)?;
        other.join();
        rig.fake.hook(None);
        assert!(!early.load(Relaxed));
        assert!(rig.leave(&pe));
        rig.check()
    }
}
