// SPDX-License-Identifier: GPL-2.0

//! The program on a made-up machine: a tree of files as the kernel shows them.

use std::{
    fs::{self, Permissions},
    os::{
        fd::OwnedFd,
        unix::{
            fs::{symlink, MetadataExt, PermissionsExt},
            net::UnixStream,
            process::CommandExt,
        },
    },
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::atomic::{AtomicU32, Ordering},
};
use tce_top::{
    explain::{explain, without_group},
    rates,
    state::State,
    table,
};

const PROGRAM: &str = env!("CARGO_BIN_EXE_tce-top");
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
            "publishes {publishes}\nwithdrawals 5\nflushes {}\nh_put_tce 2\nh_stuff_tce 3\n\
             kills {kills}\nerrors 0\n",
            publishes / 10
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

    fn exclude(&self, names: &str) {
        self.write("sys/module/tce_iommu/parameters/exclude", names);
    }

    fn explain(&self, bdf: &str) -> String {
        let state = self.state();
        explain(&state, state.device(bdf).unwrap()).join("\n")
    }

    fn command(&self, program: &Path, args: &[&str]) -> Command {
        let mut command = Command::new(program);
        command
            .arg("--root")
            .arg(&self.0)
            .args(["-d", "0.01"])
            .args(args);
        command
    }

    fn run(&self, args: &[&str]) -> Output {
        self.command(Path::new(PROGRAM), args).output().unwrap()
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
    assert_eq!((pe.tces(), pe.table_kib()), (77, 20));
    assert_eq!((pe.hypercalls(), pe.process), (Some(5), None));
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
    let look = rates::look(Some(&before), &now);
    let [row] = &look.pes[..] else {
        panic!("{look:?}")
    };
    assert_eq!((look.interval, row.drivers[0]), (Some(2.0), "nvme"));
    assert_eq!(
        (row.publishes_per_s, row.kills_per_s),
        (Some(10.0), Some(0.5))
    );
    assert_eq!((row.flushes_per_s, row.new_errors), (Some(1.0), Some(0)));
}

#[test]
fn no_rate_without_a_base() {
    let machine = Machine::new();
    let first = machine.state();
    let none = |before: Option<&State>, now: &State| {
        let look = serde_json::to_value(rates::look(before, now)).unwrap();
        let row = &look["pes"][0];
        let rates = ["publishes", "withdrawals", "flushes", "hypercalls", "kills"];
        let is_null = |name: &&str| row[format!("{name}_per_s")].is_null();
        assert!(rates.iter().all(is_null), "{row}");
        look["interval"].is_null()
    };
    assert!(none(None, &first));
    assert!(none(Some(&first), &first));
    // The PE was given back, taken over again, and has published more by now than before.
    machine.write("proc/uptime", "102.00 1.00\n");
    machine.counts(30, 0);
    let anew = machine.state();
    assert!(!none(Some(&first), &anew));
    // It cannot be read for once.
    let stats = machine.0.join("sys/kernel/debug/tce_iommu/3/stats");
    fs::remove_file(stats).unwrap();
    machine.write("proc/uptime", "103.00 1.00\n");
    let lost = machine.state();
    none(Some(&anew), &lost);
    machine.write("proc/uptime", "104.00 1.00\n");
    machine.counts(40, 1);
    none(Some(&lost), &machine.state());
}

#[test]
fn screen_has_a_line_for_each_pe() {
    let machine = Machine::new();
    let words = || {
        let now = machine.state();
        let screen = table::screen(&now, &rates::look(None, &now), None);
        assert!(
            screen.contains("1 PEs, 77 TCEs, 20 KiB of tables, 2 devices with the platform"),
            "{screen}"
        );
        assert!(screen.lines().all(|line| line.len() <= 80), "{screen}");
        let line = |word| screen.lines().find(|line| line.contains(word)).unwrap();
        let words = |line: &str| line.split_whitespace().map(str::to_owned).collect();
        let all: (Vec<_>, Vec<_>) = (words(line("GROUP")), words(line(NVME)));
        all
    };
    let (names, row) = words();
    assert_eq!(row[..4], ["3", NVME, "nvme", "DMA"]);
    assert_eq!(row[4..], ["-", "-", "-", "-", "0", "77", "20", "KiB"]);
    assert_eq!(names[6..8], ["FLUSH/s", "KILL/s"]);
    // A program has the second window, and there is a hypervisor.
    machine.write(
        "sys/kernel/debug/tce_iommu/3/windows",
        "window 1 belongs to process 1234\n",
    );
    machine.write("proc/device-tree/compatible", "qemu,pseries\0");
    let (names, row) = words();
    assert_eq!(
        (row[2].as_str(), &names[6..8]),
        ("nvme[1234]", &["HCALL/s".to_owned(), "ERR".to_owned()][..])
    );
}

