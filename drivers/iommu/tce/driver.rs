// SPDX-License-Identifier: GPL-2.0

//! The driver as the IOMMU core sees it.

use crate::{
    domain::{
        blocked::BLOCKED,
        paging::{
            iova_range,
            Paging, //
        },
        platform::PLATFORM,
        process::{
            self,
            Process, //
        },
        Tce, //
    },
    endpoint::{
        warn_left,
        Endpoint,
        PeList, //
    },
    machine, //
};
use kernel::{
    device::Device,
    iommu::{
        self,
        resv,
        Cap,
        DefaultDomain,
        EndpointCtx,
        Group,
        Instance,
        Instances,
        Ops,
        Prot,
        ReservedRegions, //
    },
    prelude::*,
    sync::{
        aref::ARef,
        Arc, //
    }, //
};

/// Its operations. A static, because the core compares the address.
pub(crate) static OPS: Ops<Tce> = Ops::new()
    .blocked(&BLOCKED)
    .identity(&PLATFORM)
    .sva::<Process>();

#[vtable]
impl iommu::Driver for Tce {
    type Instance = Arc<PeList>;
    type Endpoint = Endpoint;
    type Paging = Paging;

    fn probe_device<'p>(
        dev: &Device,
        mut all: Instances<'p, Self>,
    ) -> Result<(&'p Instance<Self>, impl PinInit<Endpoint, Error>)> {
        // SAFETY: The handle goes into the PE, which is dropped with its last endpoint: the core
        // releases a device before the platform takes its PE down.
        let group = unsafe { machine::of_device(dev) }?;
        let instance = all.find(|_| true).ok_or(ENODEV)?;
        // Any other error than `ENODEV` would count against all devices, so a PE that cannot be had
        // stays with the platform and says why.
        let endpoint = instance.data().add(dev, group).map_err(|e| {
            if e == EBUSY {
                dev_info!(dev, "PE in use; taken over when its driver unbinds\n");
            } else if e != ENODEV && e != ECANCELED {
                warn_left(dev, e);
            }
            ENODEV
        })?;
        Ok((instance, Ok(endpoint)))
    }

    fn device_group(ctx: &EndpointCtx<'_, Self>) -> Result<ARef<Group>> {
        machine::group_of(ctx.device())
    }

    fn default_domain(ctx: &EndpointCtx<'_, Self>) -> DefaultDomain {
        match ctx.endpoint().wants_platform() {
            true => DefaultDomain::Identity,
            false => DefaultDomain::Any,
        }
    }

    fn probe_finalize(ctx: &EndpointCtx<'_, Self>) {
        let layout = ctx.endpoint().pe().layout();
        if machine::allows_processes() && process::addresses(&layout).is_some() {
            ctx.offer_processes();
        }
    }

    fn capable(ctx: &EndpointCtx<'_, Self>, cap: Cap) -> bool {
        match cap {
            Cap::CacheCoherency => true,
            // What a flush queue saves is kills. A copy that the hypervisor holds is withdrawn at
            // once even so, and the addresses would only be missed.
            Cap::DeferredFlush => ctx.endpoint().pe().calls().has_kill(),
            _ => false,
        }
    }

    fn reserved_regions(ctx: &EndpointCtx<'_, Self>, out: &mut ReservedRegions<'_>) {
        for range in ctx.endpoint().pe().layout().reserved() {
            let Some(range) = iova_range(range) else {
                continue;
            };
            if let Err(e) = out.add(range, Prot::empty(), resv::Kind::Reserved) {
                dev_warn!(ctx.device(), "cannot report a reserved DMA range ({e:?})\n");
            }
        }
    }
}
