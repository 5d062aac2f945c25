//! All that was measured: samples by what was measured, their medians and spread, and what was not
//! as it should be.

use std::fmt;

use crate::{backend::Backend, contender::Contender, load::Load};

/// What one window came to. What a contender does not have is `None`. Times are in seconds.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Sample {
    /// Requests a second.
    pub(crate) rate: Option<f64>,
    pub(crate) p50: Option<f64>,
    pub(crate) p99: Option<f64>,
    pub(crate) p999: Option<f64>,
    pub(crate) slowest: Option<f64>,
    /// CPU time of the server for each request.
    pub(crate) cpu: Option<f64>,
    /// CPU time of the store for each request.
    pub(crate) store_cpu: Option<f64>,
    /// The most memory that was resident, in bytes.
    pub(crate) memory: Option<f64>,
    /// Whether the count was right, where something was counted.
    pub(crate) exact: Option<bool>,
}

/// A value of a sample.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Metric {
    Rate,
    P50,
    P99,
    P999,
    Slowest,
    Cpu,
    StoreCpu,
    Memory,
}

/// What was measured.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Key {
    pub(crate) load: Load,
    pub(crate) backend: Option<Backend>,
    pub(crate) connections: u32,
    /// At so many percent of what the server can do, rather than as much as it can.
    pub(crate) share: Option<u32>,
    pub(crate) contender: Contender,
}

/// All windows of one key.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) key: Key,
    pub(crate) samples: Vec<Sample>,
}

/// The middle of some values, or the mean of the two in the middle; and the least and the greatest.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
}

/// All that was measured so far, in the order in which it first was.
#[derive(Debug)]
pub(crate) struct Results {
    /// What the numbers depend on.
    pub(crate) surroundings: Vec<(&'static str, String)>,
    /// What ratios are to.
    pub(crate) base: Contender,
    pub(crate) rows: Vec<Row>,
    /// What was not measured, and how to have it measured.
    pub(crate) left_out: Vec<String>,
    /// What was not as it should be.
    pub(crate) notes: Vec<String>,
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, {}", self.contender.name(self.backend), self.load.name())?;
        if let Some(backend) = self.backend {
            write!(f, " on {}", backend.name())?;
        }
        write!(f, ", {} connections", self.connections)?;
        match self.share {
            Some(share) => write!(f, ", at {share} %"),
            None => Ok(()),
        }
    }
}

impl Results {
    pub(crate) fn new(base: Contender) -> Self {
        let (rows, left_out, notes) = (Vec::new(), Vec::new(), Vec::new());
        Self { surroundings: Vec::new(), base, rows, left_out, notes }
    }

    /// Adds a window.
    pub(crate) fn add(&mut self, key: Key, sample: Sample) {
        eprintln!("  {:.0} requests/s", sample.rate.unwrap_or_default());
        match self.rows.iter_mut().find(|row| row.key == key) {
            Some(row) => row.samples.push(sample),
            None => self.rows.push(Row { key, samples: vec![sample] }),
        }
    }

    /// Adds something that was not as it should be; said now and again below the tables.
    pub(crate) fn note(&mut self, note: String) {
        eprintln!("  !! {note}");
        self.notes.push(note);
    }

    /// Says that something is not measured, once.
    pub(crate) fn leave_out(&mut self, what: String) {
        if !self.left_out.contains(&what) {
            eprintln!("left out: {what}");
            self.left_out.push(what);
        }
    }

    pub(crate) fn row(&self, key: Key) -> Option<&Row> {
        self.rows.iter().find(|row| row.key == key)
    }

    /// A median divided by that of the base under the same load.
    pub(crate) fn ratio(&self, row: &Row, metric: Metric) -> Option<f64> {
        self.ratio_to(row, Key { contender: self.base, ..row.key }, metric)
    }

    /// A median of a load with an `Idempotency-Key` divided by that of the same contender under the
    /// same load without.
    pub(crate) fn ratio_to_unkeyed(&self, row: &Row, metric: Metric) -> Option<f64> {
        self.ratio_to(row, Key { load: row.key.load.unkeyed()?, ..row.key }, metric)
    }

    /// Requests a second of a load with an `Idempotency-Key` divided by what `pgbench` did of the
    /// same load without.
    pub(crate) fn ratio_to_pgbench(&self, row: &Row) -> Option<f64> {
        let load = row.key.load.unkeyed()?;
        self.ratio_to(row, Key { load, contender: Contender::Pgbench, ..row.key }, Metric::Rate)
    }

    fn ratio_to(&self, row: &Row, base: Key, metric: Metric) -> Option<f64> {
        let base = self.row(base)?;
        let ratio = row.spread(metric)?.median / base.spread(metric)?.median;
        ratio.is_finite().then_some(ratio)
    }
}

