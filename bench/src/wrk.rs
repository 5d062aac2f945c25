//! Load by wrk (<https://github.com/wg/wrk>), as much as a server takes.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result};

use crate::{
    load::{KEYS, Target},
    program,
    traffic::Traffic,
};

const INSTALL: &str = "on Debian: apt-get install wrk";

/// Threads of wrk: enough to keep the cores of a small machine busy.
const THREADS: u32 = 2;

/// What begins the line of results that the script prints.
const MARK: &str = "tally-bench";

/// The request's method and counters, and the results in a form that does not round them. Requests
/// for many counters are made before the load, and chosen from by chance.
const SCRIPT: &str = r#"
local threads = 0

function setup(thread)
    threads = threads + 1
    thread:set("number", threads)
end

function init(args)
    wrk.method = args[1]
    if args[2] then
        local requests = {}
        for key = 1, tonumber(args[3]) do
            requests[key] = wrk.format(nil, wrk.path .. "?name=" .. args[2] .. (key - 1))
        end
        math.randomseed(number)
        request = function()
            return requests[math.random(#requests)]
        end
    end
end

function done(summary, latency, requests)
    local errors = summary.errors
    io.write(string.format("tally-bench %d %d %d %d %d %d %d %d %d\n",
        summary.requests, summary.duration, latency:percentile(50), latency:percentile(99),
        errors.status, errors.connect, errors.read, errors.write, errors.timeout))
end
"#;

/// A way to put load on a server.
pub(crate) struct Wrk {
    script: PathBuf,
}

impl Wrk {
    /// Writes the script, and checks that wrk is installed.
    pub(crate) async fn find(dir: &Path) -> Result<Self> {
        let script = dir.join("wrk.lua");
        fs::write(&script, SCRIPT)?;
        let mut version = program::command("wrk");
        // It prints its version, and ends as if that were a mistake.
        version.arg("--version");
        let found = version.output().await;
        found.map_err(|error| program::cannot_start(error, &version, INSTALL))?;
        Ok(Self { script })
    }

    /// Sends one request after the other on all connections, one at a time on each.
    pub(crate) async fn run(
        &self,
        address: SocketAddr,
        target: &Target,
        connections: u32,
        window: Duration,
    ) -> Result<Traffic> {
        let mut wrk = program::command("wrk");
        // It does not take fewer connections than threads.
        wrk.arg(format!("-t{}", THREADS.min(connections))).arg(format!("-c{connections}"));
        wrk.arg(format!("-d{}s", window.as_secs())).arg("-s").arg(&self.script);
        wrk.arg(format!("http://{address}{}", target.path)).args(["--", target.method.as_str()]);
        if let Some(prefix) = &target.prefix {
            wrk.arg(prefix).arg(KEYS.to_string());
        }
        let printed = program::output(wrk, INSTALL).await?;
        parse(&printed, connections)
            .with_context(|| format!("cannot read what wrk printed:\n{printed}"))
    }
}

fn parse(printed: &str, connections: u32) -> Option<Traffic> {
    let line = printed.lines().find_map(|line| line.strip_prefix(MARK))?;
    let mut numbers = line.split_whitespace().map(|word| word.parse::<u64>().ok());
    let mut next = || numbers.next().flatten();
    Some(Traffic {
        requests: next()?,
        duration: Duration::from_micros(next()?),
        p50: Duration::from_micros(next()?),
        p99: Duration::from_micros(next()?),
        p999: None,
        slowest: None,
        refused: next()?,
        socket_errors: vec![
            ("connect", next()?),
            ("read", next()?),
            ("write", next()?),
            ("timeout", next()?),
        ],
        // It ends without waiting for answers, and does not say for how many.
        unanswered: connections.into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_found_among_what_wrk_prints() {
        let traffic =
            parse("Running 1s test\ntally-bench 9 2000000 1500 7000 2 0 3 0 1\n", 5).unwrap();
        assert_eq!((traffic.requests, traffic.acknowledged()), (9, 7));
        assert_eq!(traffic.duration, Duration::from_secs(2));
        assert_eq!(traffic.p99, Duration::from_millis(7));
        assert_eq!(traffic.unsure(), 5 + 2 + 4);
        assert_eq!(parse("tally-bench 9 2000000", 5), None);
        assert_eq!(parse("", 5), None);
    }

    #[test]
    fn the_script_marks_its_line() {
        assert!(SCRIPT.contains(&format!("\"{MARK} %d")));
    }
}
