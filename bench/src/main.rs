//! Measures Tally beside its peers under the same loads, prints tables, and writes the same as JSON
//! and as a picture. Passes no judgement, but checks that all counted exactly.
//!
//! Layout: `rounds` goes through all windows, and `measure` makes one; `contender` knows who is
//! measured and how they are called, with `fastapi`, `wasmtime`, `pgbench` and `redis_benchmark`;
//! `scale`, `density`, `neighbours`, `edge` and `soak` measure otherwise, each by itself;
//! `load` is what is asked for, `client` or `wrk` asks, and `traffic` and `quantiles` are what
//! that comes to; `count` checks counts; `preload` fills a store before; `server`, `backend` and `program` start and end processes,
//! and `processes` reads their CPU time and memory; `results`, `surroundings`, `table`, `json` and
//! `picture` make what is shown.

#![forbid(unsafe_code)]
#![cfg_attr(
    test,
    allow(
        clippy::unwrap_used,
        clippy::indexing_slicing,
        clippy::float_cmp,
        reason = "a test that fails should stop where it fails"
    )
)]

mod backend;
mod client;
mod contender;
mod count;
mod density;
mod edge;
mod fastapi;
mod http;
mod json;
mod load;
mod measure;
mod neighbours;
mod options;

mod pgbench;
mod picture;
mod preload;
mod processes;
mod program;
mod quantiles;
mod random;
mod redis_benchmark;
mod results;
mod rounds;
mod scale;
mod server;
mod soak;
mod surroundings;
mod table;
mod traffic;
mod wasmtime;
mod wrk;

use std::{fs, time::Duration};

use anyhow::{Context as _, Result, bail};
use clap::Parser as _;
use rustix::process::{Resource, getrlimit, setrlimit};
use tokio::signal::unix::{SignalKind, signal};

use crate::{
    measure::Measure,
    options::{Command, Options},
    processes::Clock,
    results::Results,
    rounds::Rounds,
    wrk::Wrk,
};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let options = Options::parse();
    // Connections are files, here and in the servers that are started; many shells allow few.
    let mut files = getrlimit(Resource::Nofile);
    files.current = files.maximum;
    setrlimit(Resource::Nofile, files)?;
    if let Some(command) = &options.command {
        let files = options.files()?;
        let run = async {
            match command {
                Command::Scale(scale) => scale::run(&files, scale).await,
                Command::Density(density) => density::run(&files, density).await,
                Command::Neighbours(neighbours) => neighbours::run(&files, neighbours).await,
                Command::Edge(edge) => edge::run(&files, edge).await,
                Command::Soak(soak) => soak::run(&files, soak).await,
            }
        };
        return tokio::select! {
            biased;
            signal = ended_by_signal() => signal,
            result = run => result,
        };
    }
    let mut results = Results::new(options.base);
    // Whichever way this ends, dropping the future ends the processes that it started.
    let result = tokio::select! {
        biased;
        signal = ended_by_signal() => signal,
        result = bench(&options, &mut results) => result,
    };
    if !results.rows.is_empty() {
        print!("{}", table::text(&results));
        write(&options, &results)?;
    }
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

async fn bench(options: &Options, results: &mut Results) -> Result<()> {
    let files = options.files()?;
    let dir = tempfile::tempdir().context("cannot make a folder for the stores")?;
    let wrk = if options.wrk { Some(Wrk::find(dir.path()).await?) } else { None };
    results.surroundings = surroundings::describe(dir.path(), options, &files).await;
    let measure = Measure {
        files: &files,
        wrk: wrk.as_ref(),
        reconnect: options.reconnect,
        clock: Clock::new().await?,
        window: Duration::from_secs(options.seconds.into()),
        dir: dir.path(),
    };
    Rounds { measure, options, results, windows: 0 }.run().await
}

fn write(options: &Options, results: &Results) -> Result<()> {
    let (json, svg) = (options.out.join("results.json"), options.out.join("comparison.svg"));
    let written = fs::create_dir_all(&options.out)
        .and_then(|()| fs::write(&json, format!("{:#}\n", json::value(results))))
        .and_then(|()| fs::write(&svg, picture::svg(results)));
    written.with_context(|| format!("cannot write to {}", options.out.display()))?;
    eprintln!("written: {} and {}", json.display(), svg.display());
    Ok(())
}
