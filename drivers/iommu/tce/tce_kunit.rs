// SPDX-License-Identifier: GPL-2.0

//! KUnit tests of the TCE driver.
//!
//! This crate has the modules of the driver, all but the take-over of PCI devices, unchanged, on
//! top of a firmware that is stricter than any emulator. It needs no POWER machine: with KASAN it
//! is best run on another.

mod bonds;
mod debugfs;
mod domain;
// Its callbacks are for the IOMMU core to call.
#[allow(dead_code)]
mod driver;
mod dump;
mod endpoint;
mod firmware;
mod layout;
#[path = "tests/machine.rs"]
mod machine;
mod ownership;
mod params;
mod pe;
mod space;
mod stats;
mod table;
#[path = "tests/trace.rs"]
mod trace;
mod windows;

#[path = "firmware/fake.rs"]
mod fake;
mod tests;

use kernel::prelude::*;

module! {
    type: TceKunit,
    name: "tce_kunit",
    authors: ["TCE IOMMU maintainers"],
    description: "KUnit tests of the TCE IOMMU driver",
    license: "GPL",
}

struct TceKunit;

impl kernel::Module for TceKunit {
    fn init(_module: &'static ThisModule) -> Result<Self> {
        machine::init();
        Ok(Self)
    }
}
