// SPDX-License-Identifier: GPL-2.0

//! Threads that map, unmap, attach and detach at the same time.
//!
//! The first tests stop one thread in the middle of a firmware call, where it hurts most, and look
//! whether the others wait for it. The last one lets threads run into each other as they like.

use crate::{
    fake::{
        Event,
        Model, //
    },
    pe::Target,
    space::Space,
    tests::{
        ensure,
        granule,
        map,
        on_all,
        range,
        threads::{
            Gate,
            Thread, //
        },
        unmap,
        Random,
        Rig,
        ONE_BY_ONE,
        PHYS,
        WRITE, //
    }, //
};
use kernel::{
    powerpc::window::Ioba,
    prelude::*,
    sync::{
        atomic::{
            Atomic,
            Full,
            Relaxed, //
        },
        Arc,
        Completion, //
    }, //
};

/// One of the threads of the last test: maps, looks, unmaps and looks.
fn user(rig: &Rig, space: &Space, slots: core::ops::Range<u64>, seed: u64) -> Result {
    let granule = granule(space);
    let mut random = Random(seed);
    for _ in 0..200 {
        let slot = slots.start + random.next(slots.end - slots.start);
        let at = range(slot * granule, granule);
        let phys = PHYS + (random.next(1 << 16) << 16);
        map(space, at, phys, WRITE)?;
        let reached = rig.reaches(slot * granule, true);
        // The PE may be elsewhere at the moment.
        ensure(
            reached.is_none() || reached == Some(phys),
            "where it is mapped",
        )?;
        unmap(space, at);
        ensure(
            rig.reaches(slot * granule, true).is_none(),
            "not mapped any more",
        )?;
    }
    // What stays is checked when all is over.
    for slot in slots {
        map(
            space,
            range(slot * granule, granule),
            PHYS + slot * granule,
            WRITE,
        )?;
    }
    Ok(())
}

#[kunit_tests(tce_races)]
mod tests {
    use super::*;

    // An attach has read a TCE, and has not published it yet. An unmap has to wait.
    #[test]
    fn unmap_during_replay() -> Result {
        let rig = Rig::new(ONE_BY_ONE)?;
        let pe = rig.pe()?;
        let space = Space::new(pe.layout())?;
        let granule = granule(&space);
        let at = range(granule, granule);
        map(&space, at, PHYS, WRITE)?;

        let gate = Gate::new(Event::Set(at.first))?;
        gate.put_up(&rig)?;
        let other = {
            let (gate, space) = (gate.clone(), space.clone());
            Thread::spawn(move || {
                gate.arrived.wait_for_completion();
                unmap(&space, at);
                gate.open.store(true, Relaxed);
            })?
        };
        rig.attach(&pe, &Target::Paging(&space))?;
        other.join();
        rig.fake.hook(None);
        assert!(gate.passed.load(Relaxed));
        assert!(rig.reaches(granule, false).is_none());
        Ok(())
    }

    // Who reads the list of PEs when another one attaches does not see it. The attach looks at the
    // tables, or lets the PHB look, only when he is done: until then his changes need not be
    // visible.
    #[test]
    fn attach_waits_for_who_does_not_see_it() -> Result {
        on_all(|rig| {
            let (_pe, space) = rig.attached()?;
            let granule = granule(&space);
            let (first, second) = (range(granule, granule), range(20 * granule, granule));
            map(&space, first, PHYS, WRITE)?;
            let newcomer = Rig::new(rig.model)?;
            let pe = newcomer.pe()?;

            let papr = space.layout().holds_copy();
            let gate = Gate::new(match papr {
                true => Event::Set(second.first),
                false => Event::Kill,
            })?;
            gate.put_up(rig)?;
            let other = {
                let space = space.clone();
                Thread::spawn(move || {
                    map(&space, second, PHYS, WRITE).ok();
                })?
            };
            gate.arrived.wait_for_completion();
            let early = Arc::new(Atomic::new(false), GFP_KERNEL)?;
            let hook = {
                let (gate, early) = (gate.clone(), early.clone());
                move |event| {
                    let looks = matches!(event, Event::Set(_) | Event::Open);
                    if looks && !gate.passed.load(Relaxed) {
                        early.store(true, Relaxed);
                    }
                }
            };
            newcomer.fake.hook(Some(Arc::new(hook, GFP_KERNEL)?));
            newcomer.attach(&pe, &Target::Paging(&space))?;
            other.join();
            rig.fake.hook(None);
            newcomer.fake.hook(None);
            ensure(!early.load(Relaxed), "the attach waited")?;
            for at in [first, second] {
                let reached = newcomer.reaches(at.first.get(), true);
                ensure(reached == Some(PHYS), "both are there")?;
            }
            newcomer.attach(&pe, &Target::Platform)?;
            newcomer.check()
        })
    }

    // Only while a PE attaches does who publishes wait for others.
    #[test]
    fn maps_do_not_wait_for_each_other() -> Result {
        let rig = Rig::new(Model::PSERIES)?;
        let (_pe, space) = rig.attached()?;
        let granule = granule(&space);
        let (first, second) = (range(granule, granule), range(20 * granule, granule));
        let gate = Gate::patient(Event::Set(first.first))?;
        gate.put_up(&rig)?;
        let other = {
            let space = space.clone();
            Thread::spawn(move || {
                map(&space, first, PHYS, WRITE).ok();
            })?
        };
        gate.arrived.wait_for_completion();
        let mapped = map(&space, second, PHYS, WRITE);
        let waited = gate.passed.load(Relaxed);
        gate.open.store(true, Relaxed);
        other.join();
        rig.fake.hook(None);
        mapped?;
        ensure(!waited, "the second map did not wait")
    }

