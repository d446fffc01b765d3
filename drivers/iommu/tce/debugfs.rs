// SPDX-License-Identifier: GPL-2.0

//! What an administrator sees of a PE: `/sys/kernel/debug/tce_iommu/<group>/`.
//!
//! `windows` has one line for each DMA window, `stats` one line for each counter.

use crate::{
    machine::Machine,
    pe::Pe,
    stats::Event, //
};
use kernel::{
    debugfs::{
        Dir,
        File, //
    },
    fmt,
    powerpc::window::Window,
    prelude::*,
    str::CString,
    sync::Arc, //
};

/// The files of one PE; they vanish when this drops.
#[pin_data]
pub(crate) struct Files {
    #[pin]
    windows: File<Arc<Pe<Machine>>>,
    #[pin]
    stats: File<Arc<Pe<Machine>>>,
}

impl Files {
    /// Makes the directory of the PE of IOMMU group `group` in `root`. May sleep.
    pub(crate) fn new(root: &Dir, group: usize, pe: Arc<Pe<Machine>>) -> Result<Pin<KBox<Self>>> {
        let name = CString::try_from_fmt(fmt!("{group}"))?;
        let dir = root.subdir(&name);
        KBox::pin_init(
            try_pin_init!(Self {
                windows <- dir.read_callback_file(c"windows", pe.clone(), &show_windows),
                stats <- dir.read_callback_file(c"stats", pe, &show_stats),
            }),
            GFP_KERNEL,
        )
    }
}

/// A window as people read it.
pub(crate) struct Show<'a>(pub(crate) &'a Window);

impl fmt::Display for Show<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "base {:#x} size {:#x} page {:#x}",
            self.0.base.get(),
            self.0.bytes(),
            self.0.shift.bytes()
        )
    }
}

fn show_windows(pe: &Arc<Pe<Machine>>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    for (number, window) in pe.layout().windows() {
        f.write_fmt(fmt!("window {} {}\n", number.get(), Show(window)))?;
    }
    Ok(())
}

fn show_stats(pe: &Arc<Pe<Machine>>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let stats = pe.stats();
    writeln!(f, "put_hcalls {}", stats.get(Event::Put))?;
    writeln!(f, "stuff_hcalls {}", stats.get(Event::Stuff))?;
    writeln!(f, "kills {}", stats.get(Event::Kill))?;
    writeln!(f, "errors {}", stats.get(Event::Error))?;
    writeln!(f, "tces_populated {}", pe.populated())?;
    writeln!(f, "table_kib {}", pe.table_nodes().saturating_mul(4))
}
