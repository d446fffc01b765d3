// SPDX-License-Identifier: GPL-2.0

//! Devices and the PEs they belong to.

use crate::{
    debugfs::{
        Files,
        Show, //
    },
    firmware::Common,
    machine::{
        self,
        Machine, //
    },
    ownership::{
        Devices,
        Members, //
    },
    params::Options,
    pe::{
        Pe,
        Start,
        Target, //
    },
    space::Space,
    trace, //
};
use kernel::{
    debugfs::Dir,
    device::Device,
    iommu::default_passthrough,
    new_mutex,
    powerpc::window::PageShift,
    prelude::*,
    sync::{
        aref::ARef,
        atomic::{
            Atomic,
            Relaxed, //
        },
        rcu,
        Arc,
        Mutex, //
    },
    syscore,
    task::Pid,
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
    pe: Arc<Pe<Machine>>,
    pes: Arc<PeList>,
    /// Where the PE is on the list.
    index: usize,
    /// Begins in the platform domain, until somebody wants another one.
    identity: bool,
    /// Has been attached to a domain.
    attached: Atomic<bool>,
}

impl Endpoint {
    /// The PE.
    pub(crate) fn pe(&self) -> &Pe<Machine> {
        &self.pe
    }

    /// Whether the device is to begin in the platform domain.
    pub(crate) fn wants_platform(&self) -> bool {
        self.identity && !self.attached.load(Relaxed)
    }

    /// Attaches the device to `target`. May sleep. On error it stays where it was.
    ///
    /// # Safety
    ///
    /// The mutex of the IOMMU group is held, as in the `attach_dev` callbacks of the IOMMU core.
    pub(crate) unsafe fn attach(&self, target: &Target<'_>) -> Result {
        self.attached.store(true, Relaxed);
        // SAFETY: By the safety requirements.
        let result = unsafe { self.pe.attach(&self.dev, target) };
        let domain = match target {
            Target::Blocked => 0,
            Target::Platform => 1,
            Target::Paging(_) => 2,
        };
        trace::attach(&self.dev, domain, &result);
        result
    }

    /// Binds the device to the process with the tables `space`. May sleep.
    ///
    /// [`Pe::lend`] has the errors.
    pub(crate) fn lend(&self, space: &Arc<Space>, pid: Pid) -> Result {
        self.pe.lend(&self.dev, space, pid)
    }

    /// Unbinds the device from its process. May sleep; cannot fail.
    pub(crate) fn reclaim(&self) {
        self.pe.reclaim(&self.dev);
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        let _changes = self.pes.changes.lock();
        // SAFETY: The IOMMU core releases the device, so no driver is bound to it.
        if unsafe { self.pe.leave(&self.dev) } {
            self.pes.forget(self.index);
        }
    }
}

/// A PE that the driver has, and its debugfs directory.
struct Member {
    pe: Arc<Pe<Machine>>,
    _files: Pin<KBox<Files>>,
}

/// All PEs that the driver has.
#[pin_data]
pub(crate) struct PeList {
    options: Options,
    common: Arc<Common>,
    /// For PEs with small pages.
    common_4k: Arc<Common>,
    debugfs: Dir,
    /// By the number of their IOMMU group.
    #[pin]
    members: XArray<Arc<Member>>,
    /// Held by those who add and remove members.
    #[pin]
    changes: Mutex<()>,
    /// Whether devices are taken that the core offers: not while the driver registers, when it
    /// offers all there are without a look at their drivers, and not when the system goes down.
    /// Written under `changes`.
    open: Atomic<bool>,
}

impl PeList {
    /// Makes an empty list. May sleep.
    pub(crate) fn new(options: Options) -> Result<Arc<Self>> {
        let common = Common::new(options.max_page)?;
        let common_4k = Common::new(PageShift::SHIFT_4K)?;
        Arc::pin_init(
            pin_init!(Self {
                options,
                common,
                common_4k,
                debugfs: Dir::new(c"tce_iommu"),
                members <- XArray::new(xarray::AllocKind::Alloc),
                changes <- new_mutex!(()),
                open: Atomic::new(false),
            }),
            GFP_KERNEL,
        )
    }

