//! A redis-server of a test's own.

use std::{
    io::{Read as _, Write as _},
    net::{Ipv4Addr, TcpStream},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use tempfile::TempDir;

use crate::{
    certificates::Tls,
    process::{Server, free_port, signal_process},
};

pub(crate) const INSTALL: &str = "on Debian: apt-get install redis-server";

/// A running redis-server with its append-only file on, synced at each write.
pub struct Redis {
    server: Option<Server>,
    port: u16,
    tls_port: Option<u16>,
    /// As on the command line.
    settings: Vec<String>,
    dir: TempDir,
}

impl Redis {
    /// Starts a server on a free port.
    ///
    /// # Errors
    /// When redis-server is not installed or does not start; the text says why.
    pub fn start() -> Result<Self> {
        Self::start_with(&[])
    }

    /// Starts a server on a free port with more settings, written as on its command line: a name
    /// such as `--min-replicas-to-write` and its values.
    ///
    /// # Errors
    /// As [`Redis::start`].
    pub fn start_with(settings: &[&str]) -> Result<Self> {
        Self::start_at(None, settings.iter().map(ToString::to_string).collect())
    }

    /// Starts a server that has a second port, for TLS.
    ///
    /// # Errors
    /// As [`Redis::start`].
    pub fn start_with_tls(tls: &Tls) -> Result<Self> {
        let port = free_port()?;
        let settings = tls.redis_settings(port).into_iter();
        let settings = settings.flat_map(|(name, value)| [format!("--{name}"), value]).collect();
        Self::start_at(Some(port), settings)
    }

    fn start_at(tls_port: Option<u16>, settings: Vec<String>) -> Result<Self> {
        let (port, dir) = (free_port()?, tempfile::tempdir()?);
        let mut redis = Self { server: None, port, tls_port, settings, dir };
        redis.restart()?;
        Ok(redis)
    }

    /// Starts the server again after [`Redis::stop`] or [`Redis::kill`], on the same port with the
    /// same data.
    ///
    /// # Errors
    /// As [`Redis::start`].
    pub fn restart(&mut self) -> Result<()> {
        let mut command = Command::new("redis-server");
        command
            .args(["--port", &self.port.to_string(), "--bind", "127.0.0.1", "--save", ""])
            .args([
                "--appendonly",
                "yes",
                "--appendfsync",
                "always",
                "--enable-debug-command",
                "yes",
            ])
            .arg("--dir")
            .arg(self.dir.path())
            .args(&self.settings);
        let log = self.dir.path().join("log");
        self.server = Some(Server::start(command, self.port, &log, INSTALL)?);
        self.wait_until_loaded()
    }

    /// As [`Redis::restart`], with other settings than it was started with.
    ///
    /// # Errors
    /// As [`Redis::start`].
    pub fn restart_with(&mut self, settings: &[&str]) -> Result<()> {
        self.settings = settings.iter().map(ToString::to_string).collect();
        self.restart()
    }

    fn wait_until_loaded(&self) -> Result<()> {
        // Listening comes before being ready: commands are refused with LOADING until then.
        for _ in 0..1_000 {
            let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port))?;
            stream.write_all(b"PING\r\n")?;
            let mut reply = [0; 8];
            let size = stream.read(&mut reply)?;
            if !reply.get(..size).unwrap_or_default().starts_with(b"-LOADING") {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        bail!("Redis did not load its data")
    }

    /// Stops the server in an orderly way.
    ///
    /// # Errors
    /// When it is not running.
    pub fn stop(&mut self) -> Result<()> {
        self.server.take().context("redis is not running")?.end("TERM")
    }

    /// Kills the server.
    ///
    /// # Errors
    /// When it is not running.
    pub fn kill(&mut self) -> Result<()> {
        self.server.take().context("redis is not running")?.end("KILL")
    }

    /// Sends the server a signal, such as `STOP` and `CONT` to freeze and thaw it.
    ///
    /// # Errors
    /// When it is not running.
    pub fn signal(&self, signal: &str) -> Result<()> {
        signal_process(self.server.as_ref().context("redis is not running")?.id(), signal)
    }

    /// Its port on 127.0.0.1.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Its port on 127.0.0.1 for TLS, where it has one.
    #[must_use]
    pub fn tls_port(&self) -> Option<u16> {
        self.tls_port
    }

    /// Its process id, while it runs.
    #[must_use]
    pub fn process_id(&self) -> Option<u32> {
        self.server.as_ref().map(Server::id)
    }

    /// Its URL.
    #[must_use]
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }
}

/// Sends a command to a Redis server or a sentinel on 127.0.0.1, and gives the reply as it is on
/// the wire.
///
/// # Errors
/// When the connection fails.
pub fn ask(port: u16, command: &str) -> Result<String> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    stream.write_all(format!("{command}\r\n").as_bytes())?;
    // The server answers what it has read, and then sees that there is no more.
    stream.shutdown(std::net::Shutdown::Write)?;
    let mut reply = String::new();
    stream.read_to_string(&mut reply)?;
    Ok(reply)
}
