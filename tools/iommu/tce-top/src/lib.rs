// SPDX-License-Identifier: GPL-2.0

//! Shows what the IOMMU of a POWER machine does.

pub mod explain;
pub mod rates;
pub mod state;
pub mod table;
