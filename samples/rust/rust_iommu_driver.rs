// SPDX-License-Identifier: GPL-2.0

//! Rust sample of an IOMMU driver.
//!
//! The IOMMU is imaginary, and so are its devices: [`Unit`] and [`Table`] are what the hardware
//! would be. It finds the table of a device by a number, as others do by a requester ID, and it
//! remembers entries that it has read until it is told to forget them. Below that begins what any
//! driver has. `Documentation/driver-api/iommu-rust.rst` goes through it.

use kernel::{
    device::Device,
    io::PhysAddr,
    iommu::*,
    new_spinlock,
    prelude::*,
    sync::{
        aref::ARef,
        atomic::{
            Atomic,
            Relaxed, //
        },
        Arc,
        SpinLock, //
    },
};

const PAGE_SHIFT: u32 = 12;
/// The aperture: 1 MiB at 1 MiB.
const FIRST: u64 = 1 << 20;
const PAGES: usize = 256;
const DEVICES: usize = 2;

/// An entry of a table is an address with these bits, or 0.
const READ: u64 = 1;
const WRITE: u64 = 2;
const OFFSET: u64 = (1 << PAGE_SHIFT) - 1;

/// One page: its entry, and what the hardware remembers of it.
struct Page {
    entry: Atomic<u64>,
    remembered: Atomic<u64>,
}

/// A translation table.
struct Table {
    pages: [Page; PAGES],
}

impl Table {
    fn page(&self, iova: Iova) -> Option<&Page> {
        let number = iova.get().checked_sub(FIRST)? >> PAGE_SHIFT;
        self.pages.get(usize::try_from(number).ok()?)
    }

    /// What the hardware does for each access.
    fn translate(&self, iova: Iova, access: u64) -> Option<PhysAddr> {
        let page = self.page(iova)?;

        if page.remembered.load(Relaxed) == 0 {
            page.remembered.store(page.entry.load(Relaxed), Relaxed);
        }
        let entry = page.remembered.load(Relaxed);
        (entry & access == access).then_some(entry & !OFFSET | iova.get() & OFFSET)
    }

    fn forget(&self, range: IovaRange) {
        let pages = (range.first().get()..=range.last().get()).step_by(1 << PAGE_SHIFT);
        for page in pages.filter_map(|addr| self.page(Iova::new(addr))) {
            page.remembered.store(0, Relaxed);
        }
    }
}

/// What a device may do.
enum Reach {
    Nothing,
    All,
    Mapped(Arc<Table>),
}

/// The IOMMU, with what it has been told of each device.
#[pin_data]
struct Unit {
    #[pin]
    devices: SpinLock<[Reach; DEVICES]>,
    faults: Atomic<usize>,
}

impl Unit {
    fn new() -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            devices <- new_spinlock!([const { Reach::Nothing }; DEVICES]),
            faults: Atomic::new(0),
        })
    }

    fn set(&self, number: usize, reach: Reach) {
        if let Some(device) = self.devices.lock().get_mut(number) {
            *device = reach;
        }
    }

    /// An access of a device. A driver of real hardware would hear of a fault by an interrupt.
    fn access(&self, number: usize, iova: Iova, access: u64) -> Option<PhysAddr> {
        let found = match self.devices.lock().get(number)? {
            Reach::Nothing => None,
            Reach::All => Some(iova.get()),
            Reach::Mapped(table) => table.translate(iova, access),
        };
        if found.is_none() {
            self.faults.add(1, Relaxed);
            pr_info!("device {number} must not access {:#x}\n", iova.get());
        }
        found
    }
}

/// The driver.
struct Sample;

/// What it keeps for a device: its number.
struct Number(usize);

#[vtable]
impl Driver for Sample {
    type Instance = Unit;
    type Endpoint = Number;
    type Paging = Paging;

