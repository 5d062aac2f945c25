//! Values that are read when somebody asks for metrics, rather than kept up to date.

use prometheus::{
    CounterVec, GaugeVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
    core::Collector,
};

use crate::{
    edge::Workers,
    logging::{Lines, Logs},
    registry::{Guest, Routes},
    releases::Record,
    runtime::Runtime,
};

/// The values, most of them by guest. A guest that was never asked for and is not loaded has none: there
/// may be thousands.
pub(super) struct Gauges {
    connections: IntGauge,
    body_bytes: IntGauge,
    loaded: IntGauge,
    loaded_bytes: IntGauge,
    pool: IntGaugeVec,
    in_use: IntGaugeVec,
    waiting: IntGaugeVec,
    records: IntGaugeVec,
    record_bytes: IntGaugeVec,
    records_limit: IntGaugeVec,
    record_bytes_limit: IntGaugeVec,
    highest_memory: IntGaugeVec,
    cpu: CounterVec,
    loads: IntCounterVec,
    loading: CounterVec,
    evictions: IntCounterVec,
    traps: IntCounterVec,
    refused: IntCounterVec,
    is_loaded: IntGaugeVec,
    weight: GaugeVec,
    revision: IntGauge,
    failed_releases: IntGauge,
    log_dropped: IntCounter,
    access_log_dropped: IntCounter,
}

