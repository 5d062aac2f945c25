//! A redis-server of a test's own.

use std::{
    io::{Read as _, Write as _},
    net::{Ipv4Addr, TcpStream},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use tempfile::TempDir;

use crate::process::{Server, free_port, signal_process};

/// A running redis-server with its append-only file on, synced at each write.
pub struct Redis {
    server: Option<Server>,
    port: u16,
    dir: TempDir,
}

impl Redis {
    /// Starts a server on a free port.
    ///
    /// # Errors
    /// When redis-server is not installed or does not start; the text says why.
    pub fn start() -> Result<Self> {
        let mut redis = Self { server: None, port: free_port()?, dir: tempfile::tempdir()? };
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
            .arg(self.dir.path());
        let log = self.dir.path().join("log");
        self.server = Some(Server::start(
            command,
            self.port,
            &log,
            "on Debian: apt-get install redis-server",
        )?);
        self.wait_until_loaded()
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
