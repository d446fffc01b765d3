// SPDX-License-Identifier: GPL-2.0

//! The paging domain: DMA translates through the domain's own TCE tables.
//!
//! dma-iommu, VFIO and iommufd use it through the IOMMU core. `map` and `unmap` only write the
//! tables; `iotlb_sync_map` and `iotlb_sync` make firmware follow, once for a whole scatterlist.
//!
//! `try_map` and `try_unmap` do the same where it takes no call of another function. They decline
//! what they cannot serve, and the core comes again with `map` and `unmap`.

use crate::{
    domain,
    firmware::calls::Calls,
    layout::{
        cpu_page_shift,
        IobaRange,
        Layout, //
    },
    machine::Machine,
    pe::Target,
    space::Space, //
};
use kernel::{
    io::PhysAddr,
    iommu::{
        self,
        AttachCtx,
        EndpointCtx,
        Geometry,
        IotlbGather,
        Iova,
        IovaRange,
        LowAddresses,
        MapError,
        MapRequest,
        PageSize,
        PageSizes,
        Pages,
        ProtFlag,
        UnmapRequest, //
    },
    powerpc::window::{
        Ioba,
        PageShift,
        Tce, //
    },
    prelude::*,
    sync::{
        atomic::{
            Atomic,
            Relaxed, //
        },
        Arc, //
    }, //
};

/// See the module documentation.
pub(crate) struct Paging {
    space: Arc<Space>,
    /// Where what a TCE may lead to ends.
    memory_end: PhysAddr,
    /// Where it ended when memory was last found that had been added.
    added_end: Atomic<PhysAddr>,
    /// Tells where it ends now.
    max_ram: fn() -> PhysAddr,
}

impl Paging {
    /// Makes a domain for PEs with the windows of `layout`. `max_ram` tells where memory ends. May
    /// sleep.
    pub(crate) fn for_windows(
        layout: Layout,
        max_ram: fn() -> PhysAddr,
    ) -> Result<(Geometry, Self)> {
        let size = |shift: PageShift| PageSize::from_shift(shift.get()).ok_or(EINVAL);
        let iova = |ioba: Ioba| Iova::new(ioba.get());
        let low = match layout.high_start() {
            Some(high_start) => Some(LowAddresses {
                high_start: iova(high_start),
                page: size(layout.low_granule())?,
                preferred_last: layout.preferred_last(max_ram()).map(iova),
            }),
            None => None,
        };
        let geometry = Geometry {
            // VFIO type1 wants a page size that all PEs of a container have: that of the CPU.
            pages: PageSizes::of(size(layout.granule())?).with(size(cpu_page_shift()?)?),
            aperture: iova_range(layout.aperture()).ok_or(EINVAL)?,
            low,
        };
        // A hypervisor knows by itself what a TCE may lead to. Without one it is RAM: MMIO lies
        // above it on every POWER machine.
        let max_ram = match layout.holds_copy() {
            true => || PhysAddr::MAX,
            false => max_ram,
        };
        let this = Self {
            space: Space::new(layout)?,
            memory_end: max_ram(),
            added_end: Atomic::new(0),
            max_ram,
        };
        Ok((geometry, this))
    }

    /// What a PE is attached to.
    pub(crate) fn target(&self) -> Target<'_> {
        Target::Paging(&self.space)
    }

    /// The first TCE of a request, if it leads to memory.
    #[inline(always)]
    fn tce(&self, req: &MapRequest) -> Option<Tce> {
        Self::tce_below(req, self.memory_end)
    }

    /// The same for memory that was added since, and that firmware did not announce.
    #[cold]
    fn late_tce(&self, req: &MapRequest) -> Option<Tce> {
        Self::tce_below(req, self.added_end.load(Relaxed)).or_else(|| {
            let end = (self.max_ram)();
            self.added_end.store(end, Relaxed);
            Self::tce_below(req, end)
        })
    }

    #[inline(always)]
    fn tce_below(req: &MapRequest, memory_end: PhysAddr) -> Option<Tce> {
        let prot = req.prot();
        // A TCE that leads to MMIO fences the PHB.
        let is_memory = req.paddr_last() < memory_end && !prot.contains(ProtFlag::Mmio);
        is_memory.then(|| {
            Tce::from_parts(
                req.paddr(),
                prot.contains(ProtFlag::Read),
                prot.contains(ProtFlag::Write),
            )
        })
    }
}

#[inline(always)]
fn ioba(iova: Iova) -> Ioba {
    Ioba::new(iova.get())
}

