//! CPU time of processes, from `/proc`.

use std::{fs, time::Duration};

use anyhow::{Context as _, Result};

use crate::program;

/// Reads CPU times; knows the unit that the kernel counts them in.
pub(crate) struct Clock {
    ticks_a_second: f64,
}

/// What a line of `/proc/PID/stat` says, in ticks.
#[derive(Debug, PartialEq)]
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

    /// User and system time so far of a process with all its children, those that ended included:
    /// never less than before.
    pub(crate) fn used(&self, process: u32) -> Result<Duration> {
        let server = read(process).with_context(|| format!("process {process} is gone"))?;
        let mut ticks = server.own.saturating_add(server.ended_children);
        for entry in fs::read_dir("/proc")? {
            let id = entry?.file_name().to_str().and_then(|name| name.parse().ok());
            // Processes come and go while the folder is read.
            let child = id.and_then(read).filter(|stat| stat.parent == process);
            ticks = ticks.saturating_add(child.map_or(0, |stat| stat.own));
        }
        #[expect(clippy::cast_precision_loss, reason = "a process does not live that long")]
        Ok(Duration::from_secs_f64(ticks as f64 / self.ticks_a_second))
    }
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
    fn this_process_can_be_read() {
        let stat = read(std::process::id()).unwrap();
        assert_ne!(stat.parent, 0);
    }
}
