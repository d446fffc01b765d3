// SPDX-License-Identifier: GPL-2.0

//! The radix tree of TCEs.

use crate::{
    layout::TceRun,
    table::Table,
    tests::Random, //
};
use kernel::{
    powerpc::window::{
        Ioba,
        Levels,
        PageShift,
        Tce,
        TceIndex,
        Tces, //
    },
    prelude::*,
    sync::rcu, //
};

fn run(first: u64, count: u64) -> TceRun {
    TceRun {
        first: TceIndex::new(first),
        count: Tces::new(count),
    }
}

fn table(tces: u64) -> Result<Table> {
    let levels = Levels::for_tces(Tces::new(tces)).ok_or(EINVAL)?;
    Table::new(levels, PageShift::SHIFT_4K)
}

fn set(table: &Table, run: TceRun, phys: u64) -> u64 {
    match table.set(run, Tce::from_parts(phys, true, true), GFP_KERNEL) {
        Ok(()) => run.count.get(),
        Err((_, done)) => done.get(),
    }
}

#[kunit_tests(tce_table)]
mod tests {
    use super::*;

    #[test]
    fn levels() -> Result {
        for (tces, levels) in [(1, 1), (512, 1), (513, 2), (1 << 18, 2), (1 << 36, 4)] {
            let got = Levels::for_tces(Tces::new(tces)).ok_or(EINVAL)?;
            assert_eq!(got.get(), levels);
            assert!(got.tces().get() >= tces);
        }
        assert!(Levels::for_tces(Tces::new(0)).is_none());
        assert!(Levels::for_tces(Tces::new(1 << 46)).is_none());
        assert!(Levels::new(0).is_none());
        assert!(Levels::new(6).is_none());
        Ok(())
    }

    #[test]
    fn set_translate_clear() -> Result {
        // One, two and four levels, with runs that cross borders of leaves and of inner nodes.
        for (tces, first) in [(512, 100), (1 << 18, 511), (1 << 36, (1 << 18) - 300)] {
            let table = table(tces)?;
            let count = if tces == 512 { 200 } else { 900 };
            assert_eq!(set(&table, run(first, count), 0x10_0000), count);
            let ioba = Ioba::new(0x123);
            let at = |index| table.translate(TceIndex::new(index), ioba, &rcu::read_lock());
            assert!(at(first - 1).is_none());
            assert_eq!(at(first), Some(0x10_0123));
            assert_eq!(
                at(first + count - 1),
                Some(0x10_0123 + (count - 1) * 0x1000)
            );
            assert!(at(first + count).is_none());
            assert_eq!(table.populated().get(), count);
            assert_eq!(table.clear(run(first + 1, count - 2)).get(), count - 2);
            assert_eq!(table.populated().get(), 2);
            assert!(at(first).is_some());
            assert!(at(first + 1).is_none());
        }
        Ok(())
    }

    #[test]
    fn clear_stops_at_a_gap() -> Result {
        let table = table(1 << 18)?;
        set(&table, run(10, 5), 0);
        set(&table, run(20, 5), 0);
        assert_eq!(table.clear(run(10, 15)).get(), 5);
        assert_eq!(table.populated().get(), 5);
        // The next leaf is not looked at either.
        set(&table, run(512, 5), 0);
        assert_eq!(table.clear(run(20, 500)).get(), 5);
        assert_eq!(table.populated().get(), 5);
        assert_eq!(table.clear(run(1 << 17, 5)).get(), 0);
        Ok(())
    }

    #[test]
    fn leaves() -> Result {
        let table = table(1 << 36)?;
        for index in [0, 511, 512, 1 << 20, (1 << 36) - 1] {
            set(&table, run(index, 1), 0x1000);
        }
        let mut found = KVec::new();
        table.for_each_leaf(run(0, 1 << 36), |part| {
            Ok(found.push((part.first.get(), part.count.get()), GFP_KERNEL)?)
        })?;
        let last = ((1 << 36) - 512, 512);
        assert!(found[..] == [(0, 512), (512, 512), (1 << 20, 512), last]);
        // A run begins and ends inside leaves.
        found.clear();
        table.for_each_leaf(run(500, 20), |part| {
            Ok(found.push((part.first.get(), part.count.get()), GFP_KERNEL)?)
        })?;
        assert!(found[..] == [(500, 12), (512, 8)]);
        // The first error ends it.
        assert!(table.for_each_leaf(run(0, 1 << 36), |_| Err(EIO)).is_err());
        Ok(())
    }

