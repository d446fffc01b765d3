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
//! All operations take `&self` and may run at the same time, on any CPU and in any context. Nodes
//! are installed by compare-and-exchange and never removed before the table is dropped. Two
//! operations on the same TCE leave one of the two results.

use crate::layout::TceRun;
use kernel::{
    alloc::Flags,
    io::PhysAddr,
    powerpc::{
        mem::TceList,
        window::{
            PageShift,
            Tce,
            TceIndex,
            Tces, //
        }, //
    },
    prelude::*,
    sync::atomic::{
        Acquire,
        Atomic,
        Full,
        Relaxed,
        Release, //
    }, //
};

/// The number of index bits that one node resolves.
const NODE_BITS: u32 = TceList::LEN.ilog2();

/// How many nodes lie on the way to a TCE.
///
/// # Invariants
///
/// Between 1 and [`Levels::MAX`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Levels(u32);

impl Levels {
    /// What IODA hardware can walk.
    pub(crate) const MAX: u32 = 5;

    /// The depth of a table that holds `tces` TCEs.
    pub(crate) fn for_tces(tces: Tces) -> Option<Self> {
        let bits = tces
            .get()
            .checked_sub(1)?
            .checked_ilog2()
            .map_or(0, |bit| bit.saturating_add(1));
        let levels = bits.div_ceil(NODE_BITS).max(1);
        // INVARIANT: Checked here.
        (levels <= Self::MAX).then_some(Self(levels))
    }

    /// The number of levels.
    pub(crate) fn get(self) -> u32 {
        self.0
    }

    /// The number of TCEs that a table of this depth has room for.
    pub(crate) fn tces(self) -> Tces {
        Tces::new(span(self.0))
    }
}

/// A TCE table.
///
/// # Invariants
///
/// `root`, and every present word of a node above the leaves, is a node that came from [`TceList::into_phys`] and
/// that this table owns.
pub(crate) struct Table {
    root: PhysAddr,
    levels: Levels,
    shift: PageShift,
}

