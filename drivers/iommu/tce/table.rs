// SPDX-License-Identifier: GPL-2.0

//! The TCE table of one window: a radix tree of 4 KiB nodes.
//!
//! Every node is a [`TceList`]: 512 big-endian words, aligned to its size. In a leaf a word is a
//! TCE; above, it is the physical address of the next node with both permission bits set, which is
//! what the IODA hardware walks. On PowerNV the tree *is* the hardware's table; on pSeries it is
//! the shadow of what the hypervisor holds, and each leaf is a ready-made list for
//! `H_PUT_TCE_INDIRECT`.
//!
//! # Concurrency
//!
//! All operations take `&self` and may run at the same time, on any CPU and in any context. Two
//! operations on the same TCE leave one of the two results.
//!
//! Nodes are installed by compare-and-exchange. Those above the leaves stay until the table drops.
//! A leaf whose whole range was unmapped is taken out ([`Table::retire`]): first its word above
//! loses the permission bits, so that hardware does not get there any more, and when the PHBs have
//! forgotten it the leaf is freed. The users of a domain have addresses of their own, so nobody
//! maps or unmaps in that range meanwhile; those who look at all of a table do so under RCU.
//! In the table of a process a leaf goes when the last page in it does ([`Table::retire_empty`]);
//! there all mapping and unmapping has one lock, and who only sees to it that there is a leaf
//! ([`Table::reserve`]) may find later that it has gone again.
//!
//! # Two paths
//!
//! Nearly every request is for a few TCEs of one leaf that is there. `try_set` and `try_clear`
//! serve it without a call, or do nothing. `set` and `clear` serve the rest, and would serve all;
//! they take less for each TCE and more for a request.

use crate::layout::TceRun;
use kernel::{
    alloc::Flags,
    io::PhysAddr,
    powerpc::{
        mem::TceList,
        window::{
            Ioba,
            Levels,
            PageShift,
            Tce,
            TceIndex,
            Tces, //
        }, //
    },
    prelude::*,
    sync::{
        atomic::{
            Atomic,
            Relaxed, //
        },
        rcu, //
    }, //
};

/// The most TCEs that are written or cleared in the quick way: a CPU page of 4 KiB TCEs.
const FEW: Tces = Tces::new(16);

/// A TCE table.
///
/// # Invariants
///
/// `root`, and every present word of a node above the leaves, is a node that came from
/// [`TceList::into_phys`] and that this table owns. The same goes for a word just above the leaves
/// that has an address and no permission bits, until [`Table::free_retired`] has taken it.
pub(crate) struct Table {
    root: PhysAddr,
    levels: Levels,
    /// How many index bits the levels below the root resolve.
    bits: u32,
    shift: PageShift,
    /// How many leaves there are below other nodes.
    leaves: Atomic<u64>,
}

impl Table {
    /// Makes an empty table. May sleep.
    pub(crate) fn new(levels: Levels, shift: PageShift) -> Result<Self> {
        let root = TceList::into_phys(TceList::new(GFP_KERNEL_ACCOUNT)?);
        // INVARIANT: The root is fresh and has no present words.
        Ok(Self {
            root,
            levels,
            bits: levels.get().wrapping_sub(1).wrapping_mul(Levels::BITS),
            shift,
            leaves: Atomic::new(0),
        })
    }

    /// The physical address of the root node.
    pub(crate) fn root(&self) -> PhysAddr {
        self.root
    }

    /// The depth of the table.
    pub(crate) fn levels(&self) -> Levels {
        self.levels
    }

    /// The size of a page.
    pub(crate) fn shift(&self) -> PageShift {
        self.shift
    }

    /// How many TCEs a leaf has, if there can be leaves that are not there.
    pub(crate) fn leaf_tces(&self) -> Option<Tces> {
        (self.levels.get() > 1).then(|| Tces::new(span(1)))
    }

    /// How many leaves the table has, if it can be without them.
    #[inline(always)]
    pub(crate) fn leaves(&self) -> u64 {
        self.leaves.load(Relaxed)
    }

