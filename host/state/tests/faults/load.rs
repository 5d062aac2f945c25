//! Many callers count while connections are cut, servers are killed and come back, or a host goes
//! away.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, Ordering},
    },
    time::Duration,
};

use tally_state::{Options, State};
use tally_testkit::{Durability, Postgres, Proxy, Redis, Way};
use tokio::task::JoinHandle;

use crate::{
    ledger::Ledger,
    observer::{Observer, session},
    open, open_hastily, patient, run, until,
};

const CALLERS: usize = 16;

/// Callers that count until they are told to stop, whatever happens to the server meanwhile.
struct Callers {
    acknowledged: Arc<AtomicI64>,
    stop: Arc<AtomicBool>,
    running: Vec<JoinHandle<Ledger>>,
}

impl Callers {
    fn start(state: &State) -> Self {
        let (acknowledged, stop) = (Arc::new(AtomicI64::new(0)), Arc::new(AtomicBool::new(false)));
        let handles = [state.worker(), state.worker()];
        let running = (0..CALLERS)
            .map(|caller| {
                let (acknowledged, stop) = (Arc::clone(&acknowledged), Arc::clone(&stop));
                let mut ledger = Ledger::new(handles[caller % handles.len()].clone(), "key");
                tokio::spawn(async move {
                    while !stop.load(Ordering::Relaxed) {
                        match ledger.increment().await {
                            Ok(_) => drop(acknowledged.fetch_add(1, Ordering::Relaxed)),
                            Err(_) => tokio::time::sleep(Duration::from_millis(3)).await,
                        }
                    }
                    ledger
                })
            })
            .collect();
        Self { acknowledged, stop, running }
    }

    /// Waits until increments are acknowledged again, more than were under way.
    async fn go_on(&self) {
        let enough =
            self.acknowledged.load(Ordering::Relaxed) + 2 * i64::try_from(CALLERS).unwrap();
        until(|| async { self.acknowledged.load(Ordering::Relaxed) >= enough }).await;
    }

    /// Cuts connections after numbers of bytes that a seed decides.
    async fn go_on_through_cuts(&self, proxy: &Proxy, times: usize, bytes: usize) {
        let seed = fastrand::u64(..);
        println!("seed {seed}");
        let mut random = fastrand::Rng::with_seed(seed);
        for _ in 0..times {
            let place = random.usize(..bytes);
            proxy.cut(if random.bool() { Way::Requests } else { Way::Replies }, place);
            until(|| async { !proxy.is_pending() }).await;
            self.go_on().await;
        }
    }

    /// Stops them and compares their accounts with what the store holds.
    async fn verify(self, mut observer: Observer) {
        self.stop.store(true, Ordering::Relaxed);
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
        println!("{acknowledged} acknowledged, {unknown} unknown, {stored} stored");
        assert!(
            (acknowledged..=acknowledged + unknown).contains(&stored),
            "{stored} with {acknowledged} acknowledged and {unknown} unknown"
        );
        assert!(values.last().unwrap() <= &stored);
    }
}

#[test]
fn redis_connections_cut_under_load_count_exactly() {
    let server = Redis::start().unwrap();
    let proxy = Proxy::start(server.port()).unwrap();
    run(async {
        let state = open(&format!("redis://127.0.0.1:{}", proxy.port()), patient()).await;
        let callers = Callers::start(&state);
        callers.go_on_through_cuts(&proxy, 40, 400).await;
        callers.verify(Observer::redis(&server.url()).await).await;
    });
}

#[test]
fn postgres_connections_cut_under_load_count_exactly() {
    let server = Postgres::start(Durability::Unsynced).unwrap();
    let proxy = Proxy::start(server.port()).unwrap();
    run(async {
        let state = open(&server.url_at(proxy.port()), patient()).await;
        let callers = Callers::start(&state);
        callers.go_on_through_cuts(&proxy, 25, 3_000).await;
        callers.verify(Observer::postgres(&server.url()).await).await;
    });
}

