// SPDX-License-Identifier: GPL-2.0

//! The memory of TCE tables.
//!
//! # Memory model
//!
//! A TCE is one aligned 64-bit word that CPUs and the host bridge read and write at the same time.
//! The accesses here are volatile, so each is a single load or store that the compiler neither
//! tears nor repeats: what `READ_ONCE()` and `WRITE_ONCE()` are in C. They order nothing by
//! themselves.
//!
//! * A walk from node to node is ordered by its address dependency, as `rcu_dereference()` is.
//! * A new node is zeroed before [`TceList::replace`] shows it, which is a full barrier.
//! * Stores to TCEs are ordered before a hypercall by the hypercall, and before a kill by the kill.

use super::window::{
    Levels,
    PageShift,
    Tce,
    TceIndex,
    Tces, //
};
use crate::{
    alloc::{
        flags::__GFP_ZERO,
        Flags, //
    },
    bindings,
    io::PhysAddr,
    prelude::*,
    sync::atomic::{
        Atomic,
        AtomicType,
        Full, //
    }, //
};

/// Reads a word: a relaxed load, without a call.
#[inline(always)]
pub fn read<T: AtomicType>(word: &Atomic<T>) -> T {
    // SAFETY: The pointer is that of a live word. See the module documentation.
    unsafe { word.as_ptr().read_volatile() }
}

#[inline(always)]
fn write(word: &Atomic<u64>, value: u64) {
    // SAFETY: As in `read`; an `Atomic` may be written through a shared reference.
    unsafe { word.as_ptr().write_volatile(value) }
}

/// The bits that any of the words has.
#[inline(always)]
fn any(words: &[Atomic<u64>]) -> u64 {
    words.iter().fold(0, |any, word| any | read(word))
}

/// The bits that all of the words have.
#[inline(always)]
fn all(words: &[Atomic<u64>]) -> u64 {
    words.iter().fold(u64::MAX, |all, word| all & read(word))
}

/// Writes a row of TCEs: the first is `tce`, each other one `step` above the one before it.
///
/// `N` words are written in a turn of the loop: the compiler does not unroll volatile accesses.
#[inline(always)]
fn fill<const N: usize>(words: &[Atomic<u64>], tce: Tce, step: u64) {
    let mut first = tce.into_raw();
    // CAST: A small number.
    let place = |n: usize| step.wrapping_mul(n as u64);
    let chunks = words.chunks_exact(N);
    let rest = chunks.remainder();
    for chunk in chunks {
        for (n, word) in chunk.iter().enumerate() {
            write(word, Tce::from_raw(first.wrapping_add(place(n))).to_be());
        }
        first = first.wrapping_add(place(N));
    }
    for (n, word) in rest.iter().enumerate() {
        write(word, Tce::from_raw(first.wrapping_add(place(n))).to_be());
    }
}

/// What `phys_to_virt()` of C is, without a call: a walk asks once for each level.
#[cfg(CONFIG_PPC64)]
#[inline(always)]
fn phys_to_virt(addr: PhysAddr) -> *mut c_void {
    // CAST: The linear mapping lies at `PAGE_OFFSET`, whose bits no physical address has. It is
    // signed because bindgen makes constants of no larger numbers.
    (addr | bindings::PAGE_OFFSET as PhysAddr) as *mut c_void
}

#[cfg(not(CONFIG_PPC64))]
fn phys_to_virt(addr: PhysAddr) -> *mut c_void {
    // SAFETY: The function computes an address.
    unsafe { bindings::phys_to_virt(addr) }
}

/// 4 KiB of TCEs.
///
/// It is the unit that hardware and hypervisor read: a level of a TCE table is one or more of them,
/// and `H_PUT_TCE_INDIRECT` takes one. The words are big-endian; [`Tce::to_be`] makes them.
///
/// [`Tce::to_be`]: super::window::Tce::to_be
#[repr(C, align(4096))]
pub struct TceList([Atomic<u64>; TceList::LEN]);

