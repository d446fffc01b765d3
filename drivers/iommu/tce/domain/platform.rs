// SPDX-License-Identifier: GPL-2.0

//! The platform domain: the DMA code of arch/powerpc drives the PE.
//!
//! 64-bit devices get memory mapped one to one at an offset, others get mappings from the
//! platform's own TCE allocator. The core reaches this domain as the identity domain, so that
//! `iommu.passthrough=1` and the sysfs attribute `type` select it.

use crate::{
    domain::Tce,
    pe::Target, //
};
use kernel::{
    iommu,
    prelude::*, //
};

/// See the module documentation.
pub(crate) struct Platform;

/// The one platform domain.
pub(crate) static PLATFORM: iommu::StaticDomain<Platform> = iommu::StaticDomain::new();

// SAFETY: The platform's DMA code maps only what its DMA API callers ask for.
unsafe impl iommu::StaticOps for Platform {
    type Kind = iommu::Platform;
    type Driver = Tce;

    fn attach(ctx: &iommu::AttachCtx<'_, Tce>) -> Result {
        // SAFETY: This is the `attach_dev` callback of the IOMMU core.
        unsafe { ctx.endpoint().attach(&Target::Platform) }
    }
}
