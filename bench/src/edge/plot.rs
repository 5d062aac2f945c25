//! A plot over how much is asked of a host: good answers, as a part of the most that it can do, and under them how
//! long refusals take.

use std::fmt::Write as _;

/// What was seen while so much was asked for.
pub(super) struct Point {
    /// Against what the host can do.
    pub(super) offered: f64,
    /// Good answers, against what the host can do.
    pub(super) good: f64,
    /// Milliseconds that one refusal of a hundred exceeds, if there were any.
    pub(super) refusal: Option<f64>,
}

pub(super) struct Plot {
    pub(super) title: &'static str,
    pub(super) points: Vec<Point>,
}

/// In pixels.
const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 420.0;
const LEFT: f64 = 60.0;
const RIGHT: f64 = 600.0;

/// A panel: where its axis is, how high it is, and what its highest line stands for.
struct Panel {
    bottom: f64,
    height: f64,
    most: f64,
}

const GOOD: &str = "#0072b2";
const REFUSED: &str = "#d55e00";

const STYLE: &str = "<style>
text { font: 12px system-ui, sans-serif; fill: #24292f }
.grid { stroke: #8c959f; stroke-opacity: 0.35 }
@media (prefers-color-scheme: dark) { text { fill: #e6edf3 } }
</style>
";

impl Plot {
    pub(super) fn svg(&self) -> String {
        let offered = self.points.iter().map(|point| point.offered).fold(1.0, f64::max);
        let across = |x: f64| LEFT + (RIGHT - LEFT) * x / offered;
        let slowest = self.points.iter().filter_map(|point| point.refusal).fold(1.0, f64::max);
        let mut body = String::new();
        let good = Panel { bottom: 220.0, height: 170.0, most: 1.25 };
        good.lines(&mut body, &[0.0, 0.25, 0.5, 0.75, 1.0, 1.25]);
        let at = |point: &Point| Some((across(point.offered), good.up(point.good)));
        draw(&mut body, self.points.iter().filter_map(at).collect(), GOOD);
        let refusals = Panel { bottom: 370.0, height: 100.0, most: slowest.ceil() };
        refusals.lines(&mut body, &[0.0, refusals.most]);
        let at =
            |point: &Point| point.refusal.map(|time| (across(point.offered), refusals.up(time)));
        draw(&mut body, self.points.iter().filter_map(at).collect(), REFUSED);
        for point in &self.points {
            let _ = writeln!(
                body,
                "<text x=\"{:.1}\" y=\"388\" text-anchor=\"middle\">{:.1}</text>",
                across(point.offered),
                point.offered
            );
        }
        let title = self.title;
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" \
            width=\"{WIDTH}\" height=\"{HEIGHT}\" role=\"img\">\n\
            <title>Good answers and the time of refusals over offered load: {title}</title>\n\
            {STYLE}{body}\
            <text x=\"{LEFT}\" y=\"16\" style=\"font-weight: 600\">{title}</text>\n\
            <text x=\"{LEFT}\" y=\"36\">good answers, against the most</text>\n\
            <text x=\"{LEFT}\" y=\"258\">milliseconds of a refusal (p99)</text>\n\
            <text x=\"{:.1}\" y=\"408\" text-anchor=\"middle\">asked for, against the most</text>\n</svg>\n",
            f64::midpoint(LEFT, RIGHT),
        )
    }
}

impl Panel {
    fn up(&self, value: f64) -> f64 {
        self.bottom - self.height * (value / self.most).min(1.0)
    }

    fn lines(&self, body: &mut String, values: &[f64]) {
        for value in values {
            let y = self.up(*value);
            let _ = writeln!(
                body,
                "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{RIGHT}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>\n\
                <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{value}</text>",
                LEFT - 6.0,
                y + 4.0
            );
        }
    }
}

fn draw(body: &mut String, places: Vec<(f64, f64)>, colour: &str) {
    let line: Vec<String> = places.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
    let _ = writeln!(
        body,
        "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>",
        line.join(" ")
    );
    for (x, y) in places {
        let _ = writeln!(body, "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\" fill=\"{colour}\"/>");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_are_drawn_where_there_are_any() {
        let point = |offered, refusal| Point { offered, good: 1.0, refusal };
        let plot = Plot { title: "a load", points: vec![point(1.0, None), point(4.0, Some(3.0))] };
        let svg = plot.svg();
        assert_eq!(svg.matches(&format!("fill=\"{GOOD}\"")).count(), 2);
        assert_eq!(svg.matches(&format!("fill=\"{REFUSED}\"")).count(), 1);
        assert!(svg.contains("cx=\"600.0\" cy=\"84.0\""), "{svg}");
    }
}
