//! A plot: what grows along a logarithmic axis, CPU time a request above it. The axis of time begins
//! at zero, unless one time is more than ten times another: then it is logarithmic as well.

use std::fmt::Write as _;

/// One measured point; times in microseconds a request.
pub(super) struct Point {
    pub(super) x: f64,
    /// CPU time of the host.
    pub(super) host: f64,
    /// CPU time of the store, where that is a process of its own.
    pub(super) store: Option<f64>,
    /// Requests a second.
    pub(super) rate: f64,
}

/// The points of one store.
pub(super) struct Series {
    pub(super) name: &'static str,
    pub(super) points: Vec<Point>,
}

pub(super) struct Plot {
    /// What grows.
    pub(super) axis: &'static str,
    pub(super) series: Vec<Series>,
}

/// In pixels.
const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 300.0;
const LEFT: f64 = 60.0;
const RIGHT: f64 = 520.0;
const TOP: f64 = 20.0;
const BOTTOM: f64 = 250.0;
/// Between the names of two lines.
const APART: f64 = 16.0;

/// The colour of a store in all plots: those who see few colours can tell them apart, on light and on
/// dark.
fn colour(store: &str) -> &'static str {
    match store {
        "memory" => "#0072b2",
        "sqlite" => "#d55e00",
        "redis" => "#009e73",
        _ => "#cc79a7",
    }
}

