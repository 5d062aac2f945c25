//! `wasmtime serve`, the peer that answers from the same component.
//!
//! By default it makes a fresh instance for each request to a component of WASI 0.2
//! (`--max-instance-reuse-count` is 1; it is 128 only for those of WASI 0.3), takes instances from
//! the pooling allocator where there is address space for it, and maps memory copy-on-write.

use std::path::Path;

use anyhow::Result;
use tokio::process::Command;

use crate::program;

/// How to get it: the version that Tally is built with.
const INSTALL: &str = "cargo install wasmtime-cli --version 48.0.8 --locked";

/// What it prints when it is ready.
pub(crate) const LISTENING: &str = "Serving HTTP on ";

/// What it does not have by default, though Rust's standard library imports it: `wasi:cli`.
const NEEDED: [&str; 2] = ["-S", "cli"];

/// The settings that were best for it.
///
/// Two of them decide. Of some 80 µs of CPU that a hello took with the defaults, keeping memory
/// left 33, keeping tables 65, and both 25. The others made no difference here; Tally has them.
///
/// Tried in addition, and no better beyond chance: slots of 16 MiB, giving memory back in batches,
/// inlining, tables filled eagerly, resident stacks, no prefix for logs, no standard input, no
/// garbage collection, no WASI 0.3, no time for idle instances. It cannot serve without support for
/// concurrent calls, which Tally does without; memory protection keys are not built into it.
pub(crate) const TUNED: [&str; 10] = [
    // The default where there is address space for it; the others are about it.
    "-O",
    "pooling-allocator=y",
    // After use, a slot's memory is reset by hand up to so many bytes, rather than given back to
    // the kernel, which costs a system call, page faults, and an interruption of every other core.
    "-O",
    "pooling-memory-keep-resident=262144",
    // The same for a slot's tables.
    "-O",
    "pooling-table-keep-resident=16384",
    // The kernel, if it can, says which pages were written to: only they are reset.
    "-O",
    "pooling-pagemap-scan=auto",
    // So many slots may keep what they have for the next instance; the default is 100.
    "-O",
    "pooling-max-unused-warm-slots=1000",
];

/// A fresh instance for each request, also to a component of WASI 0.3.
pub(crate) const FRESH: [&str; 2] = ["--max-instance-reuse-count", "1"];

/// The command that serves a component.
pub(crate) fn serve(wasmtime: &Path, settings: &[&str], listen: &str, guest: &Path) -> Command {
    let mut command = program::command(wasmtime);
    command.arg("serve").args(NEEDED).args(settings).args(["--addr", listen]).arg(guest);
    command
}

/// Which version it is; where it is not installed, the error tells how to get it.
pub(crate) async fn version(wasmtime: &Path) -> Result<String> {
    let mut version = program::command(wasmtime);
    version.arg("--version");
    Ok(program::output(version, INSTALL).await?.trim().to_owned())
}
