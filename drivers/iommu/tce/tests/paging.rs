// SPDX-License-Identifier: GPL-2.0

//! What the IOMMU core asks of a paging domain.

use crate::{
    domain::paging::Paging,
    fake::Model,
    pe::{
        Pe,
        Target, //
    },
    tests::{
        ensure,
        on_all,
        Rig,
        HIGH,
        PHYS, //
    }, //
};
use kernel::{
    iommu::{
        Geometry,
        IotlbGather,
        Iova,
        IovaRange,
        MapError,
        MapRequest,
        PageSize,
        Pages,
        PagingOps,
        Prot,
        ProtFlag,
        UnmapRequest, //
    },
    page::PAGE_SIZE,
    powerpc::window::Firmware as Kind,
    prelude::*,
    sync::{
        atomic::{
            Atomic,
            Relaxed, //
        },
        Arc, //
    }, //
};

/// A domain that a PE is attached to.
struct Bed<'a> {
    rig: &'a Rig,
    pe: Arc<Pe<crate::fake::Fake>>,
    geometry: Geometry,
    domain: Pin<KBox<Paging>>,
    page: PageSize,
}

const RW: ProtFlag = ProtFlag::Write;

impl<'a> Bed<'a> {
    fn new(rig: &'a Rig) -> Result<Self> {
        let pe = rig.pe()?;
        let (geometry, domain) = Paging::for_windows(pe.layout(), || RAM.load(Relaxed))?;
        let domain = KBox::pin(domain, GFP_KERNEL)?;
        rig.attach(&pe, &domain.target())?;
        let page = geometry.pages.smallest();
        Ok(Self {
            rig,
            pe,
            geometry,
            domain,
            page,
        })
    }

    /// The number of bytes of `n` pages.
    fn pages(&self, n: u64) -> u64 {
        n * self.page.bytes()
    }

    fn prot_request(&self, page: u64, count: usize, phys: u64, prot: Prot) -> Result<MapRequest> {
        let iova = Iova::new(self.pages(page));
        let pages = Pages::new(count);
        MapRequest::new(
            &self.geometry,
            iova,
            phys,
            self.page,
            pages,
            prot,
            GFP_KERNEL,
        )
    }

    fn request(&self, page: u64, count: usize, phys: u64) -> Result<MapRequest> {
        self.prot_request(page, count, phys, ProtFlag::Read | RW)
    }

    fn unmap_request(&self, page: u64, count: usize) -> Result<UnmapRequest> {
        let iova = Iova::new(self.pages(page));
        UnmapRequest::new(&self.geometry, iova, self.page, Pages::new(count))
    }

    fn range(&self, page: u64, count: u64) -> Result<IovaRange> {
        IovaRange::from_len(Iova::new(self.pages(page)), self.pages(count)).ok_or(EINVAL)
    }

    /// Maps pages, and publishes them as the core does.
    fn map(&self, page: u64, count: usize) -> Result {
        let req = self.request(page, count, PHYS + self.pages(page))?;
        let domain = self.domain.as_ref();
        if !domain.try_map(&req) {
            domain.map(&req).map_err(|e| e.error)?;
        }
        domain.iotlb_sync_map(req.range())
    }

    /// What a device reaches at a page, after it has looked there.
    fn reaches(&self, page: u64) -> bool {
        let phys = self.rig.reaches(self.pages(page), true);
        assert!(phys.is_none() || phys == Some(PHYS + self.pages(page)));
        phys.is_some()
    }

    /// How often firmware was called.
    fn calls(&self) -> usize {
        self.rig.fake.hcalls() + self.rig.fake.kills()
    }
}

/// Where memory ends: above [`PHYS`], with room for what the tests map.
const MAX_RAM: u64 = PHYS + (1 << 32);

/// The same, but for tests that add memory.
static RAM: Atomic<u64> = Atomic::new(MAX_RAM);

#[kunit_tests(tce_paging)]
mod tests {
    use super::*;

