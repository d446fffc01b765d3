// SPDX-License-Identifier: GPL-2.0

//! What an administrator sees.

use crate::{
    dump::Dump,
    fake::Model,
    layout::IobaRange,
    pe::{
        Domain,
        Target, //
    },
    space::Space,
    tests::{
        ensure,
        granule,
        map,
        on_all,
        range,
        unmap,
        Rig,
        HIGH,
        PHYS,
        READ,
        WRITE, //
    }, //
};
use kernel::{
    powerpc::window::Ioba,
    prelude::*,
    str::CString, //
};

/// What a reader of `range` gets.
fn dump(space: &Space, range: IobaRange) -> Result<CString> {
    CString::try_from_fmt(fmt!("{}", Dump { space, range }))
}

const ALL: IobaRange = IobaRange {
    first: Ioba::new(0),
    last: Ioba::new(u64::MAX),
};

#[kunit_tests(tce_state)]
mod tests {
    use super::*;

    #[test]
    fn tables_as_text() -> Result {
        let rig = Rig::new(Model::PHB4)?;
        let (_pe, space) = rig.attached()?;
        let page = granule(&space);
        assert!(dump(&space, ALL)?.is_empty());
        map(&space, range(2 * page, 3 * page), PHYS, WRITE)?;
        // It goes on in memory, but allows something else.
        map(&space, range(5 * page, page), PHYS + 3 * page, READ)?;
        map(&space, range(HIGH, 600 * page), PHYS, WRITE)?;
        let expected = CString::try_from_fmt(fmt!(
            "{:#x}-{:#x} {:#x} rw\n{:#x}-{:#x} {:#x} r-\n{:#x}-{:#x} {:#x} rw\n",
            2 * page,
            5 * page - 1,
            PHYS,
            5 * page,
            6 * page - 1,
            PHYS + 3 * page,
            HIGH,
            HIGH + 600 * page - 1,
            PHYS
        ))?;
        ensure(*dump(&space, ALL)? == *expected, "all of it")?;
        let expected = CString::try_from_fmt(fmt!(
            "{:#x}-{:#x} {:#x} rw\n",
            HIGH + page,
            HIGH + 2 * page - 1,
            PHYS + page
        ))?;
        let some = dump(&space, range(HIGH + page, page))?;
        ensure(*some == *expected, "only what was asked for")
    }

    // No two pages can share a line.
    #[test]
    fn a_reading_has_an_end() -> Result {
        let rig = Rig::new(Model::PHB4)?;
        let (_pe, space) = rig.attached()?;
        let page = granule(&space);
        for n in 0..513 {
            map(&space, range(HIGH + 2 * n * page, page), PHYS, WRITE)?;
        }
        let lines = |text: &[u8]| text.split(|byte| *byte == b'\n').count() - 1;
        let text = dump(&space, ALL)?;
        assert_eq!(lines(text.to_bytes()), 513);
        let last = CString::try_from_fmt(fmt!("\nmore from {:#x}\n", HIGH + 1024 * page))?;
        ensure(
            text.to_bytes().ends_with(last.to_bytes()),
            "where it goes on",
        )?;
        let rest = IobaRange {
            first: Ioba::new(HIGH + 1024 * page),
            ..ALL
        };
        assert_eq!(lines(dump(&space, rest)?.to_bytes()), 1);
        // Tables without a line take time, too.
        for n in 0..513 {
            unmap(&space, range(HIGH + 2 * n * page, page));
        }
        for n in 0..4097 {
            let at = range(HIGH + n * 512 * page, page);
            map(&space, at, PHYS, WRITE)?;
            unmap(&space, at);
        }
        let last = CString::try_from_fmt(fmt!("more from {:#x}\n", HIGH + 4096 * 512 * page))?;
        ensure(*dump(&space, ALL)? == *last, "after many empty leaves")
    }

    #[test]
    fn counts_are_those_of_requests() -> Result {
        on_all(|rig| {
            let (pe, space) = rig.attached()?;
            let page = granule(&space);
            let (calls, kills) = (rig.fake.hcalls(), rig.fake.kills());
            let before = pe.stats().read();
            // In one leaf, across leaves if they are small, and large. The smallest window has
            // 16 MiB.
            for bytes in [page, 3 * page, (600 * page).min(8 << 20)] {
                let at = range((2 << 20) - page, bytes);
                map(&space, at, PHYS, WRITE)?;
                unmap(&space, at);
            }
            let after = pe.stats().read();
            assert_eq!(after.publishes - before.publishes, 3);
            assert_eq!(after.withdrawals - before.withdrawals, 3);
            space.flush();
            let after = pe.stats().read();
            let flushes = u64::from(!space.layout().holds_copy());
            assert_eq!(after.flushes, flushes);
            let sum = after.put + after.put_list + after.stuff;
            let all = before.put + before.put_list + before.stuff;
            assert_eq!(sum - all, u64::try_from(rig.fake.hcalls() - calls)?);
            assert_eq!(
                after.kills - before.kills,
                u64::try_from(rig.fake.kills() - kills)?
            );
            assert_eq!(after.errors, 0);
            Ok(())
        })
    }

    #[test]
    fn refused_stuffs_are_one_withdrawal() -> Result {
        let rig = Rig::new(Model::PSERIES)?;
        let (pe, space) = rig.attached()?;
        let at = range(HIGH, 600 * granule(&space));
        map(&space, at, PHYS, WRITE)?;
        rig.fake.fail_stuffs();
        unmap(&space, at);
        rig.fake.fail_never();
        let counts = pe.stats().read();
        assert_eq!(counts.withdrawals, 1);
        assert_eq!((counts.stuff, counts.put), (2, 600));
        Ok(())
    }

    #[test]
    fn who_has_the_windows() -> Result {
        on_all(|rig| {
            let pe = rig.pe()?;
            assert_eq!(pe.domain(), Domain::Blocked);
            let space = Space::new(pe.layout())?;
            rig.attach(&pe, &Target::Paging(&space))?;
            assert_eq!(pe.domain(), Domain::Paging);
            assert!(pe.space().is_some());
            let mut members = 0;
            pe.for_each_member(|member| {
                members += 1;
                assert!(!member.blocked && !member.in_use);
            });
            assert_eq!(members, 1);
            rig.attach(&pe, &Target::Platform)?;
            assert_eq!(pe.domain(), Domain::Platform);
            assert!(pe.space().is_none());
            Ok(())
        })
    }
}