    /// The node at `phys`.
    ///
    /// # Safety
    ///
    /// It is the root, or comes from a present inner word. If it is a leaf it is not freed as long
    /// as the result is in use, which takes a grace period after all of it was unmapped: the RCU
    /// lock is held, or the caller maps or unmaps there, as requests do not overlap. In a table
    /// whose leaves go when they are [empty](Self::retire_empty), requests come one after the
    /// other.
    #[inline(always)]
    unsafe fn node(&self, phys: PhysAddr) -> &TceList {
        // SAFETY: By the type invariants it is a node. Those above the leaves live until `self`
        // drops; a leaf does so by the safety requirements.
        unsafe { TceList::from_phys(phys) }
    }

    /// The root node. If it is a leaf it is one that is never freed.
    #[inline(always)]
    fn root_node(&self) -> &TceList {
        // SAFETY: It is the root, which lives until `self` drops.
        unsafe { self.node(self.root) }
    }

    /// The leaf that holds `index`, if there is one, for who only looks at it.
    #[inline(always)]
    pub(crate) fn leaf<'a>(&'a self, index: TceIndex, _rcu: &'a rcu::Guard) -> Option<&'a TceList> {
        // SAFETY: The RCU lock is held.
        unsafe { self.leaf_unguarded(index) }
    }

    /// The leaf that holds `index`, if there is one.
    ///
    /// # Safety
    ///
    /// The RCU lock is held, or the caller maps or unmaps there, as long as the result is in use.
    #[inline(always)]
    pub(crate) unsafe fn leaf_unguarded(&self, index: TceIndex) -> Option<&TceList> {
        let mut node = self.root_node();
        let mut bits = self.bits;
        for _ in 1..self.levels.get() {
            let tce = node.get(TceIndex::new(index.get().wrapping_shr(bits)));
            if !tce.is_present() {
                return None;
            }
            // SAFETY: By the safety requirements.
            node = unsafe { self.node(tce.addr()) };
            // OVERFLOW: Not before the last turn.
            bits = bits.wrapping_sub(Levels::BITS);
        }
        Some(node)
    }

    /// Where a row of missing nodes ends, if the node that `index` would be in is missing and
    /// begins it. A leaf that is retired counts as there.
    fn missing(&self, index: TceIndex, _rcu: &rcu::Guard) -> Option<u64> {
        let mut node = self.root_node();
        for level in (1..self.levels.get()).rev() {
            let slot = index.get() / span(level);
            let tce = node.get(TceIndex::new(slot));
            if !tce.is_present() {
                let row = slot..slot.saturating_add(room(TceIndex::new(slot)).get());
                let is_there = |slot: &u64| node.get(TceIndex::new(*slot)) != Tce::NONE;
                let next = row.clone().find(is_there).unwrap_or(row.end);
                return (next > slot).then(|| next.wrapping_mul(span(level)));
            }
            // SAFETY: The RCU lock is held.
            node = unsafe { self.node(tce.addr()) };
        }
        None
    }

    /// Where the leaf that holds `index` is; missing nodes are allocated with `flags`.
    fn grow(&self, index: TceIndex, flags: Flags) -> Result<PhysAddr> {
        let mut phys = self.root;
        for level in (1..self.levels.get()).rev() {
            // SAFETY: It is no leaf.
            let node = unsafe { self.node(phys) };
            let index = TceIndex::new(index.get() / span(level));
            let tce = node.get(index);
            phys = match tce.is_present() {
                true => tce.addr(),
                false => self.install(node, index, level, flags)?,
            };
        }
        Ok(phys)
    }

    /// Puts a new node into `node`, which is `level` levels above the leaves, or finds the one that
    /// somebody else put there first.
    fn install(
        &self,
        node: &TceList,
        index: TceIndex,
        level: u32,
        flags: Flags,
    ) -> Result<PhysAddr> {
        let new = TceList::into_phys(TceList::new(flags)?);
        // INVARIANT: If the word was empty the table owns the node from here on.
        let Err(other) = node.replace(index, Tce::NONE, Tce::from_parts(new, true, true)) else {
            if level == 1 {
                self.leaves.add(1, Relaxed);
            }
            return Ok(new);
        };
        // SAFETY: `new` came from `into_phys` above and nobody else has seen it.
        drop(unsafe { TceList::from_phys_owned(new) });
        // A leaf that is being retired is no place to write to.
        other.is_present().then(|| other.addr()).ok_or(EBUSY)
    }

