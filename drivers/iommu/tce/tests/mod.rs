// SPDX-License-Identifier: GPL-2.0

//! The suites, and what they share.

mod endpoint;
mod faults;
mod layout;
mod lent;
mod memory;
mod orders;
mod paging;
mod params;
mod pe;
mod process;
mod races;
mod random;
mod shutdown;
mod space;
mod state;
mod table;
mod threads;
mod windows;

use crate::{
    fake::{
        Fake,
        Model, //
    },
    firmware::Common,
    layout::{
        cpu_page_shift,
        IobaRange, //
    },
    pe::{
        Pe,
        Start,
        Target, //
    },
    space::Space, //
};
use kernel::{
    device::Device,
    faux,
    powerpc::{
        owner::DmaOwner,
        window::{
            Firmware as Kind,
            Ioba,
            PageShift,
            Tce, //
        }, //
    },
    prelude::*,
    str::CString,
    sync::{
        atomic::{
            Atomic,
            Relaxed, //
        },
        Arc, //
    }, //
};

/// Every machine that differs for the driver.
const MODELS: [Model; 6] = [
    Model::PSERIES,
    Model {
        ddw: false,
        ..Model::PSERIES
    },
    ONE_BY_ONE,
    Model::PHB3,
    Model::PHB4,
    Model {
        small_pages: true,
        ..Model::PHB4
    },
];

/// A hypervisor that takes no lists.
const ONE_BY_ONE: Model = Model {
    multi_tce: false,
    ..Model::PSERIES
};

/// What a mapping allows.
#[derive(Clone, Copy)]
struct Access {
    write: bool,
}

impl Access {
    /// The TCE of a page.
    fn tce(self, phys: u64) -> Tce {
        Tce::from_parts(phys, true, self.write)
    }
}

const READ: Access = Access { write: false };
const WRITE: Access = Access { write: true };

/// The lowest bus address of the high window.
const HIGH: u64 = 1 << 59;
/// A physical address that is nobody's.
const PHYS: u64 = 0x6_1234_0000;

/// Runs `f` on a fresh PE of every machine.
fn on_all(mut f: impl FnMut(&Rig) -> Result) -> Result {
    MODELS.into_iter().try_for_each(|model| {
        let rig = Rig::new(model)?;
        f(&rig)?;
        rig.check()
    })
}

/// Runs `f` with 0, 1 and so on, each time on a fresh PE, until it returns `false`.
///
/// Machines with a call for each TCE are left out: a sweep over all calls would take minutes.
/// Where kmemleak looks on it is every third number: a test must not look like a task that hangs.
fn sweep(mut f: impl FnMut(&Rig, u32) -> Result<bool>) -> Result {
    let fast = |model: &Model| model.multi_tce || model.kind == Kind::Ioda;
    MODELS.into_iter().filter(fast).try_for_each(|model| {
        let step = if cfg!(CONFIG_DEBUG_KMEMLEAK) { 3 } else { 1 };
        for n in (0..).step_by(step) {
            let rig = Rig::new(model)?;
            let more = f(&rig, n).inspect_err(|_| pr_err!("number {n} of a sweep\n"))?;
            rig.check()?;
            if !more {
                pr_info!("a sweep of {n}\n");
                break;
            }
        }
        Ok(())
    })
}

/// Fails the test unless `cond` holds. Other than an assertion it lets destructors run.
fn ensure(cond: bool, what: &str) -> Result {
    if cond {
        return Ok(());
    }
    pr_err!("not so: {what}\n");
    Err(EPROTO)
}

/// A device with a name that no other has: a test that fails leaves its own behind. It is one that
/// a PCI device could have.
fn new_device() -> Result<faux::Registration> {
    static NUMBER: Atomic<u32> = Atomic::new(0);

    let number = NUMBER.fetch_add(1, Relaxed);
    let name = CString::try_from_fmt(fmt!("7ce{number:05x}:00:00.0"))?;
    faux::Registration::new(&name, None)
}

/// A PE with one device, and the firmware below it.
struct Rig {
    model: Model,
    dev: faux::Registration,
    fake: Arc<Fake>,
    common: Arc<Common>,
}

impl Rig {
    fn new(model: Model) -> Result<Self> {
        let max_page = if model.small_pages {
            PageShift::SHIFT_4K
        } else {
            cpu_page_shift()?
        };
        let (dev, fake) = (new_device()?, Fake::new(model)?);
        fake.add_device(dev.as_ref().as_ref())?;
        Ok(Self {
            model,
            dev,
            fake,
            common: Common::new(max_page)?,
        })
    }

    /// Whether the driver kept to the interface.
    fn check(&self) -> Result {
        ensure(self.fake.sins() == 0, "no violation of the interface")
    }

    fn dev(&self) -> &Device {
        self.dev.as_ref().as_ref()
    }