#[test]
fn postgres_sessions_ended_under_load_count_exactly() {
    let server = Postgres::start(Durability::Unsynced).unwrap();
    run(async {
        let state = open(&server.url(), patient()).await;
        let admin = session(&server.url()).await;
        let callers = Callers::start(&state);
        let end = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
            WHERE application_name = 'tally'";
        for _ in 0..15 {
            callers.go_on().await;
            admin.query_one(end, &[]).await.unwrap();
        }
        callers.go_on().await;
        callers.verify(Observer::postgres(&server.url()).await).await;
    });
}

#[test]
fn redis_killed_under_load_loses_nothing_acknowledged() {
    let mut server = Redis::start().unwrap();
    run(async {
        let state = open(&server.url(), patient()).await;
        let callers = Callers::start(&state);
        for _ in 0..3 {
            callers.go_on().await;
            server.kill().unwrap();
            server.restart().unwrap();
        }
        callers.go_on().await;
        callers.verify(Observer::redis(&server.url()).await).await;
    });
}

#[test]
fn postgres_killed_and_stopped_under_load_loses_nothing_acknowledged() {
    let mut server = Postgres::start(Durability::Unsynced).unwrap();
    run(async {
        let state = open(&server.url(), patient()).await;
        let callers = Callers::start(&state);
        for kill in [true, false] {
            callers.go_on().await;
            if kill { server.kill() } else { server.stop() }.unwrap();
            server.restart().unwrap();
        }
        callers.go_on().await;
        callers.verify(Observer::postgres(&server.url()).await).await;
    });
}

/// Time limits that end while a server is frozen.
fn hasty() -> Options {
    Options {
        timeout: Duration::from_millis(100),
        connect_timeout: Duration::from_millis(80),
        ..Options::default()
    }
}

/// Freezes a server under load, for shorter and longer than its callers wait.
async fn go_on_through_frost(callers: &Callers, signal: impl Fn(&str)) {
    for milliseconds in [5, 20, 60, 100, 150, 250] {
        callers.go_on().await;
        signal("STOP");
        tokio::time::sleep(Duration::from_millis(milliseconds)).await;
        signal("CONT");
    }
    callers.go_on().await;
}

#[test]
fn redis_frozen_under_load_counts_exactly() {
    let server = Redis::start().unwrap();
    run(async {
        let state = open_hastily(&server.url(), hasty()).await;
        let callers = Callers::start(&state);
        go_on_through_frost(&callers, |signal| server.signal(signal).unwrap()).await;
        callers.verify(Observer::redis(&server.url()).await).await;
    });
}

#[test]
fn postgres_frozen_under_load_counts_exactly() {
    let server = Postgres::start(Durability::Unsynced).unwrap();
    run(async {
        let state = open_hastily(&server.url(), hasty()).await;
        let callers = Callers::start(&state);
        go_on_through_frost(&callers, |signal| server.signal(signal).unwrap()).await;
        callers.verify(Observer::postgres(&server.url()).await).await;
    });
}

#[test]
fn two_hosts_count_exactly_while_one_goes_away() {
    let server = Redis::start().unwrap();
    run(async {
        let staying = open(&server.url(), patient()).await;
        let leaving = open(&server.url(), patient()).await;
        let mut callers = Callers::start(&staying);
        let mut others = Callers::start(&leaving);
        callers.go_on().await;
        others.go_on().await;
        // Its tasks end where they are.
        for task in others.running.drain(..) {
            task.abort();
            let _ = task.await;
        }
        drop(leaving);
        callers.go_on().await;
        callers.stop.store(true, Ordering::Relaxed);
        let mut least = others.acknowledged.load(Ordering::Relaxed);
        for task in callers.running.drain(..) {
            let ledger = task.await.unwrap();
            assert_eq!(ledger.unknown, 0);
            least += ledger.acknowledged;
        }
        let mut observer = Observer::redis(&server.url()).await;
        drop(staying);
        observer.alone().await;
        let stored = observer.count("key").await;
        // Each who left had at most one increment under way.
        let most = least + i64::try_from(CALLERS).unwrap();
        assert!((least..=most).contains(&stored), "{stored}, not from {least} to {most}");
    });
}
