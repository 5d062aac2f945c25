//! `POST /increment` on each backend: a plugin beside the same route in plain hyper, and the check
//! that every window counted exactly.

use std::path::Path;

use anyhow::{Context as _, Result, bail};
use hyper::{Method, StatusCode};
use tally_testkit::Postgres;

use crate::{
    backend::{Backend, Store},
    http,
    load::Target,
    measure::{Measure, WARM_UP, Window, order},
    pgbench,
    programs::{Kind, Task},
    report::Report,
    server::Server,
    table::{Column, Layout, Sample, per_request},
};

/// The servers that know this route.
pub(crate) const KINDS: [Kind; 2] = [Kind::Plain, Kind::Tally];

const TARGET: Target = Target { method: "POST", path: "/increment" };

const LAYOUT: Layout = Layout {
    title: "POST /increment",
    columns: &[
        Column::Backend,
        Column::Server,
        Column::Rate,
        Column::Cpu,
        Column::StoreCpu,
        Column::P50,
        Column::P99,
        Column::RateRatio("requests/s ÷ plain"),
        Column::CpuRatio("CPU ÷ plain"),
    ],
    baseline: Kind::Plain.name(),
    compared: &[Kind::Tally.name()],
};

/// Measures these servers on these backends.
pub(crate) async fn run(
    measure: &Measure<'_>,
    kinds: &[Kind],
    backends: &[Backend],
    guest: &Path,
    report: &mut Report,
) -> Result<()> {
    for backend in backends {
        let store = Store::start(*backend, measure.dir)?;
        for round in 0..measure.rounds {
            for kind in order(kinds, round) {
                server(measure, kind, &store, guest, report).await?;
            }
            if let Store::Postgres(postgres) = &store {
                postgres_alone(measure, postgres, report).await?;
            }
        }
    }
    Ok(())
}

/// Starts a server on a store, measures it, and ends it.
async fn server(
    measure: &Measure<'_>,
    kind: Kind,
    store: &Store,
    guest: &Path,
    report: &mut Report,
) -> Result<()> {
    let title = format!("{} on {}", kind.name(), store.backend().name());
    eprintln!("{title}");
    let task = Task { guest, store: &store.url() };
    let mut server = Server::start(measure.programs, kind, task, measure.dir).await?;
    let reset = http::request(server.address(), Method::POST, "/reset").await?;
    if reset.status() != StatusCode::OK {
        bail!("{title}: POST /reset answered {}", reset.status());
    }
    let window = measure.window(&mut server, &TARGET, store.process_id()).await?;
    let count = count(&server).await.with_context(|| title.clone())?;
    server.end().await?;

    for note in miscounts(count, measure.wrk.in_flight(), &window) {
        report.note(format!("{title}: {note}"));
    }
    for note in window.failures() {
        report.note(format!("{title}: {note}"));
    }
    report.add(&LAYOUT, store.backend().name(), kind.name(), window.sample);
    Ok(())
}

/// Measures PostgreSQL without a server in front.
async fn postgres_alone(
    measure: &Measure<'_>,
    postgres: &Postgres,
    report: &mut Report,
) -> Result<()> {
    eprintln!("pgbench");
    let id = postgres.process_id().context("PostgreSQL is gone")?;
    let pgbench = pgbench::Pgbench::prepare(postgres, measure.dir).await?;
    let clients = measure.wrk.in_flight();
    pgbench.run(clients, WARM_UP).await?;
    let before = measure.clock.used(id)?;
    let result = pgbench.run(clients, measure.window).await?;
    let cpu = measure.clock.used(id)?.saturating_sub(before);
    let sample = Sample {
        rate: result.rate,
        store_cpu: per_request(cpu, result.transactions),
        ..Sample::default()
    };
    report.add(&LAYOUT, Backend::Postgres.name(), pgbench::NAME, sample);
    Ok(())
}

/// How the count is wrong. Every acknowledged increment must be in it. Beyond those can only be
/// increments whose answers wrk did not wait for, or that failed.
fn miscounts(count: u64, in_flight: u64, window: &Window) -> Vec<String> {
    let mut notes = Vec::new();
    let loads = [&window.warm_up, &window.load];
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
    notes
}

async fn count(server: &Server) -> Result<u64> {
    let answer = http::request(server.address(), Method::GET, "/report").await?;
    if answer.status() != StatusCode::OK {
        bail!("GET /report answered {}", answer.status());
    }
    let report: serde_json::Value =
        serde_json::from_slice(answer.body()).context("GET /report answered no JSON")?;
    report.get("count").and_then(serde_json::Value::as_u64).context("GET /report has no count")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::tests::{load, window};

    #[test]
    fn a_count_within_what_was_acknowledged_or_unanswered_is_right() {
        let window = window(load(100, 0, 0), load(200, 0, 0));
        for count in 300..=304 {
            assert!(miscounts(count, 2, &window).is_empty(), "{count}");
        }
    }

    #[test]
    fn a_count_outside_is_said() {
        let window = window(load(100, 0, 0), load(200, 0, 0));
        let lost = miscounts(299, 2, &window);
        assert!(lost.iter().any(|note| note.starts_with("LOST UPDATES: 1 of 300")), "{lost:?}");
        let twice = miscounts(305, 2, &window);
        assert!(twice.iter().any(|note| note.starts_with("COUNTED TWICE")), "{twice:?}");
    }

    #[test]
    fn increments_that_failed_may_have_counted_or_not() {
        let window = window(load(100, 5, 0), load(200, 0, 1));
        for count in [295, 305] {
            assert!(miscounts(count, 2, &window).is_empty(), "{count}");
        }
    }
}
