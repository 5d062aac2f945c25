//! Results as tables in Markdown that are readable as they are.

use std::fmt::Write as _;

use crate::{
    load::Load,
    results::{Metric, Results, Row, Spread},
};

const NOTHING: &str = "–";

/// So many columns at the front are text, all others numbers.
const TEXTS: usize = 2;

/// What the values of a metric are shown in.
struct Unit {
    heading: &'static str,
    /// Units in a second or byte.
    factor: f64,
    digits: usize,
}

/// Everything, with a table for each load.
pub(crate) fn text(results: &Results) -> String {
    let parts = results.surroundings.iter().map(|(name, value)| format!("{name}: {value}"));
    let mut text = parts.collect::<Vec<_>>().join("; ");
    text.push('\n');
    for (load, connections) in groups(results) {
        let of = |row: &&Row| row.key.load == load && row.key.connections == connections;
        let rows: Vec<&Row> = results.rows.iter().filter(of).collect();
        let title = format!("{}, {connections} connections", load.title());
        let (open, closed): (Vec<&Row>, Vec<&Row>) =
            rows.into_iter().partition(|row| row.key.share.is_some());
        let metrics =
            [Metric::Rate, Metric::P50, Metric::P99, Metric::Cpu, Metric::StoreCpu, Metric::Memory];
        let _ = write!(text, "\n{title}\n\n{}", values(&closed, &metrics));
        if closed.iter().any(|row| row.key.contender == results.base) {
            let _ = write!(text, "\n{title}: divided by {}\n\n", results.base.name(None));
            text.push_str(&ratios(results, &closed));
        }
        if load.unkeyed().is_some() {
            let _ = write!(text, "\n{title}: divided by the same load without keys\n\n");
            text.push_str(&ratios_to_unkeyed(results, &closed));
        }
        if !open.is_empty() {
            let metrics = [Metric::Rate, Metric::P50, Metric::P99, Metric::P999, Metric::Slowest];
            let _ = write!(text, "\n{title}, at a constant rate\n\n{}", values(&open, &metrics));
        }
    }
    list(&mut text, "Left out", &results.left_out);
    list(&mut text, "Not as it should be", &results.notes);
    text
}

/// Loads with their connections, in the order in which they were first measured.
pub(crate) fn groups(results: &Results) -> Vec<(Load, u32)> {
    let mut groups = Vec::new();
    for row in &results.rows {
        let group = (row.key.load, row.key.connections);
        if !groups.contains(&group) {
            groups.push(group);
        }
    }
    groups
}

fn list(text: &mut String, title: &str, items: &[String]) {
    if !items.is_empty() {
        let _ = writeln!(text, "\n{title}:");
    }
    for item in items {
        let _ = writeln!(text, "- {item}");
    }
}

fn values(rows: &[&Row], metrics: &[Metric]) -> String {
    let mut lines = Vec::new();
    let mut heading = names(None);
    heading.extend(metrics.iter().map(|metric| metric.unit().heading.to_owned()));
    heading.push("count".into());
    lines.push(heading);
    for row in rows {
        let mut line = names(Some(row));
        line.extend(metrics.iter().map(|metric| metric.unit().with_spread(row.spread(*metric))));
        let exact = row.exact().map(|exact| if exact { "exact" } else { "WRONG" });
        line.push(exact.unwrap_or(NOTHING).into());
        lines.push(line);
    }
    layout(&lines)
}

fn ratios(results: &Results, rows: &[&Row]) -> String {
    let metrics = [Metric::Rate, Metric::P50, Metric::P99, Metric::Cpu, Metric::Memory];
    let mut heading = names(None);
    heading.extend(["requests/s", "p50", "p99", "CPU/request", "memory"].map(str::to_owned));
    let mut lines = vec![heading];
    for row in rows {
        let mut line = names(Some(row));
        line.extend(metrics.map(|metric| ratio(results.ratio(row, metric))));
        lines.push(line);
    }
    layout(&lines)
}

/// Rows with an `Idempotency-Key` divided by the same without, and by `pgbench` where it was
/// measured in the same run.
fn ratios_to_unkeyed(results: &Results, rows: &[&Row]) -> String {
    let metrics =
        [Metric::Rate, Metric::Cpu, Metric::StoreCpu, Metric::P50, Metric::P99, Metric::Memory];
    let mut heading = names(None);
    let headings = ["requests/s", "CPU/request", "store CPU/request", "p50", "p99", "memory"];
    heading.extend(headings.map(str::to_owned));
    let has_pgbench = rows.iter().any(|row| results.ratio_to_pgbench(row).is_some());
    heading.extend(has_pgbench.then(|| "requests/s by pgbench's".to_owned()));
    let mut lines = vec![heading];
    for row in rows {
        let mut line = names(Some(row));
        line.extend(metrics.map(|metric| ratio(results.ratio_to_unkeyed(row, metric))));
        line.extend(has_pgbench.then(|| ratio(results.ratio_to_pgbench(row))));
        lines.push(line);
    }
    layout(&lines)
}

