// SPDX-License-Identifier: GPL-2.0

use crate::{
    layout::TceRun,
    table::{
        Levels,
        Table, //
    }, //
};
use kernel::{
    powerpc::window::{
        PageShift,
        Tce,
        TceIndex,
        Tces, //
    },
    prelude::*, //
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
    let tce = |n| Tce::from_parts(phys + n * 0x1000, true, true);
    table.set(run, GFP_KERNEL, tce).get()
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
        Ok(())
    }

    #[test]
    fn set_translate_clear() -> Result {
        // One, two and four levels, with runs that cross borders of leaves and of inner nodes.
        for (tces, first) in [(512, 100), (1 << 18, 511), (1 << 36, (1 << 18) - 300)] {
            let table = table(tces)?;
            let count = if tces == 512 { 200 } else { 900 };
            assert_eq!(set(&table, run(first, count), 0x10_0000), count);
            let at = |index| table.translate(TceIndex::new(index), 0x123);
            assert!(at(first - 1).is_none());
            assert_eq!(at(first), Some(0x10_0123));
            assert_eq!(
                at(first + count - 1),
                Some(0x10_0123 + (count - 1) * 0x1000)
            );
            assert!(at(first + count).is_none());
            assert_eq!(table.populated(), count);
            assert_eq!(table.clear(run(first + 1, count - 2)).get(), count - 2);
            assert_eq!(table.populated(), 2);
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
        assert_eq!(table.populated(), 5);
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
        table.for_each_leaf(run(0, 1 << 36), |part, _| {
            Ok(found.push((part.first.get(), part.count.get()), GFP_KERNEL)?)
        })?;
        let last = ((1 << 36) - 512, 512);
        assert!(found[..] == [(0, 512), (512, 512), (1 << 20, 512), last]);
        // A run begins and ends inside leaves.
        found.clear();
        table.for_each_leaf(run(500, 20), |part, _| {
            Ok(found.push((part.first.get(), part.count.get()), GFP_KERNEL)?)
        })?;
        assert!(found[..] == [(500, 12), (512, 8)]);
        // The first error ends it.
        assert!(table
            .for_each_leaf(run(0, 1 << 36), |_, _| Err(EIO))
            .is_err());
        Ok(())
    }
}
