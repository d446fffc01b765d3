// SPDX-License-Identifier: GPL-2.0

//! Why a device is not taken over, or why VFIO refuses its group, and what to type.

use crate::state::{Device, State};

const LOOK_FIRST: &str = "who uses a device loses it with its driver, such as a mounted disk or \
                          this connection: `lsblk` and `ls -l /sys/block /sys/class/net` first";

/// Lines for people. What they may type is in those that begin with two spaces.
pub fn explain(state: &State, device: &Device) -> Vec<String> {
    if !state.loaded {
        return state.trouble().into_iter().collect();
    }
    match device.group {
        None => not_taken_over(state, device),
        Some(group) => vfio(state, device, group),
    }
}

/// A line for each device that has no group.
pub fn without_group(state: &State) -> Vec<String> {
    if !state.loaded {
        return state.trouble().into_iter().collect();
    }
    let devices = state.devices.iter();
    let mut lines: Vec<_> = devices
        .filter(|device| device.group.is_none() && !device.is_bridge())
        .filter_map(|device| Some(reasons(state, device).first()?.said(device)))
        .collect();
    if lines.is_empty() {
        lines.push("all devices but bridges are in IOMMU groups".to_owned());
    }
    lines
}

/// What keeps a device from being taken over.
struct Reason<'a> {
    why: String,
    /// The device that should lose its driver, and that driver.
    user: Option<(&'a Device, &'a str)>,
}

impl Reason<'_> {
    fn said(&self, device: &Device) -> String {
        format!("{} is in no IOMMU group: {}", device.bdf, self.why)
    }
}

fn reasons<'a>(state: &'a State, device: &'a Device) -> Vec<Reason<'a>> {
    let alone = |why: &str| Reason {
        why: why.to_owned(),
        user: None,
    };
    let excluded = |device: &Device| {
        let mut names = state.parameter("tce_iommu.exclude").split(',');
        names.any(|name| name == device.bdf)
    };
    if device.is_bridge() {
        return vec![alone("bridges have none of their own here")];
    }
    if excluded(device) {
        return vec![alone("the parameter exclude names it")];
    }
    let mut reasons = Vec::new();
    if let Some(driver) = device.driver.as_deref() {
        let why = match manages_dma(driver) {
            true => format!("its driver {driver} leaves DMA to others, and has to go first"),
            false => format!("its driver {driver} uses the platform's DMA"),
        };
        let user = Some((device, driver));
        reasons.push(Reason { why, user });
    }
    // A host bridge may have many PEs, and sysfs does not tell which device is of which.
    let bus = |device: &'a Device| device.bdf.rsplit_once(':').map(|(bus, _)| bus);
    let near = state.devices.iter().filter(|other| {
        let other_one = other.bdf != device.bdf && !other.is_bridge();
        other_one && other.group.is_none() && bus(other) == bus(device)
    });
    for other in near {
        let bdf = &other.bdf;
        if excluded(other) {
            reasons.push(alone(&format!(
                "it may be of the PE of {bdf}, which the parameter exclude names"
            )));
        } else if let Some(driver) = other.driver.as_deref().filter(|name| !manages_dma(name)) {
            reasons.push(Reason {
                why: format!(
                    "it may be of the PE of {bdf}, whose driver {driver} uses the platform's DMA"
                ),
                user: Some((other, driver)),
            });
        }
    }
    if reasons.is_empty() {
        reasons.push(alone(
            "no driver of its bus is in the way: firmware may have refused, or its PE has more \
             buses; `dmesg | grep -E 'in use;|to the platform|gets no IOMMU'`",
        ));
    }
    reasons
}

/// The driver does not use the kernel's DMA mappings: `driver_managed_dma`. All of VFIO's do so.
fn manages_dma(driver: &str) -> bool {
    matches!(driver, "pci-stub" | "pcieport") || driver.contains("vfio")
}

