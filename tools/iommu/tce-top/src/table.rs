// SPDX-License-Identifier: GPL-2.0

//! What people see.

use crate::{
    rates::{Look, Row},
    state::State,
};
use comfy_table::{presets, CellAlignment, Table};

/// The columns from this one on have numbers.
const FIRST_NUMBER: usize = 4;
/// The line at the top, the empty one, the names of the columns, and where the cursor stays.
const LINES_BESIDES: usize = 4;

/// One screen, cut to the columns and lines that the terminal has.
pub fn screen(now: &State, look: &Look<'_>, size: Option<(usize, usize)>) -> String {
    let (width, height) = size.unwrap_or((usize::MAX, usize::MAX));
    let trouble = now.trouble();
    let room = height.saturating_sub(LINES_BESIDES + usize::from(trouble.is_some()));
    let shown = match look.pes.len() {
        all if all <= room => all,
        _ => room.saturating_sub(1),
    };
    let mut header = vec!["GROUP", "DEVICE", "DRIVER", "TYPE", "MAP/s", "UNMAP/s"];
    header.extend(match now.is_powernv() {
        true => &["FLUSH/s", "KILL/s"][..],
        false => &["HCALL/s"],
    });
    header.extend(["ERR", "TCES", "TABLE"]);
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_header(header);
    for row in look.pes.iter().take(shown) {
        table.add_row(cells(now, row));
    }
    for (n, column) in table.column_iter_mut().enumerate() {
        column.set_padding((0, 1));
        if n >= FIRST_NUMBER {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    let tces: u64 = now.pes.iter().map(|pe| pe.tces()).sum();
    let kib: u64 = now.pes.iter().map(|pe| pe.table_kib()).sum();
    let without = now
        .devices
        .iter()
        .filter(|device| device.group.is_none() && !device.is_bridge());
    let mut text = format!(
        "tce-top: {} PEs, {tces} TCEs, {} of tables, {} devices with the platform\n\n{table}\n",
        now.pes.len(),
        size_of(kib),
        without.count(),
    );
    if shown < look.pes.len() {
        text += &format!("+{} more\n", look.pes.len() - shown);
    }
    text.extend(trouble);
    let cut = |line: &str| {
        line.trim_end()
            .chars()
            .take(width)
            .chain(['\n'])
            .collect::<String>()
    };
    text.lines().map(cut).collect()
}

fn cells(now: &State, row: &Row<'_>) -> Vec<String> {
    let first = row.pe.devices.first().map_or("-", |device| &device.bdf);
    let device = match row.pe.devices.len() {
        0 | 1 => first.to_owned(),
        n => format!("{first} +{}", n - 1),
    };
    let drivers = match row.drivers.is_empty() {
        true => "-".to_owned(),
        false => row.drivers.join(","),
    };
    let process = row.pe.process.map(|pid| format!("[{pid}]"));
    let kind = match row.pe.domain.as_str() {
        "platform" => "identity",
        "blocked" | "nobody" | "stuck" => &row.pe.domain,
        _ => &row.pe.kind,
    };
    let rate = |rate: Option<f64>| rate.map_or("-".to_owned(), |rate| format!("{rate:.0}"));
    let mut cells = vec![
        row.pe.group.to_string(),
        device,
        drivers + &process.unwrap_or_default(),
        kind.to_owned(),
        rate(row.publishes_per_s),
        rate(row.withdrawals_per_s),
    ];
    cells.extend(match now.is_powernv() {
        true => vec![rate(row.flushes_per_s), rate(row.kills_per_s)],
        false => vec![rate(row.hypercalls_per_s)],
    });
    let errors = row.pe.stat("errors");
    cells.extend([
        errors.map_or("-".to_owned(), |errors| errors.to_string()),
        row.pe.tces().to_string(),
        size_of(row.pe.table_kib()),
    ]);
    cells
}

fn size_of(kib: u64) -> String {
    match kib {
        0..=9999 => format!("{kib} KiB"),
        _ => format!("{} MiB", kib >> 10),
    }
}
