// SPDX-License-Identifier: GPL-2.0

//! The program on a made-up machine: a tree of files as the kernel shows them.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::atomic::{AtomicU32, Ordering},
};
use tce_top::{explain::explain, rates, state::State, table};

const NVME: &str = "0001:01:00.0";
const NET: &str = "0002:01:00.0";
const NEAR: &str = "0002:01:00.1";

/// A machine below a directory, which goes when this drops.
struct Machine(PathBuf);

impl Machine {
    /// A disk in a DMA domain, and a network card of two functions with a driver for the second.
    fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let place = std::env::temp_dir().join(format!("tce-top-{}-{number}", std::process::id()));
        let this = Self(place);
        this.write("proc/uptime", "100.00 1.00\n");
        this.write(
            "proc/device-tree/compatible",
            "ibm,powernv\0qemu,powernv10\0",
        );
        this.write("sys/class/iommu/tce/x", "");
        this.write("sys/module/tce_iommu/parameters/exclude", "\n");
        this.device(NVME, "0x010802", Some("nvme"), Some(3));
        this.device(NET, "0x020000", None, None);
        this.device(NEAR, "0x020000", Some("e100"), None);
        this.device("0002:00:00.0", "0x060400", Some("pcieport"), None);
        this.write("sys/kernel/iommu_groups/3/type", "DMA\n");
        let pe = "sys/kernel/debug/tce_iommu/3";
        this.write(
            &format!("{pe}/devices"),
            &format!("{NVME} attached in_use\n"),
        );
        this.write(&format!("{pe}/domain"), "paging\n");
        this.write(
            &format!("{pe}/windows"),
            "window 0 base 0x0 size 0x10000000000000 page 0x10000 tve 0xfa\n\
             window 1 base 0x800000000000000 size 0x10000000000000 page 0x10000 tve 0xfb\n",
        );
        this.write(
            &format!("{pe}/tables"),
            "window 0 tces 70 kib 16\nwindow 1 tces 7 kib 4\n",
        );
        this.counts(10, 4);
        this
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.0.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn counts(&self, publishes: u64, kills: u64) {
        let text = format!(
            "publishes {publishes}\nwithdrawals 5\nh_put_tce 2\nh_stuff_tce 3\nkills {kills}\n\
             errors 0\n"
        );
        self.write("sys/kernel/debug/tce_iommu/3/stats", &text);
    }

    fn device(&self, bdf: &str, class: &str, driver: Option<&str>, group: Option<u32>) {
        let place = format!("sys/bus/pci/devices/{bdf}");
        self.write(&format!("{place}/class"), &format!("{class}\n"));
        let link = |target: String, name: &str| {
            let at = self.0.join(&place).join(name);
            let _ = fs::remove_file(&at);
            symlink(target, at).unwrap();
        };
        if let Some(driver) = driver {
            link(format!("../../../../bus/pci/drivers/{driver}"), "driver");
        }
        if let Some(group) = group {
            link(
                format!("../../../../kernel/iommu_groups/{group}"),
                "iommu_group",
            );
        }
    }

    fn state(&self) -> State {
        State::read(&self.0).unwrap()
    }

    fn explain(&self, bdf: &str) -> String {
        explain(&self.state(), bdf).join("\n")
    }

