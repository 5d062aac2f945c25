//! One measured window of one contender.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use hyper::{Method, StatusCode, header::CONTENT_TYPE};
use tokio::time::sleep;

use crate::{
    backend::Store,
    client::{Requests, closed_loop, open_loop},
    contender::{Contender, Files},
    count, fastapi, http,
    load::{Load, Target},
    pgbench::Pgbench,
    preload,
    processes::{Clock, peak_memory},
    redis_benchmark::RedisBenchmark,
    results::Sample,
    server::Server,
    traffic::Traffic,
    wrk::Wrk,
};

/// Load before the window, which is not measured: connections, caches and branch predictors settle.
const WARM_UP: Duration = Duration::from_secs(1);

/// Who uses no more CPU time than `IDLE` within `REST` is idle.
const REST: Duration = Duration::from_millis(200);
const IDLE: Duration = Duration::from_millis(10);

/// Longest time to wait for that.
const LONGEST_REST: Duration = Duration::from_secs(10);

/// Answering at least this part of a constant rate is to keep up: the last answers come after the
/// last request, and the time until then counts.
const KEPT_UP: f64 = 0.98;

/// How long requests are sent before a store is preloaded.
const FIRST_REQUESTS: Duration = Duration::from_millis(100);

const GREETING: &str = "Hello, World!";

/// What all windows have in common.
pub(crate) struct Measure<'a> {
    pub(crate) files: &'a Files,
    /// What keeps connections busy, where it is not this program.
    pub(crate) wrk: Option<&'a Wrk>,
    /// Whether each request has a connection of its own.
    pub(crate) reconnect: bool,
    pub(crate) clock: Clock,
    pub(crate) window: Duration,
    /// For what is needed only while measuring.
    pub(crate) dir: &'a Path,
}

/// One window.
#[derive(Clone, Copy)]
pub(crate) struct Window<'a> {
    pub(crate) contender: Contender,
    pub(crate) load: Load,
    pub(crate) connections: u32,
    pub(crate) store: Option<&'a Store>,
    /// Requests a second; without it, as many as are answered.
    pub(crate) rate: Option<f64>,
    /// No other window has it.
    pub(crate) number: u32,
}

/// What it came to.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) sample: Sample,
    /// What was not as it should be.
    pub(crate) notes: Vec<String>,
}

/// CPU time of a server and of its store.
struct Used {
    server: Option<Duration>,
    store: Option<Duration>,
}

