// SPDX-License-Identifier: GPL-2.0

//! Which windows a PE gets, and how they make up one aperture.

use crate::{
    domain::process,
    layout::{
        cpu_page_shift,
        plan_high_window,
        plan_table,
        Layout,
        TceRun, //
    },
    tests::range,
    windows::Windows, //
};
use kernel::{
    powerpc::window::{
        Firmware as Kind,
        Ioba,
        Levels,
        PageShift,
        PageShifts,
        TceIndex,
        Tces,
        Window,
        WindowId,
        WindowNumber, //
    },
    prelude::*, //
};

fn window(base: u64, tces: u64, shift: u32) -> Result<Window> {
    let shift = PageShift::new(shift).ok_or(EINVAL)?;
    Window::new(Ioba::new(base), Tces::new(tces), shift, WindowId::new(1)).ok_or(EINVAL)
}

#[kunit_tests(tce_layout)]
mod tests {
    use super::*;

    const HIGH: u64 = 1 << 59;

    // What QEMU's pseries offers: 1 GiB of 4K pages, and pages of up to 16M above.
    #[test]
    fn pseries() -> Result {
        let high = window(HIGH, 1 << 20, 12)?;
        let layout = Layout::new(Kind::Papr, window(0, 1 << 18, 12)?, Some(high), None)?;
        assert_eq!(layout.aperture().first.get(), 0);
        assert_eq!(layout.aperture().last.get(), HIGH + (1 << 32) - 1);
        let mut reserved = layout.reserved();
        assert!(reserved.next() == Some(range(1 << 30, HIGH - (1 << 30))));
        assert!(reserved.next().is_none());
        Ok(())
    }

    // Bit 59 chooses the window of a process.
    #[test]
    fn processes_have_the_window_with_bit_59() -> Result {
        let addresses = |high: Option<u64>| {
            let high = high.map(|base| window(base, 1 << 20, 12)).transpose()?;
            let layout = Layout::new(Kind::Papr, window(0, 1 << 18, 12)?, high, None)?;
            Ok::<_, Error>(process::addresses(&layout))
        };
        let range = addresses(Some(HIGH))?.ok_or(EINVAL)?;
        assert_eq!(range.first().get(), HIGH);
        assert_eq!(range.bytes(), 1 << 32);
        assert!(addresses(Some(1 << 60))?.is_none());
        assert!(addresses(None)?.is_none());
        Ok(())
    }

    // A PHB takes [2G, 4G) of the bus addresses for 32-bit MMIO.
    #[test]
    fn powernv() -> Result {
        let mmio = Ioba::new(0x8000_0000)..=Ioba::new(0xffff_ffff);
        let low = window(0, 1 << 36, 12)?;
        let layout = Layout::new(
            Kind::Ioda,
            low,
            Some(window(HIGH, 1 << 36, 12)?),
            Some(mmio),
        )?
        .with_mmio64(Some(Ioba::new(1 << 47)..=Ioba::new(1 << 50)));
        // Of the 64-bit MMIO, what a window has.
        let mut reserved = layout.reserved();
        assert!(reserved.next() == Some(range(0x8000_0000, 0x8000_0000)));
        assert!(reserved.next() == Some(range(1 << 47, 1 << 47)));
        assert!(reserved.next() == Some(range(1 << 48, HIGH - (1 << 48))));
        let above = layout.with_mmio64(Some(Ioba::new(1 << 48)..=Ioba::new(1 << 50)));
        assert_eq!(above.reserved().count(), 2);
        let layout = above;
        // Nothing is found there, nor across its borders.
        let windows = Windows::new(&layout)?;
        assert!(windows.locate(range(0x8000_0000, 0x1000)).is_none());
        assert!(windows.locate(range(0x7fff_f000, 0x2000)).is_none());
        assert!(windows.locate(range(0xffff_f000, 0x2000)).is_none());
        assert!(windows.locate(range(0x7fff_f000, 0x1001)).is_none());
        assert!(windows.locate(range(0xffff_ffff, 2)).is_none());
        let (window, run) = windows.locate(range(0x1_0000_0000, 0x2000)).ok_or(EINVAL)?;
        assert_eq!(window.number(), WindowNumber::Low);
        assert_eq!(run.first.get(), 0x10_0000);
        assert_eq!(run.count.get(), 2);
        Ok(())
    }

