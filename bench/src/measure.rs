//! One measured window of one server.

use std::{path::Path, time::Duration};

use anyhow::Result;

use crate::{
    load::{Load, Target, Wrk},
    processor::Clock,
    programs::{Kind, Programs},
    server::Server,
    table::{Sample, per_request},
};

/// Load before the window, which is not measured: connections, caches and branch predictors settle.
pub(crate) const WARM_UP: Duration = Duration::from_secs(1);

/// What all windows have in common.
pub(crate) struct Measure<'a> {
    pub(crate) programs: &'a Programs,
    pub(crate) wrk: &'a Wrk,
    pub(crate) clock: Clock,
    pub(crate) window: Duration,
    pub(crate) rounds: u32,
    /// For what is needed only while measuring.
    pub(crate) dir: &'a Path,
}

/// What a server did.
pub(crate) struct Window {
    pub(crate) warm_up: Load,
    pub(crate) load: Load,
    pub(crate) sample: Sample,
}

impl Measure<'_> {
    /// Puts load on a server. `store` is the process that does the work of its store, if any.
    pub(crate) async fn window(
        &self,
        server: &mut Server,
        target: &Target,
        store: Option<u32>,
    ) -> Result<Window> {
        let warm_up = self.wrk.run(server.address(), target, WARM_UP).await?;
        let before = self.used(server, store)?;
        let load = self.wrk.run(server.address(), target, self.window).await?;
        let after = self.used(server, store)?;
        server.still_runs()?;

        let cpu = after.0.saturating_sub(before.0);
        let store_cpu = after.1.zip(before.1).map(|(after, before)| after.saturating_sub(before));
        let sample = Sample {
            rate: rate(load.requests, load.duration),
            cpu: per_request(cpu, load.requests),
            store_cpu: store_cpu.and_then(|cpu| per_request(cpu, load.requests)),
            p50: Some(load.p50.as_secs_f64()),
            p99: Some(load.p99.as_secs_f64()),
        };
        Ok(Window { warm_up, load, sample })
    }

    /// CPU time so far of the server and of the store.
    fn used(&self, server: &Server, store: Option<u32>) -> Result<(Duration, Option<Duration>)> {
        let of_store = store.map(|id| self.clock.used(id)).transpose()?;
        Ok((self.clock.used(server.id())?, of_store))
    }
}

impl Window {
    /// Answers with an error status, and failures of sockets.
    pub(crate) fn failures(&self) -> Vec<String> {
        let mut notes = Vec::new();
        for (load, name) in [(&self.warm_up, "warming up"), (&self.load, "measuring")] {
            if load.refused > 0 {
                let (refused, requests) = (load.refused, load.requests);
                notes.push(format!("{refused} of {requests} answers were errors while {name}"));
            }
            for (what, errors) in load.socket_errors.iter().filter(|(_, errors)| *errors > 0) {
                notes.push(format!("{errors} socket errors ({what}) while {name}"));
            }
        }
        notes
    }
}

/// The servers in the order of a round: it alternates, so that none always goes first.
pub(crate) fn order(kinds: &[Kind], round: u32) -> Vec<Kind> {
    let mut order = kinds.to_vec();
    if round % 2 == 1 {
        order.reverse();
    }
    order
}

#[expect(clippy::cast_precision_loss, reason = "far below 2^53")]
fn rate(requests: u64, duration: Duration) -> f64 {
    requests as f64 / duration.as_secs_f64()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn load(requests: u64, refused: u64, timeouts: u64) -> Load {
        Load {
            requests,
            refused,
            socket_errors: vec![("read", 0), ("timeout", timeouts)],
            duration: Duration::from_secs(1),
            p50: Duration::ZERO,
            p99: Duration::ZERO,
        }
    }

    pub(crate) fn window(warm_up: Load, load: Load) -> Window {
        Window { warm_up, load, sample: Sample::default() }
    }

    #[test]
    fn failures_are_said() {
        assert!(window(load(100, 0, 0), load(200, 0, 0)).failures().is_empty());
        assert_eq!(
            window(load(100, 5, 0), load(200, 0, 1)).failures(),
            [
                "5 of 100 answers were errors while warming up",
                "1 socket errors (timeout) while measuring"
            ]
        );
    }

    #[test]
    fn every_other_round_is_reversed() {
        let kinds = [Kind::Plain, Kind::Tally, Kind::Wasmtime];
        assert_eq!(order(&kinds, 0), kinds);
        assert_eq!(order(&kinds, 1), [Kind::Wasmtime, Kind::Tally, Kind::Plain]);
        assert_eq!(order(&kinds, 2), kinds);
    }
}
