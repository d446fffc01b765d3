// SPDX-License-Identifier: GPL-2.0

//! Firmware that refuses.

use crate::{
    fake::Model,
    layout::IobaRange,
    pe::{
        Domain,
        Start,
        Target, //
    },
    space::Space,
    tests::{
        ensure,
        granule,
        life,
        map,
        on_all,
        populated,
        range,
        sweep,
        unmap,
        Rig,
        HIGH,
        ONE_BY_ONE,
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
        window::{
            Firmware as Kind,
            Ioba,
            WindowNumber, //
        }, //
    },
    prelude::*, //
};

#[kunit_tests(tce_faults)]
mod tests {
    use super::*;

    // Either the platform has all back, or nobody has anything.
    #[test]
    fn every_call_fails_once() -> Result {
        sweep(|rig, n| {
            rig.fake.fail_at(n.into());
            let result = life(rig);
            let failed = rig.fake.has_failed();
            ensure(failed || result.is_ok(), "a life without failures")?;
            let harmless = rig.fake.is_as_before() || !rig.reaches_any();
            ensure(harmless, "harmless after a failure")?;
            Ok(failed)
        })
    }

    // A PE that is removed answers nothing any more. Firmware that takes nothing back leaves
    // windows open: their tables have to stay, and have what was mapped. KASAN looks at what is
    // walked.
    #[test]
    fn removed_at_any_time() -> Result {
        sweep(|rig, n| {
            rig.fake.fail_from(n.into());
            let result = life(rig);
            let failed = rig.fake.has_failed();
            ensure(failed || result.is_ok(), "a life without failures")?;
            let mapped = PHYS..PHYS + (200 << 16);
            let mut only_mapped = true;
            rig.fake
                .for_each_reached(|phys| only_mapped &= mapped.contains(&phys));
            ensure(only_mapped, "nothing but what was mapped is reached")?;
            let harmless = rig.fake.is_as_before() || failed;
            ensure(harmless || !rig.reaches_any(), "harmless otherwise")?;
            // Nobody maps anything in windows that nobody has.
            let owner = match rig.fake.is_platform() {
                true => Platform,
                false => Nobody,
            };
            ensure(rig.owner() == Some(owner), "fields of the last")?;
            Ok(failed)
        })
    }

    // A domain has no more to do with windows that went back, also if one of them did not close.
    #[test]
    fn what_goes_back_is_forgotten() -> Result {
        sweep(|rig, n| {
            let (pe, space) = rig.attached()?;
            let at = range(granule(&space), granule(&space));
            rig.fake.fail_at(n.into());
            let attached = rig.attach(&pe, &Target::Platform);
            let failed = rig.fake.has_failed();
            rig.fake.fail_never();
            ensure(failed || attached.is_ok(), "without a failure")?;
            map(&space, at, PHYS, WRITE).ok();
            unmap(&space, at);
            ensure(!rig.fake.is_platform() || !rig.reaches_any(), "no more")?;
            Ok(failed)
        })
    }

    // A PE that is to stay with the platform is taken for a moment, to look at it.
    #[test]
    fn start_that_fails_leaves_true_fields() -> Result {
        sweep(|rig, n| {
            let sibling = rig.sibling()?;
            rig.fake.fail_from(n.into());
            let started = rig.start(Start::Platform);
            let failed = rig.fake.has_failed();
            ensure(failed != started.is_ok(), "started")?;
            let owner = match rig.fake.is_platform() {
                true => Platform,
                false => Nobody,
            };
            ensure(
                (rig.owner(), sibling.owner()) == (Some(owner), Some(owner)),
                "fields",
            )?;
            Ok(failed)
        })
    }

