// SPDX-License-Identifier: GPL-2.0

//! A process has the high window of a PE, and the kernel keeps the low one.

use crate::{
    domain::process::Window,
    fake::Model,
    pe::{
        Pe,
        Target, //
    },
    space::Space,
    tests::{
        clear,
        ensure,
        granule,
        map,
        nodes,
        populated,
        range,
        sweep,
        unmap,
        Rig,
        HIGH,
        PHYS,
        WRITE, //
    }, //
};
use kernel::{
    iommu::{
        Iova,
        IovaRange,
        SvaWindow, //
    },
    powerpc::window::{
        Ioba,
        Tce, //
    },
    prelude::*,
    sync::Arc,
    task::Pid, //
};

pub(super) const PID: Pid = 4711;

/// The memory of the process, above 4 TiB.
const MINE: u64 = 0x507_4321_0000;

/// A PE in a domain of the kernel, with a mapping of the kernel at the second page, and a process
/// that is not bound.
pub(super) struct Bed<'a> {
    pub(super) rig: &'a Rig,
    pub(super) pe: Arc<Pe<crate::fake::Fake>>,
    pub(super) kernel: Arc<Space>,
    pub(super) process: Arc<Space>,
    pub(super) granule: u64,
}

impl<'a> Bed<'a> {
    pub(super) fn new(rig: &'a Rig) -> Result<Self> {
        let (pe, kernel) = rig.attached()?;
        let granule = granule(&kernel);
        let process = Space::for_process(pe.layout()).inspect_err(|_| {
            rig.leave(&pe);
        })?;
        let bed = Self {
            rig,
            pe,
            kernel,
            process,
            granule,
        };
        map(&bed.kernel, range(granule, granule), PHYS, WRITE).inspect_err(|_| {
            rig.leave(&bed.pe);
        })?;
        Ok(bed)
    }

    pub(super) fn lend(&self) -> Result {
        self.pe.lend(self.rig.dev(), &self.process, PID)
    }

    pub(super) fn reclaim(&self) {
        self.pe.reclaim(self.rig.dev());
    }

    /// Where the third page of the process is on the bus.
    pub(super) fn at(&self) -> u64 {
        HIGH + 2 * self.granule
    }

    /// Maps it, as the core's abstraction does.
    pub(super) fn fill(&self) -> Result {
        let page = range(self.at(), self.granule);
        self.process.reserve(page, GFP_KERNEL)?;
        map(&self.process, page, MINE, WRITE)
    }

    /// Takes it out, as the core's abstraction does when the process unmaps it or exits.
    pub(super) fn empty(&self) {
        unmap(&self.process, range(self.at(), self.granule));
    }

    pub(super) fn reaches_kernel(&self) -> bool {
        self.rig.reaches(self.granule, true) == Some(PHYS)
    }

    pub(super) fn reaches_process(&self) -> bool {
        self.rig.reaches(self.at(), true).is_some()
    }

    /// Whether the windows are the kernel's again.
    pub(super) fn is_over(&self) -> Result {
        ensure(!self.reaches_process(), "the process is out")?;
        ensure(self.reaches_kernel(), "the kernel keeps its window")?;
        let page = range(self.at(), self.granule);
        map(&self.kernel, page, PHYS + self.granule, WRITE)?;
        let there = self.rig.reaches(self.at(), true) == Some(PHYS + self.granule);
        unmap(&self.kernel, page);
        ensure(there, "the kernel has the other one again")
    }
}

