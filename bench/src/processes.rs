//! CPU time and memory of processes, from `/proc`.

use std::{collections::HashMap, fs, time::Duration};

use anyhow::{Context as _, Result};

use crate::program;

/// Reads CPU times; knows the unit that the kernel counts them in.
pub(crate) struct Clock {
    ticks_a_second: f64,
}

/// What a line of `/proc/PID/stat` says, in ticks.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Stat {
    parent: u32,
    /// User and system time of the process.
    own: u64,
    /// The same of its children that have ended and been waited for.
    ended_children: u64,
}

impl Clock {
    pub(crate) async fn new() -> Result<Self> {
        let mut getconf = program::command("getconf");
        getconf.arg("CLK_TCK");
        let ticks = program::output(getconf, "on Debian: apt-get install libc-bin").await?;
        let ticks_a_second = ticks.trim().parse().context("getconf CLK_TCK prints no number")?;
        Ok(Self { ticks_a_second })
    }

    /// User and system time so far of a process and all that it started, those that ended included.
    pub(crate) fn used(&self, process: u32) -> Result<Duration> {
        let tree = stats(process)?;
        let ticks = tree.iter().map(|(_, stat)| stat.own.saturating_add(stat.ended_children));
        #[expect(clippy::cast_precision_loss, reason = "a process does not live that long")]
        Ok(Duration::from_secs_f64(ticks.sum::<u64>() as f64 / self.ticks_a_second))
    }
}

/// A process and all that it started, and those started, and that still run: itself first.
pub(crate) fn tree(process: u32) -> Result<Vec<u32>> {
    Ok(stats(process)?.into_iter().map(|(id, _)| id).collect())
}

/// The most memory that was resident at once, in bytes, of a process and all that it started: each
/// one's own maximum, added up. Pages that they share count for each.
pub(crate) fn peak_memory(process: u32) -> Result<u64> {
    let peak = |id| {
        let status = fs::read_to_string(format!("/proc/{id}/status")).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
        line.split_whitespace().next()?.parse::<u64>().ok()
    };
    Ok(tree(process)?.into_iter().filter_map(peak).sum::<u64>().saturating_mul(1024))
}

fn stats(process: u32) -> Result<Vec<(u32, Stat)>> {
    let root = read(process).with_context(|| format!("process {process} is gone"))?;
    let mut children: HashMap<u32, Vec<(u32, Stat)>> = HashMap::new();
    for entry in fs::read_dir("/proc")? {
        let id = entry?.file_name().to_str().and_then(|name| name.parse().ok());
        // Processes come and go while the folder is read.
        if let Some((id, stat)) = id.and_then(|id| Some((id, read(id)?))) {
            children.entry(stat.parent).or_default().push((id, stat));
        }
    }
    let mut tree = vec![(process, root)];
    let mut next = 0;
    while let Some(&(id, _)) = tree.get(next) {
        tree.extend(children.remove(&id).unwrap_or_default());
        next += 1;
    }
    Ok(tree)
}

fn read(process: u32) -> Option<Stat> {
    parse(&fs::read_to_string(format!("/proc/{process}/stat")).ok()?)
}

/// See proc_pid_stat(5). The name of the program may hold spaces and parentheses.
fn parse(line: &str) -> Option<Stat> {
    let mut fields = line.rsplit_once(')')?.1.split_whitespace().skip(1);
    let parent = fields.next()?.parse().ok()?;
    let mut times = fields.skip(9).map(|field| field.parse::<u64>().ok());
    let mut sum = || times.next()??.checked_add(times.next()??);
    Some(Stat { parent, own: sum()?, ended_children: sum()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_found_behind_any_name() {
        let line = "42 (a) b (c) S 7 42 42 0 -1 4194560 100 200 3 4 11 22 33 44 20 0 5 0 99";
        assert_eq!(parse(line), Some(Stat { parent: 7, own: 33, ended_children: 77 }));
        assert_eq!(parse("42 (a) S 7 42"), None);
    }

    #[test]
    fn a_tree_has_the_process_and_what_it_started() {
        let mut child = std::process::Command::new("sleep").arg("10").spawn().unwrap();
        let tree = tree(std::process::id()).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(tree.first(), Some(&std::process::id()));
        assert!(tree.contains(&child.id()));
    }

    #[test]
    fn this_process_has_memory() {
        assert!(peak_memory(std::process::id()).unwrap() > 100_000);
    }
}
