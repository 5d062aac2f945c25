//! What the state layer counts, in Prometheus metrics.
//!
//! Operations are counted as callers asked for them, not as the commands they became, so that
//! combining stays visible: operations minus steps is what it saved.

use std::{sync::Arc, time::Duration};

use prometheus::{
    Histogram, HistogramOpts, IntCounter, IntCounterVec, Opts, Registry, core::Collector,
};

use crate::{error::Error, operation::Kind, plan::Reply};

/// How an operation ended, as a label.
const OUTCOMES: [&str; 4] = ["ok", "rejected", "not_applied", "unknown"];

/// Counters of the state layer. Cheap to clone; all clones count together.
#[derive(Clone)]
pub struct Metrics(Arc<Inner>);

struct Inner {
    /// By kind, then by outcome, resolved once so that counting is one addition.
    operations: Vec<[IntCounter; OUTCOMES.len()]>,
    operations_vec: IntCounterVec,
    batches: IntCounter,
    steps: IntCounter,
    batch_operations: Histogram,
    batch_seconds: Histogram,
    connection_failures: IntCounter,
}

impl Default for Metrics {
    /// Metrics that nobody reads, for tests and embedded use.
    #[allow(clippy::expect_used, reason = "the names and buckets are constants, and tested")]
    fn default() -> Self {
        Self::build().expect("constant metric definitions are valid")
    }
}

impl Metrics {
    /// Creates the metrics and registers them.
    ///
    /// # Errors
    /// When the registry holds metrics of these names already.
    pub fn register(registry: &Registry) -> prometheus::Result<Self> {
        let metrics = Self::build()?;
        let inner = &metrics.0;
        let collectors: [Box<dyn Collector>; 6] = [
            Box::new(inner.operations_vec.clone()),
            Box::new(inner.batches.clone()),
            Box::new(inner.steps.clone()),
            Box::new(inner.batch_operations.clone()),
            Box::new(inner.batch_seconds.clone()),
            Box::new(inner.connection_failures.clone()),
        ];
        for collector in collectors {
            registry.register(collector)?;
        }
        Ok(metrics)
    }

    fn build() -> prometheus::Result<Self> {
        let operations_vec = IntCounterVec::new(
            Opts::new(
                "tally_state_operations_total",
                "State operations as guests asked for them, by how they ended",
            ),
            &["operation", "outcome"],
        )?;
        let operations = Kind::ALL
            .iter()
            .map(|kind| {
                OUTCOMES.map(|outcome| operations_vec.with_label_values(&[kind.name(), outcome]))
            })
            .collect();
        Ok(Self(Arc::new(Inner {
            operations,
            operations_vec,
            batches: IntCounter::new("tally_state_batches_total", "Batches sent to the backend")?,
            steps: IntCounter::new(
                "tally_state_steps_total",
                "Steps in those batches after combining; operations minus steps is what was saved",
            )?,
            batch_operations: Histogram::with_opts(
                HistogramOpts::new("tally_state_batch_operations", "Operations in one batch")
                    .buckets(vec![
                        1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 4096.0,
                    ]),
            )?,
            batch_seconds: Histogram::with_opts(
                HistogramOpts::new(
                    "tally_state_batch_duration_seconds",
                    "Time from sending a batch to its answer",
                )
                .buckets(vec![
                    0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05,
                    0.1, 0.5, 1.0, 5.0,
                ]),
            )?,
            connection_failures: IntCounter::new(
                "tally_state_connection_failures_total",
                "Attempts to connect to the backend that failed",
            )?,
        })))
    }

    pub(crate) fn batch(&self, operations: usize, steps: usize) {
        self.0.batches.inc();
        self.0.steps.inc_by(steps as u64);
        #[allow(clippy::cast_precision_loss, reason = "a batch is far below 2^52")]
        self.0.batch_operations.observe(operations as f64);
    }

    pub(crate) fn applied(&self, took: Duration) {
        self.0.batch_seconds.observe(took.as_secs_f64());
    }

    pub(crate) fn connection_failed(&self) {
        self.0.connection_failures.inc();
    }

    pub(crate) fn answered(&self, kind: Kind, reply: &Reply) {
        let outcome = match reply {
            Ok(_) => 0,
            Err(Error::Rejected(_)) => 1,
            Err(Error::NotApplied(_)) => 2,
            Err(Error::Unknown(_)) => 3,
        };
        let counters = self.0.operations.get(kind as usize);
        if let Some(counter) = counters.and_then(|outcomes| outcomes.get(outcome)) {
            counter.inc();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_and_outcome_has_its_own_counter() {
        let registry = Registry::new();
        let metrics = Metrics::register(&registry).unwrap();
        for (index, kind) in Kind::ALL.iter().enumerate() {
            assert_eq!(*kind as usize, index, "counters are found by the kind's number");
        }
        metrics.answered(Kind::Increment, &Err(Error::unknown("test")));
        let counter = metrics.0.operations_vec.with_label_values(&["increment", "unknown"]);
        assert_eq!(counter.get(), 1);
        assert!(Metrics::register(&registry).is_err(), "registered once");
    }
}