    #[test]
    fn locate_keeps_to_one_window() -> Result {
        let layout = Layout::new(
            Kind::Papr,
            window(0, 16, 12)?,
            Some(window(HIGH, 16, 12)?),
            None,
        )?;
        let windows = Windows::new(&layout)?;
        assert!(windows.locate(range(0xf000, 0x1000)).is_some());
        assert!(windows.locate(range(0xf000, 0x1001)).is_none());
        assert!(windows.locate(range(0xf000, HIGH)).is_none());
        assert!(windows.locate(range(HIGH - 1, 2)).is_none());
        assert!(windows.locate(range(HIGH + 0xf000, 0x1000)).is_some());
        assert!(windows.locate(range(HIGH + 0xf000, 0x1001)).is_none());
        // A part is what there is of each.
        let at = range(0xf000, HIGH);
        let mut parts = windows.iter().map(|window| window.part(at));
        let first = |n, count| TceRun {
            first: TceIndex::new(n),
            count: Tces::new(count),
        };
        assert!(parts.next() == Some(Some(first(15, 1))));
        assert!(parts.next() == Some(Some(first(0, 15))));
        Ok(())
    }

    #[test]
    fn pieces_are_all_of_a_run() -> Result {
        let run = |first, count| TceRun {
            first: TceIndex::new(first),
            count: Tces::new(count),
        };
        let mut pieces = run(3, 21).pieces(Tces::new(8));
        assert!(pieces.next() == Some(run(3, 8)));
        assert!(pieces.next() == Some(run(11, 8)));
        assert!(pieces.next() == Some(run(19, 5)));
        assert!(pieces.next().is_none());
        Ok(())
    }

    #[test]
    fn impossible_windows() -> Result {
        let cpu = cpu_page_shift()?.get();
        assert!(Layout::new(Kind::Papr, window(0, 16, cpu + 1)?, None, None).is_err());
        assert!(Layout::new(
            Kind::Papr,
            window(0, 16, 12)?,
            Some(window(0x8000, 16, 12)?),
            None
        )
        .is_err());
        Ok(())
    }

    #[test]
    fn compatible() -> Result {
        let a = Layout::new(
            Kind::Papr,
            window(0, 16, 12)?,
            Some(window(HIGH, 16, 12)?),
            None,
        )?;
        assert!(a.is_compatible(&a.clone()));
        let b = Layout::new(
            Kind::Papr,
            window(0, 16, 12)?,
            Some(window(HIGH, 32, 12)?),
            None,
        )?;
        assert!(!a.is_compatible(&b));
        let walked = Layout::new(
            Kind::Ioda,
            window(0, 16, 12)?,
            Some(window(HIGH, 16, 12)?),
            None,
        )?;
        assert!(!a.is_compatible(&walked));
        let c = Layout::new(Kind::Papr, window(0, 16, 12)?, None, None)?;
        assert!(!a.is_compatible(&c));
        assert!(!c.is_compatible(&a));
        // Another base, other pages, another range for MMIO.
        let d = Layout::new(
            Kind::Papr,
            window(0, 16, 12)?,
            Some(window(HIGH << 1, 16, 12)?),
            None,
        )?;
        assert!(!a.is_compatible(&d));
        let mmio = Some(Ioba::new(0)..=Ioba::new(0xfff));
        let e = Layout::new(Kind::Papr, window(0, 16, 12)?, None, mmio)?;
        assert!(!c.is_compatible(&e));
        if cpu_page_shift()?.get() > 12 {
            let f = Layout::new(
                Kind::Papr,
                window(0, 16, 16)?,
                Some(window(HIGH, 16, 12)?),
                None,
            )?;
            let g = Layout::new(
                Kind::Papr,
                window(0, 16, 12)?,
                Some(window(HIGH, 16, 16)?),
                None,
            )?;
            assert!(!f.is_compatible(&g));
        }
        Ok(())
    }

