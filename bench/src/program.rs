//! Running other programs.

use std::{io::ErrorKind, path::Path, process::Stdio};

use anyhow::{Result, anyhow, bail};
use tokio::process::Command;

/// Settings that would change what is measured.
const UNSET: [&str; 3] = ["RUST_BACKTRACE", "RUST_LIB_BACKTRACE", "RUST_LOG"];

/// A program to be run: killed when its handle is dropped, and without settings for debugging.
pub(crate) fn command(program: impl AsRef<Path>) -> Command {
    let mut command = Command::new(program.as_ref());
    command.stdin(Stdio::null()).kill_on_drop(true);
    for name in UNSET {
        command.env_remove(name);
    }
    command
}

/// Runs a program to its end, and returns what it printed. `install` tells how to get it.
pub(crate) async fn output(mut command: Command, install: &str) -> Result<String> {
    let output = command.output().await.map_err(|error| cannot_start(error, &command, install))?;
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        let errors = String::from_utf8_lossy(&output.stderr);
        bail!("{:?} ended with {}:\n{errors}{printed}", command.as_std(), output.status);
    }
    Ok(printed)
}

/// Why a program did not start.
pub(crate) fn cannot_start(
    error: std::io::Error,
    command: &Command,
    install: &str,
) -> anyhow::Error {
    let name = command.as_std().get_program().to_string_lossy();
    match error.kind() {
        ErrorKind::NotFound => anyhow!("{name} is not there; {install}"),
        _ => anyhow!(error).context(format!("cannot start {name}")),
    }
}
