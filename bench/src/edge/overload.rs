//! What becomes of a host that is asked for more than it can do: good answers a second at one, two and four times
//! what it can, and how long refusals take.

use std::{path::Path, time::Duration};

use anyhow::Result;

use super::{
    busy, milliseconds,
    plot::{Plot, Point},
    request, start,
};
use crate::{
    client::{
        Requests,
        open_loop::{self, Pace},
    },
    contender::Files,
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

/// How much is asked for, against what the host can do.
const OFFERED: [f64; 6] = [0.5, 0.9, 1.0, 1.5, 2.0, 4.0];

/// Runs the measurement and prints its tables; gives the plots with their names.
pub(super) async fn run(
    files: &Files,
    dir: &Path,
    window: Duration,
) -> Result<Vec<(&'static str, String)>> {
    println!(
        "\n| load | offered/s | good/s | of peak | good p99 ms | refused/s | refusal p99 ms | CPU µs/request |\n\
        |---|--:|--:|--:|--:|--:|--:|--:|"
    );
    let clock = Clock::new().await?;
    let mut plots = Vec::new();
    let server = start(files, dir, "").await?;
    let rounds = rounds(&server).await?;
    let path = format!("/spin?{rounds}");
    let asks = request("probe", &path);
    let plot = offered(&server, &clock, "computes 6 ms", &asks, window).await?;
    plots.push(("overload-computes.svg", plot.svg()));
    server.end().await?;
    let server = start(files, dir, "pool = 10\n").await?;
    let asks = request("http", "/sleep?10");
    let plot = offered(&server, &clock, "waits 10 ms, pool of 10", &asks, window).await?;
    plots.push(("overload-pool.svg", plot.svg()));
    server.end().await?;
    let server = start(files, dir, "").await?;
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
    server.end().await?;
    Ok(plots)
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

/// Measures a request at several times the rate that the host can do.
async fn offered(
    server: &Server,
    clock: &Clock,
    name: &'static str,
    request: &str,
    window: Duration,
) -> Result<Plot> {
    busy(server, request.to_owned(), PEAK_CONNECTIONS, WARM_UP).await?;
    let before = clock.used(server.id())?;
    let traffic = busy(server, request.to_owned(), PEAK_CONNECTIONS, window).await?;
    let can = rate(traffic.acknowledged(), &traffic);
    let mut windows =
        vec![(name.to_owned(), traffic.rate(), traffic, clock.used(server.id())? - before)];
    for times in OFFERED {
        let before = clock.used(server.id())?;
        let (address, requests) = (server.address(), Requests::of(vec![request.to_owned()]));
        let pace = Pace { rate: can * times, duration: window, connections: CONNECTIONS };
        let run = move || open_loop::run(address, requests, pace);
        let traffic = tokio::task::spawn_blocking(run).await??;
        let name = format!("… {times} × that, at a constant rate");
        windows.push((name, pace.rate, traffic, clock.used(server.id())? - before));
    }
    // The most that it did is what it can, wherever that was.
    let good = |traffic: &Traffic| rate(traffic.acknowledged(), traffic);
    let peak = windows.iter().map(|(_, _, traffic, _)| good(traffic)).fold(0.0, f64::max);
    let mut points = Vec::new();
    for (name, offered, traffic, cpu) in &windows {
        row(name, *offered, peak, traffic, *cpu);
        let refusal = traffic.refusal_p99.map(|time| time.as_secs_f64() * 1e3);
        points.push(Point { offered: offered / peak, good: good(traffic) / peak, refusal });
    }
    points.remove(0);
    Ok(Plot { title: name, points })
}

#[expect(clippy::cast_precision_loss, reason = "far below 2^53")]
fn rate(count: u64, traffic: &Traffic) -> f64 {
    count as f64 / traffic.duration.as_secs_f64()
}

fn row(name: &str, offered: f64, peak: f64, traffic: &Traffic, cpu: Duration) {
    let good = rate(traffic.acknowledged(), traffic);
    println!(
        "| {name} | {offered:.0} | {good:.0} | {:.2} | {} | {:.0} | {} | {:.1} |",
        good / peak,
        milliseconds(traffic.p99),
        rate(traffic.refused, traffic),
        traffic.refusal_p99.map_or_else(|| "–".into(), milliseconds),
        traffic.per_request(cpu).unwrap_or_default() * 1e6,
    );
}
