//! Measures `POST /increment` on each backend: Tally, and the same route in plain hyper without
//! WebAssembly. Prints a table, and passes no judgement.
//!
//! Layout: `measure` runs one server under load and `load` drives it with wrk; `server`, `backend`
//! and `program` start and end processes; `processor` reads their CPU time; `pgbench` measures
//! PostgreSQL itself; `report` makes the table.

#![forbid(unsafe_code)]
#![cfg_attr(
    test,
    allow(clippy::unwrap_used, reason = "a test that fails should stop where it fails")
)]

mod backend;
mod http;
mod load;
mod measure;
mod peer;
mod pgbench;
mod processor;
mod program;
mod report;
mod server;

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};

use crate::{
    backend::{Backend, Store},
    load::Wrk,
    measure::Measure,
    processor::Clock,
    report::Report,
    server::{Kind, Programs},
};

/// Measures requests per second and CPU per request of POST /increment on each backend, beside the
/// same route in plain hyper without WebAssembly.
#[derive(Parser)]
struct Options {
    /// Tally's executable.
    #[arg(long, default_value = "target/release/tally")]
    tally: PathBuf,
    /// The guest that Tally serves.
    #[arg(long, default_value = "guest/target/wasm32-wasip2/release/counter.wasm")]
    guest: PathBuf,
    /// The plain-hyper executable. Without this, the one beside tally-bench; under `cargo run` it
    /// is built first.
    #[arg(long)]
    peer: Option<PathBuf>,
    /// Connections that wrk keeps busy.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..))]
    connections: u32,
    /// Length of each measured window.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    seconds: u32,
    /// Backends to measure, separated by commas.
    #[arg(long, value_delimiter = ',', default_value = "memory,sqlite,redis,postgres")]
    backends: Vec<Backend>,
    /// Windows for each server on each backend, of which the table shows the medians.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Measure one of the two servers only.
    #[arg(long)]
    only: Option<Kind>,
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
    print!("{}", report.table());
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
    let kinds = match options.only {
        Some(only) => vec![only],
        None => vec![Kind::Plain, Kind::Tally],
    };
    let programs = Programs {
        plain: match &options.peer {
            Some(peer) => peer.clone(),
            None if kinds.contains(&Kind::Plain) => peer::build().await?,
            None => PathBuf::new(),
        },
        tally: options.tally.clone(),
        guest: options.guest.clone(),
    };
    for kind in &kinds {
        programs.check(*kind)?;
    }
    let dir = tempfile::tempdir().context("cannot make a folder for the stores")?;
    let wrk = Wrk::find(dir.path(), options.connections).await?;
    report.describe(surroundings(dir.path(), &wrk, options).await);
    let measure = Measure {
        programs: &programs,
        wrk: &wrk,
        clock: Clock::new().await?,
        window: Duration::from_secs(options.seconds.into()),
    };
    for backend in &options.backends {
        let store = Store::start(*backend, dir.path())?;
        for round in 0..options.rounds {
            // The order alternates too, so that neither always goes first.
            let mut order = kinds.clone();
            if round % 2 == 1 {
                order.reverse();
            }
            for kind in order {
                measure.server(kind, &store, dir.path(), report).await?;
            }
            if let Store::Postgres(postgres) = &store {
                measure.pgbench(postgres, dir.path(), report).await?;
            }
        }
    }
    Ok(())
}

/// What the numbers depend on, for the line above the table. What cannot be found out is left out.
async fn surroundings(dir: &Path, wrk: &Wrk, options: &Options) -> String {
    let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    let mut parts = vec![format!("{cores} cores for server, store and load together")];
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info.lines().find(|line| line.starts_with("model name"));
    parts.extend(model.and_then(|line| Some(line.split_once(": ")?.1.to_owned())));
    let mut system = program::command("stat");
    system.args(["--file-system", "--format=%T"]).arg(dir);
    if let Ok(system) = program::output(system, "").await {
        parts.push(format!("stores on {}", system.trim()));
    }
    parts.push(wrk.describe(options.seconds));
    parts.push(match options.rounds {
        1 => "1 round".into(),
        rounds => format!("medians of {rounds} rounds"),
    });
    if cfg!(debug_assertions) {
        parts.push("plain hyper is a DEBUG build".into());
    }
    parts.join("; ")
}
