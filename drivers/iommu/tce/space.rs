// SPDX-License-Identifier: GPL-2.0

//! The I/O address space of a paging domain: its TCE tables, and the PEs that use them.
//!
//! # Order of things
//!
//! A *map* writes the tables, then publishes to every PE on the list. An *unmap* clears the tables,
//! then withdraws from every PE on the list. Both read the list under RCU, after the tables were
//! written. An *attach* puts the PE on the list, waits for a grace period, and then publishes what
//! the tables hold, or lets the PHB walk them.
//!
//! So a TCE that is written while a PE attaches is published by at least one of the two sides, and
//! no barrier is needed: a reader that does not see the PE on the list began before the grace
//! period ended, and all that it did until then, the write to the table too, is visible to the
//! attach when the grace period is over.
//!
//! Where firmware holds a copy, publishing what the tables held a moment ago could bring back a TCE
//! that an unmap has just withdrawn. So while a PE attaches, every publish and withdraw takes a
//! lock, and the attach takes it for one leaf at a time. At all other times there is no lock.

use crate::{
    bonds::{
        Bond,
        Bonds,
        Spare, //
    },
    firmware::Firmware,
    layout::{
        IobaRange,
        Layout,
        TceRun, //
    },
    windows::{
        TableWindow,
        Windows, //
    }, //
};
use kernel::{
    alloc::Flags,
    device::Device,
    io::PhysAddr,
    new_spinlock_irq,
    powerpc::{
        mem::read,
        window::{
            Ioba,
            PageShift,
            Tce,
            TceIndex,
            Tces,
            WindowNumber, //
        }, //
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

/// How many TCEs firmware is asked to clear before others get a chance to run.
const PAUSE: Tces = Tces::new(1 << 15);

/// How many leaves a process may have before empty ones are freed: to free one takes a kill, and
/// most processes come back to the same place.
const KEPT: u64 = 64;

/// Which windows of a PE a domain has.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    /// All there are.
    All,
    /// The high one. The low one belongs to another domain.
    High,
}

/// TCE tables for every window of a layout, and the PEs attached to them.
#[pin_data]
pub(crate) struct Space {
    layout: Layout,
    windows: Windows,
    /// An unmap that is as long as this has to look for leaves to free.
    leaf_last: u64,
    /// Leaves go with what is unmapped: somebody is charged for those that a map makes. The
    /// kernel's own mappings keep theirs, because they come and go in the same place.
    frees_leaves: Atomic<bool>,
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
        let windows = Windows::new(&layout)?;
        let leaves = windows.iter().filter_map(TableWindow::leaf_bytes);
        let leaf_last = leaves.min().map_or(u64::MAX, |bytes| bytes.wrapping_sub(1));
        Arc::pin_init(
            pin_init!(Self {
                layout,
                windows,
                leaf_last,
                frees_leaves: Atomic::new(false),
                bonds <- Bonds::new(),
                replaying: Atomic::new(0),
                replay <- new_spinlock_irq!(()),
            }),
            GFP_KERNEL,
        )
    }

    /// Makes an empty address space for a process: nothing can be mapped in the low window, which
    /// stays the kernel's. May sleep.
    pub(crate) fn for_process(layout: Layout) -> Result<Arc<Self>> {
        let space = Self::new(layout)?;
        space.windows.low().hide();
        Ok(space)
    }

    /// The windows that the tables are made for.
    pub(crate) fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Does what [`map`](Self::map) does, if that is to write TCEs of one leaf that exists.
    ///
    /// Otherwise returns `false` and changes nothing. Any context; calls nothing.
    #[inline(always)]
    pub(crate) fn try_map(&self, range: IobaRange, tce: Tce) -> bool {
        self.windows
            .locate(range)
            .is_some_and(|(window, run)| window.table().try_set(run, tce))
    }

    /// Maps `range` to memory from that of `tce` on. Any context that `flags` allows.
    ///
    /// PEs see the new TCEs after [`publish`](Self::publish). On error the second value is the
    /// beginning of `range` that is mapped: whole pages of size `page`, which the granule divides.
    /// Fails with [`EINVAL`] if `range` leaves its window, and otherwise as [`Table::set`] does.
    ///
    /// [`Table::set`]: crate::table::Table::set
    pub(crate) fn map(
        &self,
        range: IobaRange,
        tce: Tce,
        page: PageShift,
        flags: Flags,
    ) -> Result<(), (Error, Option<IobaRange>)> {
        let (window, run) = self.windows.locate(range).ok_or((EINVAL, None))?;
        let table = window.table();
        if flags.contains(GFP_KERNEL_ACCOUNT) {
            self.frees_leaves.store(true, Relaxed);
        }
        let Err((error, written)) = table.set(run, tce, flags) else {
            return Ok(());
        };
        // Only whole pages count as mapped; the rest of the last one is taken back.
        let per_page = window.shift().pages(page.bytes());
        let keep = written
            .get()
            .saturating_sub(written.get() % per_page.max(1));
        if let Some(rest) = written.get().checked_sub(keep).filter(|rest| *rest > 0) {
            table.clear(TceRun {
                first: TceIndex::new(run.first.get().saturating_add(keep)),
                count: Tces::new(rest),
            });
        }
        Err((error, range.beginning(Tces::new(keep), window.shift())))
    }

    /// Does what [`unmap`](Self::unmap) does, if that is to clear all of `range` in one leaf.
    ///
    /// Otherwise returns `false` and changes nothing. Any context; calls nothing.
    #[inline(always)]
    pub(crate) fn try_unmap(&self, range: IobaRange) -> bool {
        self.windows
            .locate(range)
            .is_some_and(|(window, run)| window.table().try_clear(run))
    }

    /// Clears the TCEs of `range` up to the first that is not mapped. Any context.
    ///
    /// PEs forget them with [`withdraw`](Self::withdraw). Returns what of `range` was cleared.
    pub(crate) fn unmap(&self, range: IobaRange) -> Option<IobaRange> {
        let (window, run) = self.windows.locate(range)?;
        range.beginning(window.table().clear(run), window.shift())
    }

    /// Maps `range`, which was [reserved](Self::reserve), to memory from that of `tce` on. Any
    /// context; takes no memory.
    ///
    /// Fails with [`EAGAIN`] where a leaf is gone again; the first pages may be mapped then.
    pub(crate) fn map_reserved(&self, range: IobaRange, tce: Tce) -> Result {
        let (window, run) = self.windows.locate(range).ok_or(EINVAL)?;
        window.table().set_reserved(run, tce).map_err(|(e, _)| e)
    }

    /// Clears the TCEs of `range`, also behind one that is not mapped. Any context.
    ///
    /// PEs forget them with [`withdraw`](Self::withdraw).
    pub(crate) fn unmap_all(&self, range: IobaRange) {
        if let Some((window, run)) = self.windows.locate(range) {
            window.table().clear_all(run);
        }
    }

    /// Makes new TCEs of `range` visible to every attached PE. Any context.
    #[inline(always)]
    pub(crate) fn publish(&self, range: IobaRange) -> Result {
        match self.windows.holder(range) {
            Some((window, run)) => self.publish_run(window, run),
            None => self.publish_parts(range),
        }
    }

    /// Publishes what `range` has of each window.
    #[cold]
    fn publish_parts(&self, range: IobaRange) -> Result {
        self.windows.iter().try_for_each(|window| {
            window
                .part(range)
                .map_or(Ok(()), |run| self.publish_run(window, run))
        })
    }

    #[inline(always)]
    fn publish_run(&self, window: &TableWindow, run: TceRun) -> Result {
        self.for_each_bond(|bond| {
            if !bond.takes_all() && !Self::takes(bond, window, run)? {
                return Ok(());
            }
            // SAFETY: `for_each_bond` holds the RCU lock.
            unsafe { bond.port().publish(window, run) }
        })
    }

    /// Whether new TCEs are published to a PE that does not take all.
    ///
    /// Where the window belongs to somebody else they are taken back: who mapped has found the
    /// window before it was hidden, and cannot unmap any more.
    #[cold]
    fn takes(bond: &Bond, window: &TableWindow, run: TceRun) -> Result<bool> {
        bond.takes(window.number()).inspect_err(|_| {
            window.table().clear(run);
        })
    }

    /// Makes every attached PE forget the TCEs of `range`, which are cleared. Any context.
    ///
    /// No part of `range` is mapped again before this returns. Leaves go with their range, if
    /// somebody was charged for them when he mapped.
    #[inline(always)]
    pub(crate) fn withdraw(&self, range: IobaRange) {
        // OVERFLOW: A range is not empty.
        if range.last.get().wrapping_sub(range.first.get()) < self.leaf_last {
            self.withdraw_any(range);
        } else {
            self.withdraw_leaves(range);
        }
    }

    /// Withdraws whole leaves, and frees them where that is to be.
    #[cold]
    fn withdraw_leaves(&self, range: IobaRange) {
        let frees_leaves = self.frees_leaves.load(Relaxed);
        for window in self.windows.iter() {
            let Some(run) = window.part(range) else {
                continue;
            };
            // One kill does for any number of TCEs.
            let pause = match self.layout.holds_copy() {
                true => PAUSE,
                false => run.count,
            };
            if frees_leaves {
                window.table().retire(run);
            }
            for piece in run.pieces(pause) {
                self.withdraw_run(window, piece);
            }
            if frees_leaves {
                // SAFETY: Every PE has just been made to forget the run, and nobody maps there
                // before this returns.
                unsafe { window.table().free_retired(run) };
            }
        }
    }

    /// Frees the leaves that hold TCEs of `range` and are empty, if there are more than some
    /// leaves in the high window, which is the one of processes. Any context.
    ///
    /// # Safety
    ///
    /// Nobody maps or unmaps anything meanwhile, and what was unmapped has been withdrawn.
    #[inline]
    pub(crate) unsafe fn trim(&self, range: IobaRange) {
        let leaves = |window: &TableWindow| window.table().leaves();
        if self.windows.high().map_or(0, leaves) > KEPT {
            // SAFETY: By the safety requirements.
            unsafe { self.trim_high(range) };
        }
    }

    /// # Safety
    ///
    /// As for [`trim`](Self::trim).
    #[cold]
    unsafe fn trim_high(&self, range: IobaRange) {
        let Some((window, run)) = self.windows.holder(range) else {
            return;
        };
        // SAFETY: By the safety requirements.
        if let Some(retired) = unsafe { window.table().retire_empty(run) } {
            // PHBs may know the way to them.
            self.flush();
            // SAFETY: The PHBs have forgotten the way, and there was nothing behind it; the rest by
            // the safety requirements.
            unsafe { window.table().free_retired(retired) };
        }
    }

    /// Does what a later [`flush`](Self::flush) cannot do: withdraws the TCEs of `range`, which are
    /// cleared, where firmware holds a copy. Any context.
    pub(crate) fn withdraw_copies(&self, range: IobaRange) {
        if self.layout.holds_copy() {
            self.withdraw_any(range);
        }
    }

    #[inline(always)]
    fn withdraw_any(&self, range: IobaRange) {
        match self.windows.holder(range) {
            Some((window, run)) => self.withdraw_run(window, run),
            None => self.withdraw_parts(range),
        }
    }

    /// Withdraws what `range` has of each window.
    #[cold]
    fn withdraw_parts(&self, range: IobaRange) {
        for window in self.windows.iter() {
            if let Some(run) = window.part(range) {
                self.withdraw_run(window, run);
            }
        }
    }

    #[inline(always)]
    fn withdraw_run(&self, window: &TableWindow, run: TceRun) {
        self.for_each_bond(|bond| {
            // SAFETY: `for_each_bond` holds the RCU lock.
            unsafe { bond.port().withdraw(window, run) };
            Ok(())
        })
        .ok();
    }

    /// Makes every attached PE forget all cleared TCEs. Any context.
    pub(crate) fn flush(&self) {
        // Orders the counter that says which entries of a flush queue this flush is for before the
        // list: to increment it is no barrier.
        smp_mb(Full);
        self.for_each_bond(|bond| {
            bond.port().flush();
            Ok(())
        })
        .ok();
    }

    /// Whether a PE translates through the tables, is about to, or could not be stopped. Any
    /// context.
    pub(crate) fn is_connected(&self) -> bool {
        !self.bonds.is_empty()
    }

    /// Calls `f` for each PE, under RCU.
    #[inline(always)]
    fn for_each_bond(&self, f: impl Fn(&Bond) -> Result) -> Result {
        let rcu = rcu::read_lock();
        let _replay = self.is_replaying().then(|| self.replay.lock());
        let mut next = self.bonds.first(&rcu);
        while let Some(bond) = next {
            f(bond)?;
            next = bond.next(&rcu);
        }
        Ok(())
    }

    /// Whether a PE is being attached to tables that firmware copies.
    #[inline(always)]
    fn is_replaying(&self) -> bool {
        read(&self.replaying) != 0
    }

    /// The physical address behind a bus address, if it is mapped. Any context.
    #[inline(always)]
    pub(crate) fn translate(&self, ioba: Ioba) -> Option<PhysAddr> {
        let rcu = rcu::read_lock();
        // Not `locate`: where 32-bit MMIO is, nothing is mapped.
        let (window, run) = self.windows.holder(IobaRange {
            first: ioba,
            last: ioba,
        })?;
        window.table().translate(run.first, ioba, &rcu)
    }

    /// The windows that a PE has from the domain.
    fn part(&self, part: Part) -> impl Iterator<Item = &TableWindow> {
        let is_in = move |window: &&TableWindow| match part {
            Part::All => true,
            Part::High => window.number() == WindowNumber::High,
        };
        self.windows.iter().filter(is_in)
    }

    /// Lets the PE behind `bond` translate through the tables of `part`. Sleeps.
    ///
    /// On error the PE may translate through some of them, until [`detach`](Self::detach) succeeds.
    pub(crate) fn attach(
        &self,
        bond: KBox<Bond>,
        port: &Arc<dyn Firmware>,
        dev: &Device,
        part: Part,
    ) -> Result {
        if self.layout.holds_copy() {
            self.replaying.add(1, Relaxed);
        }
        self.bonds.add(bond);
        // From here on everybody who publishes or withdraws sees the PE, and takes the lock if
        // there is something to replay. See the module documentation.
        rcu::synchronize_rcu();
        let result = self
            .part(part)
            .try_for_each(|window| port.connect(dev, window))
            .and_then(|()| self.replay(&**port));
        if self.layout.holds_copy() {
            self.replaying.add(-1, Relaxed);
        }
        result
    }

    /// Stops the PE from translating through the tables of `part`, which it has. Sleeps.
    ///
    /// If firmware refuses, the PE stays on the list, and what is unmapped is still withdrawn from
    /// it. The caller keeps the tables and comes again, or [gives the PE up](Self::give_up).
    /// Otherwise it gets the memory of the bond.
    pub(crate) fn detach(
        &self,
        port: &Arc<dyn Firmware>,
        dev: &Device,
        part: Part,
    ) -> Result<Option<Spare>> {
        self.silence(port);
        rcu::synchronize_rcu();
        self.cut(port, dev, part)?;
        Ok(self.bonds.remove(port))
    }

    /// Publishes nothing to the PE any more, after a grace period. May sleep.
    pub(crate) fn silence(&self, port: &Arc<dyn Firmware>) {
        self.bonds.close(port);
    }

    /// Takes all access through the windows of `part` from a PE that was
    /// [silenced](Self::silence) a grace period ago, as far as firmware lets it. It stays on the
    /// list. May sleep.
    pub(crate) fn cut(&self, port: &Arc<dyn Firmware>, dev: &Device, part: Part) -> Result {
        if self.layout.holds_copy() {
            for window in self.part(part) {
                let leaves = window.table().for_each_leaf(window.all(), |run| {
                    let _rcu = rcu::read_lock();
                    // SAFETY: The RCU lock is held.
                    unsafe { port.withdraw(window, run) };
                    Ok(())
                });
                leaves.ok();
            }
        }
        let close = |window: &TableWindow| port.disconnect(dev, window.number());
        self.part(part).map(close).fold(Ok(()), Result::and)
    }

    /// Takes the high window from the PE of the domain, for somebody else. Sleeps.
    ///
    /// From now on nothing can be mapped there. Fails with [`EADDRINUSE`], with nothing changed, if
    /// something is, and with what firmware answers. [`take_high`](Self::take_high) undoes it.
    pub(crate) fn give_high(&self, port: &Arc<dyn Firmware>, dev: &Device) -> Result {
        let window = self.windows.high().ok_or(EOPNOTSUPP)?;
        window.hide();
        self.bonds.refuse_high(port, true);
        // A map that found the window before has written its TCEs then, or fails to publish them.
        rcu::synchronize_rcu();
        let closed = match window.table().populated().get() {
            0 => self.cut(port, dev, Part::High),
            _ => Err(EADDRINUSE),
        };
        closed.inspect_err(|_| self.show_high(port))
    }

    /// Lets the PE translate through the high window again, which nobody else has any more. Sleeps.
    ///
    /// On error it stays closed, and nothing can be mapped there.
    pub(crate) fn take_high(&self, port: &Arc<dyn Firmware>, dev: &Device) -> Result {
        let window = self.windows.high().ok_or(EOPNOTSUPP)?;
        port.connect(dev, window)?;
        self.show_high(port);
        Ok(())
    }

    /// Says that the high window, which was [given away](Self::give_high), is the domain's again.
    pub(crate) fn show_high(&self, port: &Arc<dyn Firmware>) {
        if let Some(window) = self.windows.high() {
            self.bonds.refuse_high(port, false);
            window.show();
        }
    }

    /// Allocates tables for `range`, so that to map it takes no memory. May sleep.
    ///
    /// Whoever is charged for them keeps them until [`trim`](Self::trim) finds them empty: what was
    /// reserved has to be there for the next map too. So this is not what has leaves freed.
    ///
    /// Fails with [`EINVAL`] if `range` leaves its window, with [`ENOMEM`], and with [`EBUSY`]
    /// where a leaf is being freed.
    pub(crate) fn reserve(&self, range: IobaRange, flags: Flags) -> Result {
        let (window, run) = self.windows.locate(range).ok_or(EINVAL)?;
        window.table().reserve(run, flags)
    }

    /// Changes whether `range`, which is mapped, can be written to. Any context.
    ///
    /// PEs see it after [`publish`](Self::publish). Fails with [`EINVAL`] if `range` leaves its
    /// window, and with [`ENOENT`] at what is not mapped.
    pub(crate) fn protect(&self, range: IobaRange, write: bool) -> Result {
        let (window, run) = self.windows.locate(range).ok_or(EINVAL)?;
        window.table().protect(run, write)
    }

    /// Forgets a PE that has lost its windows. Sleeps.
    pub(crate) fn forget(&self, port: &Arc<dyn Firmware>) {
        self.bonds.remove(port);
    }

    /// Forgets a PE that goes while its windows are open: it is not asked for anything any more,
    /// and the tables that a PHB may walk are kept for ever. Sleeps.
    pub(crate) fn give_up(self: Arc<Self>, port: &Arc<dyn Firmware>) {
        self.forget(port);
        core::mem::forget(self);
    }

    /// Publishes what the tables hold to a PE that has just joined.
    fn replay(&self, port: &dyn Firmware) -> Result {
        if !self.layout.holds_copy() {
            return Ok(());
        }
        self.for_each_leaf(|window, run| {
            let _rcu = rcu::read_lock();
            // The leaf may be freed before the lock is taken; who publishes looks for it again.
            let _replay = self.replay.lock();
            // SAFETY: The RCU lock is held.
            unsafe { port.publish(window, run) }
        })
    }

    /// The windows and their tables.
    pub(crate) fn windows(&self) -> &Windows {
        &self.windows
    }

    fn for_each_leaf(&self, mut f: impl FnMut(&TableWindow, TceRun) -> Result) -> Result {
        for window in self.windows.iter() {
            window
                .table()
                .for_each_leaf(window.all(), |run| f(window, run))?;
        }
        Ok(())
    }
}
