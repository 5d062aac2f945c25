//! Load by wrk (<https://github.com/wg/wrk>).

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result};

use crate::program;

const INSTALL: &str = "on Debian: apt-get install wrk";

/// Threads of wrk: enough to keep the cores of a small machine busy.
const THREADS: u32 = 2;

/// What begins the line of results that the script prints.
const MARK: &str = "tally-bench";

/// The request's method, and the results in a form that does not round them.
const SCRIPT: &str = r#"
function init(args)
    wrk.method = args[1]
end

function done(summary, latency, requests)
    local errors = summary.errors
    io.write(string.format("tally-bench %d %d %d %d %d %d %d %d %d\n",
        summary.requests, summary.duration, latency:percentile(50), latency:percentile(99),
        errors.status, errors.connect, errors.read, errors.write, errors.timeout))
end
"#;

/// What is asked for.
pub(crate) struct Target {
    pub(crate) method: &'static str,
    pub(crate) path: &'static str,
}

/// A way to put load on a server.
pub(crate) struct Wrk {
    script: PathBuf,
    connections: u32,
}

/// What wrk saw.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Load {
    /// Answers, of any status.
    pub(crate) requests: u64,
    pub(crate) duration: Duration,
    pub(crate) p50: Duration,
    pub(crate) p99: Duration,
    /// Answers whose status was an error.
    pub(crate) refused: u64,
    /// Failures of sockets, with what they failed at.
    pub(crate) socket_errors: Vec<(&'static str, u64)>,
}

impl Wrk {
    /// Writes the script, and checks that wrk is installed.
    pub(crate) async fn find(dir: &Path, connections: u32) -> Result<Self> {
        let script = dir.join("wrk.lua");
        fs::write(&script, SCRIPT)?;
        let mut version = program::command("wrk");
        // It prints its version, and ends as if that were a mistake.
        version.arg("--version");
        let found = version.output().await;
        found.map_err(|error| program::cannot_start(error, &version, INSTALL))?;
        Ok(Self { script, connections })
    }

    /// wrk does not take fewer connections than threads.
    fn threads(&self) -> u32 {
        THREADS.min(self.connections)
    }

    /// How it is called.
    pub(crate) fn describe(&self, seconds: u32) -> String {
        format!("wrk -t{} -c{} -d{seconds}s", self.threads(), self.connections)
    }

    /// Requests that can be unanswered when wrk ends, and be counted all the same.
    pub(crate) fn in_flight(&self) -> u64 {
        self.connections.into()
    }

    /// Sends one request after the other on all connections, one at a time on each.
    pub(crate) async fn run(
        &self,
        address: SocketAddr,
        target: &Target,
        window: Duration,
    ) -> Result<Load> {
        let mut wrk = program::command("wrk");
        wrk.arg(format!("-t{}", self.threads())).arg(format!("-c{}", self.connections));
        wrk.arg(format!("-d{}s", window.as_secs())).arg("-s").arg(&self.script);
        wrk.arg(format!("http://{address}{}", target.path)).args(["--", target.method]);
        let printed = program::output(wrk, INSTALL).await?;
        parse(&printed).with_context(|| format!("cannot read what wrk printed:\n{printed}"))
    }
}

impl Load {
    /// Answers whose status was no error.
    pub(crate) fn acknowledged(&self) -> u64 {
        self.requests.saturating_sub(self.refused)
    }

    pub(crate) fn failed_sockets(&self) -> u64 {
        self.socket_errors.iter().map(|(_, count)| count).sum()
    }
}

fn parse(printed: &str) -> Option<Load> {
    let line = printed.lines().find_map(|line| line.strip_prefix(MARK))?;
    let mut numbers = line.split_whitespace().map(|word| word.parse::<u64>().ok());
    let mut next = || numbers.next().flatten();
    Some(Load {
        requests: next()?,
        duration: Duration::from_micros(next()?),
        p50: Duration::from_micros(next()?),
        p99: Duration::from_micros(next()?),
        refused: next()?,
        socket_errors: vec![
            ("connect", next()?),
            ("read", next()?),
            ("write", next()?),
            ("timeout", next()?),
        ],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_found_among_what_wrk_prints() {
        let load = parse("Running 1s test\ntally-bench 9 2000000 1500 7000 2 0 3 0 1\n").unwrap();
        assert_eq!((load.requests, load.acknowledged()), (9, 7));
        assert_eq!(load.duration, Duration::from_secs(2));
        assert_eq!(load.p99, Duration::from_millis(7));
        assert_eq!(load.failed_sockets(), 4);
        assert_eq!(parse("tally-bench 9 2000000"), None);
        assert_eq!(parse(""), None);
    }

    #[test]
    fn the_script_marks_its_line() {
        assert!(SCRIPT.contains(&format!("\"{MARK} %d")));
    }
}
