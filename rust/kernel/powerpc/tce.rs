// SPDX-License-Identifier: GPL-2.0

//! What an IOMMU driver needs of `arch/powerpc`: the windows of a PE, and the fields of a device
//! that decide who maps its DMA.
//!
//! C header: [`arch/powerpc/include/asm/iommu.h`](srctree/arch/powerpc/include/asm/iommu.h)

use crate::{
    bindings,
    container_of,
    device::Device,
    error::{
        from_err_ptr,
        to_result, //
    },
    iommu,
    pci,
    prelude::*,
    sync::aref::ARef, //
};

use core::ptr::NonNull;

use super::window::{
    Firmware,
    Ioba,
    PageShift,
    PageShifts,
    Query,
    Root,
    Tces,
    Window,
    WindowId,
    WindowNumber,
    MAX_WINDOWS, //
};

// CAST: The number is 2.
static_assert!(MAX_WINDOWS == bindings::IOMMU_TABLE_GROUP_MAX_TABLES as usize);

/// A handle of a PE's `struct iommu_table_group`.
///
/// Two handles are equal if they belong to the same PE.
///
/// The handle does not keep the PE alive: see [`TableGroup::of_device`]. The methods that change
/// windows must not run at the same time for one PE; all of them except [`TableGroup::kill`] may
/// sleep, and none takes the mutex of the IOMMU group.
///
/// # Invariants
///
/// The pointer is valid for the life of the handle, and the operations of the group include all
/// that this type calls, `kill` excepted.
#[derive(Debug, PartialEq, Eq)]
pub struct TableGroup(NonNull<bindings::iommu_table_group>);

// SAFETY: The operations of a group can be called from any thread.
unsafe impl Send for TableGroup {}

// SAFETY: As above. Callers are told what they have to serialise; if they do not, windows get
// mixed up, which `open_window` makes them answer for.
unsafe impl Sync for TableGroup {}

impl TableGroup {
    /// Returns the PE of a device.
    ///
    /// Returns `ENODEV` if this is not a PCI device, if its host bridge has no PEs, if the PE does
    /// not offer the operations, or if the arch code has not set up the device yet: a device shows
    /// up on the bus before that.
    ///
    /// # Safety
    ///
    /// The handle is dropped before the last device of the PE is released: at the latest in
    /// `release_device` of an IOMMU driver.
    pub unsafe fn of_device(dev: &Device) -> Result<Self> {
        // SAFETY: `dev` is valid. The arch code writes the field before the device can be probed by
        // this path again.
        if unsafe { (*dev.as_raw()).dma_ops }.is_null() {
            return Err(ENODEV);
        }

        let tg = table_group(dev)?;

        // SAFETY: The group is valid while `dev` is not released.
        let Some(ops) = (unsafe { (*tg.as_ptr()).ops.as_ref() }) else {
            return Err(ENODEV);
        };

        if ops.query.is_none()
            || ops.set_platform.is_none()
            || ops.open_window.is_none()
            || ops.close_window.is_none()
        {
            return Err(ENODEV);
        }

        // INVARIANT: The caller promises the life of the handle; the operations are checked.
        Ok(Self(tg))
    }

    /// Returns the IOMMU group of a device, that is, of its PE.
    ///
    /// Returns `ENODEV` if it has none.
    #[inline(never)]
    pub fn device_group(dev: &Device) -> Result<ARef<iommu::Group>> {
        let group = raw_group(dev)?;

        // SAFETY: `Group` is a transparent wrapper, and the reference that `raw_group` took goes
        // into the `ARef`.
        Ok(unsafe { ARef::from_raw(group.cast()) })
    }

    /// Returns a number that no other PE has at the same time.
    #[inline]
    pub fn id(&self) -> usize {
        self.0.as_ptr() as usize
    }

    fn ops(&self) -> &bindings::iommu_table_group_ops {
        // SAFETY: By the type invariant the group is valid and has operations, which are static.
        unsafe { &*(*self.0.as_ptr()).ops }
    }

    /// Asks the firmware what the PE has and what may be opened.
    ///
    /// `dev` is any device of the PE, here and below. May sleep.
    #[inline(never)]
    pub fn query(&self, dev: &Device) -> Result<Query> {
        let query = self.ops().query.ok_or(ENODEV)?;
        let mut raw = bindings::iommu_tce_query::default();

        // SAFETY: The group is valid by the type invariant, `raw` can be written.
        to_ret(unsafe { query(self.0.as_ptr(), dev.as_raw(), &raw mut raw) })?;

        let firmware = match raw.firmware {
            bindings::iommu_tce_firmware_IOMMU_TCE_PAPR => Firmware::Papr,
            bindings::iommu_tce_firmware_IOMMU_TCE_IODA => Firmware::Ioda,
            _ => return Err(ENODEV),
        };

        Ok(Query {
            firmware,
            nr_windows: raw.nr_windows,
            page_sizes: PageShifts::new(raw.page_sizes),
            max_tces: Tces::new(raw.max_tces),
            max_levels: raw.max_levels,
            windows: raw.win.map(|win| window(&win)),
            mmio32: (raw.mmio32_end != 0)
                .then(|| Ioba::new(raw.mmio32_start)..=Ioba::new(raw.mmio32_end)),
        })
    }

