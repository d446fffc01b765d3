// SPDX-License-Identifier: GPL-2.0

//! Map and unmap, and what a device reaches through them.

use crate::{
    bonds::Bond,
    fake::{
        Model,
        MMIO64,
        MMIO64_LAST, //
    },
    firmware::Firmware,
    layout::{
        Layout,
        TceRun, //
    },
    pe::Target,
    space::{
        Part,
        Space, //
    },
    tests::{
        clear,
        ensure,
        granule,
        map,
        nodes,
        on_all,
        populated,
        range,
        unmap,
        Rig,
        HIGH,
        PHYS,
        READ,
        WRITE, //
    },
    windows::TableWindow, //
};
use kernel::{
    alloc::faults::FailNth,
    device::Device,
    powerpc::window::{
        Ioba,
        WindowNumber, //
    },
    prelude::*,
    sync::{
        atomic::{
            Atomic,
            Relaxed, //
        },
        Arc, //
    }, //
};

/// The windows of a PE that remembers the longest withdrawal.
struct Recorder {
    layout: Layout,
    longest: Atomic<u64>,
}

impl Firmware for Recorder {
    fn layout(&self) -> &Layout {
        &self.layout
    }

    fn is_broken(&self) -> bool {
        false
    }

    fn connect(&self, _: &Device, _: &TableWindow) -> Result {
        Ok(())
    }

    fn disconnect(&self, _: &Device, _: WindowNumber) -> Result {
        Ok(())
    }

    unsafe fn publish(&self, _: &TableWindow, _: TceRun) -> Result {
        Ok(())
    }

    unsafe fn withdraw(&self, _: &TableWindow, run: TceRun) {
        let longest = self.longest.load(Relaxed).max(run.count.get());
        self.longest.store(longest, Relaxed);
    }

    fn flush(&self) {}

    unsafe fn release(&self, _: &Device) -> Result {
        Ok(())
    }
}

#[kunit_tests(tce_space)]
mod tests {
    use super::*;

    #[test]
    fn mapped_is_reached_and_nothing_else() -> Result {
        on_all(|rig| {
            let (_pe, space) = rig.attached()?;
            let granule = granule(&space);
            map(&space, range(4 * granule, 2 * granule), PHYS, WRITE)?;
            assert_eq!(rig.reaches(4 * granule, true), Some(PHYS));
            assert_eq!(
                rig.reaches(6 * granule - 1, false),
                Some(PHYS + 2 * granule - 1)
            );
            assert!(rig.reaches(4 * granule - 1, false).is_none());
            assert!(rig.reaches(6 * granule, false).is_none());
            assert!(populated(&space) > 0);
            Ok(())
        })
    }

    #[test]
    fn unmapped_is_not_reached() -> Result {
        on_all(|rig| {
            let (_pe, space) = rig.attached()?;
            let granule = granule(&space);
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
            assert_eq!(populated(&space), 0);
            Ok(())
        })
    }

    #[test]
    fn deferred_flush_is_a_flush() -> Result {
        on_all(|rig| {
            let (_pe, space) = rig.attached()?;
            let granule = granule(&space);
            let at = range(granule, granule);
            map(&space, at, PHYS, WRITE)?;
            assert!(rig.reaches(granule, true).is_some());
            space.unmap(at);
            space.withdraw_copies(at);
            space.flush();
            assert!(rig.reaches(granule, true).is_none());
            Ok(())
        })
    }

    #[test]
    fn read_only_is_read_only() -> Result {
        on_all(|rig| {
            let (_pe, space) = rig.attached()?;
            let granule = granule(&space);
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
            Ok(())
        })
    }

    #[test]
    fn reserved_cannot_be_mapped() -> Result {
        on_all(|rig| {
            let (_pe, space) = rig.attached()?;
            let granule = granule(&space);
            for hole in space.layout().reserved() {
                if hole.first.get() == MMIO64 {
                    assert_eq!(hole.last.get(), MMIO64_LAST);
                    continue;
                }
                for first in [hole.first.get(), hole.last.get() - (granule - 1)] {
                    assert!(map(&space, range(first, granule), PHYS, WRITE).is_err());
                }
            }
            let last = space.layout().aperture().last.get();
            map(&space, range(last - (granule - 1), granule), PHYS, WRITE)?;
            assert_eq!(rig.reaches(last, true), Some(PHYS + granule - 1));
            Ok(())
        })
    }

