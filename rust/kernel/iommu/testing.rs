// SPDX-License-Identifier: GPL-2.0

//! Devices for the tests of IOMMU drivers, and domains as their users have them.
//!
//! With these, a KUnit test of an IOMMU driver goes through the core as VFIO and the DMA API do. No
//! hardware is needed: the driver under test claims platform devices by their names.

use super::{
    registry::ProbeLock,
    Iova,
    IovaRange,
    Prot, //
};
use crate::{
    bindings,
    device::{
        Bound,
        Device, //
    },
    error::{
        from_err_ptr,
        to_result, //
    },
    io::PhysAddr,
    prelude::*,
    types::Opaque, //
};
use core::ptr::{
    self,
    NonNull, //
};

/// A platform device.
pub(super) struct TestDevice(pub(super) NonNull<bindings::platform_device>);

impl TestDevice {
    /// Makes a device, which belongs to the IOMMU with the firmware node unless that is null.
    ///
    /// # Safety
    ///
    /// `node` must be null or valid.
    pub(super) unsafe fn new(
        name: &CStr,
        id: c_int,
        pasid_bits: Option<u32>,
        node: *mut bindings::fwnode_handle,
    ) -> Result<Self> {
        // SAFETY: The name is a C string, which is copied.
        let raw = unsafe { bindings::platform_device_alloc(name.as_char_ptr(), id) };
        let this = NonNull::new(raw).ok_or(ENOMEM)?;
        // SAFETY: The device is initialised and not yet added.
        let added = unsafe { Self::add(raw, pasid_bits, node) };
        if let Err(e) = added {
            // SAFETY: The device was not added.
            unsafe { bindings::platform_device_put(raw) };
            return Err(e);
        }
        Ok(Self(this))
    }

    /// # Safety
    ///
    /// `raw` must be initialised and not yet added, and `node` null or valid.
    unsafe fn add(
        raw: *mut bindings::platform_device,
        pasid_bits: Option<u32>,
        node: *mut bindings::fwnode_handle,
    ) -> Result {
        // SAFETY: The device is valid.
        let dev = unsafe { &raw mut (*raw).dev };

        if let Some(bits) = pasid_bits {
            let mut properties: [bindings::property_entry; 2] = pin_init::zeroed();
            properties[0].name = c"pasid-num-bits".as_char_ptr();
            properties[0].length = size_of::<u32>();
            properties[0].is_inline = true;
            properties[0].type_ = bindings::dev_prop_type_DEV_PROP_U32;
            properties[0].__bindgen_anon_1.value.u32_data = [bits, 0];
            // SAFETY: The properties are complete, and are copied.
            to_result(unsafe {
                bindings::device_create_managed_software_node(dev, properties.as_ptr(), ptr::null())
            })?;
        }
        if !node.is_null() {
            let _lock = ProbeLock::lock();
            // SAFETY: Both are valid, and the probe lock is held.
            to_result(unsafe { bindings::iommu_fwspec_init(dev, node) })?;
        }
        // SAFETY: The device is initialised.
        to_result(unsafe { bindings::platform_device_add(raw) })
    }

    /// Returns the device, which is bound as long as the test bed is there.
    pub(super) fn dev(&self) -> Result<&'static Device<Bound>> {
        // SAFETY: The device was registered, and its users do not keep it for longer.
        let dev: &Device = unsafe {
            let dev = &raw mut (*self.0.as_ptr()).dev;
            if (*dev).driver.is_null() {
                return Err(ENXIO);
            }
            Device::from_raw(dev)
        };
        // SAFETY: Checked above; nobody else unbinds it.
        Ok(unsafe { dev.as_bound() })
    }
}

impl Drop for TestDevice {
    fn drop(&mut self) {
        // SAFETY: The device was registered.
        unsafe { bindings::platform_device_unregister(self.0.as_ptr()) };
    }
}

/// The driver of the devices.
pub(super) struct TestDriver(Pin<KBox<Opaque<bindings::platform_driver>>>);

