// SPDX-License-Identifier: GPL-2.0

//! What happened between two looks.

use crate::state::{Pe, State};
use serde::Serialize;

/// A PE, and what it did in each second since the look before.
#[derive(Debug, PartialEq, Serialize)]
pub struct Row<'a> {
    #[serde(flatten)]
    pub pe: &'a Pe,
    /// The drivers of its devices.
    pub drivers: Vec<&'a str>,
    pub publishes_per_s: f64,
    pub withdrawals_per_s: f64,
    pub flushes_per_s: f64,
    pub hypercalls_per_s: f64,
    pub kills_per_s: f64,
    /// Since the look before, not in each second.
    pub new_errors: u64,
}

/// The rows for `now`; without an earlier look the rates are 0. The busiest PE comes first.
pub fn rows<'a>(before: Option<&State>, now: &'a State) -> Vec<Row<'a>> {
    let mut rows: Vec<_> = now.pes.iter().map(|pe| row(before, now, pe)).collect();
    let work = |row: &Row<'_>| row.publishes_per_s + row.withdrawals_per_s;
    rows.sort_by(|a, b| work(b).total_cmp(&work(a)));
    rows
}

fn row<'a>(before: Option<&State>, now: &'a State, pe: &'a Pe) -> Row<'a> {
    let old = before.and_then(|state| {
        let old = state.pes.iter().find(|old| old.group == pe.group)?;
        let seconds = now.uptime - state.uptime;
        (seconds > 0.0).then_some((old, seconds))
    });
    // A PE that was taken over anew counts from 0.
    let more = |count: fn(&Pe) -> u64| {
        old.map_or(0, |(old, _)| {
            count(pe).checked_sub(count(old)).unwrap_or(count(pe))
        })
    };
    let rate = |count| old.map_or(0.0, |(_, seconds)| more(count) as f64 / seconds);
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
