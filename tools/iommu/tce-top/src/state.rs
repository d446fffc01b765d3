// SPDX-License-Identifier: GPL-2.0

//! What the kernel tells of the IOMMU, at one time: from sysfs and debugfs, or from a recording.

use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, fs, io, path::Path};

/// Everything that is shown, at one time. What an older recording lacks is as in `default()`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct State {
    /// Since the machine was started, in seconds.
    pub uptime: f64,
    /// What machine it is, as the device tree says.
    pub machine: String,
    /// The driver is there.
    pub loaded: bool,
    /// The kind of kernel that this is, if the driver does not load in such.
    pub barred: Option<String>,
    /// debugfs can be read.
    pub debugfs: bool,
    /// Somebody else may read it.
    pub denied: bool,
    /// vfio-pci is there.
    pub vfio_pci: bool,
    /// Parameters of the driver and of VFIO, by `module.name`.
    pub parameters: BTreeMap<String, String>,
    pub devices: Vec<Device>,
    pub pes: Vec<Pe>,
}

/// A PCI device.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Device {
    pub bdf: String,
    pub class: String,
    pub driver: Option<String>,
    pub group: Option<u32>,
}

/// A PE that the driver has.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Pe {
    pub group: u32,
    /// The type of its default domain: what is written to the group's `type`.
    pub kind: String,
    /// What its windows do.
    pub domain: String,
    pub devices: Vec<Member>,
    pub windows: Vec<Window>,
    /// The process that window 1 belongs to.
    pub process: Option<u32>,
    /// The counters, by name; none if they could not be read.
    pub stats: BTreeMap<String, u64>,
    pub tables: Vec<Table>,
}

/// A device of a PE.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Member {
    pub bdf: String,
    pub blocked: bool,
    pub in_use: bool,
}

/// A DMA window.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Window {
    pub number: u32,
    pub base: u64,
    pub size: u64,
    pub page: u64,
    /// What firmware calls it.
    pub name: String,
}

/// The table of a window.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Table {
    pub window: u32,
    pub tces: u64,
    pub kib: u64,
}

impl State {
    /// Reads what is below `root`, which is `/` other than in tests.
    pub fn read(root: &Path) -> io::Result<Self> {
        let debugfs = root.join("sys/kernel/debug/tce_iommu");
        let mut pes = Vec::new();
        for name in names(&debugfs) {
            if let Ok(group) = name.parse() {
                pes.push(Pe::read(root, &debugfs.join(&name), group));
            }
        }
        pes.sort_by_key(|pe| pe.group);
        let pci = root.join("sys/bus/pci/devices");
        let devices = names(&pci)
            .into_iter()
            .map(|bdf| Device::read(&pci.join(&bdf), bdf))
            .collect();
        let mut parameters = BTreeMap::new();
        for module in ["tce_iommu", "vfio_iommu_type1", "iommufd"] {
            let place = root.join("sys/module").join(module).join("parameters");
            for name in names(&place) {
                parameters.insert(format!("{module}.{name}"), line(&place.join(&name)));
            }
        }
        let there = |name: &str| root.join(name).exists();
        // The kernel after a dump that firmware helps with (fadump) is one as any other.
        let barred = if there("proc/vmcore") && !there("sys/kernel/fadump/release_mem") {
            Some("kdump kernels")
        } else if line(&root.join("sys/devices/system/cpu/svm")) == "1" {
            Some("secure guests")
        } else {
            None
        };
        let seen = fs::read_dir(&debugfs).map_err(|e| e.kind());
        let uptime = line(&root.join("proc/uptime"));
        Ok(Self {
            uptime: uptime
                .split(' ')
                .next()
                .and_then(|seconds| seconds.parse().ok())
                .ok_or_else(|| io::Error::other("cannot read /proc/uptime"))?,
            machine: line(&root.join("proc/device-tree/compatible")).replace('\0', " "),
            loaded: there("sys/class/iommu/tce"),
            barred: barred.map(str::to_owned),
            debugfs: seen.is_ok(),
            denied: seen.is_err_and(|kind| kind == io::ErrorKind::PermissionDenied),
            vfio_pci: there("sys/bus/pci/drivers/vfio-pci"),
            parameters,
            devices,
            pes,
        })
    }

    /// Finds a device. Letters of its address may be large, and the domain missing if it is 0.
    pub fn device(&self, address: &str) -> Option<&Device> {
        let mut bdf = address.to_ascii_lowercase();
        if bdf.matches(':').count() == 1 {
            bdf.insert_str(0, "0000:");
        }
        self.devices.iter().find(|device| device.bdf == bdf)
    }

