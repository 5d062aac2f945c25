//! What becomes of a host that is asked for more than it can do: good answers a second at one, two and four times
//! what it can, and how long refusals take.

use std::{fmt::Write as _, fs, path::Path, time::Duration};

use anyhow::{Context as _, Result, bail};
use clap::Args;

use crate::{
    client::{
        Requests, closed_loop,
        open_loop::{self, Pace},
    },
    contender::{Contender, Files},
    processes::Clock,
    server::Server,
    traffic::Traffic,
};

/// Connections of a load at a constant rate. As many requests may be under way.
const CONNECTIONS: u32 = 2_000;

/// Connections that find out what the host can do.
const PEAK_CONNECTIONS: u32 = 12;

/// Connections of the counter that are kept busy, at its peak and beyond.
const COUNTER: [u32; 3] = [64, 1_000, 8_000];

/// What the guest that computes is to take for a request.
const COMPUTES: Duration = Duration::from_millis(6);

/// Rounds of its loop in the first try.
const FIRST_ROUNDS: u64 = 1_000_000;

/// Load before each window that is not measured.
const WARM_UP: Duration = Duration::from_secs(1);

/// The options of `overload`.
#[derive(Args)]
pub(crate) struct OverloadOptions {
    /// Length of each window.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=3600))]
    seconds: u32,
}

/// Runs the measurement and prints its tables.
pub(crate) async fn run(files: &Files, options: &OverloadOptions) -> Result<()> {
    let dir = tempfile::tempdir().context("cannot make a folder for the configuration")?;
    let window = Duration::from_secs(options.seconds.into());
    println!(
        "| load | offered/s | good/s | of peak | good p99 ms | refused/s | refusal p99 ms | CPU µs/request |\n\
        |---|--:|--:|--:|--:|--:|--:|--:|"
    );
    let clock = Clock::new().await?;
    let server = start(files, dir.path(), "").await?;
    let rounds = rounds(&server).await?;
    let path = format!("/spin?{rounds}");
    offered(&server, &clock, "computes 6 ms", &request("probe", &path), window).await?;
    server.end().await?;
    let server = start(files, dir.path(), "pool = 10\n").await?;
    offered(&server, &clock, "waits 10 ms, pool of 10", &request("http", "/sleep?10"), window)
        .await?;
    server.end().await?;
    let server = start(files, dir.path(), "").await?;
    let mut peak = None;
    for connections in COUNTER {
        let before = clock.used(server.id())?;
        let increment = request("counter", "/increment");
        let traffic = busy(&server, increment, connections, window).await?;
        let good = rate(traffic.acknowledged(), &traffic);
        let peak = *peak.get_or_insert(good);
        let name = format!("counter, {connections} busy connections");
        row(&name, traffic.rate(), peak, &traffic, clock.used(server.id())? - before);
    }
    server.end().await
}

fn request(host: &str, path: &str) -> String {
    let method = if path == "/increment" { "POST" } else { "GET" };
    format!("{method} {path} HTTP/1.1\r\nhost: {host}.test\r\n\r\n")
}

async fn start(files: &Files, dir: &Path, more: &str) -> Result<Server> {
    let mut toml = String::from(more);
    for (name, guest) in [("counter", "counter"), ("probe", "probe"), ("http", "probe_http")] {
        let file = files.built(guest);
        if !file.is_file() {
            bail!("{} is not there; get it with ./just build-test-guests", file.display());
        }
        let _ = write!(
            toml,
            "[[route]]\nname = \"{name}\"\nhost = \"{name}.test\"\nguest = {file:?}\n\n"
        );
    }
    let config = dir.join("tally.toml");
    fs::write(&config, toml)?;
    Server::start_by(Contender::Tally, dir, |address, admin| {
        let mut command = files.tally(Path::new(""), "memory:", &address.to_string(), admin);
        command.arg("--config").arg(&config);
        command
    })
    .await
}

/// Rounds of the loop that take as long as the guest is to.
async fn rounds(server: &Server) -> Result<u64> {
    let mut rounds = FIRST_ROUNDS;
    for _ in 0..3 {
        let path = format!("/spin?{rounds}");
        let traffic = busy(server, request("probe", &path), 1, Duration::from_secs(1)).await?;
        #[expect(clippy::cast_precision_loss, reason = "a number of rounds, about")]
        let next = rounds as f64 * COMPUTES.as_secs_f64() / traffic.p50.as_secs_f64();
        rounds = next as u64;
    }
    Ok(rounds)
}

async fn busy(
    server: &Server,
    request: String,
    connections: u32,
    window: Duration,
) -> Result<Traffic> {
    let address = server.address();
    let run = move || closed_loop::run(address, Requests::of(vec![request]), connections, window);
    tokio::task::spawn_blocking(run).await?
}

/// Measures a request at one, two and four times the rate that the host can do.
async fn offered(
    server: &Server,
    clock: &Clock,
    name: &str,
    request: &str,
    window: Duration,
) -> Result<()> {
    busy(server, request.to_owned(), PEAK_CONNECTIONS, WARM_UP).await?;
    let before = clock.used(server.id())?;
    let traffic = busy(server, request.to_owned(), PEAK_CONNECTIONS, window).await?;
    let peak = rate(traffic.acknowledged(), &traffic);
    row(name, traffic.rate(), peak, &traffic, clock.used(server.id())? - before);
    for times in [1.0, 2.0, 4.0] {
        let before = clock.used(server.id())?;
        let (address, requests) = (server.address(), Requests::of(vec![request.to_owned()]));
        let pace = Pace { rate: peak * times, duration: window, connections: CONNECTIONS };
        let run = move || open_loop::run(address, requests, pace);
        let traffic = tokio::task::spawn_blocking(run).await??;
        let name = format!("… {times} × that, at a constant rate");
        row(&name, pace.rate, peak, &traffic, clock.used(server.id())? - before);
    }
    Ok(())
}

#[expect(clippy::cast_precision_loss, reason = "far below 2^53")]
fn rate(count: u64, traffic: &Traffic) -> f64 {
    count as f64 / traffic.duration.as_secs_f64()
}

fn row(name: &str, offered: f64, peak: f64, traffic: &Traffic, cpu: Duration) {
    let good = rate(traffic.acknowledged(), traffic);
    let ms = |time: Duration| format!("{:.1}", time.as_secs_f64() * 1e3);
    println!(
        "| {name} | {offered:.0} | {good:.0} | {:.2} | {} | {:.0} | {} | {:.1} |",
        good / peak,
        ms(traffic.p99),
        rate(traffic.refused, traffic),
        traffic.refusal_p99.map_or_else(|| "–".into(), ms),
        traffic.per_request(cpu).unwrap_or_default() * 1e6,
    );
}