fn not_taken_over(state: &State, device: &Device) -> Vec<String> {
    let reasons = reasons(state, device);
    let mut lines: Vec<_> = reasons.iter().map(|reason| reason.said(device)).collect();
    let users: Vec<_> = reasons.iter().filter_map(|reason| reason.user).collect();
    if !users.is_empty() {
        lines.push(
            "a PE is taken over when no driver uses DMA for any device of it; to let go:"
                .to_owned(),
        );
        lines.push(LOOK_FIRST.to_owned());
    }
    lines.extend(users.iter().map(|(user, driver)| unbind(user, driver)));
    lines
}

fn unbind(device: &Device, driver: &str) -> String {
    format!(
        "  echo {} > /sys/bus/pci/drivers/{driver}/unbind",
        device.bdf
    )
}

fn vfio(state: &State, device: &Device, group: u32) -> Vec<String> {
    let bdf = &device.bdf;
    let mut lines = Vec::new();
    match state.pes.iter().find(|pe| pe.group == group) {
        Some(pe) => {
            let (kind, domain) = (&pe.kind, &pe.domain);
            lines.push(format!(
                "{bdf} is in group {group}, type {kind}, windows {domain}"
            ));
            if let Some(pid) = pe.process {
                lines.push(format!("window 1 belongs to process {pid}"));
            }
            if domain == "stuck" || pe.stat("errors") > Some(0) {
                lines.push("firmware has refused calls for this PE: `dmesg` has why".to_owned());
            }
        }
        None => {
            lines.push(format!("{bdf} is in group {group}"));
            lines.extend(state.trouble());
        }
    }
    let is_vfio = |driver: &str| driver.contains("vfio");
    let members = state
        .devices
        .iter()
        .filter(|other| other.group == Some(group));
    let (mut commands, mut refused, mut losing) = (Vec::new(), false, false);
    for other in members {
        match other.driver.as_deref() {
            Some(driver) if !manages_dma(driver) => {
                refused = true;
                lines.push(format!(
                    "VFIO refuses the group while {} has the driver {driver}",
                    other.bdf
                ));
            }
            // It is in nobody's way, but only its own driver makes it one that VFIO has.
            driver if other.bdf != *bdf || driver.is_some_and(is_vfio) => continue,
            Some(driver) => lines.push(format!("{bdf} has the driver {driver}, not vfio-pci")),
            None => lines.push(format!("{bdf} has no driver")),
        }
        let place = format!("/sys/bus/pci/devices/{}", other.bdf);
        commands.push(format!("  echo vfio-pci > {place}/driver_override"));
        if let Some(driver) = other.driver.as_deref() {
            losing = true;
            commands.push(unbind(other, driver));
        }
        commands.push(format!("  echo {} > /sys/bus/pci/drivers_probe", other.bdf));
    }
    if refused {
        lines.push(format!(
            "the type of group {group}, too, can be written only when no driver is bound"
        ));
    }
    if !commands.is_empty() {
        lines.push("to give it to VFIO:".to_owned());
        lines.extend(losing.then(|| LOOK_FIRST.to_owned()));
        lines.extend((!state.vfio_pci).then(|| "  modprobe vfio-pci".to_owned()));
        lines.append(&mut commands);
    }
    // QEMU does not isolate the interrupts of what it emulates.
    let isolated = !state.machine.contains("qemu,pseries");
    let mut ways = Vec::new();
    for (way, module) in [("type1", "vfio_iommu_type1"), ("iommufd", "iommufd")] {
        let parameter = format!("{module}.allow_unsafe_interrupts");
        if isolated || state.parameter(&parameter) == "Y" {
            ways.push(way);
            continue;
        }
        lines.push(format!(
            "{way} refuses devices below QEMU, because of their interrupts, unless:"
        ));
        lines.push(match state.parameters.contains_key(&parameter) {
            true => format!("  echo Y > /sys/module/{module}/parameters/allow_unsafe_interrupts"),
            false => format!("  modprobe {module} allow_unsafe_interrupts=1"),
        });
    }
    if !refused && device.driver.as_deref().is_some_and(is_vfio) && !ways.is_empty() {
        let ways = ways.join(" and ");
        lines.push(format!("VFIO takes it: /dev/vfio/{group}, with {ways}"));
    }
    lines
}
