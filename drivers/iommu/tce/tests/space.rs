// SPDX-License-Identifier: GPL-2.0

use crate::{
    fake::Model,
    tests::{
        map,
        range,
        unmap,
        Random,
        Rig,
        MODELS,
        READ,
        WRITE, //
    }, //
};
use kernel::prelude::*;

/// A physical address that is nobody's.
const PHYS: u64 = 0x1_2340_0000;

/// Random maps and unmaps, with a plain list of what should be reachable beside them.
fn random(model: Model, seed: u64, steps: u64) -> Result<bool> {
    const SLOTS: usize = 96;
    let rig = Rig::new(model)?;
    let (pe, space) = rig.attached()?;
    let granule = space.layout().granule().bytes();
    let high = space.layout().has_high_window();
    // Slots in each window, the odd ones in the high one, on both sides of a border of leaves.
    let windows = if high { 2 } else { 1 };
    let address = |slot: usize| {
        let base = if slot % windows == 1 { 1 << 59 } else { 0 };
        base + (140 + (slot / windows) as u64) * granule
    };
    let mut random = Random(seed);
    let mut wanted: [Option<(u64, bool)>; SLOTS] = [None; SLOTS];
    for step in 0..steps {
        // A run of slots of one window.
        let first = random.next(SLOTS as u64) as usize;
        let want = 1 + random.next(12) as usize;
        let is_mapped = wanted[first].is_some();
        let run = (first..SLOTS)
            .step_by(windows)
            .take(want)
            .take_while(|slot| wanted[*slot].is_some() == is_mapped)
            .count();
        let slots = (0..run).map(|n| first + n * windows);
        let bytes = run as u64 * granule;
        let at = range(address(first), bytes);
        if is_mapped {
            unmap(&space, at);
            for slot in slots {
                wanted[slot] = None;
            }
        } else {
            let write = random.next(2) == 1;
            let phys = PHYS + step * 0x100_0000;
            map(&space, at, phys, if write { WRITE } else { READ })?;
            for (n, slot) in slots.enumerate() {
                wanted[slot] = Some((phys + n as u64 * granule, write));
            }
        }
        for (slot, want) in wanted.iter().enumerate() {
            let offset = random.next(granule);
            let ioba = address(slot) + offset;
            let read = want.map(|(phys, _)| phys + offset);
            let written = want.filter(|w| w.1).map(|(phys, _)| phys + offset);
            if rig.reaches(ioba, false) != read || rig.reaches(ioba, true) != written {
                pr_err!("seed {seed:#x} step {step} slot {slot}\n");
                return Ok(false);
            }
        }
    }
    pe.leave(rig.dev(), false);
    Ok(rig.fake.is_as_before() && rig.fake.sins() == 0)
}

#[kunit_tests(tce_space)]
mod tests {
    use super::*;

    #[test]
    fn mapped_is_reached_and_nothing_else() -> Result {
        for model in MODELS {
            let rig = Rig::new(model)?;
            let (_pe, space) = rig.attached()?;
            let granule = space.layout().granule().bytes();
            map(&space, range(4 * granule, 2 * granule), PHYS, WRITE)?;
            assert_eq!(rig.reaches(4 * granule, true), Some(PHYS));
            assert_eq!(
                rig.reaches(6 * granule - 1, false),
                Some(PHYS + 2 * granule - 1)
            );
            assert!(rig.reaches(4 * granule - 1, false).is_none());
            assert!(rig.reaches(6 * granule, false).is_none());
            assert!(space.populated() > 0);
            assert_eq!(rig.fake.sins(), 0);
        }
        Ok(())
    }

    #[test]
    fn unmapped_is_not_reached() -> Result {
        for model in MODELS {
            let rig = Rig::new(model)?;
            let (_pe, space) = rig.attached()?;
            let granule = space.layout().granule().bytes();
            let at = range(8 * granule, 3 * granule);
            map(&space, at, PHYS, WRITE)?;
            // The PHB has seen them all.
            for page in 0..3 {
                assert!(rig.reaches((8 + page) * granule, true).is_some());
            }
            unmap(&space, at);
            for page in 0..3 {
                assert!(rig.reaches((8 + page) * granule, true).is_none());
            }
            assert_eq!(space.populated(), 0);
        }
        Ok(())
    }

