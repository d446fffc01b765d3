// SPDX-License-Identifier: GPL-2.0

use crate::{
    fake::Model,
    pe::Target,
    space::Space,
    tests::{
        map,
        range,
        unmap,
        Rig,
        MODELS,
        WRITE, //
    }, //
};
use kernel::{
    powerpc::window::Firmware as Kind,
    prelude::*, //
};

const PHYS: u64 = 0x6_0000_0000;

/// The machines with less than a call for each TCE; with more, a sweep takes minutes.
fn models() -> impl Iterator<Item = Model> {
    MODELS
        .into_iter()
        .filter(|model| model.multi_tce || model.kind == Kind::Ioda)
}

/// Everything that can happen to a PE, from the platform and back to it.
fn life(rig: &Rig) -> Result {
    let pe = rig.pe()?;
    pe.join();
    let mut blocked = false;
    let result = (|| {
        let space = Space::new(pe.layout())?;
        let granule = space.layout().granule().bytes();
        map(&space, range(granule, 200 * granule), PHYS, WRITE)?;
        pe.attach(rig.dev(), &Target::Paging(&space), false)?;
        map(&space, range(210 * granule, 20 * granule), PHYS, WRITE)?;
        unmap(&space, range(granule, 100 * granule));
        pe.attach(rig.dev(), &Target::Blocked, false)?;
        blocked = true;
        pe.attach(rig.dev(), &Target::Paging(&space), true)?;
        blocked = false;
        let other = Space::new(pe.layout())?;
        map(&other, range(granule, granule), PHYS, WRITE)?;
        pe.attach(rig.dev(), &Target::Paging(&other), false)?;
        pe.attach(rig.dev(), &Target::Platform, false)?;
        pe.attach(rig.dev(), &Target::Paging(&other), false)?;
        Ok(())
    })();
    pe.leave(rig.dev(), blocked);
    result
}

/// Fails each call in turn, until a run needs fewer calls than that.
fn sweep(model: Model) -> Result<Option<u64>> {
    for n in 0.. {
        let rig = Rig::new(model)?;
        rig.fake.fail_at(Some(n));
        let result = life(&rig);
        let failed = rig.fake.has_failed();
        rig.fake.fail_at(None);
        if !failed {
            result?;
            return Ok(Some(n));
        }
        // Either the platform has all back, or nobody has anything.
        let harmless = rig.fake.is_as_before()
            || (1..250).all(|page| {
                let granule = 0x1_0000;
                rig.reaches(page * granule, false).is_none()
                    && rig.reaches((1 << 59) + page * granule, false).is_none()
            });
        if !harmless || rig.fake.sins() != 0 {
            let sins = rig.fake.sins();
            pr_err!("call {n}: harmless {harmless}, sins {sins}, result {result:?}\n");
            return Ok(None);
        }
    }
    Ok(None)
}

#[kunit_tests(tce_faults)]
mod tests {
    use super::*;

    #[test]
    fn every_call_fails_once() -> Result {
        for model in models() {
            let calls = sweep(model)?;
            assert!(calls.is_some());
            pr_info!(
                "{} firmware calls, each failed in turn\n",
                calls.unwrap_or(0)
            );
        }
        Ok(())
    }

    // A failed attach leaves the PE where it was.
    #[test]
    fn failed_attach_changes_nothing() -> Result {
        for model in models() {
            for n in 0.. {
                let rig = Rig::new(model)?;
                let (pe, first) = rig.attached()?;
                let granule = first.layout().granule().bytes();
                let second = Space::new(pe.layout())?;
                map(&first, range(granule, granule), PHYS, WRITE)?;
                map(&second, range(granule, granule), PHYS + granule, WRITE)?;
                rig.fake.fail_at(Some(n));
                let result = pe.attach(rig.dev(), &Target::Paging(&second), false);
                let failed = rig.fake.has_failed();
                rig.fake.fail_at(None);
                let expected = match result {
                    Ok(()) => PHYS + granule,
                    Err(_) => PHYS,
                };
                assert_eq!(rig.reaches(granule, true), Some(expected));
                if !failed {
                    break;
                }
            }
        }
        Ok(())
    }

    // Half a list is published before the hypervisor gives up: none of it stays.
    #[test]
    fn partial_publish_is_taken_back() -> Result {
        let rig = Rig::new(Model::PSERIES)?;
        let (_pe, space) = rig.attached()?;
        let granule = space.layout().granule().bytes();
        let at = range(1 << 59, 100 * granule);
        rig.fake.fail_at(Some(0));
        assert!(map(&space, at, PHYS, WRITE).is_err());
        rig.fake.fail_at(None);
        for page in 0..100 {
            assert!(rig.reaches((1 << 59) + page * granule, false).is_none());
        }
        assert_eq!(space.populated(), 0);
        map(&space, at, PHYS, WRITE)
    }
}
