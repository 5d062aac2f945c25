//! All windows, in turn: contenders alternate under each load, round after round, so that what else
//! the machine does meanwhile falls on all of them.

use anyhow::{Result, bail};

use crate::{
    backend::{Backend, Store},
    contender::Contender,
    load::Load,
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
                Ok(store) => self.loads(&loads, Some(&store)).await,
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

    async fn loads(&mut self, loads: &[Load], store: Option<&Store>) {
        for load in loads {
            let contenders = self.present(*load, store.map(Store::backend)).await;
            for connections in &self.options.connections {
                self.alternate(&contenders, *load, *connections, store).await;
            }
        }
    }

    /// The contenders for a load whose files are there.
    async fn present(&mut self, load: Load, backend: Option<Backend>) -> Vec<Contender> {
        let mut present = Vec::new();
        for contender in &self.options.contenders {
            if !contender.takes(load, backend) {
                continue;
            }
            if self.options.reconnect && !contender.is_server() {
                let name = contender.name(None);
                self.results.leave_out(format!("{name}: it keeps its connections to the store"));
                continue;
            }
            match self.measure.files.missing(*contender, load).await {
                None => present.push(*contender),
                Some(missing) => {
                    self.results.leave_out(format!("{}: {missing}", contender.name(None)));
                }
            }
        }
        present
    }

    async fn alternate(
        &mut self,
        contenders: &[Contender],
        load: Load,
        connections: u32,
        store: Option<&Store>,
    ) {
        let backend = store.map(Store::backend);
        let shares = SHARES.into_iter().filter(|_| self.options.open_loop).map(Some);
        for share in std::iter::once(None).chain(shares) {
            for round in 0..self.options.rounds {
                for contender in order(contenders, round) {
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

/// The contenders in the order of a round: it alternates, so that none always goes first.
fn order(contenders: &[Contender], round: u32) -> Vec<Contender> {
    let mut order = contenders.to_vec();
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
        let contenders = [Contender::Plain, Contender::Tally, Contender::Fastapi];
        assert_eq!(order(&contenders, 0), contenders);
        assert_eq!(order(&contenders, 1), [Contender::Fastapi, Contender::Tally, Contender::Plain]);
        assert_eq!(order(&contenders, 2), contenders);
    }
}
