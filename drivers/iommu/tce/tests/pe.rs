// SPDX-License-Identifier: GPL-2.0

//! Devices of a PE that attach to one domain after the other.

use crate::{
    fake::Model,
    pe::{
        Start,
        Target, //
    },
    space::Space,
    tests::{
        ensure,
        granule,
        map,
        on_all,
        range,
        sweep,
        unmap,
        Rig,
        HIGH,
        MODELS,
        PHYS,
        WRITE, //
    }, //
};
use kernel::{
    device::Device,
    powerpc::{
        owner::DmaOwner::{
            Iommu,
            Nobody,
            Platform, //
        },
        window::PageShift, //
    },
    prelude::*,
    sync::{
        aref::ARef,
        atomic::{
            Atomic,
            Relaxed, //
        },
        rcu,
        Arc, //
    }, //
};

#[kunit_tests(tce_pe)]
mod tests {
    use super::*;

    #[test]
    fn a_new_pe_reaches_nothing_and_goes_back() -> Result {
        on_all(|rig| {
            let pe = rig.pe()?;
            assert!(core::ptr::eq(pe.calls(), &*rig.fake));
            assert!(rig.reaches(0x10_0000, false).is_none());
            assert!(rig.reaches(HIGH + 0x10_0000, false).is_none());
            assert!(!pe.is_empty());
            assert!(rig.leave(&pe));
            assert!(pe.is_empty());
            assert!(rig.fake.is_as_before());
            Ok(())
        })
    }

    // For guests whose 32-bit window has smaller pages than the CPU.
    #[test]
    fn pages_are_as_small_as_wanted() -> Result {
        for model in [Model::PSERIES, Model::PHB3, Model::PHB4] {
            let rig = Rig::new(Model {
                small_pages: true,
                ..model
            })?;
            let (pe, space) = rig.attached()?;
            assert_eq!(pe.layout().granule(), PageShift::SHIFT_4K);
            let top = pe.layout().aperture().last.get() + 1;
            map(&space, range(top - 0x1000, 0x1000), PHYS, WRITE)?;
            assert_eq!(rig.reaches(top - 1, true), Some(PHYS + 0xfff));
            assert!(rig.reaches(top - 0x1001, true).is_none());
        }
        Ok(())
    }

    // iommufd fills a domain before it attaches it.
    #[test]
    fn attach_brings_what_is_mapped() -> Result {
        on_all(|rig| {
            let pe = rig.pe()?;
            let space = Space::new(pe.layout())?;
            let granule = granule(&space);
            let top = space.layout().aperture().last.get() + 1;
            map(&space, range(granule, 3 * granule), PHYS, WRITE)?;
            map(&space, range(top - granule, granule), PHYS, WRITE)?;
            assert!(rig.reaches(granule, false).is_none());
            rig.attach(&pe, &Target::Paging(&space))?;
            assert_eq!(rig.reaches(3 * granule, true), Some(PHYS + 2 * granule));
            assert_eq!(rig.reaches(top - 1, true), Some(PHYS + granule - 1));
            assert!(rig.reaches(4 * granule, true).is_none());
            Ok(())
        })
    }

    #[test]
    fn blocked_is_lossless() -> Result {
        on_all(|rig| {
            let (pe, space) = rig.attached()?;
            let granule = granule(&space);
            map(&space, range(granule, granule), PHYS, WRITE)?;
            for _ in 0..3 {
                assert!(rig.reaches(granule, true).is_some());
                rig.attach(&pe, &Target::Blocked)?;
                assert!(rig.reaches(granule, true).is_none());
                rig.attach(&pe, &Target::Paging(&space))?;
                assert_eq!(rig.reaches(granule, true), Some(PHYS));
            }
            // What changes meanwhile counts.
            rig.attach(&pe, &Target::Blocked)?;
            unmap(&space, range(granule, granule));
            map(&space, range(2 * granule, granule), PHYS, WRITE)?;
            assert!(rig.reaches(2 * granule, true).is_none());
            rig.attach(&pe, &Target::Paging(&space))?;
            assert!(rig.reaches(granule, true).is_none());
            assert_eq!(rig.reaches(2 * granule, true), Some(PHYS));
            Ok(())
        })
    }