    #[test]
    fn deferred_flush_is_a_flush() -> Result {
        for model in MODELS {
            let rig = Rig::new(model)?;
            let (_pe, space) = rig.attached()?;
            let granule = space.layout().granule().bytes();
            let at = range(granule, granule);
            map(&space, at, PHYS, WRITE)?;
            assert!(rig.reaches(granule, true).is_some());
            space.unmap(at);
            space.withdraw_copies(at);
            space.flush();
            assert!(rig.reaches(granule, true).is_none());
        }
        Ok(())
    }

    #[test]
    fn read_only_is_read_only() -> Result {
        for model in MODELS {
            let rig = Rig::new(model)?;
            let (_pe, space) = rig.attached()?;
            let granule = space.layout().granule().bytes();
            map(&space, range(granule, granule), PHYS, READ)?;
            assert_eq!(rig.reaches(granule, false), Some(PHYS));
            assert!(rig.reaches(granule, true).is_none());
            // The same page again, with more and with less.
            unmap(&space, range(granule, granule));
            map(&space, range(granule, granule), PHYS, WRITE)?;
            assert_eq!(rig.reaches(granule, true), Some(PHYS));
            unmap(&space, range(granule, granule));
            map(&space, range(granule, granule), PHYS, READ)?;
            assert!(rig.reaches(granule, true).is_none());
        }
        Ok(())
    }

    #[test]
    fn reserved_cannot_be_mapped() -> Result {
        for model in MODELS {
            let rig = Rig::new(model)?;
            let (_pe, space) = rig.attached()?;
            let granule = space.layout().granule().bytes();
            for hole in space.layout().reserved() {
                for first in [hole.first.get(), hole.last.get() - (granule - 1)] {
                    assert!(map(&space, range(first, granule), PHYS, WRITE).is_err());
                }
            }
            let last = space.layout().aperture().last.get();
            map(&space, range(last - (granule - 1), granule), PHYS, WRITE)?;
            assert_eq!(rig.reaches(last, true), Some(PHYS + granule - 1));
            assert_eq!(rig.fake.sins(), 0);
        }
        Ok(())
    }

    #[test]
    fn one_call_for_many_pages() -> Result {
        let rig = Rig::new(Model::PSERIES)?;
        let (pe, space) = rig.attached()?;
        let granule = space.layout().granule().bytes();
        let before = rig.fake.hcalls();
        map(&space, range(1 << 59, 512 * granule), PHYS, WRITE)?;
        assert_eq!(rig.fake.hcalls() - before, 1);
        assert_eq!(pe.stats().puts.get(), 1);
        assert_eq!(pe.populated(), 512);
        unmap(&space, range(1 << 59, 512 * granule));
        assert_eq!(rig.fake.hcalls() - before, 2);
        assert_eq!(pe.stats().stuffs.get(), 1);
        assert_eq!(pe.populated(), 0);
        drop(rig);
        let rig = Rig::new(Model::PHB4)?;
        let (pe, space) = rig.attached()?;
        let before = rig.fake.kills();
        map(&space, range(granule, 500 * granule), PHYS, WRITE)?;
        unmap(&space, range(granule, 500 * granule));
        assert_eq!(rig.fake.kills() - before, 2);
        assert_eq!(pe.stats().kills.get(), 2);
        Ok(())
    }

    #[test]
    fn translate() -> Result {
        let rig = Rig::new(Model::PSERIES)?;
        let (_pe, space) = rig.attached()?;
        let granule = space.layout().granule().bytes();
        map(&space, range(granule, granule), PHYS, READ)?;
        let at = |ioba| space.translate(kernel::powerpc::window::Ioba::new(ioba));
        assert_eq!(at(granule + 5), Some(PHYS + 5));
        assert!(at(0).is_none());
        assert!(at(2 * granule).is_none());
        assert!(at(1 << 40).is_none());
        Ok(())
    }

    #[test]
    fn random_sequences() -> Result {
        for model in MODELS {
            for seed in [0x1234_5678, 0xfeed_beef_cafe, 0x9e37_79b9_7f4a_7c15] {
                assert!(random(model, seed, 150)?);
            }
        }
        Ok(())
    }
}
