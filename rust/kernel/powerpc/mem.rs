// SPDX-License-Identifier: GPL-2.0

//! The memory of TCE tables.

use crate::{
    alloc::{
        flags::__GFP_ZERO,
        Flags, //
    },
    bindings,
    io::PhysAddr,
    prelude::*,
    sync::atomic::Atomic, //
};

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
    pub const LEN: usize = 512;

    /// Allocates a list with no TCE set.
    ///
    /// It may sleep if `flags` allow it. Returns `ENOMEM` if there is no memory.
    pub fn new(flags: Flags) -> Result<KBox<Self>> {
        let list = KBox::<Self>::new_uninit(flags | __GFP_ZERO)?;

        // SAFETY: `__GFP_ZERO` cleared the memory, and zero is a valid `Atomic<u64>`.
        Ok(unsafe { list.assume_init() })
    }

    /// Returns the words.
    #[inline]
    pub fn words(&self) -> &[Atomic<u64>; Self::LEN] {
        &self.0
    }

    /// Returns word `index`, if it is below [`TceList::LEN`].
    #[inline]
    pub fn word(&self, index: usize) -> Option<&Atomic<u64>> {
        self.0.get(index)
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
        // SAFETY: The function computes an address.
        let list = unsafe { bindings::phys_to_virt(addr) };

        // SAFETY: The caller promises that this is a live `TceList`. All access to it is atomic.
        unsafe { &*list.cast() }
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