    #[test]
    fn plan() -> Result {
        let cpu = cpu_page_shift()?;
        let all = PageShifts::new(1 << 12 | 1 << 16 | 1 << 21 | 1 << 24);
        let plan = |n: u64, max_ram| plan_high_window(all, cpu, Tces::new(n), max_ram);
        // As large as the memory, with the largest page of the CPU.
        let (shift, tces) = plan(1 << 37, 48 << 30).ok_or(EINVAL)?;
        assert_eq!(shift, cpu);
        assert_eq!(tces.bytes(shift), Some(64 << 30));
        // No larger than the administrator wants.
        let small = PageShift::SHIFT_4K;
        let (shift, _) =
            plan_high_window(all, small, Tces::new(1 << 37), 48 << 30).ok_or(EINVAL)?;
        assert_eq!(shift, small);
        // At least 16 GiB.
        let (shift, tces) = plan(1 << 37, 1 << 30).ok_or(EINVAL)?;
        assert_eq!(tces.bytes(shift), Some(16 << 30));
        // Not more than 512 MiB of the hypervisor's memory, at 8 bytes each.
        for max_ram in [64 << 40, 1 << 62] {
            let (_, tces) = plan(1 << 37, max_ram).ok_or(EINVAL)?;
            assert_eq!(tces.get() * 8, 512 << 20);
        }
        // No more than there is, and a power of two.
        let (_, tces) = plan((3 << 20) - 1, 1 << 40).ok_or(EINVAL)?;
        assert_eq!(tces.get(), 1 << 21);
        // Not worth it.
        assert!(plan(1 << 10, 1 << 30).is_none());
        assert!(plan(0, 1 << 30).is_none());
        let large = PageShifts::new(1 << 24);
        assert!(plan_high_window(large, cpu, Tces::new(1 << 30), 1 << 30).is_none());
        Ok(())
    }

    // Tables of PowerNV are whole: each level has 512 entries.
    #[test]
    fn tables() -> Result {
        let plan = |bytes: u64, shift, levels| {
            let shift = PageShift::new(shift).ok_or(EINVAL)?;
            let range = window(0, bytes >> 12, 12)?;
            let levels = Levels::new(levels).ok_or(EINVAL)?;
            Ok::<_, Error>(plan_table(&range, shift, levels).map(Tces::get))
        };
        assert_eq!(plan(1 << 54, 12, 5)?, Some(1 << 36));
        assert_eq!(plan(1 << 54, 16, 5)?, Some(1 << 36));
        // No more than there is of bus addresses and levels.
        assert_eq!(plan((1 << 52) - 0x1000, 16, 5)?, Some(1 << 27));
        assert_eq!(plan(1 << 54, 16, 2)?, Some(1 << 18));
        assert_eq!(plan(1 << 20, 12, 5)?, None);
        Ok(())
    }

    // What the DMA API does for devices that drive 32 bits and for those that drive more.
    #[test]
    fn low_addresses() -> Result {
        let k4 = PageShift::SHIFT_4K;
        let first = |layout: &Layout| layout.high_start().map(Ioba::get);
        let last = |layout: &Layout, ram| layout.preferred_last(ram).map(Ioba::get);
        // pSeries: whoever reaches the second window stays out of the first.
        let default = window(0, 1 << 18, 12)?;
        let layout = Layout::new(Kind::Papr, default, Some(window(HIGH, 1 << 20, 12)?), None)?;
        assert_eq!(first(&layout), Some(HIGH));
        assert_eq!(last(&layout, 1 << 30), None);
        assert_eq!(layout.low_granule(), k4);
        // Also where that is lower.
        let layout = Layout::new(
            Kind::Papr,
            default,
            Some(window(1 << 40, 1 << 20, 12)?),
            None,
        )?;
        assert_eq!(first(&layout), Some(1 << 40));
        // Only one window, below 4 GiB, above, or both.
        let layout = Layout::new(Kind::Papr, default, None, None)?;
        assert_eq!((first(&layout), last(&layout, 1)), (None, None));
        let layout = Layout::new(Kind::Papr, window(HIGH, 1 << 22, 12)?, None, None)?;
        assert_eq!((first(&layout), last(&layout, 1)), (None, None));
        let layout = Layout::new(Kind::Papr, window(0, 1 << 22, 12)?, None, None)?;
        assert_eq!(first(&layout), Some(1 << 32));
        assert_eq!(last(&layout, 1), Some((1 << 34) - 1));
        // PowerNV: from the first window, as low as there is room for the memory.
        let high = Some(window(HIGH, 1 << 36, 12)?);
        let layout = Layout::new(Kind::Ioda, window(0, 1 << 36, 12)?, high, None)?;
        assert_eq!(first(&layout), Some(1 << 32));
        assert_eq!(last(&layout, 1 << 30), Some((1 << 40) - 1));
        assert_eq!(last(&layout, 3 << 42), Some((1 << 46) - 1));
        // Memory ends far above its amount where there are several chips.
        let layout = Layout::new(Kind::Ioda, window(0, 1 << 40, 12)?, None, None)?;
        assert_eq!(last(&layout, 1 << 50), Some((1 << 48) - 1));
        Ok(())
    }
}