#[test]
fn screen_fits_the_terminal() {
    let mut now = Machine::new().state();
    let [pe] = &now.pes[..] else {
        panic!("{:?}", now.pes)
    };
    let pes = (0..20).map(|group| {
        let mut pe = pe.clone();
        pe.group = group;
        pe
    });
    now.pes = pes.collect();
    let mut before = now.clone();
    before.uptime -= 1.0;
    before.pes[15].stats.insert("publishes".to_owned(), 1);
    let screen = |height, loaded| {
        let mut now = now.clone();
        now.loaded = loaded;
        let look = rates::look(Some(&before), &now);
        let screen = table::screen(&now, &look, Some((60, height)));
        assert!(screen.lines().all(|line| line.len() <= 60), "{screen}");
        screen.lines().map(str::to_owned).collect::<Vec<_>>()
    };
    // The cursor needs a line, too.
    assert_eq!(screen(24, true).len(), 23);
    let less = screen(23, true);
    assert_eq!((less.len(), less[21].as_str()), (22, "+2 more"));
    assert!(
        less[2].starts_with("GROUP") && less[3].starts_with("15 "),
        "{less:?}"
    );
    let less = screen(10, false);
    assert_eq!((less.len(), less[7].as_str()), (9, "+16 more"));
    assert!(less[8].contains("not loaded"));
    assert_eq!(screen(1, true).last().unwrap(), "+20 more");
}

#[test]
fn explains_a_device_in_use() {
    let machine = Machine::new();
    let unbind = format!("  echo {NEAR} > /sys/bus/pci/drivers/e100/unbind");
    let said = machine.explain(NET);
    assert!(
        said.contains(&format!("may be of the PE of {NEAR}, whose driver e100")),
        "{said}"
    );
    // A disk goes with all that is on it.
    let look_first = said.find("`lsblk`").unwrap();
    assert!(said.find(&unbind) > Some(look_first), "{said}");
    let said = machine.explain(NEAR);
    assert!(
        said.contains("its driver e100 uses") && said.contains(&unbind),
        "{said}"
    );
}

#[test]
fn explains_nothing_by_another_bus() {
    let machine = Machine::new();
    machine.device("0002:02:00.0", "0x010802", Some("nvme"), None);
    machine.device("0002:03:00.0", "0x020000", None, None);
    machine.exclude(&format!("{NET}\n"));
    let said = machine.explain("0002:03:00.0");
    assert!(said.contains("firmware may have refused"), "{said}");
    assert!(!said.contains(NET) && !said.contains("unbind"), "{said}");
}

#[test]
fn explains_drivers_that_leave_dma_to_others() {
    let machine = Machine::new();
    for driver in [
        "pci-stub",
        "pcieport",
        "vfio-pci",
        "mlx5-vfio-pci",
        "qat_vfio_pci",
    ] {
        machine.device(NEAR, "0x020000", Some(driver), None);
        let said = machine.explain(NET);
        assert!(!said.contains(NEAR), "{said}");
        let said = machine.explain(NEAR);
        assert!(
            said.contains(&format!("driver {driver} leaves DMA")) && said.contains("unbind"),
            "{said}"
        );
    }
}

#[test]
fn explains_what_the_administrator_wanted() {
    let machine = Machine::new();
    machine.exclude(&format!("0009:00:00.0,{NEAR}\n"));
    let said = machine.explain(NEAR);
    assert_eq!(
        said,
        format!("{NEAR} is in no IOMMU group: the parameter exclude names it")
    );
    let said = machine.explain(NET);
    assert!(
        said.contains(&format!("may be of the PE of {NEAR}, which")),
        "{said}"
    );
    let all = without_group(&machine.state());
    assert_eq!(all.len(), 2, "{all:?}");
    assert!(
        all[0].starts_with(NET) && all[1].starts_with(NEAR),
        "{all:?}"
    );
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
    let (there, probe) = (said.find("  modprobe vfio-pci"), said.find("drivers_probe"));
    assert!(there.is_some() && there < probe, "{said}");
    machine.write("sys/bus/pci/drivers/vfio-pci/bind", "");
    assert!(!machine.explain(NVME).contains("modprobe"));
    machine.device(NVME, "0x010802", Some("pci-stub"), Some(3));
    let said = machine.explain(NVME);
    assert!(
        said.contains("pci-stub, not vfio-pci") && said.contains("pci-stub/unbind"),
        "{said}"
    );
    for driver in ["vfio-pci", "mlx5-vfio-pci"] {
        machine.device(NVME, "0x010802", Some(driver), Some(3));
        let said = machine.explain(NVME);
        assert!(
            said.ends_with("VFIO takes it: /dev/vfio/3, with type1 and iommufd"),
            "{said}"
        );
        assert!(!said.contains("refuses"), "{said}");
    }
}

