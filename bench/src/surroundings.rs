//! What the numbers depend on, for the line above the tables.

use std::{fs, path::Path, thread::available_parallelism};

use crate::{load::Wrk, program};

/// Says so. What cannot be found out is left out.
pub(crate) async fn describe(dir: &Path, wrk: &Wrk, seconds: u32, rounds: u32) -> String {
    let cores = available_parallelism().map_or(0, std::num::NonZero::get);
    let mut parts = vec![format!("{cores} cores for server, store and load together")];
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info.lines().find(|line| line.starts_with("model name"));
    parts.extend(model.and_then(|line| Some(line.split_once(": ")?.1.to_owned())));
    let mut system = program::command("stat");
    system.args(["--file-system", "--format=%T"]).arg(dir);
    if let Ok(system) = program::output(system, "").await {
        parts.push(format!("stores on {}", system.trim()));
    }
    parts.push(wrk.describe(seconds));
    parts.push(match rounds {
        1 => "1 round".into(),
        rounds => format!("medians of {rounds} rounds"),
    });
    if cfg!(debug_assertions) {
        parts.push("plain hyper is a DEBUG build".into());
    }
    parts.join("; ")
}