impl TceList {
    /// The number of TCEs.
    pub const LEN: usize = 1 << Levels::BITS;

    /// Allocates a list with no TCE set.
    ///
    /// It may sleep if `flags` allow it. Returns `ENOMEM` if there is no memory.
    pub fn new(flags: Flags) -> Result<KBox<Self>> {
        let list = KBox::<Self>::new_uninit(flags | __GFP_ZERO)?;

        // SAFETY: `__GFP_ZERO` cleared the memory, and zero is a valid `Atomic<u64>`.
        Ok(unsafe { list.assume_init() })
    }

    /// Returns the TCE at the low bits of `index`.
    #[inline]
    pub fn get(&self, index: TceIndex) -> Tce {
        self.part(index, Tces::new(1))
            .first()
            .map_or(Tce::NONE, |word| Tce::from_be(read(word)))
    }

    /// Sets a few TCEs: the first is `tce`, each other one maps the memory one `page` above that of
    /// the one before it.
    ///
    /// Returns `false`, and leaves nothing set, if one of them is present.
    #[inline(always)]
    pub fn set(&self, first: TceIndex, count: Tces, tce: Tce, page: PageShift) -> bool {
        let words = self.part(first, count);
        // Without the set-up of a loop.
        if let [word] = words {
            let is_free = read(word) == 0;
            if is_free {
                write(word, tce.to_be());
            }
            return is_free;
        }
        let mut next = tce.into_raw();
        // A loop with a way out is not unrolled, which would take registers from the caller.
        for (n, word) in words.iter().enumerate() {
            if read(word) != 0 {
                fill::<1>(words.get(..n).unwrap_or_default(), Tce::NONE, 0);
                return false;
            }
            write(word, Tce::from_raw(next).to_be());
            next = next.wrapping_add(page.bytes());
        }
        true
    }

    /// Sets many TCEs, as [`TceList::set`] does. What is there is looked at only in kernels with
    /// `CONFIG_RUST_DEBUG_ASSERTIONS`: that takes two thirds as long as to set them.
    #[inline(never)]
    pub fn set_many(&self, first: TceIndex, count: Tces, tce: Tce, page: PageShift) -> bool {
        let words = self.part(first, count);
        let is_free = !cfg!(CONFIG_RUST_DEBUG_ASSERTIONS) || any(words) == 0;
        if is_free {
            fill::<8>(words, tce, page.bytes());
        }
        is_free
    }

    /// Clears a few TCEs, if all of them are present and permit the same.
    ///
    /// Otherwise returns `false` and changes nothing: [`TceList::clear`] does the rest.
    #[inline(always)]
    pub fn try_clear(&self, first: TceIndex, count: Tces) -> bool {
        let words = self.part(first, count);
        // Without the set-up of a loop.
        if let [word] = words {
            let is_present = Tce::from_be(read(word)).is_present();
            if is_present {
                write(word, 0);
            }
            return is_present;
        }
        let are_present = Tce::from_be(all(words)).is_present();
        if are_present {
            fill::<1>(words, Tce::NONE, 0);
        }
        are_present
    }

    /// Clears TCEs up to the first that is not present. Returns how many.
    #[inline(never)]
    pub fn clear(&self, first: TceIndex, count: Tces) -> Tces {
        let mut words = self.part(first, count);
        if !Tce::from_be(all(words)).is_present() {
            let gap = |word| !Tce::from_be(read(word)).is_present();
            let end = words.iter().position(gap).unwrap_or(words.len());
            words = words.get(..end).unwrap_or_default();
        }
        fill::<8>(words, Tce::NONE, 0);
        // CAST: At most 512.
        Tces::new(words.len() as u64)
    }

    /// Clears TCEs, whether they are present or not.
    #[inline]
    pub fn clear_all(&self, first: TceIndex, count: Tces) {
        fill::<8>(self.part(first, count), Tce::NONE, 0);
    }