    // A detach has withdrawn the first TCEs, and has not come to the last ones.
    #[test]
    fn map_during_detach() -> Result {
        let rig = Rig::new(Model::PSERIES)?;
        let (pe, space) = rig.attached()?;
        let granule = granule(&space);
        let last = space.layout().aperture().last.get() + 1 - granule;
        map(&space, range(granule, granule), PHYS, WRITE)?;
        map(&space, range(last, granule), PHYS, WRITE)?;

        let hook = {
            let (space, used) = (space.clone(), Atomic::new(false));
            move |event| {
                let is_last = matches!(event, Event::Clear(at) if at.get() >= 1 << 59);
                if is_last && !used.xchg(true, Full) {
                    map(&space, range(2 * granule, granule), PHYS, WRITE).ok();
                }
            }
        };
        rig.fake.hook(Some(Arc::new(hook, GFP_KERNEL)?));
        rig.attach(&pe, &Target::Blocked)?;
        rig.fake.hook(None);
        assert!(!rig.reaches_any());
        // Nor is it lost.
        rig.attach(&pe, &Target::Paging(&space))?;
        assert!(rig.reaches(2 * granule, false).is_some());
        Ok(())
    }

    // A map is about to publish when the detach begins.
    #[test]
    fn detach_waits_for_map() -> Result {
        let rig = Rig::new(Model::PSERIES)?;
        let (pe, space) = rig.attached()?;
        let granule = granule(&space);
        let at = range(
            granule,
            space
                .layout()
                .windows()
                .next()
                .ok_or(EINVAL)?
                .1
                .shift
                .bytes(),
        );

        let gate = Gate::new(Event::Set(at.first))?;
        gate.put_up(&rig)?;
        let other = {
            let space = space.clone();
            Thread::spawn(move || {
                map(&space, at, PHYS, WRITE).ok();
            })?
        };
        gate.arrived.wait_for_completion();
        rig.attach(&pe, &Target::Blocked)?;
        gate.open.store(true, Relaxed);
        other.join();
        rig.fake.hook(None);
        assert!(!rig.reaches_any());
        Ok(())
    }

    // An unmap looks at the PE when it leaves the list. KASAN looks at the list.
    #[test]
    fn detach_waits_for_unmap() -> Result {
        let rig = Rig::new(Model::PSERIES)?;
        let (pe, space) = rig.attached()?;
        let granule = granule(&space);
        let (first, second) = (range(granule, granule), range(20 * granule, granule));
        map(&space, first, PHYS, WRITE)?;

        // The detach has waited for the maps when it withdraws; the unmap comes after that.
        let gate = Gate::new(Event::Clear(second.first))?;
        let start = Arc::pin_init(Completion::new(), GFP_KERNEL)?;
        let other = {
            let (space, start) = (space.clone(), start.clone());
            Thread::spawn(move || {
                start.wait_for_completion();
                space.withdraw(second);
            })?
        };
        let hook = {
            let gate = gate.clone();
            move |event| match event {
                Event::Clear(at) if at == Ioba::new(0) => {
                    start.complete_all();
                    gate.watch();
                }
                event => gate.call(event),
            }
        };
        rig.fake.hook(Some(Arc::new(hook, GFP_KERNEL)?));
        rig.attach(&pe, &Target::Blocked)?;
        let passed = gate.passed.load(Relaxed) && !gate.missed.load(Relaxed);
        gate.open.store(true, Relaxed);
        other.join();
        rig.fake.hook(None);
        assert!(passed);
        Ok(())
    }

    #[test]
    fn all_at_once() -> Result {
        on_all(|rig| {
            let (pe, space) = rig.attached()?;
            let second = Arc::new(Rig::new(rig.model)?, GFP_KERNEL)?;
            let second_pe = second.pe()?;
            let wrong = Arc::new(Atomic::new(0), GFP_KERNEL)?;
            let mut users = KVec::new();
            for n in 0..2 {
                let (second, space, wrong) = (second.clone(), space.clone(), wrong.clone());
                let user = move || {
                    let slots = 1 + 8 * n..9 + 8 * n;
                    if user(&second, &space, slots, 0x1234_5678_9abc + n).is_err() {
                        wrong.add(1, Relaxed);
                    }
                };
                users.push(Thread::spawn(user)?, GFP_KERNEL)?;
            }
            // Two PEs come and go meanwhile.
            for _ in 0..25 {
                second.attach(&second_pe, &Target::Paging(&space))?;
                rig.attach(&pe, &Target::Blocked)?;
                second.attach(&second_pe, &Target::Platform)?;
                rig.attach(&pe, &Target::Paging(&space))?;
            }
            second.attach(&second_pe, &Target::Paging(&space))?;
            users.iter().for_each(|user| user.join());
            ensure(wrong.load(Relaxed) == 0, "no user saw anything wrong")?;
            let granule = granule(&space);
            for slot in 0..40 {
                let expected = (1..17).contains(&slot).then_some(PHYS + slot * granule);
                for rig in [rig, &second] {
                    ensure(rig.reaches(slot * granule, true) == expected, "the end")?;
                }
            }
            second.check()
        })
    }
}
