// SPDX-License-Identifier: GPL-2.0

//! Who maps the DMA of a device, and what kind of driver it has.

/// Who maps the DMA of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DmaOwner {
    /// The DMA code of `arch/powerpc`.
    Platform,
    /// The IOMMU core, in the domain of the device's group.
    Iommu,
    /// Nobody: the DMA API refuses all mappings.
    Nobody,
}

/// What kind of driver a device has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DriverKind {
    /// None at all.
    None,
    /// One that does not use the DMA API (`driver_managed_dma`), such as VFIO.
    ManagedDma,
    /// One that may use the DMA API.
    DmaApi,
}
