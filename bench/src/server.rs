//! A running server: starting it, waiting until it is ready, and ending it.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use hyper::{Method, StatusCode};
use tally_testkit::{free_port, signal_process};
use tokio::{
    process::{Child, Command},
    time::{sleep, timeout},
};

use crate::{
    backend::Store,
    contender::{Contender, Files},
    fastapi, http,
    load::Load,
    processes, program, wasmtime,
};

/// Longest time until a server is ready; generous, as a guest may have to be compiled.
const START_LIMIT: Duration = Duration::from_secs(60);

/// Longest time from `SIGTERM` to the end of the process.
const END_LIMIT: Duration = Duration::from_secs(15);

/// The same where a measurement is broken off.
const DROP_LIMIT: Duration = Duration::from_secs(3);

/// What plain-hyper prints when it is ready.
const LISTENING: &str = "listening on ";

/// A running server; ended when dropped, with all that it started.
pub(crate) struct Server {
    contender: Contender,
    child: Child,
    id: u32,
    address: SocketAddr,
    admin: SocketAddr,
    log: PathBuf,
}

impl Server {
    /// Starts a server, and returns it when it is ready. Its output goes to a file.
    pub(crate) async fn start(
        files: &Files,
        contender: Contender,
        load: Load,
        store: Option<&Store>,
        dir: &Path,
    ) -> Result<Self> {
        let command = |address, admin| files.command(contender, load, store, address, admin);
        Self::start_by(contender, dir, command).await
    }

    /// Starts a server by a command, which is given the addresses of its two listeners.
    pub(crate) async fn start_by(
        contender: Contender,
        dir: &Path,
        command: impl FnOnce(SocketAddr, SocketAddr) -> Command,
    ) -> Result<Self> {
        let local = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let (address, admin) = (local(free_port()?), local(free_port()?));
        let log = dir.join("server.log");
        let output = fs::File::create(&log)?;
        let mut command = command(address, admin);
        command.stdout(output.try_clone()?).stderr(output);
        let child = command
            .spawn()
            .map_err(|error| program::cannot_start(error, &command, "see tally-bench --help"))?;
        let id = child.id().context("the server is gone at once")?;
        let mut server = Self { contender, child, id, address, admin, log };
        server.wait_until_ready(admin).await?;
        Ok(server)
    }

    async fn wait_until_ready(&mut self, admin: SocketAddr) -> Result<()> {
        let started = Instant::now();
        while !self.is_ready(admin).await {
            if let Some(status) = self.child.try_wait()? {
                bail!("{} ended with {status} before it was ready:\n{}", self.name(), self.log());
            }
            if started.elapsed() > START_LIMIT {
                bail!("{} is not ready after {START_LIMIT:?}:\n{}", self.name(), self.log());
            }
            sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    async fn is_ready(&self, admin: SocketAddr) -> bool {
        match self.contender {
            Contender::Plain => self.has_said(LISTENING) == 1,
            contender if contender.is_wasmtime() => self.has_said(wasmtime::LISTENING) == 1,
            Contender::Fastapi => self.has_said(fastapi::READY) == fastapi::workers(),
            _ => http::request(admin, Method::GET, "/readyz")
                .await
                .is_ok_and(|answer| answer.status() == StatusCode::OK),
        }
    }

    /// In how many lines of its output.
    fn has_said(&self, words: &str) -> usize {
        self.log().lines().filter(|line| line.contains(words)).count()
    }

    /// Fails with what the server printed if it has ended.
    pub(crate) fn still_runs(&mut self) -> Result<()> {
        if let Some(status) = self.child.try_wait()? {
            bail!("{} ended with {status} under load:\n{}", self.name(), self.log());
        }
        Ok(())
    }

    /// Where Tally's second listener is.
    pub(crate) fn admin(&self) -> SocketAddr {
        self.admin
    }

    /// Ends the server at once, whatever it is at.
    pub(crate) async fn kill(mut self) -> Result<()> {
        Ok(self.child.kill().await?)
    }

    /// Ends the server with `SIGTERM`, and waits until it has ended.
    pub(crate) async fn end(mut self) -> Result<()> {
        signal_process(self.id, "TERM")?;
        let ended = timeout(END_LIMIT, self.child.wait()).await;
        ended.with_context(|| {
            format!("{} did not end within {END_LIMIT:?}:\n{}", self.name(), self.log())
        })??;
        Ok(())
    }

    pub(crate) fn id(&self) -> u32 {
        self.id
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    fn name(&self) -> &'static str {
        self.contender.name(None)
    }

    fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Server {
    /// Killed at once, uvicorn would leave its workers behind.
    fn drop(&mut self) {
        if !matches!(self.child.try_wait(), Ok(None)) {
            return;
        }
        let tree = processes::tree(self.id).unwrap_or_default();
        let _ = signal_process(self.id, "TERM");
        let started = Instant::now();
        while matches!(self.child.try_wait(), Ok(None)) && started.elapsed() < DROP_LIMIT {
            thread::sleep(Duration::from_millis(20));
        }
        if matches!(self.child.try_wait(), Ok(None)) {
            for process in tree {
                let _ = signal_process(process, "KILL");
            }
        }
    }
}
