//! `tally import`: the configuration of an application that was made for another host.

mod outgoing;
mod spin;

use std::{
    fmt::Write as _,
    fs::OpenOptions,
    io::Write as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};

use crate::config::{self, DEFAULT_FILE, RouteOptions};

/// What stands for standard output.
const STDOUT: &str = "-";

/// What became of an application's configuration.
#[derive(Debug, Default)]
struct Imported {
    routes: Vec<RouteOptions>,
    /// What could not be carried over, and what to do about it.
    notes: Vec<String>,
}

/// Reads a `spin.toml` and writes a `tally.toml` beside it, or to another file; `-` is standard
/// output. Gives what to tell people.
///
/// # Errors
/// When the manifest cannot be read, the file is there already, or no part of the application can be
/// served here.
pub fn import(manifest: &Path, output: Option<&Path>) -> Result<String> {
    let text = std::fs::read_to_string(manifest)
        .with_context(|| format!("cannot read {}", manifest.display()))?;
    let folder = manifest.parent().unwrap_or(Path::new(""));
    let output = output.map_or_else(|| folder.join(DEFAULT_FILE), Path::to_owned);
    let imported = spin::read(&text, &sources(folder, &output)?)
        .with_context(|| manifest.display().to_string())?;
    if imported.routes.is_empty() {
        let notes = imported.notes.join("\n  ");
        bail!("{}: there is nothing that answers HTTP\n  {notes}", manifest.display());
    }
    let written = write(manifest, &imported)?;
    if output == Path::new(STDOUT) {
        return Ok(written.trim_end().to_owned());
    }
    // Never over what somebody has written.
    let opened = OpenOptions::new().write(true).create_new(true).open(&output);
    let mut file = opened.with_context(|| {
        format!(
            "cannot write {}; name another file with --output, or {STDOUT} to print it",
            output.display()
        )
    })?;
    file.write_all(written.as_bytes())?;
    let count = imported.routes.len();
    let routes = if count == 1 { "route" } else { "routes" };
    let mut told = format!("wrote {} with {count} {routes}", output.display());
    for note in &imported.notes {
        write!(told, "\nnot carried over: {note}")?;
    }
    Ok(told)
}

/// Where files of the manifest are, as seen from the file that is written.
fn sources(folder: &Path, output: &Path) -> Result<PathBuf> {
    let is_beside = output.parent() == Some(folder) || output == Path::new(STDOUT);
    if is_beside {
        return Ok(PathBuf::new());
    }
    let folder = if folder == Path::new("") { Path::new(".") } else { folder };
    folder.canonicalize().with_context(|| format!("cannot find {}", folder.display()))
}

/// The file's text.
fn write(manifest: &Path, imported: &Imported) -> Result<String> {
    let mut text = format!("# From {}, by tally import.\n", manifest.display());
    for note in &imported.notes {
        // A note is one line.
        writeln!(text, "# Not carried over: {}", note.escape_debug())?;
    }
    text.push('\n');
    text.push_str(&config::file_of(imported.routes.clone())?);
    Ok(text)
}