    #[test]
    fn geometry_is_that_of_the_windows() -> Result {
        on_all(|rig| {
            let bed = Bed::new(rig)?;
            let layout = bed.pe.layout();
            let (aperture, low) = (bed.geometry.aperture, bed.geometry.low);
            assert_eq!(aperture.first().get(), layout.aperture().first.get());
            assert_eq!(aperture.last().get(), layout.aperture().last.get());
            assert_eq!(bed.page.bytes(), layout.granule().bytes());
            let cpu = PageSize::from_bytes(PAGE_SIZE as u64).ok_or(EINVAL)?;
            assert!(bed.geometry.pages.contains(cpu));
            let Some(low) = low else {
                assert!(layout.high_start().is_none());
                return Ok(());
            };
            assert!(layout.high_start().map(|at| at.get()) == Some(low.high_start.get()));
            assert_eq!(low.page.bytes(), layout.low_granule().bytes());
            let preferred = layout.preferred_last(MAX_RAM).map(|at| at.get());
            assert!(low.preferred_last.map(Iova::get) == preferred);
            Ok(())
        })?;
        let rig = Rig::new(Model {
            one_window: true,
            ..Model::PSERIES
        })?;
        assert_eq!(Bed::new(&rig)?.geometry.aperture.first().get(), HIGH);
        Ok(())
    }

    // A quick map and an ordinary one do the same, with the same permissions.
    #[test]
    fn both_ways_to_map() -> Result {
        on_all(|rig| {
            let bed = Bed::new(rig)?;
            let domain = bed.domain.as_ref();
            bed.map(3, 1)?;
            for (n, prot) in [
                Prot::from(ProtFlag::Read),
                ProtFlag::Write.into(),
                ProtFlag::Read | ProtFlag::Write,
            ]
            .into_iter()
            .enumerate()
            {
                let (quick, slow) = (10 + 2 * n as u64, 11 + 2 * n as u64);
                let req = bed.prot_request(quick, 1, PHYS, prot)?;
                assert!(domain.try_map(&req));
                domain.iotlb_sync_map(req.range())?;
                let req = bed.prot_request(slow, 1, PHYS, prot)?;
                assert!(domain.map(&req).is_ok());
                domain.iotlb_sync_map(req.range())?;
                for page in [quick, slow] {
                    // Who may write may read.
                    assert_eq!(rig.reaches(bed.pages(page), false), Some(PHYS));
                    let written = rig.reaches(bed.pages(page), true);
                    assert_eq!(written, prot.contains(ProtFlag::Write).then_some(PHYS));
                    let at = Iova::new(bed.pages(page) + 0x123);
                    assert_eq!(domain.iova_to_phys(at), Some(PHYS + 0x123));
                }
            }
            assert!(domain.iova_to_phys(Iova::new(bed.pages(9))).is_none());
            assert!(domain.iova_to_phys(Iova::new(1 << 58)).is_none());
            Ok(())
        })
    }

    // MMIO cannot be told from memory by its flag: type1 sets none.
    #[test]
    fn tces_lead_to_memory() -> Result {
        on_all(|rig| {
            let bed = Bed::new(rig)?;
            let domain = bed.domain.as_ref();
            let end = MAX_RAM & !(bed.page.bytes() - 1);
            let papr = rig.model.kind == Kind::Papr;
            bed.map(3, 1)?;
            let tried = |page, count, phys, prot| {
                let quick = domain.try_map(&bed.prot_request(page, count, phys, prot)?);
                let req = bed.prot_request(page + 2, count, phys, prot)?;
                Ok::<_, Error>((quick, domain.map(&req).is_ok()))
            };
            let rw = ProtFlag::Read | ProtFlag::Write;
            let last = end - bed.page.bytes();
            assert!(tried(4, 1, last, rw)? == (true, true));
            // A hypervisor knows, and says so when it is told.
            assert!(tried(8, 1, end, rw)? == (papr, papr));
            // Two pages may be too many for the quick way.
            let (quick, slow) = tried(12, 2, last, rw)?;
            assert!(slow == papr && (papr || !quick));
            assert!(tried(16, 1, PHYS, ProtFlag::Read | ProtFlag::Mmio)? == (false, false));
            assert!(domain.iova_to_phys(Iova::new(bed.pages(16))).is_none());
            Ok(())
        })
    }

