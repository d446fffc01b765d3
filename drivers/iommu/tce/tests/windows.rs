// SPDX-License-Identifier: GPL-2.0

//! Which windows a PE gets from firmware, and in which state the platform has them back.

use crate::{
    fake::Model,
    layout::cpu_page_shift,
    pe::{
        Start,
        Target, //
    },
    space::Space,
    tests::{
        ensure,
        granule,
        map,
        range,
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
            Platform, //
        },
        window::PageShift, //
    },
    prelude::*, //
};

/// An SR-IOV function of PowerVM: one window, whichever.
const ONE_WINDOW: Model = Model {
    one_window: true,
    ..Model::PSERIES
};

/// Takes the PE over, uses it, and lets it go.
fn life(rig: &Rig) -> Result {
    let pe = rig.pe()?;
    let space = Space::new(pe.layout())?;
    let result = (|| {
        rig.attach(&pe, &Target::Paging(&space))?;
        let at = pe.layout().aperture().first.get() + granule(&space);
        map(&space, range(at, granule(&space)), PHYS, WRITE)?;
        ensure(rig.reaches(at, true) == Some(PHYS), "a device reaches it")
    })();
    rig.leave(&pe);
    result
}

#[kunit_tests(tce_windows)]
mod tests {
    use super::*;

    #[test]
    fn the_only_window_is_for_64_bits() -> Result {
        let rig = Rig::new(ONE_WINDOW)?;
        let pe = rig.pe()?;
        let layout = pe.layout();
        assert_eq!(layout.windows().count(), 1);
        assert_eq!(layout.aperture().first.get(), HIGH);
        assert_eq!(layout.granule(), cpu_page_shift()?);
        assert!(layout.high_start().is_none());
        // The default window is gone, and comes back.
        assert!(!rig.fake.is_as_before());
        assert!(rig.leave(&pe));
        assert!(rig.fake.is_as_before());
        life(&rig)?;
        assert!(rig.fake.is_as_before());
        rig.check()
    }

    // Where it begins says nothing about what firmware calls it.
    #[test]
    fn the_only_window_is_closed_by_its_number() -> Result {
        let rig = Rig::new(Model {
            high_base: 0,
            ..ONE_WINDOW
        })?;
        let (pe, space) = rig.attached()?;
        let at = range(granule(&space), granule(&space));
        map(&space, at, PHYS, WRITE)?;
        rig.fake.stick(Some(at.first));
        unmap(&space, at);
        rig.attach(&pe, &Target::Blocked)?;
        // Firmware brings the default one back, in which nothing was ever mapped.
        assert_eq!(rig.fake.open_windows(), 1);
        assert!(!rig.reaches_any());
        rig.fake.stick(None);
        assert!(rig.leave(&pe) && rig.fake.is_as_before());
        rig.check()
    }

    // What firmware has to give changes while the platform has the PE: a domain made then is for
    // the windows that there are now.
    #[test]
    fn a_new_domain_is_for_the_windows_of_now() -> Result {
        let rig = Rig::new(Model::PSERIES)?;
        let pe = rig.start(Start::Platform)?;
        rig.join(&pe)?;
        for ddw in [false, true, false] {
            rig.fake.set_ddw(ddw);
            // SAFETY: There are no drivers.
            let space = Space::new(unsafe { pe.new_layout(rig.dev()) })?;
            assert!(rig.fake.is_as_before() && rig.owner() == Some(Platform));
            let windows = space.layout().windows().count();
            assert_eq!(windows, if ddw { 2 } else { 1 });
            rig.attach(&pe, &Target::Paging(&space))?;
            assert!(rig.owner() == Some(Iommu));
            rig.attach(&pe, &Target::Platform)?;
        }
        // Not below a driver of the platform, which could not be attached either.
        rig.fake.set_ddw(true);
        rig.fake.set_in_use(rig.dev(), true);
        rig.set_in_use(&pe, true);
        // SAFETY: As above.
        let layout = unsafe { pe.new_layout(rig.dev()) };
        assert_eq!(layout.windows().count(), 1);
        rig.fake.set_in_use(rig.dev(), false);
        rig.check()
    }

    // Also when a second window is not to be had, or a page size that the CPU can use.
    #[test]
    fn the_default_window_is_kept_if_there_is_no_other() -> Result {
        for model in [
            Model {
                ddw: false,
                ..ONE_WINDOW
            },
            Model {
                page_sizes: 1 << 34,
                ..ONE_WINDOW
            },
            Model {
                page_sizes: 1 << 34,
                ..Model::PSERIES
            },
        ] {
            let rig = Rig::new(model)?;
            let pe = rig.pe()?;
            let layout = pe.layout();
            assert_eq!(layout.windows().count(), 1);
            assert_eq!(layout.aperture().first.get(), 0);
            assert_eq!(layout.granule(), PageShift::SHIFT_4K);
            assert!(rig.leave(&pe));
            assert!(rig.fake.is_as_before());
            life(&rig)?;
            rig.check()?;
        }
        Ok(())
    }

    // Nor is it given up because firmware did not say what else there may be.
    #[test]
    fn the_default_window_is_kept_if_firmware_does_not_answer() -> Result {
        for model in [ONE_WINDOW, Model::PSERIES] {
            let rig = Rig::new(model)?;
            // The first query comes before the windows are taken.
            rig.fake.fail_at(2);
            let pe = rig.pe()?;
            assert!(rig.fake.has_failed());
            rig.fake.fail_never();
            assert_eq!(pe.layout().windows().count(), 1);
            assert_eq!(pe.layout().aperture().first.get(), 0);
            assert!(rig.leave(&pe));
            life(&rig)?;
            rig.check()?;
        }
        Ok(())
    }

    // Whatever firmware refuses on the way, there is a window that works, or the platform has it.
    #[test]
    fn a_refusal_leaves_a_window() -> Result {
        for n in 0.. {
            let rig = Rig::new(ONE_WINDOW)?;
            rig.fake.fail_at(n);
            let result = rig.pe().map(|pe| rig.leave(&pe));
            let failed = rig.fake.has_failed();
            rig.fake.fail_never();
            match result {
                Ok(_) => life(&rig)?,
                Err(_) => assert!(rig.fake.is_as_before()),
            }
            rig.check()?;
            if !failed {
                // Claiming takes query, query, close, query and open, with set_platform first.
                assert!(n >= 6);
                break;
            }
        }
        Ok(())
    }

    // OPAL's refusal comes to light while the platform can have the PE back.
    #[test]
    fn a_window_that_opal_does_not_open_is_found_out_at_once() -> Result {
        for model in [Model::PHB3, Model::PHB4] {
            for n in 0.. {
                let rig = Rig::new(model)?;
                rig.fake.fail_at(n);
                let claimed = rig.pe();
                let failed = rig.fake.has_failed();
                rig.fake.fail_never();
                match claimed {
                    Ok(pe) => {
                        assert!(!failed);
                        rig.leave(&pe);
                    }
                    Err(_) => assert!(failed && rig.fake.is_as_before()),
                }
                rig.check()?;
                if !failed {
                    // query, set_platform, and both windows opened and closed.
                    assert_eq!(n, 6);
                    break;
                }
            }
        }
        Ok(())
    }
}
