//! A table of measurements: medians of all windows, and ratios to one of its rows.

use std::{fmt::Write as _, time::Duration};

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

/// What a table shows.
pub(crate) struct Layout {
    pub(crate) title: &'static str,
    pub(crate) columns: &'static [Column],
    /// The server whose row on the same backend ratios are to.
    pub(crate) baseline: &'static str,
    /// The servers that are compared to it.
    pub(crate) compared: &'static [&'static str],
}

/// A column; those of ratios say what to.
#[derive(Clone, Copy)]
pub(crate) enum Column {
    Backend,
    Server,
    Rate,
    Cpu,
    StoreCpu,
    P50,
    P99,
    RateRatio(&'static str),
    CpuRatio(&'static str),
}

/// Rows in the order in which they were first measured.
pub(crate) struct Table {
    layout: &'static Layout,
    rows: Vec<Row>,
}

struct Row {
    backend: &'static str,
    server: &'static str,
    samples: Vec<Sample>,
}

impl Table {
    pub(crate) fn new(layout: &'static Layout) -> Self {
        Self { layout, rows: Vec::new() }
    }

    pub(crate) fn title(&self) -> &'static str {
        self.layout.title
    }

    /// Adds a window to the row of its server and backend.
    pub(crate) fn add(&mut self, backend: &'static str, server: &'static str, sample: Sample) {
        let mut rows = self.rows.iter_mut();
        match rows.find(|row| row.backend == backend && row.server == server) {
            Some(row) => row.samples.push(sample),
            None => self.rows.push(Row { backend, server, samples: vec![sample] }),
        }
    }

    /// The table in Markdown, also readable as it is.
    pub(crate) fn text(&self) -> String {
        let columns = self.layout.columns;
        let mut lines = vec![columns.iter().map(|column| column.heading().to_owned()).collect()];
        for row in &self.rows {
            lines.push(columns.iter().map(|column| self.cell(*column, row)).collect::<Vec<_>>());
        }
        let mut widths = vec![0; columns.len()];
        for line in &lines {
            for (width, cell) in widths.iter_mut().zip(line) {
                *width = cell.chars().count().max(*width);
            }
        }
        let mut text = String::new();
        for (place, line) in lines.iter().enumerate() {
            for ((cell, width), column) in line.iter().zip(&widths).zip(columns) {
                let _ = match column.is_text() {
                    true => write!(text, "| {cell:width$} "),
                    false => write!(text, "| {cell:>width$} "),
                };
            }
            text.push_str("|\n");
            if place == 0 {
                for (width, column) in widths.iter().zip(columns) {
                    let end = if column.is_text() { '-' } else { ':' };
                    let _ = write!(text, "|{:-<1$}{end}", "", width.saturating_add(1));
                }
                text.push_str("|\n");
            }
        }
        text
    }

    fn cell(&self, column: Column, row: &Row) -> String {
        let milli = |of| number(row.median(of).map(|seconds| seconds * 1e3), 2);
        let micro = |of| number(row.median(of).map(|seconds| seconds * 1e6), 1);
        match column {
            Column::Backend => row.backend.into(),
            Column::Server => row.server.into(),
            Column::Rate => number(row.median(|sample| Some(sample.rate)), 0),
            Column::Cpu => micro(|sample| sample.cpu),
            Column::StoreCpu => micro(|sample| sample.store_cpu),
            Column::P50 => milli(|sample| sample.p50),
            Column::P99 => milli(|sample| sample.p99),
            Column::RateRatio(_) => self.ratio(row, |sample| Some(sample.rate)),
            Column::CpuRatio(_) => self.ratio(row, |sample| sample.cpu),
        }
    }

    fn ratio(&self, row: &Row, of: fn(&Sample) -> Option<f64>) -> String {
        let baseline = self.rows.iter().find(|other| {
            other.backend == row.backend
                && other.server == self.layout.baseline
                && self.layout.compared.contains(&row.server)
        });
        number(baseline.and_then(|baseline| Some(row.median(of)? / baseline.median(of)?)), 2)
    }
}

impl Column {
    fn heading(self) -> &'static str {
        match self {
            Self::Backend => "backend",
            Self::Server => "server",
            Self::Rate => "requests/s",
            Self::Cpu => "CPU µs/request",
            Self::StoreCpu => "store CPU µs/request",
            Self::P50 => "p50 ms",
            Self::P99 => "p99 ms",
            Self::RateRatio(heading) | Self::CpuRatio(heading) => heading,
        }
    }

    /// All others are numbers.
    fn is_text(self) -> bool {
        matches!(self, Self::Backend | Self::Server)
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

    const LAYOUT: Layout = Layout {
        title: "",
        columns: &[
            Column::Backend,
            Column::Server,
            Column::Rate,
            Column::Cpu,
            Column::P50,
            Column::RateRatio("requests/s ÷ plain"),
            Column::CpuRatio("CPU ÷ plain"),
        ],
        baseline: "plain",
        compared: &["tally"],
    };

    fn sample(rate: f64, cpu: f64) -> Sample {
        Sample { rate, cpu: Some(cpu), ..Sample::default() }
    }

    fn cells<'a>(table: &'a str, start: &str) -> Vec<&'a str> {
        let line = table.lines().find(|line| line.starts_with(start)).unwrap();
        line.split('|').map(str::trim).filter(|cell| !cell.is_empty()).collect()
    }

    #[test]
    fn rows_show_medians_and_the_ratio_to_the_baseline_on_the_same_backend() {
        let mut table = Table::new(&LAYOUT);
        for rate in [90.0, 100.0, 500.0] {
            table.add("memory", "plain", sample(rate, 10e-6));
        }
        table.add("memory", "tally", sample(40.0, 10e-6));
        table.add("memory", "tally", sample(60.0, 20e-6));
        table.add("memory", "other", sample(60.0, 20e-6));
        table.add("redis", "tally", sample(10.0, 1e-6));
        let text = table.text();
        let plain = cells(&text, "| memory  | plain");
        assert_eq!(plain, ["memory", "plain", "100", "10.0", "–", "–", "–"]);
        let tally = cells(&text, "| memory  | tally");
        assert_eq!(tally, ["memory", "tally", "50", "15.0", "–", "0.50", "1.50"]);
        let other = cells(&text, "| memory  | other");
        assert_eq!(other, ["memory", "other", "60", "20.0", "–", "–", "–"]);
        let redis = cells(&text, "| redis ");
        assert_eq!(redis, ["redis", "tally", "10", "1.0", "–", "–", "–"]);
    }

    #[test]
    fn all_lines_are_equally_wide() {
        let mut table = Table::new(&LAYOUT);
        table.add("memory", "plain", sample(1_234_567.0, 1e-6));
        let text = table.text();
        let mut widths: Vec<usize> = text.lines().map(|line| line.chars().count()).collect();
        widths.dedup();
        assert_eq!(widths.len(), 1, "{text}");
    }
}