    /// Why no PE can be seen.
    pub fn trouble(&self) -> Option<String> {
        match (self.loaded, &self.barred) {
            (false, Some(kind)) => Some(format!(
                "tce_iommu is not used in {kind}: DMA stays with the platform"
            )),
            (false, None) => Some("tce_iommu is not loaded: modprobe tce_iommu".to_owned()),
            (true, _) if self.denied => {
                Some("no permission to read /sys/kernel/debug: run it as root".to_owned())
            }
            (true, _) if !self.debugfs => {
                Some("debugfs is not there: mount -t debugfs none /sys/kernel/debug".to_owned())
            }
            (true, _) => None,
        }
    }

    /// The machine has no hypervisor, and so kills and flushes in place of hypercalls.
    pub fn is_powernv(&self) -> bool {
        self.machine.contains("ibm,powernv")
    }

    pub fn parameter(&self, name: &str) -> &str {
        self.parameters.get(name).map_or("", String::as_str)
    }
}

impl Device {
    fn read(place: &Path, bdf: String) -> Self {
        let link = |name: &str| {
            let target = fs::read_link(place.join(name)).ok()?;
            Some(target.file_name()?.to_string_lossy().into_owned())
        };
        Self {
            bdf,
            class: line(&place.join("class")),
            driver: link("driver"),
            group: link("iommu_group").and_then(|group| group.parse().ok()),
        }
    }

    /// A bridge has no DMA of its own that anybody would map.
    pub fn is_bridge(&self) -> bool {
        self.class.starts_with("0x06")
    }
}

impl Pe {
    fn read(root: &Path, place: &Path, group: u32) -> Self {
        let text = |name: &str| fs::read_to_string(place.join(name)).unwrap_or_default();
        let groups = root.join("sys/kernel/iommu_groups");
        let kind = line(&groups.join(group.to_string()).join("type"));
        let windows = text("windows");
        Self {
            group,
            // The core has no name for the domain that is the platform's DMA code.
            kind: match kind.as_str() {
                "unknown" => "identity".to_owned(),
                _ => kind,
            },
            domain: text("domain").trim().to_owned(),
            devices: text("devices").lines().filter_map(Member::parse).collect(),
            windows: windows.lines().filter_map(Window::parse).collect(),
            process: windows.lines().find_map(process),
            stats: text("stats").lines().filter_map(pair).collect(),
            tables: text("tables").lines().filter_map(Table::parse).collect(),
        }
    }

    pub fn stat(&self, name: &str) -> Option<u64> {
        self.stats.get(name).copied()
    }

    /// All hypercalls.
    pub fn hypercalls(&self) -> Option<u64> {
        let calls = self.stats.iter().filter(|(name, _)| name.starts_with("h_"));
        (!self.stats.is_empty()).then(|| calls.map(|(_, count)| count).sum())
    }

    pub fn tces(&self) -> u64 {
        self.tables.iter().map(|table| table.tces).sum()
    }

    pub fn table_kib(&self) -> u64 {
        self.tables.iter().map(|table| table.kib).sum()
    }
}

impl Member {
    fn parse(line: &str) -> Option<Self> {
        let mut words = line.split(' ');
        Some(Self {
            bdf: words.next()?.to_owned(),
            blocked: words.next()? == "blocked",
            in_use: words.next()? == "in_use",
        })
    }
}

impl Window {
    fn parse(line: &str) -> Option<Self> {
        let words: Vec<&str> = line.split(' ').collect();
        let after = |name: &str| {
            let place = words.iter().position(|word| *word == name)?;
            words.get(place + 1).copied()
        };
        Some(Self {
            number: after("window")?.parse().ok()?,
            base: number(after("base")?)?,
            size: number(after("size")?)?,
            page: number(after("page")?)?,
            name: words.get(8..)?.join(" "),
        })
    }
}

impl Table {
    fn parse(line: &str) -> Option<Self> {
        let words: Vec<&str> = line.split(' ').collect();
        let [_, window, _, tces, _, kib] = words[..] else {
            return None;
        };
        Some(Self {
            window: window.parse().ok()?,
            tces: tces.parse().ok()?,
            kib: kib.parse().ok()?,
        })
    }
}

/// The names in a directory, in order; none if it cannot be read.
fn names(place: &Path) -> Vec<String> {
    let found = fs::read_dir(place).into_iter().flatten().flatten();
    let mut names: Vec<_> = found
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

/// The text of a file of one line; empty if it cannot be read.
fn line(place: &Path) -> String {
    let text = fs::read_to_string(place).unwrap_or_default();
    text.trim_end().to_owned()
}

fn number(text: &str) -> Option<u64> {
    u64::from_str_radix(text.strip_prefix("0x")?, 16).ok()
}

fn pair(line: &str) -> Option<(String, u64)> {
    let (name, count) = line.split_once(' ')?;
    Some((name.to_owned(), count.parse().ok()?))
}

fn process(line: &str) -> Option<u32> {
    line.strip_prefix("window 1 belongs to process ")?
        .parse()
        .ok()
}