    #[test]
    fn nothing_is_reached_when_the_system_goes_down() -> Result {
        on_all(|rig| {
            let (pe, space) = rig.attached()?;
            let granule = granule(&space);
            map(&space, range(granule, granule), PHYS, WRITE)?;
            // Not before the grace period that is for all.
            pe.shut_down();
            assert!(rig.reaches(granule, true).is_some());
            pe.silence();
            let other = Space::new(pe.layout())?;
            rig.attach(&pe, &Target::Paging(&other))?;
            rcu::synchronize_rcu();
            pe.shut_down();
            map(&other, range(granule, granule), PHYS, WRITE)?;
            assert!(rig.reaches(granule, true).is_none());
            // Drivers may not have noticed.
            map(&space, range(2 * granule, granule), PHYS, WRITE)?;
            rig.attach(&pe, &Target::Paging(&Space::new(pe.layout())?))?;
            rig.attach(&pe, &Target::Paging(&space))?;
            assert!(rig.reaches(2 * granule, true).is_none());
            unmap(&space, range(granule, 2 * granule));
            assert!(rig.leave(&pe));
            assert!(rig.fake.is_as_before());
            Ok(())
        })
    }

    #[test]
    fn replace() -> Result {
        on_all(|rig| {
            let (pe, first) = rig.attached()?;
            let granule = granule(&first);
            let second = Space::new(pe.layout())?;
            map(&first, range(granule, granule), PHYS, WRITE)?;
            map(&first, range(2 * granule, granule), PHYS, WRITE)?;
            map(&second, range(granule, granule), PHYS + granule, WRITE)?;
            assert!(rig.reaches(2 * granule, true).is_some());
            rig.attach(&pe, &Target::Paging(&second))?;
            assert_eq!(rig.reaches(granule, true), Some(PHYS + granule));
            assert!(rig.reaches(2 * granule, true).is_none());
            // The old domain no longer touches the PE.
            unmap(&first, range(granule, granule));
            assert!(rig.reaches(granule, true).is_some());
            map(&first, range(3 * granule, granule), PHYS, WRITE)?;
            assert!(rig.reaches(3 * granule, true).is_none());
            Ok(())
        })
    }

    // A reset blocks one device of a PE; its siblings go on.
    #[test]
    fn siblings() -> Result {
        on_all(|rig| {
            let (pe, space) = rig.attached()?;
            let sibling = rig.sibling()?;
            sibling.join(&pe)?;
            let granule = granule(&space);
            sibling.attach(&pe, &Target::Paging(&space))?;
            map(&space, range(granule, granule), PHYS, WRITE)?;
            rig.attach(&pe, &Target::Blocked)?;
            assert!(rig.reaches(granule, true).is_some());
            sibling.attach(&pe, &Target::Blocked)?;
            assert!(rig.reaches(granule, true).is_none());
            sibling.attach(&pe, &Target::Paging(&space))?;
            assert!(rig.reaches(granule, true).is_some());
            // The one that is not blocked goes: nothing is left that may do DMA.
            assert!(!sibling.leave(&pe));
            assert!(rig.reaches(granule, true).is_none());
            assert!(rig.leave(&pe));
            assert!(rig.fake.is_as_before());
            Ok(())
        })
    }

    // Drivers come and go, and resets happen, one device at a time.
    #[test]
    fn each_device_counts_for_itself() -> Result {
        on_all(|rig| {
            let (pe, space) = rig.attached()?;
            let (second, third) = (rig.sibling()?, rig.sibling()?);
            let granule = granule(&space);
            map(&space, range(granule, granule), PHYS, WRITE)?;
            // One that has just come is not blocked.
            second.join(&pe)?;
            rig.attach(&pe, &Target::Blocked)?;
            assert!(rig.reaches(granule, true).is_some());
            third.join(&pe)?;
            rig.attach(&pe, &Target::Paging(&space))?;
            second.attach(&pe, &Target::Paging(&space))?;
            third.attach(&pe, &Target::Paging(&space))?;
            rig.set_in_use(&pe, true);
            second.set_in_use(&pe, true);
            second.set_in_use(&pe, false);
            assert!(rig.attach(&pe, &Target::Platform) == Err(EBUSY));
            // Who is blocked stays so when something else is refused.
            rig.attach(&pe, &Target::Blocked)?;
            assert!(rig.attach(&pe, &Target::Platform) == Err(EBUSY));
            assert!(!third.leave(&pe));
            assert!(rig.reaches(granule, true).is_some());
            second.attach(&pe, &Target::Blocked)?;
            assert!(rig.reaches(granule, true).is_none());
            Ok(())
        })
    }

