//! The two servers: starting one, waiting until it is ready, and ending it.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use clap::ValueEnum;
use hyper::{Method, StatusCode};
use tally_testkit::free_port;
use tokio::{
    process::{Child, Command},
    time::{sleep, timeout},
};

use crate::{http, program};

/// Longest time until a server is ready; generous, as Tally may have to compile its guest.
const START_LIMIT: Duration = Duration::from_secs(60);

/// Longest time from `SIGTERM` to the end of the process.
const END_LIMIT: Duration = Duration::from_secs(15);

/// What plain-hyper prints when it is ready.
const LISTENING: &str = "listening on ";

/// Which server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Kind {
    Plain,
    Tally,
}

/// Where the executables are.
pub(crate) struct Programs {
    pub(crate) plain: PathBuf,
    pub(crate) tally: PathBuf,
    pub(crate) guest: PathBuf,
}

/// A running server; killed when dropped.
pub(crate) struct Server {
    kind: Kind,
    child: Child,
    id: u32,
    address: SocketAddr,
    log: PathBuf,
}

impl Kind {
    /// Its name in the table.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain hyper",
            Self::Tally => "tally",
        }
    }
}

impl Programs {
    /// Whether all files are there that a server needs.
    pub(crate) fn check(&self, kind: Kind) -> Result<()> {
        let needed = match kind {
            Kind::Plain => vec![(&self.plain, "build it, or name it with --peer")],
            Kind::Tally => vec![
                (&self.tally, "build it with cargo build --release, or name it with --tally"),
                (&self.guest, "build it in the folder guest, or name it with --guest"),
            ],
        };
        for (path, how) in needed {
            if !path.is_file() {
                bail!("{} is not there; {how}", path.display());
            }
        }
        Ok(())
    }

    fn command(&self, kind: Kind, store: &str, listen: SocketAddr, admin: SocketAddr) -> Command {
        let mut command = match kind {
            Kind::Plain => program::command(&self.plain),
            Kind::Tally => {
                let mut command = program::command(&self.tally);
                command.arg("serve").arg(&self.guest).args(["--admin", &admin.to_string()]);
                command
            }
        };
        command.args(["--store", store, "--listen", &listen.to_string()]);
        command
    }
}

impl Server {
    /// Starts a server on a store, and returns it when it is ready. Its output goes to a file.
    pub(crate) async fn start(
        programs: &Programs,
        kind: Kind,
        store: &str,
        dir: &Path,
    ) -> Result<Self> {
        let local = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let (address, admin) = (local(free_port()?), local(free_port()?));
        let log = dir.join(format!("{}.log", kind.name()));
        let output = fs::File::create(&log)?;
        let mut command = programs.command(kind, store, address, admin);
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
            Kind::Plain => self.log().lines().any(|line| line.starts_with(LISTENING)),
            Kind::Tally => http::request(admin, Method::GET, "/readyz")
                .await
                .is_ok_and(|(status, _)| status == StatusCode::OK),
        }
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
