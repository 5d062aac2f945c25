//! One measured window of one server, and the check that it counted exactly.

use std::{path::Path, time::Duration};

use anyhow::{Context as _, Result, bail};
use hyper::{Method, StatusCode};
use tally_testkit::Postgres;

use crate::{
    backend::{Backend, Store},
    http,
    load::{Load, Wrk},
    pgbench,
    processor::Clock,
    report::{Report, Sample, per_request},
    server::{Kind, Programs, Server},
};

/// Load before the window, which is not measured: connections, caches and branch predictors settle.
const WARM_UP: Duration = Duration::from_secs(1);

/// What all windows have in common.
pub(crate) struct Measure<'a> {
    pub(crate) programs: &'a Programs,
    pub(crate) wrk: &'a Wrk,
    pub(crate) clock: Clock,
    pub(crate) window: Duration,
}

impl Measure<'_> {
    /// Starts a server on a store, measures it, and ends it.
    pub(crate) async fn server(
        &self,
        kind: Kind,
        store: &Store,
        dir: &Path,
        report: &mut Report,
    ) -> Result<()> {
        let title = format!("{} on {}", kind.name(), store.backend().name());
        eprintln!("{title}");
        let mut server = Server::start(self.programs, kind, &store.url(), dir).await?;
        let (status, _) = http::request(server.address(), Method::POST, "/reset").await?;
        if status != StatusCode::OK {
            bail!("{title}: POST /reset answered {status}");
        }

        let warm_up = self.wrk.run(server.address(), WARM_UP).await?;
        let before = self.used(&server, store)?;
        let load = self.wrk.run(server.address(), self.window).await?;
        let after = self.used(&server, store)?;

        server.still_runs()?;
        let count = count(&server).await.with_context(|| title.clone())?;
        server.end().await?;

        let cpu = after.0.saturating_sub(before.0);
        let store_cpu = after.1.zip(before.1).map(|(after, before)| after.saturating_sub(before));
        let sample = Sample {
            rate: rate(load.requests, load.duration),
            cpu: per_request(cpu, load.requests),
            store_cpu: store_cpu.and_then(|cpu| per_request(cpu, load.requests)),
            p50: Some(load.p50.as_secs_f64()),
            p99: Some(load.p99.as_secs_f64()),
        };
        for note in notes(count, self.wrk.in_flight(), &warm_up, &load) {
            report.note(format!("{title}: {note}"));
        }
        report.add(store.backend(), kind.name(), sample);
        Ok(())
    }

    /// Measures PostgreSQL without a server in front.
    pub(crate) async fn pgbench(
        &self,
        postgres: &Postgres,
        dir: &Path,
        report: &mut Report,
    ) -> Result<()> {
        eprintln!("pgbench");
        let id = postgres.process_id().context("PostgreSQL is gone")?;
        let pgbench = pgbench::Pgbench::prepare(postgres, dir).await?;
        let clients = self.wrk.in_flight();
        pgbench.run(clients, WARM_UP).await?;
        let before = self.clock.used(id)?;
        let result = pgbench.run(clients, self.window).await?;
        let cpu = self.clock.used(id)?.saturating_sub(before);
        let sample = Sample {
            rate: result.rate,
            store_cpu: per_request(cpu, result.transactions),
            ..Sample::default()
        };
        report.add(Backend::Postgres, pgbench::NAME, sample);
        Ok(())
    }

    /// CPU time so far of the server and of the store.
    fn used(&self, server: &Server, store: &Store) -> Result<(Duration, Option<Duration>)> {
        let of_store = store.process_id().map(|id| self.clock.used(id)).transpose()?;
        Ok((self.clock.used(server.id())?, of_store))
    }
}

/// What was not as it should be. Every acknowledged increment must be in the count. Beyond
/// those can only be increments whose answers wrk did not wait for, or that failed.
fn notes(count: u64, in_flight: u64, warm_up: &Load, load: &Load) -> Vec<String> {
    let mut notes = Vec::new();
    let loads = [warm_up, load];
    let acknowledged: u64 = loads.iter().map(|load| load.acknowledged()).sum();
    let lost = acknowledged.saturating_sub(count);
    if lost > 0 {
        notes.push(format!(
            "LOST UPDATES: {lost} of {acknowledged} acknowledged increments are not in the count {count}"
        ));
    }
    let unsure: u64 =
        loads.iter().map(|load| in_flight + load.refused + load.failed_sockets()).sum();
    let surplus = count.saturating_sub(acknowledged);
    if surplus > unsure {
        notes.push(format!(
            "COUNTED TWICE: the count {count} is {surplus} above the {acknowledged} acknowledged increments, and at most {unsure} were unanswered"
        ));
    }
    for (load, name) in loads.iter().zip(["warming up", "measuring"]) {
        if load.refused > 0 {
            let (refused, requests) = (load.refused, load.requests);
            notes.push(format!("{refused} of {requests} answers were errors while {name}"));
        }
        for (what, errors) in load.socket_errors.iter().filter(|(_, errors)| *errors > 0) {
            notes.push(format!("{errors} socket errors ({what}) while {name}"));
        }
    }
    notes
}

async fn count(server: &Server) -> Result<u64> {
    let (status, body) = http::request(server.address(), Method::GET, "/report").await?;
    if status != StatusCode::OK {
        bail!("GET /report answered {status}");
    }
    let report: serde_json::Value =
        serde_json::from_slice(&body).context("GET /report answered no JSON")?;
    report.get("count").and_then(serde_json::Value::as_u64).context("GET /report has no count")
}

#[expect(clippy::cast_precision_loss, reason = "far below 2^53")]
fn rate(requests: u64, duration: Duration) -> f64 {
    requests as f64 / duration.as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(requests: u64, refused: u64, timeouts: u64) -> Load {
        Load {
            requests,
            refused,
            socket_errors: vec![("read", 0), ("timeout", timeouts)],
            duration: Duration::from_secs(1),
            p50: Duration::ZERO,
            p99: Duration::ZERO,
        }
    }

    #[test]
    fn a_count_within_what_was_acknowledged_or_unanswered_is_right() {
        for count in 300..=304 {
            assert!(notes(count, 2, &load(100, 0, 0), &load(200, 0, 0)).is_empty(), "{count}");
        }
    }

    #[test]
    fn a_count_outside_is_said() {
        let lost = notes(299, 2, &load(100, 0, 0), &load(200, 0, 0));
        assert!(lost.iter().any(|note| note.starts_with("LOST UPDATES: 1 of 300")), "{lost:?}");
        let twice = notes(305, 2, &load(100, 0, 0), &load(200, 0, 0));
        assert!(twice.iter().any(|note| note.starts_with("COUNTED TWICE")), "{twice:?}");
    }

    #[test]
    fn failures_are_said_and_may_have_counted_or_not() {
        for count in [295, 305] {
            let notes = notes(count, 2, &load(100, 5, 0), &load(200, 0, 1));
            assert_eq!(
                notes,
                [
                    "5 of 100 answers were errors while warming up",
                    "1 socket errors (timeout) while measuring"
                ]
            );
        }
    }
}
