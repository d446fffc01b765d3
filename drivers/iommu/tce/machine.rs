// SPDX-License-Identifier: GPL-2.0

//! The machine below the driver. Tests have another one.

use kernel::{
    device::Device,
    iommu::Group,
    pci,
    powerpc::tce::{
        for_each_pci_device,
        TableGroup, //
    },
    prelude::*,
    sync::{
        aref::ARef,
        Arc, //
    }, //
};

/// A PE, as the driver reaches firmware for it.
pub(crate) type Machine = TableGroup;

/// The PE of a device.
///
/// Fails with [`ENODEV`] if it has none that the driver can serve.
///
/// # Safety
///
/// As for [`TableGroup::of_device`].
pub(crate) unsafe fn of_device(dev: &Device) -> Result<Arc<Machine>> {
    // SAFETY: By the safety requirements.
    let group = unsafe { TableGroup::of_device(dev) }?;
    Ok(Arc::new(group, GFP_KERNEL)?)
}

/// The IOMMU group of a device, which is that of its PE.
pub(crate) fn group_of(dev: &Device) -> Result<ARef<Group>> {
    TableGroup::device_group(dev)
}

/// Whether a device forwards the DMA of others.
pub(crate) fn is_bridge(dev: &Device) -> bool {
    let pdev: Result<&pci::Device, _> = dev.try_into();
    pdev.is_ok_and(|pdev| {
        let class = pdev.pci_class();
        class == pci::Class::BRIDGE_PCI_NORMAL || class == pci::Class::BRIDGE_PCI_SUBTRACTIVE
    })
}

/// Calls `f` for each device of the machine. May sleep.
pub(crate) fn for_each_device(f: impl FnMut(&Device)) {
    for_each_pci_device(f);
}

/// Whether the administrator lets processes have windows.
pub(crate) fn allows_processes() -> bool {
    crate::module_parameters::process_windows.value()
}
