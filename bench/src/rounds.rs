//! All windows, in turn: contenders alternate under each load, round after round, so that what else
//! the machine does meanwhile falls on all of them. Loads with an `Idempotency-Key` take turns with
//! the same loads without.

use anyhow::{Result, bail};

use crate::{
    backend::{Backend, Store},
    contender::Contender,
    load::{self, Load},
    measure::{Measure, Window},
    options::Options,
    results::{Key, Metric, Results},
};

/// Percents of what a server can do at which its latency is measured.
const SHARES: [u32; 2] = [50, 80];

/// What is being measured.
pub(crate) struct Rounds<'a> {
    pub(crate) measure: Measure<'a>,
    pub(crate) options: &'a Options,
    pub(crate) results: &'a mut Results,
    /// Windows so far.
    pub(crate) windows: u32,
}

impl Rounds<'_> {
    /// Measures all that was asked for.
    pub(crate) async fn run(&mut self) -> Result<()> {
        if self.options.loads.contains(&Load::Hello) {
            self.loads(&[Load::Hello], None).await;
        }
        let mut loads = self.options.loads.clone();
        loads.retain(|load| *load != Load::Hello);
        let backends = if loads.is_empty() { &[] } else { self.options.backends.as_slice() };
        for backend in backends {
            match Store::start(*backend, self.measure.dir) {
                Ok(store) => match self.preload(&store).await {
                    Ok(()) => self.loads(&loads, Some(&store)).await,
                    Err(error) => {
                        self.results.leave_out(format!("{}, preloaded: {error:#}", backend.name()))
                    }
                },
                Err(error) => {
                    self.results.leave_out(format!("{}: {error:#}", backend.name()));
                }
            }
        }
        if self.results.rows.is_empty() {
            bail!("nothing was measured: see above for what is missing");
        }
        Ok(())
    }

    /// Fills a store with as many records of requests as was asked for.
    async fn preload(&self, store: &Store) -> Result<()> {
        let records = self.options.preload_keys;
        if records == 0 {
            return Ok(());
        }
        let mut contenders = self.options.contenders.iter();
        let Some(tally) = contenders.find(|contender| contender.is_tally()) else {
            bail!("--preload-keys takes Tally among the contenders, which makes the tables");
        };
        eprintln!("putting {records} records of requests into {}", store.backend().name());
        self.measure.preload(*tally, store, records).await
    }

    async fn loads(&mut self, loads: &[Load], store: Option<&Store>) {
        for group in load::groups(loads) {
            let mut turns = Vec::new();
            for contender in &self.options.contenders {
                for load in &group {
                    if self.is_present(*contender, *load, store.map(Store::backend)).await {
                        turns.push((*contender, *load));
                    }
                }
            }
            for connections in &self.options.connections {
                self.alternate(&turns, *connections, store).await;
            }
        }
    }

    /// Whether a contender takes a load, and its files are there.
    async fn is_present(
        &mut self,
        contender: Contender,
        load: Load,
        backend: Option<Backend>,
    ) -> bool {
        if !contender.takes(load, backend) {
            return false;
        }
        let name = contender.name(None);
        if self.options.reconnect && !contender.is_server() {
            self.results.leave_out(format!("{name}: it keeps its connections to the store"));
            return false;
        }
        let missing = self.measure.files.missing(contender, load).await;
        if let Some(missing) = &missing {
            self.results.leave_out(format!("{name}: {missing}"));
        }
        missing.is_none()
    }

    async fn alternate(
        &mut self,
        turns: &[(Contender, Load)],
        connections: u32,
        store: Option<&Store>,
    ) {
        let backend = store.map(Store::backend);
        let shares = SHARES.into_iter().filter(|_| self.options.open_loop).map(Some);
        for share in std::iter::once(None).chain(shares) {
            for round in 0..self.options.rounds {
                for (contender, load) in order(turns, round) {
                    let key = Key { load, backend, connections, share, contender };
                    self.window(key, store).await;
                }
            }
        }
    }

    /// Measures one window. One that fails is said, and the others go on.
    async fn window(&mut self, key: Key, store: Option<&Store>) {
        let rate =
            key.share.map(|share| self.capacity(key).map(|rate| rate * f64::from(share) / 1e2));
        // What puts load on a store by itself takes no rate; what failed before has none.
        if rate == Some(None) || (rate.is_some() && !key.contender.is_server()) {
            return;
        }
        self.windows += 1;
        let Key { load, connections, contender, .. } = key;
        let (rate, number) = (rate.flatten(), self.windows);
        let window = Window { contender, load, connections, store, rate, number };
        eprintln!("{key}");
        match self.measure.window(window).await {
            Ok(outcome) => {
                for note in outcome.notes {
                    self.results.note(format!("{key}: {note}"));
                }
                self.results.add(key, outcome.sample);
            }
            Err(error) => self.results.note(format!("{key}: {error:#}")),
        }
    }

    /// Requests a second that a contender answered under as much load as it takes.
    fn capacity(&self, key: Key) -> Option<f64> {
        let row = self.results.row(Key { share: None, ..key })?;
        Some(row.spread(Metric::Rate)?.median)
    }
}

/// The windows of a round in their order: it alternates, so that none always goes first. A load with
/// an `Idempotency-Key` stays next to the one without of the same contender.
fn order(turns: &[(Contender, Load)], round: u32) -> Vec<(Contender, Load)> {
    let mut order = turns.to_vec();
    if round % 2 == 1 {
        order.reverse();
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_other_round_is_reversed() {
        let plain = (Contender::Plain, Load::Increment);
        let tally = (Contender::Tally, Load::Increment);
        let keyed = (Contender::Tally, Load::IncrementKeyed);
        let turns = [plain, tally, keyed];
        assert_eq!(order(&turns, 0), turns);
        assert_eq!(order(&turns, 1), [keyed, tally, plain]);
        assert_eq!(order(&turns, 2), turns);
    }
}
