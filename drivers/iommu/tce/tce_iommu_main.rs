// SPDX-License-Identifier: GPL-2.0

//! IOMMU driver for POWER: TCE tables on pSeries (PAPR) and PowerNV (IODA2).
//!
//! A PCI host bridge of POWER translates DMA through Translation Control Entries (TCEs), one for
//! each page, in tables that each partitionable endpoint (PE) has for itself. This driver gives the
//! IOMMU core blocked, platform and paging domains on that hardware.
//!
//! From the ground up, each module uses only those before it:
//!
//! * [`layout`]: which windows a PE has and how they make up one aperture;
//! * [`table`]: the TCE table, a radix tree;
//! * [`windows`]: the windows of a domain with their tables, as the hot path wants them;
//! * [`stats`]: counts of what costs time;
//! * [`ownership`]: who maps the DMA of a PE's devices;
//! * [`trace`]: the tracepoints;
//! * [`firmware`]: the hypervisor and OPAL behind one trait;
//! * [`machine`]: the firmware of a device;
//! * [`bonds`]: the PEs of a domain, as map and unmap read them;
//! * [`space`]: the tables of a domain and how PEs follow them;
//! * [`dump`]: what those tables hold, as text;
//! * [`pe`]: one PE, and its way between domains;
//! * [`params`]: what an administrator decides when the driver is loaded;
//! * [`debugfs`]: what an administrator sees of a PE;
//! * [`endpoint`]: devices, and the list of PEs;
//! * [`domain`]: the kinds of domain;
//! * [`driver`]: what the IOMMU core calls;
//! * [`adopt`]: taking over the PEs that were there before.

mod adopt;
mod bonds;
mod debugfs;
mod domain;
mod driver;
mod dump;
mod endpoint;
mod firmware;
mod layout;
mod machine;
mod ownership;
mod params;
mod pe;
mod space;
mod stats;
mod table;
mod trace;
mod windows;

#[path = "firmware/real.rs"]
mod real;

use kernel::{
    iommu,
    pci,
    powerpc::tce,
    prelude::*,
    syscore, //
};
use params::{
    Options,
    PciList, //
};

module! {
    type: TceIommu,
    name: "tce_iommu",
    authors: ["TCE IOMMU maintainers"],
    description: "IOMMU driver for POWER TCE hardware",
    license: "GPL",
    params: {
        max_page_shift: u32 {
            // CAST: `PAGE_SHIFT` is at most 18.
            default: kernel::page::PAGE_SHIFT as u32,
            description: "Largest TCE page, 12 or 16: 4 or 64 KiB",
        },
        small_pages: PciList {
            default: PciList::NONE,
            description: "PCI devices whose PEs get TCE pages of 4 KiB",
        },
        exclude: PciList {
            default: PciList::NONE,
            description: "PCI devices whose PEs are left to the platform",
        },
        identity: PciList {
            default: PciList::NONE,
            description: "PCI devices whose groups begin with the type identity",
        },
        process_windows: bool {
            default: true,
            description: "Whether drivers may bind devices to processes",
        },
    },
}

struct TceIommu {
    // Dropped first: no PE is adopted once the driver unregisters.
    _watch: Pin<KBox<pci::DriverWatch<adopt::Adopter>>>,
    _down: Pin<KBox<syscore::Registration<endpoint::Down>>>,
    _registration: iommu::Registration<domain::Tce>,
}

impl kernel::Module for TceIommu {
    fn init(_module: &'static ThisModule) -> Result<Self> {
        if tce::is_kdump_kernel() || tce::is_secure_guest() {
            pr_info!("not used in kdump kernels and secure guests: DMA stays with the platform\n");
            return Err(ENODEV);
        }
        let pes = endpoint::PeList::new(Options {
            max_page: params::max_page(module_parameters::max_page_shift.value())?,
            small_pages: module_parameters::small_pages.value(),
            exclude: module_parameters::exclude.value(),
            identity: module_parameters::identity.value(),
        })?;
        // No device is taken before everything is there, so there is nothing to undo if it fails.
        let registration = iommu::Unregistered::new(Ok(pes.clone()), 0)?.register(
            &driver::OPS,
            None,
            fmt!("tce"),
        )?;
        let down = syscore::Registration::new(endpoint::Down(pes.clone()));
        let down = KBox::pin_init(down, GFP_KERNEL)?;
        let watch = pci::DriverWatch::new(adopt::Adopter::new(pes)?);
        let watch = KBox::pin_init(watch, GFP_KERNEL)?;
        adopt::Adopter::start(&watch);
        Ok(Self {
            _watch: watch,
            _down: down,
            _registration: registration,
        })
    }
}
