// SPDX-License-Identifier: GPL-2.0

//! The suites, and what they share.

mod faults;
mod layout;
mod pe;
mod space;
mod table;

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
        Target, //
    },
    space::{
        Access,
        Space, //
    }, //
};
use kernel::{
    device::Device,
    faux,
    powerpc::window::{
        Ioba,
        PageShift, //
    },
    prelude::*,
    sync::Arc, //
};

/// Every machine that differs for the driver.
const MODELS: [Model; 6] = [
    Model::PSERIES,
    Model {
        ddw: false,
        ..Model::PSERIES
    },
    Model {
        multi_tce: false,
        ..Model::PSERIES
    },
    Model::PHB3,
    Model::PHB4,
    Model {
        small_pages: true,
        ..Model::PHB4
    },
];

const READ: Access = Access {
    read: true,
    write: false,
};
const WRITE: Access = Access {
    read: true,
    write: true,
};

/// A PE with one device, and the firmware below it.
struct Rig {
    dev: faux::Registration,
    fake: Arc<Fake>,
    common: Arc<Common>,
}

impl Rig {
    fn new(model: Model) -> Result<Self> {
        Self::named(model, c"tce_kunit")
    }

    /// Like `new`, for a test that needs two.
    fn named(model: Model, name: &CStr) -> Result<Self> {
        let max_page = if model.small_pages {
            PageShift::SHIFT_4K
        } else {
            cpu_page_shift()?
        };
        Ok(Self {
            dev: faux::Registration::new(name, None)?,
            fake: Fake::new(model)?,
            common: Arc::pin_init(Common::new(model.multi_tce, max_page), GFP_KERNEL)?,
        })
    }

    fn dev(&self) -> &Device {
        self.dev.as_ref().as_ref()
    }

    /// Takes the PE over.
    fn pe(&self) -> Result<Arc<Pe<Fake>>> {
        Pe::new(self.fake.clone(), self.dev(), self.common.clone())
    }

    /// Takes the PE over and attaches its one device to a new domain.
    fn attached(&self) -> Result<(Arc<Pe<Fake>>, Arc<Space>)> {
        let pe = self.pe()?;
        pe.join();
        let space = Space::new(pe.layout())?;
        pe.attach(self.dev(), &Target::Paging(&space), false)?;
        Ok((pe, space))
    }

    /// Whether a device can write to, or else read from, the address.
    fn reaches(&self, ioba: u64, write: bool) -> Option<u64> {
        let reached = self.fake.dma(Ioba::new(ioba), write);
        self.fake.thaw();
        reached
    }
}

/// The `bytes` bytes from `first` on.
fn range(first: u64, bytes: u64) -> IobaRange {
    IobaRange {
        first: Ioba::new(first),
        last: Ioba::new(first + bytes - 1),
    }
}

/// Maps and publishes.
fn map(space: &Space, range: IobaRange, phys: u64, access: Access) -> Result {
    space
        .map(range, phys, space.layout().granule(), access, GFP_KERNEL)
        .map_err(|(e, _)| e)?;
    space.publish(range).inspect_err(|_| unmap(space, range))
}

/// Unmaps and withdraws.
fn unmap(space: &Space, range: IobaRange) {
    space.unmap(range);
    space.withdraw(range);
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
