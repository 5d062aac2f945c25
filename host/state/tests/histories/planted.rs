//! Hosts with planted bugs in how the writes of requests are applied once: random histories must
//! find each.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};

use fastrand::Rng;
use tally_state::{Bucket, Digest, Handle, Options, Scope};

use crate::{
    block_on,
    client::Client,
    draw::KEYS,
    history::{Answer, Operation, Outcome},
    keyed::many,
    open,
    request::{Host, Impatient, ImpatientRun, Run},
    seed,
};

/// Random histories within which each bug must be found.
const ENOUGH: usize = 300;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Bug {
    /// A write takes its number before it is sent, and a repeat in the same run has the next one.
    NumbersTries,
    /// What identifies a request depends on how its host is configured.
    NamesByConfiguration,
    /// A write that failed, and that the handler went past, may still be applied by a later run.
    ForgetsFailures,
    /// A repeated increment is answered with what the key holds now.
    ReplaysWhatIsThere,
    /// An increment is answered with what it and others after it came to.
    GivesTotals,
}

/// Of increments of requests and keys, what was answered.
type Given = Arc<Mutex<HashMap<(Digest, usize, String), Answer>>>;

struct Buggy {
    inner: Handle,
    bug: Bug,
    configuration: u8,
    given: Given,
}

struct BuggyRun {
    inner: Handle,
    impatient: ImpatientRun,
    scope: Scope,
    bug: Bug,
    random: Mutex<Rng>,
    /// The last number of each key's writes.
    next: Mutex<[u8; KEYS.len()]>,
    /// Writes that failed, with their number and their key.
    failed: Mutex<Vec<(u8, usize, Operation)>>,
    given: Given,
}

impl Host for Buggy {
    type Run = BuggyRun;

    fn plain(&self) -> &Handle {
        &self.inner
    }

    fn begin(&self, mut name: Digest, seed: u64) -> BuggyRun {
        if self.bug == Bug::NamesByConfiguration {
            name[0] ^= self.configuration;
        }
        let scope = Scope::new(name, [7; 16]);
        BuggyRun {
            inner: self.inner.clone(),
            impatient: ImpatientRun::new(self.inner.scoped(&scope), seed),
            scope,
            bug: self.bug,
            random: Mutex::new(Rng::with_seed(seed)),
            next: Mutex::default(),
            failed: Mutex::default(),
            given: Arc::clone(&self.given),
        }
    }
}

impl BuggyRun {
    /// A way to one write as its request's only one, under a name made of its number.
    fn numbered(&self, key: usize, number: u8) -> Handle {
        let mut name = self.scope.name();
        name[1] ^= number;
        name[2] ^= u8::try_from(key + 1).unwrap();
        self.inner.scoped(&Scope::new(name, [7; 16]))
    }

    /// A write that has the next number, or that of the same write that failed.
    async fn forgetful(&self, bucket: &Bucket, key: usize, operation: &Operation) -> Outcome {
        let number = {
            let (mut failed, mut next) = (self.failed.lock().unwrap(), self.next.lock().unwrap());
            let is_same =
                |(_, place, before): &(u8, usize, Operation)| *place == key && before == operation;
            if let Some(place) = failed.iter().position(is_same) {
                failed.swap_remove(place).0
            } else {
                next[key] += 1;
                next[key]
            }
        };
        let fate = self.random.lock().unwrap().u8(..4);
        let outcome = match fate {
            0 => Outcome::NotApplied,
            _ => self.numbered(key, number).ask(bucket, KEYS[key], operation).await,
        };
        // An answer may be withheld.
        let outcome = if fate == 1 { Outcome::Unknown } else { outcome };
        if !matches!(outcome, Outcome::Answered(_)) {
            self.failed.lock().unwrap().push((number, key, operation.clone()));
        }
        outcome
    }

    /// A write that has another number each time it is tried.
    async fn numbering(&self, bucket: &Bucket, parts: &[(usize, Operation)]) -> Outcome {
        let (key, operation) = &parts[0];
        let is_same =
            |(_, place, before): &&(u8, usize, Operation)| place == key && before == operation;
        let tried = self.failed.lock().unwrap().iter().filter(is_same).count();
        let outcome = if tried == 0 {
            self.impatient.call(bucket, parts).await
        } else {
            self.numbered(*key, u8::try_from(tried).unwrap()).call(bucket, parts).await
        };
        if !matches!(outcome, Outcome::Answered(_)) {
            self.failed.lock().unwrap().push((0, *key, operation.clone()));
        }
        outcome
    }