    /// Copies TCEs to the beginning of `to`.
    #[inline]
    pub fn copy_to(&self, first: TceIndex, count: Tces, to: &Self) {
        for (to, from) in to.0.iter().zip(self.part(first, count)) {
            write(to, read(from));
        }
    }

    /// The number of TCEs that are present.
    pub fn present(&self) -> Tces {
        let present = |word: &&Atomic<u64>| Tce::from_be(read(word)).is_present();
        // CAST: At most 512.
        Tces::new(self.0.iter().filter(present).count() as u64)
    }

    /// Whether no TCE is present.
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(|word| read(word) == 0)
    }

    /// Puts `new` where `old` is. Fails with the one that is there instead. A full barrier.
    pub fn replace(&self, index: TceIndex, old: Tce, new: Tce) -> Result<(), Tce> {
        match self.part(index, Tces::new(1)).first() {
            Some(word) => match word.cmpxchg(old.to_be(), new.to_be(), Full) {
                Ok(_) => Ok(()),
                Err(other) => Err(Tce::from_be(other)),
            },
            None => Err(Tce::NONE),
        }
    }

    /// The words of `count` TCEs from the one at the low bits of `first` on; ends with the list.
    #[inline]
    fn part(&self, first: TceIndex, count: Tces) -> &[Atomic<u64>] {
        // CAST: The remainder is below 512.
        let slot = (first.get() % Self::LEN as u64) as usize;
        let rest = self.0.get(slot..).unwrap_or_default();
        // CAST: What a `usize` does not hold is more than is there.
        rest.get(..count.get() as usize).unwrap_or(rest)
    }

    /// Returns the physical address.
    ///
    /// It means something only for a list in the linear mapping, as [`TceList::new`] makes it.
    #[inline]
    pub fn phys(&self) -> PhysAddr {
        // SAFETY: The function computes an address, it does not follow the pointer.
        unsafe { bindings::virt_to_phys(core::ptr::from_ref(self).cast_mut().cast()) }
    }

    /// Returns the list at a physical address: the reverse of [`TceList::phys`].
    ///
    /// # Safety
    ///
    /// `addr` came from [`TceList::phys`] of a list made by [`TceList::new`], and that list is not
    /// freed during `'a`.
    #[inline]
    pub unsafe fn from_phys<'a>(addr: PhysAddr) -> &'a Self {
        // SAFETY: The caller promises that this is a live `TceList`. All access to it is atomic.
        unsafe { &*phys_to_virt(addr).cast() }
    }

    /// Gives the list up to a table, which refers to it by its physical address.
    ///
    /// kmemleak follows only virtual addresses, so it does not look at the list any more.
    #[inline(never)]
    pub fn into_phys(list: KBox<Self>) -> PhysAddr {
        let addr = list.phys();

        // SAFETY: The pointer is that of an allocation.
        unsafe { bindings::kmemleak_ignore(KBox::into_raw(list).cast()) };
        addr
    }

    /// Frees a list a grace period from now (`kfree_rcu()`). Any context.
    ///
    /// Readers that still have it may find anything in it.
    ///
    /// # Safety
    ///
    /// `addr` came from [`TceList::into_phys`]; nobody gets at the list from now on, and those who
    /// have it leave their RCU read-side critical section without having written to it.
    pub unsafe fn free_rcu(addr: PhysAddr) {
        let list = phys_to_virt(addr);

        // SAFETY: By the safety requirements. The list is an allocation of its own and has room for
        // the head.
        unsafe { bindings::kvfree_call_rcu(list.cast(), list) };
    }

    /// Takes a list back: the reverse of [`TceList::into_phys`].
    ///
    /// # Safety
    ///
    /// `addr` came from [`TceList::into_phys`], and nobody uses the list any more.
    #[inline]
    pub unsafe fn from_phys_owned(addr: PhysAddr) -> KBox<Self> {
        // SAFETY: By the safety requirements.
        let list = unsafe { Self::from_phys(addr) };

        // SAFETY: `into_phys` took the list out of a box.
        unsafe { KBox::from_raw(core::ptr::from_ref(list).cast_mut()) }
    }
}
