// SPDX-License-Identifier: GPL-2.0

//! Memory of a process for a device that cannot ask for pages.

use super::{
    sva_error::PrefaultError,
    sva_mirror::{
        Mirror,
        Prefaulted, //
    }, //
};
use crate::{
    prelude::*,
    sync::Arc, //
};

/// What a device does with memory of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// It reads.
    Read,
    /// It writes, and may read.
    Write,
}

/// Memory of a process that a device can reach.
///
/// When it is dropped the device reaches the memory no more, unless another [`Prefault`] has it.
/// The driver stops the device from using it before. Dropping may sleep, and must not be done with
/// the `mmap` lock of the process held, nor from an [`mm_exit`].
///
/// It does not keep the device bound. Once the last [`Bond`] of the process is gone, it only holds
/// the pages.
///
/// [`Bond`]: super::sva::Bond
/// [`mm_exit`]: super::sva::MmExit::mm_exit
#[must_use = "the device does not reach the memory any more when this is dropped"]
pub struct Prefault(Option<Prefaulted>);

impl Prefault {
    /// Has `mirror` hold the memory; without one there is nothing to do.
    pub(super) fn new(
        mirror: Option<&Arc<Mirror>>,
        start: usize,
        len: usize,
        access: Access,
    ) -> Result<Self, PrefaultError> {
        let hold = |mirror: &Arc<Mirror>| mirror.prefault(start, len, access == Access::Write);
        Ok(Self(mirror.map(hold).transpose()?))
    }

    /// Whether the process has kept the memory, so that the device reaches it.
    pub fn is_live(&self) -> bool {
        self.0.as_ref().is_none_or(Prefaulted::is_live)
    }
}
