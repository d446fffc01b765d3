// SPDX-License-Identifier: GPL-2.0

//! Devices that come to the list of PEs and leave it.

use crate::{
    endpoint::{
        Down,
        Endpoint,
        PeList, //
    },
    layout::cpu_page_shift,
    machine::{
        self,
        Plugged, //
    },
    params::{
        Options,
        PciList, //
    },
    pe::Target,
    space::Space,
    tests::{
        ensure,
        granule,
        map,
        on_all,
        range,
        Rig,
        PHYS,
        WRITE, //
    }, //
};
use kernel::{
    alloc::faults::FailNth,
    device::Device,
    iommu::Group,
    powerpc::owner::DmaOwner::{
        Iommu,
        Nobody,
        Platform, //
    },
    prelude::*,
    sync::{
        aref::ARef,
        Arc, //
    },
    syscore::Shutdown, //
};

/// A list of PEs, and the group of one of them.
struct Bed<'a> {
    rig: &'a Rig,
    pes: Arc<PeList>,
    group: ARef<Group>,
    _plugged: Plugged,
}

impl<'a> Bed<'a> {
    fn new(rig: &'a Rig) -> Result<Self> {
        let group = Group::new()?;
        Ok(Self {
            rig,
            pes: PeList::new(Options {
                max_page: cpu_page_shift()?,
                small_pages: PciList::NONE,
                exclude: PciList::NONE,
                identity: PciList::NONE,
            })?,
            _plugged: machine::plug(rig.dev(), &rig.fake, &group)?,
            group,
        })
    }

    fn plug(&self, dev: &Device) -> Result<Plugged> {
        machine::plug(dev, &self.rig.fake, &self.group)
    }

    fn add(&self, dev: &Device) -> Result<Endpoint> {
        self.pes.add(dev, self.rig.fake.clone())
    }

    /// Has the PE taken over for `join`.
    fn with_pe(&self, in_use: bool, join: impl FnOnce()) -> Result {
        let (dev, pe) = (self.rig.dev(), self.rig.fake.clone());
        // SAFETY: Devices have a driver when a test says so.
        unsafe { self.pes.with_pe(dev, pe, in_use, join) }
    }
}

#[kunit_tests(tce_endpoint)]
mod tests {
    use super::*;

    // While the driver registers, the core offers all devices there are.
    #[test]
    fn nothing_is_taken_too_early() -> Result {
        on_all(|rig| {
            let bed = Bed::new(rig)?;
            ensure(matches!(bed.add(rig.dev()), Err(ENODEV)), "not yet")?;
            assert!(rig.fake.is_as_before());
            bed.pes.open();
            let endpoint = bed.add(rig.dev())?;
            assert!(rig.owner() == Some(Iommu) && !rig.fake.is_platform());
            drop(endpoint);
            assert!(rig.owner() == Some(Platform) && rig.fake.is_as_before());
            Ok(())
        })
    }

    // A device joins the PE that the driver has, and the last one that goes gives it back.
    #[test]
    fn devices_share_a_pe() -> Result {
        on_all(|rig| {
            let bed = Bed::new(rig)?;
            bed.pes.open();
            let first = bed.add(rig.dev())?;
            let sibling = rig.sibling()?;
            let _plugged = bed.plug(sibling.dev())?;
            let second = bed.add(sibling.dev())?;
            assert!(core::ptr::eq(first.pe(), second.pe()));
            let space = Space::new(first.pe().layout())?;
            let at = range(granule(&space), granule(&space));
            map(&space, at, PHYS, WRITE)?;
            // SAFETY: There is no IOMMU group, and no driver.
            unsafe { second.attach(&Target::Paging(&space)) }?;
            assert_eq!(rig.reaches(at.first.get(), true), Some(PHYS));
            drop(first);
            assert!(rig.owner() == Some(Nobody) && sibling.owner() == Some(Iommu));
            assert_eq!(rig.reaches(at.first.get(), true), Some(PHYS));
            let first = bed.add(rig.dev())?;
            assert!(core::ptr::eq(first.pe(), second.pe()));
            drop(second);
            drop(first);
            assert!(rig.fake.is_as_before() && sibling.owner() == Some(Platform));
            // The next one is taken over anew: nobody else may be there then.
            ensure(matches!(bed.add(rig.dev()), Err(EBUSY)), "not alone")
        })
    }