    // A claim fails, and so does the way back: nobody has the PE then, until it is asked for again.
    #[test]
    fn nobody_has_what_firmware_refused() -> Result {
        for model in [Model::PSERIES, Model::PHB3, Model::PHB4] {
            // Number 0 is the query, before anything has changed, and number 1 takes the windows.
            for n in 0.. {
                let rig = Rig::new(model)?;
                let sibling = rig.sibling()?;
                let owners = || (rig.owner(), sibling.owner());
                let pe = rig.start(Start::Platform)?;
                rig.join(&pe)?;
                let space = Space::new(pe.layout())?;
                rig.fake.fail_from(n);
                let attached = rig.attach(&pe, &Target::Paging(&space));
                if !rig.fake.has_failed() {
                    ensure(attached.is_ok() && n > 2, "attached")?;
                    break;
                }
                let nobody = pe.domain() == Domain::Nobody;
                let expected = match rig.fake.is_platform() {
                    true => (Some(Platform), Some(Platform)),
                    false if nobody => (Some(Nobody), Some(Nobody)),
                    // The driver has them, and can give them to nobody.
                    false => (Some(Iommu), Some(Nobody)),
                };
                ensure(owners() == expected, "fields")?;
                ensure(!rig.reaches_any(), "nothing is reached")?;
                // Blocked is what it is already, and asks for nothing.
                if nobody {
                    rig.attach(&pe, &Target::Blocked)?;
                    ensure(owners() == expected, "fields of a blocked device")?;
                }
                rig.fake.fail_never();
                if n % 2 == 0 {
                    // The PE may have fewer windows now: firmware did not say what there may be.
                    // What could not be given back is claimed anew: then there are more again.
                    let attach = || {
                        let space = Space::new(pe.layout())?;
                        rig.attach(&pe, &Target::Paging(&space))
                    };
                    attach().or_else(|_| attach())?;
                    ensure(
                        owners() == (Some(Iommu), Some(Nobody)),
                        "fields of the driver",
                    )?;
                }
                rig.attach(&pe, &Target::Platform)?;
                ensure(rig.fake.is_as_before(), "given back")?;
                ensure(
                    owners() == (Some(Platform), Some(Platform)),
                    "fields at the end",
                )?;
                ensure(rig.leave(&pe), "the last one")?;
                rig.check()?;
            }
        }
        Ok(())
    }

    // The platform does not get the PE, so the domain goes on.
    #[test]
    fn failed_give_back_changes_nothing() -> Result {
        sweep(|rig, n| {
            let (pe, space) = rig.attached()?;
            let granule = granule(&space);
            map(&space, range(granule, granule), PHYS, WRITE)?;
            // In the last window, which firmware may have removed before it failed.
            let last = space.layout().aperture().last.get() + 1 - granule;
            map(&space, range(last, granule), PHYS + granule, WRITE)?;
            rig.fake.fail_at(n.into());
            let result = rig.attach(&pe, &Target::Platform);
            let failed = rig.fake.has_failed();
            rig.fake.fail_never();
            let owner = match result {
                Ok(()) => {
                    ensure(rig.fake.is_as_before(), "given back")?;
                    Platform
                }
                Err(_) => {
                    ensure(rig.reaches(granule, true) == Some(PHYS), "as it was")?;
                    let reached = rig.reaches(last, true);
                    ensure(reached == Some(PHYS + granule), "as it was, above")?;
                    Iommu
                }
            };
            ensure(rig.owner() == Some(owner), "fields")?;
            Ok(failed)
        })
    }

    // Firmware does what it is asked for a frozen PE, and the driver need not know.
    #[test]
    fn frozen_at_any_time() -> Result {
        sweep(|rig, n| {
            rig.fake.freeze_at(n.into());
            life(rig)?;
            ensure(rig.fake.is_as_before(), "the platform has it back")?;
            Ok(rig.fake.has_failed())
        })
    }

    // What is mapped when the freeze ends is what the domain has then.
    #[test]
    fn mapped_while_frozen() -> Result {
        on_all(|rig| {
            let (pe, space) = rig.attached()?;
            let granule = granule(&space);
            let (old, new) = (range(granule, granule), range(2 * granule, granule));
            map(&space, old, PHYS, WRITE)?;
            let dma = |at: IobaRange| rig.fake.dma(at.first, true);
            ensure(dma(old).is_some() && dma(new).is_none(), "frozen")?;
            map(&space, new, PHYS, WRITE)?;
            unmap(&space, old);
            ensure(dma(new).is_none(), "still frozen")?;
            rig.fake.thaw();
            ensure(dma(new).is_some(), "what was mapped meanwhile")?;
            ensure(dma(old).is_none(), "what was unmapped meanwhile")?;
            rig.attach(&pe, &Target::Blocked)?;
            rig.fake.thaw();
            ensure(dma(new).is_none(), "blocked meanwhile")?;
            rig.attach(&pe, &Target::Paging(&space))?;
            rig.fake.thaw();
            ensure(dma(new).is_some(), "attached meanwhile")
        })
    }

