//! Stores that nothing happens to: all is answered, and as one at a time.

use std::{sync::Arc, time::Duration};

use tally_state::{Handle, Options};
use tally_testkit::{Durability, Postgres, Redis};

use crate::{
    block_on, histories,
    keyed::{self, open_unlike},
    open,
    request::{AtOnce, Impatient},
    run::{Hosts, Summary, counter, many},
    seed,
};

/// Options whose time limits no slow machine reaches.
fn patient() -> Options {
    Options {
        timeout: Duration::from_secs(60),
        connect_timeout: Duration::from_secs(30),
        ..Options::default()
    }
}

/// Histories on a store, and a long one of a counter; gives how their operations ended.
async fn check(name: &str, hosts: Arc<Hosts<Handle>>) -> Summary {
    let seed = seed(name);
    let mut summary =
        many(&hosts, seed, histories()).await.unwrap_or_else(|error| panic!("{error}"));
    summary += counter(&hosts, seed).await.unwrap_or_else(|error| panic!("{error}"));
    println!("{name}: {summary:?}");
    assert_eq!(summary.unknown, 0, "all is known where nothing fails");
    assert!(summary.rejected > 0, "some was asked that cannot be done");
    summary
}

#[test]
fn memory_is_linearizable() {
    block_on(async {
        let summary = check("memory", open("memory:", &patient(), 1).await).await;
        assert_eq!(summary.not_applied, 0);
    });
}

#[test]
fn sqlite_is_linearizable_from_two_hosts() {
    let dir = tempfile::tempdir().unwrap();
    block_on(async {
        let url = format!("sqlite:{}", dir.path().join("tally.db").display());
        // Who waits too long for the other host's lock is not applied.
        check("sqlite", open(&url, &patient(), 2).await).await;
    });
}

#[test]
fn redis_is_linearizable_from_two_hosts() {
    let server = Redis::start().unwrap();
    block_on(async {
        let summary = check("redis", open(&server.url(), &patient(), 2).await).await;
        assert_eq!(summary.not_applied, 0);
    });
}

#[test]
fn postgres_is_linearizable_from_two_hosts() {
    let server = Postgres::start(Durability::Unsynced).unwrap();
    block_on(async {
        let summary = check("postgres", open(&server.url(), &patient(), 2).await).await;
        assert_eq!(summary.not_applied, 0);
    });
}

/// Histories of requests with a key, whose handlers lose patience: those that make one call after the other, and those
/// that make all at once.
async fn check_requests(name: &str, url: &str) {
    let hosts = open_unlike(url, &patient()).await;
    let one_by_one = hosts.iter().cloned().map(Impatient).collect();
    keyed::check(name, one_by_one, seed(name), histories()).await;
    let name = &format!("{name}, at once");
    keyed::check(name, hosts.into_iter().map(AtOnce).collect(), seed(name), histories()).await;
}

#[test]
fn memory_applies_requests_once() {
    let name = "requests, memory";
    block_on(async {
        let hosts = open("memory:", &patient(), 1).await;
        let hosts: Vec<Handle> = hosts.iter().flatten().cloned().collect();
        let one_by_one = hosts.iter().cloned().map(Impatient).collect();
        keyed::check(name, one_by_one, seed(name), histories()).await;
        let name = &format!("{name}, at once");
        keyed::check(name, hosts.into_iter().map(AtOnce).collect(), seed(name), histories()).await;
    });
}

#[test]
fn sqlite_applies_requests_once_from_unlike_hosts() {
    let dir = tempfile::tempdir().unwrap();
    let url = format!("sqlite:{}", dir.path().join("tally.db").display());
    block_on(check_requests("requests, sqlite", &url));
}

#[test]
fn redis_applies_requests_once_from_unlike_hosts() {
    let server = Redis::start().unwrap();
    block_on(check_requests("requests, redis", &server.url()));
}

#[test]
fn postgres_applies_requests_once_from_unlike_hosts() {
    let server = Postgres::start(Durability::Unsynced).unwrap();
    block_on(check_requests("requests, postgres", &server.url()));
}
