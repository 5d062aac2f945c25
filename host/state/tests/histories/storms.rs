//! Stores whose connections are cut, stalled and delayed at random bytes, or whose file others
//! lock, while clients work with short time limits: what is answered is still as one at a time,
//! what is not applied has no effect, and what is unknown has its effect once or never.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use fastrand::Rng;
use rusqlite::Connection;
use tally_state::{Handle, Options};
use tally_testkit::{Durability, Postgres, Proxy, Redis};

use crate::{
    block_on,
    client::Client,
    histories,
    keyed::{self, open_unlike},
    open,
    request::{AtOnce, Host},
    run::{Hosts, Summary, counter, many},
    seed,
};

/// Options whose time limits are shorter than many a fault lasts.
fn impatient() -> Options {
    Options {
        timeout: Duration::from_millis(150),
        connect_timeout: Duration::from_millis(100),
        ..Options::default()
    }
}

/// Histories on a store under faults, and a long one of a counter.
async fn check<C: Client + 'static>(
    name: &str,
    hosts: &Arc<Hosts<C>>,
    seed: u64,
    count: usize,
) -> Summary {
    let mut summary = many(hosts, seed, count).await.unwrap_or_else(|error| panic!("{error}"));
    summary += counter(hosts, seed).await.unwrap_or_else(|error| panic!("{error}"));
    println!("{name}: {summary:?}");
    summary
}

/// The same through a proxy with its weather.
fn check_behind(name: &str, proxy: &Proxy, url: &str) {
    let seed = seed(name);
    block_on(async {
        let hosts = open(url, &impatient(), 2).await;
        let weather = proxy.weather(seed);
        let summary = check(name, &hosts, seed, histories()).await;
        let faults = weather.end();
        println!("{name}: {faults} faults");
        assert!(faults > 0, "there was weather");
        assert!(summary.unknown + summary.not_applied > 0, "and it was felt: {summary:?}");
    });
}

#[test]
fn redis_is_linearizable_through_cuts_stalls_and_delays() {
    let server = Redis::start().unwrap();
    let proxy = Proxy::start(server.port()).unwrap();
    let url = format!("redis://127.0.0.1:{}", proxy.port());
    check_behind("redis in a storm", &proxy, &url);
}

#[test]
fn postgres_is_linearizable_through_cuts_stalls_and_delays() {
    let server = Postgres::start(Durability::Unsynced).unwrap();
    let proxy = Proxy::start(server.port()).unwrap();
    check_behind("postgres in a storm", &proxy, &server.url_at(proxy.port()));
}

/// Histories of requests with a key, from unlike hosts through a proxy whose weather has lulls:
/// faults come with bytes, and a handler needs several answers in a row.
fn check_requests_behind<H: Host + 'static>(
    name: &str,
    proxy: &Proxy,
    url: &str,
    host: fn(Handle) -> H,
) {
    let seed = seed(name);
    block_on(async {
        let options = Options { connect_timeout: Duration::from_millis(500), ..impatient() };
        let hosts = open_unlike(url, &options).await.into_iter().map(host).collect();
        let mut faults = 0;
        let storm = async {
            for spell in 0.. {
                let weather = proxy.weather(seed.wrapping_add(spell));
                tokio::time::sleep(Duration::from_millis(200)).await;
                faults += tokio::task::spawn_blocking(|| weather.end()).await.unwrap();
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        };
        tokio::select! {
            () = keyed::check(name, hosts, seed, histories()) => {}
            () = storm => {}
        }
        println!("{name}: {faults} faults");
        assert!(faults > 0, "there was weather");
    });
}

fn check_requests_of_redis<H: Host + 'static>(name: &str, host: fn(Handle) -> H) {
    let server = Redis::start().unwrap();
    let proxy = Proxy::start(server.port()).unwrap();
    let url = format!("redis://127.0.0.1:{}", proxy.port());
    check_requests_behind(name, &proxy, &url, host);
}

#[test]
fn redis_applies_requests_once_through_cuts_stalls_and_delays() {
    check_requests_of_redis("requests, redis in a storm", |handle| handle);
}

/// Handlers that make all their writes at once, each time in another order.
#[test]
fn redis_applies_requests_at_once_through_cuts_stalls_and_delays() {
    check_requests_of_redis("requests, redis in a storm, at once", AtOnce);
}

fn check_requests_of_postgres<H: Host + 'static>(name: &str, host: fn(Handle) -> H) {
    let server = Postgres::start(Durability::Unsynced).unwrap();
    let proxy = Proxy::start(server.port()).unwrap();
    let url = server.url_at(proxy.port());
    check_requests_behind(name, &proxy, &url, host);
}

#[test]
fn postgres_applies_requests_once_through_cuts_stalls_and_delays() {
    check_requests_of_postgres("requests, postgres in a storm", |handle| handle);
}

#[test]
fn postgres_applies_requests_at_once_through_cuts_stalls_and_delays() {
    check_requests_of_postgres("requests, postgres in a storm, at once", AtOnce);
}

/// Another program that takes the write lock of a file for random moments.
struct Locker {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<usize>,
}

impl Locker {
    fn start(path: &Path, seed: u64) -> Self {
        let connection = Connection::open(path).unwrap();
        connection.busy_timeout(Duration::from_secs(60)).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let stopping = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let mut random = Rng::with_seed(seed);
            let mut locks = 0;
            while !stopping.load(Ordering::Relaxed) {
                std::thread::sleep(Duration::from_millis(random.u64(..60)));
                connection.execute_batch("BEGIN IMMEDIATE").unwrap();
                // Seldom longer than SQLite waits, often longer than the queue does.
                let longest = if random.u8(..40) == 0 { 2_500 } else { 300 };
                std::thread::sleep(Duration::from_millis(random.u64(..longest)));
                connection.execute_batch("COMMIT").unwrap();
                locks += 1;
            }
            locks
        });
        Self { stop, thread }
    }

    /// Ends it, and gives how often it had the lock.
    fn end(self) -> usize {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

#[test]
fn sqlite_is_linearizable_while_another_program_locks_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("tally.db");
    let seed = seed("sqlite, locked");
    block_on(async {
        let hosts = open(&format!("sqlite:{}", path.display()), &impatient(), 2).await;
        let locker = Locker::start(&path, seed);
        let summary = check("sqlite, locked", &hosts, seed, histories()).await;
        let locks = locker.end();
        println!("sqlite: {locks} locks");
        assert!(locks > 0);
        assert_eq!(summary.unknown, 0, "a lock leaves nothing unknown");
    });
}

fn check_requests_of_sqlite<H: Host + 'static>(name: &str, host: fn(Handle) -> H) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("tally.db");
    let url = format!("sqlite:{}", path.display());
    let seed = seed(name);
    block_on(async {
        let hosts = open_unlike(&url, &impatient()).await.into_iter().map(host).collect();
        let locker = Locker::start(&path, seed);
        keyed::check(name, hosts, seed, histories()).await;
        assert!(locker.end() > 0);
    });
}

#[test]
fn sqlite_applies_requests_once_while_another_program_locks_the_file() {
    check_requests_of_sqlite("requests, sqlite locked", |handle| handle);
}

#[test]
fn sqlite_applies_requests_at_once_while_another_program_locks_the_file() {
    check_requests_of_sqlite("requests, sqlite locked, at once", AtOnce);
}
