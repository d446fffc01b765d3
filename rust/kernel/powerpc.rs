// SPDX-License-Identifier: GPL-2.0

//! POWER: DMA windows, TCE tables and the calls to the firmware below them.
//!
//! A PCI device on POWER reaches memory through the windows of its *partitionable endpoint* (PE).
//! A window is a range of bus addresses with a table of *translation control entries* (TCEs), one
//! for each page. Two firmware interfaces exist:
//!
//! - PAPR, below a hypervisor: it holds the tables, a hypercall writes a TCE ([`hvcall`]).
//! - OPAL, on bare metal (IODA): the tables are in memory, the host bridge reads and caches them.
//!
//! [`window`], [`owner`] and [`mem`] are plain data and build on every architecture. [`tce`] is the
//! only place that knows the structures of `arch/powerpc`.

pub mod mem;
pub mod owner;
pub mod window;

#[cfg(all(CONFIG_PPC64, CONFIG_PCI, CONFIG_SPAPR_TCE_IOMMU))]
mod devices;

#[cfg(CONFIG_PPC_PSERIES)]
pub mod hvcall;

#[cfg(all(CONFIG_PPC64, CONFIG_PCI, CONFIG_SPAPR_TCE_IOMMU))]
pub mod tce;
