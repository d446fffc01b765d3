// SPDX-License-Identifier: GPL-2.0

//! Shared virtual addressing on an IOMMU without PASIDs and page faults.
//!
//! Such an IOMMU has more than one translation for a device, chosen by the bus address, and gives
//! one of them, a *window*, to a process. It cannot ask for a page that is not there. So pages of
//! the process are pinned and mapped before the device uses them, and taken out of the window when
//! the process loses them.

use super::{
    Iova,
    IovaRange, //
};
use crate::{
    bindings,
    io::PhysAddr,
    prelude::*, //
};

/// The window of a process: bus addresses, and a table that says which memory they reach.
///
/// Ranges that methods take lie in [`iovas`](Self::iovas), begin and end at a CPU page, and are not
/// empty. All calls that change the table come one after the other, except
/// [`prepare`](Self::prepare). Only that one may sleep, and none of the others needs memory.
///
/// # Safety
///
/// - A device reaches only pages that were [set](Self::set) and [published](Self::publish) and not
///   [cleared](Self::clear), and writes only to those whose last permission was to write.
/// - When [`withdraw`](Self::withdraw) returns, no access to what was cleared of the range is
///   possible or under way.
pub unsafe trait SvaWindow: Send + Sync + 'static {
    /// The bus addresses. The first stands for address 0 of the process.
    fn iovas(&self) -> IovaRange;

    /// Gets the memory that a table for `range` takes.
    ///
    /// Fails with [`ENOMEM`], or with [`EAGAIN`] where some of it is being
    /// [given back](Self::trim), or as the IOMMU has it.
    fn prepare(&self, range: IovaRange) -> Result;

    /// Maps `range`, of which nothing is mapped, to the memory from `paddr` on.
    ///
    /// After an error the first pages of it, none or more, are mapped. It is [`EAGAIN`] where what
    /// was [prepared](Self::prepare) has been [given back](Self::trim) meanwhile, and never for
    /// want of memory.
    fn set(&self, range: IovaRange, paddr: PhysAddr, write: bool) -> Result;

    /// Says to which memory the page at `iova` is mapped.
    fn get(&self, iova: Iova) -> Option<PhysAddr>;

    /// Changes what `range`, all of which is mapped, permits.
    ///
    /// Who accesses it meanwhile finds the one or the other. Fails with [`ENOENT`] at a page that
    /// is not mapped.
    fn protect(&self, range: IovaRange, write: bool) -> Result;

    /// Makes what was set or protected in `range` visible to devices.
    ///
    /// Fails as the IOMMU does that refuses; devices may then reach any of it.
    fn publish(&self, range: IovaRange) -> Result;

    /// Takes what is mapped of `range` out of the table, also behind pages that are not.
    fn clear(&self, range: IovaRange);

    /// Makes devices forget what was cleared of `range`. It cannot fail.
    fn withdraw(&self, range: IovaRange);

    /// Gives back memory of the table that is for `range` and that nothing is mapped by, so that
    /// there is never much of it. All that was cleared has been withdrawn.
    fn trim(&self, range: IovaRange);

    /// Whether a device uses the window, as far as the IOMMU driver lets it. Any context.
    fn is_connected(&self) -> bool;
}

/// Keeps the module of an IOMMU driver.
///
/// # Invariants
///
/// `0` is null or a module that is counted.
pub(super) struct Module(*mut bindings::module);

// SAFETY: Any thread may give a module up.
unsafe impl Send for Module {}

// SAFETY: Nothing can be done with a shared reference.
unsafe impl Sync for Module {}

impl Module {
    pub(super) fn get(ops: &bindings::iommu_ops) -> Self {
        // SAFETY: The driver has a device, so its module is counted already; or it has none.
        unsafe { bindings::__module_get(ops.owner) };
        // INVARIANT: It was counted, if there is one.
        Self(ops.owner)
    }
}

impl Drop for Module {
    fn drop(&mut self) {
        // SAFETY: By the type invariants.
        unsafe { bindings::module_put(self.0) };
    }
}
