//! Whether a host grows: mixed load on one for minutes, in which its memory, open files and threads must not
//! climb.
//!
//! The load has what a host sees in months: requests with and without an `Idempotency-Key`, clients that
//! come and go, that send and read slowly, and that leave in the middle; guests that trap and compute for
//! too long; deploys; and connections to the store that are cut.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpStream},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use clap::Args;
use tally_testkit::{Proxy, Redis};

use crate::{
    contender::{Contender, Files},
    density::with_number,
    server::Server,
};

/// The options of `soak`.
#[derive(Args)]
pub(crate) struct SoakOptions {
    /// How long the load goes on.
    #[arg(default_value_t = 15, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    minutes: u32,
}

/// How often the host is looked at.
const LOOK: Duration = Duration::from_secs(1);

/// The first part of the time is not judged: pools and caches fill up.
const WARM_UP_PART: usize = 3;

/// How long is waited for whatever a client waits for.
const PATIENCE: Duration = Duration::from_secs(30);

/// What is watched, and how much of it may come in an hour, beside a part of what there was: noise of a
/// short run is more than that of a long one.
const WATCHED: [Watched; 3] = [
    Watched { name: "resident KiB", an_hour: 64.0 * 1024.0, part: 0.10 },
    Watched { name: "open files", an_hour: 60.0, part: 0.10 },
    Watched { name: "threads", an_hour: 6.0, part: 0.10 },
];

struct Watched {
    name: &'static str,
    an_hour: f64,
    /// Growth over the time that is judged of up to this part is no slope.
    part: f64,
}

/// Runs the load, prints what was seen, and fails where something climbs.
pub(crate) async fn run(files: &Files, options: &SoakOptions) -> Result<()> {
    let redis = Redis::start()?;
    let proxy = Arc::new(Proxy::start(redis.port())?);
    let dir = tempfile::tempdir().context("cannot make a folder for the configuration")?;
    let config = dir.path().join("tally.toml");
    let toml = format!(
        "queue-timeout = \"5s\"\nbody-timeout = \"5s\"\nhead-timeout = \"5s\"\n\n\
        [[route]]\nname = \"counter\"\nhost = \"counter.test\"\nguest = {:?}\n\n\
        [[route]]\nname = \"probe\"\nhost = \"probe.test\"\nguest = {:?}\n",
        files.built("counter"),
        files.built("probe_http"),
    );
    fs::write(&config, toml)?;
    let store = format!("redis://127.0.0.1:{}", proxy.port());
    let mut server = Server::start_by(Contender::Tally, dir.path(), |address, admin| {
        let mut command = files.tally(Path::new(""), &store, &address.to_string(), admin);
        command.arg("--config").arg(&config);
        command
    })
    .await?;
    let deploys = Deploys {
        files: files.clone(),
        admin: server.admin(),
        component: fs::read(files.built("counter"))
            .context("the counter is missing: get it with ./just build-guest")?,
        path: dir.path().join("deployed.wasm"),
    };
    let load = Load::start(server.address(), deploys, proxy);
    let until = Instant::now() + Duration::from_secs(u64::from(options.minutes) * 60);
    let mut samples: Vec<[f64; 3]> = Vec::new();
    while Instant::now() < until {
        tokio::time::sleep(LOOK).await;
        server.still_runs()?;
        samples.push(look(server.id())?);
    }
    let counts = load.stop();
    println!("{counts}");
    server.still_runs()?;
    let judged = counts.are_of_all_kinds().and(judge(&samples));
    server.end().await?;
    judged
}

/// Prints a line for each thing that is watched. Fails where one climbs.
fn judge(samples: &[[f64; 3]]) -> Result<()> {
    let judged = samples.get(samples.len() / WARM_UP_PART..).unwrap_or_default();
    println!("\n| | first | last | slope an hour | |\n|--|--:|--:|--:|--|");
    let mut climbing = Vec::new();
    for (place, watched) in WATCHED.iter().enumerate() {
        let values: Vec<f64> = judged.iter().filter_map(|one| one.get(place).copied()).collect();
        let (first, last) = (mean(&values, true), mean(&values, false));
        let slope = slope(&values);
        let grown = slope * values.len() as f64;
        let an_hour = slope * 3600.0 / LOOK.as_secs_f64();
        let climbs = an_hour > watched.an_hour && grown > watched.part * first;
        let says = if climbs { "CLIMBS" } else { "" };
        println!("| {} | {first:.0} | {last:.0} | {an_hour:+.0} | {says} |", watched.name);
        if climbs {
            climbing.push(watched.name);
        }
    }
    match climbing.is_empty() {
        true => Ok(()),
        false => bail!("the host grows: {}", climbing.join(", ")),
    }
}

