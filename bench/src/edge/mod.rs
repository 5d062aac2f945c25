//! The edge under load: more than the host can do, many connections that ask for nothing, clients that come while
//! others keep it busy, and clients that take their time.

mod connections;
mod overload;
mod plot;

use std::{fmt::Write as _, fs, path::Path, time::Duration};

use anyhow::{Context as _, Result, bail};
use clap::{Args, ValueEnum};

use crate::{
    client::{Requests, closed_loop},
    contender::{Contender, Files},
    load::Load,
    server::Server,
    traffic::Traffic,
};

/// The options of `edge`.
#[derive(Args)]
pub(crate) struct EdgeOptions {
    /// Length of each window.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=3600))]
    seconds: u32,
    /// Only these parts.
    #[arg(long, value_delimiter = ',')]
    only: Vec<Part>,
    /// The folder that the plot is written to.
    #[arg(long, default_value = "target/bench")]
    out: std::path::PathBuf,
}

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Good answers and the time of refusals, over how much is asked for
    Overload,
    /// Memory of a connection without a request
    Idle,
    /// How long a new client waits for its first answer while others keep the host busy
    Newcomers,
    /// Others' latency beside a thousand slow clients
    Slow,
}

/// Runs the measurements and prints their tables.
pub(crate) async fn run(files: &Files, options: &EdgeOptions) -> Result<()> {
    let window = Duration::from_secs(options.seconds.into());
    let is_asked = |part| options.only.is_empty() || options.only.contains(&part);
    let dir = tempfile::tempdir().context("cannot make a folder for the configuration")?;
    if is_asked(Part::Overload) {
        let plots = overload::run(files, dir.path(), window).await?;
        for (name, svg) in plots {
            let file = options.out.join(name);
            fs::create_dir_all(&options.out)
                .and_then(|()| fs::write(&file, svg))
                .with_context(|| format!("cannot write {}", file.display()))?;
            eprintln!("written: {}", file.display());
        }
    }
    if is_asked(Part::Idle) {
        connections::idle(files, dir.path()).await?;
    }
    if is_asked(Part::Newcomers) {
        connections::newcomers(files, dir.path(), window).await?;
    }
    if is_asked(Part::Slow) {
        connections::slow(files, dir.path(), window).await?;
    }
    Ok(())
}

fn request(host: &str, path: &str) -> String {
    let method = if path == "/increment" { "POST" } else { "GET" };
    format!("{method} {path} HTTP/1.1\r\nhost: {host}.test\r\n\r\n")
}

/// Starts Tally with a counter, a plugin and a standard guest that tests use, on `memory:`.
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

/// Starts plain hyper, which answers the same without WebAssembly.
async fn start_plain(files: &Files, dir: &Path) -> Result<Server> {
    Server::start(files, Contender::Plain, Load::Hello, None, dir).await
}

/// Keeps connections busy for a time.
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

fn milliseconds(time: Duration) -> String {
    format!("{:.1}", time.as_secs_f64() * 1e3)
}
