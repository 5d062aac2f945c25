//! Measures Tally beside its peers, and prints tables: `POST /increment` on each backend, beside
//! plain hyper without WebAssembly; and a standard handler that says hello, beside `wasmtime serve`
//! as well. Passes no judgement.
//!
//! Layout: `increment` and `hello` are the suites; `measure` runs one server under load and `load`
//! drives it with wrk; `programs` and `wasmtime` know how servers are called; `server`, `backend`,
//! `peer` and `program` start and end processes; `processor` reads their CPU time; `pgbench`
//! measures PostgreSQL itself; `surroundings`, `table` and `report` make what is printed.

#![forbid(unsafe_code)]
#![cfg_attr(
    test,
    allow(clippy::unwrap_used, reason = "a test that fails should stop where it fails")
)]

mod backend;
mod hello;
mod http;
mod increment;
mod load;
mod measure;
mod peer;
mod pgbench;
mod processor;
mod program;
mod programs;
mod report;
mod server;
mod surroundings;
mod table;
mod wasmtime;

use std::{path::PathBuf, time::Duration};

use anyhow::{Context as _, Result, bail};
use clap::{Parser, ValueEnum};
use tokio::signal::unix::{SignalKind, signal};

use crate::{
    backend::Backend,
    load::Wrk,
    measure::Measure,
    processor::Clock,
    programs::{Kind, Programs},
    report::Report,
};

/// Measures requests per second and CPU per request: of POST /increment on each backend, beside the
/// same route in plain hyper without WebAssembly; and of a standard handler that says hello, beside
/// `wasmtime serve`.
#[derive(Parser)]
struct Options {
    /// What to measure, separated by commas.
    #[arg(long, value_delimiter = ',', default_value = "increment,hello")]
    suite: Vec<Suite>,
    /// Tally's executable.
    #[arg(long, default_value = "target/release/tally")]
    tally: PathBuf,
    /// The plugin that Tally serves, for the suite `increment`.
    #[arg(long, default_value = "guest/target/wasm32-wasip2/release/counter.wasm")]
    guest: PathBuf,
    /// The standard handler that Tally and wasmtime serve, for the suite `hello`.
    #[arg(long, default_value = "guest/target/wasm32-wasip2/release/hello.wasm")]
    hello: PathBuf,
    /// The plain-hyper executable. Without this, the one beside tally-bench; under `cargo run` it
    /// is built first.
    #[arg(long)]
    peer: Option<PathBuf>,
    /// The wasmtime executable; without it, its rows are left out.
    #[arg(long, default_value = "wasmtime")]
    wasmtime: PathBuf,
    /// Connections that wrk keeps busy.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..))]
    connections: u32,
    /// Length of each measured window.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    seconds: u32,
    /// Backends to measure the suite `increment` on, separated by commas.
    #[arg(long, value_delimiter = ',', default_value = "memory,sqlite,redis,postgres")]
    backends: Vec<Backend>,
    /// Windows for each server, and on each backend, of which the tables show the medians.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Measure these servers only, separated by commas.
    #[arg(long, value_delimiter = ',')]
    only: Vec<Kind>,
}

/// What can be measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Suite {
    /// POST /increment on each backend
    Increment,
    /// GET /hello through wasi:http
    Hello,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let options = Options::parse();
    let mut report = Report::default();
    // Whichever way this ends, dropping the future ends the processes that it started.
    let result = tokio::select! {
        biased;
        signal = ended_by_signal() => signal,
        result = bench(&options, &mut report) => result,
    };
    print!("{}", report.text());
    result
}

async fn ended_by_signal() -> Result<()> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        _ = interrupt.recv() => bail!("interrupted"),
        _ = terminate.recv() => bail!("terminated"),
    }
}

async fn bench(options: &Options, report: &mut Report) -> Result<()> {
    if cfg!(debug_assertions) {
        eprintln!("tally-bench is a debug build, and so is the peer: use cargo run --release");
    }
    let increment = options.servers(Suite::Increment, &increment::KINDS);
    let mut hello = options.servers(Suite::Hello, &hello::KINDS);
    let wants = |kind| increment.contains(&kind) || hello.contains(&kind);
    let programs = Programs {
        plain: match &options.peer {
            Some(peer) => peer.clone(),
            None if wants(Kind::Plain) => peer::build().await?,
            None => PathBuf::new(),
        },
        tally: options.tally.clone(),
        wasmtime: options.wasmtime.clone(),
    };
    for (kinds, guest) in [(&increment, &options.guest), (&hello, &options.hello)] {
        for kind in kinds {
            programs.check(*kind, guest)?;
        }
    }
    let dir = tempfile::tempdir().context("cannot make a folder for the stores")?;
    let wrk = Wrk::find(dir.path(), options.connections).await?;
    let mut surroundings =
        surroundings::describe(dir.path(), &wrk, options.seconds, options.rounds).await;
    if hello.iter().any(|kind| kind.is_wasmtime()) {
        match wasmtime::version(&options.wasmtime).await {
            Ok(version) => surroundings = format!("{surroundings}; {version}"),
            Err(error) => {
                report.note(format!("`wasmtime serve` is left out: {error:#}"));
                hello.retain(|kind| !kind.is_wasmtime());
            }
        }
    }
    report.describe(surroundings);

    let measure = Measure {
        programs: &programs,
        wrk: &wrk,
        clock: Clock::new().await?,
        window: Duration::from_secs(options.seconds.into()),
        rounds: options.rounds,
        dir: dir.path(),
    };
    if !increment.is_empty() {
        increment::run(&measure, &increment, &options.backends, &options.guest, report).await?;
    }
    hello::run(&measure, &hello, &options.hello, report).await
}

impl Options {
    /// The servers to measure in a suite, of those that it knows.
    fn servers(&self, suite: Suite, known: &[Kind]) -> Vec<Kind> {
        let wanted = |kind: &Kind| self.only.is_empty() || self.only.contains(kind);
        match self.suite.contains(&suite) {
            true => known.iter().copied().filter(wanted).collect(),
            false => Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(flags: &[&str]) -> Options {
        Options::try_parse_from([&["tally-bench"], flags].concat()).unwrap()
    }

    #[test]
    fn a_suite_measures_the_servers_that_it_knows_and_that_were_asked_for() {
        let all = options(&[]);
        assert_eq!(all.servers(Suite::Increment, &increment::KINDS), increment::KINDS);
        assert_eq!(all.servers(Suite::Hello, &hello::KINDS), hello::KINDS);
        let some = options(&["--suite", "hello", "--only", "wasmtime,tally"]);
        assert_eq!(some.servers(Suite::Increment, &increment::KINDS), []);
        assert_eq!(some.servers(Suite::Hello, &hello::KINDS), [Kind::Tally, Kind::Wasmtime]);
    }
}