    // A PE that was there before the driver comes with all its devices, or not at all.
    #[test]
    fn taking_over() -> Result {
        on_all(|rig| {
            let bed = Bed::new(rig)?;
            let sibling = rig.sibling()?;
            let _plugged = bed.plug(sibling.dev())?;
            bed.pes.open();
            ensure(bed.with_pe(true, || ()) == Err(EBUSY), "in use")?;
            assert!(rig.fake.is_as_before());
            // Nobody joins: it goes back.
            bed.with_pe(false, || ())?;
            assert!(rig.fake.is_as_before() && rig.owner() == Some(Platform));
            let mut joined = None;
            bed.with_pe(false, || joined = bed.add(rig.dev()).ok())?;
            let first = joined.ok_or(ENODEV)?;
            assert!(rig.owner() == Some(Iommu) && sibling.owner() == Some(Nobody));
            // From here on it is known, whoever is in use.
            let mut joined = None;
            bed.with_pe(true, || joined = bed.add(sibling.dev()).ok())?;
            let second = joined.ok_or(ENODEV)?;
            assert!(core::ptr::eq(first.pe(), second.pe()));
            drop(first);
            bed.with_pe(false, || ())?;
            assert!(!rig.fake.is_platform());
            drop(second);
            assert!(rig.fake.is_as_before());
            Ok(())
        })
    }

    // The list tells the PE which of its devices have a driver.
    #[test]
    fn drivers_are_counted() -> Result {
        on_all(|rig| {
            let bed = Bed::new(rig)?;
            // One that is not on the list is nobody's.
            bed.pes.set_in_use(rig.dev(), true);
            bed.pes.open();
            let endpoint = bed.add(rig.dev())?;
            // SAFETY: There is no IOMMU group, and the test says when a driver is bound.
            let attach = |target: &Target<'_>| unsafe { endpoint.attach(target) };
            bed.pes.set_in_use(rig.dev(), true);
            ensure(attach(&Target::Platform) == Err(EBUSY), "in use")?;
            bed.pes.set_in_use(rig.dev(), false);
            attach(&Target::Platform)?;
            assert!(rig.fake.is_as_before());
            Ok(())
        })
    }

    // After that no device is taken, and none reaches anything.
    #[test]
    fn the_system_goes_down() -> Result {
        on_all(|rig| {
            let bed = Bed::new(rig)?;
            bed.pes.open();
            let endpoint = bed.add(rig.dev())?;
            let space = Space::new(endpoint.pe().layout())?;
            let at = range(granule(&space), granule(&space));
            map(&space, at, PHYS, WRITE)?;
            // SAFETY: There is no IOMMU group, and no driver.
            unsafe { endpoint.attach(&Target::Paging(&space)) }?;
            assert!(rig.reaches(at.first.get(), true).is_some());
            Down(bed.pes.clone()).shutdown();
            assert!(!rig.reaches_any());
            ensure(matches!(bed.add(rig.dev()), Err(ENODEV)), "no more")
        })
    }

    // Without memory for a device, or for what is kept of a PE, the platform has the PE.
    #[test]
    fn every_allocation_fails_once() -> Result {
        on_all(|rig| {
            let bed = Bed::new(rig)?;
            bed.pes.open();
            for n in 0.. {
                let fault = FailNth::new(n);
                let added = bed.add(rig.dev());
                let failed = fault.has_failed();
                drop(fault);
                // What is for people only may be missing.
                if added.is_err() {
                    ensure(rig.fake.is_as_before(), "given back")?;
                    ensure(rig.owner() == Some(Platform), "fields")?;
                } else {
                    ensure(rig.owner() == Some(Iommu), "joined")?;
                }
                drop(added);
                ensure(rig.fake.is_as_before(), "given back at the end")?;
                if !failed {
                    break;
                }
            }
            Ok(())
        })
    }
}
