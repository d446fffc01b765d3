// SPDX-License-Identifier: GPL-2.0

//! What an IOMMU driver needs of `arch/powerpc`: the windows of a PE.
//!
//! C header: [`arch/powerpc/include/asm/iommu-tce.h`](srctree/arch/powerpc/include/asm/iommu-tce.h)

use crate::{
    bindings,
    device::Device,
    error::{
        from_err_ptr,
        to_result, //
    },
    io::PhysAddr,
    iommu,
    pci,
    prelude::*,
    sync::aref::ARef, //
};

use core::{
    ops::RangeInclusive,
    ptr::NonNull, //
};

pub use super::{
    devices::{
        driver_kind,
        for_each_pci_device,
        is_going,
        is_in_group,
        DeviceGuard,
        DeviceLocks,
        LockError,
        LockedDevices, //
    },
    owner::{
        DmaOwner,
        DriverKind, //
    }, //
};

use super::{
    devices::has_dma_ops,
    window::{
        Firmware,
        Ioba,
        Levels,
        PageShift,
        PageShifts,
        Query,
        Root,
        Tces,
        Window,
        WindowId,
        WindowNumber,
        MAX_WINDOWS, //
    }, //
};

// CAST: The number is 2.
static_assert!(MAX_WINDOWS == bindings::IOMMU_TABLE_GROUP_MAX_TABLES as usize);

/// A handle of a PE's `struct iommu_table_group`.
///
/// Two handles are equal if they belong to the same PE.
///
/// The handle does not keep the PE alive: see [`TableGroup::of_device`]. The methods that change
/// windows are for the owner of the PE, who lets them run one at a time; all of them except
/// [`TableGroup::kill`] may sleep, and none takes the mutex of the IOMMU group.
///
/// # Invariants
///
/// The pointer is valid for the life of the handle, and the operations of the group include all
/// that this type calls, `kill` excepted.
#[derive(Debug, PartialEq, Eq)]
pub struct TableGroup(NonNull<bindings::iommu_table_group>);

// SAFETY: The operations of a group can be called from any thread.
unsafe impl Send for TableGroup {}

// SAFETY: As above. What has to be serialised is unsafe to call.
unsafe impl Sync for TableGroup {}

