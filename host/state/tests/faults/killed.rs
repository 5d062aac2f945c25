//! Servers that end while many count, and come back.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
};

use tally_state::State;
use tally_testkit::{Durability, Postgres, Redis};

use crate::{ledger::Ledger, observer::Observer, open, patient, run, until};

const CALLERS: usize = 8;

/// Acknowledged increments after which a caller stops.
const EACH: i64 = 60;

/// Callers that count until each is done, whatever happens to the server meanwhile.
struct Callers {
    done: Arc<AtomicI64>,
    running: Vec<tokio::task::JoinHandle<Ledger>>,
}

impl Callers {
    fn start(state: &State) -> Self {
        let done = Arc::new(AtomicI64::new(0));
        let running = (0..CALLERS)
            .map(|_| {
                let done = Arc::clone(&done);
                let mut ledger = Ledger::new(state.worker(), "key");
                tokio::spawn(async move {
                    while ledger.acknowledged < EACH {
                        ledger.until_ok().await;
                        done.fetch_add(1, Ordering::Relaxed);
                    }
                    ledger
                })
            })
            .collect();
        Self { done, running }
    }

    /// Waits until a part of the increments is acknowledged.
    async fn wait_for(&self, part: i64) {
        let target = part * EACH * i64::try_from(CALLERS).unwrap() / 4;
        until(|| async { self.done.load(Ordering::Relaxed) >= target }).await;
    }

    /// Awaits them all and compares their accounts with what the store holds.
    async fn verify(self, mut observer: Observer) {
        let mut values = BTreeSet::new();
        let (mut acknowledged, mut unknown) = (0, 0);
        for task in self.running {
            let ledger = task.await.unwrap();
            acknowledged += ledger.acknowledged;
            unknown += ledger.unknown;
            for value in ledger.values {
                assert!(values.insert(value), "{value} was given to two callers");
            }
        }
        let stored = observer.count("key").await;
        assert!(
            (acknowledged..=acknowledged + unknown).contains(&stored),
            "{stored} with {acknowledged} acknowledged and {unknown} unknown"
        );
        assert!(values.last().unwrap() <= &stored);
    }
}

#[test]
fn redis_killed_under_load_loses_nothing_acknowledged() {
    let mut server = Redis::start().unwrap();
    run(async {
        let state = open(&server.url(), patient()).await;
        let callers = Callers::start(&state);
        for part in 1..=2 {
            callers.wait_for(part).await;
            server.kill().unwrap();
            server.restart().unwrap();
        }
        callers.verify(Observer::redis(&server.url()).await).await;
    });
}

#[test]
fn postgres_killed_under_load_loses_nothing_acknowledged() {
    let mut server = Postgres::start(Durability::Unsynced).unwrap();
    run(async {
        let state = open(&server.url(), patient()).await;
        let callers = Callers::start(&state);
        callers.wait_for(1).await;
        server.kill().unwrap();
        server.restart().unwrap();
        callers.wait_for(2).await;
        server.stop().unwrap();
        server.restart().unwrap();
        callers.verify(Observer::postgres(&server.url()).await).await;
    });
}

#[test]
fn two_hosts_count_exactly_while_one_goes_away() {
    let server = Redis::start().unwrap();
    run(async {
        let staying = open(&server.url(), patient()).await;
        let leaving = open(&server.url(), patient()).await;
        let callers = Callers::start(&staying);
        let mut others = Callers::start(&leaving);
        others.wait_for(1).await;
        // Its tasks end where they are: what they had sent may be applied and is nobody's.
        let asked = i64::try_from(CALLERS).unwrap();
        for task in others.running.drain(..) {
            task.abort();
            let _ = task.await;
        }
        drop(leaving);
        let acknowledged_there = others.done.load(Ordering::Relaxed);
        let mut acknowledged = 0;
        for task in callers.running {
            acknowledged += task.await.unwrap().acknowledged;
        }
        let least = acknowledged + acknowledged_there;
        let stored = Observer::redis(&server.url()).await.count("key").await;
        // Each of those who left may have been acknowledged once more without counting it, or
        // have been under way.
        assert!((least..=least + asked).contains(&stored), "{stored}, and at least {least}");
    });
}