/// The mean of the first or last tenth.
fn mean(values: &[f64], first: bool) -> f64 {
    let count = values.len().div_ceil(10).max(1);
    let part: Vec<f64> = match first {
        true => values.iter().take(count).copied().collect(),
        false => values.iter().rev().take(count).copied().collect(),
    };
    part.iter().sum::<f64>() / part.len().max(1) as f64
}

/// The median of the slopes between all pairs (Theil and Sen), for one step: bursts do not move it.
fn slope(values: &[f64]) -> f64 {
    // Thousands of samples would make millions of pairs.
    let step = values.len().div_ceil(400).max(1);
    let points: Vec<(usize, f64)> = values.iter().copied().enumerate().step_by(step).collect();
    let mut slopes = Vec::new();
    for (place, (x, y)) in points.iter().enumerate() {
        let later = points.iter().skip(place + 1);
        slopes.extend(later.map(|(later, value)| (value - y) / (later - x) as f64));
    }
    slopes.sort_unstable_by(f64::total_cmp);
    slopes.get(slopes.len() / 2).copied().unwrap_or_default()
}

/// What is watched of a process.
fn look(process: u32) -> Result<[f64; 3]> {
    let status = fs::read_to_string(format!("/proc/{process}/status"))?;
    let number = |name| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let number = line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok());
        number.with_context(|| format!("the kernel does not tell {name}"))
    };
    let files = fs::read_dir(format!("/proc/{process}/fd"))?.count();
    Ok([number("VmRSS:")?, files as f64, number("Threads:")?])
}

/// One step of a thread that makes load, by its number.
type Work = Box<dyn FnMut(u64, &Counts) + Send>;

/// Threads that make the load.
struct Load {
    stop: Arc<AtomicBool>,
    workers: Vec<thread::JoinHandle<()>>,
    counts: Arc<Counts>,
}

#[derive(Default)]
struct Counts {
    answered: AtomicU64,
    failed: AtomicU64,
    none: AtomicU64,
    deploys: AtomicU64,
    cuts: AtomicU64,
}

impl Counts {
    fn count(&self, status: Option<u16>) {
        let count = match status {
            Some(..500) => &self.answered,
            Some(_) => &self.failed,
            None => &self.none,
        };
        count.fetch_add(1, Ordering::Relaxed);
    }

    /// Fails if one part of the load never happened: no answers, no failures, no deploys or no cuts.
    fn are_of_all_kinds(&self) -> Result<()> {
        let Self { answered, failed, none: _, deploys, cuts } = self;
        let kinds = [
            (answered, "no request was answered"),
            (failed, "no request failed, though guests trap"),
            (deploys, "no deploy succeeded"),
            (cuts, "no connection to the store was cut"),
        ];
        match kinds.iter().find(|(count, _)| count.load(Ordering::Relaxed) == 0) {
            Some((_, missing)) => bail!("{missing}: the load is not what it is to be"),
            None => Ok(()),
        }
    }
}

impl std::fmt::Display for Counts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
        write!(
            f,
            "{} requests were answered, {} failed with 5xx, {} got no answer; {} deploys, {} cuts",
            of(&self.answered),
            of(&self.failed),
            of(&self.none),
            of(&self.deploys),
            of(&self.cuts)
        )
    }
}

/// How the counter is deployed, as an operator does it.
struct Deploys {
    files: Files,
    admin: SocketAddr,
    component: Vec<u8>,
    path: PathBuf,
}

impl Deploys {
    /// Deploys the component with a number in it, so that it is another one.
    fn deploy(&self, number: u64) -> bool {
        let bytes = with_number(&self.component, number % 50);
        if fs::write(&self.path, bytes).is_err() {
            return false;
        }
        let mut command = self.files.deploy(&self.path, "counter", self.admin);
        command.status().is_ok_and(|status| status.success())
    }
}