    // A failed attach leaves the PE where it was.
    #[test]
    fn failed_attach_changes_nothing() -> Result {
        sweep(|rig, n| {
            let (pe, first) = rig.attached()?;
            let granule = granule(&first);
            let second = Space::new(pe.layout())?;
            map(&first, range(granule, granule), PHYS, WRITE)?;
            map(&second, range(granule, granule), PHYS + granule, WRITE)?;
            rig.fake.fail_at(n.into());
            let result = rig.attach(&pe, &Target::Paging(&second));
            let failed = rig.fake.has_failed();
            rig.fake.fail_never();
            let expected = match result {
                Ok(()) => PHYS + granule,
                Err(_) => PHYS,
            };
            let reached = rig.reaches(granule, true);
            ensure(reached == Some(expected), "in one of the two domains")?;
            Ok(failed)
        })
    }

    // Not even the way back works: the PE has neither of the domains, nor half of one.
    #[test]
    fn failed_way_back_leaves_nothing_open() -> Result {
        let rig = Rig::new(Model::PHB4)?;
        let (pe, first) = rig.attached()?;
        let granule = granule(&first);
        let second = Space::new(pe.layout())?;
        map(&first, range(granule, granule), PHYS, WRITE)?;
        map(&second, range(granule, granule), PHYS + granule, WRITE)?;
        rig.fake.fail_opens(WindowNumber::High);
        assert!(rig.attach(&pe, &Target::Paging(&second)).is_err());
        assert_eq!(rig.fake.open_windows(), 0);
        // There and back.
        assert_eq!(pe.stats().read().errors, 2);
        rig.fake.fail_never();
        rig.attach(&pe, &Target::Paging(&first))?;
        assert_eq!(rig.reaches(granule, true), Some(PHYS));
        rig.check()
    }

    // Half a list is published before the hypervisor gives up: none of it stays.
    #[test]
    fn partial_publish_is_taken_back() -> Result {
        let rig = Rig::new(Model::PSERIES)?;
        let (pe, space) = rig.attached()?;
        let granule = granule(&space);
        // The second is of two lists.
        for (pages, n, errors) in [(100, 0, 1), (1000, 0, 2), (1000, 1, 3)] {
            let at = range(HIGH, pages * granule);
            rig.fake.fail_at(n);
            assert!(map(&space, at, PHYS, WRITE).is_err());
            rig.fake.fail_never();
            assert!(!rig.reaches_any());
            assert_eq!(populated(&space), 0);
            assert_eq!(pe.stats().read().errors, errors);
            map(&space, at, PHYS, WRITE)?;
            unmap(&space, at);
        }
        Ok(())
    }

    // A refusal that does not last does no harm.
    #[test]
    fn refused_clear_is_tried_again() -> Result {
        for model in [Model::PSERIES, ONE_BY_ONE] {
            let rig = Rig::new(model)?;
            let (pe, space) = rig.attached()?;
            let granule = granule(&space);
            map(&space, range(granule, granule), PHYS, WRITE)?;
            rig.fake.fail_at(0);
            unmap(&space, range(granule, granule));
            assert!(rig.fake.has_failed());
            rig.fake.fail_never();
            assert!(rig.reaches(granule, false).is_none());
            assert_eq!(pe.stats().read().errors, 0);
            rig.attach(&pe, &Target::Blocked)?;
            rig.attach(&pe, &Target::Paging(&space))?;
        }
        Ok(())
    }

    // All that the hypervisor does not refuse is cleared, and the rest said once.
    #[test]
    fn refused_clear_leaves_nothing_else() -> Result {
        let rig = Rig::new(Model::PSERIES)?;
        let (pe, space) = rig.attached()?;
        let granule = granule(&space);
        let at = range(HIGH, 600 * granule);
        map(&space, at, PHYS, WRITE)?;
        rig.fake.fail_stuffs();
        unmap(&space, at);
        rig.fake.fail_never();
        assert!(!rig.reaches_any());
        assert_eq!(pe.stats().read().errors, 0);

        // One TCE that cannot be cleared, in the middle.
        map(&space, at, PHYS, WRITE)?;
        let stuck = Ioba::new(HIGH + 100 * granule);
        rig.fake.stick(Some(stuck));
        unmap(&space, at);
        for page in 0..600 {
            let reached = rig.reaches(HIGH + page * granule, false);
            assert_eq!(reached.is_some(), page == 100);
        }
        assert_eq!(pe.stats().read().errors, 1);
        // Nothing is mapped for the PE any more.
        assert!(map(&space, range(granule, granule), PHYS, WRITE) == Err(EIO));
        assert!(rig.reaches(granule, false).is_none());
        rig.fake.stick(None);
        Ok(())
    }