    /// Writes `run` as [`set`](Self::set) does, if it is short and lies in one leaf that exists.
    ///
    /// Otherwise, or if a TCE is present, returns `false` and changes nothing.
    #[inline(always)]
    pub(crate) fn try_set(&self, run: TceRun, first: Tce) -> bool {
        run.count <= FEW
            && is_in_one_leaf(run)
            // SAFETY: This is to map.
            && unsafe { self.leaf_unguarded(run.first) }
                .is_some_and(|leaf| leaf.set(run.first, run.count, first, self.shift))
    }

    /// Writes `run`: its TCEs map memory from that of `first` on, with the same permissions.
    ///
    /// Missing nodes are allocated with `flags`. Fails with [`ENOMEM`], with [`EBUSY`] at a leaf
    /// that is [retired](Self::retire), or where that is looked for with [`EEXIST`] at a TCE that
    /// is present; the second value says how many were written before.
    pub(crate) fn set(&self, run: TceRun, first: Tce, flags: Flags) -> Result<(), (Error, Tces)> {
        self.set_in(run, first, |index| {
            let phys = self.grow(index, flags)?;
            // SAFETY: The caller maps there.
            Ok(unsafe { self.node(phys) })
        })
    }

    /// Does what [`set`](Self::set) does without memory; fails with [`EAGAIN`] at a leaf that is
    /// missing.
    pub(crate) fn set_reserved(&self, run: TceRun, first: Tce) -> Result<(), (Error, Tces)> {
        self.set_in(run, first, |index| {
            // SAFETY: The caller maps there.
            unsafe { self.leaf_unguarded(index) }.ok_or(EAGAIN)
        })
    }

