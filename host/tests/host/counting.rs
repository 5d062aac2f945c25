//! The promise: every acknowledged increment counts exactly once, whatever the number of clients
//! and hosts. Through crashes, see `crashes`.

use std::{
    collections::HashSet,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use tally_testkit::{Durability, Postgres, Redis};

use crate::{
    client::{Client, get},
    host::Host,
};

const CLIENTS: usize = 64;
const INCREMENTS: usize = 20_000;

/// Sends increments from many clients, spread over the hosts, and gives the values of those that
/// were acknowledged.
async fn count(hosts: &[SocketAddr], increments: usize) -> Vec<i64> {
    let left = Arc::new(AtomicUsize::new(increments));
    let clients: Vec<_> = (0..CLIENTS)
        .map(|number| {
            let left = Arc::clone(&left);
            let host = hosts[number % hosts.len()];
            tokio::spawn(async move {
                let mut client = Client::connect(host).await;
                let mut values = Vec::new();
                while left
                    .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1))
                    .is_ok()
                {
                    let response = client.post("/increment").await;
                    if response.status == 200 {
                        values.push(response.count());
                    }
                }
                values
            })
        })
        .collect();
    let mut values = Vec::new();
    for client in clients {
        values.extend(client.await.unwrap());
    }
    values
}

/// Counts, and checks that all were acknowledged, each with its own value, and none was lost.
async fn counts_exactly(hosts: &[&Host]) {
    let addresses: Vec<SocketAddr> = hosts.iter().map(|host| host.address).collect();
    let values = count(&addresses, INCREMENTS).await;
    assert_eq!(values.len(), INCREMENTS, "nothing failed here, so all are acknowledged");
    let distinct: HashSet<i64> = values.iter().copied().collect();
    assert_eq!(distinct.len(), values.len(), "two clients were given one value");
    assert_eq!(distinct.iter().max(), Some(&i64::try_from(INCREMENTS).unwrap()));
    for address in addresses {
        let final_count = get(address, "/report").await.count();
        assert_eq!(final_count, i64::try_from(values.len()).unwrap());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_counts_exactly() {
    counts_exactly(&[&Host::start("counter", "memory:", &[])]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sqlite_counts_exactly() {
    counts_exactly(&[&Host::start("counter", "sqlite:tally.db", &[])]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_counts_exactly() {
    let redis = Redis::start().unwrap();
    counts_exactly(&[&Host::start("counter", &redis.url(), &[])]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_counts_exactly() {
    let postgres = Postgres::start(Durability::Unsynced).unwrap();
    counts_exactly(&[&Host::start("counter", &postgres.url(), &[])]).await;
}

/// Guests of WASI 0.3, on every backend.
async fn concurrent_guests_count_exactly(store: &str) {
    counts_exactly(&[&Host::start("counter-p3", store, &[])]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_counts_exactly_for_concurrent_guests() {
    concurrent_guests_count_exactly("memory:").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sqlite_counts_exactly_for_concurrent_guests() {
    concurrent_guests_count_exactly("sqlite:tally.db").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_counts_exactly_for_concurrent_guests() {
    let redis = Redis::start().unwrap();
    concurrent_guests_count_exactly(&redis.url()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_counts_exactly_for_concurrent_guests() {
    let postgres = Postgres::start(Durability::Unsynced).unwrap();
    concurrent_guests_count_exactly(&postgres.url()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_hosts_on_one_redis_count_exactly() {
    let redis = Redis::start().unwrap();
    let hosts = [(); 3].map(|()| Host::start("counter", &redis.url(), &[]));
    counts_exactly(&hosts.each_ref()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_hosts_on_one_postgres_count_exactly() {
    let postgres = Postgres::start(Durability::Unsynced).unwrap();
    let url = postgres.url();
    // All at once, on an empty database: each wants to create the table.
    let starting = [(); 3].map(|()| {
        let url = url.clone();
        std::thread::spawn(move || Host::start("counter", &url, &[]))
    });
    let hosts = starting.map(|thread| thread.join().unwrap());
    counts_exactly(&hosts.each_ref()).await;
}

#[tokio::test]
async fn a_counter_is_shared_with_other_redis_programs() {
    let redis = Redis::start().unwrap();
    let host = Host::start("counter", &redis.url(), &["--bucket", "default=main"]);
    let mut client = Client::connect(host.address).await;
    client.post("/increment?by=41").await;
    let mut other = redis::Client::open(redis.url()).unwrap().get_connection().unwrap();
    let value: String = redis::cmd("GET").arg("main:count").query(&mut other).unwrap();
    assert_eq!(value, "41");
    let _: i64 = redis::cmd("INCR").arg("main:count").query(&mut other).unwrap();
    assert_eq!(client.get("/report").await.count(), 42);
}
