//! Random histories, each in a bucket of its own, many at once.

use std::{ops::AddAssign, sync::Arc, time::Duration};

use fastrand::Rng;
use futures_util::{
    StreamExt as _,
    future::join_all,
    stream::{self, FuturesUnordered},
};
use tally_state::Bucket;
use tokio::sync::Barrier;

use crate::{
    checker::is_linearizable,
    client::{Client, Recorder},
    counting,
    draw::{Asker, KEYS, Shape},
    history::{Answer, Clock, Event, Operation, Outcome, readable},
};

/// Histories that run at once: enough for batches that many share.
const AT_ONCE: usize = 64;

/// Clients of a long history of one counter, and operations of each.
const COUNTING: (usize, usize) = (64, 50);

/// How the operations of histories ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Summary {
    pub(crate) answered: usize,
    pub(crate) rejected: usize,
    pub(crate) not_applied: usize,
    pub(crate) unknown: usize,
}

impl Summary {
    pub(crate) fn of(events: &[Event]) -> Self {
        let mut summary = Self::default();
        for event in events {
            *match event.outcome {
                Outcome::Answered(Answer::Rejected(_)) => &mut summary.rejected,
                Outcome::Answered(_) => &mut summary.answered,
                Outcome::NotApplied => &mut summary.not_applied,
                Outcome::Unknown => &mut summary.unknown,
            } += 1;
        }
        summary
    }
}

impl AddAssign for Summary {
    fn add_assign(&mut self, other: Self) {
        self.answered += other.answered;
        self.rejected += other.rejected;
        self.not_applied += other.not_applied;
        self.unknown += other.unknown;
    }
}

/// The ways to one store: of each host that has it open, its workers.
pub(crate) type Hosts<C> = Vec<[C; 2]>;

/// The two ways that the clients of one history go: two workers of one host, or two hosts.
fn ways<'a, C>(hosts: &'a Hosts<C>, random: &mut Rng) -> [&'a C; 2] {
    let [host, other] = [(); 2].map(|()| &hosts[random.usize(..hosts.len())]);
    [&host[0], &other[1]]
}

/// Runs and checks histories; `Err` has the first that is not linearizable, with the seed.
pub(crate) async fn many<C: Client + 'static>(
    hosts: &Arc<Hosts<C>>,
    seed: u64,
    count: usize,
) -> Result<Summary, String> {
    each(seed, count, |number, seed| {
        let hosts = Arc::clone(hosts);
        async move { one(&hosts, number, seed).await }
    })
    .await
}

/// Runs so many histories, many at once, each with its number and a seed of its own.
pub(crate) async fn each<H>(
    seed: u64,
    count: usize,
    history: impl Fn(usize, u64) -> H,
) -> Result<Summary, String>
where
    H: Future<Output = Result<Summary, String>> + Send + 'static,
{
    let mut random = Rng::with_seed(seed);
    let mut running = stream::iter(0..count)
        .map(|number| tokio::spawn(history(number, random.u64(..))))
        .buffer_unordered(AT_ONCE);
    let mut summary = Summary::default();
    let mut wrong = Vec::new();
    while let Some(result) = running.next().await {
        match result.unwrap() {
            Ok(found) => summary += found,
            Err(history) => wrong.push(history),
        }
    }
    match wrong.first() {
        None => Ok(summary),
        Some(first) => Err(format!(
            "with seed {seed}, {} of {count} histories are not linearizable; {first}",
            wrong.len()
        )),
    }
}

/// Runs and checks one history.
async fn one<C: Client>(hosts: &Hosts<C>, number: usize, seed: u64) -> Result<Summary, String> {
    let mut random = Rng::with_seed(seed);
    let shape = Shape::draw(&mut random);
    let ways = ways(hosts, &mut random);
    let bucket = Bucket::new(&format!("history {number}")).unwrap();
    let histories = record(ways, &bucket, shape, &mut random).await;
    let mut summary = Summary::default();
    for (events, key) in histories.iter().zip(KEYS) {
        if !is_linearizable(events) {
            let events = readable(events);
            return Err(format!("history {number} of {shape:?} on {key:?}:\n{events}"));
        }
        summary += Summary::of(events);
    }
    Ok(summary)
}

/// Lets clients ask, and gives the history of each key, with a last read when all is quiet.
async fn record<C: Client>(
    ways: [&C; 2],
    bucket: &Bucket,
    shape: Shape,
    random: &mut Rng,
) -> Vec<Vec<Event>> {
    let clock = Clock::default();
    let round = Barrier::new(shape.clients);
    let recorder =
        |client: usize| Recorder { asked: ways[client % 2], bucket, clock: &clock, client };
    let clients = (0..shape.clients).map(|client| {
        let (recorder, mut asker) = (recorder(client), Asker::new(random.u64(..)));
        let round = &round;
        async move {
            let mut events = Vec::with_capacity(shape.rounds);
            for _ in 0..shape.rounds {
                if shape.together {
                    round.wait().await;
                }
                for _ in 0..asker.pauses() {
                    tokio::task::yield_now().await;
                }
                let (key, operation) = asker.next(shape.keys);
                let event = recorder.ask(KEYS[key], operation).await;
                asker.saw(key, &event);
                events.push((key, event));
            }
            events
        }
    });
    let events = join_all(clients).await.concat();
    let mut histories = vec![Vec::new(); shape.keys];
    for (key, event) in events {
        histories[key].push(event);
    }
    for (events, key) in histories.iter_mut().zip(KEYS) {
        events.push(answered(&recorder(shape.clients), key, Operation::Lives).await);
        events.push(last_read(&recorder(shape.clients), key).await);
    }
    histories
}

/// Reads until there is an answer.
pub(crate) async fn last_read<C: Client>(recorder: &Recorder<'_, C>, key: &str) -> Event {
    answered(recorder, key, Operation::Get).await
}

/// Asks something that changes nothing until there is an answer.
pub(crate) async fn answered<C: Client>(
    recorder: &Recorder<'_, C>,
    key: &str,
    operation: Operation,
) -> Event {
    loop {
        let event = recorder.ask(key, operation.clone()).await;
        if matches!(event.outcome, Outcome::Answered(_)) {
            return event;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Runs and checks one long history of a counter, which all workers of all hosts share.
pub(crate) async fn counter<C: Client>(hosts: &Hosts<C>, seed: u64) -> Result<Summary, String> {
    let (clients, operations) = COUNTING;
    let mut random = Rng::with_seed(seed);
    let clock = Clock::default();
    let bucket = Bucket::new("counter").unwrap();
    let workers: Vec<&C> = hosts.iter().flatten().collect();
    let recorder = |client: usize| {
        let asked = workers[client % workers.len()];
        Recorder { asked, bucket: &bucket, clock: &clock, client }
    };
    let asking: FuturesUnordered<_> = (0..clients)
        .map(|client| {
            let (recorder, mut random) = (recorder(client), random.fork());
            async move {
                let mut events = Vec::with_capacity(operations);
                for _ in 0..operations {
                    let read = random.u8(..6) == 0;
                    let operation = if read { Operation::Get } else { Operation::Increment(1) };
                    events.push(recorder.ask("key", operation).await);
                }
                events
            }
        })
        .collect();
    let mut events: Vec<Event> = asking.concat().await;
    events.push(last_read(&recorder(clients), "key").await);
    match counting::check(&events) {
        Ok(()) => Ok(Summary::of(&events)),
        Err(broken) => Err(format!("with seed {seed}: {broken}, in:\n{}", readable(&events))),
    }
}