#[test]
fn explains_what_vfio_says_of_interrupts() {
    let machine = Machine::new();
    machine.device(NVME, "0x010802", Some("vfio-pci"), Some(3));
    machine.write("proc/device-tree/compatible", "qemu,pseries\0");
    let said = machine.explain(NVME);
    for module in ["vfio_iommu_type1", "iommufd"] {
        let load = format!("  modprobe {module} allow_unsafe_interrupts=1");
        assert!(said.contains(&load), "{said}");
    }
    let allow = |module: &str, yes: &str| {
        let name = format!("sys/module/{module}/parameters/allow_unsafe_interrupts");
        machine.write(&name, yes);
        machine.explain(NVME)
    };
    let said = allow("vfio_iommu_type1", "N\n");
    assert!(
        said.contains("  echo Y > /sys/module/vfio_iommu_type1/"),
        "{said}"
    );
    assert!(!said.contains("/dev/vfio/3"), "{said}");
    let said = allow("iommufd", "Y\n");
    assert!(said.ends_with("/dev/vfio/3, with iommufd"), "{said}");
    assert!(
        said.contains("type1 refuses") && !said.contains("iommufd refuses"),
        "{said}"
    );
    let said = allow("vfio_iommu_type1", "Y\n");
    assert!(
        said.ends_with("/dev/vfio/3, with type1 and iommufd"),
        "{said}"
    );
}

#[test]
fn explains_what_the_windows_do() {
    let machine = Machine::new();
    let pe = "sys/kernel/debug/tce_iommu/3";
    machine.write("sys/kernel/iommu_groups/3/type", "unknown\n");
    machine.write(&format!("{pe}/domain"), "platform\n");
    assert!(machine
        .explain(NVME)
        .contains("group 3, type identity, windows platform"));
    machine.write(
        &format!("{pe}/windows"),
        "window 1 belongs to process 1234\n",
    );
    assert!(machine
        .explain(NVME)
        .contains("window 1 belongs to process 1234"));
}

#[test]
fn explains_where_there_is_no_driver() {
    let machine = Machine::new();
    assert!(machine.explain("0002:00:00.0").contains("bridge"));
    fs::remove_dir_all(machine.0.join("sys/class/iommu")).unwrap();
    assert!(machine.explain(NET).contains("modprobe tce_iommu"));
    // The driver refuses to load in these two.
    let refused = |kind: &str| {
        let said = machine.explain(NET);
        assert!(said.contains(kind) && !said.contains("modprobe"), "{said}");
        assert_eq!(without_group(&machine.state()), [said]);
    };
    machine.write("sys/devices/system/cpu/svm", "1\n");
    refused("not used in secure guests");
    machine.write("proc/vmcore", "");
    refused("not used in kdump kernels");
    machine.write("sys/devices/system/cpu/svm", "0\n");
    // fadump is no kdump.
    machine.write("sys/kernel/fadump/release_mem", "");
    assert!(machine.explain(NET).contains("modprobe tce_iommu"));
}

#[test]
fn finds_a_device_as_people_name_it() {
    let machine = Machine::new();
    machine.device("0000:0a:00.0", "0x020000", None, None);
    for name in ["0000:0a:00.0", "0000:0A:00.0", "0a:00.0", "0A:00.0"] {
        let said = machine.run(&["explain", name]);
        assert!(text(&said).starts_with("0000:0a:00.0 is in no"), "{name}");
    }
    let output = machine.run(&["explain", "0042:00:00.0"]);
    assert_eq!(
        (output.status.code(), &output.stdout[..]),
        (Some(1), &b""[..])
    );
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("0042:00:00.0: no such PCI device"), "{said}");
    assert_eq!(said.lines().count(), 1);
    assert_eq!(text(&machine.run(&["explain"])).lines().count(), 3);
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
    let (look, pe) = (&lines[1], &lines[1]["pes"][0]);
    assert_eq!(
        (&look["version"], &look["uptime"]),
        (&1.into(), &100.0.into())
    );
    assert_eq!(
        (&look["interval"], &look["loaded"]),
        (&().into(), &true.into())
    );
    assert_eq!(
        (&pe["group"], &pe["stats"]["kills"]),
        (&3.into(), &4.into())
    );
    // The README has all fields.
    let readme = include_str!("../README.md");
    for object in [
        look,
        pe,
        &pe["devices"][0],
        &pe["windows"][0],
        &pe["tables"][0],
    ] {
        for name in object.as_object().unwrap().keys() {
            assert!(readme.contains(&format!("`{name}`")), "{name}");
        }
    }
}

