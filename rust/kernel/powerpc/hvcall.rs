// SPDX-License-Identifier: GPL-2.0

//! The hypercalls of PAPR that write TCEs.
//!
//! None of them sleeps or takes a lock. The hypervisor drops what the host bridge has cached before
//! a call returns.
//!
//! C header:
//! [`arch/powerpc/include/asm/plpar_wrappers.h`](srctree/arch/powerpc/include/asm/plpar_wrappers.h)

use crate::{
    bindings,
    prelude::*, //
};

use super::window::{
    Ioba,
    Liobn,
    Tce,
    Tces, //
};

pub use super::mem::TceList;

/// What a hypercall returned instead of success.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HvError(c_long);

impl HvError {
    // CAST: Widening, for all of these.
    const HARDWARE: c_long = bindings::H_HARDWARE as c_long;
    const BUSY: c_long = bindings::H_BUSY as c_long;
    const LONG_BUSY_FIRST: c_long = bindings::H_LONG_BUSY_START_RANGE as c_long;
    const LONG_BUSY_LAST: c_long = bindings::H_LONG_BUSY_END_RANGE as c_long;
    const FUNCTION: c_long = bindings::H_FUNCTION as c_long;
    const PRIVILEGE: c_long = bindings::H_PRIVILEGE as c_long;
    const PARAMETER: c_long = bindings::H_PARAMETER as c_long;
    const AUTHORITY: c_long = bindings::H_AUTHORITY as c_long;
    const PERMISSION: c_long = bindings::H_PERMISSION as c_long;
    const NO_MEM: c_long = bindings::H_NO_MEM as c_long;
    const RESOURCE: c_long = bindings::H_RESOURCE as c_long;
    const NOT_ENOUGH_RESOURCES: c_long = bindings::H_NOT_ENOUGH_RESOURCES as c_long;
    const RESCINDED: c_long = bindings::H_RESCINDED as c_long;
    const P2: c_long = bindings::H_P2 as c_long;
    const P5: c_long = bindings::H_P5 as c_long;

    /// An argument was refused here because the hypervisor would have refused it.
    const BAD_PARAMETER: Self = Self(Self::PARAMETER);

    /// Returns the code of PAPR, for messages.
    #[inline]
    pub fn code(self) -> c_long {
        self.0
    }

    /// Returns what PAPR calls a code, for messages.
    pub const fn name(code: c_long) -> &'static str {
        match code {
            Self::HARDWARE => "H_HARDWARE",
            Self::FUNCTION => "H_FUNCTION",
            Self::PRIVILEGE => "H_PRIVILEGE",
            Self::PARAMETER => "H_PARAMETER",
            Self::NO_MEM => "H_NO_MEM",
            Self::AUTHORITY => "H_AUTHORITY",
            Self::PERMISSION => "H_PERMISSION",
            Self::RESOURCE => "H_RESOURCE",
            Self::NOT_ENOUGH_RESOURCES => "H_NOT_ENOUGH_RESOURCES",
            Self::RESCINDED => "H_RESCINDED",
            Self::P2 => "H_P2",
            Self::P5 => "H_P5",
            Self::BUSY => "H_BUSY",
            Self::LONG_BUSY_FIRST..=Self::LONG_BUSY_LAST => "H_LONG_BUSY",
            _ => "unknown",
        }
    }

    #[inline]
    fn check(code: c_long) -> Result<(), Self> {
        if code == 0 {
            Ok(())
        } else {
            Err(Self(code))
        }
    }
}

impl From<HvError> for Error {
    fn from(err: HvError) -> Self {
        match err.0 {
            HvError::NOT_ENOUGH_RESOURCES | HvError::RESOURCE | HvError::NO_MEM => ENOMEM,
            HvError::PARAMETER | HvError::P5..=HvError::P2 => EINVAL,
            HvError::FUNCTION => EOPNOTSUPP,
            HvError::PRIVILEGE | HvError::AUTHORITY | HvError::PERMISSION => EPERM,
            HvError::BUSY | HvError::LONG_BUSY_FIRST..=HvError::LONG_BUSY_LAST => EBUSY,
            // `H_HARDWARE`, and what PAPR does not name for these calls.
            _ => EIO,
        }
    }
}

fn has_feature(feature: c_ulong) -> bool {
    // SAFETY: The function reads a variable that does not change after boot.
    unsafe { bindings::firmware_has_feature(feature) }
}

/// Does the hypervisor write and clear several TCEs at a time?
///
/// If not, only [`put_tce`] may be used. Tells `FW_FEATURE_PUT_TCE_IND` and
/// `FW_FEATURE_STUFF_TCE`; `multitce=off` on the kernel command line clears both.
#[inline(never)]
pub fn multi_tce() -> bool {
    has_feature(bindings::FW_FEATURE_PUT_TCE_IND) && has_feature(bindings::FW_FEATURE_STUFF_TCE)
}

/// Writes the TCE that maps `ioba` (`H_PUT_TCE`).
///
/// # Safety
///
/// The kernel runs below a hypervisor, and the caller owns the window `liobn`. While a present
/// `tce` is set, a device may access that page: the caller keeps it from being used for anything
/// that this would break.
#[inline(always)]
pub unsafe fn put_tce(liobn: Liobn, ioba: Ioba, tce: Tce) -> Result<(), HvError> {
    // SAFETY: The hypervisor checks the arguments. What the device can then do is in the caller's
    // promise.
    HvError::check(unsafe {
        bindings::plpar_tce_put(liobn.get().into(), ioba.get(), tce.into_raw())
    })
}

/// Writes `n` TCEs, the first of which maps `ioba`, from the start of `list`
/// (`H_PUT_TCE_INDIRECT`).
///
/// If it fails, any of them may have been written. `n` above [`TceList::LEN`] is refused.
///
/// # Safety
///
/// As for [`put_tce`], for each present TCE of the list. The hypervisor reads the list once, during
/// the call, so the promise holds for the values that the words have then. The list is in the box
/// that it was made in.
#[inline(always)]
pub unsafe fn put_tce_indirect(
    liobn: Liobn,
    ioba: Ioba,
    list: &TceList,
    n: Tces,
) -> Result<(), HvError> {
    // CAST: Widening.
    if n.get() > TceList::LEN as u64 {
        return Err(HvError::BAD_PARAMETER);
    }

    // SAFETY: `list` has room for `n` TCEs and is alive until the call returns. What the device can
    // then do is in the caller's promise.
    HvError::check(unsafe {
        bindings::plpar_tce_put_indirect(liobn.get().into(), ioba.get(), list.phys(), n.get())
    })
}

/// Clears `n` TCEs, the first of which maps `ioba` (`H_STUFF_TCE`).
///
/// If it fails, any of them may still be set. `n` above [`TceList::LEN`] is refused.
///
/// # Safety
///
/// The kernel runs below a hypervisor, and the caller owns the window `liobn`.
#[inline(always)]
pub unsafe fn stuff_tce(liobn: Liobn, ioba: Ioba, n: Tces) -> Result<(), HvError> {
    // CAST: Widening.
    if n.get() > TceList::LEN as u64 {
        return Err(HvError::BAD_PARAMETER);
    }

    // SAFETY: The hypervisor checks the arguments. Clear TCEs let nothing through.
    HvError::check(unsafe { bindings::plpar_tce_stuff(liobn.get().into(), ioba.get(), 0, n.get()) })
}