/// Runs `f` on every machine with two windows.
pub(super) fn on_two(mut f: impl FnMut(&Bed<'_>) -> Result) -> Result {
    let one_by_one = Model {
        multi_tce: false,
        ..Model::PSERIES
    };
    for model in [Model::PSERIES, one_by_one, Model::PHB3, Model::PHB4] {
        let rig = Rig::new(model)?;
        let bed = Bed::new(&rig)?;
        f(&bed)?;
        rig.leave(&bed.pe);
        ensure(rig.fake.is_as_before(), "the platform has the PE")?;
        rig.check()?;
    }
    Ok(())
}

#[kunit_tests(tce_process)]
mod tests {
    use super::*;

    #[test]
    fn a_process_and_the_kernel() -> Result {
        on_two(|bed| {
            let Bed { rig, granule, .. } = *bed;
            bed.lend()?;
            assert!(bed.pe.process() == Some(PID));
            assert!(!bed.reaches_process() && bed.reaches_kernel());
            bed.fill()?;
            assert_eq!(rig.reaches(bed.at() + 8, true), Some(MINE + 8));
            // Neither reaches what the other one has, whatever bit 59 is.
            assert!(rig.reaches(2 * granule, false).is_none());
            assert!(rig.reaches(HIGH + granule, false).is_none());
            // Nor does a process have the low window.
            let low = range(3 * granule, granule);
            assert!(map(&bed.process, low, MINE, WRITE) == Err(EINVAL));
            assert!(rig.reaches(3 * granule, false).is_none());
            // The kernel goes on, and gets nothing in the window of the process.
            map(&bed.kernel, range(4 * granule, granule), PHYS, WRITE)?;
            assert!(rig.reaches(4 * granule, true).is_some());
            let high = range(HIGH + 5 * granule, granule);
            assert!(map(&bed.kernel, high, PHYS, WRITE) == Err(EINVAL));
            assert!(clear(&bed.kernel, range(bed.at(), granule)).is_none());
            assert!(bed.reaches_process());
            unmap(&bed.process, range(bed.at(), granule));
            assert!(!bed.reaches_process());
            bed.fill()?;
            bed.reclaim();
            assert!(bed.pe.process().is_none());
            bed.is_over()?;
            // What is mapped meanwhile is there next time, and nothing else.
            map(
                &bed.process,
                range(HIGH + 6 * granule, granule),
                MINE,
                WRITE,
            )?;
            unmap(&bed.process, range(bed.at(), granule));
            bed.lend()?;
            assert!(!bed.reaches_process());
            assert!(rig.reaches(HIGH + 6 * granule, true).is_some());
            bed.reclaim();
            bed.is_over()
        })
    }

    // As the core's abstraction does it.
    #[test]
    fn memory_of_a_process_comes_and_goes() -> Result {
        on_two(|bed| {
            let window = Window::new(bed.pe.layout())?;
            bed.pe.lend(bed.rig.dev(), window.space(), PID)?;
            assert_eq!(window.iovas().first().get(), HIGH);
            let pages = IovaRange::from_len(Iova::new(bed.at()), 2 * bed.granule).ok_or(EINVAL)?;
            let second = bed.at() + bed.granule;
            let phys = MINE + bed.granule;
            window.prepare(pages)?;
            window.set(pages, MINE, false)?;
            window.publish(pages)?;
            assert!(window.get(Iova::new(second)) == Some(phys));
            assert!(bed.rig.reaches(second, true).is_none());
            for write in [false, true, false] {
                window.protect(pages, write)?;
                window.publish(pages)?;
                assert_eq!(bed.rig.reaches(second, false), Some(phys));
                assert_eq!(bed.rig.reaches(second, true), write.then_some(phys));
            }
            let other = IovaRange::from_len(Iova::new(HIGH), bed.granule).ok_or(EINVAL)?;
            assert!(window.protect(other, true) == Err(ENOENT));
            window.clear(pages);
            window.withdraw(pages);
            assert!(window.get(Iova::new(second)).is_none());
            assert!(bed.rig.reaches(second, false).is_none());
            window.set(pages, MINE, true)?;
            window.publish(pages)?;
            assert_eq!(bed.rig.reaches(second, true), Some(phys));
            bed.reclaim();
            bed.is_over()
        })
    }

    // A process that comes and goes in ever other places.
    #[test]
    fn tables_do_not_grow_for_ever() -> Result {
        on_two(|bed| {
            let window = Window::new(bed.pe.layout())?;
            bed.pe.lend(bed.rig.dev(), window.space(), PID)?;
            let leaf = 512 * bed.granule;
            let page = |at| IovaRange::from_len(Iova::new(at), bed.granule).ok_or(EINVAL);
            let take = |at| -> Result {
                window.prepare(page(at)?)?;
                window.set(page(at)?, MINE, true)?;
                window.publish(page(at)?)?;
                // The PHB knows the way from now on.
                ensure(bed.rig.reaches(at, true) == Some(MINE), "it is reached")
            };
            let drop = |at| -> Result {
                window.clear(page(at)?);
                window.withdraw(page(at)?);
                window.trim(page(at)?);
                ensure(bed.rig.reaches(at, false).is_none(), "it is not reached")
            };
            let kept = HIGH + 100 * leaf + 7 * bed.granule;
            take(kept)?;
            let mut most = 0;
            for n in 0..300 {
                let at = HIGH + n * leaf + 30 * bed.granule;
                take(at)?;
                drop(at)?;
                if n == 150 {
                    most = nodes(window.space());
                }
            }
            ensure(nodes(window.space()) <= most, "the tables do not grow")?;
            ensure(most < 64 + 16, "there are not many")?;
            assert_eq!(populated(window.space()), 1);
            assert_eq!(bed.rig.reaches(kept, true), Some(MINE));
            // What was prepared may be gone before it is used, or while it is freed.
            let (at, far) = (page(HIGH + 200 * leaf)?, HIGH + 200 * leaf);
            assert!(window.set(at, MINE, true) == Err(EAGAIN));
            window.prepare(at)?;
            let (table, run) = window
                .space()
                .windows()
                .locate(range(far, leaf))
                .ok_or(EINVAL)?;
            table.table().retire(run);
            assert!(window.prepare(at) == Err(EAGAIN));
            // SAFETY: Nobody maps there, and nothing is.
            unsafe { table.table().free_retired(run) };
            window.prepare(at)?;
            window.set(at, MINE, true)?;
            assert!(window.is_connected());
            bed.reclaim();
            assert!(!window.is_connected());
            bed.is_over()
        })
    }

    // Firmware that does not take a permission back costs a page in the middle.
    #[test]
    fn what_is_behind_a_hole_is_cleared() -> Result {
        on_two(|bed| {
            let window = Window::new(bed.pe.layout())?;
            bed.pe.lend(bed.rig.dev(), window.space(), PID)?;
            let part = |n, count| {
                let at = Iova::new(bed.at() + n * bed.granule);
                IovaRange::from_len(at, count * bed.granule).ok_or(EINVAL)
            };
            let (all, hole) = (part(0, 16)?, part(5, 1)?);
            window.prepare(all)?;
            window.set(all, MINE, false)?;
            window.protect(hole, true)?;
            window.publish(all)?;
            bed.rig.fake.fail_at(0);
            window.protect(hole, false)?;
            assert!(window.publish(hole).is_err() == window.space().layout().holds_copy());
            bed.rig.fake.fail_never();
            for range in [hole, all] {
                window.clear(range);
                window.withdraw(range);
            }
            assert_eq!(populated(window.space()), 0);
            for n in 0..16 {
                assert!(bed.rig.reaches(bed.at() + n * bed.granule, false).is_none());
            }
            bed.reclaim();
            bed.is_over()
        })
    }

    #[test]
    fn one_process_at_a_time() -> Result {
        on_two(|bed| {
            bed.lend()?;
            bed.lend()?;
            let second = Space::new(bed.pe.layout())?;
            assert!(bed.pe.lend(bed.rig.dev(), &second, PID) == Err(EUSERS));
            bed.fill()?;
            assert!(bed.reaches_process());
            bed.reclaim();
            bed.reclaim();
            bed.pe.lend(bed.rig.dev(), &second, PID)?;
            assert!(!bed.reaches_process());
            bed.reclaim();
            bed.is_over()
        })
    }

    #[test]
    fn refused_where_the_kernel_has_mappings() -> Result {
        on_two(|bed| {
            let page = range(bed.at(), bed.granule);
            map(&bed.kernel, page, PHYS, WRITE)?;
            assert!(bed.lend() == Err(EADDRINUSE));
            assert!(bed.pe.process().is_none());
            assert_eq!(bed.rig.reaches(bed.at(), true), Some(PHYS));
            unmap(&bed.kernel, page);
            bed.is_over()?;
            bed.lend()?;
            bed.reclaim();
            bed.is_over()
        })
    }

    // The DMA API looks at the mask of a device once, and somebody else may change it.
    #[test]
    fn a_map_that_was_under_way_is_refused() -> Result {
        on_two(|bed| {
            let page = range(bed.at(), bed.granule);
            let (window, run) = bed.kernel.windows().locate(page).ok_or(EINVAL)?;
            bed.lend()?;
            bed.fill()?;
            let tce = Tce::from_parts(PHYS, true, true);
            ensure(
                window.table().set(run, tce, GFP_KERNEL).is_ok(),
                "it is written",
            )?;
            assert!(bed.kernel.publish(page) == Err(EADDRINUSE));
            assert_eq!(bed.rig.reaches(bed.at(), true), Some(MINE));
            bed.reclaim();
            assert!(bed.rig.reaches(bed.at(), true).is_none());
            bed.is_over()
        })
    }

    #[test]
    fn refused_elsewhere() -> Result {
        on_two(|bed| {
            let rig = bed.rig;
            let sibling = rig.sibling()?;
            sibling.join(&bed.pe)?;
            assert!(bed.lend() == Err(EOPNOTSUPP));
            sibling.leave(&bed.pe);
            for target in [Target::Blocked, Target::Platform] {
                rig.attach(&bed.pe, &target)?;
                assert!(bed.lend() == Err(EOPNOTSUPP));
            }
            rig.attach(&bed.pe, &Target::Paging(&bed.kernel))?;
            bed.is_over()
        })?;
        let other = Rig::new(Model::PHB4)?;
        let (other_pe, foreign) = other.attached()?;
        let rig = Rig::new(Model::PSERIES)?;
        let bed = Bed::new(&rig)?;
        assert!(bed.pe.lend(rig.dev(), &foreign, PID) == Err(EINVAL));
        bed.is_over()?;
        rig.leave(&bed.pe);
        other.leave(&other_pe);
        let rig = Rig::new(Model {
            ddw: false,
            ..Model::PSERIES
        })?;
        let bed = Bed::new(&rig)?;
        assert!(bed.lend() == Err(EOPNOTSUPP));
        rig.leave(&bed.pe);
        Ok(())
    }

    // A reset blocks the device, an administrator changes its domain, a cable is pulled.
    #[test]
    fn the_process_loses_the_window_with_the_domain() -> Result {
        on_two(|bed| {
            let rig = bed.rig;
            bed.fill()?;
            let other = Space::new(bed.pe.layout())?;
            for target in [Target::Blocked, Target::Platform, Target::Paging(&other)] {
                bed.lend()?;
                assert!(bed.reaches_process());
                rig.attach(&bed.pe, &target)?;
                assert!(!bed.reaches_process() && bed.pe.process().is_none());
                bed.reclaim();
                rig.attach(&bed.pe, &Target::Paging(&bed.kernel))?;
                bed.is_over()?;
            }
            bed.lend()?;
            Ok(())
        })
    }

    // Whichever call fails, either nothing has changed or the process is out in the end.
    #[test]
    fn firmware_refuses_once() -> Result {
        sweep(|rig, n| {
            let Ok(bed) = Bed::new(rig) else {
                return Ok(true);
            };
            let result = (|| {
                if bed.pe.layout().windows().count() < 2 {
                    return Ok(false);
                }
                bed.fill()?;
                rig.fake.fail_at(n.into());
                let lent = bed.lend();
                if lent.is_ok() {
                    bed.reclaim();
                }
                let failed = rig.fake.has_failed();
                rig.fake.fail_never();
                ensure(lent.is_ok() || failed, "it fails with the call only")?;
                if lent.is_err() {
                    ensure(!bed.reaches_process(), "a process that is not bound is out")?;
                }
                ensure(bed.reaches_kernel(), "the kernel keeps its window")?;
                // What is unmapped is gone even where the window could not be closed.
                unmap(&bed.process, range(bed.at(), bed.granule));
                ensure(!bed.reaches_process(), "what is unmapped is gone")?;
                Ok(failed)
            })();
            rig.leave(&bed.pe);
            ensure(rig.fake.is_as_before(), "the platform has the PE")?;
            result
        })
    }

    // A PE that was removed: the tables that its PHB may walk stay.
    #[test]
    fn firmware_is_gone() -> Result {
        for model in [Model::PSERIES, Model::PHB4] {
            let rig = Rig::new(model)?;
            let bed = Bed::new(&rig)?;
            bed.fill()?;
            bed.lend()?;
            rig.fake.fail_from(0);
            bed.reclaim();
            rig.leave(&bed.pe);
            let process = bed.process.clone();
            drop(bed);
            unmap(&process, range(HIGH, 1 << 20));
            drop(process);
            // The fake walks the tables: with KASAN this tells.
            rig.fake.dma(Ioba::new(HIGH), false);
        }
        Ok(())
    }
}