    // The core does so when it undoes what failed for another device.
    #[test]
    fn the_same_domain_again_is_no_change() -> Result {
        on_all(|rig| {
            let (pe, space) = rig.attached()?;
            let asked = Arc::new(Atomic::new(0), GFP_KERNEL)?;
            let hook = {
                let asked = asked.clone();
                move |_| asked.add(1, Relaxed)
            };
            rig.fake.hook(Some(Arc::new(hook, GFP_KERNEL)?));
            let attached = rig.attach(&pe, &Target::Paging(&space));
            rig.fake.hook(None);
            attached?;
            ensure(asked.load(Relaxed) == 0, "firmware is not asked")
        })
    }

    // Firmware is asked for the windows of now where that disturbs nobody.
    #[test]
    fn a_new_domain_disturbs_nobody() -> Result {
        on_all(|rig| {
            let (pe, space) = rig.attached()?;
            let granule = granule(&space);
            map(&space, range(granule, granule), PHYS, WRITE)?;
            // SAFETY: There is no driver.
            let new_layout = || unsafe { pe.new_layout(rig.dev()) };
            new_layout();
            assert!(rig.reaches(granule, true).is_some());
            rig.attach(&pe, &Target::Platform)?;
            let writes = rig.fake.owner(rig.dev());
            new_layout();
            assert!(rig.fake.is_as_before() && rig.fake.owner(rig.dev()) != writes);
            let writes = rig.fake.owner(rig.dev());
            pe.silence();
            new_layout();
            assert!(rig.fake.owner(rig.dev()) == writes);
            Ok(())
        })
    }

    // Also of those that are still attached.
    #[test]
    fn a_domain_lets_go_of_its_pes() -> Result {
        MODELS.into_iter().try_for_each(|model| {
            let (first, second) = (Rig::new(model)?, Rig::new(model)?);
            let (pe, space) = first.attached()?;
            let other = second.pe()?;
            second.attach(&other, &Target::Paging(&space))?;
            drop((pe, other));
            drop(space);
            for Rig { fake, .. } in [first, second] {
                let last = Arc::into_unique_or_drop(fake);
                ensure(last.is_some(), "nobody else has the PE")?;
            }
            Ok(())
        })
    }

    #[test]
    fn platform_and_back() -> Result {
        on_all(|rig| {
            let (pe, space) = rig.attached()?;
            let granule = granule(&space);
            map(&space, range(granule, granule), PHYS, WRITE)?;
            for _ in 0..3 {
                rig.attach(&pe, &Target::Platform)?;
                assert!(rig.fake.is_as_before());
                rig.attach(&pe, &Target::Paging(&space))?;
                assert_eq!(rig.reaches(granule, true), Some(PHYS));
            }
            // From the platform straight to no DMA at all.
            rig.attach(&pe, &Target::Platform)?;
            rig.attach(&pe, &Target::Blocked)?;
            assert!(rig.reaches(granule, true).is_none());
            assert!(!rig.fake.is_as_before());
            assert!(rig.leave(&pe));
            assert!(rig.fake.is_as_before());
            Ok(())
        })
    }

