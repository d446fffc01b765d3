// SPDX-License-Identifier: GPL-2.0

//! Tracepoints: `/sys/kernel/tracing/events/tce_iommu/`.
//!
//! They stand where the driver calls firmware. Those of the hot path are before the call, so that
//! nothing has to be kept for them while it runs: without a reader each is a nop.
//!
//! C header: [`include/trace/events/tce_iommu.h`](srctree/include/trace/events/tce_iommu.h)

use kernel::{
    device::Device,
    powerpc::{
        tce::TableGroup,
        window::{
            Ioba,
            Liobn,
            PageShift,
            Tce,
            Tces,
            Window,
            WindowNumber, //
        }, //
    },
    prelude::*, //
};

kernel::declare_trace! {
    /// # Safety
    ///
    /// `dev` is a C string.
    unsafe fn tce_owner(dev: *const c_char, platform: bool, error: c_int);

    /// # Safety
    ///
    /// `dev` is a C string.
    unsafe fn tce_window_open(
        dev: *const c_char, window: u32, base: u64, tces: u64, shift: u32, id: u32, error: c_int
    );

    /// # Safety
    ///
    /// `dev` is a C string.
    unsafe fn tce_window_close(dev: *const c_char, window: u32, error: c_int);

    /// # Safety
    ///
    /// `dev` is a C string.
    unsafe fn tce_attach(dev: *const c_char, domain: u32, error: c_int);

    /// # Safety
    ///
    /// Always safe.
    unsafe fn tce_put(liobn: u32, ioba: u64, tce: u64);

    /// # Safety
    ///
    /// Always safe.
    unsafe fn tce_put_indirect(liobn: u32, ioba: u64, tces: u64);

    /// # Safety
    ///
    /// Always safe.
    unsafe fn tce_stuff(liobn: u32, ioba: u64, tces: u64);

    /// # Safety
    ///
    /// Always safe.
    unsafe fn tce_refused(code: c_long);

    /// # Safety
    ///
    /// `group` is a table group.
    unsafe fn tce_kill(group: *const c_void, ioba: u64, tces: u64);
}

fn errno<T>(result: &Result<T>) -> c_int {
    result.as_ref().err().map_or(0, |e| e.to_errno())
}

// CAST: 0 or 1.
fn number(window: WindowNumber) -> u32 {
    window.get() as u32
}

/// The windows of a PE were to change hands.
pub(crate) fn owner(dev: &Device, platform: bool, result: &Result) {
    // SAFETY: The name of a device is a C string.
    unsafe { tce_owner(dev.name().as_char_ptr(), platform, errno(result)) }
}

/// A window was to be opened.
pub(crate) fn window_open(
    dev: &Device,
    num: WindowNumber,
    shift: PageShift,
    tces: Tces,
    result: &Result<Window>,
) {
    let (base, id) = match result {
        Ok(window) => (window.base.get(), window.id.get()),
        Err(_) => (0, 0),
    };
    // SAFETY: The name of a device is a C string.
    unsafe {
        tce_window_open(
            dev.name().as_char_ptr(),
            number(num),
            base,
            tces.get(),
            shift.get(),
            id,
            errno(result),
        )
    }
}

/// A window was to be closed.
pub(crate) fn window_close(dev: &Device, num: WindowNumber, result: &Result) {
    // SAFETY: The name of a device is a C string.
    unsafe { tce_window_close(dev.name().as_char_ptr(), number(num), errno(result)) }
}

/// A device was to be attached to a domain: 0 is blocked, 1 the platform's, 2 a paging domain.
pub(crate) fn attach(dev: &Device, domain: u32, result: &Result) {
    // SAFETY: The name of a device is a C string.
    unsafe { tce_attach(dev.name().as_char_ptr(), domain, errno(result)) }
}

/// `H_PUT_TCE`.
#[inline(always)]
pub(crate) fn put(liobn: Liobn, ioba: Ioba, tce: Tce) {
    // SAFETY: Always safe.
    unsafe { tce_put(liobn.get(), ioba.get(), tce.into_raw()) }
}

/// `H_PUT_TCE_INDIRECT`.
#[inline(always)]
pub(crate) fn put_indirect(liobn: Liobn, ioba: Ioba, n: Tces) {
    // SAFETY: Always safe.
    unsafe { tce_put_indirect(liobn.get(), ioba.get(), n.get()) }
}

/// `H_STUFF_TCE`.
#[inline(always)]
pub(crate) fn stuff(liobn: Liobn, ioba: Ioba, n: Tces) {
    // SAFETY: Always safe.
    unsafe { tce_stuff(liobn.get(), ioba.get(), n.get()) }
}

/// The hypervisor refused a call.
pub(crate) fn refused(code: c_long) {
    // SAFETY: Always safe.
    unsafe { tce_refused(code) }
}

/// Some TCEs of the PE are killed, or all.
#[inline(always)]
pub(crate) fn kill(group: &TableGroup, run: Option<(Ioba, Tces, PageShift)>) {
    let (ioba, tces) = run.map_or((0, 0), |(ioba, tces, _)| (ioba.get(), tces.get()));
    // SAFETY: It is a table group.
    unsafe { tce_kill(group.as_ptr(), ioba, tces) }
}
