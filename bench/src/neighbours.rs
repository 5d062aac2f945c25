//! What a guest feels of its neighbours: the counter with eight connections on `memory:`, alone and beside
//! guests that take all they can get; and how the time of the machine is shared out.

use std::{
    collections::HashMap,
    fmt::Write as _,
    fs,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use clap::Args;
use hyper::Method;

use crate::{
    client::{Requests, closed_loop},
    contender::{Contender, Files},
    density::with_number,
    http,
    server::Server,
    traffic::Traffic,
};

/// The token of the hosts that are deployed to: they listen on loopback, and for a minute.
const ADMIN_TOKEN: &str = "a-token-for-measuring";

/// Connections of the counter.
const CONNECTIONS: u32 = 8;

/// Time for neighbours to come to their full load before a window, and for what they used to be over.
const WARM_UP: Duration = Duration::from_millis(1_500);

/// Clients of a neighbour, where it is not they that grow.
const CLIENTS: u32 = 64;

/// Bytes that a slow reader takes at a time, and its pause.
const SIP: usize = 16 << 10;
/// See [`SIP`].
const PAUSE: Duration = Duration::from_millis(20);

/// The options of `neighbours`.
#[derive(Args)]
pub(crate) struct NeighboursOptions {
    /// Windows of each; medians are shown.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Length of each window.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=3600))]
    seconds: u32,
    /// Only those whose name holds this.
    #[arg(long, default_value = "")]
    only: String,
}

/// What a neighbour does.
#[derive(Clone, Copy, Debug)]
enum Neighbour {
    None,
    /// So many clients of a guest that computes until its limit.
    Computes(u32),
    /// Clients of a guest that adds to a counter of its own.
    AsksTheStore,
    /// Clients of a guest that fills most of its memory.
    FillsMemory,
    /// Clients that read 4 MiB slowly.
    SlowReaders,
    /// Components that were never seen before are deployed, one after the other.
    Compiles,
}

const NEIGHBOURS: [Neighbour; 10] = [
    Neighbour::None,
    Neighbour::Computes(1),
    Neighbour::Computes(4),
    Neighbour::Computes(16),
    Neighbour::Computes(64),
    Neighbour::Computes(256),
    Neighbour::AsksTheStore,
    Neighbour::FillsMemory,
    Neighbour::SlowReaders,
    Neighbour::Compiles,
];

impl Neighbour {
    fn name(self) -> String {
        match self {
            Self::None => "alone".into(),
            Self::Computes(clients) => format!("computes, {clients} clients"),
            Self::AsksTheStore => format!("asks the store, {CLIENTS} clients"),
            Self::FillsMemory => format!("fills its memory, {CLIENTS} clients"),
            Self::SlowReaders => format!("answers 4 MiB to {CLIENTS} slow readers"),
            Self::Compiles => "is deployed and compiled again and again".into(),
        }
    }

    /// Begins what it does.
    fn begin(self, server: &Server, files: &Files, longest: Duration) -> Result<Load> {
        let address = server.address();
        let load = |path: &str, clients| Load::clients(address, "loud", path, clients, longest);
        Ok(match self {
            Self::None => Load::default(),
            Self::Computes(clients) => load("/loop", clients),
            Self::AsksTheStore => load("/add?mine", CLIENTS),
            Self::FillsMemory => load("/grow?12000000", CLIENTS),
            Self::SlowReaders => Load::slow_readers(address),
            Self::Compiles => Load::deployments(server.admin(), fs::read(files.built("probe"))?),
        })
    }
}

/// Threads that do what a neighbour does, until they are told to stop.
#[derive(Default)]
struct Load {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Load {
    fn clients(
        address: SocketAddr,
        host: &str,
        path: &str,
        clients: u32,
        longest: Duration,
    ) -> Self {
        let requests = Requests::of(vec![request(host, path)]);
        // Ends by itself, and with the server. What it came to is of no interest, but that there was some.
        let (path, stop) = (path.to_owned(), Arc::<AtomicBool>::default());
        let stopping = Arc::clone(&stop);
        let run = move || {
            stand_back();
            let ran = closed_loop::run(address, requests, clients, longest);
            let failure = match ran {
                Ok(traffic) if traffic.requests > 0 => return,
                Ok(_) => "no request was answered".to_owned(),
                Err(error) => format!("{error:#}"),
            };
            if !stopping.load(Ordering::Relaxed) {
                eprintln!("  !! {path}: {failure}");
            }
        };
        Self { stop, threads: vec![thread::spawn(run)] }
    }

    fn slow_readers(address: SocketAddr) -> Self {
        let stop = Arc::<AtomicBool>::default();
        let one = |_| {
            let stop = Arc::clone(&stop);
            thread::spawn(move || {
                stand_back();
                while !stop.load(Ordering::Relaxed) {
                    let _ = read_slowly(address, &stop);
                }
            })
        };
        let threads = (0..CLIENTS).map(one).collect();
        Self { stop, threads }
    }

    fn deployments(admin: SocketAddr, component: Vec<u8>) -> Self {
        let stop = Arc::<AtomicBool>::default();
        let stopping = Arc::clone(&stop);
        let run = move || {
            stand_back();
            let mut number = u64::from(std::process::id()) << 32;
            while !stopping.load(Ordering::Relaxed) {
                number += 1;
                if let Err(error) = deploy(admin, &with_number(&component, number))
                    && !stopping.load(Ordering::Relaxed)
                {
                    eprintln!("  !! a deployment failed: {error:#}");
                    thread::sleep(Duration::from_millis(100));
                }
            }
        };
        Self { stop, threads: vec![thread::spawn(run)] }
    }

    /// To be called before the server ends, which its clients would take for a failure.
    fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    fn end(self) {
        self.stop();
        for thread in self.threads {
            // One that panicked did less than it should have, which its output says.
            let _ = thread.join();
        }
    }
}

/// Gives the calling thread the lowest priority. A neighbour's clients would be on other machines: here they take
/// what the host and the counter's clients leave, so that what is measured is what the host does.
fn stand_back() {
    // Where it is refused, the figures are worse than they would be.
    let _ = rustix::process::nice(19);
}

fn request(host: &str, path: &str) -> String {
    let method = if path == "/increment" { "POST" } else { "GET" };
    format!("{method} {path} HTTP/1.1\r\nhost: {host}.test\r\n\r\n")
}

fn read_slowly(address: SocketAddr, stop: &AtomicBool) -> Result<()> {
    let mut stream = TcpStream::connect(address)?;
    stream.write_all(request("loud", "/body?4000000").as_bytes())?;
    let mut sip = vec![0; SIP];
    while !stop.load(Ordering::Relaxed) && stream.read(&mut sip)? > 0 {
        thread::sleep(PAUSE);
    }
    Ok(())
}

fn deploy(admin: SocketAddr, component: &[u8]) -> Result<()> {
    let mut stream = TcpStream::connect(admin)?;
    let length = component.len();
    write!(
        stream,
        "PUT /guests/loud HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {ADMIN_TOKEN}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n"
    )?;
    stream.write_all(component)?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    if !answer.starts_with("HTTP/1.1 200") {
        bail!("it was answered with {answer:?}");
    }
    Ok(())
}

/// Two guests that compute, and what each is to get.
struct Share {
    name: &'static str,
    clients: [u32; 2],
    weights: [u32; 2],
}

const SHARES: [Share; 3] = [
    Share { name: "1 client against 64", clients: [1, 64], weights: [100, 100] },
    Share { name: "64 clients each, weights 3 : 1", clients: [64, 64], weights: [300, 100] },
    Share { name: "64 clients, nobody else", clients: [64, 0], weights: [100, 100] },
];

struct Bench<'a> {
    files: &'a Files,
    dir: &'a Path,
    window: Duration,
    rounds: u32,
}

/// Runs the measurement and prints its tables.
pub(crate) async fn run(files: &Files, options: &NeighboursOptions) -> Result<()> {
    let dir = tempfile::tempdir().context("cannot make a folder for the configuration")?;
    let window = Duration::from_secs(options.seconds.into());
    let bench = Bench { files, dir: dir.path(), window, rounds: options.rounds };
    let is_wanted = |name: &str| name.contains(&options.only);
    let mut alone = None;
    println!(
        "The counter with {CONNECTIONS} connections, beside a guest that …\n\n\
        | the other | requests/s | of alone | p50 ms | p99 ms | slowest ms |\n|---|--:|--:|--:|--:|--:|"
    );
    for neighbour in NEIGHBOURS {
        let name = neighbour.name();
        if !matches!(neighbour, Neighbour::None) && !is_wanted(&name) {
            continue;
        }
        let traffic = bench.neighbour(neighbour).await?;
        let alone = *alone.get_or_insert(traffic.rate());
        let ms = |time: Duration| time.as_secs_f64() * 1e3;
        println!(
            "| {name} | {:.0} | {:.2} | {:.2} | {:.2} | {:.1} |",
            traffic.rate(),
            traffic.rate() / alone,
            ms(traffic.p50),
            ms(traffic.p99),
            ms(traffic.slowest.unwrap_or_default()),
        );
    }
    println!("\nTwo guests that compute:\n\n| | CPU of each, in cores | ratio |\n|---|--:|--:|");
    for share in SHARES.iter().filter(|share| is_wanted(share.name)) {
        let [one, other] = bench.share(share).await?;
        println!("| {} | {one:.2}, {other:.2} | {:.2} |", share.name, one / other);
    }
    Ok(())
}

impl Bench<'_> {
    async fn server(&self, weights: [u32; 2]) -> Result<Server> {
        let config = self.dir.join("tally.toml");
        let [one, other] = weights;
        let mut toml = String::new();
        for (name, guest, weight) in
            [("quiet", "counter", 100), ("loud", "probe", one), ("other", "probe", other)]
        {
            let file = self.files.built(guest);
            if !file.is_file() {
                bail!("{} is not there; get it with ./just build-guest {guest}", file.display());
            }
            let _ = write!(
                toml,
                "[[route]]\nname = \"{name}\"\nhost = \"{name}.test\"\nguest = {file:?}\ncpu-weight = {weight}\n\n"
            );
        }
        fs::write(&config, toml)?;
        Server::start_by(Contender::Tally, self.dir, |address, admin| {
            let mut command =
                self.files.tally(Path::new(""), "memory:", &address.to_string(), admin);
            command.arg("--config").arg(&config).env("TALLY_ADMIN_TOKEN", ADMIN_TOKEN);
            command
        })
        .await
    }

    /// The median window by requests.
    async fn neighbour(&self, neighbour: Neighbour) -> Result<Traffic> {
        let mut windows = Vec::new();
        for _ in 0..self.rounds {
            let server = self.server([100, 100]).await?;
            let longest = WARM_UP + self.window + WARM_UP;
            let load = neighbour.begin(&server, self.files, longest)?;
            tokio::time::sleep(WARM_UP).await;
            let (address, window) = (server.address(), self.window);
            let requests = Requests::of(vec![request("quiet", "/increment")]);
            let measured = tokio::task::spawn_blocking(move || {
                closed_loop::run(address, requests, CONNECTIONS, window)
            });
            let traffic = measured.await??;
            // Ends the neighbour's clients too, so that their pending requests need not be waited for.
            load.stop();
            server.kill().await?;
            load.end();
            if let Some(failure) = traffic.failures("measuring").first() {
                bail!("{failure}");
            }
            windows.push(traffic);
        }
        windows.sort_by(|one, other| one.rate().total_cmp(&other.rate()));
        windows.into_iter().nth(self.rounds as usize / 2).context("there is a window")
    }

    /// Cores that each of two guests has, in the median window by their ratio.
    async fn share(&self, share: &Share) -> Result<[f64; 2]> {
        let mut windows = Vec::new();
        for _ in 0..self.rounds {
            let server = self.server(share.weights).await?;
            let longest = WARM_UP + self.window + WARM_UP;
            let loads =
                ["loud", "other"].into_iter().zip(share.clients).map(
                    |(host, clients)| match clients {
                        0 => Load::default(),
                        clients => Load::clients(server.address(), host, "/loop", clients, longest),
                    },
                );
            let loads: Vec<Load> = loads.collect();
            tokio::time::sleep(WARM_UP).await;
            let (started, before) = (Instant::now(), cpu(server.admin()).await?);
            tokio::time::sleep(self.window).await;
            let (took, after) = (started.elapsed(), cpu(server.admin()).await?);
            loads.iter().for_each(Load::stop);
            server.kill().await?;
            loads.into_iter().for_each(Load::end);
            let used = |name: &str| {
                let of = |cpu: &HashMap<String, f64>| cpu.get(name).copied().unwrap_or_default();
                (of(&after) - of(&before)) / took.as_secs_f64()
            };
            windows.push(["loud", "other"].map(used));
        }
        let ratio = |[one, other]: &[f64; 2]| one / other;
        windows.sort_by(|one, other| ratio(one).total_cmp(&ratio(other)));
        windows.into_iter().nth(self.rounds as usize / 2).context("there is a window")
    }
}

/// Seconds that each guest has computed, by the host's metrics.
async fn cpu(admin: SocketAddr) -> Result<HashMap<String, f64>> {
    let answer = http::request(admin, Method::GET, "/metrics").await?;
    let text = String::from_utf8_lossy(answer.body()).into_owned();
    let each = text.lines().filter_map(|line| {
        let rest = line.strip_prefix("tally_guest_cpu_seconds_total{guest=\"")?;
        let (name, value) = rest.split_once("\"} ")?;
        Some((name.to_owned(), value.parse().ok()?))
    });
    Ok(each.collect())
}
