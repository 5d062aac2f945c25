//! The plain-hyper executable beside this one.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

use crate::program;

/// Finds it. `cargo run` builds no executable but the one it runs: there, it is built now.
pub(crate) async fn build() -> Result<PathBuf> {
    let this = std::env::current_exe()?;
    let dir = this.parent().context("the executable is in no folder")?;
    let peer = dir.join("plain-hyper");
    let (cargo, package) = (std::env::var_os("CARGO"), std::env::var_os("CARGO_MANIFEST_DIR"));
    if let (Some(cargo), Some(package)) = (cargo, package) {
        eprintln!("building plain-hyper");
        let mut build = program::command(Path::new(&cargo));
        build.args(["build", "--quiet", "--bin", "plain-hyper", "--manifest-path"]);
        build.arg(Path::new(&package).join("Cargo.toml"));
        // The profile's folder is in the target folder.
        if let Some(target) = dir.parent() {
            build.arg("--target-dir").arg(target);
        }
        if !cfg!(debug_assertions) {
            build.arg("--release");
        }
        program::output(build, "").await.context("cannot build plain-hyper")?;
    }
    if !peer.exists() {
        bail!(
            "{} is not there; build it with cargo build --release -p tally-bench, or name it with --peer",
            peer.display()
        );
    }
    Ok(peer)
}