    // The two paths write and clear the same, whatever is asked of them.
    #[test]
    fn both_paths_do_the_same() -> Result {
        let mut random = Random(0x5eed_0000_beef);
        let (fast, all) = (table(1 << 18)?, table(1 << 18)?);
        let mut served = [0; 2];
        for _ in 0..4000 {
            let most = if random.next(4) == 0 { 20 } else { 2 };
            let run = run(400 + random.next(250), 1 + random.next(most));
            let access = random.next(3) + 1;
            let tce = Tce::from_raw(0x4_0000_0000 + (random.next(1 << 20) << 12) + access);
            if random.next(2) == 0 {
                let quick = fast.try_set(run, tce);
                served[0] += usize::from(quick);
                let expected = all.set(run, tce, GFP_KERNEL);
                let got = match quick {
                    true => Ok(()),
                    false => fast.set(run, tce, GFP_KERNEL),
                };
                assert!(got == expected);
            } else {
                let quick = fast.try_clear(run);
                served[1] += usize::from(quick);
                let expected = all.clear(run);
                let got = match quick {
                    true => run.count,
                    false => fast.clear(run),
                };
                assert!(got == expected);
            }
            for index in run.first.get()..run.first.get() + run.count.get() {
                let at = TceIndex::new(index);
                let rcu = rcu::read_lock();
                let tce = |table: &Table| table.leaf(at, &rcu).map(|leaf| leaf.get(at));
                assert!(tce(&fast).unwrap_or(Tce::NONE) == tce(&all).unwrap_or(Tce::NONE));
            }
        }
        // Both were put to use, and left something to the others.
        for served in served {
            assert!((50..1900).contains(&served));
        }
        assert_eq!(fast.populated(), all.populated());
        Ok(())
    }

    #[test]
    fn present_is_not_overwritten() -> Result {
        let table = table(1 << 18)?;
        assert_eq!(set(&table, run(515, 3), 0x10_0000), 3);
        let over = Tce::from_parts(0x50_0000, true, true);
        assert!(!table.try_set(run(513, 3), over));
        // What lies in the leaf before it is written, and told.
        let result = table.set(run(500, 20), over, GFP_KERNEL);
        assert!(result == Err((EEXIST, Tces::new(12))));
        let at = |index| table.translate(TceIndex::new(index), Ioba::new(0), &rcu::read_lock());
        assert_eq!(at(511), Some(0x50_b000));
        assert!(at(513).is_none());
        assert_eq!(at(515), Some(0x10_0000));
        Ok(())
    }

    // Leaves go when all of their range is unmapped, and come back when they are needed.
    #[test]
    fn leaves_are_freed() -> Result {
        let count = |table: &Table| {
            let mut leaves = 0;
            let all = run(0, 1 << 18);
            table.for_each_leaf(all, |_| {
                leaves += 1;
                Ok(())
            })?;
            Ok::<_, Error>(leaves)
        };
        let table = table(1 << 18)?;
        for _ in 0..3 {
            assert_eq!(set(&table, run(500, 1600), 0x10_0000), 1600);
            assert_eq!(count(&table)?, 5);
            assert_eq!(table.clear(run(500, 1600)).get(), 1600);
            table.retire(run(500, 1600));
            // Retired: nobody walks there any more, but firmware may have what was there.
            assert!(table.leaf(TceIndex::new(512), &rcu::read_lock()).is_none());
            assert_eq!(count(&table)?, 5);
            assert!(!table.try_set(run(512, 1), Tce::from_parts(0x1000, true, true)));
            assert!(
                table.set(run(512, 1), Tce::from_parts(0x1000, true, true), GFP_KERNEL)
                    == Err((EBUSY, Tces::new(0)))
            );
            // SAFETY: There is no PHB, and nobody else has the table.
            unsafe { table.free_retired(run(500, 1600)) };
            assert_eq!(count(&table)?, 2);
            assert_eq!(table.populated().get(), 0);
        }
        Ok(())
    }
}