impl Load {
    fn start(address: SocketAddr, deploys: Deploys, proxy: Arc<Proxy>) -> Self {
        let (stop, counts) = (Arc::<AtomicBool>::default(), Arc::<Counts>::default());
        let mut workers = Vec::new();
        let mut spawn = |pause: Duration, mut work: Work| {
            let (stop, counts) = (Arc::clone(&stop), Arc::clone(&counts));
            workers.push(thread::spawn(move || {
                let mut number = 0;
                while !stop.load(Ordering::Relaxed) {
                    work(number, &counts);
                    number += 1;
                    thread::sleep(pause);
                }
            }));
        };
        let short = Duration::from_millis(5);
        for client in 0..8_u64 {
            // On a connection of its own, or one after the other on one.
            spawn(
                short,
                Box::new(move |number, counts| {
                    let key = match client % 2 {
                        0 => format!("idempotency-key: soak-{client}-{}\r\n", number / 2),
                        _ => String::new(),
                    };
                    let head = format!(
                        "POST /increment HTTP/1.1\r\nhost: counter.test\r\n{key}content-length: 3\r\n"
                    );
                    counts.count(exchange(address, &head, b"abc"));
                }),
            );
        }
        for path in ["/trap-before", "/trap-after-head", "/stream?200000", "/hello", "/never"] {
            let head = format!("GET {path} HTTP/1.1\r\nhost: probe.test\r\n");
            let ask = move |_, counts: &Counts| counts.count(exchange(address, &head, b""));
            spawn(Duration::from_millis(50), Box::new(ask));
        }
        // Slow, and then gone.
        spawn(Duration::from_millis(20), Box::new(move |number, _| leave(address, number)));
        spawn(
            Duration::from_secs(2),
            Box::new(move |number, counts| {
                if deploys.deploy(number) {
                    counts.deploys.fetch_add(1, Ordering::Relaxed);
                }
            }),
        );
        spawn(
            Duration::from_secs(3),
            Box::new(move |_, counts| {
                proxy.cut_all();
                counts.cuts.fetch_add(1, Ordering::Relaxed);
            }),
        );
        Self { stop, workers, counts }
    }

    /// Waits until the load has ended.
    fn stop(self) -> Arc<Counts> {
        self.stop.store(true, Ordering::Relaxed);
        for worker in self.workers {
            // One that panicked has said so.
            let _ = worker.join();
        }
        self.counts
    }
}

/// One request on a connection of its own; the status, where there is an answer.
fn exchange(address: SocketAddr, head: &str, body: &[u8]) -> Option<u16> {
    let mut stream = TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    stream.set_write_timeout(Some(PATIENCE)).ok()?;
    let length = match head.contains("content-length") || body.is_empty() {
        true => String::new(),
        false => format!("content-length: {}\r\n", body.len()),
    };
    let head = format!("{head}{length}connection: close\r\n\r\n");
    stream.write_all(&[head.as_bytes(), body].concat()).ok()?;
    let mut answer = Vec::new();
    // Of a guest that traps late, half an answer.
    let _ = stream.read_to_end(&mut answer);
    let text = String::from_utf8_lossy(answer.get(..12)?).into_owned();
    text.rsplit_once(' ')?.1.parse().ok()
}

/// A client that leaves in the middle, in one of several ways.
fn leave(address: SocketAddr, number: u64) {
    let Ok(mut stream) = TcpStream::connect(address) else { return };
    let head: &[u8] = match number % 4 {
        0 => b"GET /hel",
        1 => b"POST /increment HTTP/1.1\r\nhost: counter.test\r\ncontent-length: 9\r\n\r\nhalf",
        2 => b"GET /stream?2000000 HTTP/1.1\r\nhost: probe.test\r\n\r\n",
        _ => b"POST /echo HTTP/1.1\r\nhost: probe.test\r\ntransfer-encoding: chunked\r\n\r\n5\r\nfirst\r\n",
    };
    let _ = stream.write_all(head);
    thread::sleep(Duration::from_millis(number % 200));
    if number.is_multiple_of(3) {
        let _ = stream.shutdown(Shutdown::Write);
        let _ = stream.set_read_timeout(Some(Duration::from_millis(100)));
        let _ = stream.read(&mut [0; 64]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(value: impl Fn(usize) -> f64) -> Vec<[f64; 3]> {
        (0..300).map(|second| [value(second), 100.0, 10.0]).collect()
    }

    #[test]
    fn a_leak_climbs_and_noise_does_not() {
        // 100 KiB a second on 100 MiB.
        let leak = |second: usize| 100_000.0 + 100.0 * second as f64;
        assert!(judge(&samples(leak)).is_err());
        let noise = |second: usize| 100_000.0 + 5_000.0 * ((second * 7) % 11) as f64;
        assert!(judge(&samples(noise)).is_ok());
        let burst = |second: usize| if second == 290 { 900_000.0 } else { 100_000.0 };
        assert!(judge(&samples(burst)).is_ok());
        let filling = |second: usize| 100_000.0 * (second as f64 / 80.0).min(1.0);
        assert!(judge(&samples(filling)).is_ok(), "the start is not judged");
    }

    #[test]
    fn a_slope_is_found_beside_outliers() {
        let values: Vec<f64> =
            (0..100).map(|x| if x % 10 == 0 { 1e6 } else { 3.0 * f64::from(x) }).collect();
        assert!((slope(&values) - 3.0).abs() < 0.5, "{}", slope(&values));
        assert_eq!(slope(&[]), 0.0);
    }
}
