// SPDX-License-Identifier: GPL-2.0

//! The types that a driver brings with it.

/// The types of a [`Driver`](super::Driver), from which the contexts of its callbacks are made.
///
/// Every driver has it, and nobody else needs it: no driver implements it itself.
pub trait DriverTypes: Sized + Send + Sync + 'static {
    /// What the driver keeps for each IOMMU.
    type Instance: Send + Sync + 'static;

    /// What the driver keeps for each device that it has claimed.
    type Endpoint: Send + Sync + 'static;

    /// The domain that translates addresses with a table.
    type Paging: Send + Sync + 'static;
}