    #[test]
    fn two_pes_share_a_domain() -> Result {
        on_all(|a| {
            let b = &Rig::new(a.model)?;
            let (pe_a, space) = a.attached()?;
            let granule = granule(&space);
            map(&space, range(granule, granule), PHYS, WRITE)?;
            let pe_b = b.pe()?;
            b.attach(&pe_b, &Target::Paging(&space))?;
            map(&space, range(2 * granule, granule), PHYS, WRITE)?;
            for rig in [a, b] {
                assert!(rig.reaches(granule, true).is_some());
                assert!(rig.reaches(2 * granule, true).is_some());
            }
            unmap(&space, range(granule, granule));
            for rig in [a, b] {
                assert!(rig.reaches(granule, true).is_none());
            }
            a.leave(&pe_a);
            assert!(a.fake.is_as_before());
            assert!(b.reaches(2 * granule, true).is_some());
            // It comes and goes as the last one on the list and as the first.
            map(&space, range(3 * granule, granule), PHYS, WRITE)?;
            assert!(b.reaches(3 * granule, true).is_some());
            let (pe_a, _) = a.attached()?;
            a.attach(&pe_a, &Target::Paging(&space))?;
            a.leave(&pe_a);
            map(&space, range(4 * granule, granule), PHYS, WRITE)?;
            assert!(b.reaches(4 * granule, true).is_some());
            b.leave(&pe_b);
            assert!(b.fake.is_as_before());
            b.check()
        })
    }

    // The windows are closed and opened again, and firmware gives them the same LIOBNs.
    #[test]
    fn old_domain_has_nothing_to_say_in_new_windows() -> Result {
        on_all(|rig| {
            let (pe, old) = rig.attached()?;
            let granule = granule(&old);
            let last = old.layout().aperture().last.get() + 1 - granule;
            for at in [granule, last] {
                map(&old, range(at, granule), PHYS, WRITE)?;
            }
            rig.attach(&pe, &Target::Platform)?;
            let new = Space::new(pe.layout())?;
            rig.attach(&pe, &Target::Paging(&new))?;
            for at in [granule, last] {
                map(&new, range(at, granule), PHYS + granule, WRITE)?;
                unmap(&old, range(at, granule));
                assert_eq!(rig.reaches(at, true), Some(PHYS + granule));
                map(&old, range(at, granule), PHYS, WRITE)?;
                assert_eq!(rig.reaches(at, true), Some(PHYS + granule));
            }
            old.flush();
            Ok(())
        })
    }

    // A domain for other windows is refused, and the old one stays.
    #[test]
    fn incompatible() -> Result {
        let other = Rig::new(Model::PHB4)?;
        let (_pe, foreign) = other.attached()?;
        let rig = Rig::new(Model::PSERIES)?;
        let (pe, space) = rig.attached()?;
        let granule = granule(&space);
        map(&space, range(granule, granule), PHYS, WRITE)?;
        let refused = rig.attach(&pe, &Target::Paging(&foreign));
        assert!(refused == Err(EINVAL));
        assert_eq!(rig.reaches(granule, true), Some(PHYS));
        rig.attach(&pe, &Target::Platform)?;
        assert!(rig.attach(&pe, &Target::Paging(&foreign)) == Err(EINVAL));
        assert!(rig.fake.is_as_before());
        Ok(())
    }

    // Who maps DMA is a function of who has the windows and which devices the driver has.
    #[test]
    fn fields_follow_the_windows() -> Result {
        on_all(|rig| {
            let sibling = rig.sibling()?;
            let owners = || (rig.owner(), sibling.owner());
            let pe = rig.start(Start::Owned)?;
            assert!(owners() == (Some(Nobody), Some(Nobody)));
            rig.join(&pe)?;
            assert!(owners() == (Some(Iommu), Some(Nobody)));
            sibling.join(&pe)?;
            assert!(owners() == (Some(Iommu), Some(Iommu)));
            let space = Space::new(pe.layout())?;
            for _ in 0..2 {
                rig.attach(&pe, &Target::Paging(&space))?;
                sibling.attach(&pe, &Target::Paging(&space))?;
                assert!(owners() == (Some(Iommu), Some(Iommu)));
                rig.attach(&pe, &Target::Platform)?;
                assert!(owners() == (Some(Platform), Some(Platform)));
                sibling.attach(&pe, &Target::Platform)?;
                assert!(owners() == (Some(Platform), Some(Platform)));
            }
            assert!(!rig.leave(&pe));
            assert!(owners() == (Some(Platform), Some(Platform)));
            // The platform serves no device while the driver has the windows.
            sibling.attach(&pe, &Target::Paging(&space))?;
            assert!(owners() == (Some(Nobody), Some(Iommu)));
            rig.join(&pe)?;
            assert!(owners() == (Some(Iommu), Some(Iommu)));
            assert!(!rig.leave(&pe));
            assert!(owners() == (Some(Nobody), Some(Iommu)));
            // All devices get their platform back, not only the last one.
            assert!(sibling.leave(&pe));
            assert!(owners() == (Some(Platform), Some(Platform)));
            assert!(rig.fake.is_as_before());
            Ok(())
        })
    }