const STYLE: &str = "<style>
text { font: 12px system-ui, sans-serif; fill: #24292f }
.grid { stroke: #8c959f; stroke-opacity: 0.35 }
@media (prefers-color-scheme: dark) { text { fill: #e6edf3 } }
</style>
";

impl Plot {
    /// As a table in Markdown.
    pub(super) fn text(&self) -> String {
        let mut text = format!(
            "\n| {} | store | requests/s | CPU µs/request | store CPU µs/request |\n|--:|---|--:|--:|--:|\n",
            self.axis
        );
        for series in &self.series {
            for Point { x, host, store, rate } in &series.points {
                let store = store.map_or("–".into(), |store| format!("{store:.1}"));
                let _ =
                    writeln!(text, "| {x} | {} | {rate:.0} | {host:.1} | {store} |", series.name);
            }
        }
        text
    }

    pub(super) fn svg(&self) -> String {
        let points = || self.series.iter().flat_map(|series| &series.points);
        let xs = || points().map(|point| point.x);
        let times = || points().map(|point| point.host);
        let (from, to) = (xs().fold(f64::MAX, f64::min), xs().fold(0.0, f64::max));
        let (least, greatest) = (times().fold(f64::MAX, f64::min), times().fold(0.0, f64::max));
        let logarithmic = greatest > 10.0 * least;
        let across = |x: f64| LEFT + (RIGHT - LEFT) * (x / from).ln() / (to / from).ln().max(1e-9);
        let (low, high) = match logarithmic {
            true => (10_f64.powf(least.log10().floor()), 10_f64.powf(greatest.log10().ceil())),
            false => (0.0, greatest * 1.1),
        };
        let up = |time: f64| {
            let part = match logarithmic {
                true => (time / low).ln() / (high / low).ln(),
                false => time / high,
            };
            BOTTOM - (BOTTOM - TOP) * part
        };

        let mut body = String::new();
        for time in ticks(low, high, logarithmic) {
            let y = up(time);
            let _ = writeln!(
                body,
                "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{RIGHT}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>\n\
                <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{time}</text>",
                LEFT - 6.0,
                y + 4.0
            );
        }
        let mut drawn = Vec::new();
        for point in points().filter(|point| point.x > 0.0) {
            if !drawn.contains(&point.x) {
                drawn.push(point.x);
                let (x, name) = (across(point.x), short(point.x));
                let _ = writeln!(
                    body,
                    "<text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{name}</text>",
                    BOTTOM + 18.0
                );
            }
        }
        let mut names: Vec<(f64, &str, &str)> = Vec::new();
        for series in &self.series {
            let colour = colour(series.name);
            let place = |point: &Point| format!("{:.1},{:.1}", across(point.x), up(point.host));
            let line: Vec<String> = series.points.iter().map(place).collect();
            let _ = writeln!(
                body,
                "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>",
                line.join(" ")
            );
            for point in &series.points {
                let _ = writeln!(
                    body,
                    "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"3\" fill=\"{colour}\"/>",
                    across(point.x),
                    up(point.host)
                );
            }
            let end = series.points.last().map_or(TOP, |point| up(point.host));
            names.push((end, series.name, colour));
        }
        // Beside the ends of their lines, but never one over the other.
        names.sort_by(|a, b| a.0.total_cmp(&b.0));
        let mut free = 0.0_f64;
        for (end, name, colour) in names {
            let y = end.max(free);
            free = y + APART;
            let _ = writeln!(
                body,
                "<text x=\"{:.1}\" y=\"{:.1}\" style=\"fill: {colour}; font-weight: 600\">{name}</text>",
                RIGHT + 12.0,
                y + 4.0
            );
        }
        let axis = self.axis;
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" \
            width=\"{WIDTH}\" height=\"{HEIGHT}\" role=\"img\">\n\
            <title>CPU time of the host a request, by {axis}</title>\n{STYLE}{body}\
            <text x=\"{LEFT}\" y=\"12\">µs of the host's CPU a request</text>\n\
            <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{axis}</text>\n</svg>\n",
            f64::midpoint(LEFT, RIGHT),
            BOTTOM + 40.0
        )
    }
}

/// Where the axis of time has lines.
fn ticks(low: f64, high: f64, logarithmic: bool) -> Vec<f64> {
    let mut ticks = Vec::new();
    if logarithmic {
        let mut tick = low;
        while tick <= high * 1.001 {
            ticks.push(tick.round());
            tick *= 10.0;
        }
        return ticks;
    }
    // The largest of 1, 2, 5, 10 … of which at least four fit.
    let power = 10_f64.powf((high / 4.0).log10().floor());
    let step = [5.0, 2.0, 1.0].map(|times| times * power).into_iter().find(|s| s * 4.0 <= high);
    let step = step.unwrap_or(power);
    let mut tick = 0.0;
    while tick <= high {
        ticks.push(tick);
        tick += step;
    }
    ticks
}

/// A number as people write it along an axis, where there is little room.
fn short(number: f64) -> String {
    match number {
        ..10_000.0 => format!("{number}"),
        _ if number % 1024.0 == 0.0 => format!("{}Ki", number / 1024.0),
        ..1_000_000.0 => format!("{:.0}k", number / 1e3),
        _ => format!("{:.0}M", number / 1e6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plot(times: [f64; 2]) -> Plot {
        let point = |(x, host)| Point { x, host, store: None, rate: 1.0 };
        let points = [1.0, 1000.0].into_iter().zip(times).map(point).collect();
        Plot { axis: "things", series: vec![Series { name: "memory", points }] }
    }

    #[test]
    fn times_begin_at_zero_unless_they_differ_much() {
        assert!(plot([10.0, 20.0]).svg().contains(">0</text>"));
        let logarithmic = plot([10.0, 900.0]).svg();
        assert!(!logarithmic.contains(">0</text>") && logarithmic.contains(">1000</text>"));
    }

    #[test]
    fn large_numbers_are_short() {
        let names = [1.0, 4096.0, 65_536.0, 10_000.0, 100_000.0, 10_000_000.0].map(short);
        assert_eq!(names, ["1", "4096", "64Ki", "10k", "100k", "10M"]);
    }

    #[test]
    fn a_line_goes_from_the_left_to_the_right() {
        let svg = plot([10.0, 20.0]).svg();
        assert!(
            svg.contains(&format!("points=\"{LEFT:.1},")) && svg.contains(&format!(" {RIGHT:.1},"))
        );
    }
}