impl Table {
    /// Makes an empty table. May sleep.
    pub(crate) fn new(levels: Levels, shift: PageShift) -> Result<Self> {
        let root = TceList::into_phys(TceList::new(GFP_KERNEL_ACCOUNT)?);
        // INVARIANT: The root is fresh and has no present words.
        Ok(Self {
            root,
            levels,
            shift,
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

    /// The node at `phys`, which is the root or comes from a present inner word.
    fn node(&self, phys: PhysAddr) -> &TceList {
        // SAFETY: By the type invariants it is a node, and it lives until `self` drops.
        unsafe { TceList::from_phys(phys) }
    }

    /// Walks towards the leaf that holds `index`.
    ///
    /// Where a node is not there, `missing` may supply one, or else the walk ends and the error is
    /// the number of TCEs that the missing node stands for.
    fn leaf(
        &self,
        index: TceIndex,
        mut missing: impl FnMut(&Atomic<u64>) -> Option<PhysAddr>,
    ) -> Result<&TceList, u64> {
        let mut node = self.node(self.root);
        for level in (1..self.levels.get()).rev() {
            let below = span(level);
            let word = node.word(slot(index.get() / below)).ok_or(below)?;
            // Acquire pairs with the exchange in `install`: the node is seen zeroed.
            let tce = Tce::from_be(word.load(Acquire));
            let phys = match tce.is_present() {
                true => tce.addr(),
                false => missing(word).ok_or(below)?,
            };
            node = self.node(phys);
        }
        Ok(node)
    }

    /// Puts a new node behind `word`, or finds the one that somebody else put there first.
    fn install(word: &Atomic<u64>, flags: Flags) -> Option<PhysAddr> {
        let new = TceList::into_phys(TceList::new(flags).ok()?);
        // INVARIANT: If the exchange succeeds the table owns the node from here on.
        match word.cmpxchg(0, Tce::from_parts(new, true, true).to_be(), Full) {
            Ok(_) => Some(new),
            Err(other) => {
                // SAFETY: `new` came from `into_phys` above and nobody else has seen it.
                drop(unsafe { TceList::from_phys_owned(new) });
                Some(Tce::from_be(other).addr())
            }
        }
    }

    /// Writes `run`: the `n`-th TCE becomes `tce(n)`.
    ///
    /// Missing nodes are allocated with `flags`. Returns how many TCEs were written, which is less
    /// than asked only if memory ran out.
    pub(crate) fn set(&self, run: TceRun, flags: Flags, mut tce: impl FnMut(u64) -> Tce) -> Tces {
        let mut done = 0;
        for (first, count) in slices(run) {
            let Ok(leaf) = self.leaf(first, |word| Self::install(word, flags)) else {
                break;
            };
            for word in words(leaf, first, count) {
                word.store(tce(done).to_be(), Relaxed);
                done = done.wrapping_add(1);
            }
        }
        Tces::new(done)
    }

    /// Clears `run` up to the first TCE that is not present. Returns how many were cleared.
    pub(crate) fn clear(&self, run: TceRun) -> Tces {
        let mut done = 0;
        for (first, count) in slices(run) {
            let Ok(leaf) = self.leaf(first, |_| None) else {
                return Tces::new(done);
            };
            for word in words(leaf, first, count) {
                if !Tce::from_be(word.load(Relaxed)).is_present() {
                    return Tces::new(done);
                }
                word.store(0, Release);
                done = done.wrapping_add(1);
            }
        }
        Tces::new(done)
    }

    /// The physical address behind byte `offset` of the page at `index`, if it is mapped.
    pub(crate) fn translate(&self, index: TceIndex, offset: u64) -> Option<PhysAddr> {
        let leaf = self.leaf(index, |_| None).ok()?;
        let tce = Tce::from_be(words(leaf, index, 1).next()?.load(Relaxed));
        tce.is_present()
            .then(|| tce.addr() | self.shift.offset(offset))
    }

    /// Calls `visit` for every leaf that exists in `run`, with the part of `run` in it.
    ///
    /// Stops at the first error and returns it.
    pub(crate) fn for_each_leaf(
        &self,
        run: TceRun,
        mut visit: impl FnMut(TceRun, &TceList) -> Result,
    ) -> Result {
        let end = run.first.get().saturating_add(run.count.get());
        let mut at = run.first.get();
        while at < end {
            let first = TceIndex::new(at);
            let leaf = self.leaf(first, |_| None);
            let span = leaf.err().unwrap_or(span(1));
            // OVERFLOW: `at` is below 2^45 and `span` is a power of two up to 2^36.
            let next = at.wrapping_add(span.wrapping_sub(at % span.max(1)));
            if let Ok(leaf) = leaf {
                let count = Tces::new(next.min(end).wrapping_sub(at));
                visit(TceRun { first, count }, leaf)?;
            }
            at = next;
        }
        Ok(())
    }

    /// The number of TCEs that are present. Takes as long as there are leaves.
    pub(crate) fn populated(&self) -> u64 {
        let all = TceRun {
            first: TceIndex::new(0),
            count: self.levels.tces(),
        };
        let mut count = 0u64;
        let counted = self.for_each_leaf(all, |_, leaf| {
            let present = |word: &&Atomic<u64>| Tce::from_be(word.load(Relaxed)).is_present();
            for _ in leaf.words().iter().filter(present) {
                count = count.wrapping_add(1);
            }
            Ok(())
        });
        counted.map_or(0, |()| count)
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
        for word in node.words() {
            let tce = Tce::from_be(word.load(Relaxed));
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
    // OVERFLOW: At most 5 * 9 bits.
    1u64.wrapping_shl(level.wrapping_mul(NODE_BITS))
}

/// The slot of a node that the low bits of `index` name.
fn slot(index: u64) -> usize {
    // CAST: Below 512.
    (index % TceList::LEN as u64) as usize
}

/// Cuts a run at leaf borders: pairs of first index and count.
fn slices(run: TceRun) -> impl Iterator<Item = (TceIndex, u64)> {
    let end = run.first.get().saturating_add(run.count.get());
    let mut at = run.first.get();
    core::iter::from_fn(move || {
        if at >= end {
            return None;
        }
        let first = at;
        // OVERFLOW: None of these: `at` is below `end`, and the remainder below the length.
        let room = (TceList::LEN as u64).wrapping_sub(at % TceList::LEN as u64);
        let count = room.min(end.wrapping_sub(at));
        at = at.wrapping_add(count);
        Some((TceIndex::new(first), count))
    })
}

/// The `count` words of `leaf` from `first` on; ends with the leaf.
fn words(leaf: &TceList, first: TceIndex, count: u64) -> impl Iterator<Item = &Atomic<u64>> {
    // CAST: A leaf has 512 words, so what is cut off would not be there.
    let count = count.min(TceList::LEN as u64) as usize;
    leaf.words().iter().skip(slot(first.get())).take(count)
}
