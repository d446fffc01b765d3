// SPDX-License-Identifier: GPL-2.0

//! The three kinds of domain that a device can be attached to.

pub(crate) mod blocked;
pub(crate) mod paging;
pub(crate) mod platform;

/// The driver: the type that its domains and its callbacks belong to.
pub(crate) struct Tce;
