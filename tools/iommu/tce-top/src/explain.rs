// SPDX-License-Identifier: GPL-2.0

//! Why a device is not taken over, or why VFIO refuses its group, and what to type.

use crate::state::{Device, State};

/// Lines for people.
pub fn explain(state: &State, bdf: &str) -> Vec<String> {
    let Some(device) = state.device(bdf) else {
        return vec![format!(
            "{bdf}: there is no such PCI device; `ls /sys/bus/pci/devices` shows those there are"
        )];
    };
    if !state.loaded {
        return vec!["tce_iommu is not loaded: modprobe tce_iommu".to_owned()];
    }
    match device.group {
        None => not_taken_over(state, device),
        Some(group) => vfio(state, device, group),
    }
}

fn not_taken_over(state: &State, device: &Device) -> Vec<String> {
    let bdf = &device.bdf;
    if device.is_bridge() {
        return vec![format!(
            "{bdf} is a bridge: it has no IOMMU group of its own here"
        )];
    }
    let named = |other: &&Device| {
        state
            .parameter("tce_iommu.exclude")
            .split(',')
            .any(|name| name == other.bdf)
    };
    // Devices of one PE are below one host bridge, which is all that can be told of them here.
    let domain = |device: &Device| device.bdf.split(':').next().map(str::to_owned);
    let near: Vec<&Device> = state
        .devices
        .iter()
        .filter(|other| {
            other.group.is_none() && domain(other) == domain(device) && !other.is_bridge()
        })
        .collect();
    if let Some(other) = near.iter().copied().find(|other| named(other)) {
        return vec![format!(
            "{bdf} is left to the platform: the parameter exclude names {}",
            other.bdf
        )];
    }
    let users: Vec<_> = near.iter().filter(|other| other.driver.is_some()).collect();
    let mut lines = match users.is_empty() {
        true => vec![format!(
            "{bdf} is left to the platform, and no driver is bound: firmware may have refused; \
             `dmesg | grep {bdf}`"
        )],
        false => vec![format!(
            "{bdf} is left to the platform: a PE is taken over when no driver uses DMA for any \
             device of it"
        )],
    };
    for other in users {
        let driver = other.driver.as_deref().unwrap_or_default();
        let own = if other.bdf == *bdf {
            "it has"
        } else {
            "near it"
        };
        lines.push(format!("{own}: {} with {driver}; to let go:", other.bdf));
        lines.push(format!(
            "  echo {} > /sys/bus/pci/drivers/{driver}/unbind",
            other.bdf
        ));
    }
    lines
}

fn vfio(state: &State, device: &Device, group: u32) -> Vec<String> {
    let pe = state.pes.iter().find(|pe| pe.group == group);
    let domain = pe.map_or("unknown", |pe| &pe.domain);
    let kind = pe.map_or("unknown", |pe| &pe.kind);
    let mut lines = vec![format!(
        "{} is in group {group}, type {kind}, windows {domain}",
        device.bdf
    )];
    if domain == "stuck" || pe.is_some_and(|pe| pe.stat("errors") > 0) {
        lines.push("firmware has refused calls for this PE: `dmesg` has why".to_owned());
    }
    let mut refused = false;
    for other in state
        .devices
        .iter()
        .filter(|other| other.group == Some(group))
    {
        match other.driver.as_deref() {
            Some("vfio-pci" | "pci-stub" | "pcieport") => (),
            Some(driver) => {
                refused = true;
                lines.push(format!(
                    "VFIO refuses the group while {} has the driver {driver}; to give it up:",
                    other.bdf
                ));
                lines.push(format!(
                    "  echo vfio-pci > /sys/bus/pci/devices/{}/driver_override",
                    other.bdf
                ));
                lines.push(format!(
                    "  echo {} > /sys/bus/pci/drivers/{driver}/unbind",
                    other.bdf
                ));
                lines.push(format!("  echo {} > /sys/bus/pci/drivers_probe", other.bdf));
            }
            None => (),
        }
    }
    if refused {
        lines.push(format!(
            "the type of group {group}, too, can be written only when no driver is bound"
        ));
    }
    if device.driver.is_none() {
        lines.push("it has no driver; for VFIO:".to_owned());
        lines.push(format!(
            "  echo vfio-pci > /sys/bus/pci/devices/{}/driver_override",
            device.bdf
        ));
        lines.push(format!(
            "  echo {} > /sys/bus/pci/drivers_probe",
            device.bdf
        ));
    }
    // QEMU does not isolate the interrupts of what it emulates.
    let unsafe_allowed = [
        "vfio_iommu_type1.allow_unsafe_interrupts",
        "iommufd.allow_unsafe_interrupts",
    ]
    .iter()
    .any(|name| state.parameter(name) == "Y");
    if state.machine.contains("qemu,pseries") && !unsafe_allowed {
        lines.push(
            "below QEMU, VFIO refuses devices because of their interrupts, unless:".to_owned(),
        );
        let loaded = state
            .parameters
            .contains_key("vfio_iommu_type1.allow_unsafe_interrupts");
        lines.push(match loaded {
            true => {
                "  echo Y > /sys/module/vfio_iommu_type1/parameters/allow_unsafe_interrupts".to_owned()
            }
            false => "  modprobe vfio_iommu_type1 allow_unsafe_interrupts=1".to_owned(),
        });
        refused = true;
    }
    if !refused && device.driver.as_deref() == Some("vfio-pci") {
        lines.push(format!("VFIO takes it: /dev/vfio/{group}"));
    }
    lines
}