    /// Another device of the PE.
    fn sibling(&self) -> Result<Sibling<'_>> {
        let dev = new_device()?;
        self.fake.add_device(dev.as_ref().as_ref())?;
        Ok(Sibling { rig: self, dev })
    }

    /// Who maps the DMA of the device.
    fn owner(&self) -> Option<DmaOwner> {
        self.fake.owner(self.dev()).map(|(owner, _)| owner)
    }

    /// Takes the PE over, without its device.
    fn start(&self, start: Start) -> Result<Arc<Pe<Fake>>> {
        // SAFETY: No driver is bound to a device of the PE.
        unsafe { Pe::new(self.fake.clone(), self.dev(), self.common.clone(), start) }
    }

    fn join(&self, pe: &Pe<Fake>) -> Result {
        // SAFETY: The device has no driver.
        unsafe { pe.join(self.dev()) }
    }

    fn leave(&self, pe: &Pe<Fake>) -> bool {
        // SAFETY: The device has no driver.
        unsafe { pe.leave(self.dev()) }
    }

    fn attach(&self, pe: &Pe<Fake>, target: &Target<'_>) -> Result {
        // SAFETY: There is no IOMMU group, and drivers bind when the test says so.
        unsafe { pe.attach(self.dev(), target) }
    }

    fn set_in_use(&self, pe: &Pe<Fake>, in_use: bool) {
        // SAFETY: Drivers bind when the test says so.
        unsafe { pe.set_in_use(self.dev(), in_use) };
    }

    /// Takes the PE over.
    fn pe(&self) -> Result<Arc<Pe<Fake>>> {
        let pe = self.start(Start::Owned)?;
        // As the list of PEs does.
        self.join(&pe).inspect_err(|_| {
            self.leave(&pe);
        })?;
        Ok(pe)
    }

    /// Takes the PE over and attaches its one device to a new domain.
    fn attached(&self) -> Result<(Arc<Pe<Fake>>, Arc<Space>)> {
        let pe = self.pe()?;
        let space = Space::new(pe.layout())?;
        self.attach(&pe, &Target::Paging(&space))?;
        Ok((pe, space))
    }

    /// Where a device gets to that writes to, or else reads from, the address.
    fn reaches(&self, ioba: u64, write: bool) -> Option<u64> {
        self.fake.probe(Ioba::new(ioba), write)
    }

    /// Whether a device reaches any page.
    fn reaches_any(&self) -> bool {
        let mut any = false;
        self.fake.for_each_reached(|_| any = true);
        any
    }
}

/// A further device of the PE of a [`Rig`].
struct Sibling<'a> {
    rig: &'a Rig,
    dev: faux::Registration,
}

impl Sibling<'_> {
    fn dev(&self) -> &Device {
        self.dev.as_ref().as_ref()
    }

    fn owner(&self) -> Option<DmaOwner> {
        self.rig.fake.owner(self.dev()).map(|(owner, _)| owner)
    }

    fn join(&self, pe: &Pe<Fake>) -> Result {
        // SAFETY: The device has no driver.
        unsafe { pe.join(self.dev()) }
    }

    fn leave(&self, pe: &Pe<Fake>) -> bool {
        // SAFETY: The device has no driver.
        unsafe { pe.leave(self.dev()) }
    }

    fn attach(&self, pe: &Pe<Fake>, target: &Target<'_>) -> Result {
        // SAFETY: There is no IOMMU group, and drivers bind when the test says so.
        unsafe { pe.attach(self.dev(), target) }
    }

    fn set_in_use(&self, pe: &Pe<Fake>, in_use: bool) {
        // SAFETY: Drivers bind when the test says so.
        unsafe { pe.set_in_use(self.dev(), in_use) };
    }
}

/// The size of a page of the domain.
fn granule(space: &Space) -> u64 {
    space.layout().granule().bytes()
}

/// The number of TCEs that are present.
fn populated(space: &Space) -> u64 {
    let windows = space.windows().iter();
    windows.map(|window| window.table().populated().get()).sum()
}

/// The number of 4 KiB nodes that the tables are made of.
fn nodes(space: &Space) -> u64 {
    let windows = space.windows().iter();
    windows.map(|window| window.table().nodes()).sum()
}

/// The `bytes` bytes from `first` on.
fn range(first: u64, bytes: u64) -> IobaRange {
    IobaRange {
        first: Ioba::new(first),
        last: Ioba::new(first + bytes - 1),
    }
}

/// Maps and publishes, as the core does.
fn map(space: &Space, range: IobaRange, phys: u64, access: Access) -> Result {
    let tce = access.tce(phys);
    if !space.try_map(range, tce) {
        space
            .map(range, tce, space.layout().granule(), GFP_ATOMIC)
            .map_err(|(e, _)| e)?;
    }
    space.publish(range).inspect_err(|_| unmap(space, range))
}

/// Clears, as the core does.
fn clear(space: &Space, range: IobaRange) -> Option<IobaRange> {
    match space.try_unmap(range) {
        true => Some(range),
        false => space.unmap(range),
    }
}

/// Unmaps and withdraws.
fn unmap(space: &Space, range: IobaRange) {
    if let Some(cleared) = clear(space, range) {
        space.withdraw(cleared);
    }
}

/// Everything that can happen to a PE, from the platform and back to it.
fn life(rig: &Rig) -> Result {
    let pe = rig.pe()?;
    let result = (|| {
        let space = Space::new(pe.layout())?;
        let granule = granule(&space);
        map(&space, range(granule, 200 * granule), PHYS, WRITE)?;
        rig.attach(&pe, &Target::Paging(&space))?;
        map(&space, range(210 * granule, 20 * granule), PHYS, WRITE)?;
        unmap(&space, range(granule, 100 * granule));
        rig.attach(&pe, &Target::Blocked)?;
        rig.attach(&pe, &Target::Paging(&space))?;
        let other = Space::new(pe.layout())?;
        map(&other, range(granule, granule), PHYS, WRITE)?;
        rig.attach(&pe, &Target::Paging(&other))?;
        rig.attach(&pe, &Target::Platform)?;
        rig.attach(&pe, &Target::Paging(&other))?;
        Ok(())
    })();
    rig.leave(&pe);
    result
}

/// A small generator of random numbers (xorshift).
struct Random(u64);

impl Random {
    fn next(&mut self, below: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % below
    }
}
