// SPDX-License-Identifier: GPL-2.0

//! Why a device cannot be bound to an address space, or cannot reach its memory.

use super::IovaRange;
use crate::{
    alloc::AllocError,
    fmt,
    prelude::*, //
};

/// Why a device cannot be bound to an address space.
///
/// Display it: the text is for the one message that a driver should print.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum BindError {
    /// No IOMMU driver has the device.
    NoIommu,
    /// The device, or its IOMMU, has no PASIDs.
    NoPasids,
    /// The IOMMU driver does not implement shared virtual addressing, or not for this IOMMU.
    NoDriverSupport,
    /// Other devices are in the same IOMMU group.
    ///
    /// C shares one handle between them, and the handle does not outlive the first of them.
    SharedGroup,
    /// All PASIDs that the device could use are taken by other address spaces.
    PasidsUsedUp,
    /// The address space has a PASID, and it is too large for this device.
    ///
    /// An address space has one PASID for all devices, and another device got it first.
    PasidTooLarge,
    /// The IOMMU cannot use the page tables of the process, as with address masking on x86.
    MmIncompatible,
    /// The device is being reset. It may work later.
    ///
    /// A driver that attaches domains to PASIDs of its own choice also sees this if the PASID is
    /// in use.
    InRecovery,
    /// The IOMMU has room for one process, and the device is bound to another one.
    OtherProcess,
    /// The kernel's own DMA uses the addresses of the process, or may.
    ///
    /// Where there are no PASIDs, a driver keeps its DMA masks below the window of processes: 59
    /// bits on POWER.
    KernelDma,
    /// The current task is a kernel thread and has no address space.
    NoMm,
    /// Memory is short, or the IOMMU driver has another reason.
    Other(Error),
}

impl BindError {
    /// Takes the error of `iommu_sva_bind_device()` for a device that is [`supported`].
    ///
    /// [`supported`]: super::sva::supported
    ///
    /// `compatible` says whether the IOMMU can use the page tables.
    pub(super) fn from_bind(error: Error, compatible: bool) -> Self {
        match error {
            // A supported device has an IOMMU. Drivers say this of one that lacks something.
            ENODEV | EOPNOTSUPP => Self::NoDriverSupport,
            EUSERS => Self::OtherProcess,
            EADDRINUSE => Self::KernelDma,
            ENOSPC => Self::PasidsUsedUp,
            EOVERFLOW => Self::PasidTooLarge,
            EBUSY if !compatible => Self::MmIncompatible,
            EBUSY => Self::InRecovery,
            error => Self::Other(error),
        }
    }
}

impl From<BindError> for Error {
    /// Returns the error that C has for it.
    fn from(error: BindError) -> Self {
        match error {
            BindError::NoIommu => ENODEV,
            BindError::NoPasids | BindError::PasidsUsedUp => ENOSPC,
            BindError::NoDriverSupport => EOPNOTSUPP,
            BindError::SharedGroup | BindError::NoMm => EINVAL,
            BindError::PasidTooLarge => EOVERFLOW,
            BindError::MmIncompatible | BindError::InRecovery | BindError::OtherProcess => EBUSY,
            BindError::KernelDma => EADDRINUSE,
            BindError::Other(error) => error,
        }
    }
}

impl From<Error> for BindError {
    fn from(error: Error) -> Self {
        Self::Other(error)
    }
}

impl fmt::Display for BindError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoIommu => "no IOMMU driver has the device",
            Self::NoPasids => "the device or its IOMMU has no PASIDs",
            Self::NoDriverSupport => "the IOMMU or its driver has no shared virtual addressing",
            Self::SharedGroup => "other devices are in the same IOMMU group",
            Self::PasidsUsedUp => "all PASIDs of the device are in use",
            Self::PasidTooLarge => "the PASID of the process is too large for the device",
            Self::MmIncompatible => "the IOMMU cannot use the page tables of the process",
            Self::InRecovery => "the device is being reset",
            Self::OtherProcess => "the device is bound to another process",
            Self::KernelDma => "DMA of the kernel may use the addresses of the process",
            Self::NoMm => "a kernel thread has no address space",
            Self::Other(error) => return write!(f, "{error:?}"),
        })
    }
}

/// Why memory of a process cannot be made reachable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PrefaultError {
    /// The process has exited.
    Exited,
    /// The process has no memory there that permits the access and can be pinned.
    NoMemory,
    /// The window that firmware gave the device does not reach the address. It is this one.
    Outside(IovaRange),
    /// The process would have more memory locked than it may.
    LockLimit,
    /// Memory is short, it changes all the time ([`EAGAIN`]), a signal is pending while it does
    /// ([`EINTR`]), or the IOMMU driver has another reason.
    Other(Error),
}

impl From<Error> for PrefaultError {
    fn from(error: Error) -> Self {
        Self::Other(error)
    }
}

impl From<AllocError> for PrefaultError {
    fn from(_: AllocError) -> Self {
        Self::Other(ENOMEM)
    }
}

impl From<PrefaultError> for Error {
    fn from(error: PrefaultError) -> Self {
        match error {
            PrefaultError::Exited => ESRCH,
            PrefaultError::NoMemory => EFAULT,
            PrefaultError::Outside(_) => ERANGE,
            PrefaultError::LockLimit => ENOMEM,
            PrefaultError::Other(error) => error,
        }
    }
}

impl fmt::Display for PrefaultError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Exited => "the process has exited",
            Self::NoMemory => "the process has no such memory there",
            Self::Outside(window) => {
                return write!(
                    f,
                    "the DMA window of {:#x} bytes at {:#x} does not reach the address",
                    window.bytes(),
                    window.first().get()
                )
            }
            Self::LockLimit => "the process may not lock so much memory",
            Self::Other(error) => return write!(f, "{error:?}"),
        })
    }
}
