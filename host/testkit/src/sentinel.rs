//! Redis servers that sentinels watch.

use std::{
    fs,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};
use tempfile::TempDir;

use crate::{
    certificates::Tls,
    process::{Server, free_port},
    redis::{INSTALL, Redis, ask},
};

/// What the sentinels call the master.
pub const SERVICE: &str = "tally";

/// Longest time until all know each other: they say hello every two seconds.
const MEET_LIMIT: Duration = Duration::from_secs(60);

/// A running sentinel.
pub struct Sentinel {
    _server: Server,
    port: u16,
    _dir: TempDir,
}

impl Sentinel {
    /// Starts a sentinel on a free port that watches a master on 127.0.0.1, and takes it for dead
    /// after half a second. With TLS, all its connections use it, and its port is for TLS alone.
    ///
    /// # Errors
    /// When redis-server is not installed or does not start; the text says why.
    pub fn start(master: u16, quorum: usize, tls: Option<&Tls>) -> Result<Self> {
        let (port, dir) = (free_port()?, tempfile::tempdir()?);
        let mut lines = match tls {
            None => vec![("port", port.to_string())],
            Some(tls) => tls.redis_settings(port),
        };
        if tls.is_some() {
            lines.extend([("port", "0".into()), ("tls-replication", "yes".into())]);
        }
        lines.extend([
            ("bind", "127.0.0.1".into()),
            ("dir", dir.path().display().to_string()),
            ("sentinel", format!("monitor {SERVICE} 127.0.0.1 {master} {quorum}")),
            ("sentinel", format!("down-after-milliseconds {SERVICE} 500")),
            ("sentinel", format!("failover-timeout {SERVICE} 3000")),
        ]);
        let lines: Vec<String> =
            lines.iter().map(|(name, value)| format!("{name} {value}\n")).collect();
        let file = dir.path().join("sentinel.conf");
        fs::write(&file, lines.concat())?;
        let mut command = Command::new("redis-server");
        command.arg(&file).arg("--sentinel");
        let server = Server::start(command, port, &dir.path().join("log"), INSTALL)?;
        Ok(Self { _server: server, port, _dir: dir })
    }

    /// Its port on 127.0.0.1.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }
}

/// A master, its replica, and three sentinels of which two must agree.
pub struct Watched {
    /// The first master.
    pub master: Redis,
    /// What takes its place.
    pub replica: Redis,
    /// Those who watch.
    pub sentinels: Vec<Sentinel>,
}

impl Watched {
    /// Starts them all, with more settings for both servers as for [`Redis::start_with`], and waits
    /// until each knows the others.
    ///
    /// # Errors
    /// When redis-server is not installed or does not start; the text says why.
    pub fn start(settings: &[&str]) -> Result<Self> {
        // A replica gets its first copy at once, rather than after a wait for others.
        let settings = [settings, &["--repl-diskless-sync-delay", "0"]].concat();
        let master = Redis::start_with(&settings)?;
        let port = master.port().to_string();
        let replica =
            Redis::start_with(&[&settings[..], &["--replicaof", "127.0.0.1", &port]].concat())?;
        wait_for(replica.port(), "INFO replication", "master_link_status:up")?;
        let sentinels = (0..3).map(|_| Sentinel::start(master.port(), 2, None));
        let sentinels = sentinels.collect::<Result<Vec<_>>>()?;
        let known = format!("status=ok,address=127.0.0.1:{port},slaves=1,sentinels=3");
        for sentinel in &sentinels {
            wait_for(sentinel.port, "INFO sentinel", &known)?;
        }
        Ok(Self { master, replica, sentinels })
    }

    /// The store URL that names the sentinels.
    #[must_use]
    pub fn url(&self) -> String {
        let places: Vec<String> =
            self.sentinels.iter().map(|sentinel| format!("127.0.0.1:{}", sentinel.port)).collect();
        format!("redis-sentinel://{}/{SERVICE}", places.join(","))
    }
}

/// Asks until an answer contains a text.
fn wait_for(port: u16, command: &str, text: &str) -> Result<()> {
    let started = Instant::now();
    loop {
        let answer = ask(port, command)?;
        if answer.contains(text) {
            return Ok(());
        }
        if started.elapsed() > MEET_LIMIT {
            bail!("{command} at port {port} does not say {text} but {answer}");
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}