    /// From now on devices are taken. May sleep.
    pub(crate) fn open(&self) {
        self.options.report_missing();
        let _changes = self.changes.lock();
        self.open.store(true, Relaxed);
    }

    /// The PE of `dev` if the driver has it, and where it is or will be on the list.
    fn find(&self, dev: &Device) -> Result<(usize, Option<Arc<Pe<Machine>>>)> {
        // CAST: `u32` fits `usize`.
        let index = machine::group_of(dev)?.id() as usize;
        let members = self.members.lock();
        let pe = members.get(index).map(|member| member.pe.clone());
        Ok((index, pe))
    }

    /// Takes the PE off the list. The caller holds `changes`.
    fn forget(&self, index: usize) {
        // A statement of its own, so that the member drops with the array unlocked.
        let member = self.members.lock().remove(index);
        drop(member);
    }

    /// Adds `dev`, which the IOMMU core offers, to its PE. May sleep.
    ///
    /// A PE that the driver does not have is taken over if `dev` is its only device but for
    /// bridges, for which the arch code sets up no PE: then it has just set this one up, and no
    /// driver can bind before the core is done with it. Otherwise it fails with [`EBUSY`].
    pub(crate) fn add(self: &Arc<Self>, dev: &Device, group: Arc<Machine>) -> Result<Endpoint> {
        let _changes = self.changes.lock();
        if !self.open.load(Relaxed) {
            return Err(ENODEV);
        }
        let (index, known) = self.find(dev)?;
        let pe = match known {
            Some(pe) => pe,
            None => {
                self.check_excluded(dev, &group)?;
                seize_bridges(dev, &group)?;
                // SAFETY: `dev` has no driver yet, and the others were seized.
                unsafe { self.take_over(dev, group, index) }?
            }
        };
        // SAFETY: The IOMMU core offers a device before drivers can bind to it, or with its lock
        // held and without a driver.
        if let Err(e) = unsafe { pe.join(dev) } {
            if pe.is_empty() {
                // SAFETY: As above.
                unsafe { pe.abandon(dev) };
                self.forget(index);
            }
            return Err(e);
        }
        Ok(Endpoint {
            identity: self.options.identity.has_any(pe.calls()),
            attached: Atomic::new(false),
            dev: dev.into(),
            pe,
            pes: self.clone(),
            index,
        })
    }

    /// Makes sure that the driver has the PE of `dev`, for the time of `join`, which is to add
    /// devices. May sleep.
    ///
    /// Fails with [`EBUSY`] if the driver does not have the PE and `in_use` says that a driver uses
    /// the DMA API for a device of it.
    ///
    /// # Safety
    ///
    /// `in_use` is right, and stays right until this returns.
    pub(crate) unsafe fn with_pe(
        &self,
        dev: &Device,
        group: Arc<Machine>,
        in_use: bool,
        join: impl FnOnce(),
    ) -> Result {
        {
            let _changes = self.changes.lock();
            let (index, known) = self.find(dev)?;
            if known.is_none() {
                self.check_excluded(dev, &group)?;
                if in_use {
                    return Err(EBUSY);
                }
                // SAFETY: By the safety requirements.
                unsafe { self.take_over(dev, group, index) }?;
            }
        }
        // The IOMMU core offers the devices to `add`.
        join();
        let _changes = self.changes.lock();
        if let (index, Some(pe)) = self.find(dev)? {
            if pe.is_empty() {
                // SAFETY: By the safety requirements.
                unsafe { pe.abandon(dev) };
                self.forget(index);
            }
        }
        Ok(())
    }