#[test]
fn ends_when_nobody_reads() {
    let machine = Machine::new();
    // A line may be longer than what is kept before it is written.
    machine.write(
        "sys/kernel/debug/tce_iommu/3/windows",
        &"window 0 base 0x0 size 0x1000 page 0x1000 tve 0xfa\n".repeat(99),
    );
    let file = machine.0.join("recording");
    text(&machine.run(&["record", file.to_str().unwrap()]));
    for args in [
        &["-n", "9"][..],
        &["--help"],
        &["explain", NET],
        &["explain"],
        &["replay", file.to_str().unwrap()],
    ] {
        let (out, _) = UnixStream::pair().unwrap();
        let mut command = machine.command(Path::new(PROGRAM), args);
        let output = command.stdout(OwnedFd::from(out)).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!((output.status.code(), &*said), (Some(0), ""), "{args:?}");
    }
}

#[test]
fn says_why_debugfs_cannot_be_read() {
    let machine = Machine::new();
    let debugfs = machine.0.join("sys/kernel/debug");
    // root reads everything, so another user has to try, with a program that he can reach. It is
    // not copied here: what this process writes cannot be run while other tests start programs.
    let program = machine.0.join("tce-top");
    let copied = Command::new("cp")
        .args([Path::new(PROGRAM), &program])
        .status();
    assert!(copied.unwrap().success());
    let failed = |args: &[&str], why: &str| {
        let mut command = machine.command(&program, args);
        if fs::metadata("/proc/self").unwrap().uid() == 0 {
            command.uid(65534);
        }
        let output = command.output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(
            (output.status.code(), &output.stdout[..]),
            (Some(2), &b""[..]),
            "{said}"
        );
        assert!(said.contains(why), "{said}");
    };
    fs::set_permissions(&debugfs, Permissions::from_mode(0o0)).unwrap();
    failed(&[], "no permission");
    fs::set_permissions(&debugfs, Permissions::from_mode(0o755)).unwrap();
    let file = machine.0.join("recording");
    fs::remove_dir_all(debugfs.join("tce_iommu")).unwrap();
    for args in [&[][..], &["--json"]] {
        failed(args, "mount -t debugfs");
    }
    let output = machine.run(&["record", file.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(fs::metadata(file).unwrap().len(), 0);
    // Without the driver there is nothing to be read.
    fs::remove_dir_all(machine.0.join("sys/class/iommu")).unwrap();
    assert!(text(&machine.run(&[])).contains(r#""loaded":false,"pes":[]"#));
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
    let mut pes = looks[1]["pes"].as_array().unwrap().iter();
    let nvme = pes.clone().find(|pe| pe["drivers"][0] == "nvme").unwrap();
    assert!(nvme["stats"]["kills"].as_u64() > Some(0) && nvme["windows"][1]["base"] == 1u64 << 59);
    assert!(pes.any(|pe| pe["drivers"][0] == "vfio-pci"));
}

#[test]
fn a_recording_may_be_older_or_end_early() {
    let machine = Machine::new();
    let file = machine.0.join("recording");
    let replay = |recording: &[u8]| {
        fs::write(&file, recording).unwrap();
        machine.run(&["replay", file.to_str().unwrap()])
    };
    let look = b"{\"uptime\":7.0,\"pes\":[{\"group\":3}]}\n";
    let whole = text(&replay(look)).to_owned();
    assert!(whole.contains(r#""uptime":7.0"#) && whole.contains(r#""group":3"#));
    for more in [&look[..9], b"{\"machine\":\"\xc3"] {
        assert_eq!(text(&replay(&[look, more].concat())), whole);
    }
    // The last line is whole, too, without its end.
    assert_eq!(text(&replay(&look[..look.len() - 1])), whole);
    assert_eq!(replay(&[b"{\n", &look[..]].concat()).status.code(), Some(2));
}

#[test]
fn says_what_is_wrong() {
    let machine = Machine::new();
    for (args, why) in [
        (&["explain", NET, NEAR][..], "usage:"),
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
