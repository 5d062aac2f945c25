//! Clients with planted bugs, such as a combiner could have: random histories must find each.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};

use fastrand::Rng;
use tally_state::{Bucket, Handle, Options};

use crate::{
    block_on,
    client::Client,
    history::{Answer, Operation, Outcome, Value},
    open,
    run::{Hosts, counter, many},
    seed,
};

/// Random histories within which each bug must be found.
const ENOUGH: usize = 300;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Bug {
    /// An increment is answered with what it should count to, and never sent.
    Loses,
    /// An increment is sent twice, and answered once.
    SendsTwice,
    /// A read is answered with what the key held at an earlier read.
    ReadsStale,
    /// An increment is answered from what the key held before its last reset, and stored after.
    MergesAcrossReset,
}

/// A client that shows its bug, if it has one, at every other chance.
struct Buggy {
    inner: Handle,
    bug: Option<Bug>,
    shared: Arc<Mutex<Shared>>,
}

struct Shared {
    random: Rng,
    /// What keys held once.
    past: HashMap<(Bucket, String), Value>,
}

impl Buggy {
    /// Two workers of one host in memory, with the same bug.
    async fn hosts(bug: Option<Bug>, seed: u64) -> Arc<Hosts<Self>> {
        let shared = Shared { random: Rng::with_seed(seed), past: HashMap::new() };
        let shared = Arc::new(Mutex::new(shared));
        let hosts = open("memory:", &Options::default(), 1).await;
        let buggy =
            |inner: &Handle| Self { inner: inner.clone(), bug, shared: Arc::clone(&shared) };
        Arc::new(hosts.iter().map(|workers| workers.each_ref().map(buggy)).collect())
    }

    fn shows(&self) -> bool {
        self.shared.lock().unwrap().random.bool()
    }

    async fn value(&self, bucket: &Bucket, key: &str) -> Value {
        self.inner.get(bucket, key).await.unwrap()
    }

    fn past(&self, bucket: &Bucket, key: &str) -> Option<Value> {
        self.shared.lock().unwrap().past.get(&(bucket.clone(), key.to_owned())).cloned()
    }

    fn put_past(&self, bucket: &Bucket, key: &str, value: Value) {
        self.shared.lock().unwrap().past.insert((bucket.clone(), key.to_owned()), value);
    }
}

impl Client for Buggy {
    async fn ask(&self, bucket: &Bucket, key: &str, operation: &Operation) -> Outcome {
        let right = self.inner.ask(bucket, key, operation);
        let Some(bug) = self.bug.filter(|_| self.shows()) else { return right.await };
        match (bug, operation) {
            (Bug::Loses, Operation::Increment(_)) => {
                Outcome::Answered(counted(operation, self.value(bucket, key).await))
            }
            (Bug::SendsTwice, Operation::Increment(_)) => {
                let answer = right.await;
                self.inner.ask(bucket, key, operation).await;
                answer
            }
            (Bug::ReadsStale, Operation::Get) => {
                let now = self.value(bucket, key).await;
                let read = self.past(bucket, key).unwrap_or_else(|| now.clone());
                self.put_past(bucket, key, now);
                Outcome::Answered(Answer::Value(read))
            }
            (Bug::MergesAcrossReset, Operation::Set(_) | Operation::Delete) => {
                self.put_past(bucket, key, self.value(bucket, key).await);
                right.await
            }
            (Bug::MergesAcrossReset, Operation::Increment(_)) => {
                let answer = right.await;
                self.past(bucket, key)
                    .map_or(answer, |before| Outcome::Answered(counted(operation, before)))
            }
            _ => right.await,
        }
    }
}

/// What an increment answers over a value.
fn counted(increment: &Operation, value: Value) -> Answer {
    let set = value.map(Operation::Set);
    increment.apply(set.and_then(|set| set.apply(None).1)).0
}

/// What is wrong with random histories of clients with a bug.
fn found(bug: Option<Bug>) -> Result<(), String> {
    let seed = seed(&format!("{bug:?}"));
    block_on(async { many(&Buggy::hosts(bug, seed).await, seed, ENOUGH).await.map(drop) })
}

/// What is wrong with one long history of a counter of clients with a bug.
fn found_counting(bug: Option<Bug>) -> Result<(), String> {
    let seed = seed(&format!("{bug:?}, counting"));
    block_on(async { counter(&*Buggy::hosts(bug, seed).await, seed).await.map(drop) })
}

#[test]
fn a_lost_batch_is_found() {
    found(Some(Bug::Loses)).unwrap_err();
    found_counting(Some(Bug::Loses)).unwrap_err();
}

#[test]
fn a_batch_sent_twice_is_found() {
    found(Some(Bug::SendsTwice)).unwrap_err();
    found_counting(Some(Bug::SendsTwice)).unwrap_err();
}

#[test]
fn a_stale_read_is_found() {
    found(Some(Bug::ReadsStale)).unwrap_err();
    found_counting(Some(Bug::ReadsStale)).unwrap_err();
}

#[test]
fn a_merge_across_a_reset_is_found() {
    found(Some(Bug::MergesAcrossReset)).unwrap_err();
}

#[test]
fn without_a_bug_nothing_is_found() {
    found(None).unwrap();
    found_counting(None).unwrap();
}

#[test]
fn a_failing_history_is_reported_with_its_seed_and_readably() {
    let report = found(Some(Bug::ReadsStale)).unwrap_err();
    assert!(report.contains("seed"), "{report}");
    assert!(report.contains("histories are not linearizable"), "{report}");
    assert!(report.contains("Get: Value("), "{report}");
}