fn ratio(ratio: Option<f64>) -> String {
    match ratio {
        Some(ratio) if ratio < 0.1 => format!("{ratio:.3}"),
        Some(ratio) => format!("{ratio:.2}"),
        None => NOTHING.into(),
    }
}

/// The first two columns, of a row or of the heading.
fn names(row: Option<&Row>) -> Vec<String> {
    let Some(row) = row else { return vec!["store".into(), "contender".into()] };
    let name = row
        .key
        .share
        .map_or_else(|| row.name().to_owned(), |share| format!("{}, at {share} %", row.name()));
    vec![row.key.backend.map_or(NOTHING, |backend| backend.name()).into(), name]
}

/// Lines of equally many cells, the first of them the heading.
fn layout(lines: &[Vec<String>]) -> String {
    let mut widths: Vec<usize> = Vec::new();
    for line in lines {
        widths.resize(widths.len().max(line.len()), 0);
        for (width, cell) in widths.iter_mut().zip(line) {
            *width = cell.chars().count().max(*width);
        }
    }
    let mut text = String::new();
    for (place, line) in lines.iter().enumerate() {
        for (column, (cell, width)) in line.iter().zip(&widths).enumerate() {
            let _ = match column < TEXTS {
                true => write!(text, "| {cell:width$} "),
                false => write!(text, "| {cell:>width$} "),
            };
        }
        text.push_str("|\n");
        if place == 0 {
            for (column, width) in widths.iter().enumerate() {
                let end = if column < TEXTS { '-' } else { ':' };
                let _ = write!(text, "|{:-<1$}{end}", "", width.saturating_add(1));
            }
            text.push_str("|\n");
        }
    }
    text
}

impl Metric {
    fn unit(self) -> Unit {
        let (heading, factor, digits) = match self {
            Self::Rate => ("requests/s", 1.0, 0),
            Self::P50 => ("p50 ms", 1e3, 2),
            Self::P99 => ("p99 ms", 1e3, 2),
            Self::P999 => ("p99.9 ms", 1e3, 2),
            Self::Slowest => ("slowest ms", 1e3, 2),
            Self::Cpu => ("CPU µs/request", 1e6, 1),
            Self::StoreCpu => ("store CPU µs/request", 1e6, 1),
            Self::Memory => ("peak MiB", 1.0 / 1024.0 / 1024.0, 0),
        };
        Unit { heading, factor, digits }
    }
}

impl Unit {
    /// The median, and the least and the greatest where they are seen to differ from it.
    fn with_spread(&self, spread: Option<Spread>) -> String {
        let Some(spread) = spread else { return NOTHING.into() };
        let number = |value: f64| format!("{:.*}", self.digits, value * self.factor);
        let (median, min, max) = (number(spread.median), number(spread.min), number(spread.max));
        if min == max { median } else { format!("{median} ({min}–{max})") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::tests::{keyed_results, results};

    fn lines(text: &str, start: &str) -> Vec<Vec<String>> {
        let lines = text.lines().filter(|line| line.starts_with(start));
        let cells = lines.map(|line| line.split('|').map(|cell| cell.trim().to_owned()));
        cells.map(|cells| cells.filter(|cell| !cell.is_empty()).collect()).collect()
    }

    #[test]
    fn rows_show_medians_with_their_spread_and_ratios() {
        let text = text(&results());
        let plain = lines(&text, "| memory | plain");
        assert_eq!(plain[0][2..], ["100 (90–500)", "–", "–", "10.0", "–", "–", "–"]);
        let tally = lines(&text, "| memory | tally");
        assert_eq!(tally[0][2..], ["50 (40–60)", "–", "–", "15.0 (10.0–20.0)", "–", "–", "exact"]);
        assert_eq!(tally[1][2..], ["0.50", "–", "–", "1.50", "–"]);
    }

    #[test]
    fn keyed_rows_show_their_ratios_to_unkeyed_ones_and_to_pgbench() {
        let text = text(&keyed_results());
        let (_, keyed) = text.split_once(": divided by the same load without keys\n").unwrap();
        assert_eq!(lines(keyed, "| memory")[0][2..], ["0.71", "1.40", "–", "–", "–", "–", "–"]);
        assert_eq!(
            lines(keyed, "| postgres")[0][2..],
            ["0.80", "2.00", "1.25", "–", "–", "–", "16.00"]
        );
    }

    #[test]
    fn all_lines_of_a_table_are_equally_wide() {
        let text = text(&keyed_results());
        for table in text.split("\n\n").filter(|part| part.starts_with('|')) {
            let mut widths: Vec<usize> = table.lines().map(|line| line.chars().count()).collect();
            widths.dedup();
            assert_eq!(widths.len(), 1, "{table}");
        }
    }

    #[test]
    fn what_was_not_as_it_should_be_is_said() {
        let mut results = results();
        results.note("lost".into());
        results.leave_out("wasmtime".into());
        let text = text(&results);
        assert!(text.ends_with("\nLeft out:\n- wasmtime\n\nNot as it should be:\n- lost\n"));
    }
}
