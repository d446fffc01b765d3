// SPDX-License-Identifier: GPL-2.0

//! What happened between two looks.

use crate::state::{Pe, State};
use serde::Serialize;

/// A look, as monitors read it.
#[derive(Debug, PartialEq, Serialize)]
pub struct Look<'a> {
    /// Another number comes when a field goes or gets another meaning, not with a new one.
    pub version: u32,
    /// Since the machine was started, in seconds.
    pub uptime: f64,
    /// Since the look before, in seconds.
    pub interval: Option<f64>,
    /// The driver is there.
    pub loaded: bool,
    /// The busiest first.
    pub pes: Vec<Row<'a>>,
}

/// A PE, and what it did in each second since the look before, if that is known.
#[derive(Debug, PartialEq, Serialize)]
pub struct Row<'a> {
    #[serde(flatten)]
    pub pe: &'a Pe,
    /// The drivers of its devices.
    pub drivers: Vec<&'a str>,
    pub publishes_per_s: Option<f64>,
    pub withdrawals_per_s: Option<f64>,
    pub flushes_per_s: Option<f64>,
    pub hypercalls_per_s: Option<f64>,
    pub kills_per_s: Option<f64>,
    /// Since the look before, not in each second.
    pub new_errors: Option<u64>,
}

/// What there is `now`, and what happened since the look before.
pub fn look<'a>(before: Option<&State>, now: &'a State) -> Look<'a> {
    // A recording may go on after the machine was started again.
    let interval = before
        .map(|before| now.uptime - before.uptime)
        .filter(|seconds| *seconds > 0.0);
    let old = |pe: &Pe| before?.pes.iter().find(|old| old.group == pe.group);
    let rows = now.pes.iter().map(|pe| row(old(pe), interval, now, pe));
    let mut pes: Vec<_> = rows.collect();
    let work =
        |row: &Row<'_>| row.publishes_per_s.unwrap_or(0.0) + row.withdrawals_per_s.unwrap_or(0.0);
    pes.sort_by(|a, b| work(b).total_cmp(&work(a)));
    Look {
        version: 1,
        uptime: now.uptime,
        interval,
        loaded: now.loaded,
        pes,
    }
}

fn row<'a>(old: Option<&Pe>, interval: Option<f64>, now: &'a State, pe: &'a Pe) -> Row<'a> {
    // If one counter fell, all began at 0 since: the PE was taken over anew.
    let base = old.filter(|old| {
        let mut counters = old.stats.iter();
        counters.all(|(name, count)| pe.stat(name).is_some_and(|now| now >= *count))
    });
    let more = |count: fn(&Pe) -> Option<u64>| count(pe)?.checked_sub(count(base?)?);
    let rate = |count| Some(more(count)? as f64 / interval?);
    let of_pe = |device: &&crate::state::Device| device.group == Some(pe.group);
    let mut drivers: Vec<_> = now
        .devices
        .iter()
        .filter(of_pe)
        .filter_map(|device| device.driver.as_deref())
        .collect();
    drivers.dedup();
    Row {
        pe,
        drivers,
        publishes_per_s: rate(|pe| pe.stat("publishes")),
        withdrawals_per_s: rate(|pe| pe.stat("withdrawals")),
        flushes_per_s: rate(|pe| pe.stat("flushes")),
        hypercalls_per_s: rate(Pe::hypercalls),
        kills_per_s: rate(|pe| pe.stat("kills")),
        new_errors: more(|pe| pe.stat("errors")),
    }
}