impl TestDriver {
    pub(super) fn new(name: &'static CStr) -> Result<Self> {
        let mut raw: bindings::platform_driver = pin_init::zeroed();
        raw.driver.name = name.as_char_ptr();
        let raw = KBox::pin(Opaque::new(raw), GFP_KERNEL)?;
        // SAFETY: The driver is initialised, and pinned until it is unregistered.
        to_result(unsafe {
            bindings::__platform_driver_register(
                raw.get(),
                ptr::null_mut(),
                c"kernel".as_char_ptr(),
            )
        })?;
        Ok(Self(raw))
    }
}

impl Drop for TestDriver {
    fn drop(&mut self) {
        // SAFETY: The driver is registered.
        unsafe { bindings::platform_driver_unregister(self.0.get()) };
    }
}

/// Platform devices that are bound to a driver, and whose memory nobody looks at.
pub struct Devices {
    devices: KVec<TestDevice>,
    // Dropped last, so that the devices stay bound.
    _driver: TestDriver,
}

impl Devices {
    /// Makes `count` devices with names that are `name`, a point, and a number from 0 on.
    pub fn new(name: &'static CStr, count: usize) -> Result<Self> {
        let mut this = Self {
            devices: KVec::new(),
            _driver: TestDriver::new(name)?,
        };
        for id in 0..count {
            // SAFETY: There is no node.
            let device = unsafe { TestDevice::new(name, id.try_into()?, None, ptr::null_mut()) }?;
            this.devices.push(device, GFP_KERNEL)?;
        }
        Ok(this)
    }

    /// Returns a device.
    pub fn get(&self, number: usize) -> Result<&Device<Bound>> {
        self.devices.get(number).ok_or(EINVAL)?.dev()
    }
}

/// A paging domain, as its user has it.
pub struct Domain(pub(super) *mut bindings::iommu_domain);

impl Domain {
    /// Makes a domain for a device.
    pub fn new(dev: &Device<Bound>) -> Result<Self> {
        // SAFETY: The device is bound.
        let raw = unsafe { bindings::iommu_paging_domain_alloc_flags(dev.as_raw(), 0) };
        from_err_ptr(raw).map(Self)
    }

    /// Maps memory.
    ///
    /// # Safety
    ///
    /// Devices that are attached may access the memory until it is unmapped.
    pub unsafe fn map(&self, iova: Iova, paddr: PhysAddr, size: usize, prot: Prot) -> Result {
        // CAST: C has the address in a `c_ulong`.
        let iova = iova.get() as c_ulong;
        let flags = GFP_KERNEL.as_raw();
        // SAFETY: The domain is valid.
        to_result(unsafe { bindings::iommu_map(self.0, iova, paddr, size, prot.as_raw(), flags) })
    }

    /// Unmaps a range, and returns how many bytes were mapped.
    pub fn unmap(&self, range: IovaRange) -> usize {
        // CAST: As in `map()`.
        let (first, bytes) = (range.first().get() as c_ulong, range.bytes() as usize);
        // SAFETY: The domain is valid.
        unsafe { bindings::iommu_unmap(self.0, first, bytes) }
    }

    /// Returns the physical address that is mapped at `iova`, or 0.
    pub fn iova_to_phys(&self, iova: Iova) -> PhysAddr {
        // SAFETY: The domain is valid.
        unsafe { bindings::iommu_iova_to_phys(self.0, iova.get() as bindings::dma_addr_t) }
    }

    /// Attaches a device, which has a group of its own, until the result is dropped.
    pub fn attach<'a>(&'a self, dev: &'a Device<Bound>) -> Result<Attachment<'a>> {
        // SAFETY: The domain is valid, and the device is bound.
        to_result(unsafe { bindings::iommu_attach_device(self.0, dev.as_raw()) })?;
        Ok(Attachment { domain: self, dev })
    }
}

impl Drop for Domain {
    fn drop(&mut self) {
        // SAFETY: Nobody else uses the domain.
        unsafe { bindings::iommu_domain_free(self.0) };
    }
}

/// A device in a domain. It goes back to its default domain at the end.
#[must_use]
pub struct Attachment<'a> {
    domain: &'a Domain,
    dev: &'a Device<Bound>,
}

impl Drop for Attachment<'_> {
    fn drop(&mut self) {
        // SAFETY: The device was attached to the domain.
        unsafe { bindings::iommu_detach_device(self.domain.0, self.dev.as_raw()) };
    }
}