impl Gauges {
    /// Creates the values and registers them.
    ///
    /// # Errors
    /// When the registry holds metrics of these names already.
    pub(super) fn register(registry: &Registry) -> prometheus::Result<Self> {
        fn add<C: Collector + Clone + 'static>(
            registry: &Registry,
            metric: prometheus::Result<C>,
        ) -> prometheus::Result<C> {
            let metric = metric?;
            registry.register(Box::new(metric.clone()))?;
            Ok(metric)
        }
        let gauge = |name: &str, help: &str| add(registry, IntGauge::new(name, help));
        let total = |name: &str, help: &str| add(registry, IntCounter::new(name, help));
        let by_guest = |name: &str, help: &str| {
            add(registry, IntGaugeVec::new(Opts::new(name, help), &["guest"]))
        };
        let seconds = |name: &str, help: &str| {
            add(registry, CounterVec::new(Opts::new(name, help), &["guest"]))
        };
        let counter = |name: &str, help: &str, labels: &[&str]| {
            add(registry, IntCounterVec::new(Opts::new(name, help), labels))
        };
        Ok(Self {
            connections: gauge("tally_connections", "Open connections")?,
            body_bytes: gauge(
                "tally_request_body_bytes",
                "Bytes of request bodies that are arriving or being answered",
            )?,
            loaded: gauge("tally_loaded_guests", "Guests that are loaded")?,
            loaded_bytes: gauge(
                "tally_loaded_bytes",
                "Bytes of the compiled code of loaded guests",
            )?,
            pool: by_guest("tally_pool_instances", "Guest instances that can be at work at once")?,
            in_use: by_guest("tally_pool_instances_in_use", "Guest instances at work")?,
            waiting: by_guest(
                "tally_pool_waiting_requests",
                "Requests waiting for an instance, or for the guest to be loaded",
            )?,
            records: by_guest(
                "tally_idempotency_records",
                "Writes and responses of requests with an Idempotency-Key that the store holds",
            )?,
            record_bytes: by_guest(
                "tally_idempotency_record_bytes",
                "Bytes that these records take in the store, about",
            )?,
            records_limit: by_guest(
                "tally_idempotency_records_limit",
                "Records at which requests with an Idempotency-Key are refused",
            )?,
            record_bytes_limit: by_guest(
                "tally_idempotency_record_bytes_limit",
                "Bytes of records at which requests with an Idempotency-Key are refused",
            )?,
            highest_memory: by_guest(
                "tally_guest_memory_highest_bytes",
                "Bytes of the largest memory that an instance of the guest had when it returned",
            )?,
            cpu: seconds("tally_guest_cpu_seconds_total", "Time that the guest has computed")?,
            loads: counter(
                "tally_guest_loads_total",
                "How often the guest was loaded, by outcome",
                &["guest", "outcome"],
            )?,
            loading: seconds(
                "tally_guest_loading_seconds_total",
                "Time that loading the guest took",
            )?,
            evictions: counter(
                "tally_guest_evictions_total",
                "How often the guest's code was dropped to make room for others'",
                &["guest"],
            )?,
            traps: counter(
                "tally_guest_traps_total",
                "Instances that were stopped or failed, by kind",
                &["guest", "kind"],
            )?,
            refused: counter(
                "tally_guest_refused_requests_total",
                "Requests that were refused before the guest ran, by reason",
                &["guest", "reason"],
            )?,
            revision: gauge(
                "tally_releases_revision",
                "The last change of any guest that this host has seen in the store",
            )?,
            failed_releases: gauge(
                "tally_releases_failed",
                "Guests whose current release this host cannot run",
            )?,
            log_dropped: total(
                "tally_log_dropped_lines_total",
                "Lines of the log that were lost, because its reader was too slow or gone",
            )?,
            access_log_dropped: total(
                "tally_access_log_dropped_lines_total",
                "Lines of the access log that were lost, because they could not be written in time",
            )?,
            is_loaded: by_guest("tally_guest_loaded", "Whether the guest is loaded")?,
            weight: add(
                registry,
                GaugeVec::new(
                    Opts::new(
                        "tally_guest_cpu_weight",
                        "The guest's weight among those that compute",
                    ),
                    &["guest"],
                ),
            )?,
        })
    }

    pub(super) fn of_workers(&self, workers: &Workers) {
        set(&self.connections, workers.connections());
        set(&self.body_bytes, workers.body_bytes());
    }

    pub(super) fn of_logs(&self, logs: &Logs) {
        let access = logs.access_lines().map_or(0, Lines::dropped);
        for (counter, total) in
            [(&self.log_dropped, logs.log().dropped()), (&self.access_log_dropped, access)]
        {
            counter.inc_by(total.saturating_sub(counter.get()));
        }
    }

    pub(super) fn of_releases(&self, record: &Record) {
        self.revision.set(i64::try_from(record.seen).unwrap_or(i64::MAX));
        set(&self.failed_releases, record.failed.len());
    }

    pub(super) fn of_guests(&self, runtime: &Runtime, routes: &Routes) {
        let (guests, bytes) = runtime.loaded();
        set(&self.loaded, guests);
        set(&self.loaded_bytes, bytes);
        for (_, guest) in routes.iter() {
            let (loads, _, _) = guest.tenant().usage().loads();
            let was_refused = guest.tenant().usage().refusals().any(|(_, count)| count > 0);
            if loads > 0 || was_refused {
                self.of_guest(guest);
            }
        }
    }

    fn of_guest(&self, guest: &Guest) {
        let name = &**guest.name();
        let gauges =
            |gauges: &IntGaugeVec, value: usize| set(&gauges.with_label_values(&[name]), value);
        gauges(&self.pool, guest.tenant().pool());
        gauges(&self.in_use, guest.in_use());
        gauges(&self.waiting, guest.tenant().waiting());
        gauges(&self.is_loaded, usize::from(guest.release().is_loaded()));
        gauges(&self.highest_memory, guest.tenant().usage().highest_memory());
        let weight = self.weight.with_label_values(&[name]);
        weight.set(f64::from(guest.tenant().limits().weight));
        let budget = guest.idempotency().budget();
        let (used, limits) = (budget.used(), budget.limits());
        for (vec, value) in [
            (&self.records, used.records),
            (&self.record_bytes, used.bytes),
            (&self.records_limit, limits.records),
            (&self.record_bytes_limit, limits.bytes),
        ] {
            gauges(vec, usize::try_from(value).unwrap_or(usize::MAX));
        }
        let seconds = |counters: &CounterVec, total: f64| {
            let counter = counters.with_label_values(&[name]);
            counter.inc_by((total - counter.get()).max(0.0));
        };
        let count = |counters: &IntCounterVec, labels: &[&str], total: u64| {
            let counter = counters.with_label_values(labels);
            counter.inc_by(total.saturating_sub(counter.get()));
        };
        seconds(&self.cpu, guest.tenant().account().total().as_secs_f64());
        let usage = guest.tenant().usage();
        let (loads, failed, took) = usage.loads();
        count(&self.loads, &[name, "loaded"], loads.saturating_sub(failed));
        count(&self.loads, &[name, "failed"], failed);
        seconds(&self.loading, took.as_secs_f64());
        count(&self.evictions, &[name], usage.evictions());
        for (kind, total) in usage.traps() {
            count(&self.traps, &[name, kind.name()], total);
        }
        for (reason, total) in usage.refusals() {
            count(&self.refused, &[name, reason.name()], total);
        }
    }
}

fn set(gauge: &IntGauge, value: usize) {
    gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
}
