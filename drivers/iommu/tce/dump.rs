// SPDX-License-Identifier: GPL-2.0

//! What the tables of a domain hold, as an administrator reads it.
//!
//! Tables are read while map and unmap change them, without a lock: what is shown was there when it
//! was looked at, but for a word of a leaf that is freed meanwhile. A reading ends after so many
//! lines, or leaves without a line, and says where to go on.

use crate::{
    layout::{
        IobaRange,
        TceRun, //
    },
    space::Space,
    windows::TableWindow, //
};
use kernel::{
    fmt,
    powerpc::window::{
        Ioba,
        Tce, //
    },
    prelude::*,
    sync::rcu, //
};

/// The most lines that one reading gives.
const LINES: u32 = 512;

/// The most leaves that one reading looks at.
const LEAVES: u32 = 4096;

/// The TCEs of a range: a line for each run that maps memory in one piece.
pub(crate) struct Dump<'a> {
    pub(crate) space: &'a Space,
    pub(crate) range: IobaRange,
}

/// Bus addresses that map memory in one piece.
struct Run {
    range: IobaRange,
    tce: Tce,
}

impl Run {
    /// Takes `next` in, if it goes on where the run ends. Says whether it does.
    fn join(&mut self, next: &Run) -> bool {
        let bytes = next.range.first.get().wrapping_sub(self.range.first.get());
        let is_next = self.range.last.checked_add(1) == Some(next.range.first)
            && next.tce.into_raw() == self.tce.into_raw().wrapping_add(bytes);
        if is_next {
            self.range.last = next.range.last;
        }
        is_next
    }

    fn write(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let may = |can, letter| if can { letter } else { '-' };
        writeln!(
            f,
            "{:#x}-{:#x} {:#x} {}{}",
            self.range.first.get(),
            self.range.last.get(),
            self.tce.addr(),
            may(self.tce.can_read(), 'r'),
            may(self.tce.can_write(), 'w')
        )
    }
}

/// One reading.
struct Reader<'a, 'b> {
    f: &'a mut fmt::Formatter<'b>,
    run: Option<Run>,
    lines: u32,
    leaves: u32,
}

impl Reader<'_, '_> {
    /// Takes in the TCEs of `part`, which one leaf has. Fails at the end of the reading.
    fn leaf(&mut self, window: &TableWindow, part: TceRun) -> Result {
        if self.leaves == LEAVES {
            return self.stop(window.ioba(part.first));
        }
        self.leaves = self.leaves.saturating_add(1);
        let rcu = rcu::read_lock();
        let Some(leaf) = window.table().leaf(part.first, &rcu) else {
            return Ok(());
        };
        for index in part.indexes() {
            let tce = leaf.get(index);
            if tce.is_present() {
                self.page(window, window.ioba(index), tce)?;
            }
        }
        Ok(())
    }

    /// Takes in one TCE. Fails at the end of the reading.
    fn page(&mut self, window: &TableWindow, first: Ioba, tce: Tce) -> Result {
        // OVERFLOW: A window ends at an address.
        let last = Ioba::new(first.get() | window.shift().bytes().wrapping_sub(1));
        let next = Run {
            range: IobaRange { first, last },
            tce,
        };
        if self.run.as_mut().is_some_and(|run| run.join(&next)) {
            return Ok(());
        }
        self.flush()?;
        if self.lines == LINES {
            return self.stop(first);
        }
        self.run = Some(next);
        Ok(())
    }

    /// Writes the run that is complete.
    fn flush(&mut self) -> Result {
        if let Some(run) = self.run.take() {
            self.lines = self.lines.saturating_add(1);
            run.write(self.f).map_err(|_| ENOSPC)?;
        }
        Ok(())
    }

    /// Ends the reading before `next`.
    fn stop(&mut self, next: Ioba) -> Result {
        self.flush()?;
        writeln!(self.f, "more from {:#x}", next.get()).map_err(|_| ENOSPC)?;
        Err(ENOSPC)
    }
}

impl fmt::Display for Dump<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut reader = Reader {
            f,
            run: None,
            lines: 0,
            leaves: 0,
        };
        let all = self.space.windows().iter().try_for_each(|window| {
            let Some(run) = window.part(self.range) else {
                return Ok(());
            };
            let table = window.table();
            table.for_each_leaf(run, |part| reader.leaf(window, part))
        });
        // An early end has been told.
        if all.is_ok() {
            reader.flush().map_err(|_| fmt::Error)?;
        }
        Ok(())
    }
}