    #[test]
    fn busy_is_waited_for() -> Result {
        for model in [Model::PSERIES, ONE_BY_ONE] {
            let rig = Rig::new(model)?;
            let (pe, space) = rig.attached()?;
            let at = range(HIGH, 3 * granule(&space));
            let calls = if model.multi_tce { 1 } else { 3 };
            for _ in 0..2 {
                let before = rig.fake.hcalls();
                rig.fake.busy(7);
                map(&space, at, PHYS, WRITE)?;
                assert_eq!(rig.fake.hcalls() - before, 7 + calls);
                rig.fake.busy(7);
                unmap(&space, at);
                assert_eq!(rig.fake.hcalls() - before, 2 * (7 + calls));
                assert!(!rig.reaches_any());
            }
            assert_eq!(pe.stats().read().errors, 0);
            // There is an end to it.
            map(&space, at, PHYS, WRITE)?;
            let before = rig.fake.hcalls();
            rig.fake.busy(u32::MAX);
            unmap(&space, at);
            assert!(rig.fake.hcalls() - before < 1000);
            assert_eq!(pe.stats().read().errors, 1);
            rig.fake.fail_never();
            assert!(map(&space, at, PHYS, WRITE) == Err(EIO));
        }
        Ok(())
    }

    // A domain that a device still walks is not freed with its last owner.
    #[test]
    fn window_that_stays_open_keeps_its_tables() -> Result {
        on_all(|rig| {
            if rig.model.kind == Kind::Papr {
                return Ok(());
            }
            let (pe, space) = rig.attached()?;
            let granule = granule(&space);
            map(&space, range(granule, granule), PHYS, WRITE)?;
            // Only the low one.
            rig.fake.fail_at(0);
            rig.attach(&pe, &Target::Blocked)?;
            assert_eq!(rig.fake.open_windows(), 1);
            rig.attach(&pe, &Target::Paging(&space))?;
            rig.fake.fail_from(0);
            rig.attach(&pe, &Target::Blocked)?;
            rig.fake.fail_never();
            assert_eq!(rig.reaches(granule, true), Some(PHYS));
            // It is still told what it may not reach any more.
            unmap(&space, range(granule, granule));
            assert!(rig.reaches(granule, true).is_none());
            map(&space, range(granule, granule), PHYS, WRITE)?;
            drop(space);
            rig.reaches(granule, true);
            // The next domain closes the window first.
            let next = Space::new(pe.layout())?;
            rig.attach(&pe, &Target::Paging(&next))?;
            assert!(rig.reaches(granule, true).is_none());
            Ok(())
        })
    }

    // A PE that goes while its window is open is not asked for anything any more, and the tables
    // that may be walked stay. Another PE uses them all the while.
    #[test]
    fn gone_with_its_window_open() -> Result {
        on_all(|rig| {
            if rig.model.kind == Kind::Papr {
                return Ok(());
            }
            let (_pe, space) = rig.attached()?;
            let other = Rig::new(rig.model)?;
            let pe = other.pe()?;
            other.attach(&pe, &Target::Paging(&space))?;
            let at = range(granule(&space), granule(&space));
            map(&space, at, PHYS, WRITE)?;
            other.fake.fail_from(0);
            assert!(other.leave(&pe));
            drop(pe);
            let before = other.fake.kills();
            unmap(&space, at);
            map(&space, at, PHYS, WRITE)?;
            assert_eq!(other.fake.kills(), before);
            assert_eq!(rig.reaches(at.first.get(), true), Some(PHYS));
            rig.attach(&_pe, &Target::Blocked)?;
            drop(space);
            // What is freed is overwritten where KASAN, or slab_debug=P, looks for this.
            assert_eq!(other.reaches(at.first.get(), true), Some(PHYS));
            Ok(())
        })
    }

    // One window is open and the other refused: neither stays open, and if the first cannot be
    // closed again, that is made good before the next attach.
    #[test]
    fn half_an_attach() -> Result {
        let rig = Rig::new(Model::PHB4)?;
        let (pe, first) = rig.attached()?;
        let at = range(granule(&first), granule(&first));
        let second = Space::new(pe.layout())?;
        map(&second, at, PHYS, WRITE)?;
        // Two windows are closed and one is opened; from then on firmware refuses all.
        rig.fake.fail_from(3);
        assert!(rig.attach(&pe, &Target::Paging(&second)).is_err());
        assert!(rig.fake.has_failed());
        rig.fake.fail_never();
        rig.attach(&pe, &Target::Paging(&first))?;
        assert!(!rig.reaches_any());
        Ok(())
    }
}
