//! Results as JSON: what tables show, and every window's figures.

use serde_json::{Map, Value, json};

use crate::results::{Metric, Results, Row, Sample, Spread};

/// Metrics by their names in JSON, which have the unit.
const METRICS: [(&str, Metric); 8] = [
    ("requests_per_second", Metric::Rate),
    ("p50_seconds", Metric::P50),
    ("p99_seconds", Metric::P99),
    ("p999_seconds", Metric::P999),
    ("slowest_seconds", Metric::Slowest),
    ("cpu_seconds_per_request", Metric::Cpu),
    ("store_cpu_seconds_per_request", Metric::StoreCpu),
    ("peak_memory_bytes", Metric::Memory),
];

/// All of them.
pub(crate) fn value(results: &Results) -> Value {
    let surroundings = results.surroundings.iter();
    let surroundings = surroundings.map(|(name, value)| ((*name).to_owned(), json!(value)));
    let rows = results.rows.iter().map(|row| json_row(results, row));
    json!({
        "surroundings": surroundings.collect::<Map<_, _>>(),
        "base": results.base.name(None),
        "results": rows.collect::<Vec<_>>(),
        "left_out": results.left_out,
        "not_as_it_should_be": results.notes,
    })
}

fn json_row(results: &Results, row: &Row) -> Value {
    json!({
        "load": row.key.load.name(),
        "store": row.key.backend.map(|backend| backend.name()),
        "connections": row.key.connections,
        "percent_of_capacity": row.key.share,
        "contender": row.name(),
        "count_exact": row.exact(),
        "spread": metrics(|metric| row.spread(metric).map(spread)),
        "ratio_to_base": metrics(|metric| results.ratio(row, metric).map(|ratio| json!(ratio))),
        "ratio_to_unkeyed": row.key.load.unkeyed().map(|_| {
            metrics(|metric| results.ratio_to_unkeyed(row, metric).map(|ratio| json!(ratio)))
        }),
        "requests_per_second_ratio_to_pgbench": results.ratio_to_pgbench(row),
        "windows": row.samples.iter().map(window).collect::<Vec<_>>(),
    })
}

fn spread(spread: Spread) -> Value {
    json!({ "median": spread.median, "min": spread.min, "max": spread.max })
}

fn window(sample: &Sample) -> Value {
    metrics(|metric| sample.get(metric).map(|value| json!(value)))
}

/// An object with the metrics that have a value.
fn metrics(of: impl Fn(Metric) -> Option<Value>) -> Value {
    let values = METRICS.into_iter().filter_map(|(name, metric)| Some((name.into(), of(metric)?)));
    Value::Object(values.collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::tests::{keyed_results, results};

    #[test]
    fn rows_have_what_tables_show_and_every_window() {
        let value = value(&results());
        let tally = &value["results"][1];
        assert_eq!(tally["contender"], "tally, plugin");
        assert_eq!(tally["spread"]["requests_per_second"]["max"], 60.0);
        assert_eq!(tally["ratio_to_base"]["requests_per_second"], 0.5);
        assert_eq!(
            tally["windows"][0],
            json!({ "requests_per_second": 40.0, "cpu_seconds_per_request": 10e-6 })
        );
        assert_eq!(tally["count_exact"], true);
    }

    #[test]
    fn keyed_rows_have_their_ratios_to_unkeyed_ones_and_to_pgbench() {
        let value = value(&keyed_results());
        let rows = value["results"].as_array().unwrap();
        let keyed: Vec<_> = rows.iter().filter(|row| row["load"] == "increment-keyed").collect();
        assert_eq!(keyed[0]["ratio_to_unkeyed"]["requests_per_second"], 0.71);
        assert_eq!(keyed[0]["requests_per_second_ratio_to_pgbench"], Value::Null);
        assert_eq!(keyed[1]["ratio_to_unkeyed"]["store_cpu_seconds_per_request"], 1.25);
        assert_eq!(keyed[1]["requests_per_second_ratio_to_pgbench"], 16.0);
        assert_eq!(rows[0]["ratio_to_unkeyed"], Value::Null);
    }
}
