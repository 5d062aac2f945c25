//! Requests per second as a picture: a bar for each contender, with a line from the least to the
//! greatest of its windows, in a panel for each load and store. Each panel has a scale of its own.
//!
//! The colours are set by classes, and change with the reader's preference for light or dark.

use std::fmt::Write as _;

use crate::{
    results::{Key, Metric, Results, Row},
    table,
};

/// In pixels: the whole, where bars begin, how long the longest is, and a bar with its gap.
const WIDTH: u32 = 760;
const LEFT: u32 = 190;
const LONGEST: f64 = 430.0;
const STEP: u32 = 24;
const BAR: u32 = 16;
/// A panel's title with the space above.
const TITLE: u32 = 40;

const STYLE: &str = "<style>
text { font: 13px system-ui, sans-serif; fill: #24292f }
.title { font-weight: 600 }
.bar { fill: #8c959f }
.tally { fill: #0969da }
.range { stroke: #24292f; stroke-width: 1.5 }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3 }
  .bar { fill: #6e7681 }
  .tally { fill: #4493f8 }
  .range { stroke: #e6edf3 }
}
</style>
";

/// All rows that were measured under as much load as contenders take.
pub(crate) fn svg(results: &Results) -> String {
    let (mut body, mut y) = (String::new(), 0);
    for panel in panels(results) {
        panel_svg(&mut body, &mut y, &panel);
    }
    let height = y + STEP / 2;
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" \
        width=\"{WIDTH}\" height=\"{height}\" role=\"img\">\n\
        <title>Requests per second</title>\n{STYLE}{body}</svg>\n"
    )
}

fn panels(results: &Results) -> Vec<Vec<&Row>> {
    let mut panels: Vec<Vec<&Row>> = Vec::new();
    for row in results.rows.iter().filter(|row| row.key.share.is_none()) {
        let same = |panel: &&mut Vec<&Row>| {
            panel.first().is_some_and(|first| group(first.key) == group(row.key))
        };
        match panels.iter_mut().find(same) {
            Some(panel) => panel.push(row),
            None => panels.push(vec![row]),
        }
    }
    // Stores of one load side by side, though all loads of one store are measured in turn.
    let groups = table::groups(results);
    panels.sort_by_key(|panel| {
        let key = panel.first().map(|row| (row.key.load, row.key.connections));
        groups.iter().position(|group| Some(*group) == key)
    });
    panels
}

/// What rows of one panel have in common, as its title.
fn group(key: Key) -> String {
    let store = key.backend.map(|backend| format!(", on {}", backend.name())).unwrap_or_default();
    format!("{}{store}, {} connections", key.load.title(), key.connections)
}

fn panel_svg(svg: &mut String, y: &mut u32, rows: &[&Row]) {
    let Some(first) = rows.first() else { return };
    *y += TITLE;
    let title = escape(&group(first.key));
    let _ = writeln!(
        svg,
        "<text class=\"title\" x=\"10\" y=\"{}\">{title} (requests/s)</text>",
        *y - 12
    );
    let spreads = rows.iter().filter_map(|row| row.spread(Metric::Rate));
    let most = spreads.map(|spread| spread.max).fold(1.0, f64::max);
    let length = |rate: f64| rate / most * LONGEST;
    for row in rows {
        let Some(spread) = row.spread(Metric::Rate) else { continue };
        let (name, text) = (escape(row.name()), *y + 13);
        let class = if row.name().starts_with("tally") { "bar tally" } else { "bar" };
        let left = f64::from(LEFT);
        let (from, to) = (left + length(spread.min), left + length(spread.max));
        let middle = *y + BAR / 2;
        let _ = writeln!(
            svg,
            "<text x=\"{}\" y=\"{text}\" text-anchor=\"end\">{name}</text>\n\
            <rect class=\"{class}\" x=\"{LEFT}\" y=\"{y}\" width=\"{:.1}\" height=\"{BAR}\"/>\n\
            <line class=\"range\" x1=\"{from:.1}\" x2=\"{to:.1}\" y1=\"{middle}\" y2=\"{middle}\"/>\n\
            <text x=\"{:.1}\" y=\"{text}\">{}</text>",
            LEFT - 8,
            length(spread.median),
            to + 8.0,
            thousands(spread.median),
        );
        *y += STEP;
    }
}

/// A whole number with commas between its thousands.
fn thousands(value: f64) -> String {
    let digits = format!("{value:.0}");
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::tests::results;

    #[test]
    fn every_row_has_a_bar_in_the_panel_of_its_store() {
        let svg = svg(&results());
        assert_eq!(svg.matches("class=\"title\"").count(), 2);
        assert_eq!(svg.matches("<rect").count(), 3);
        assert!(svg.contains(">100</text>"), "{svg}");
    }

    #[test]
    fn thousands_are_set_apart() {
        assert_eq!(thousands(1_234_567.4), "1,234,567");
        assert_eq!(thousands(999.0), "999");
        assert_eq!(thousands(0.2), "0");
    }
}