    /// What an increment comes to with those after it; to each run the same.
    async fn total(&self, bucket: &Bucket, key: usize, operation: &Operation) -> Answer {
        tokio::task::yield_now().await;
        let total = count(&self.inner, bucket, key).await.unwrap_or(0);
        let name = (self.scope.name(), key, format!("{operation:?}"));
        let mut given = self.given.lock().unwrap();
        given.entry(name).or_insert(Answer::Count(total)).clone()
    }
}

/// What a counter holds now.
async fn count(handle: &Handle, bucket: &Bucket, key: usize) -> Option<i64> {
    let value = handle.get(bucket, KEYS[key]).await.unwrap();
    crate::history::number(value.as_ref())
}

impl Run for BuggyRun {
    async fn call(&self, bucket: &Bucket, parts: &[(usize, Operation)]) -> Outcome {
        match (self.bug, parts) {
            (Bug::ForgetsFailures, parts) => {
                let mut last = Outcome::NotApplied;
                for (key, operation) in parts {
                    last = self.forgetful(bucket, *key, operation).await;
                    if !matches!(last, Outcome::Answered(_)) {
                        break;
                    }
                }
                last
            }
            (Bug::NumbersTries, parts) => self.numbering(bucket, parts).await,
            (Bug::GivesTotals, [(key, operation @ Operation::Increment(_))]) => {
                match self.impatient.call(bucket, parts).await {
                    Outcome::Answered(Answer::Count(_)) => {
                        Outcome::Answered(self.total(bucket, *key, operation).await)
                    }
                    outcome => outcome,
                }
            }
            (Bug::ReplaysWhatIsThere, [(key, Operation::Increment(_))]) => {
                let before = self.scope.recorded().replayed;
                let outcome = self.impatient.call(bucket, parts).await;
                match (outcome, count(&self.inner, bucket, *key).await) {
                    (Outcome::Answered(Answer::Count(_)), Some(count))
                        if self.scope.recorded().replayed > before =>
                    {
                        Outcome::Answered(Answer::Count(count))
                    }
                    (outcome, _) => outcome,
                }
            }
            _ => self.impatient.call(bucket, parts).await,
        }
    }
}

/// What is wrong with random histories of hosts with a bug.
fn found(bug: Bug) -> String {
    let seed = seed(&format!("{bug:?}"));
    block_on(async {
        let given = Arc::default();
        let hosts = open("memory:", &Options::default(), 1).await;
        let hosts = hosts.iter().flatten().zip(0..).map(|(inner, configuration)| Buggy {
            inner: inner.clone(),
            bug,
            configuration,
            given: Arc::clone(&given),
        });
        many(&Arc::new(hosts.collect()), seed, ENOUGH).await.map(drop).unwrap_err()
    })
}

#[test]
fn a_number_for_each_try_is_found() {
    found(Bug::NumbersTries);
}

#[test]
fn a_name_that_depends_on_the_configuration_is_found() {
    found(Bug::NamesByConfiguration);
}

#[test]
fn a_failure_that_is_made_up_for_later_is_found() {
    found(Bug::ForgetsFailures);
}

#[test]
fn a_replay_of_what_is_there_now_is_found() {
    let report = found(Bug::ReplaysWhatIsThere);
    assert!(report.contains("seed"), "{report}");
    println!("{report}");
}

#[test]
fn a_value_that_is_given_to_two_requests_is_found() {
    found(Bug::GivesTotals);
}

#[test]
fn without_a_bug_requests_are_applied_once() {
    let seed = seed("impatient, in memory");
    block_on(async {
        let hosts = open("memory:", &Options::default(), 1).await;
        let hosts = hosts.iter().flatten().cloned().map(Impatient).collect();
        let (summary, course) = many(&Arc::new(hosts), seed, ENOUGH).await.unwrap();
        println!("{summary:?} {course:?}");
        let seen = [course.again, course.passed, course.beside, course.runs - course.requests];
        assert!(!seen.contains(&0), "{course:?}");
    });
}
