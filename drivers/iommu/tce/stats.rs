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

/// What is counted: what costs time, each call once, but not that the hypervisor was busy. What
/// else an administrator wants to know follows from these, see [`Counts`].
#[derive(Clone, Copy)]
pub(crate) enum Event {
    /// `H_PUT_TCE` that publishes a TCE.
    Put,
    /// `H_PUT_TCE_INDIRECT`.
    PutList,
    /// One of those two was not the first of its publish.
    MorePuts,
    /// `H_STUFF_TCE`.
    Stuff,
    /// `H_PUT_TCE` that clears a TCE.
    Clear,
    /// A withdrawal of up to 512 TCEs was to do without `H_STUFF_TCE`.
    ClearSingly,
    /// A withdrawal of up to 512 TCEs was not the first part of a larger one.
    MoreClears,
    /// A kill for TCEs that are new.
    KillNew,
    /// A kill for TCEs that were cleared.
    KillOld,
    /// A kill for all that was cleared in a while.
    KillAll,
    /// A call that firmware refused.
    Error,
}

// CAST: The number of the last event.
const EVENTS: usize = Event::Error as usize + 1;
const CELLS: usize = 16;

/// The counts of one CPU, on a cache line of their own.
#[repr(align(128))]
struct Cell([Atomic<u64>; EVENTS]);

/// The counts of a PE.
#[pin_data]
pub(crate) struct Stats {
    cells: [Cell; CELLS],
}

/// What has been done for a PE, and what it took.
pub(crate) struct Counts {
    /// Runs of new TCEs that were shown to the PE.
    pub(crate) publishes: u64,
    /// Runs of cleared TCEs that the PE was made to forget.
    pub(crate) withdrawals: u64,
    /// How often it was made to forget all of them.
    pub(crate) flushes: u64,
    /// `H_PUT_TCE`.
    pub(crate) put: u64,
    /// `H_PUT_TCE_INDIRECT`.
    pub(crate) put_list: u64,
    /// `H_STUFF_TCE`.
    pub(crate) stuff: u64,
    /// TCE cache invalidations.
    pub(crate) kills: u64,
    /// Calls that firmware refused.
    pub(crate) errors: u64,
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

    fn get(&self, event: Event) -> u64 {
        // CAST: The number of the event.
        let counts = self
            .cells
            .iter()
            .filter_map(|cell| cell.0.get(event as usize));
        counts.fold(0, |sum, count| sum.wrapping_add(count.load(Relaxed)))
    }

    /// What has been done so far. CPUs go on counting meanwhile.
    pub(crate) fn read(&self) -> Counts {
        let sum = |events: &[Event]| {
            let counts = events.iter().map(|event| self.get(*event));
            counts.fold(0u64, u64::wrapping_add)
        };
        // What is taken off comes first, so that it is never more than there is.
        let (more_puts, more_clears) = (self.get(Event::MorePuts), self.get(Event::MoreClears));
        let published = sum(&[Event::Put, Event::PutList, Event::KillNew]);
        let withdrawn = sum(&[Event::Stuff, Event::ClearSingly, Event::KillOld]);
        Counts {
            publishes: published.saturating_sub(more_puts),
            withdrawals: withdrawn.saturating_sub(more_clears),
            flushes: self.get(Event::KillAll),
            put: sum(&[Event::Put, Event::Clear]),
            put_list: self.get(Event::PutList),
            stuff: self.get(Event::Stuff),
            kills: sum(&[Event::KillNew, Event::KillOld, Event::KillAll]),
            errors: self.get(Event::Error),
        }
    }
}
