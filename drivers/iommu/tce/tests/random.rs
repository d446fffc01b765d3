// SPDX-License-Identifier: GPL-2.0

//! Random sequences of everything, beside a plain list of what should be reachable.

use crate::{
    fake::Model,
    pe::Target,
    space::Space,
    tests::{
        ensure,
        granule,
        map,
        range,
        unmap,
        Random,
        Rig,
        HIGH,
        MODELS,
        PHYS,
        READ,
        WRITE, //
    }, //
};
use kernel::{
    powerpc::window::Ioba,
    prelude::*,
    sync::Arc, //
};

/// The pages of each domain that are mapped and unmapped.
const SLOTS: usize = 64;
/// The length of a sequence.
const STEPS: usize = 150;

/// Where the PE is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Blocked,
    Platform,
    Domain(usize),
}

/// A domain, and what it should make reachable: physical address, and whether writing is allowed.
struct Domain {
    space: Arc<Space>,
    wanted: [Option<(u64, bool)>; SLOTS],
}

impl Domain {
    fn windows(&self) -> usize {
        self.space.layout().windows().count()
    }

    /// The odd slots are in the high window. Each window has a border of leaves among its slots.
    fn address(&self, slot: usize) -> u64 {
        let windows = self.windows();
        let base = if slot % windows == 1 { HIGH } else { 0 };
        base + (140 + (slot / windows) as u64) * granule(&self.space)
    }

    /// Maps some slots in a row that are not mapped, or unmaps some that are.
    fn toggle(&mut self, random: &mut Random) -> Result {
        let (windows, granule) = (self.windows(), granule(&self.space));
        let first = random.next(SLOTS as u64) as usize;
        let most = 1 + random.next(12) as usize;
        let is_mapped = self.wanted[first].is_some();
        let row = (first..SLOTS).step_by(windows).take(most);
        let count = row
            .take_while(|slot| self.wanted[*slot].is_some() == is_mapped)
            .count();
        let slots = (first..SLOTS).step_by(windows).take(count);
        let at = range(self.address(first), count as u64 * granule);
        if is_mapped {
            match random.next(2) {
                0 => unmap(&self.space, at),
                _ => {
                    self.space.unmap(at);
                    self.space.withdraw_copies(at);
                    self.space.flush();
                }
            }
            slots.for_each(|slot| self.wanted[slot] = None);
        } else {
            let access = if random.next(2) == 0 { READ } else { WRITE };
            let phys = PHYS + (random.next(1 << 10) << 24);
            map(&self.space, at, phys, access)?;
            for (n, slot) in slots.enumerate() {
                self.wanted[slot] = Some((phys + n as u64 * granule, access.write));
            }
        }
        Ok(())
    }

    /// Compares what a device reaches with what it should, if the PE is in the domain or not.
    fn compare(&self, rig: &Rig, here: bool, random: &mut Random) -> Result {
        for (slot, wanted) in self.wanted.iter().enumerate() {
            let offset = random.next(granule(&self.space));
            let ioba = Ioba::new(self.address(slot) + offset);
            let wanted = wanted.filter(|_| here);
            match wanted.map(|(phys, _)| phys + offset) {
                // A real access, which would freeze the PE.
                Some(phys) => ensure(rig.fake.dma(ioba, false) == Some(phys), "reached")?,
                None => ensure(rig.fake.probe(ioba, false).is_none(), "not reached")?,
            }
            let written = wanted.filter(|(_, write)| *write);
            let expected = written.map(|(phys, _)| phys + offset);
            ensure(rig.fake.probe(ioba, true) == expected, "written")?;
        }
        Ok(())
    }
}

/// Does those steps of a sequence that are to be kept. Each step has random numbers of its own, so
/// it is much the same without the others.
fn play(model: Model, seed: u64, keep: &[bool; STEPS]) -> Result {
    let rig = Rig::new(model)?;
    let pe = rig.pe()?;
    let domain = || {
        Ok::<_, Error>(Domain {
            space: Space::new(pe.layout())?,
            wanted: [None; SLOTS],
        })
    };
    let mut domains = [domain()?, domain()?];
    let mut place = Place::Platform;
    rig.attach(&pe, &Target::Platform)?;
    for (step, _) in keep.iter().enumerate().filter(|(_, keep)| **keep) {
        let mut random = Random(seed.wrapping_add(step as u64) | 1 << 63);
        random.next(1);
        let domain = random.next(2) as usize;
        if random.next(6) == 0 {
            place = match random.next(4) {
                0 => Place::Blocked,
                1 => Place::Platform,
                _ => Place::Domain(domain),
            };
            let target = match place {
                Place::Blocked => Target::Blocked,
                Place::Platform => Target::Platform,
                Place::Domain(n) => Target::Paging(&domains[n].space),
            };
            rig.attach(&pe, &target)?;
        } else {
            domains[domain].toggle(&mut random)?;
        }
        // What is in no domain is in none of these two.
        let here = match place {
            Place::Domain(n) => n,
            _ => 0,
        };
        domains[here].compare(&rig, place == Place::Domain(here), &mut random)?;
    }
    rig.leave(&pe);
    ensure(rig.fake.is_as_before(), "the platform has the PE again")?;
    rig.check()
}

/// Plays a sequence. If it fails, leaves out what is not needed for that and says what is.
fn explore(model: Model, seed: u64) -> Result {
    let mut keep = [true; STEPS];
    play(model, seed, &keep).inspect_err(|_| {
        for step in (0..STEPS).rev() {
            keep[step] = false;
            keep[step] = play(model, seed, &keep).is_ok();
        }
        pr_err!("{model:?} with seed {seed:#x} fails with these steps alone:\n");
        let steps = keep.iter().enumerate().filter(|(_, keep)| **keep);
        steps.for_each(|(step, _)| pr_err!("step {step}\n"));
    })
}

#[kunit_tests(tce_random)]
mod tests {
    use super::*;

    #[test]
    fn random_sequences() -> Result {
        for model in MODELS {
            for seed in [0x1234_5678, 0xfeed_beef_cafe, 0x9e37_79b9_7f4a_7c15] {
                pr_info!("{model:?}: {STEPS} steps with seed {seed:#x}\n");
                explore(model, seed)?;
            }
        }
        Ok(())
    }
}