    // The core's reset protocol: the driver stays bound, and nobody knows its mappings.
    #[test]
    fn reset_leaves_platform_mappings_alone() -> Result {
        on_all(|rig| {
            let pe = rig.start(Start::Platform)?;
            let bound = |is| {
                rig.fake.set_in_use(rig.dev(), is);
                rig.set_in_use(&pe, is);
            };
            let writes = rig.fake.owner(rig.dev());
            bound(false);
            rig.join(&pe)?;
            bound(true);
            bound(false);
            assert!(rig.fake.is_as_before() && rig.fake.owner(rig.dev()) == writes);
            bound(true);
            let writes = rig.fake.owner(rig.dev());
            for _ in 0..3 {
                rig.attach(&pe, &Target::Blocked)?;
                assert!(rig.fake.is_as_before());
                rig.attach(&pe, &Target::Platform)?;
                assert!(rig.fake.is_as_before());
            }
            assert!(rig.fake.owner(rig.dev()) == writes);
            // Nor does anything else take the windows away.
            let space = Space::new(pe.layout())?;
            assert!(rig.attach(&pe, &Target::Paging(&space)) == Err(EBUSY));
            assert!(rig.fake.is_as_before() && rig.fake.owner(rig.dev()) == writes);
            // A driver that goes in the middle leaves a device that is blocked indeed.
            rig.attach(&pe, &Target::Blocked)?;
            bound(false);
            assert!(!rig.fake.is_as_before() && rig.owner() == Some(Iommu));
            rig.attach(&pe, &Target::Platform)?;
            assert!(rig.fake.is_as_before() && rig.owner() == Some(Platform));
            Ok(())
        })
    }

    // The same in a domain of the driver: the mappings are known, and come back.
    #[test]
    fn reset_restores_mappings() -> Result {
        on_all(|rig| {
            let (pe, space) = rig.attached()?;
            let granule = granule(&space);
            map(&space, range(granule, granule), PHYS, WRITE)?;
            rig.fake.set_in_use(rig.dev(), true);
            rig.set_in_use(&pe, true);
            let writes = rig.fake.owner(rig.dev());
            rig.attach(&pe, &Target::Blocked)?;
            assert!(rig.reaches(granule, true).is_none());
            rig.attach(&pe, &Target::Paging(&space))?;
            assert_eq!(rig.reaches(granule, true), Some(PHYS));
            assert!(rig.fake.owner(rig.dev()) == writes);
            // The windows stay with the driver.
            assert!(rig.attach(&pe, &Target::Platform) == Err(EBUSY));
            assert_eq!(rig.reaches(granule, true), Some(PHYS));
            Ok(())
        })
    }

    // VFIO opens a device of the platform domain: it is blocked, because no driver is bound.
    #[test]
    fn blocked_without_driver() -> Result {
        on_all(|rig| {
            let pe = rig.start(Start::Platform)?;
            rig.join(&pe)?;
            rig.attach(&pe, &Target::Platform)?;
            rig.attach(&pe, &Target::Blocked)?;
            assert!(!rig.fake.is_as_before() && rig.owner() == Some(Iommu));
            Ok(())
        })
    }

