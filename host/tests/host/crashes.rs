//! Hosts are killed under load: what was acknowledged is there, no more than was asked for, and what
//! has a key is counted once, however often it is sent again.

use std::{
    collections::HashSet,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use http::Method;
use tally_testkit::{Durability, Postgres, Redis};

use crate::{
    client::{Client, get},
    host::Host,
};

/// Times that a host on a file is killed.
const ROUNDS: usize = 200;

/// Clients of each sort.
const CLIENTS: usize = 8;

/// Increments acknowledged in a round before the host is killed.
const INCREMENTS: i64 = 60;

/// What became of the requests of all clients.
#[derive(Default)]
struct Account {
    acknowledged: AtomicI64,
    unknown: AtomicI64,
    /// Requests with a key that were answered.
    answered: AtomicI64,
    /// Names the next key.
    next: AtomicU64,
}

impl Account {
    fn acknowledged(&self) -> i64 {
        self.acknowledged.load(Ordering::SeqCst)
    }

    /// Increments without a key, until the host is gone. Gives the values.
    async fn count(self: Arc<Self>, address: SocketAddr) -> Vec<i64> {
        let mut values = Vec::new();
        let Some(mut client) = Client::try_connect(address).await else { return values };
        loop {
            let request = client.request(Method::POST, "/increment");
            match client.try_send(request).await {
                Ok(response) if response.status == 200 => {
                    values.push(response.count());
                    self.acknowledged.fetch_add(1, Ordering::SeqCst);
                }
                Ok(response) => panic!("{response:?}"),
                // The host is gone; this one may have been counted.
                Err(_) => {
                    self.unknown.fetch_add(1, Ordering::SeqCst);
                    return values;
                }
            }
        }
    }

    /// Increments with a key, each until it is answered, as long as the host is there. Begins with
    /// one that had no answer, and gives the one that has none at the end.
    async fn count_once(
        self: Arc<Self>,
        address: SocketAddr,
        mut open: Option<u64>,
        requests: usize,
    ) -> Option<u64> {
        let Some(mut client) = Client::try_connect(address).await else { return open };
        for _ in 0..requests {
            let key = open.unwrap_or_else(|| self.next.fetch_add(1, Ordering::SeqCst));
            open = Some(key);
            let mut request = client.request(Method::POST, "/increment?name=keyed");
            request.headers_mut().insert("idempotency-key", key.into());
            match client.try_send(request).await {
                Ok(response) if response.status == 200 => {
                    self.answered.fetch_add(1, Ordering::SeqCst);
                    open = None;
                }
                Ok(response) => panic!("{response:?}"),
                Err(_) => break,
            }
        }
        open
    }

    /// Compares with what the store holds.
    async fn verify(&self, address: SocketAddr, open: usize) {
        let (least, answered) = (self.acknowledged(), self.answered.load(Ordering::SeqCst));
        let most = least + self.unknown.load(Ordering::SeqCst);
        let count = get(address, "/report").await.count();
        assert!((least..=most).contains(&count), "{least} <= {count} <= {most}");
        let keyed = get(address, "/report?name=keyed").await.count();
        let most = answered + i64::try_from(open).unwrap();
        assert!((answered..=most).contains(&keyed), "{answered} <= {keyed} <= {most}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_or_counted_twice_when_the_host_is_killed_over_sqlite() {
    let dir = tempfile::tempdir().unwrap();
    let store = format!("sqlite:{}", dir.path().join("tally.db").display());
    let account = Arc::new(Account::default());
    let mut open = [None; CLIENTS];
    let mut slowest = Duration::ZERO;
    let mut greatest = 0;
    for _ in 0..ROUNDS {
        let started = Instant::now();
        let mut host = Host::start("counter", &store, &[]);
        slowest = slowest.max(started.elapsed());
        account.verify(host.address, open.iter().flatten().count()).await;
        let count = get(host.address, "/report").await.count();
        assert!(count >= greatest, "{greatest} was acknowledged, and {count} is left");
        let enough = account.acknowledged() + INCREMENTS;
        let counting: Vec<_> =
            (0..CLIENTS).map(|_| tokio::spawn(Arc::clone(&account).count(host.address))).collect();
        let once = open.map(|open| {
            tokio::spawn(Arc::clone(&account).count_once(host.address, open, usize::MAX))
        });
        while account.acknowledged() < enough {
            tokio::task::yield_now().await;
        }
        host.signal("KILL");
        host.wait();
        for client in counting {
            let values = client.await.unwrap();
            assert!(values.iter().all(|value| *value > count), "{count} was there before");
            assert!(values.is_sorted(), "{values:?}");
            greatest = values.last().copied().unwrap_or(0).max(greatest);
        }
        for (open, client) in open.iter_mut().zip(once) {
            *open = client.await.unwrap();
        }
    }
    println!("the slowest start took {slowest:?}");

    // Whatever had no answer gets one now, and then the count is exact.
    let host = Host::start("counter", &store, &[]);
    for open in &mut open {
        *open = Arc::clone(&account).count_once(host.address, *open, 1).await;
        assert_eq!(*open, None);
    }
    account.verify(host.address, 0).await;
    let database = rusqlite::Connection::open(dir.path().join("tally.db")).unwrap();
    let check: String = database.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
    assert_eq!(check, "ok");
}

/// Two hosts count on one store, and one of them is killed, several times over.
async fn one_of_two_is_killed(guest: &str, store: &str) {
    let account = Arc::new(Account::default());
    let staying = Host::start(guest, store, &[]);
    let mut values = Vec::new();
    let mut open = [None; CLIENTS];
    for _ in 0..5 {
        let mut leaving = Host::start(guest, store, &[]);
        let enough = account.acknowledged() + 20 * INCREMENTS;
        let leavers: Vec<_> = (0..CLIENTS)
            .map(|_| tokio::spawn(Arc::clone(&account).count(leaving.address)))
            .collect();
        let stayers: Vec<_> = (0..CLIENTS)
            .map(|_| tokio::spawn(Arc::clone(&account).count(staying.address)))
            .collect();
        let once = open.map(|open| {
            tokio::spawn(Arc::clone(&account).count_once(leaving.address, open, usize::MAX))
        });
        while account.acknowledged() < enough {
            tokio::task::yield_now().await;
        }
        leaving.signal("KILL");
        leaving.wait();
        for client in leavers {
            values.extend(client.await.unwrap());
        }
        for (open, client) in open.iter_mut().zip(once) {
            *open = client.await.unwrap();
        }
        // The other goes on as if nothing had happened.
        let enough = account.acknowledged() + INCREMENTS;
        while account.acknowledged() < enough {
            tokio::task::yield_now().await;
        }
        for client in stayers {
            client.abort();
            match client.await {
                Ok(stayed) => values.extend(stayed),
                // It may have left one behind; its values are not known.
                Err(_) => drop(account.unknown.fetch_add(1, Ordering::SeqCst)),
            }
        }
        // Whoever had no answer asks the other.
        for open in &mut open {
            *open = Arc::clone(&account).count_once(staying.address, *open, 1).await;
            assert_eq!(*open, None);
        }
        account.verify(staying.address, 0).await;
    }
    let distinct: HashSet<i64> = values.iter().copied().collect();
    assert_eq!(distinct.len(), values.len(), "two clients were given one value");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_of_two_hosts_is_killed_over_sqlite() {
    let dir = tempfile::tempdir().unwrap();
    let store = format!("sqlite:{}", dir.path().join("tally.db").display());
    one_of_two_is_killed("counter", &store).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_of_two_hosts_is_killed_over_redis() {
    let redis = Redis::start().unwrap();
    one_of_two_is_killed("counter", &redis.url()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_of_two_hosts_is_killed_over_postgres() {
    let postgres = Postgres::start(Durability::Unsynced).unwrap();
    one_of_two_is_killed("counter", &postgres.url()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_of_two_hosts_with_standard_guests_is_killed() {
    let redis = Redis::start().unwrap();
    one_of_two_is_killed("counter-http", &redis.url()).await;
}
