//! Callers count while the sentinels put another server in the master's place.
//!
//! Redis replicates without waiting: a failover can lose writes that it has acknowledged, which is
//! its own doing. What must hold regardless is that no increment is applied twice, and that
//! counting goes on by itself. Where nothing was on its way to the replica, nothing may be lost.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, Ordering},
    },
    time::{Duration, Instant},
};

use tally_state::{Bucket, Error, Metrics, Options, State};
use tally_testkit::{SERVICE, Watched, ask};
use tokio::{sync::RwLock, task::JoinHandle};

use crate::{BUCKET, observer::Observer, patience::LIMIT, run, until};

const CALLERS: usize = 16;

/// Increments of each caller before and after.
const MANY: i64 = 200;

/// What one caller knows of the key that it alone counts on.
struct Account {
    key: String,
    acknowledged: i64,
    unknown: i64,
    last: i64,
}

/// Callers that count until they are told to stop.
struct Callers {
    /// For each.
    acknowledged: Arc<Vec<AtomicI64>>,
    stop: Arc<AtomicBool>,
    /// Held for reading during each increment: who holds it for writing has them all stand still.
    still: Arc<RwLock<()>>,
    running: Vec<JoinHandle<Account>>,
}

impl Callers {
    fn start(state: &State) -> Self {
        let acknowledged: Arc<Vec<AtomicI64>> =
            Arc::new((0..CALLERS).map(|_| AtomicI64::new(0)).collect());
        let stop = Arc::new(AtomicBool::new(false));
        let still = Arc::new(RwLock::new(()));
        let handles = [state.worker(), state.worker()];
        let running = (0..CALLERS).map(|caller| {
            let handle = handles[caller % handles.len()].clone();
            let (acknowledged, stop) = (Arc::clone(&acknowledged), Arc::clone(&stop));
            let still = Arc::clone(&still);
            tokio::spawn(async move {
                let bucket = Bucket::new(BUCKET).unwrap();
                let key = format!("caller {caller}");
                let mut account = Account { key, acknowledged: 0, unknown: 0, last: 0 };
                while !stop.load(Ordering::Relaxed) {
                    let moving = still.read().await;
                    match handle.increment(&bucket, &account.key, 1).await {
                        Ok(value) => {
                            account.acknowledged += 1;
                            account.last = value;
                            acknowledged[caller].fetch_add(1, Ordering::Relaxed);
                        }
                        Err(error) => {
                            match error {
                                Error::NotApplied(_) => {}
                                Error::Unknown(_) => account.unknown += 1,
                                Error::Rejected(_) => panic!("{error}"),
                            }
                            drop(moving);
                            tokio::time::sleep(Duration::from_millis(3)).await;
                        }
                    }
                }
                account
            })
        });
        let running = running.collect();
        Self { acknowledged, stop, still, running }
    }

    /// Waits until each has had so many more acknowledged; all but one were asked for since.
    async fn go_on(&self, more: i64) {
        let counts = || self.acknowledged.iter().map(|count| count.load(Ordering::Relaxed));
        let before: Vec<i64> = counts().collect();
        until(|| async { counts().zip(&before).all(|(count, before)| count >= before + more) })
            .await;
    }

    async fn stop(self) -> Vec<Account> {
        self.stop.store(true, Ordering::Relaxed);
        let mut accounts = Vec::new();
        for task in self.running {
            accounts.push(task.await.unwrap());
        }
        accounts
    }
}

async fn open(watched: &Watched) -> State {
    let (timeout, connect_timeout) = (Duration::from_secs(3), Duration::from_secs(3));
    let options = Options { timeout, connect_timeout, ..Options::default() };
    State::open(&watched.url(), options, Metrics::default()).await.unwrap()
}