    fn probe_device<'p>(
        dev: &Device,
        mut all: Instances<'p, Self>,
    ) -> Result<(&'p Instance<Self>, impl PinInit<Number, Error>)> {
        let number = match dev.name().to_bytes() {
            b"rust-iommu-sample.0" => 0,
            b"rust-iommu-sample.1" => 1,
            _ => return Err(ENODEV),
        };
        Ok((all.next().ok_or(ENODEV)?, Ok(Number(number))))
    }

    fn device_group(_ctx: &EndpointCtx<'_, Self>) -> Result<ARef<Group>> {
        // The IOMMU tells all devices apart.
        Group::new()
    }

    fn default_domain(_ctx: &EndpointCtx<'_, Self>) -> DefaultDomain {
        DefaultDomain::Dma
    }

    fn reserved_regions(_ctx: &EndpointCtx<'_, Self>, _out: &mut ReservedRegions<'_>) {}

    fn capable(_ctx: &EndpointCtx<'_, Self>, cap: Cap) -> bool {
        matches!(cap, Cap::CacheCoherency | Cap::DeferredFlush)
    }

    fn release_device(ctx: &EndpointCtx<'_, Self>) {
        reach(ctx, Reach::Nothing);
    }
}

/// Tells the IOMMU what the device may do from now on.
fn reach(ctx: &EndpointCtx<'_, Sample>, reach: Reach) {
    let Number(number) = *ctx.endpoint();
    ctx.instance().data().set(number, reach);
}

struct NoAccess;

// SAFETY: The IOMMU refuses every access of a device that reaches nothing.
unsafe impl StaticOps for NoAccess {
    type Kind = Blocked;
    type Driver = Sample;

    fn attach(ctx: &AttachCtx<'_, Sample>) -> Result {
        reach(ctx, Reach::Nothing);
        Ok(())
    }
}

struct Direct;

// SAFETY: The IOMMU takes addresses as they are, and consults no table.
unsafe impl StaticOps for Direct {
    type Kind = Identity;
    type Driver = Sample;

    fn attach(ctx: &AttachCtx<'_, Sample>) -> Result {
        reach(ctx, Reach::All);
        Ok(())
    }
}

/// A paging domain. The IOMMU may still look at the table when the domain is gone.
struct Paging(Arc<Table>);

// SAFETY: An entry is there from `map` to `unmap`, and forgotten by `iotlb_sync` or by
// `flush_iotlb_all`. A device looks at no table but that of the last attach, and at none when it
// was released.
#[vtable]
unsafe impl PagingOps for Paging {
    type Driver = Sample;

    fn new(_ctx: &EndpointCtx<'_, Sample>) -> Result<(Geometry, impl PinInit<Self, Error>)> {
        // CAST: Both are constants.
        let bytes = (PAGES as u64) << PAGE_SHIFT;
        let geometry = Geometry {
            pages: PageSizes::of(PageSize::from_shift(PAGE_SHIFT).ok_or(EINVAL)?),
            aperture: IovaRange::from_len(Iova::new(FIRST), bytes).ok_or(EINVAL)?,
            low: None,
        };
        let table = init!(Table {
            pages <- pin_init::init_array_from_fn(|_| Page {
                entry: Atomic::new(0),
                remembered: Atomic::new(0),
            }),
        });
        Ok((geometry, Ok(Self(Arc::init(table, GFP_KERNEL)?))))
    }

    fn attach(self: Pin<&Self>, ctx: &AttachCtx<'_, Sample>) -> Result {
        reach(ctx, Reach::Mapped(self.0.clone()));
        Ok(())
    }

    fn map(self: Pin<&Self>, req: &MapRequest) -> Result<(), MapError> {
        let mut bits = 0;
        for (flag, bit) in [(ProtFlag::Read, READ), (ProtFlag::Write, WRITE)] {
            bits |= if req.prot().contains(flag) { bit } else { 0 };
        }
        for (iova, paddr) in req.pages() {
            if let Some(page) = self.0.page(iova) {
                page.entry.store(paddr | bits, Relaxed);
            }
        }
        Ok(())
    }

    fn unmap(self: Pin<&Self>, req: &UnmapRequest, gather: &mut IotlbGather<'_>) -> Pages {
        let pages = (req.range().first().get()..).step_by(1 << PAGE_SHIFT);
        let present = pages
            .take(req.count().get())
            .map_while(|addr| self.0.page(Iova::new(addr)))
            .take_while(|page| page.entry.xchg(0, Relaxed) != 0);
        let count = present.count();

        gather.add(req.range());
        Pages::new(count)
    }

    fn iotlb_sync(self: Pin<&Self>, gather: &mut IotlbGather<'_>) {
        if let Some(range) = gather.take() {
            self.0.forget(range);
        }
    }

