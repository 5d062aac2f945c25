//! What the numbers depend on, for the line above the tables.

use std::{fs, path::Path, thread::available_parallelism};

use crate::{contender::Files, options::Options, program, wasmtime};

/// Says so, each with a name. What cannot be found out is left out.
pub(crate) async fn describe(
    dir: &Path,
    options: &Options,
    files: &Files,
) -> Vec<(&'static str, String)> {
    let mut parts = Vec::new();
    let cores = available_parallelism().map_or(0, std::num::NonZero::get);
    parts.push(("cores for server, store and load together", cores.to_string()));
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info.lines().find(|line| line.starts_with("model name"));
    let model = model.and_then(|line| Some(line.split_once(": ")?.1.to_owned()));
    parts.extend(model.map(|model| ("processor", model)));
    // Above zero, something else used the machine before this did.
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split_whitespace().next().map(str::to_owned);
    parts.extend(load.map(|load| ("load average at the start", load)));
    let mut system = program::command("stat");
    system.args(["--file-system", "--format=%T"]).arg(dir);
    if let Ok(system) = program::output(system, "").await {
        parts.push(("file system of the stores", system.trim().to_owned()));
    }
    parts.push(("seconds a window", options.seconds.to_string()));
    parts.push(("rounds", options.rounds.to_string()));
    if options.preload_keys > 0 {
        parts.push(("records of requests put into each store", options.preload_keys.to_string()));
    }
    if !options.tally_args.is_empty() {
        parts.push(("arguments for tally serve", options.tally_args.join(" ")));
    }
    if options.reconnect {
        parts.push(("connections", "one for each request".into()));
    }
    if let Ok(version) = wasmtime::version(&files.wasmtime).await {
        parts.push(("wasmtime serve", version));
    }
    if cfg!(debug_assertions) {
        parts.push(("build", "DEBUG, of plain hyper as well".into()));
    }
    parts
}
