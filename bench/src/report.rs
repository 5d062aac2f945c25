//! The table.

use std::{fmt::Write as _, time::Duration};

use crate::{backend::Backend, server::Kind};

const HEADER: [&str; 9] = [
    "backend",
    "server",
    "requests/s",
    "CPU µs/request",
    "store CPU µs/request",
    "p50 ms",
    "p99 ms",
    "requests/s ÷ plain",
    "CPU ÷ plain",
];

/// Columns of text; all others are numbers.
const TEXT_COLUMNS: usize = 2;

const NOTHING: &str = "–";

/// What one window came to. What a server does not have is `None`.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sample {
    /// Requests a second.
    pub(crate) rate: f64,
    /// CPU time of the server for each request, in seconds.
    pub(crate) cpu: Option<f64>,
    /// CPU time of the store for each request, in seconds.
    pub(crate) store_cpu: Option<f64>,
    /// Median latency, in seconds.
    pub(crate) p50: Option<f64>,
    /// Latency that one request of a hundred exceeds, in seconds.
    pub(crate) p99: Option<f64>,
}

/// All that was measured so far.
#[derive(Default)]
pub(crate) struct Report {
    surroundings: String,
    rows: Vec<Row>,
    notes: Vec<String>,
}

struct Row {
    backend: Backend,
    server: &'static str,
    samples: Vec<Sample>,
}

impl Report {
    /// Says what the numbers depend on.
    pub(crate) fn describe(&mut self, surroundings: String) {
        self.surroundings = surroundings;
    }

    /// Adds a window to the row of its server and backend.
    pub(crate) fn add(&mut self, backend: Backend, server: &'static str, sample: Sample) {
        eprintln!("  {:.0} requests/s", sample.rate);
        let mut rows = self.rows.iter_mut();
        match rows.find(|row| row.backend == backend && row.server == server) {
            Some(row) => row.samples.push(sample),
            None => self.rows.push(Row { backend, server, samples: vec![sample] }),
        }
    }

    /// Adds something that was not as it should be; said now and again below the table.
    pub(crate) fn note(&mut self, note: String) {
        eprintln!("  !! {note}");
        self.notes.push(note);
    }

    /// The table in Markdown, also readable as it is; empty when nothing was measured.
    pub(crate) fn table(&self) -> String {
        let mut text = String::new();
        if self.rows.is_empty() {
            return text;
        }
        let mut lines = vec![HEADER.map(String::from)];
        lines.extend(self.rows.iter().map(|row| self.cells(row)));
        let mut widths = [0; HEADER.len()];
        for line in &lines {
            for (width, cell) in widths.iter_mut().zip(line) {
                *width = cell.chars().count().max(*width);
            }
        }
        let _ = writeln!(text, "{}\n", self.surroundings);
        for (place, line) in lines.iter().enumerate() {
            for (column, (cell, width)) in line.iter().zip(widths).enumerate() {
                let _ = match column < TEXT_COLUMNS {
                    true => write!(text, "| {cell:width$} "),
                    false => write!(text, "| {cell:>width$} "),
                };
            }
            text.push_str("|\n");
            if place == 0 {
                for (column, width) in widths.into_iter().enumerate() {
                    let end = if column < TEXT_COLUMNS { '-' } else { ':' };
                    let _ = write!(text, "|{:-<1$}{end}", "", width.saturating_add(1));
                }
                text.push_str("|\n");
            }
        }
        if !self.notes.is_empty() {
            text.push_str("\nNot as it should be:\n");
        }
        for note in &self.notes {
            let _ = writeln!(text, "- {note}");
        }
        text
    }

    fn cells(&self, row: &Row) -> [String; HEADER.len()] {
        let mut plain = self.rows.iter();
        let plain = plain.find(|other| {
            other.backend == row.backend
                && other.server == Kind::Plain.name()
                && row.server == Kind::Tally.name()
        });
        let ratio = |of: fn(&Sample) -> Option<f64>| {
            number(plain.and_then(|plain| Some(row.median(of)? / plain.median(of)?)), 2)
        };
        let milli = |of| number(row.median(of).map(|seconds| seconds * 1e3), 2);
        let micro = |of| number(row.median(of).map(|seconds| seconds * 1e6), 1);
        [
            row.backend.name().into(),
            row.server.into(),
            number(row.median(|sample| Some(sample.rate)), 0),
            micro(|sample| sample.cpu),
            micro(|sample| sample.store_cpu),
            milli(|sample| sample.p50),
            milli(|sample| sample.p99),
            ratio(|sample| Some(sample.rate)),
            ratio(|sample| sample.cpu),
        ]
    }
}

impl Row {
    /// The middle of a value over all windows, or the mean of the two in the middle.
    fn median(&self, of: fn(&Sample) -> Option<f64>) -> Option<f64> {
        let mut values: Vec<f64> = self.samples.iter().filter_map(of).collect();
        values.sort_by(f64::total_cmp);
        let upper = values.get(values.len() / 2)?;
        let lower = values.get(values.len().checked_sub(1)? / 2)?;
        Some(f64::midpoint(*lower, *upper))
    }
}

/// CPU time for each request, in seconds.
#[expect(clippy::cast_precision_loss, reason = "far below 2^53")]
pub(crate) fn per_request(cpu: Duration, requests: u64) -> Option<f64> {
    (requests > 0).then(|| cpu.as_secs_f64() / requests as f64)
}

fn number(value: Option<f64>, digits: usize) -> String {
    value.map_or_else(|| NOTHING.into(), |value| format!("{value:.digits$}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(rate: f64, cpu: f64) -> Sample {
        Sample { rate, cpu: Some(cpu), ..Sample::default() }
    }

    #[test]
    fn rows_show_medians_and_the_ratio_to_plain_hyper_on_the_same_backend() {
        let mut report = Report::default();
        for rate in [90.0, 100.0, 500.0] {
            report.add(Backend::Memory, Kind::Plain.name(), sample(rate, 10e-6));
        }
        report.add(Backend::Memory, Kind::Tally.name(), sample(40.0, 10e-6));
        report.add(Backend::Memory, Kind::Tally.name(), sample(60.0, 20e-6));
        report.add(Backend::Redis, Kind::Tally.name(), sample(10.0, 1e-6));
        let table = report.table();
        let cells = |start: &str| -> Vec<&str> {
            let line = table.lines().find(|line| line.starts_with(start)).unwrap();
            line.split('|').map(str::trim).filter(|cell| !cell.is_empty()).collect()
        };
        let plain = cells("| memory  | plain hyper");
        assert_eq!(plain, ["memory", "plain hyper", "100", "10.0", "–", "–", "–", "–", "–"]);
        let tally = cells("| memory  | tally");
        assert_eq!(tally, ["memory", "tally", "50", "15.0", "–", "–", "–", "0.50", "1.50"]);
        let redis = cells("| redis ");
        assert_eq!(redis, ["redis", "tally", "10", "1.0", "–", "–", "–", "–", "–"]);
    }

    #[test]
    fn all_lines_of_the_table_are_equally_wide() {
        let mut report = Report::default();
        report.add(Backend::Memory, Kind::Plain.name(), sample(1_234_567.0, 1e-6));
        let table = report.table();
        let mut widths: Vec<usize> = table
            .lines()
            .filter(|line| line.starts_with('|'))
            .map(|line| line.chars().count())
            .collect();
        widths.dedup();
        assert_eq!(widths.len(), 1, "{table}");
    }

    #[test]
    fn nothing_measured_is_no_table() {
        assert_eq!(Report::default().table(), "");
    }
}