    fn run(&self, args: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tce-top"));
        command
            .arg("--root")
            .arg(&self.0)
            .args(["-d", "0.01"])
            .args(args);
        command.output().unwrap()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn text(output: &Output) -> &str {
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    std::str::from_utf8(&output.stdout).unwrap()
}

#[test]
fn reads_all_of_a_pe() {
    let state = Machine::new().state();
    let [pe] = &state.pes[..] else {
        panic!("{:?}", state.pes)
    };
    assert_eq!(
        (pe.group, pe.kind.as_str(), pe.domain.as_str()),
        (3, "DMA", "paging")
    );
    assert!(pe.devices[0].in_use && !pe.devices[0].blocked);
    assert_eq!(pe.windows[1].base, 1 << 59);
    assert_eq!(
        (pe.windows[1].page, pe.windows[1].name.as_str()),
        (0x10000, "tve 0xfb")
    );
    assert_eq!((pe.tces(), pe.table_kib(), pe.hypercalls()), (77, 20, 5));
    assert_eq!(state.devices.len(), 4);
    assert!(state.loaded && state.debugfs);
}

#[test]
fn rates_are_per_second() {
    let machine = Machine::new();
    let before = machine.state();
    machine.write("proc/uptime", "102.00 1.00\n");
    machine.counts(30, 5);
    let now = machine.state();
    let rows = rates::rows(Some(&before), &now);
    assert_eq!((rows[0].publishes_per_s, rows[0].kills_per_s), (10.0, 0.5));
    assert_eq!(rows[0].drivers, ["nvme"]);
    // The PE was given back and taken over again.
    machine.write("proc/uptime", "103.00 1.00\n");
    machine.counts(4, 0);
    let later = machine.state();
    assert_eq!(rates::rows(Some(&now), &later)[0].publishes_per_s, 4.0);
    assert_eq!(rates::rows(None, &later)[0].publishes_per_s, 0.0);
}

#[test]
fn screen_has_a_line_for_each_pe() {
    let now = Machine::new().state();
    let screen = table::screen(&now, &rates::rows(None, &now));
    assert!(
        screen.contains("1 PEs, 77 TCEs, 20 KiB of tables, 2 devices with the platform"),
        "{screen}"
    );
    let line = screen.lines().find(|line| line.contains(NVME)).unwrap();
    let words: Vec<_> = line.split_whitespace().collect();
    assert_eq!(words[..4], ["3", NVME, "nvme", "DMA"]);
    assert_eq!(words[9..], ["77", "20", "KiB"]);
    assert!(
        screen.lines().all(|line| line.trim_end().len() <= 80),
        "{screen}"
    );
}

#[test]
fn explains_a_device_in_use() {
    let machine = Machine::new();
    let said = machine.explain(NET);
    assert!(
        said.contains(&format!("near it: {NEAR} with e100")),
        "{said}"
    );
    assert!(
        said.contains(&format!("echo {NEAR} > /sys/bus/pci/drivers/e100/unbind")),
        "{said}"
    );
    let said = machine.explain(NEAR);
    assert!(said.contains("it has:"), "{said}");
}

#[test]
fn explains_what_the_administrator_wanted() {
    let machine = Machine::new();
    machine.write(
        "sys/module/tce_iommu/parameters/exclude",
        &format!("0009:00:00.0,{NEAR}\n"),
    );
    let said = machine.explain(NET);
    assert!(said.contains(&format!("exclude names {NEAR}")), "{said}");
}

#[test]
fn explains_what_firmware_refused() {
    let machine = Machine::new();
    fs::remove_file(machine.0.join(format!("sys/bus/pci/devices/{NEAR}/driver"))).unwrap();
    assert!(machine.explain(NET).contains("firmware may have refused"));
}

#[test]
fn explains_vfio() {
    let machine = Machine::new();
    let said = machine.explain(NVME);
    assert!(
        said.contains("VFIO refuses the group while")
            && said.contains("nvme/unbind")
            && said.contains("the type of group 3, too,"),
        "{said}"
    );
    machine.device(NVME, "0x010802", Some("vfio-pci"), Some(3));
    assert!(machine.explain(NVME).contains("/dev/vfio/3"));
    machine.write("proc/device-tree/compatible", "qemu,pseries\0");
    assert!(machine.explain(NVME).contains("allow_unsafe_interrupts=1"));
    let allowed = "sys/module/vfio_iommu_type1/parameters/allow_unsafe_interrupts";
    machine.write(allowed, "N\n");
    assert!(machine.explain(NVME).contains("echo Y > /sys/module/vfio"));
    machine.write(allowed, "Y\n");
    assert!(machine.explain(NVME).contains("/dev/vfio/3"));
}

#[test]
fn explains_what_is_not_there() {
    let machine = Machine::new();
    assert!(machine
        .explain("0042:00:00.0")
        .contains("no such PCI device"));
    assert!(machine.explain("0002:00:00.0").contains("bridge"));
    fs::remove_dir_all(machine.0.join("sys/class/iommu")).unwrap();
    assert!(machine.explain(NET).contains("modprobe tce_iommu"));
}

#[test]
fn json_when_piped() {
    let machine = Machine::new();
    let output = machine.run(&[]);
    let lines: Vec<serde_json::Value> = text(&output)
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(lines.len(), 2);
    assert_eq!(lines[1][0]["group"], 3);
    assert_eq!(lines[1][0]["stats"]["kills"], 4);
}

#[test]
fn a_recording_is_what_was_seen() {
    let machine = Machine::new();
    let file = machine.0.join("recording");
    text(&machine.run(&["-n", "3", "record", file.to_str().unwrap()]));
    let live = machine.run(&["-n", "3"]);
    // From here on there is no machine.
    fs::remove_dir_all(machine.0.join("sys")).unwrap();
    let replayed = machine.run(&["replay", file.to_str().unwrap()]);
    assert_eq!(text(&replayed), text(&live));
}

#[test]
fn a_real_machine_is_replayed_here() {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/powernv10.recording");
    let output = Machine::new().run(&["replay", file]);
    let looks: Vec<serde_json::Value> = text(&output)
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(looks.len(), 2);
    let mut pes = looks[1].as_array().unwrap().iter();
    let nvme = pes.clone().find(|pe| pe["drivers"][0] == "nvme").unwrap();
    assert!(nvme["stats"]["kills"].as_u64() > Some(0) && nvme["windows"][1]["base"] == 1u64 << 59);
    assert!(pes.any(|pe| pe["drivers"][0] == "vfio-pci"));
}

#[test]
fn says_what_is_wrong() {
    let machine = Machine::new();
    for (args, why) in [
        (&["explain"][..], "usage:"),
        (&["replay", "/nonexistent"], "/nonexistent: No such file"),
        (&["-d", "soon"], "soon"),
        (&["-d", "-1"], "time in seconds"),
        (&["--colour"], "--colour"),
    ] {
        let output = machine.run(args);
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(
            said.contains(why) && !said.contains("panicked"),
            "{args:?}: {said}"
        );
    }
    let broken = machine.0.join("broken");
    fs::write(&broken, "{\n").unwrap();
    assert_eq!(
        machine
            .run(&["replay", broken.to_str().unwrap()])
            .status
            .code(),
        Some(2)
    );
}

#[test]
fn no_machine_at_all() {
    assert!(State::read(Path::new("/nonexistent")).is_err());
}
