//! The command line.

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use clap::{Parser, Subcommand};

use crate::{
    backend::Backend,
    contender::{Contender, Files},
    density::DensityOptions,
    edge::EdgeOptions,
    load::Load,
    neighbours::NeighboursOptions,
    scale::ScaleOptions,
    soak::SoakOptions,
};

/// Measures Tally beside its peers: requests per second, latency, CPU time per request and memory,
/// under the same load on the same machine in turn; and checks that all counted exactly.
#[derive(Parser)]
pub(crate) struct Options {
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
    /// What to ask for, separated by commas.
    #[arg(long, value_delimiter = ',', default_value = "hello,increment")]
    pub(crate) loads: Vec<Load>,
    /// Connections that are kept busy; several numbers are measured one after the other.
    #[arg(long, value_delimiter = ',', default_value = "64",
        value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) connections: Vec<u32>,
    /// Stores to count in, separated by commas.
    #[arg(long, value_delimiter = ',', default_value = "memory,sqlite,redis,postgres")]
    pub(crate) backends: Vec<Backend>,
    /// Who is measured, separated by commas, each where it has the route and the store.
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "plain,tally,tally-http,wasmtime,fastapi,pgbench,redis-benchmark"
    )]
    pub(crate) contenders: Vec<Contender>,
    /// What the others' figures are divided by.
    #[arg(long, default_value = "plain")]
    pub(crate) base: Contender,
    /// Windows of each, of which medians and spread are shown.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) rounds: u32,
    /// Length of each window.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=3600))]
    pub(crate) seconds: u32,
    /// Records of requests with an Idempotency-Key to put into each store before its windows; not
    /// into memory.
    #[arg(long, value_name = "N", default_value_t = 0,
        value_parser = clap::value_parser!(u64).range(..=1_000_000_000))]
    pub(crate) preload_keys: u64,
    /// Measure latency at constant rates as well: 50 % and 80 % of what each server can do.
    #[arg(long)]
    pub(crate) open_loop: bool,
    /// Make a connection for each request, rather than keep them.
    #[arg(long, conflicts_with_all = ["open_loop", "wrk"])]
    pub(crate) reconnect: bool,
    /// Have wrk keep connections busy rather than this program: it is woken for each answer, which
    /// takes the time of whoever shares the machine with it.
    #[arg(long)]
    pub(crate) wrk: bool,
    /// Folder for results.json and comparison.svg.
    #[arg(long, default_value = "target/bench")]
    pub(crate) out: PathBuf,
    /// Tally's executable.
    #[arg(long, default_value = "target/release/tally")]
    tally: PathBuf,
    /// An argument for `tally serve`; may be given several times.
    #[arg(long = "tally-arg", value_name = "ARG", allow_hyphen_values = true)]
    pub(crate) tally_args: Vec<String>,
    /// Folder of the guests, built.
    #[arg(long, default_value = "guest")]
    guests: PathBuf,
    /// Folder of the peers in other languages.
    #[arg(long, default_value = "bench/peers")]
    peers: PathBuf,
    /// The wasmtime executable.
    #[arg(long, default_value = "wasmtime")]
    wasmtime: PathBuf,
}

/// Another way to measure.
#[derive(Subcommand)]
pub(crate) enum Command {
    /// How the cost of a request grows with what there is of everything
    Scale(ScaleOptions),
    /// How many guests fit, and how long the first request to one takes
    Density(DensityOptions),
    /// What a guest feels of its neighbours, and how they share the machine
    Neighbours(NeighboursOptions),
    /// The edge under load: overload, idle connections, newcomers, slow clients
    Edge(EdgeOptions),
    /// Whether a host grows under mixed load: fails where memory, open files or threads climb
    Soak(SoakOptions),
}

impl Options {
    /// Where contenders are.
    pub(crate) fn files(&self) -> Result<Files> {
        let this = std::env::current_exe()?;
        Ok(Files {
            tally: self.tally.clone(),
            tally_args: self.tally_args.clone(),
            plain: this.parent().context("the executable is in no folder")?.join("plain-hyper"),
            wasmtime: self.wasmtime.clone(),
            guests: self.guests.clone(),
            peers: self.peers.clone(),
        })
    }
}
