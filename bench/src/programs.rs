//! The servers' executables, and how each is called.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
};

use anyhow::{Result, bail};
use clap::ValueEnum;
use tokio::process::Command;

use crate::{program, wasmtime};

/// Which server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Kind {
    /// The same routes without WebAssembly
    Plain,
    Tally,
    /// `wasmtime serve` as it is
    Wasmtime,
    /// `wasmtime serve` with the settings that were best for it
    WasmtimeTuned,
}

/// Where the executables are.
pub(crate) struct Programs {
    pub(crate) plain: PathBuf,
    pub(crate) tally: PathBuf,
    pub(crate) wasmtime: PathBuf,
}

/// What a server is to serve. Plain hyper knows its routes without a guest, and wasmtime no store.
#[derive(Clone, Copy)]
pub(crate) struct Task<'a> {
    pub(crate) guest: &'a Path,
    pub(crate) store: &'a str,
}

impl Kind {
    /// Its name in the table.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain hyper",
            Self::Tally => "tally",
            Self::Wasmtime => "wasmtime serve",
            Self::WasmtimeTuned => "wasmtime serve, tuned",
        }
    }

    pub(crate) fn is_wasmtime(self) -> bool {
        matches!(self, Self::Wasmtime | Self::WasmtimeTuned)
    }
}

impl Programs {
    /// Whether all files are there that a server needs. Whether wasmtime is, only a call tells.
    pub(crate) fn check(&self, kind: Kind, guest: &Path) -> Result<()> {
        let guest = (guest, "build it in the folder guest, or name it: see tally-bench --help");
        let tally = "build it with cargo build --release, or name it with --tally";
        let needed = match kind {
            Kind::Plain => vec![(self.plain.as_path(), "build it, or name it with --peer")],
            Kind::Tally => vec![(self.tally.as_path(), tally), guest],
            Kind::Wasmtime | Kind::WasmtimeTuned => vec![guest],
        };
        for (path, how) in needed {
            if !path.is_file() {
                bail!("{} is not there; {how}", path.display());
            }
        }
        Ok(())
    }

    /// How a server is called. Only Tally has a second listener.
    pub(crate) fn command(
        &self,
        kind: Kind,
        task: Task<'_>,
        listen: SocketAddr,
        admin: SocketAddr,
    ) -> Command {
        let (listen, admin) = (listen.to_string(), admin.to_string());
        match kind {
            Kind::Plain => {
                let mut command = program::command(&self.plain);
                command.args(["--store", task.store, "--listen", &listen]);
                command
            }
            Kind::Tally => {
                let mut command = program::command(&self.tally);
                command.arg("serve").arg(task.guest);
                command.args(["--store", task.store, "--listen", &listen, "--admin", &admin]);
                command
            }
            Kind::Wasmtime => wasmtime::serve(&self.wasmtime, &[], &listen, task.guest),
            Kind::WasmtimeTuned => {
                wasmtime::serve(&self.wasmtime, &wasmtime::TUNED, &listen, task.guest)
            }
        }
    }
}
