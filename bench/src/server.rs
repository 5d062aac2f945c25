//! A running server: starting it, waiting until it is ready, and ending it.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use hyper::{Method, StatusCode};
use tally_testkit::free_port;
use tokio::{
    process::Child,
    time::{sleep, timeout},
};

use crate::{
    http, program,
    programs::{Kind, Programs, Task},
    wasmtime,
};

/// Longest time until a server is ready; generous, as a guest may have to be compiled.
const START_LIMIT: Duration = Duration::from_secs(60);

/// Longest time from `SIGTERM` to the end of the process.
const END_LIMIT: Duration = Duration::from_secs(15);

/// What plain-hyper prints when it is ready.
const LISTENING: &str = "listening on ";

/// A running server; killed when dropped.
pub(crate) struct Server {
    kind: Kind,
    child: Child,
    id: u32,
    address: SocketAddr,
    log: PathBuf,
}

impl Server {
    /// Starts a server, and returns it when it is ready. Its output goes to a file.
    pub(crate) async fn start(
        programs: &Programs,
        kind: Kind,
        task: Task<'_>,
        dir: &Path,
    ) -> Result<Self> {
        let local = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let (address, admin) = (local(free_port()?), local(free_port()?));
        let log = dir.join(format!("{}.log", kind.name()));
        let output = fs::File::create(&log)?;
        let mut command = programs.command(kind, task, address, admin);
        command.stdout(output.try_clone()?).stderr(output);
        let child = command
            .spawn()
            .map_err(|error| program::cannot_start(error, &command, "see tally-bench --help"))?;
        let id = child.id().context("the server is gone at once")?;
        let mut server = Self { kind, child, id, address, log };
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
        match self.kind {
            Kind::Plain => self.has_said(LISTENING),
            Kind::Wasmtime | Kind::WasmtimeTuned => self.has_said(wasmtime::LISTENING),
            Kind::Tally => http::request(admin, Method::GET, "/readyz")
                .await
                .is_ok_and(|answer| answer.status() == StatusCode::OK),
        }
    }

    fn has_said(&self, start: &str) -> bool {
        self.log().lines().any(|line| line.starts_with(start))
    }

    /// Fails with what the server printed if it has ended.
    pub(crate) fn still_runs(&mut self) -> Result<()> {
        if let Some(status) = self.child.try_wait()? {
            bail!("{} ended with {status} under load:\n{}", self.name(), self.log());
        }
        Ok(())
    }

    /// Ends the server with `SIGTERM`, and waits until it has ended.
    pub(crate) async fn end(mut self) -> Result<()> {
        program::terminate(self.id).await?;
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
        self.kind.name()
    }

    fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }
}