#[inline(always)]
pub(crate) fn ioba_range(range: IovaRange) -> IobaRange {
    IobaRange {
        first: ioba(range.first()),
        last: ioba(range.last()),
    }
}

/// The other way round.
pub(crate) fn iova_range(range: IobaRange) -> Option<IovaRange> {
    IovaRange::new(Iova::new(range.first.get()), Iova::new(range.last.get()))
}

/// How many pages of size `page` a part of a request is.
fn pages(part: Option<IovaRange>, page: PageSize) -> Pages {
    let bytes = part.map_or(0, IovaRange::bytes);
    // CAST: At most the pages of the request.
    Pages::new(bytes.wrapping_shr(page.shift()) as usize)
}

// SAFETY:
// - A TCE is present only between `map` and `unmap`, and a PE translates only through the tables of
//   the domain it is attached to. When the last device of a PE is released, which drops its
//   `Endpoint`, the PE translates through nothing of ours.
// - `withdraw` and `flush` return when no PE uses the cleared TCEs any more, and they run in
//   `iotlb_sync` and `flush_iotlb_all`.
// - All methods take shared references to `Space`, whose operations may run concurrently.
#[vtable]
unsafe impl iommu::PagingOps for Paging {
    type Driver = domain::Tce;

    fn new(ctx: &EndpointCtx<'_, domain::Tce>) -> Result<(Geometry, impl PinInit<Self, Error>)> {
        let endpoint = ctx.endpoint();
        let pe = endpoint.pe();
        // SAFETY: `Adopter` takes note of a driver before it probes.
        let layout = unsafe { pe.new_layout(ctx.device()) };
        let (geometry, this) = Self::for_windows(layout, Machine::max_ram)?;
        Ok((geometry, Ok(this)))
    }

    fn attach(self: Pin<&Self>, ctx: &AttachCtx<'_, domain::Tce>) -> Result {
        // SAFETY: This is the `attach_dev` callback of the IOMMU core.
        unsafe { ctx.endpoint().attach(&self.target()) }
    }

    #[inline(always)]
    fn try_map(self: Pin<&Self>, req: &MapRequest) -> bool {
        self.tce(req)
            .is_some_and(|tce| self.space.try_map(ioba_range(req.range()), tce))
    }

    fn map(self: Pin<&Self>, req: &MapRequest) -> Result<(), MapError> {
        let tce = self.tce(req).or_else(|| self.late_tce(req)).ok_or(EINVAL)?;
        let page = PageShift::new(req.page_size().shift()).ok_or(EINVAL)?;
        self.space
            .map(ioba_range(req.range()), tce, page, req.flags())
            .map_err(|(error, mapped)| MapError {
                error,
                mapped: pages(mapped.and_then(iova_range), req.page_size()),
            })
    }

    #[inline(always)]
    fn try_unmap(self: Pin<&Self>, req: &UnmapRequest, gather: &mut IotlbGather<'_>) -> bool {
        let range = req.range();
        let at_once = match gather.is_queued() {
            true => self.space.layout().holds_copy(),
            false => gather.is_disjoint(range),
        };
        if at_once || !self.space.try_unmap(ioba_range(range)) {
            return false;
        }
        if !gather.is_queued() {
            gather.add(range);
        }
        true
    }

    fn unmap(self: Pin<&Self>, req: &UnmapRequest, gather: &mut IotlbGather<'_>) -> Pages {
        let cleared = self
            .space
            .unmap(ioba_range(req.range()))
            .and_then(iova_range);
        if let Some(range) = cleared {
            if gather.is_queued() {
                self.space.withdraw_copies(ioba_range(range));
            } else {
                if gather.is_disjoint(range) {
                    self.iotlb_sync(gather);
                }
                gather.add(range);
            }
        }
        pages(cleared, req.page_size())
    }

    #[inline(always)]
    fn iova_to_phys(self: Pin<&Self>, iova: Iova) -> Option<PhysAddr> {
        self.space.translate(ioba(iova))
    }

    #[inline(always)]
    fn iotlb_sync_map(self: Pin<&Self>, range: IovaRange) -> Result {
        self.space.publish(ioba_range(range))
    }

    #[inline(always)]
    fn iotlb_sync(self: Pin<&Self>, gather: &mut IotlbGather<'_>) {
        if let Some(range) = gather.take() {
            self.space.withdraw(ioba_range(range));
        }
    }

    fn flush_iotlb_all(self: Pin<&Self>) {
        self.space.flush();
    }
}
