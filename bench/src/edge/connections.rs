//! Connections that ask for nothing, that are new, and that are slow.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

use super::{busy, milliseconds, request, start, start_plain};
use crate::{contender::Files, quantiles::Latencies, server::Server};

/// Connections without a request.
const IDLE: u32 = 5_000;

/// How long they are so before memory is read.
const SETTLING: Duration = Duration::from_secs(5);

/// Connections that keep the host busy while others come.
const BUSY: [u32; 3] = [64, 2_000, 8_000];

/// Time between two that come.
const BETWEEN: Duration = Duration::from_millis(20);

/// Longest wait of one that comes.
const PATIENCE: Duration = Duration::from_secs(30);

/// Clients that take their time.
const SLOW: u32 = 1_000;

/// Time between two signs of life of a slow client.
const PAUSE: Duration = Duration::from_millis(500);

/// Connections beside the slow ones.
const CONNECTIONS: u32 = 8;

/// Bytes of a connection that has asked once and then waits, of one that never asked, and of plain hyper's.
pub(super) async fn idle(files: &Files, dir: &Path) -> Result<()> {
    println!("\n| {IDLE} idle connections | KiB of each |\n|---|--:|");
    let hello = "GET /hello HTTP/1.1\r\nhost: h\r\n\r\n";
    let report = request("counter", "/report");
    for (name, is_plain, asks) in [
        ("tally, after a request", false, Some(report.as_str())),
        ("tally, before the first", false, None),
        ("plain hyper, after a request", true, Some(hello)),
        ("plain hyper, before the first", true, None),
    ] {
        let server =
            if is_plain { start_plain(files, dir).await? } else { start(files, dir, "").await? };
        // Whatever is made once.
        ask(server.address(), if is_plain { hello } else { &report })?;
        let before = resident(server.id())?;
        let mut open = Vec::new();
        for _ in 0..IDLE {
            let mut stream = connect(server.address())?;
            if let Some(request) = asks {
                exchange(&mut stream, request)?;
            }
            open.push(stream);
        }
        tokio::time::sleep(SETTLING).await;
        let each = resident(server.id())?.saturating_sub(before) / u64::from(IDLE);
        println!("| {name} | {:.1} |", each as f64 / 1024.0);
        drop(open);
        server.end().await?;
    }
    Ok(())
}

/// How long clients wait for their first answer that come while others keep the host busy.
pub(super) async fn newcomers(files: &Files, dir: &Path, window: Duration) -> Result<()> {
    println!(
        "\n| busy connections | requests/s | p50 ms | a newcomer's p50 ms | p99 ms |\n|---|--:|--:|--:|--:|"
    );
    let hello = "GET /hello HTTP/1.1\r\nhost: h\r\n\r\n".to_owned();
    for (name, is_plain, asks) in
        [("tally", false, request("counter", "/increment")), ("plain hyper", true, hello)]
    {
        let server =
            if is_plain { start_plain(files, dir).await? } else { start(files, dir, "").await? };
        for connections in BUSY {
            let (address, newcomer) = (server.address(), asks.clone());
            let stop = Arc::new(AtomicBool::new(false));
            let stopped = Arc::clone(&stop);
            let coming = thread::spawn(move || {
                // Until the others are at their full load.
                thread::sleep(window.min(Duration::from_secs(1)));
                let mut waits = Latencies::default();
                while !stopped.load(Ordering::Relaxed) {
                    let begun = Instant::now();
                    ask(address, &newcomer)?;
                    waits.add(begun.elapsed());
                    thread::sleep(BETWEEN);
                }
                anyhow::Ok(waits.traffic(window))
            });
            let traffic = busy(&server, asks.clone(), connections, window).await?;
            stop.store(true, Ordering::Relaxed);
            let Ok(waits) = coming.join() else { bail!("the newcomers' thread panicked") };
            let waits = waits?;
            println!(
                "| {name}, {connections} | {:.0} | {} | {} | {} |",
                traffic.rate(),
                milliseconds(traffic.p50),
                milliseconds(waits.p50),
                milliseconds(waits.p99),
            );
        }
        server.end().await?;
    }
    Ok(())
}

/// Latency of the counter alone, and beside clients that send heads and bodies byte by byte or read little.
pub(super) async fn slow(files: &Files, dir: &Path, window: Duration) -> Result<()> {
    println!("\n| slow clients | requests/s | p50 ms | p99 ms |\n|---|--:|--:|--:|");
    let server = start(files, dir, "").await?;
    let increment = request("counter", "/increment");
    // Not measured.
    busy(&server, increment.clone(), CONNECTIONS, Duration::from_secs(1)).await?;
    for slow in [0, SLOW] {
        let stop = Arc::new(AtomicBool::new(false));
        let clients = be_slow(&server, slow, &stop)?;
        let traffic = busy(&server, increment.clone(), CONNECTIONS, window).await?;
        stop.store(true, Ordering::Relaxed);
        if clients.join().is_err() {
            bail!("the slow clients' thread panicked");
        }
        println!(
            "| {slow} | {:.0} | {} | {} |",
            traffic.rate(),
            milliseconds(traffic.p50),
            milliseconds(traffic.p99)
        );
    }
    server.end().await
}

/// Has clients be slow until they are told to stop: a third sends a head, a third a body, and a third reads an
/// answer.
fn be_slow(server: &Server, count: u32, stop: &Arc<AtomicBool>) -> Result<thread::JoinHandle<()>> {
    let mut streams = Vec::new();
    for number in 0..count {
        let mut stream = connect(server.address())?;
        let begin = match number % 3 {
            0 => "GET /report HTTP/1.1\r\nhost: counter.test\r\nx-slow: ",
            1 => "POST /increment HTTP/1.1\r\nhost: counter.test\r\ncontent-length: 100000\r\n\r\n",
            _ => "GET /body?4000000 HTTP/1.1\r\nhost: probe.test\r\n\r\n",
        };
        stream.write_all(begin.as_bytes())?;
        stream.set_nonblocking(true)?;
        streams.push(stream);
    }
    let stopped = Arc::clone(stop);
    Ok(thread::spawn(move || {
        let mut bytes = [0; 4 << 10];
        while !stopped.load(Ordering::Relaxed) {
            for (number, stream) in streams.iter_mut().enumerate() {
                // What has ended meanwhile takes nothing, and that is fine.
                let _ = match number % 3 {
                    2 => stream.read(&mut bytes),
                    _ => stream.write(b"x"),
                };
            }
            thread::sleep(PAUSE);
        }
    }))
}

fn connect(address: SocketAddr) -> Result<TcpStream> {
    let stream = TcpStream::connect(address).context("cannot connect to the server")?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// Asks on a connection of its own.
fn ask(address: SocketAddr, request: &str) -> Result<()> {
    exchange(&mut connect(address)?, request)
}

/// Sends a request and waits for the beginning of its answer, which is small.
fn exchange(stream: &mut TcpStream, request: &str) -> Result<()> {
    stream.write_all(request.as_bytes())?;
    let mut answer = [0; 2_048];
    let read = stream.read(&mut answer).context("a new client gets no answer")?;
    if !answer.get(..read).unwrap_or_default().starts_with(b"HTTP/1.1 200") {
        let answer = answer.get(..read).unwrap_or_default();
        bail!("a new client is not served: {}", String::from_utf8_lossy(answer));
    }
    Ok(())
}

/// Bytes of memory that are a process's now.
fn resident(process: u32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{process}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kilobytes = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    Ok(kilobytes.context("no VmRSS in /proc/PID/status")?.saturating_mul(1024))
}
