// SPDX-License-Identifier: GPL-2.0

//! What an administrator decides when the driver is loaded.

use crate::{
    machine,
    ownership::Devices, //
};
use kernel::{
    device::Device,
    fmt,
    module_param::ModuleParam,
    powerpc::window::PageShift,
    prelude::*,
    str::BStr, //
};

/// The decisions, checked.
pub(crate) struct Options {
    /// TCE pages are not larger.
    pub(crate) max_page: PageShift,
    /// PEs of these devices get TCE pages of 4 KiB.
    pub(crate) small_pages: PciList,
    /// PEs of these devices are left to the platform.
    pub(crate) exclude: PciList,
    /// PEs of these devices begin in the platform domain.
    pub(crate) identity: PciList,
}

impl Options {
    /// Says which of the devices that are named are not there. May sleep.
    ///
    /// That is no error: they may come later.
    pub(crate) fn report_missing(&self) {
        for (parameter, list) in [
            ("small_pages", &self.small_pages),
            ("exclude", &self.exclude),
            ("identity", &self.identity),
        ] {
            for name in list.missing() {
                let name = BStr::from_bytes(name);
                pr_info!("{parameter}: no device {name} yet\n");
            }
        }
    }
}

/// Checks `max_page_shift`: what a CPU page can be made of.
pub(crate) fn max_page(shift: u32) -> Result<PageShift> {
    match shift {
        12 | 16 => PageShift::new(shift).ok_or(EINVAL),
        _ => {
            pr_err!("max_page_shift={shift}: must be 12 or 16, for TCE pages of 4 or 64 KiB\n");
            Err(EINVAL)
        }
    }
}

const MOST: usize = 255;

/// A list of PCI addresses: `0001:00:00.0,0002:01:00.0`.
#[derive(Clone, Copy)]
pub(crate) struct PciList {
    text: [u8; MOST],
    len: usize,
}

impl PciList {
    /// No device.
    pub(crate) const NONE: Self = Self {
        text: [0; MOST],
        len: 0,
    };

    fn text(&self) -> &[u8] {
        self.text.get(..self.len).unwrap_or_default()
    }

    fn names(&self) -> impl Iterator<Item = &[u8]> {
        self.text()
            .split(|byte| *byte == b',')
            .filter(|name| !name.is_empty())
    }

    /// Whether any device of the PE is named.
    pub(crate) fn has_any(&self, pe: &impl Devices) -> bool {
        let mut found = false;
        pe.for_each_device(&mut |dev| found |= self.has(dev));
        found
    }

    fn has(&self, dev: &Device) -> bool {
        self.names().any(|name| is_called(dev, name))
    }

    /// The names that no device has. To ask for the next one may sleep.
    pub(crate) fn missing(&self) -> impl Iterator<Item = &[u8]> {
        self.names().filter(|name| {
            let mut found = false;
            machine::for_each_device(|dev| found |= is_called(dev, name));
            !found
        })
    }
}

fn is_called(dev: &Device, name: &[u8]) -> bool {
    name == dev.name().to_bytes()
}

/// Whether `name` is an address as the kernel writes it: domain, bus, device and function.
fn is_address(name: &[u8]) -> bool {
    let is_digit = |byte: &u8| byte.is_ascii_hexdigit() && !byte.is_ascii_uppercase();
    let [domain @ .., b':', bus_1, bus_2, b':', dev_1, dev_2, b'.', b'0'..=b'7'] = name else {
        return false;
    };
    domain.len() >= 4
        && domain.iter().all(is_digit)
        && [bus_1, bus_2, dev_1, dev_2].into_iter().all(is_digit)
}

impl ModuleParam for PciList {
    fn try_from_param_arg(arg: &BStr) -> Result<Self> {
        let mut list = Self::NONE;
        list.text
            .get_mut(..arg.len())
            .ok_or(ENOSPC)?
            .copy_from_slice(arg);
        list.len = arg.len();
        if let Some(name) = list.names().find(|name| !is_address(name)) {
            let name = BStr::from_bytes(name);
            pr_err!("{name} is no PCI address such as 0001:00:00.0\n");
            return Err(EINVAL);
        }
        Ok(list)
    }

    fn show(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_fmt(fmt!("{}", BStr::from_bytes(self.text())))
    }
}