    /// Gives all windows of the PE to the platform code (`on`), or takes them from it.
    ///
    /// Taken, a PE of PAPR has the default window with no TCE set, and a PE of IODA no window. The
    /// platform's own TCE table stays allocated, so that giving back does not need memory. May
    /// sleep. If it fails, the state of the windows is unknown; calling it again is the way out.
    ///
    /// No device of the PE may be doing DMA, and [`DmaSetup`] is to be called for each of them.
    #[inline(never)]
    pub fn set_platform(&self, dev: &Device, on: bool) -> Result {
        let set_platform = self.ops().set_platform.ok_or(ENODEV)?;

        // SAFETY: The group is valid by the type invariant.
        to_ret(unsafe { set_platform(self.0.as_ptr(), dev.as_raw(), on) })
    }

    /// Opens window `num` with pages of `shift` and room for `tces`.
    ///
    /// PAPR: `num` is the high one, `root` is [`None`], `tces` a power of two. IODA: `root` is the
    /// table; all levels of it have the same size.
    ///
    /// May sleep. After an error nothing is open. Returns `EINVAL` for arguments that cannot be,
    /// `EBUSY` if a window of PAPR is open already, `ENOSPC` if its firmware does not give one, and
    /// `ENOMEM`, `ENODEV` or `EIO`.
    ///
    /// # Safety
    ///
    /// IODA: the table is a TCE table, with valid pointers in all levels but the last, and stays
    /// one until [`TableGroup::close_window`] or [`TableGroup::set_platform`] succeeded. Memory
    /// that a TCE lets a device reach is not used for anything that this would break.
    ///
    /// The caller owns the PE: no other user of the windows of this PE is active.
    #[inline(never)]
    pub unsafe fn open_window(
        &self,
        dev: &Device,
        num: WindowNumber,
        root: Option<Root>,
        shift: PageShift,
        tces: Tces,
    ) -> Result<Window> {
        let open = self.ops().open_window.ok_or(ENODEV)?;
        let (addr, levels, level_bytes) = match root {
            Some(root) => (
                root.addr,
                root.levels,
                // A TCE has 8 bytes.
                root.level_tces.get().checked_mul(8).ok_or(EINVAL)?,
            ),
            None => (0, 0, 0),
        };
        let mut win = bindings::iommu_tce_window {
            tces: tces.get(),
            page_shift: shift.get(),
            ..Default::default()
        };

        // SAFETY: The group is valid by the type invariant, `win` can be written, and the caller
        // promises the table.
        to_ret(unsafe {
            open(
                self.0.as_ptr(),
                dev.as_raw(),
                num.get().try_into()?,
                addr,
                levels,
                level_bytes,
                &raw mut win,
            )
        })?;

        match window(&win) {
            Some(win) => Ok(win),
            None => {
                // A window that does not fit in 64 bits: the firmware is broken.
                let _ = self.close_window(dev, num);
                Err(EIO)
            }
        }
    }

    /// Closes window `num`. May sleep.
    ///
    /// PAPR: the TCEs of the window are to be clear. After an error the window is still open.
    #[inline(never)]
    pub fn close_window(&self, dev: &Device, num: WindowNumber) -> Result {
        let close = self.ops().close_window.ok_or(ENODEV)?;

        // SAFETY: The group is valid by the type invariant.
        to_ret(unsafe { close(self.0.as_ptr(), dev.as_raw(), num.get().try_into()?) })
    }

    /// Must changes of TCEs be followed by [`TableGroup::kill`]?
    #[inline]
    pub fn has_kill(&self) -> bool {
        self.ops().kill.is_some()
    }