impl TableGroup {
    /// Returns the PE of a device.
    ///
    /// Returns `ENODEV` if this is not a PCI device, if its host bridge has no PEs, if the PE does
    /// not offer the operations, if the IOMMU core maps the DMA of the device, or if the arch code
    /// has not set up the device yet: a device shows up on the bus before that.
    ///
    /// # Safety
    ///
    /// The handle is dropped before the last device of the PE is released: at the latest in
    /// `release_device` of an IOMMU driver.
    pub unsafe fn of_device(dev: &Device) -> Result<Self> {
        if !has_dma_ops(dev) {
            return Err(ENODEV);
        }

        let tg = table_group(dev)?;

        // SAFETY: The group is valid while `dev` is not released.
        let Some(ops) = (unsafe { (*tg.as_ptr()).tce_ops.as_ref() }) else {
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

        // SAFETY: `raw_group` took a reference, which is given away.
        Ok(unsafe { iommu::Group::from_raw(group) })
    }

    /// Returns the `struct iommu_table_group`, for tracepoints.
    #[inline(always)]
    pub fn as_ptr(&self) -> *const c_void {
        self.0.as_ptr().cast_const().cast()
    }

    pub(super) fn as_raw(&self) -> NonNull<bindings::iommu_table_group> {
        self.0
    }

    /// Returns the C device of `dev`, or [`EINVAL`] unless it is a device of this PE.
    fn member(&self, dev: &Device) -> Result<*mut bindings::device> {
        match table_group(dev)? == self.0 {
            true => Ok(dev.as_raw()),
            false => Err(EINVAL),
        }
    }

    fn ops(&self) -> &bindings::iommu_tce_ops {
        // SAFETY: By the type invariant the group is valid and has operations, which are static.
        unsafe { &*(*self.0.as_ptr()).tce_ops }
    }

    /// Asks the firmware what the PE has and what may be opened.
    ///
    /// `dev` is any device of the PE, here and below. May sleep. Returns `EINVAL` if it is not,
    /// `ENODEV` if the firmware is one that nobody knows, and what firmware answers.
    ///
    /// # Safety
    ///
    /// The caller owns the PE: windows are not closed meanwhile.
    #[inline(never)]
    pub unsafe fn query(&self, dev: &Device) -> Result<Query> {
        let query = self.ops().query.ok_or(ENODEV)?;
        let mut raw = bindings::iommu_tce_query::default();

        let dev = self.member(dev)?;

        // SAFETY: The group is valid by the type invariant, `raw` can be written.
        to_ret(unsafe { query(self.0.as_ptr(), dev, &raw mut raw) })?;

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
            max_levels: Levels::new(raw.max_levels.min(Levels::MAX)),
            windows: raw.win.map(|win| window(&win)),
            mmio32: range(raw.mmio32_start, raw.mmio32_end),
            mmio64: range(raw.mmio64_start, raw.mmio64_end),
        })
    }

    /// Gives all windows of the PE to the platform code (`on`), or takes them from it.
    ///
    /// Taken, a PE of PAPR has the default window with no TCE set, and a PE of IODA no window. The
    /// platform's own TCE table stays allocated, so that giving back does not need memory. May
    /// sleep. After an error other than `ENODEV` the state of the windows is unknown; calling it
    /// again is the way out.
    ///
    /// # Safety
    ///
    /// The caller owns the PE, and no device of it is doing DMA. No device of it has
    /// [`DmaOwner::Platform`] with a driver that uses the DMA API; [`TableGroup::set_dma_owner`] is
    /// called for each of them afterwards, also after an error, before it gets such a driver,
    /// unless it would write what is there.
    #[inline(never)]
    pub unsafe fn set_platform(&self, dev: &Device, on: bool) -> Result {
        let set_platform = self.ops().set_platform.ok_or(ENODEV)?;
        let dev = self.member(dev)?;

        // SAFETY: The group is valid by the type invariant, and has the device.
        to_ret(unsafe { set_platform(self.0.as_ptr(), dev, on) })
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
                root.levels.get(),
                // A TCE has 8 bytes.
                root.level_tces.get().checked_mul(8).ok_or(EINVAL)?,
            ),
            None => (0, 0, 0),
        };
        let raw = self.member(dev)?;
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
                raw,
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
                // SAFETY: The caller owns the PE, and nobody has used the window.
                let _ = unsafe { self.close_window(dev, num) };
                Err(EIO)
            }
        }
    }

    /// Closes window `num`. May sleep.
    ///
    /// PAPR: the TCEs of the window are to be clear. After an error the window is still open.
    ///
    /// # Safety
    ///
    /// The caller owns the PE.
    #[inline(never)]
    pub unsafe fn close_window(&self, dev: &Device, num: WindowNumber) -> Result {
        let close = self.ops().close_window.ok_or(ENODEV)?;
        let dev = self.member(dev)?;

        // SAFETY: The group is valid by the type invariant, and has the device.
        to_ret(unsafe { close(self.0.as_ptr(), dev, num.get().try_into()?) })
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

/// Makes a range of what the arch code tells, where an end of 0 is none.
fn range(start: u64, end: u64) -> Option<RangeInclusive<Ioba>> {
    (end != 0).then(|| Ioba::new(start)..=Ioba::new(end))
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
pub(super) fn table_group(dev: &Device) -> Result<NonNull<bindings::iommu_table_group>> {
    let group = raw_group(dev)?;

    // SAFETY: `raw_group` took a reference.
    let tg = unsafe { bindings::iommu_group_get_iommudata(group.as_ptr()) };

    // SAFETY: This is the reference that `raw_group` took.
    unsafe { bindings::iommu_group_put(group.as_ptr()) };

    // All groups that `device_group` of a powerpc host bridge returns are made by
    // `iommu_register_group()`, whose data is the table group.
    NonNull::new(tg.cast()).ok_or(ENODEV)
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

/// Returns the end of RAM, in bytes, with the memory that firmware says can be added at run time.
/// PowerNV says nothing of it: what is added there counts once it is there. Any context.
#[inline(never)]
pub fn max_ram() -> PhysAddr {
    // SAFETY: The function can be called at any time after boot and in any context: it reads the
    // device tree below a raw spinlock, and the end of the memory that there is.
    unsafe { bindings::memory_hotplug_max() }
}
