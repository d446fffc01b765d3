// SPDX-License-Identifier: GPL-2.0

//! The I/O address space of a paging domain: its TCE tables, and the PEs that use them.
//!
//! # Order of things
//!
//! A *map* writes the tables, then publishes to every PE on the list. An *unmap* clears the tables,
//! then withdraws from every PE on the list. An *attach* puts the PE on the list, then publishes
//! what the tables hold. With a full barrier between the two halves of each, a TCE that is written
//! while a PE attaches is published by at least one of the two sides.
//!
//! Where firmware holds a copy, publishing what the tables held a moment ago could bring back a TCE
//! that an unmap has just withdrawn. So while a PE attaches, every publish and withdraw takes a
//! lock, and the attach takes it for one leaf at a time. At all other times there is no lock.

use crate::{
    bonds::{
        Bond,
        Bonds, //
    },
    firmware::{
        Firmware,
        Tables, //
    },
    layout::{
        IobaRange,
        Layout,
        TceRun, //
    },
    table::{
        Levels,
        Table, //
    }, //
};
use kernel::{
    alloc::Flags,
    device::Device,
    io::PhysAddr,
    new_spinlock_irq,
    powerpc::window::{
        Ioba,
        PageShift,
        Tce,
        TceIndex,
        Tces,
        Window,
        WindowNumber, //
    },
    prelude::*,
    sync::{
        atomic::{
            Atomic,
            Relaxed, //
        },
        barrier::{
            smp_mb,
            Full, //
        },
        rcu,
        Arc,
        SpinLockIrq, //
    }, //
};

/// The access that a mapping allows.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Access {
    /// The device may read memory.
    pub(crate) read: bool,
    /// The device may write memory.
    pub(crate) write: bool,
}

/// TCE tables for every window of a layout, and the PEs attached to them.
#[pin_data]
pub(crate) struct Space {
    layout: Layout,
    tables: Tables,
    #[pin]
    bonds: Bonds,
    /// How many PEs are attaching to populated tables that firmware copies.
    replaying: Atomic<i32>,
    #[pin]
    replay: SpinLockIrq<()>,
}

impl Space {
    /// Makes an empty address space for PEs with the windows of `layout`. May sleep.
    pub(crate) fn new(layout: Layout) -> Result<Arc<Self>> {
        let mut tables = Tables::default();
        for ((_, window), table) in layout.windows().zip(tables.iter_mut()) {
            let levels = Levels::for_tces(window.tces).ok_or(EINVAL)?;
            *table = Some(Table::new(levels, window.shift)?);
        }
        Arc::pin_init(
            pin_init!(Self {
                layout,
                tables,
                bonds <- Bonds::new(),
                replaying: Atomic::new(0),
                replay <- new_spinlock_irq!(()),
            }),
            GFP_KERNEL,
        )
    }

    /// The windows that the tables are made for.
    pub(crate) fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Tables with the window and the run that all of `range` lies in.
    fn locate(&self, range: IobaRange) -> Option<(&Window, &Table, TceRun)> {
        let (number, window, run) = self.layout.locate(range)?;
        Some((window, self.tables.get(number.get())?.as_ref()?, run))
    }

    /// Maps `range` to memory from `phys` on. Any context that `flags` allows.
    ///
    /// PEs see the new TCEs after [`publish`](Self::publish). On error the second value is the
    /// beginning of `range` that is mapped: whole pages of size `page`, which the granule divides.
    pub(crate) fn map(
        &self,
        range: IobaRange,
        phys: PhysAddr,
        page: PageShift,
        access: Access,
        flags: Flags,
    ) -> Result<(), (Error, Option<IobaRange>)> {
        let (window, table, run) = self.locate(range).ok_or((EINVAL, None))?;
        let shift = window.shift;
        let written = table.set(run, flags, |n| {
            Tce::from_parts(
                phys.wrapping_add(n.wrapping_shl(shift.get())),
                access.read,
                access.write,
            )
        });
        if written == run.count {
            return Ok(());
        }
        // Only whole pages count as mapped; the rest of the last one is taken back.
        let per_page = shift.pages(page.bytes());
        let keep = written
            .get()
            .saturating_sub(written.get() % per_page.max(1));
        if let Some(rest) = written.get().checked_sub(keep).filter(|rest| *rest > 0) {
            table.clear(TceRun {
                first: TceIndex::new(run.first.get().saturating_add(keep)),
                count: Tces::new(rest),
            });
        }
        Err((ENOMEM, range.beginning(Tces::new(keep), shift)))
    }

    /// Clears the TCEs of `range` up to the first that is not mapped. Any context.
    ///
    /// PEs forget them with [`withdraw`](Self::withdraw). Returns what of `range` was cleared.
    pub(crate) fn unmap(&self, range: IobaRange) -> Option<IobaRange> {
        let (window, table, run) = self.locate(range)?;
        range.beginning(table.clear(run), window.shift)
    }