    /// Makes the host bridge forget TCEs that it has cached: some, from a bus address on, or all of
    /// the PE.
    ///
    /// When it returns, no device reaches memory through the old TCEs. Stores to the table that
    /// came before it are visible to the host bridge. Does not sleep and can be called from any
    /// context; does nothing if [`TableGroup::has_kill`] says no.
    #[inline]
    pub fn kill(&self, run: Option<(Ioba, Tces, PageShift)>) {
        let Some(kill) = self.ops().kill else {
            return;
        };

        // No pages stand for the whole PE.
        let (shift, page, pages) = run.map_or((0, 0, 0), |(first, tces, shift)| {
            (shift.get(), shift.pages(first.get()), tces.get())
        });

        // SAFETY: The group is valid by the type invariant.
        unsafe { kill(self.0.as_ptr(), shift, page, pages) }
    }

    /// Calls `f` for each PCI device of the PE, whether or not an IOMMU driver knows it.
    ///
    /// May sleep. Devices that come or go meanwhile may be missed, and those that the arch code has
    /// not set up yet are left out: no driver can be bound to them.
    pub fn for_each_device(&self, mut f: impl FnMut(&Device)) {
        let mut next = next_pci_device(None);

        while let Some(pdev) = next {
            let dev: &Device = (*pdev).as_ref();

            if is_set_up(dev) && table_group(dev).is_ok_and(|tg| tg == self.0) {
                f(dev);
            }

            next = next_pci_device(Some(pdev));
        }
    }

    /// Asks the IOMMU core to probe a device of the PE (`iommu_add_device()`).
    ///
    /// Returns `EBUSY` if it has a group already. May sleep.
    #[inline(never)]
    pub fn add_device(&self, dev: &Device) -> Result {
        // SAFETY: The group is valid by the type invariant.
        to_result(unsafe { bindings::iommu_add_device(self.0.as_ptr(), dev.as_raw()) })
    }
}

/// Turns the result of a group operation into a [`Result`].
fn to_ret(ret: c_long) -> Result {
    // An operation returns 0 or an errno.
    to_result(ret.try_into().unwrap_or(EIO.to_errno()))
}

/// Makes a [`Window`] of what the arch code tells.
fn window(win: &bindings::iommu_tce_window) -> Option<Window> {
    Window::new(
        Ioba::new(win.base),
        Tces::new(win.tces),
        PageShift::new(win.page_shift)?,
        WindowId::new(win.id),
    )
}

/// Has the arch code set up the DMA of this device?
fn is_set_up(dev: &Device) -> bool {
    let dev = dev.as_raw();

    // SAFETY: `dev` is valid. The pointers are not followed. Only a device in an IOMMU group can
    // have lost the operations that the arch code gave it.
    unsafe { !(*dev).dma_ops.is_null() || !(*dev).iommu_group.is_null() }
}

/// Returns the IOMMU group of a device's PE, with a reference.
fn raw_group(dev: &Device) -> Result<NonNull<bindings::iommu_group>> {
    let pdev: &pci::Device = dev.try_into().map_err(|_| ENODEV)?;

    // SAFETY: A PCI device has a bus. The system data of a bus is its host bridge on powerpc, which
    // outlives the devices below it.
    let hose: *mut bindings::pci_controller = unsafe { (*(*pdev.as_raw()).bus).sysdata }.cast();

    // SAFETY: As above; the operations are written before devices are found.
    let group = unsafe { (*hose).controller_ops.device_group }.ok_or(ENODEV)?;

    // SAFETY: Both pointers are valid.
    NonNull::new(from_err_ptr(unsafe { group(hose, pdev.as_raw()) })?).ok_or(ENODEV)
}

/// Returns the table group of a device's PE. It is valid until the last device of it is released.
#[inline(never)]
fn table_group(dev: &Device) -> Result<NonNull<bindings::iommu_table_group>> {
    let group = raw_group(dev)?;

    // SAFETY: `raw_group` took a reference.
    let tg = unsafe { bindings::iommu_group_get_iommudata(group.as_ptr()) };

    // SAFETY: This is the reference that `raw_group` took.
    unsafe { bindings::iommu_group_put(group.as_ptr()) };

    // All groups that `device_group` of a powerpc host bridge returns are made by
    // `iommu_register_group()`, whose data is the table group.
    NonNull::new(tg.cast()).ok_or(ENODEV)
}

/// Returns the PCI device after `from`, or the first one.
#[inline(never)]
fn next_pci_device(from: Option<ARef<pci::Device>>) -> Option<ARef<pci::Device>> {
    let from = from.map_or(core::ptr::null_mut(), |pdev| {
        ARef::into_raw(pdev).as_ptr().cast()
    });

    // CAST: The id is all ones, for any width.
    let any = bindings::PCI_ANY_ID as c_uint;

    // SAFETY: `from` is null or a device with a reference, which the function drops.
    let pdev = NonNull::new(unsafe { bindings::pci_get_device(any, any, from) })?;

    // SAFETY: `pci::Device` is a transparent wrapper; the function took a reference.
    Some(unsafe { ARef::from_raw(pdev.cast()) })
}

