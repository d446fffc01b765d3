// SPDX-License-Identifier: GPL-2.0

//! Devices and the PEs they belong to.

use crate::{
    debugfs::{
        Files,
        Show, //
    },
    firmware::Common,
    pe::{
        Pe,
        Target, //
    }, //
};
use kernel::{
    debugfs::Dir,
    device::Device,
    new_mutex,
    powerpc::{
        tce::{
            has_dma_api_driver,
            DmaSetup,
            TableGroup, //
        },
        window::PageShift, //
    },
    prelude::*,
    sync::{
        aref::ARef,
        atomic::{
            Atomic,
            Relaxed, //
        },
        Arc,
        Mutex, //
    },
    xarray::{
        self,
        XArray, //
    }, //
};

/// What the driver keeps for each device.
///
/// While it exists the device counts as a member of its PE.
pub(crate) struct Endpoint {
    dev: ARef<Device>,
    pe: Arc<Pe<TableGroup>>,
    pes: Arc<PeList>,
    dma: DmaSetup,
    /// Where the PE is on the list.
    index: usize,
    /// Attached to the blocked domain. The mutex of the IOMMU group orders the accesses.
    blocked: Atomic<bool>,
}

impl Endpoint {
    /// The PE.
    pub(crate) fn pe(&self) -> &Pe<TableGroup> {
        &self.pe
    }

    /// Attaches the device to `target`. May sleep. On error it stays where it was.
    ///
    /// # Safety
    ///
    /// The mutex of the IOMMU group is held, and the device uses no DMA API until this returns.
    /// Both hold in the `attach_dev` callbacks of the IOMMU core.
    pub(crate) unsafe fn attach(&self, target: &Target<'_>) -> Result {
        self.pe
            .attach(&self.dev, target, self.blocked.load(Relaxed))?;
        self.blocked
            .store(matches!(target, Target::Blocked), Relaxed);
        match target {
            // SAFETY: By the safety requirements, and the PE has gone to the platform above.
            Target::Platform => unsafe { self.dma.set_platform(&self.dev, self.pe.calls()) },
            // SAFETY: By the safety requirements.
            _ => unsafe { self.dma.set_iommu(&self.dev) },
        }
        Ok(())
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        let _changes = self.pes.changes.lock();
        if self.pe.leave(&self.dev, self.blocked.load(Relaxed)) {
            // SAFETY: The IOMMU core releases the device, so no driver is bound to it, and its PE
            // has gone to the platform.
            unsafe { self.dma.set_platform(&self.dev, self.pe.calls()) };
            // A statement of its own, so that the member drops with the array unlocked.
            let member = self.pes.members.lock().remove(self.index);
            drop(member);
        }
    }
}

/// A PE that the driver has, and its debugfs directory.
struct Member {
    pe: Arc<Pe<TableGroup>>,
    _files: Pin<KBox<Files>>,
}

/// All PEs that the driver has.
#[pin_data]
pub(crate) struct PeList {
    common: Arc<Common>,
    debugfs: Dir,
    /// By the number of their IOMMU group.
    #[pin]
    members: XArray<Arc<Member>>,
    /// Held by those who add and remove members.
    #[pin]
    changes: Mutex<()>,
}

impl PeList {
    /// Makes an empty list. TCE pages will not be larger than `max_page`. May sleep.
    pub(crate) fn new(max_page: PageShift) -> Result<Arc<Self>> {
        let common = Common::new(max_page)?;
        Arc::pin_init(
            pin_init!(Self {
                common,
                debugfs: Dir::new(c"tce_iommu"),
                members <- XArray::new(xarray::AllocKind::Alloc),
                changes <- new_mutex!(()),
            }),
            GFP_KERNEL,
        )
    }

    /// Adds `dev` to its PE, which is taken over if the driver does not have it. May sleep.
    ///
    /// Fails with [`EBUSY`] if the platform's DMA code serves a driver on the PE.
    pub(crate) fn add(self: &Arc<Self>, dev: &Device, group: TableGroup) -> Result<Endpoint> {
        let iommu_group = TableGroup::device_group(dev)?;
        // CAST: `u32` fits `usize`.
        let index = iommu_group.id() as usize;
        let _changes = self.changes.lock();
        let known = self
            .members
            .lock()
            .get(index)
            .map(|member| member.pe.clone());
        let pe = match known {
            Some(pe) => pe,
            None => self.take_over(dev, group, index)?,
        };
        pe.join();
        Ok(Endpoint {
            dev: dev.into(),
            dma: DmaSetup::save(dev),
            pe,
            pes: self.clone(),
            index,
            blocked: Atomic::new(false),
        })
    }

    /// Takes over the PE of `dev`. The caller holds `changes`.
    fn take_over(
        &self,
        dev: &Device,
        group: TableGroup,
        index: usize,
    ) -> Result<Arc<Pe<TableGroup>>> {
        if is_in_use(&group) {
            return Err(EBUSY);
        }
        let pe = Pe::new(Arc::new(group, GFP_KERNEL)?, dev, self.common.clone())?;
        for (number, window) in pe.layout().windows() {
            dev_info!(dev, "DMA window {}: {}\n", number.get(), Show(window));
        }
        let stored = Files::new(&self.debugfs, index, pe.clone()).and_then(|files| {
            let member = Member {
                pe: pe.clone(),
                _files: files,
            };
            let member = Arc::new(member, GFP_KERNEL)?;
            Ok(self.members.lock().store(index, member, GFP_KERNEL)?)
        });
        if let Err(e) = stored {
            pe.join();
            pe.leave(dev, false);
            return Err(e);
        }
        Ok(pe)
    }
}

/// Whether a driver uses DMA through the PE by way of the platform's DMA code. May sleep.
///
/// To be asked only of a PE that the driver does not have.
pub(crate) fn is_in_use(group: &TableGroup) -> bool {
    let mut used = false;
    group.for_each_device(|dev| used |= has_dma_api_driver(dev));
    used
}
