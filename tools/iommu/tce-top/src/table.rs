// SPDX-License-Identifier: GPL-2.0

//! What people see.

use crate::{rates::Row, state::State};
use comfy_table::{presets, CellAlignment, Table};

const HEADER: [&str; 11] = [
    "GROUP", "DEVICE", "DRIVER", "TYPE", "MAP/s", "UNMAP/s", "HCALL/s", "KILL/s", "ERR", "TCES",
    "TABLE",
];

/// One screen.
pub fn screen(now: &State, rows: &[Row<'_>]) -> String {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_header(HEADER);
    for row in rows {
        let first = row.pe.devices.first().map_or("-", |device| &device.bdf);
        let device = match row.pe.devices.len() {
            0 | 1 => first.to_owned(),
            n => format!("{first} +{}", n - 1),
        };
        let kind = match row.pe.domain.as_str() {
            "platform" => "identity",
            "blocked" | "nobody" | "stuck" => &row.pe.domain,
            _ => &row.pe.kind,
        };
        let rate = |rate: f64| format!("{rate:.0}");
        table.add_row([
            row.pe.group.to_string(),
            device,
            if row.drivers.is_empty() {
                "-".to_owned()
            } else {
                row.drivers.join(",")
            },
            kind.to_owned(),
            rate(row.publishes_per_s),
            rate(row.withdrawals_per_s),
            rate(row.hypercalls_per_s),
            rate(row.kills_per_s),
            row.pe.stat("errors").to_string(),
            row.pe.tces().to_string(),
            size(row.pe.table_kib()),
        ]);
    }
    for (n, column) in table.column_iter_mut().enumerate() {
        column.set_padding((0, 1));
        if n >= 4 {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    let tces: u64 = now.pes.iter().map(|pe| pe.tces()).sum();
    let kib: u64 = now.pes.iter().map(|pe| pe.table_kib()).sum();
    let without = now
        .devices
        .iter()
        .filter(|device| device.group.is_none() && !device.is_bridge());
    format!(
        "tce-top: {} PEs, {tces} TCEs, {} of tables, {} devices with the platform\n\n{table}\n{}",
        now.pes.len(),
        size(kib),
        without.count(),
        if now.loaded && !now.debugfs {
            "\ndebugfs is not there: mount -t debugfs none /sys/kernel/debug\n"
        } else if !now.loaded {
            "\ntce_iommu is not loaded\n"
        } else {
            ""
        }
    )
}

fn size(kib: u64) -> String {
    match kib {
        0..=9999 => format!("{kib} KiB"),
        _ => format!("{} MiB", kib >> 10),
    }
}