/// Compares the accounts with what the master after the failover holds, where acknowledged writes
/// may have been lost or not.
async fn verify(accounts: Vec<Account>, mut observer: Observer, may_lose: bool) {
    let (mut acknowledged, mut unknown, mut stored) = (0, 0, 0);
    for account in accounts {
        let count = observer.count(&account.key).await;
        let Account { key, acknowledged: sure, unknown: perhaps, last } = account;
        assert!(count <= sure + perhaps, "{key}: {count} of {sure} and {perhaps} unknown");
        assert!(last <= count, "{key}: {count} after {last}, which this master gave");
        assert!(may_lose || sure <= count, "{key}: {count} of {sure} acknowledged");
        acknowledged += sure;
        unknown += perhaps;
        stored += count;
    }
    println!("{acknowledged} acknowledged, {unknown} unknown, {stored} stored");
}

#[test]
fn a_killed_master_is_replaced_and_no_increment_counts_twice() {
    let mut watched = Watched::start(&[]).unwrap();
    run(async {
        let state = open(&watched).await;
        let callers = Callers::start(&state);
        callers.go_on(MANY).await;
        watched.master.kill().unwrap();
        let killed = Instant::now();
        callers.go_on(2).await;
        println!("counting again {:?} after the master was killed", killed.elapsed());
        callers.go_on(MANY).await;
        let observer = Observer::redis(&watched.replica.url()).await;
        verify(callers.stop().await, observer, true).await;
    });
}

#[test]
fn a_frozen_master_is_replaced_and_no_increment_counts_twice() {
    let watched = Watched::start(&[]).unwrap();
    run(async {
        let state = open(&watched).await;
        let callers = Callers::start(&state);
        callers.go_on(MANY).await;
        watched.master.signal("STOP").unwrap();
        let frozen = Instant::now();
        callers.go_on(2).await;
        println!("counting again {:?} after the master froze", frozen.elapsed());
        callers.go_on(MANY).await;
        let observer = Observer::redis(&watched.replica.url()).await;
        verify(callers.stop().await, observer, true).await;
    });
}

#[test]
fn a_planned_failover_of_what_every_replica_has_loses_nothing() {
    let watched =
        Watched::start(&["--min-replicas-to-write", "1", "--min-replicas-max-lag", "2"]).unwrap();
    run(async {
        let state = open(&watched).await;
        let warning = state.description().warning.clone().unwrap_or_default();
        assert!(!warning.contains("min-replicas"), "{warning}");
        let callers = Callers::start(&state);
        callers.go_on(MANY).await;
        let started = {
            let _still = callers.still.write().await;
            replicated(&watched).await;
            let failover = format!("SENTINEL FAILOVER {SERVICE}");
            let sentinel = watched.sentinels[0].port();
            says(sentinel, &failover, "+OK").await;
            // From here on the old master has no replica, and takes no write.
            says(watched.replica.port(), "INFO replication", "role:master").await;
            says(watched.master.port(), "INFO replication", "connected_slaves:0").await;
            Instant::now()
        };
        callers.go_on(2).await;
        println!("counting again {:?} after the replica was promoted", started.elapsed());
        callers.go_on(MANY).await;
        let observer = Observer::redis(&watched.replica.url()).await;
        verify(callers.stop().await, observer, false).await;
    });
}

/// Waits until the replica has all that the master has.
async fn replicated(watched: &Watched) {
    let client = redis::Client::open(watched.master.url()).unwrap();
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    let mut pipeline = redis::pipe();
    // WAIT waits for the last write of its own connection, and so for all before it.
    pipeline.cmd("SET").arg("last").arg("1").ignore();
    pipeline.cmd("WAIT").arg(1).arg(LIMIT.as_millis() as u64);
    let (replicas,): (u32,) =
        tokio::time::timeout(LIMIT, pipeline.query_async(&mut connection)).await.unwrap().unwrap();
    assert_eq!(replicas, 1);
}

/// Asks a server until it says something.
async fn says(port: u16, command: &str, text: &str) {
    until(|| async { ask(port, command).is_ok_and(|reply| reply.contains(text)) }).await;
}
