// SPDX-License-Identifier: GPL-2.0

//! Devices that come to the list of PEs and leave it.

use crate::{
    endpoint::{
        Down,
        Endpoint,
        PeList, //
    },
    fake::{
        Event,
        Model, //
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
        threads::{
            Gate,
            Thread, //
        },
        Rig,
        PHYS,
        WRITE, //
    }, //
};
use kernel::{
    alloc::faults::FailNth,
    device::Device,
    iommu::Group,
    module_param::ModuleParam,
    powerpc::{
        owner::DmaOwner::{
            Iommu,
            Nobody,
            Platform, //
        },
        window::PageShift, //
    },
    prelude::*,
    str::BStr,
    sync::{
        aref::ARef,
        atomic::Relaxed,
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
        Self::with(rig, |_| ())
    }

    /// With what an administrator says.
    fn with(rig: &'a Rig, say: impl FnOnce(&mut Options)) -> Result<Self> {
        let group = Group::new()?;
        let mut options = Options {
            max_page: cpu_page_shift()?,
            small_pages: PciList::NONE,
            exclude: PciList::NONE,
            identity: PciList::NONE,
        };
        say(&mut options);
        Ok(Self {
            rig,
            pes: PeList::new(options)?,
            _plugged: machine::plug(rig.dev(), &rig.fake, &group, false)?,
            group,
        })
    }

    fn plug(&self, dev: &Device) -> Result<Plugged> {
        machine::plug(dev, &self.rig.fake, &self.group, false)
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

/// The list of this device.
fn named(dev: &Device) -> Result<PciList> {
    PciList::try_from_param_arg(BStr::from_bytes(dev.name().to_bytes()))
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

    // The arch code sets up a PE for the first device of a bus that is no bridge.
    #[test]
    fn bridges_come_before_their_pe() -> Result {
        on_all(|rig| {
            let bed = Bed::new(rig)?;
            let bridge = rig.sibling()?;
            let _plugged = machine::plug(bridge.dev(), &rig.fake, &bed.group, true)?;
            bed.pes.open();
            rig.fake.set_in_use(bridge.dev(), true);
            ensure(matches!(bed.add(rig.dev()), Err(EBUSY)), "in use")?;
            assert!(rig.fake.is_as_before() && bridge.owner() == Some(Platform));
            rig.fake.set_in_use(bridge.dev(), false);
            for n in 0.. {
                let fault = FailNth::new(n);
                let added = bed.add(rig.dev());
                let failed = fault.has_failed();
                drop(fault);
                let owners = (rig.owner(), bridge.owner());
                match added {
                    Ok(_) => assert_eq!(owners, (Some(Iommu), Some(Nobody))),
                    Err(_) => assert_eq!(owners, (Some(Platform), Some(Platform))),
                }
                drop(added);
                assert!(rig.fake.is_as_before() && bridge.owner() == Some(Platform));
                if !failed {
                    break;
                }
            }
            Ok(())
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
            // SAFETY: Drivers bind when the test says so.
            let set_in_use = |in_use| unsafe { bed.pes.set_in_use(rig.dev(), in_use) };
            // One that is not on the list is nobody's.
            set_in_use(true);
            assert!(!bed.pes.is_in_use(rig.dev()));
            bed.pes.open();
            let endpoint = bed.add(rig.dev())?;
            // SAFETY: There is no IOMMU group, and the test says when a driver is bound.
            let attach = |target: &Target<'_>| unsafe { endpoint.attach(target) };
            set_in_use(true);
            assert!(bed.pes.is_in_use(rig.dev()));
            ensure(attach(&Target::Platform) == Err(EBUSY), "in use")?;
            set_in_use(false);
            assert!(!bed.pes.is_in_use(rig.dev()));
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

    // A map is about to publish when the windows are to be closed.
    #[test]
    fn the_system_goes_down_after_the_last_map() -> Result {
        let rig = Rig::new(Model::PSERIES)?;
        let bed = Bed::new(&rig)?;
        bed.pes.open();
        let endpoint = bed.add(rig.dev())?;
        let space = Space::new(endpoint.pe().layout())?;
        // SAFETY: There is no IOMMU group, and no driver.
        unsafe { endpoint.attach(&Target::Paging(&space)) }?;
        let at = range(granule(&space), granule(&space));
        let gate = Gate::new(Event::Set(at.first))?;
        gate.put_up(&rig)?;
        let other = {
            let space = space.clone();
            Thread::spawn(move || {
                map(&space, at, PHYS, WRITE).ok();
            })?
        };
        gate.arrived.wait_for_completion();
        Down(bed.pes.clone()).shutdown();
        gate.open.store(true, Relaxed);
        other.join();
        rig.fake.hook(None);
        ensure(!rig.reaches_any(), "closed for the last map too")
    }

    // What is said when the driver is loaded is for the PEs that are named.
    #[test]
    fn excluded_or_with_the_platform() -> Result {
        on_all(|rig| {
            let named = named(rig.dev())?;
            let bed = Bed::with(rig, |options| options.exclude = named)?;
            assert!(named.missing().next().is_none());
            bed.pes.open();
            ensure(matches!(bed.add(rig.dev()), Err(ECANCELED)), "excluded")?;
            assert!(rig.fake.is_as_before() && rig.owner() == Some(Platform));
            drop(bed);
            let bed = Bed::with(rig, |options| options.identity = named)?;
            bed.pes.open();
            let endpoint = bed.add(rig.dev())?;
            assert!(endpoint.wants_platform() && rig.fake.is_as_before());
            // Who attaches a domain has chosen.
            // SAFETY: There is no IOMMU group, and no driver.
            unsafe { endpoint.attach(&Target::Platform) }?;
            ensure(!endpoint.wants_platform(), "chosen")
        })
    }

    #[test]
    fn small_pages_are_for_those_that_are_named() -> Result {
        let rig = Rig::new(Model::PHB4)?;
        let named = named(rig.dev())?;
        let bed = Bed::new(&rig)?;
        bed.pes.open();
        let granule = bed.add(rig.dev())?.pe().layout().granule();
        assert_eq!(granule, cpu_page_shift()?);
        drop(bed);
        let bed = Bed::with(&rig, |options| options.small_pages = named)?;
        bed.pes.open();
        let granule = bed.add(rig.dev())?.pe().layout().granule();
        assert_eq!(granule, PageShift::SHIFT_4K);
        Ok(())
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
