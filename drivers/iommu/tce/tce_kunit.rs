// SPDX-License-Identifier: GPL-2.0

//! KUnit tests of the TCE driver.
//!
//! This crate has the modules of the driver that do not touch hardware, unchanged, on top of a
//! firmware that is stricter than any emulator. It needs no POWER machine: with KASAN it is best
//! run on another.

mod bonds;
mod firmware;
mod layout;
mod ownership;
mod pe;
mod space;
mod stats;
mod table;
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
        Ok(Self)
    }
}