    /// Makes new TCEs of `range` visible to every attached PE. Any context.
    pub(crate) fn publish(&self, range: IobaRange) -> Result {
        self.for_each_bond(|bond| {
            if bond.is_closing() {
                return Ok(());
            }
            self.layout.split(range).try_for_each(|(number, _, run)| {
                let table = self.tables.get(number.get()).and_then(Option::as_ref);
                bond.port().publish(number, table.ok_or(EINVAL)?, run)
            })
        })
    }

    /// Makes every attached PE forget the TCEs of `range`, which are cleared. Any context.
    pub(crate) fn withdraw(&self, range: IobaRange) {
        self.withdraw_if(range, |_| true);
    }

    /// Does what a later [`flush`](Self::flush) cannot do: withdraws the TCEs of `range`, which are
    /// cleared, where firmware holds a copy. Any context.
    pub(crate) fn withdraw_copies(&self, range: IobaRange) {
        self.withdraw_if(range, |port| port.holds_copy());
    }

    fn withdraw_if(&self, range: IobaRange, wanted: impl Fn(&dyn Firmware) -> bool) {
        self.for_each_bond(|bond| {
            if wanted(bond.port()) {
                for (number, _, run) in self.layout.split(range) {
                    bond.port().withdraw(number, run);
                }
            }
            Ok(())
        })
        .ok();
    }

    /// Makes every attached PE forget all cleared TCEs. Any context.
    pub(crate) fn flush(&self) {
        self.for_each_bond(|bond| {
            bond.port().flush();
            Ok(())
        })
        .ok();
    }

    fn for_each_bond(&self, f: impl FnMut(&Bond) -> Result) -> Result {
        // Orders the table before the list; pairs with the barrier in `attach`.
        smp_mb(Full);
        let rcu = rcu::read_lock();
        let _replay = (self.replaying.load(Relaxed) != 0).then(|| self.replay.lock());
        let result = self.bonds.iter(&rcu).try_for_each(f);
        result
    }

    /// The physical address behind a bus address, if it is mapped. Any context.
    pub(crate) fn translate(&self, ioba: Ioba) -> Option<PhysAddr> {
        let (window, table, run) = self.locate(IobaRange {
            first: ioba,
            last: ioba,
        })?;
        table.translate(run.first, ioba.get().wrapping_sub(window.base.get()))
    }

    /// Lets the PE behind `bond` translate through the tables. Sleeps.
    ///
    /// On error the PE does not translate.
    pub(crate) fn attach(
        self: &Arc<Self>,
        bond: KBox<Bond>,
        port: &Arc<dyn Firmware>,
        dev: &Device,
    ) -> Result {
        self.bonds.add(bond);
        // Orders the list before the tables; pairs with the barrier in `for_each_bond`.
        smp_mb(Full);
        port.connect(dev, &self.tables)
            .and_then(|()| self.replay(&**port))
            .inspect_err(|_| self.detach(port, dev))
    }

    /// Stops the PE from translating through the tables. Sleeps; cannot fail.
    ///
    /// Should firmware refuse, the tables are kept for ever, and what is unmapped is still
    /// withdrawn from the PE.
    pub(crate) fn detach(self: &Arc<Self>, port: &Arc<dyn Firmware>, dev: &Device) {
        self.bonds.close(port);
        if port.holds_copy() {
            self.for_each_leaf(|number, _, run| {
                port.withdraw(number, run);
                Ok(())
            })
            .ok();
        }
        match port.disconnect(dev) {
            Ok(()) => self.bonds.remove(port),
            Err(_) => core::mem::forget(self.clone()),
        }
    }

    /// Publishes what the tables hold to a PE that has just joined.
    fn replay(&self, port: &dyn Firmware) -> Result {
        if !port.holds_copy() || self.is_empty() {
            return Ok(());
        }
        self.replaying.add(1, Relaxed);
        // From here on everybody who publishes or withdraws takes the lock.
        rcu::synchronize_rcu();
        let result = self.for_each_leaf(|number, table, run| {
            let _replay = self.replay.lock();
            port.publish(number, table, run)
        });
        self.replaying.add(-1, Relaxed);
        result
    }

    /// The number of TCEs that are present. May sleep.
    pub(crate) fn populated(&self) -> u64 {
        let tables = self.tables.iter().flatten();
        tables.fold(0, |sum, table| sum.saturating_add(table.populated()))
    }

    fn is_empty(&self) -> bool {
        self.for_each_leaf(|_, _, _| Err(EEXIST)).is_ok()
    }

    fn for_each_leaf(&self, mut f: impl FnMut(WindowNumber, &Table, TceRun) -> Result) -> Result {
        for ((number, window), table) in self.layout.windows().zip(&self.tables) {
            let Some(table) = table else { continue };
            let all = TceRun {
                first: TceIndex::new(0),
                count: window.tces,
            };
            table.for_each_leaf(all, |run, _| f(number, table, run))?;
        }
        Ok(())
    }
}