    /// Takes note whether a device has a driver that uses the DMA API. May sleep.
    ///
    /// # Safety
    ///
    /// As for [`Pe::set_in_use`].
    pub(crate) unsafe fn set_in_use(&self, dev: &Device, in_use: bool) {
        if let Ok((_, Some(pe))) = self.find(dev) {
            // SAFETY: By the safety requirements.
            unsafe { pe.set_in_use(dev, in_use) };
        }
    }

    /// Whether a device is known to have a driver that uses the DMA API. May sleep.
    pub(crate) fn is_in_use(&self, dev: &Device) -> bool {
        let pe = self.find(dev).ok().and_then(|(_, pe)| pe);
        pe.is_some_and(|pe| pe.is_in_use(dev))
    }

    /// Whether the administrator leaves a PE to the platform.
    pub(crate) fn excludes(&self, group: &Machine) -> bool {
        self.options.exclude.has_any(group)
    }

    fn check_excluded(&self, dev: &Device, group: &Machine) -> Result {
        if self.excludes(group) {
            dev_info!(dev, "PE excluded; DMA is left to the platform\n");
            return Err(ECANCELED);
        }
        Ok(())
    }

    /// Takes over the PE of `dev`, which is not excluded. The caller holds `changes`.
    ///
    /// # Safety
    ///
    /// As for [`Pe::new`].
    unsafe fn take_over(
        &self,
        dev: &Device,
        group: Arc<Machine>,
        index: usize,
    ) -> Result<Arc<Pe<Machine>>> {
        let start = match default_passthrough() || self.options.identity.has_any(&*group) {
            true => Start::Platform,
            false => Start::Owned,
        };
        let common = match self.options.small_pages.has_any(&*group) {
            true => &self.common_4k,
            false => &self.common,
        };
        // SAFETY: By the safety requirements.
        let pe = unsafe { Pe::new(group, dev, common.clone(), start) }?;
        let windows = Show {
            layout: &pe.layout(),
            between: ", ",
        };
        match start {
            Start::Owned => dev_info!(dev, "PE taken over: {windows}\n"),
            Start::Platform => dev_info!(dev, "PE taken over: {windows}; held by the platform\n"),
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
            // SAFETY: By the safety requirements.
            unsafe { pe.abandon(dev) };
            return Err(e);
        }
        Ok(pe)
    }
}

/// Makes sure that no device of the PE besides `dev` uses the DMA API, until the PE is taken over
/// or that has failed. May sleep.
///
/// Fails with [`EBUSY`], with nothing changed, if one of them has a driver that does, or is no
/// bridge: it would be left without DMA.
fn seize_bridges(dev: &Device, group: &Machine) -> Result {
    let mut all = true;
    Devices::for_each_device(group, &mut |other| {
        all &= core::ptr::eq(other, dev) || machine::is_bridge(other)
    });
    if !all {
        return Err(EBUSY);
    }
    let mut only = Members::new();
    only.add(dev)?;
    only.seize(group)
}

/// Says that the PE of `dev` could not be taken over.
pub(crate) fn warn_left(dev: &Device, e: Error) {
    dev_warn!(
        dev,
        "cannot take over the DMA windows ({e:?}); left to the platform\n"
    );
}

/// Ends the DMA of all PEs when the system goes down: a kernel that comes without a reset of the
/// machine uses the memory for something else.
pub(crate) struct Down(pub(crate) Arc<PeList>);

impl Down {
    fn for_each_pe(&self, f: impl Fn(&Pe<Machine>)) {
        machine::for_each_device(|dev| {
            if let Ok((_, Some(pe))) = self.0.find(dev) {
                f(&pe);
            }
        });
    }
}

impl syscore::Shutdown for Down {
    fn shutdown(&self) {
        let _changes = self.0.changes.lock();
        self.0.open.store(false, Relaxed);
        self.for_each_pe(Pe::silence);
        // One for all: there may be hundreds of PEs.
        rcu::synchronize_rcu();
        self.for_each_pe(Pe::shut_down);
    }
}