    #[test]
    fn tces_lead_to_added_memory() -> Result {
        on_all(|rig| {
            let bed = Bed::new(rig)?;
            let domain = bed.domain.as_ref();
            let end = MAX_RAM & !(bed.page.bytes() - 1);
            let rw = ProtFlag::Read | ProtFlag::Write;
            RAM.store(MAX_RAM + (1 << 30), Relaxed);
            let mapped = domain.map(&bed.prot_request(4, 1, end, rw)?);
            let after = domain.map(&bed.prot_request(6, 1, end + (1 << 30), rw)?);
            RAM.store(MAX_RAM, Relaxed);
            let papr = rig.model.kind == Kind::Papr;
            ensure(mapped.is_ok() && after.is_ok() == papr, "its end is known")
        })
    }

    // Unmaps in a row are one sync, and until then nothing is asked of firmware.
    #[test]
    fn neighbours_are_gathered() -> Result {
        on_all(|rig| {
            let bed = Bed::new(rig)?;
            let domain = bed.domain.as_ref();
            bed.map(3, 6)?;
            assert!((3..9).all(|page| bed.reaches(page)));
            IotlbGather::with_new(false, |gather| {
                let before = bed.calls();
                // Upwards, downwards, the quick way and the other one.
                assert!(domain.try_unmap(&bed.unmap_request(5, 1)?, gather));
                assert_eq!(domain.unmap(&bed.unmap_request(6, 2)?, gather).get(), 2);
                assert_eq!(domain.unmap(&bed.unmap_request(4, 1)?, gather).get(), 1);
                assert_eq!(bed.calls(), before);
                assert!(gather.range() == Some(bed.range(4, 4)?));
                domain.iotlb_sync(gather);
                assert!(bed.calls() > before);
                assert!(gather.range().is_none());
                let before = bed.calls();
                domain.iotlb_sync(gather);
                assert_eq!(bed.calls(), before);
                Ok::<_, Error>(())
            })?;
            assert!((3..9).all(|page| bed.reaches(page) == (page == 3 || page == 8)));
            Ok(())
        })
    }

    // What lies between two unmaps is in use, so the first is synced before the second is added.
    #[test]
    fn a_gap_is_not_gathered() -> Result {
        on_all(|rig| {
            let bed = Bed::new(rig)?;
            let domain = bed.domain.as_ref();
            for above in [true, false] {
                let (first, second) = if above { (4, 6) } else { (6, 4) };
                bed.map(4, 3)?;
                assert!((4..7).all(|page| bed.reaches(page)));
                IotlbGather::with_new(false, |gather| {
                    let _ = domain.unmap(&bed.unmap_request(first, 1)?, gather);
                    let req = bed.unmap_request(second, 1)?;
                    assert!(!domain.try_unmap(&req, gather));
                    assert!(bed.reaches(second));
                    assert_eq!(domain.unmap(&req, gather).get(), 1);
                    assert!(!bed.reaches(first));
                    assert!(gather.range() == Some(bed.range(second, 1)?));
                    domain.iotlb_sync(gather);
                    Ok::<_, Error>(())
                })?;
                assert!((4..7).all(|page| bed.reaches(page) == (page == 5)));
                IotlbGather::with_new(false, |gather| {
                    let _ = domain.unmap(&bed.unmap_request(5, 1)?, gather);
                    domain.iotlb_sync(gather);
                    Ok::<_, Error>(())
                })?;
            }
            Ok(())
        })
    }

