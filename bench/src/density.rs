//! How many guests fit: a host with so many guests of distinct content, how long it takes to be ready, what it
//! has resident, and how long the first request to a guest takes that is not loaded.

use std::{
    fmt::Write as _,
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use clap::Args;

use crate::{
    client::{Requests, closed_loop},
    contender::{Contender, Files},
    server::Server,
};

/// The options of `density`.
#[derive(Args)]
pub(crate) struct DensityOptions {
    /// How many guests there are, separated by commas.
    #[arg(long, value_delimiter = ',', default_value = "1,1000,10000")]
    guests: Vec<usize>,
    /// Component that all are copies of, each with a section of its own [default: the counter]
    #[arg(long, value_name = "FILE")]
    component: Option<PathBuf>,
    /// How many are asked for a first time, compiled before.
    #[arg(long, default_value_t = 200)]
    cold: usize,
}

/// A copy of a component with a numbered custom section, so that its content is unique.
pub(crate) fn with_number(component: &[u8], number: u64) -> Vec<u8> {
    let mut bytes = component.to_vec();
    // A section's id and length, and its name's length and name.
    bytes.extend([0, 10, 1, b'n']);
    bytes.extend(number.to_le_bytes());
    bytes
}

/// Runs the measurement and prints its table.
pub(crate) async fn run(files: &Files, options: &DensityOptions) -> Result<()> {
    let component = options.component.clone().unwrap_or_else(|| files.built("counter"));
    let component = fs::read(&component)
        .with_context(|| format!("{}: get it with ./just build-guest", component.display()))?;
    println!(
        "Guests of {} KiB, each with content of its own, on memory:\n\n\
        | guests | ready s | resident MiB | threads | cold: median ms | p99 ms | resident MiB after |\n\
        |--:|--:|--:|--:|--:|--:|--:|",
        component.len() >> 10
    );
    for guests in &options.guests {
        let dir = tempfile::tempdir().context("cannot make a folder for the guests")?;
        let config = write(dir.path(), *guests, &component)?;
        // Those that are asked for are compiled now.
        let cold: Vec<usize> = (guests.saturating_sub(options.cold)..*guests).collect();
        let server = start(files, dir.path(), &config).await?;
        first_requests(&server, cold.clone()).await?;
        server.end().await?;
        let started = Instant::now();
        let server = start(files, dir.path(), &config).await?;
        let ready = started.elapsed();
        let (resident, threads) = (status(&server, "VmRSS:")? >> 10, status(&server, "Threads:")?);
        let mut latencies = first_requests(&server, cold).await?;
        let after = status(&server, "VmRSS:")? >> 10;
        server.end().await?;
        latencies.sort_unstable();
        let quantile = |percent: usize| {
            let place = (latencies.len() * percent).div_ceil(100).saturating_sub(1);
            latencies.get(place).copied().unwrap_or_default().as_secs_f64() * 1e3
        };
        println!(
            "| {guests} | {:.2} | {resident} | {threads} | {:.2} | {:.2} | {after} |",
            ready.as_secs_f64(),
            quantile(50),
            quantile(99),
        );
    }
    Ok(())
}

fn write(dir: &Path, guests: usize, component: &[u8]) -> Result<PathBuf> {
    let mut toml = String::from("load-ahead = 0\nqueue-timeout = \"1m\"\n\n");
    for number in 0..guests {
        let file = dir.join(format!("{number}.wasm"));
        fs::write(&file, with_number(component, number as u64))?;
        let _ = write!(
            toml,
            "[[route]]\nhost = \"g{number}.test\"\nname = \"g{number}\"\nguest = {file:?}\n\n"
        );
    }
    let config = dir.join("tally.toml");
    fs::write(&config, toml)?;
    Ok(config)
}

async fn start(files: &Files, dir: &Path, config: &Path) -> Result<Server> {
    Server::start_by(Contender::Tally, dir, |address, admin| {
        let mut command = files.tally(Path::new(""), "memory:", &address.to_string(), admin);
        command.arg("--config").arg(config);
        command
    })
    .await
}

/// Asks each of some guests once, one after the other.
async fn first_requests(server: &Server, guests: Vec<usize>) -> Result<Vec<Duration>> {
    let address: SocketAddr = server.address();
    let ask = move || {
        let mut latencies = Vec::with_capacity(guests.len());
        for number in guests {
            let request = format!("POST /increment HTTP/1.1\r\nhost: g{number}.test\r\n\r\n");
            let traffic =
                closed_loop::run(address, Requests::of(vec![request]), 1, Duration::ZERO)?;
            if let Some(failure) = traffic.failures("asking a first time").first() {
                bail!("{failure}");
            }
            latencies.push(traffic.slowest.unwrap_or_default());
        }
        Ok(latencies)
    };
    tokio::task::spawn_blocking(ask).await?
}

/// A number of the server's status, by the kernel.
fn status(server: &Server, name: &str) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{}/status", server.id()))?;
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    let number = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
    number.with_context(|| format!("the kernel does not tell {name}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_numbered_component_has_one_more_section() {
        assert_eq!(with_number(b"c", 1), [b'c', 0, 10, 1, b'n', 1, 0, 0, 0, 0, 0, 0, 0]);
    }
}
