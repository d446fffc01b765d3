// SPDX-License-Identifier: GPL-2.0

//! What an administrator sees of a PE: `/sys/kernel/debug/tce_iommu/<group>/`.
//!
//! The counts in `stats` cost the same whatever is mapped. `tables` and `tces` read the tables, and
//! take as long as those are large, or as what they print. No reader holds a lock that map and
//! unmap take.

use crate::{
    dump::Dump,
    layout::{
        IobaRange,
        Layout, //
    },
    machine::Machine,
    pe::{
        Domain,
        Pe, //
    }, //
};
use kernel::{
    debugfs::{
        Dir,
        File, //
    },
    fmt,
    new_mutex,
    powerpc::window::Ioba,
    prelude::*,
    str::{
        parse_int::ParseInt,
        BStr,
        CString, //
    },
    sync::{
        Arc,
        Mutex, //
    },
    uaccess::UserSliceReader, //
};

type PeFile = File<Arc<Pe<Machine>>>;

/// The files of one PE; they vanish when this drops.
#[pin_data]
pub(crate) struct Files {
    #[pin]
    devices: PeFile,
    #[pin]
    domain: PeFile,
    #[pin]
    windows: PeFile,
    #[pin]
    stats: PeFile,
    #[pin]
    tables: PeFile,
    #[pin]
    tces: File<Selection>,
}

/// The bus addresses that a reader of `tces` wants to see.
#[pin_data]
struct Selection {
    pe: Arc<Pe<Machine>>,
    #[pin]
    range: Mutex<IobaRange>,
}

impl Files {
    /// Makes the directory of the PE of IOMMU group `group` in `root`. May sleep.
    pub(crate) fn new(root: &Dir, group: usize, pe: Arc<Pe<Machine>>) -> Result<Pin<KBox<Self>>> {
        let name = CString::try_from_fmt(fmt!("{group}"))?;
        let dir = root.subdir(&name);
        let all = IobaRange {
            first: Ioba::new(0),
            last: Ioba::new(u64::MAX),
        };
        let selected = pe.clone();
        let selection = pin_init!(Selection {
            pe: selected,
            range <- new_mutex!(all),
        });
        KBox::pin_init(
            try_pin_init!(Self {
                devices <- dir.read_callback_file(c"devices", pe.clone(), &show_devices),
                domain <- dir.read_callback_file(c"domain", pe.clone(), &show_domain),
                windows <- dir.read_callback_file(c"windows", pe.clone(), &show_windows),
                stats <- dir.read_callback_file(c"stats", pe.clone(), &show_stats),
                tables <- dir.read_callback_file(c"tables", pe.clone(), &show_tables),
                tces <- dir.read_write_callback_file(
                    c"tces",
                    selection,
                    &show_tces,
                    &select_tces,
                ),
            }),
            GFP_KERNEL,
        )
    }
}

/// The windows of a PE as people read them.
pub(crate) struct Show<'a> {
    pub(crate) layout: &'a Layout,
    /// What stands between two windows.
    pub(crate) between: &'static str,
}

impl fmt::Display for Show<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // What firmware calls a window.
        let id = match self.layout.holds_copy() {
            true => "liobn",
            false => "tve",
        };
        let mut between = "";
        for (number, window) in self.layout.windows() {
            write!(
                f,
                "{between}window {} base {:#x} size {:#x} page {:#x} {id} {:#x}",
                number.get(),
                window.base.get(),
                window.bytes(),
                window.shift.bytes(),
                window.id.get()
            )?;
            between = self.between;
        }
        Ok(())
    }
}

fn show_devices(pe: &Arc<Pe<Machine>>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let mut result = Ok(());
    pe.for_each_member(|member| {
        let attached = if member.blocked {
            "blocked"
        } else {
            "attached"
        };
        let driver = if member.in_use { "in_use" } else { "idle" };
        let line = f.write_fmt(fmt!("{} {attached} {driver}\n", member.dev.name()));
        result = result.and(line);
    });
    result
}

fn show_domain(pe: &Arc<Pe<Machine>>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    f.write_fmt(fmt!("{}\n", pe.domain()))
}

fn show_windows(pe: &Arc<Pe<Machine>>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    match pe.domain() {
        Domain::Platform => return writeln!(f, "held by the platform"),
        Domain::Nobody => return writeln!(f, "held by nobody"),
        _ => (),
    }
    let show = Show {
        layout: &pe.layout(),
        between: "\n",
    };
    f.write_fmt(fmt!("{show}\n"))?;
    show_process(pe, f)
}

fn show_process(pe: &Pe<Machine>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    match pe.process() {
        Some(pid) => f.write_fmt(fmt!("window 1 belongs to process {pid}\n")),
        None => Ok(()),
    }
}

fn show_stats(pe: &Arc<Pe<Machine>>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let counts = pe.stats().read();
    writeln!(f, "publishes {}", counts.publishes)?;
    writeln!(f, "withdrawals {}", counts.withdrawals)?;
    writeln!(f, "flushes {}", counts.flushes)?;
    writeln!(f, "h_put_tce {}", counts.put)?;
    writeln!(f, "h_put_tce_indirect {}", counts.put_list)?;
    writeln!(f, "h_stuff_tce {}", counts.stuff)?;
    writeln!(f, "kills {}", counts.kills)?;
    writeln!(f, "errors {}", counts.errors)
}

fn show_tables(pe: &Arc<Pe<Machine>>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    // The PE may go on to another domain meanwhile.
    let Some(space) = pe.space() else {
        return Ok(());
    };
    for window in space.windows().iter() {
        let (number, table) = (window.number().get(), window.table());
        let kib = table.nodes().saturating_mul(4);
        let tces = table.populated().get();
        writeln!(f, "window {number} tces {tces} kib {kib}")?;
    }
    show_process(pe, f)
}

fn show_tces(selection: &Selection, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let range = *selection.range.lock();
    match selection.pe.space() {
        Some(space) => f.write_fmt(fmt!(
            "{}",
            Dump {
                space: &space,
                range
            }
        )),
        None => Ok(()),
    }
}

/// Takes the first and the last bus address, or the first only.
fn select_tces(selection: &Selection, reader: &mut UserSliceReader) -> Result {
    let mut text = [0; 64];
    let text = text.get_mut(..reader.len()).ok_or(EINVAL)?;
    reader.read_slice(text)?;
    let mut words = text
        .split(u8::is_ascii_whitespace)
        .filter(|word| !word.is_empty())
        .map(|word| u64::from_str(BStr::from_bytes(word)));
    let first = words.next().ok_or(EINVAL)??;
    let last = words.next().unwrap_or(Ok(u64::MAX))?;
    if last < first || words.next().is_some() {
        return Err(EINVAL);
    }
    *selection.range.lock() = IobaRange {
        first: Ioba::new(first),
        last: Ioba::new(last),
    };
    Ok(())
}