    #[test]
    fn one_call_for_many_pages() -> Result {
        let rig = Rig::new(Model::PSERIES)?;
        let (pe, space) = rig.attached()?;
        let granule = granule(&space);
        let before = rig.fake.hcalls();
        map(&space, range(HIGH, 512 * granule), PHYS, WRITE)?;
        assert_eq!(rig.fake.hcalls() - before, 1);
        assert_eq!(pe.stats().read().put_list, 1);
        assert_eq!(populated(&space), 512);
        assert!(nodes(&space) > 2);
        unmap(&space, range(HIGH, 512 * granule));
        assert_eq!(rig.fake.hcalls() - before, 2);
        assert_eq!(pe.stats().read().stuff, 1);
        assert_eq!(populated(&space), 0);
        drop(rig);
        let rig = Rig::new(Model::PHB4)?;
        let (pe, space) = rig.attached()?;
        let before = rig.fake.kills();
        map(&space, range(granule, 500 * granule), PHYS, WRITE)?;
        unmap(&space, range(granule, 500 * granule));
        assert_eq!(rig.fake.kills() - before, 2);
        assert_eq!(pe.stats().read().kills, 2);
        Ok(())
    }

    // A page for the lists of a CPU is made once.
    #[test]
    fn lists_take_no_memory_again() -> Result {
        let rig = Rig::new(Model::PSERIES)?;
        let (_pe, space) = rig.attached()?;
        let granule = granule(&space);
        // A list that is not the beginning of a leaf.
        let at = range(HIGH + 3 * granule, 20 * granule);
        let again = || map(&space, at, PHYS, WRITE).inspect(|()| unmap(&space, at));
        // The test may move to another CPU meanwhile.
        for _ in 0..100 {
            again()?;
            let fault = FailNth::new(0);
            let result = again();
            if !fault.has_failed() {
                return result;
            }
        }
        ensure(false, "there is a page")
    }

    #[test]
    fn published_in_both_windows() -> Result {
        on_all(|rig| {
            let (_pe, space) = rig.attached()?;
            let (granule, shift) = (granule(&space), space.layout().granule());
            if space.windows().high().is_none() {
                return Ok(());
            }
            let (_, low) = space.layout().windows().next().ok_or(EINVAL)?;
            let ends = [low.last().get() + 1 - granule, HIGH];
            let both = range(ends[0], HIGH + granule - ends[0]);
            for at in ends {
                let at = range(at, granule);
                let mapped = space.map(at, WRITE.tce(PHYS), shift, GFP_KERNEL);
                mapped.map_err(|(e, _)| e)?;
            }
            space.publish(both)?;
            for at in ends {
                ensure(rig.reaches(at, true) == Some(PHYS), "reached")?;
                space.unmap(range(at, granule));
            }
            space.withdraw(both);
            ensure(!rig.reaches_any(), "not reached")
        })
    }

    // Others get a chance to run meanwhile, and nothing is left out.
    #[test]
    fn long_withdrawals_come_in_pieces() -> Result {
        const MOST: u64 = 1 << 15;

        let rig = Rig::new(Model::PSERIES)?;
        let (_pe, space) = rig.attached()?;
        let granule = granule(&space);
        let at = range(HIGH, (MOST + 700) * granule);
        map(&space, at, PHYS, WRITE)?;
        assert!(rig.reaches(at.last.get(), true).is_some());
        unmap(&space, at);
        assert!(!rig.reaches_any());

        let recorder = Arc::new(
            Recorder {
                layout: space.layout().clone(),
                longest: Atomic::new(0),
            },
            GFP_KERNEL,
        )?;
        let port: Arc<dyn Firmware> = recorder.clone();
        space.attach(Bond::new(port.clone(), None)?, &port, rig.dev(), Part::All)?;
        space.withdraw(at);
        space.detach(&port, rig.dev(), Part::All)?;
        assert_eq!(recorder.longest.load(Relaxed), MOST);
        Ok(())
    }

    // PHB3 takes a store for each page, so there is an end to that.
    #[test]
    fn many_kills_are_one() -> Result {
        let rig = Rig::new(Model::PHB3)?;
        let (_pe, space) = rig.attached()?;
        let granule = granule(&space);
        let mut single = 0;
        for (pages, one_by_one) in [(1, true), (511, true), (512, false), (5000, false)] {
            space.withdraw(range(granule, pages * granule));
            single += if one_by_one { pages } else { 0 };
            assert_eq!(rig.fake.single_kills(), single);
        }
        // A kill of some leaves the others alone.
        map(&space, range(granule, 2 * granule), PHYS, WRITE)?;
        assert!(rig.reaches(granule, true).is_some());
        space.unmap(range(granule, 2 * granule));
        space.withdraw(range(2 * granule, granule));
        assert!(rig.reaches(2 * granule, true).is_none());
        assert!(rig.reaches(granule, true).is_some());
        space.flush();
        assert!(rig.reaches(granule, true).is_none());
        Ok(())
    }