    // With a flush queue nothing is gathered: kills wait for the flush, copies are withdrawn.
    #[test]
    fn queued_unmaps() -> Result {
        on_all(|rig| {
            let bed = Bed::new(rig)?;
            let domain = bed.domain.as_ref();
            let papr = rig.model.kind == Kind::Papr;
            bed.map(4, 2)?;
            assert!((4..6).all(|page| bed.reaches(page)));
            IotlbGather::with_new(true, |gather| {
                let req = bed.unmap_request(4, 1)?;
                assert_eq!(domain.try_unmap(&req, gather), !papr);
                if papr {
                    assert!(bed.reaches(4));
                    assert_eq!(domain.unmap(&req, gather).get(), 1);
                }
                assert_eq!(domain.unmap(&bed.unmap_request(5, 1)?, gather).get(), 1);
                assert!(gather.range().is_none());
                Ok::<_, Error>(())
            })?;
            assert!((4..6).all(|page| bed.reaches(page) != papr));
            domain.flush_iotlb_all();
            assert!((4..6).all(|page| !bed.reaches(page)));
            Ok(())
        })
    }

    // An unmap says how far it came, and a map that failed as well.
    #[test]
    fn pages_are_counted() -> Result {
        on_all(|rig| {
            let bed = Bed::new(rig)?;
            let domain = bed.domain.as_ref();
            bed.map(3, 2)?;
            bed.map(6, 1)?;
            IotlbGather::with_new(false, |gather| {
                let all = bed.unmap_request(3, 4)?;
                assert!(!domain.try_unmap(&all, gather));
                assert_eq!(domain.unmap(&all, gather).get(), 2);
                assert!(gather.range() == Some(bed.range(3, 2)?));
                domain.iotlb_sync(gather);
                // Nothing is mapped there, and nothing is gathered.
                assert_eq!(domain.unmap(&all, gather).get(), 0);
                assert!(gather.range().is_none());
                Ok::<_, Error>(())
            })?;
            assert!(bed.reaches(6) && !bed.reaches(3));
            // Up to the border of two leaves, and no further for want of memory.
            let layout = bed.pe.layout();
            let (_, low) = layout.windows().next().ok_or(EINVAL)?;
            let first = (512 << low.shift.get()) / bed.page.bytes() - 16;
            bed.map(first, 1)?;
            IotlbGather::with_new(false, |gather| {
                let _ = domain.unmap(&bed.unmap_request(first, 1)?, gather);
                domain.iotlb_sync(gather);
                Ok::<_, Error>(())
            })?;
            let req = bed.request(first, 0x40, PHYS)?;
            assert!(!domain.try_map(&req));
            let fault = kernel::alloc::faults::FailNth::new(0);
            let result = domain.map(&req);
            drop(fault);
            match result {
                Err(MapError { error, mapped }) => ensure(
                    error == ENOMEM && mapped.get() == 16,
                    "as far as the border",
                ),
                Ok(()) => ensure(false, "no memory"),
            }
        })
    }

    // A domain serves the high addresses too, and no request leaves its window.
    #[test]
    fn high_addresses() -> Result {
        on_all(|rig| {
            let bed = Bed::new(rig)?;
            if bed.pe.layout().windows().count() == 1 {
                return Ok(());
            }
            let page = HIGH / bed.page.bytes();
            let req = bed.request(page, 2, PHYS)?;
            let domain = bed.domain.as_ref();
            assert!(domain.map(&req).is_ok());
            domain.iotlb_sync_map(req.range())?;
            assert_eq!(
                rig.reaches(HIGH + bed.pages(1), true),
                Some(PHYS + bed.pages(1))
            );
            let across = bed.request(page - 1, 2, PHYS)?;
            assert!(!domain.try_map(&across) && domain.map(&across).is_err());
            rig.attach(&bed.pe, &Target::Blocked)?;
            assert!(rig.reaches(HIGH, true).is_none());
            Ok(())
        })
    }
}
