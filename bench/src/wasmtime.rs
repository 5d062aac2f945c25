//! `wasmtime serve`, the peer that answers from the same component.
//!
//! By default it already makes a fresh instance for each request to a component of WASI 0.2
//! (`--max-instance-reuse-count`, which is 128 only for those of WASI 0.3), takes instances from the
//! pooling allocator where there is address space for it, and maps initial memory copy-on-write.

use std::path::Path;

use anyhow::Result;
use tokio::process::Command;

use crate::program;

/// How to get it: the version that Tally is built with.
const INSTALL: &str = "cargo install wasmtime-cli --version 48.0.8 --locked";

/// What it prints when it is ready.
pub(crate) const LISTENING: &str = "Serving HTTP on ";

/// The settings that were best for it, each tried by itself and with the others.
pub(crate) const TUNED: [&str; 0] = [];

/// The command that serves a component.
pub(crate) fn serve(wasmtime: &Path, settings: &[&str], listen: &str, guest: &Path) -> Command {
    let mut command = program::command(wasmtime);
    command.arg("serve").args(settings).args(["--addr", listen]).arg(guest);
    command
}

/// Which version it is; where it is not installed, the error tells how to get it.
pub(crate) async fn version(wasmtime: &Path) -> Result<String> {
    let mut version = program::command(wasmtime);
    version.arg("--version");
    Ok(program::output(version, INSTALL).await?.trim().to_owned())
}
