// SPDX-License-Identifier: GPL-2.0

//! The blocked domain: no DMA reaches memory.
//!
//! Nothing is lost by it: on pSeries the TCEs are withdrawn and the windows stay, on PowerNV the
//! windows are closed and the tables stay. Neither needs memory.

use crate::{
    domain::Tce,
    pe::Target, //
};
use kernel::{
    iommu,
    prelude::*, //
};

/// See the module documentation.
pub(crate) struct Blocked;

/// The one blocked domain.
pub(crate) static BLOCKED: iommu::StaticDomain<Blocked> = iommu::StaticDomain::with_pasids();

// SAFETY: Once all devices of the PE are attached, no DMA of the PE reaches memory. While only some
// are, the core has stopped their DMA: it blocks part of a group only around a reset.
unsafe impl iommu::StaticOps for Blocked {
    type Kind = iommu::Blocked;
    type Driver = Tce;

    fn attach(ctx: &iommu::AttachCtx<'_, Tce>) -> Result {
        // SAFETY: This is the `attach_dev` callback of the IOMMU core.
        unsafe { ctx.endpoint().attach(&Target::Blocked) }
    }
}
