// SPDX-License-Identifier: GPL-2.0

//! Counts of the calls that cost time.
//!
//! They are made on the hot path of every CPU, so CPUs do not share a cache line for them: each has
//! a cell, or shares it with few others on a large machine.

use kernel::{
    cpu::CpuId,
    prelude::*,
    sync::atomic::{
        Atomic,
        Relaxed, //
    }, //
};

/// What is counted.
#[derive(Clone, Copy)]
pub(crate) enum Event {
    /// `H_PUT_TCE` or `H_PUT_TCE_INDIRECT`.
    Put,
    /// `H_STUFF_TCE`.
    Stuff,
    /// A TCE cache invalidation.
    Kill,
    /// A call that firmware refused.
    Error,
}

const EVENTS: usize = 4;
const CELLS: usize = 16;

/// The counts of one CPU, on a cache line of their own.
#[repr(align(128))]
struct Cell([Atomic<u64>; EVENTS]);

/// The counts of a PE.
#[pin_data]
pub(crate) struct Stats {
    cells: [Cell; CELLS],
}

impl Stats {
    /// Makes counts of 0.
    pub(crate) fn new() -> impl Init<Self> {
        let zero = |_| Atomic::new(0);
        init!(Self {
            cells <- pin_init::init_array_from_fn(move |_| Cell(core::array::from_fn(zero))),
        })
    }

    /// Counts one. Any context.
    #[inline]
    pub(crate) fn count(&self, event: Event) {
        // CAST: `u32` fits `usize`.
        let cell = CpuId::current().as_u32() as usize % CELLS;
        // CAST: The number of the event.
        let count = self
            .cells
            .get(cell)
            .and_then(|cell| cell.0.get(event as usize));
        if let Some(count) = count {
            count.add(1, Relaxed);
        }
    }

    /// The count so far.
    pub(crate) fn get(&self, event: Event) -> u64 {
        // CAST: The number of the event.
        let counts = self
            .cells
            .iter()
            .filter_map(|cell| cell.0.get(event as usize));
        counts.fold(0, |sum, count| sum.wrapping_add(count.load(Relaxed)))
    }
}