impl Row {
    pub(crate) fn name(&self) -> &'static str {
        self.key.contender.name(self.key.backend)
    }

    pub(crate) fn spread(&self, metric: Metric) -> Option<Spread> {
        let values = self.samples.iter().filter_map(|sample| sample.get(metric));
        let mut values: Vec<f64> = values.collect();
        values.sort_by(f64::total_cmp);
        let upper = values.get(values.len() / 2)?;
        let lower = values.get(values.len().checked_sub(1)? / 2)?;
        let median = f64::midpoint(*lower, *upper);
        Some(Spread { median, min: *values.first()?, max: *values.last()? })
    }

    /// Whether all windows counted right, where they counted.
    pub(crate) fn exact(&self) -> Option<bool> {
        self.samples.iter().filter_map(|sample| sample.exact).reduce(|all, one| all && one)
    }
}

impl Sample {
    pub(crate) fn get(&self, metric: Metric) -> Option<f64> {
        match metric {
            Metric::Rate => self.rate,
            Metric::P50 => self.p50,
            Metric::P99 => self.p99,
            Metric::P999 => self.p999,
            Metric::Slowest => self.slowest,
            Metric::Cpu => self.cpu,
            Metric::StoreCpu => self.store_cpu,
            Metric::Memory => self.memory,
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) const KEY: Key = Key {
        load: Load::Increment,
        backend: Some(Backend::Memory),
        connections: 64,
        share: None,
        contender: Contender::Plain,
    };

    pub(crate) fn results() -> Results {
        let mut results = Results::new(Contender::Plain);
        let sample = |rate, cpu| Sample { rate: Some(rate), cpu: Some(cpu), ..Sample::default() };
        for rate in [90.0, 100.0, 500.0] {
            results.add(KEY, sample(rate, 10e-6));
        }
        let tally = Key { contender: Contender::Tally, ..KEY };
        results.add(tally, Sample { exact: Some(true), ..sample(40.0, 10e-6) });
        results.add(tally, Sample { exact: Some(true), ..sample(60.0, 20e-6) });
        results.add(Key { backend: Some(Backend::Redis), ..tally }, sample(10.0, 1e-6));
        results
    }

    /// [`results`] with a keyed load, on memory as on PostgreSQL.
    pub(crate) fn keyed_results() -> Results {
        let mut results = results();
        let keyed = Key { load: Load::IncrementKeyed, contender: Contender::Tally, ..KEY };
        let sample = |rate: f64, cpu: f64, store_cpu| Sample {
            rate: Some(rate),
            cpu: Some(cpu),
            store_cpu,
            exact: Some(true),
            ..Sample::default()
        };
        results.add(keyed, sample(35.5, 21e-6, None));
        let on_postgres = |key| Key { backend: Some(Backend::Postgres), ..key };
        results.add(
            on_postgres(Key { load: Load::Increment, ..keyed }),
            sample(100.0, 1e-6, Some(4.0)),
        );
        results.add(on_postgres(keyed), sample(80.0, 2e-6, Some(5.0)));
        let pgbench = on_postgres(Key { contender: Contender::Pgbench, ..KEY });
        results.add(pgbench, sample(5.0, 0.0, None));
        results
    }

    #[test]
    fn a_keyed_row_is_divided_by_its_unkeyed_sibling_and_by_pgbench() {
        let results = keyed_results();
        let row = |load, backend| {
            let contender = Contender::Tally;
            results.row(Key { load, backend: Some(backend), contender, ..KEY }).unwrap()
        };
        let memory = row(Load::IncrementKeyed, Backend::Memory);
        assert_eq!(results.ratio_to_unkeyed(memory, Metric::Rate), Some(0.71));
        assert_eq!(results.ratio_to_unkeyed(memory, Metric::StoreCpu), None);
        assert_eq!(results.ratio_to_pgbench(memory), None);
        let postgres = row(Load::IncrementKeyed, Backend::Postgres);
        assert_eq!(results.ratio_to_unkeyed(postgres, Metric::Cpu), Some(2.0));
        assert_eq!(results.ratio_to_unkeyed(postgres, Metric::StoreCpu), Some(1.25));
        assert_eq!(results.ratio_to_pgbench(postgres), Some(16.0));
        let unkeyed = row(Load::Increment, Backend::Postgres);
        assert_eq!(results.ratio_to_unkeyed(unkeyed, Metric::Rate), None);
        assert_eq!(results.ratio_to_pgbench(unkeyed), None);
    }

    #[test]
    fn rows_have_medians_with_their_spread() {
        let results = results();
        let plain = results.row(KEY).unwrap();
        assert_eq!(
            plain.spread(Metric::Rate),
            Some(Spread { median: 100.0, min: 90.0, max: 500.0 })
        );
        assert_eq!(plain.spread(Metric::P99), None);
        let tally = results.row(Key { contender: Contender::Tally, ..KEY }).unwrap();
        assert_eq!(tally.spread(Metric::Rate).unwrap().median, 50.0);
        assert_eq!((plain.exact(), tally.exact()), (None, Some(true)));
    }

    #[test]
    fn ratios_are_to_the_base_under_the_same_load() {
        let results = results();
        let tally = Key { contender: Contender::Tally, ..KEY };
        assert_eq!(results.ratio(results.row(tally).unwrap(), Metric::Rate), Some(0.5));
        let redis = Key { backend: Some(Backend::Redis), ..tally };
        assert_eq!(results.ratio(results.row(redis).unwrap(), Metric::Rate), None);
    }
}