    /// Writes `run` to the leaves that `find` finds.
    #[inline(always)]
    fn set_in<'a>(
        &'a self,
        run: TceRun,
        first: Tce,
        find: impl Fn(TceIndex) -> Result<&'a TceList>,
    ) -> Result<(), (Error, Tces)> {
        let mut done = 0u64;
        for part in slices(run) {
            let leaf = find(part.first).map_err(|e| (e, Tces::new(done)))?;
            let offset = done.wrapping_mul(self.shift.bytes());
            let tce = Tce::from_raw(first.into_raw().wrapping_add(offset));
            let written = match part.count <= FEW {
                true => leaf.set(part.first, part.count, tce, self.shift),
                false => leaf.set_many(part.first, part.count, tce, self.shift),
            };
            if !written {
                return Err((EEXIST, Tces::new(done)));
            }
            done = done.wrapping_add(part.count.get());
        }
        Ok(())
    }

    /// Allocates the leaves that `run` needs, with `flags`.
    ///
    /// Fails with [`ENOMEM`], and with [`EBUSY`] at a leaf that is [retired](Self::retire).
    pub(crate) fn reserve(&self, run: TceRun, flags: Flags) -> Result {
        slices(run).try_for_each(|part| self.grow(part.first, flags).map(|_| ()))
    }

    /// Changes whether `run` permits to write; all of it permits to read.
    ///
    /// Fails with [`ENOENT`] at a TCE that is not present.
    pub(crate) fn protect(&self, run: TceRun, write: bool) -> Result {
        run.pieces(Tces::new(1)).try_for_each(|one| {
            // SAFETY: Nobody unmaps what is being protected.
            let leaf = unsafe { self.leaf_unguarded(one.first) }.ok_or(ENOENT)?;
            let old = leaf.get(one.first);
            let new = Tce::from_parts(old.addr(), true, write);
            let replaced = old.is_present() && leaf.replace(one.first, old, new).is_ok();
            replaced.then_some(()).ok_or(ENOENT)
        })
    }

    /// Clears `run`, if it is short and lies in one leaf and all of it is present and permits the
    /// same.
    ///
    /// Otherwise returns `false` and changes nothing.
    #[inline(always)]
    pub(crate) fn try_clear(&self, run: TceRun) -> bool {
        run.count <= FEW
            && is_in_one_leaf(run)
            // SAFETY: This is to unmap.
            && unsafe { self.leaf_unguarded(run.first) }
                .is_some_and(|leaf| leaf.try_clear(run.first, run.count))
    }

    /// Clears `run`, whether its TCEs are present or not.
    pub(crate) fn clear_all(&self, run: TceRun) {
        for part in slices(run) {
            // SAFETY: The caller unmaps there.
            if let Some(leaf) = unsafe { self.leaf_unguarded(part.first) } {
                leaf.clear_all(part.first, part.count);
            }
        }
    }

    /// Clears `run` up to the first TCE that is not present. Returns how many were cleared.
    pub(crate) fn clear(&self, run: TceRun) -> Tces {
        let mut done = 0u64;
        for part in slices(run) {
            // SAFETY: This is to unmap.
            let Some(leaf) = (unsafe { self.leaf_unguarded(part.first) }) else {
                break;
            };
            let cleared = leaf.clear(part.first, part.count);
            done = done.wrapping_add(cleared.get());
            if cleared < part.count {
                break;
            }
        }
        Tces::new(done)
    }

    /// The physical address behind `ioba`, which lies in the page at `index`, if it is mapped.
    #[inline(always)]
    pub(crate) fn translate(
        &self,
        index: TceIndex,
        ioba: Ioba,
        rcu: &rcu::Guard,
    ) -> Option<PhysAddr> {
        let tce = self.leaf(index, rcu)?.get(index);
        tce.is_present()
            .then(|| tce.addr() | self.shift.offset(ioba.get()))
    }

    /// Calls `visit` for every leaf that exists in `run`, with the part of `run` in it.
    ///
    /// Stops at the first error and returns it. The leaf may be gone when `visit` looks at it. One
    /// that is [retired](Self::retire) exists: firmware may still have what was in it.
    pub(crate) fn for_each_leaf(
        &self,
        run: TceRun,
        mut visit: impl FnMut(TceRun) -> Result,
    ) -> Result {
        let end = run.end().get();
        let mut at = run.first.get();
        while at < end {
            let first = TceIndex::new(at);
            let missing = self.missing(first, &rcu::read_lock());
            // OVERFLOW: There are 2^45 TCEs at most.
            at = missing.unwrap_or_else(|| at.wrapping_add(room(first).get()));
            if missing.is_none() {
                let count = Tces::new(at.min(end).wrapping_sub(first.get()));
                visit(TceRun { first, count })?;
            }
        }
        Ok(())
    }

    /// Calls `f` with each leaf that `run` covers: the node above it, where in it, and the word.
    fn for_each_covered(&self, run: TceRun, mut f: impl FnMut(&TceList, TceIndex, Tce)) {
        let Some(above) = self.levels.get().checked_sub(2) else {
            return;
        };
        for slot in run.first.get().div_ceil(span(1))..run.end().get() / span(1) {
            let mut node = self.root_node();
            let found = (0..above).rev().try_for_each(|level| {
                let tce = node.get(TceIndex::new(slot / span(level.wrapping_add(1))));
                let phys = tce.is_present().then(|| tce.addr())?;
                // SAFETY: The node is above the leaves.
                node = unsafe { self.node(phys) };
                Some(())
            });
            let index = TceIndex::new(slot);
            if found.is_some() {
                f(node, index, node.get(index));
            }
        }
    }

    /// Takes out the leaves that `run`, which has been cleared, covers. Any context.
    ///
    /// Once the PHBs have forgotten `run`, [`free_retired`](Self::free_retired) is due.
    pub(crate) fn retire(&self, run: TceRun) {
        self.for_each_covered(run, |node, index, tce| {
            if tce.is_present() {
                let retired = Tce::from_raw(tce.addr());
                node.replace(index, tce, retired).ok();
            }
        });
    }

    /// Takes out the leaves that hold TCEs of `run` and are empty. Returns the leaves to
    /// [free](Self::free_retired) once the PHBs have forgotten them, if there are any.
    ///
    /// # Safety
    ///
    /// Nobody maps or unmaps anything meanwhile.
    pub(crate) unsafe fn retire_empty(&self, run: TceRun) -> Option<TceRun> {
        // OVERFLOW: A remainder is smaller than what it is of.
        let first = run.first.get().wrapping_sub(run.first.get() % span(1));
        let end = run.end().get().checked_next_multiple_of(span(1))?;
        let all = TceRun {
            first: TceIndex::new(first),
            count: Tces::new(end.saturating_sub(first)),
        };
        let mut any = false;
        self.for_each_covered(all, |node, index, tce| {
            // SAFETY: By the safety requirements nobody else frees it.
            if tce.is_present() && unsafe { self.node(tce.addr()) }.is_empty() {
                let gone = Tce::from_raw(tce.addr());
                any |= node.replace(index, tce, gone).is_ok();
            }
        });
        any.then_some(all)
    }

    /// Frees the leaves of `run` that were [retired](Self::retire). Any context.
    ///
    /// # Safety
    ///
    /// The PHBs have forgotten `run` since it was retired, and nobody maps or unmaps there.
    pub(crate) unsafe fn free_retired(&self, run: TceRun) {
        self.for_each_covered(run, |node, index, tce| {
            let retired = !tce.is_present() && tce != Tce::NONE;
            if retired && node.replace(index, tce, Tce::NONE).is_ok() {
                self.leaves.add(u64::MAX, Relaxed);
                // SAFETY: The leaf is out of the table, and by the safety requirements no PHB walks
                // to it. Who is still in it only reads, under RCU.
                unsafe { TceList::free_rcu(tce.addr()) };
            }
        });
    }

    /// The number of TCEs that are present. Takes as long as there are leaves.
    pub(crate) fn populated(&self) -> Tces {
        let all = TceRun {
            first: TceIndex::new(0),
            count: self.levels.tces(),
        };
        let mut count = 0u64;
        let counted = self.for_each_leaf(all, |part| {
            let rcu = rcu::read_lock();
            let leaf = self.leaf(part.first, &rcu);
            count = count.wrapping_add(leaf.map_or(0, |leaf| leaf.present().get()));
            Ok(())
        });
        Tces::new(counted.map_or(0, |()| count))
    }

    /// The number of nodes. Takes as long as there are nodes above the leaves.
    pub(crate) fn nodes(&self) -> u64 {
        self.count(self.root_node(), self.levels.get().wrapping_sub(1))
    }

    /// Counts `node`, which is `level` levels above the leaves, and those below it.
    fn count(&self, node: &TceList, level: u32) -> u64 {
        match level {
            0 => 1,
            1 => node.present().get().saturating_add(1),
            _ => {
                // CAST: 512.
                let all = (0..TceList::LEN as u64).map(|n| node.get(TceIndex::new(n)));
                all.filter(|tce| tce.is_present()).fold(1, |sum, tce| {
                    // SAFETY: The node is above the leaves.
                    let below = unsafe { self.node(tce.addr()) };
                    sum.saturating_add(self.count(below, level.wrapping_sub(1)))
                })
            }
        }
    }

    /// Frees the node at `phys` and, if it is above the leaves (`level` 0), those below it.
    ///
    /// # Safety
    ///
    /// The caller owns the node, and nobody uses it any more.
    unsafe fn free(phys: PhysAddr, level: u32) {
        // SAFETY: By the safety requirements; nodes that are owned came from `into_phys`.
        let node = unsafe { TceList::from_phys_owned(phys) };
        let Some(below) = level.checked_sub(1) else {
            return;
        };
        // CAST: 512.
        for index in 0..TceList::LEN as u64 {
            let tce = node.get(TceIndex::new(index));
            if tce.is_present() {
                // SAFETY: By the type invariants of `Table` the word owned its node.
                unsafe { Self::free(tce.addr(), below) };
            }
        }
    }
}

impl Drop for Table {
    fn drop(&mut self) {
        // SAFETY: `self` owns the root, and with `&mut self` nobody walks the table. The recursion
        // is at most `Levels::MAX` deep.
        unsafe { Self::free(self.root, self.levels.get().wrapping_sub(1)) };
    }
}

/// How many TCEs a node `level` levels above them stands for.
fn span(level: u32) -> u64 {
    // OVERFLOW: At most as many levels as there can be.
    1u64.wrapping_shl(level.wrapping_mul(Levels::BITS))
}

/// How many TCEs there are from `first` to the end of its leaf.
#[inline(always)]
fn room(first: TceIndex) -> Tces {
    // CAST: 512. OVERFLOW: The remainder is below the length.
    Tces::new((TceList::LEN as u64).wrapping_sub(first.get() % TceList::LEN as u64))
}

/// Whether one leaf has all of `run`.
#[inline(always)]
pub(crate) fn is_in_one_leaf(run: TceRun) -> bool {
    run.count <= room(run.first)
}

/// Cuts a run at leaf borders.
pub(crate) fn slices(run: TceRun) -> impl Iterator<Item = TceRun> {
    run.cut(room)
}
