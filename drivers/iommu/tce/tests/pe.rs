// SPDX-License-Identifier: GPL-2.0

//! Devices of a PE that attach to one domain after the other.

use crate::{
    fake::Model,
    pe::Target,
    space::Space,
    tests::{
        granule,
        map,
        on_all,
        range,
        unmap,
        Rig,
        HIGH,
        PHYS,
        WRITE, //
    }, //
};
use kernel::{
    powerpc::window::PageShift,
    prelude::*, //
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
            assert!(pe.leave(rig.dev(), false));
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
            pe.attach(rig.dev(), &Target::Paging(&space), false)?;
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
                pe.attach(rig.dev(), &Target::Blocked, false)?;
                assert!(rig.reaches(granule, true).is_none());
                pe.attach(rig.dev(), &Target::Paging(&space), true)?;
                assert_eq!(rig.reaches(granule, true), Some(PHYS));
            }
            // What changes meanwhile counts.
            pe.attach(rig.dev(), &Target::Blocked, false)?;
            unmap(&space, range(granule, granule));
            map(&space, range(2 * granule, granule), PHYS, WRITE)?;
            assert!(rig.reaches(2 * granule, true).is_none());
            pe.attach(rig.dev(), &Target::Paging(&space), true)?;
            assert!(rig.reaches(granule, true).is_none());
            assert_eq!(rig.reaches(2 * granule, true), Some(PHYS));
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
            pe.attach(rig.dev(), &Target::Paging(&second), false)?;
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
            pe.join();
            let granule = granule(&space);
            pe.attach(rig.dev(), &Target::Paging(&space), false)?;
            map(&space, range(granule, granule), PHYS, WRITE)?;
            pe.attach(rig.dev(), &Target::Blocked, false)?;
            assert!(rig.reaches(granule, true).is_some());
            pe.attach(rig.dev(), &Target::Blocked, false)?;
            assert!(rig.reaches(granule, true).is_none());
            pe.attach(rig.dev(), &Target::Paging(&space), true)?;
            assert!(rig.reaches(granule, true).is_some());
            // The one that is not blocked goes: nothing is left that may do DMA.
            assert!(!pe.leave(rig.dev(), false));
            assert!(rig.reaches(granule, true).is_none());
            assert!(pe.leave(rig.dev(), true));
            assert!(rig.fake.is_as_before());
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
                pe.attach(rig.dev(), &Target::Platform, false)?;
                assert!(rig.fake.is_as_before());
                pe.attach(rig.dev(), &Target::Paging(&space), false)?;
                assert_eq!(rig.reaches(granule, true), Some(PHYS));
            }
            // From the platform straight to no DMA at all.
            pe.attach(rig.dev(), &Target::Platform, false)?;
            pe.attach(rig.dev(), &Target::Blocked, false)?;
            assert!(rig.reaches(granule, true).is_none());
            assert!(!rig.fake.is_as_before());
            assert!(pe.leave(rig.dev(), true));
            assert!(rig.fake.is_as_before());
            Ok(())
        })
    }

    #[test]
    fn two_pes_share_a_domain() -> Result {
        on_all(|a| {
            let b = &Rig::named(a.model, c"tce_kunit_b")?;
            let (pe_a, space) = a.attached()?;
            let granule = granule(&space);
            map(&space, range(granule, granule), PHYS, WRITE)?;
            let pe_b = b.pe()?;
            pe_b.attach(b.dev(), &Target::Paging(&space), false)?;
            map(&space, range(2 * granule, granule), PHYS, WRITE)?;
            for rig in [a, b] {
                assert!(rig.reaches(granule, true).is_some());
                assert!(rig.reaches(2 * granule, true).is_some());
            }
            unmap(&space, range(granule, granule));
            for rig in [a, b] {
                assert!(rig.reaches(granule, true).is_none());
            }
            pe_a.leave(a.dev(), false);
            assert!(a.fake.is_as_before());
            assert!(b.reaches(2 * granule, true).is_some());
            pe_b.leave(b.dev(), false);
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
            pe.attach(rig.dev(), &Target::Platform, false)?;
            let new = Space::new(pe.layout())?;
            pe.attach(rig.dev(), &Target::Paging(&new), false)?;
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
        let other = Rig::named(Model::PHB4, c"tce_kunit_b")?;
        let (_pe, foreign) = other.attached()?;
        let rig = Rig::new(Model::PSERIES)?;
        let (pe, space) = rig.attached()?;
        let granule = granule(&space);
        map(&space, range(granule, granule), PHYS, WRITE)?;
        let refused = pe.attach(rig.dev(), &Target::Paging(&foreign), false);
        assert!(refused == Err(EINVAL));
        assert_eq!(rig.reaches(granule, true), Some(PHYS));
        pe.attach(rig.dev(), &Target::Platform, false)?;
        assert!(pe.attach(rig.dev(), &Target::Paging(&foreign), false) == Err(EINVAL));
        assert!(rig.fake.is_as_before());
        Ok(())
    }
}