    // Tables do not outlive what they map for long, and no PHB is left with a way to them: KASAN
    // looks at what is walked.
    #[test]
    fn empty_leaves_are_freed() -> Result {
        on_all(|rig| {
            let (_pe, space) = rig.attached()?;
            // Not on a machine with a call for each TCE.
            if space.layout().holds_copy() && !rig.model.multi_tce {
                return Ok(());
            }
            let page = {
                let (_, low) = space.layout().windows().next().ok_or(EINVAL)?;
                low.shift.bytes()
            };
            let at = range(100 * page, 1500 * page);
            let memory = nodes(&space);
            let shift = space.layout().granule();
            for _ in 0..3 {
                space
                    .map(at, WRITE.tce(PHYS), shift, GFP_KERNEL_ACCOUNT)
                    .map_err(|(e, _)| e)?;
                space.publish(at)?;
                for n in [0, 500, 1000, 1499] {
                    let reached = rig.reaches((100 + n) * page, true);
                    ensure(reached == Some(PHYS + n * page), "reached")?;
                }
                // The ends of the run share leaves with others.
                let full = nodes(&space);
                ensure(full - memory >= 4, "tables grow")?;
                unmap(&space, at);
                ensure(nodes(&space) == full - 2, "tables shrink")?;
                for n in [0, 500, 1000, 1499] {
                    let reached = rig.reaches((100 + n) * page, true);
                    ensure(reached.is_none(), "not reached")?;
                }
            }
            // One leaf is enough, and no TCE more.
            let one = range(512 * page, 512 * page);
            space
                .map(one, WRITE.tce(PHYS), shift, GFP_KERNEL_ACCOUNT)
                .map_err(|(e, _)| e)?;
            space.publish(one)?;
            let full = nodes(&space);
            unmap(&space, one);
            ensure(nodes(&space) == full - 1, "a leaf is freed")?;
            // What the kernel maps for itself stays: it comes again.
            let space = Space::new(space.layout().clone())?;
            map(&space, at, PHYS, WRITE)?;
            let full = nodes(&space);
            unmap(&space, at);
            ensure(nodes(&space) == full, "tables stay")
        })
    }

    // An unmap has taken leaves out of the table, and is to withdraw what was in them.
    #[test]
    fn a_detach_withdraws_what_an_unmap_has_begun() -> Result {
        on_all(|rig| {
            let (pe, space) = rig.attached()?;
            let (_, low) = space.layout().windows().next().ok_or(EINVAL)?;
            let page = low.shift.bytes();
            let at = range(512 * page, 1024 * page);
            let shift = space.layout().granule();
            space
                .map(at, WRITE.tce(PHYS), shift, GFP_KERNEL_ACCOUNT)
                .map_err(|(e, _)| e)?;
            space.publish(at)?;
            ensure(clear(&space, at).is_some(), "cleared")?;
            let (window, run) = space.windows().locate(at).ok_or(EINVAL)?;
            window.table().retire(run);
            rig.attach(&pe, &Target::Blocked)?;
            ensure(!rig.reaches_any(), "nothing is left")?;
            space.withdraw(at);
            Ok(())
        })
    }

    // As the hardware does.
    #[test]
    fn a_bad_access_freezes_the_pe() -> Result {
        on_all(|rig| {
            let (_pe, space) = rig.attached()?;
            let granule = granule(&space);
            let at = Ioba::new(granule);
            map(&space, range(granule, granule), PHYS, READ)?;
            assert!(rig.fake.dma(at, false).is_some());
            assert!(rig.fake.dma(at, true).is_none());
            assert!(rig.fake.dma(at, false).is_none());
            rig.fake.thaw();
            assert!(rig.fake.dma(at, false).is_some());
            Ok(())
        })
    }

    #[test]
    fn translate() -> Result {
        let rig = Rig::new(Model::PSERIES)?;
        let (_pe, space) = rig.attached()?;
        let granule = granule(&space);
        map(&space, range(granule, granule), PHYS, READ)?;
        let at = |ioba| space.translate(Ioba::new(ioba));
        assert_eq!(at(granule + 5), Some(PHYS + 5));
        assert!(at(0).is_none());
        assert!(at(2 * granule).is_none());
        assert!(at(1 << 40).is_none());
        Ok(())
    }
}
