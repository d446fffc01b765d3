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
pub struct Prefault {
    first: Option<Prefaulted>,
    more: KVec<Prefaulted>,
}

/// How many bytes are mapped, and taken back, without a pause.
const PIECE: usize = 1 << 30;

impl Prefault {
    /// Has `mirror` hold the memory; without one there is nothing to do.
    pub(super) fn new(
        mirror: Option<&Arc<Mirror>>,
        start: usize,
        len: usize,
        access: Access,
    ) -> Result<Self, PrefaultError> {
        let mut this = Self {
            first: None,
            more: KVec::new(),
        };
        let Some(mirror) = mirror else {
            return Ok(this);
        };
        let hold = |at, len| mirror.prefault(at, len, access == Access::Write);
        // OVERFLOW: A remainder is smaller than what it is of.
        let to_end = |at| PIECE.wrapping_sub(at % PIECE);
        let mut done = len.min(to_end(start));
        this.first = Some(hold(start, done)?);
        while done < len {
            let at = start.checked_add(done).ok_or(PrefaultError::NoMemory)?;
            // OVERFLOW: `done` is less.
            let next = len.wrapping_sub(done).min(to_end(at));
            let piece = hold(at, next)?;
            this.more
                .push(piece, GFP_KERNEL_ACCOUNT)
                .map_err(Error::from)?;
            done = done.wrapping_add(next);
        }
        Ok(this)
    }

    /// Whether the process has kept the memory, so that the device reaches it.
    pub fn is_live(&self) -> bool {
        let mut all = Iterator::chain(self.first.iter(), &self.more);
        all.all(Prefaulted::is_live)
    }
}