/// Is a driver bound to this PCI device that uses the DMA API?
///
/// Drivers that manage DMA themselves (`driver_managed_dma`), such as VFIO, do not count. While a
/// driver is being bound or unbound the answer is yes. Does not wait for that.
#[inline(never)]
pub fn has_dma_api_driver(dev: &Device) -> bool {
    let raw = dev.as_raw();

    // SAFETY: `raw` is valid. Whether the pointer can be followed is settled below.
    if unsafe { core::ptr::read_volatile(&raw const (*raw).driver) }.is_null() {
        return false;
    }

    // SAFETY: `raw` is valid.
    if unsafe { bindings::device_trylock(raw) } == 0 {
        return true;
    }

    // SAFETY: The device lock is held, so that the driver stays or there is none.
    let driver = unsafe { (*raw).driver };

    // SAFETY: `raw` is valid.
    let managed = driver.is_null()
        || unsafe { bindings::dev_is_pci(raw) } && {
            // SAFETY: A driver of a PCI device is embedded in a `struct pci_driver`.
            unsafe { (*container_of!(driver, bindings::pci_driver, driver)).driver_managed_dma }
        };

    // SAFETY: The lock was taken above.
    unsafe { bindings::device_unlock(raw) };

    !managed
}

/// The fields of a device that decide who maps its DMA, as the arch code set them up.
///
/// A device of the platform domain has the `dma_ops` of the arch, a device of any other domain has
/// none, and the DMA API then takes the generic IOMMU path. Both methods write all of the fields,
/// so that nothing of an earlier driver is left. `archdata.dma_offset` is not among them: the arch
/// code writes it whenever it matters.
pub struct DmaSetup {
    ops: *const bindings::dma_map_ops,
}

// SAFETY: The pointer is to a static structure that is only read.
unsafe impl Send for DmaSetup {}

// SAFETY: As above.
unsafe impl Sync for DmaSetup {}

impl DmaSetup {
    /// Saves the fields of a device that [`TableGroup::of_device`] accepted.
    pub fn save(dev: &Device) -> Self {
        Self {
            // SAFETY: `dev` is valid.
            ops: unsafe { (*dev.as_raw()).dma_ops },
        }
    }

    /// Gives the device back to the platform code.
    ///
    /// # Safety
    ///
    /// `self` was saved from `dev`, `tg` is its PE, and the platform has the windows
    /// ([`TableGroup::set_platform`]). No driver uses the DMA API for `dev` meanwhile.
    pub unsafe fn set_platform(&self, dev: &Device, tg: &TableGroup) {
        // SAFETY: The group is valid by the type invariant.
        let table = unsafe { (*tg.0.as_ptr()).tables[0] };

        // SAFETY: The caller says that nobody uses the fields. The table is valid for as long as
        // the platform has the windows.
        unsafe { self.set(dev, self.ops, table) };
    }

    /// Takes the device from the platform code.
    ///
    /// # Safety
    ///
    /// No driver uses the DMA API for `dev` meanwhile.
    pub unsafe fn set_iommu(&self, dev: &Device) {
        // SAFETY: The caller says that nobody uses the fields.
        unsafe { self.set(dev, core::ptr::null(), core::ptr::null_mut()) };
    }

    /// # Safety
    ///
    /// Nobody uses the fields of `dev`; `ops` and `table` are null or valid.
    #[inline(never)]
    unsafe fn set(
        &self,
        dev: &Device,
        ops: *const bindings::dma_map_ops,
        table: *mut bindings::iommu_table,
    ) {
        let dev = dev.as_raw();

        // SAFETY: `dev` is valid, and the caller says that nobody uses these fields.
        unsafe {
            (*dev).dma_ops = ops;
            (*dev).bus_dma_limit = 0;
            (*dev).archdata.iommu_table_base = table;
            bindings::dev_clear_dma_ops_bypass(dev);
        }
    }
}

/// Is this the kernel that writes a crash dump?
#[inline(never)]
pub fn is_kdump_kernel() -> bool {
    // SAFETY: The function reads a variable that does not change after boot.
    unsafe { bindings::is_kdump_kernel() }
}

/// Is this a secure guest, whose memory a device cannot reach?
#[inline(never)]
pub fn is_secure_guest() -> bool {
    // SAFETY: The function reads a register.
    unsafe { bindings::is_secure_guest() }
}

/// Returns the end of RAM, in bytes, with all memory that can be added at run time.
#[inline(never)]
pub fn max_ram() -> u64 {
    // SAFETY: The function can be called at any time after boot.
    unsafe { bindings::memory_hotplug_max() }
}
