// SPDX-License-Identifier: GPL-2.0

//! The three kinds of domain that a device can be attached to, and the one of a process.

pub(crate) mod blocked;
pub(crate) mod paging;
pub(crate) mod platform;
pub(crate) mod process;

/// The driver: the type that its domains and its callbacks belong to.
pub(crate) struct Tce;