impl Measure<'_> {
    /// Puts records of requests with an `Idempotency-Key` into a store: a server has made its tables
    /// by then, and answered such requests itself.
    ///
    /// # Errors
    /// When the server does not start, or the store does not take the records.
    pub(crate) async fn preload(
        &self,
        contender: Contender,
        store: &Store,
        records: u64,
    ) -> Result<()> {
        let load = Load::IncrementKeyed;
        let server = Server::start(self.files, contender, load, Some(store), self.dir).await?;
        let (address, target) = (server.address(), load.target(0));
        let requests = Requests::new(address, &target, false);
        let first = move || closed_loop::run(address, requests, 1, FIRST_REQUESTS);
        if let Some(failure) =
            tokio::task::spawn_blocking(first).await??.failures("preloading").first()
        {
            bail!("{failure}");
        }
        server.end().await?;
        match store {
            Store::Memory => bail!("records of requests cannot be put into memory"),
            Store::Sqlite(path) => {
                preload::sqlite(path, records)?;
                // What Tally makes of them when it sweeps, it does before the windows.
                let server = Server::start(self.files, contender, load, Some(store), self.dir);
                let server = server.await?;
                preload::filters(path).await?;
                server.end().await
            }
            Store::Redis(redis) => preload::redis(&redis.url(), records).await,
            Store::Postgres(postgres) => preload::postgres(&postgres.url(), records).await,
        }
    }

    /// Measures whichever contender it is.
    pub(crate) async fn window(&self, window: Window<'_>) -> Result<Outcome> {
        match (window.contender, window.store) {
            (Contender::Pgbench, Some(Store::Postgres(postgres))) => {
                let (load, clients) = (window.load, window.connections);
                let pgbench = Pgbench::prepare(postgres, load, clients, self.dir).await?;
                let warm_up = pgbench.run(WARM_UP).await?;
                let before = self.used(None, window.store)?;
                let traffic = pgbench.run(self.window).await?;
                let used = self.used(None, window.store)?.since(&before);
                let mut outcome = Outcome::new(&traffic, &used);
                outcome.check(pgbench.total().await?, &[&warm_up, &traffic]);
                Ok(outcome)
            }
            (Contender::RedisBenchmark, Some(Store::Redis(redis))) => {
                let (load, clients) = (window.load, window.connections);
                let benchmark = RedisBenchmark::new(redis, load, clients, window.number);
                let warm_up = benchmark.warm_up().await?;
                let before = self.used(None, window.store)?;
                let traffic = benchmark.run_about(self.window, &warm_up).await?;
                let used = self.used(None, window.store)?.since(&before);
                let mut outcome = Outcome::new(&traffic, &used);
                outcome.check(benchmark.total().await?, &[&warm_up, &traffic]);
                Ok(outcome)
            }
            _ => self.server(window).await,
        }
    }

    /// Starts a server, puts load on it, and ends it.
    async fn server(&self, window: Window<'_>) -> Result<Outcome> {
        let Window { contender, load, store, .. } = window;
        if let (Contender::Fastapi, Some(Store::Postgres(postgres))) = (contender, store) {
            fastapi::prepare(postgres).await?;
        }
        let mut server = Server::start(self.files, contender, load, store, self.dir).await?;
        let (address, target) = (server.address(), load.target(window.number));
        if load == Load::Hello {
            greeted(&server).await?;
        } else {
            count::reset(address, &target).await?;
        }

        let warm_up = self.traffic(window, &server, &target, WARM_UP).await?;
        self.settle(&server, store).await?;
        let before = self.used(Some(&server), store)?;
        let traffic = self.traffic(window, &server, &target, self.window).await?;
        let used = self.used(Some(&server), store)?.since(&before);
        server.still_runs()?;

        let mut outcome = Outcome::new(&traffic, &used);
        #[expect(clippy::cast_precision_loss, reason = "far below 2^53")]
        let memory = peak_memory(server.id())? as f64;
        outcome.sample.memory = Some(memory);
        outcome.notes.extend(warm_up.failures("warming up"));
        outcome.notes.extend(traffic.failures("measuring"));
        outcome.notes.extend(window.rate.and_then(|rate| behind(rate, &traffic)));
        if load.counts() {
            outcome.check(count::total(address, &target).await?, &[&warm_up, &traffic]);
        } else if load == Load::Hello {
            greeted(&server).await?;
        }
        server.end().await?;
        Ok(outcome)
    }

    async fn traffic(
        &self,
        window: Window<'_>,
        server: &Server,
        target: &Target,
        duration: Duration,
    ) -> Result<Traffic> {
        let (address, connections) = (server.address(), window.connections);
        if let (Some(wrk), None) = (self.wrk, window.rate) {
            return wrk.run(address, target, connections, duration).await;
        }
        let (requests, rate) = (Requests::new(address, target, self.reconnect), window.rate);
        let load = move || match rate {
            Some(rate) => {
                open_loop::run(address, requests, open_loop::Pace { rate, duration, connections })
            }
            None => closed_loop::run(address, requests, connections, duration),
        };
        tokio::task::spawn_blocking(load).await?
    }

    /// Waits until a server and its store rest: a slow one still works on requests whose answers
    /// nobody waits for any more, and the window's would stand in line behind them.
    async fn settle(&self, server: &Server, store: Option<&Store>) -> Result<()> {
        let started = Instant::now();
        while started.elapsed() < LONGEST_REST {
            let before = self.used(Some(server), store)?;
            sleep(REST).await;
            let used = self.used(Some(server), store)?.since(&before);
            if used.server.max(used.store).unwrap_or_default() <= IDLE {
                break;
            }
        }
        Ok(())
    }

    fn used(&self, server: Option<&Server>, store: Option<&Store>) -> Result<Used> {
        let used = |id| self.clock.used(id);
        let store = store.and_then(Store::process_id);
        Ok(Used {
            server: server.map(|server| used(server.id())).transpose()?,
            store: store.map(used).transpose()?,
        })
    }
}

impl Used {
    fn since(&self, before: &Self) -> Self {
        let since = |after: Option<Duration>, before: Option<Duration>| {
            after.zip(before).map(|(after, before)| after.saturating_sub(before))
        };
        Self { server: since(self.server, before.server), store: since(self.store, before.store) }
    }
}

impl Outcome {
    fn new(traffic: &Traffic, used: &Used) -> Self {
        let sample = Sample {
            rate: Some(traffic.rate()),
            p50: Some(traffic.p50.as_secs_f64()),
            p99: Some(traffic.p99.as_secs_f64()),
            p999: traffic.p999.map(|latency| latency.as_secs_f64()),
            slowest: traffic.slowest.map(|latency| latency.as_secs_f64()),
            cpu: used.server.and_then(|cpu| traffic.per_request(cpu)),
            store_cpu: used.store.and_then(|cpu| traffic.per_request(cpu)),
            ..Sample::default()
        };
        Self { sample, notes: Vec::new() }
    }

    fn check(&mut self, count: u64, loads: &[&Traffic]) {
        let wrong = count::miscounts(count, loads);
        self.sample.exact = Some(wrong.is_empty());
        self.notes.extend(wrong);
    }
}

/// That a load at a constant rate was not answered at that rate.
fn behind(rate: f64, traffic: &Traffic) -> Option<String> {
    let answered = traffic.rate();
    (answered < rate * KEPT_UP).then(|| {
        format!(
            "{answered:.0} of {rate:.0} requests a second: the server or the one thread of the load generator fell behind"
        )
    })
}

/// Checks that a server answers as all of them must. What follows the type, such as a charset, is
/// its own affair.
async fn greeted(server: &Server) -> Result<()> {
    let answer = http::request(server.address(), Method::GET, "/hello").await?;
    let content_type = answer.headers().get(CONTENT_TYPE).context("GET /hello has no type")?;
    if answer.status() != StatusCode::OK
        || !content_type.as_bytes().starts_with(b"text/plain")
        || answer.body() != GREETING
    {
        bail!("GET /hello answered {answer:?}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_load_that_falls_behind_its_rate_is_said() {
        let duration = Duration::from_secs(1);
        let traffic = Traffic { requests: 990, duration, ..Traffic::default() };
        assert_eq!(behind(1000.0, &traffic), None);
        assert!(behind(1100.0, &traffic).is_some());
    }
}
