// SPDX-License-Identifier: GPL-2.0

//! Who maps the DMA of a PE's devices: a function of the PE's state, written here and nowhere else.
//!
//! | the windows belong to | a device that the driver has | any other device of the PE |
//! |---|---|---|
//! | the platform | platform | platform |
//! | the driver | IOMMU core | nobody |
//! | nobody, because firmware refused | nobody | nobody |
//!
//! The fields are written when the windows change hands, whether that succeeds or fails, and when a
//! device joins or leaves a PE that the driver owns. None of this happens while a driver uses the
//! DMA API of the platform for a device of the PE. For a device that the driver has, the IOMMU core
//! sees to that with the mutex of its group, because a driver that binds goes through
//! `iommu_device_use_default_domain()`. For the others it takes the lock of the device.

use kernel::{
    device::Device,
    powerpc::owner::DmaOwner,
    prelude::*,
    sync::aref::ARef, //
};

/// The devices of a PE, whether or not the driver has them.
pub(crate) trait Devices: Send + Sync + 'static {
    /// Calls `f` for each of them. May sleep.
    fn for_each_device(&self, f: &mut dyn FnMut(&Device));

    /// Calls `f` with the device locked, unless its lock is busy or it has a driver that uses the
    /// DMA API. Says whether it did.
    fn if_idle(&self, dev: &Device, f: &mut dyn FnMut()) -> bool;

    /// Writes who maps the DMA of a device of the PE.
    ///
    /// # Safety
    ///
    /// Nobody maps or unmaps memory for the device by way of the DMA API meanwhile, and no mapping
    /// that was made earlier is unmapped later. The windows belong to the platform if `owner` says
    /// so, and when they change hands this is called again.
    unsafe fn set_dma_owner(&self, dev: &Device, owner: DmaOwner);
}

/// Who has the windows of a PE.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Holder {
    /// The platform's DMA code.
    Platform,
    /// The driver.
    Driver,
    /// Nobody: firmware took them from the one and refused to give them to the other.
    Nobody,
}

/// A device that the driver has.
pub(crate) struct Member {
    pub(crate) dev: ARef<Device>,
    /// Attached to the blocked domain.
    pub(crate) blocked: bool,
    /// A driver that uses the DMA API is bound. It is set before the driver probes and cleared
    /// after its resources have gone.
    pub(crate) in_use: bool,
}

/// The devices of a PE that the driver has.
pub(crate) struct Members(KVec<Member>);

impl Members {
    /// None.
    pub(crate) const fn new() -> Self {
        Self(KVec::new())
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// One of them.
    pub(crate) fn any(&self) -> Option<ARef<Device>> {
        self.0.first().map(|member| member.dev.clone())
    }

    /// Adds a device, which is attached to nothing yet and has no driver.
    pub(crate) fn add(&mut self, dev: &Device) -> Result {
        let member = Member {
            dev: dev.into(),
            blocked: false,
            in_use: false,
        };
        Ok(self.0.push(member, GFP_KERNEL)?)
    }

    pub(crate) fn remove(&mut self, dev: &Device) {
        if let Some(at) = self.0.iter().position(|member| member.is(dev)) {
            self.0.remove(at).ok();
        }
    }

    /// Calls `f` with each device.
    pub(crate) fn for_each(&self, f: impl FnMut(&Member)) {
        self.0.iter().for_each(f);
    }

    /// Whether `dev` is the only one.
    pub(crate) fn is_only(&self, dev: &Device) -> bool {
        self.0.len() == 1 && self.contains(dev)
    }

    fn contains(&self, dev: &Device) -> bool {
        self.0.iter().any(|member| member.is(dev))
    }

    fn update(&mut self, dev: &Device, f: impl Fn(&mut Member)) {
        self.0
            .iter_mut()
            .filter(|member| member.is(dev))
            .for_each(f);
    }

    pub(crate) fn set_blocked(&mut self, dev: &Device, blocked: bool) {
        self.update(dev, |member| member.blocked = blocked);
    }

    pub(crate) fn set_in_use(&mut self, dev: &Device, in_use: bool) {
        self.update(dev, |member| member.in_use = in_use);
    }

    /// Whether a driver uses the DMA API for `dev`, which is one of them.
    pub(crate) fn is_in_use(&self, dev: &Device) -> bool {
        let mut devices = self.0.iter();
        devices.any(|member| member.in_use && member.is(dev))
    }

    /// Whether a driver uses the DMA API for any of them.
    pub(crate) fn in_use(&self) -> bool {
        self.0.iter().any(|member| member.in_use)
    }

    /// Whether all are attached to the blocked domain.
    pub(crate) fn all_blocked(&self) -> bool {
        self.0.iter().all(|member| member.blocked)
    }

    /// Whether all besides `dev` are attached to the blocked domain.
    pub(crate) fn others_blocked(&self, dev: &Device) -> bool {
        self.0.iter().all(|member| member.blocked || member.is(dev))
    }

    /// Who maps the DMA of a device of the PE.
    fn owner(&self, dev: &Device, holder: Holder) -> DmaOwner {
        match holder {
            Holder::Platform => DmaOwner::Platform,
            Holder::Driver if self.contains(dev) => DmaOwner::Iommu,
            Holder::Driver | Holder::Nobody => DmaOwner::Nobody,
        }
    }

    /// Writes who maps the DMA of every device of the PE. May sleep.
    ///
    /// # Safety
    ///
    /// No driver uses the DMA API for any device of the PE, or it has only been able to fail.
    pub(crate) unsafe fn settle(&self, devices: &impl Devices, holder: Holder) {
        devices.for_each_device(&mut |dev| {
            // SAFETY: By the safety requirements; the caller says who has the windows.
            unsafe { devices.set_dma_owner(dev, self.owner(dev, holder)) }
        });
    }

    /// Like [`settle`](Self::settle), for a device that came or went.
    ///
    /// # Safety
    ///
    /// As for [`settle`](Self::settle), but for `dev` only.
    pub(crate) unsafe fn settle_one(&self, devices: &impl Devices, dev: &Device, holder: Holder) {
        // SAFETY: By the safety requirements; the caller says who has the windows.
        unsafe { devices.set_dma_owner(dev, self.owner(dev, holder)) }
    }

    /// Makes sure that no device which the driver does not have uses the DMA API, now or later,
    /// until [`settle`](Self::settle) is called. May sleep.
    ///
    /// Fails with [`EBUSY`], with nothing changed, if a driver does.
    pub(crate) fn seize(&self, devices: &impl Devices) -> Result {
        let set = |dev: &Device, owner| {
            devices.if_idle(dev, &mut || {
                // SAFETY: The device is locked and has no driver that uses the DMA API.
                unsafe { devices.set_dma_owner(dev, owner) }
            })
        };
        let (mut seized, mut all) = (0_usize, true);
        devices.for_each_device(&mut |dev| {
            if all && !self.contains(dev) {
                all = set(dev, DmaOwner::Nobody);
                seized = seized.saturating_add(usize::from(all));
            }
        });
        if all {
            return Ok(());
        }
        // A driver that came meanwhile has not been able to map anything, and keeps what it found.
        devices.for_each_device(&mut |dev| {
            if seized > 0 && !self.contains(dev) {
                seized = seized.saturating_sub(1);
                set(dev, DmaOwner::Platform);
            }
        });
        Err(EBUSY)
    }
}

impl Member {
    fn is(&self, dev: &Device) -> bool {
        core::ptr::eq::<Device>(&*self.dev, dev)
    }
}
