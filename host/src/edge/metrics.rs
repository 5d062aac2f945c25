//! What the edge counts, under OpenTelemetry's names for HTTP servers, in Prometheus' form.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use http::{Method, StatusCode};
use prometheus::{Histogram, HistogramOpts, HistogramVec, IntCounter, IntGauge, Registry};

/// Counters of the edge. Cheap to clone; all clones count together.
pub(crate) struct Metrics {
    durations: HistogramVec,
    active: IntGauge,
    closed_for_others: IntCounter,
    /// The histograms that this clone has used, which most often are a handful. Each worker has a
    /// clone of its own, so that none waits here; to look them up by labels would take a lock that
    /// all share.
    used: Mutex<Vec<Used>>,
}

/// A histogram, and the labels it is for.
struct Used {
    guest: Arc<str>,
    method: &'static str,
    status: StatusCode,
    durations: Histogram,
}

/// More than these are looked up by their labels: a search in order is for few.
const MOST_USED: usize = 32;

impl Clone for Metrics {
    fn clone(&self) -> Self {
        let (durations, active) = (self.durations.clone(), self.active.clone());
        let closed_for_others = self.closed_for_others.clone();
        Self { durations, active, closed_for_others, used: Mutex::default() }
    }
}

impl Metrics {
    /// Creates the metrics and registers them.
    ///
    /// # Errors
    /// When the registry holds metrics of these names already.
    pub(crate) fn register(registry: &Registry) -> prometheus::Result<Self> {
        let durations = HistogramVec::new(
            HistogramOpts::new(
                "http_server_request_duration_seconds",
                "Time from a request's head to its response",
            )
            .buckets(vec![
                0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25,
                0.5, 1.0, 2.5, 5.0, 10.0,
            ]),
            &["http_request_method", "http_response_status_code", "guest"],
        )?;
        let active =
            IntGauge::new("http_server_active_requests", "Requests that are being answered")?;
        let closed_for_others = IntCounter::new(
            "tally_connections_closed_for_others_total",
            "Idle connections that were closed because no more may be open",
        )?;
        registry.register(Box::new(durations.clone()))?;
        registry.register(Box::new(active.clone()))?;
        registry.register(Box::new(closed_for_others.clone()))?;
        Ok(Self { durations, active, closed_for_others, used: Mutex::default() })
    }

    /// Counts idle connections that were closed to make room.
    pub(super) fn closed_for_others(&self) -> &IntCounter {
        &self.closed_for_others
    }

    /// Counts a request as active until its guard is dropped.
    pub(super) fn begin(&self) -> Active<'_> {
        self.active.inc();
        Active(self)
    }
}

/// A request that is being answered.
pub(super) struct Active<'a>(&'a Metrics);

impl Active<'_> {
    /// Notes by whom it was answered, and how. The name of a guest comes from the configuration, so
    /// there are only so many.
    pub(super) fn end(self, guest: &Arc<str>, method: &Method, status: StatusCode, took: Duration) {
        let (method, took) = (known(method), took.as_secs_f64());
        // Nothing panics while it is locked, and it is whole between statements.
        let mut used = self.0.used.lock().unwrap_or_else(PoisonError::into_inner);
        let found = used.iter().find(|used| {
            used.status == status && used.method == method && Arc::ptr_eq(&used.guest, guest)
        });
        if let Some(found) = found {
            return found.durations.observe(took);
        }
        let durations = self.0.durations.with_label_values(&[method, status.as_str(), guest]);
        durations.observe(took);
        if used.len() < MOST_USED {
            used.push(Used { guest: Arc::clone(guest), method, status, durations });
        }
    }
}

impl Drop for Active<'_> {
    fn drop(&mut self) {
        self.0.active.dec();
    }
}

/// The method as a label: clients can make methods up, so others than the standard's share one.
fn known(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        Method::OPTIONS => "OPTIONS",
        Method::TRACE => "TRACE",
        Method::CONNECT => "CONNECT",
        _ => "_OTHER",
    }
}
