// SPDX-License-Identifier: GPL-2.0

//! Why a device cannot be bound to an address space.

use crate::{
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
            BindError::MmIncompatible | BindError::InRecovery => EBUSY,
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
            Self::NoMm => "a kernel thread has no address space",
            Self::Other(error) => return write!(f, "{error:?}"),
        })
    }
}