    // A device that the driver does not have has a driver of the platform.
    #[test]
    fn foreign_driver_keeps_the_pe() -> Result {
        on_all(|rig| {
            let sibling = rig.sibling()?;
            let third = rig.sibling()?;
            let fourth = rig.sibling()?;
            let pe = rig.start(Start::Platform)?;
            rig.join(&pe)?;
            let space = Space::new(pe.layout())?;
            rig.fake.set_in_use(third.dev(), true);
            let before = (rig.fake.owner(third.dev()), rig.fake.owner(fourth.dev()));
            assert!(rig.attach(&pe, &Target::Paging(&space)) == Err(EBUSY));
            assert!(rig.attach(&pe, &Target::Blocked) == Err(EBUSY));
            assert!(rig.fake.is_as_before());
            assert!(rig.owner() == Some(Platform) && sibling.owner() == Some(Platform));
            assert!((rig.fake.owner(third.dev()), rig.fake.owner(fourth.dev())) == before);
            rig.fake.set_in_use(third.dev(), false);
            rig.attach(&pe, &Target::Paging(&space))?;
            assert!(rig.owner() == Some(Iommu) && third.owner() == Some(Nobody));
            Ok(())
        })
    }

    // Drivers may come to a device that the driver does not have while firmware is at work.
    #[test]
    fn nobody_maps_while_the_windows_change_hands() -> Result {
        on_all(|rig| {
            let sibling = rig.sibling()?;
            let pe = rig.start(Start::Platform)?;
            rig.join(&pe)?;
            let early = Arc::new(Atomic::new(false), GFP_KERNEL)?;
            let hook = {
                let (fake, early) = (rig.fake.clone(), early.clone());
                let dev: ARef<Device> = sibling.dev().into();
                move |_| {
                    let is_platform = fake.owner(&dev).is_some_and(|(owner, _)| owner == Platform);
                    early.store(early.load(Relaxed) || is_platform, Relaxed);
                }
            };
            rig.fake.hook(Some(Arc::new(hook, GFP_KERNEL)?));
            let attached = rig.attach(&pe, &Target::Paging(&Space::new(pe.layout())?));
            rig.fake.hook(None);
            attached?;
            ensure(!early.load(Relaxed), "nobody's until the driver has them")
        })
    }

    // Whatever firmware refuses on the way out of the platform, the fields go with the windows.
    #[test]
    fn fields_after_a_refusal() -> Result {
        sweep(|rig, n| {
            let sibling = rig.sibling()?;
            let pe = rig.start(Start::Platform)?;
            rig.join(&pe)?;
            let space = Space::new(pe.layout())?;
            rig.fake.fail_at(n.into());
            let attached = rig.attach(&pe, &Target::Paging(&space));
            let failed = rig.fake.has_failed();
            rig.fake.fail_never();
            let expected = match (attached, rig.fake.is_as_before()) {
                (Ok(()), _) => (Some(Iommu), Some(Nobody)),
                (Err(_), true) => (Some(Platform), Some(Platform)),
                (Err(_), false) => {
                    // The way back was refused too; it is open later.
                    rig.attach(&pe, &Target::Platform)?;
                    (Some(Platform), Some(Platform))
                }
            };
            ensure((rig.owner(), sibling.owner()) == expected, "fields")?;
            ensure(rig.leave(&pe) && rig.fake.is_as_before(), "given back")?;
            ensure(rig.owner() == Some(Platform), "fields of the last")?;
            Ok(failed)
        })
    }

    // A PE that cannot be had is as it was, with all of its devices.
    #[test]
    fn fields_after_a_failed_start() -> Result {
        sweep(|rig, n| {
            let sibling = rig.sibling()?;
            rig.fake.fail_at(n.into());
            let start = rig.start(Start::Owned);
            let failed = rig.fake.has_failed();
            rig.fake.fail_never();
            match start {
                // Nobody joins.
                // SAFETY: No driver is bound to a device of the PE.
                Ok(pe) => unsafe { pe.abandon(rig.dev()) },
                Err(e) => ensure(e == EIO, "what firmware answered")?,
            }
            ensure(rig.fake.is_as_before(), "given back")?;
            let owners = (rig.owner(), sibling.owner());
            ensure(owners == (Some(Platform), Some(Platform)), "fields")?;
            Ok(failed)
        })
    }
}