    fn flush_iotlb_all(self: Pin<&Self>) {
        for page in &self.0.pages {
            page.remembered.store(0, Relaxed);
        }
    }

    fn iova_to_phys(self: Pin<&Self>, iova: Iova) -> Option<PhysAddr> {
        let entry = self.0.page(iova)?.entry.load(Relaxed);
        (entry != 0).then_some(entry & !OFFSET | iova.get() & OFFSET)
    }
}

static BLOCKED: StaticDomain<NoAccess> = StaticDomain::new();
static DIRECT: StaticDomain<Direct> = StaticDomain::new();
static OPS: Ops<Sample> = Ops::new().blocked(&BLOCKED).identity(&DIRECT);

struct SampleModule {
    _unit: Registration<Sample>,
}

impl kernel::Module for SampleModule {
    fn init(_module: &'static ThisModule) -> Result<Self> {
        let unit = Unregistered::new(Unit::new(), 0)?;
        Ok(Self {
            _unit: unit.register(&OPS, None, fmt!("rust-iommu-sample"))?,
        })
    }
}

module! {
    type: SampleModule,
    name: "rust_iommu_driver",
    authors: ["TCE IOMMU maintainers"],
    description: "Rust sample of an IOMMU driver",
    license: "GPL",
}

#[kunit_tests(rust_iommu_driver)]
mod tests {
    use super::*;
    use kernel::{
        dma::Coherent,
        iommu::testing::{
            Devices,
            Domain, //
        }, //
    };

    /// An IOMMU with its devices, which go first.
    struct Machine {
        devices: Devices,
        unit: Registration<Sample>,
    }

    impl Machine {
        fn new() -> Result<Self> {
            let unit = Unregistered::new(Unit::new(), 0)?;
            Ok(Self {
                unit: unit.register(&OPS, None, fmt!("rust-iommu-test"))?,
                devices: Devices::new(c"rust-iommu-sample", DEVICES)?,
            })
        }

        fn access(&self, number: usize, addr: u64, access: u64) -> Option<PhysAddr> {
            let unit = self.unit.instance().data();
            unit.access(number, Iova::new(addr), access)
        }
    }

    #[test]
    fn device_reaches_what_is_mapped() -> Result {
        let machine = Machine::new()?;
        let dev = machine.devices.get(0)?;
        let domain = Domain::new(dev)?;
        let attached = domain.attach(dev)?;
        let addr = FIRST + 0x3000;
        let range = IovaRange::from_len(Iova::new(addr), 0x2000).ok_or(EINVAL)?;

        assert_eq!(machine.access(0, addr, READ), None);
        // SAFETY: The devices do not exist.
        unsafe { domain.map(range.first(), 0x5_0000, 0x2000, ProtFlag::Read.into()) }?;
        assert_eq!(machine.access(0, addr + 0x1008, READ), Some(0x5_1008));
        assert_eq!(machine.access(0, addr + 0x2000, READ), None);
        assert_eq!(machine.access(0, addr, WRITE), None);
        assert_eq!(machine.access(1, addr, READ), None);

        // The IOMMU has seen this page, and must have forgotten it.
        assert_eq!(domain.unmap(range), 0x2000);
        assert_eq!(machine.access(0, addr + 0x1008, READ), None);
        assert_eq!(machine.unit.instance().data().faults.load(Relaxed), 5);

        // Other domain, other table.
        drop(attached);
        // SAFETY: As above.
        unsafe { domain.map(range.first(), 0x5_0000, 0x2000, ProtFlag::Read.into()) }?;
        assert_eq!(machine.access(0, addr, READ), None);
        Ok(())
    }

    #[test]
    #[cfg(CONFIG_IOMMU_DMA)]
    fn dma_api_maps_buffers() -> Result {
        let machine = Machine::new()?;
        let buffer = Coherent::<[u64; 64]>::zeroed(machine.devices.get(1)?, GFP_KERNEL)?;
        let addr = buffer.dma_address();

        assert!(machine.access(1, addr, READ | WRITE).is_some());
        assert!(machine.access(0, addr, READ).is_none());
        drop(buffer);
        assert!(machine.access(1, addr, READ).is_none());
        Ok(())
    }
}
