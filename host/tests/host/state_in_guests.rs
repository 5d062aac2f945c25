//! `wasi:keyvalue` as a guest sees it, on every backend.

use std::{
    cell::RefCell,
    time::{Duration, Instant},
};

use tally_testkit::{Durability, Postgres, Redis};

use crate::{
    client::{Client, get},
    host::Host,
};

/// What a guest sees, whatever the store.
async fn keeps_the_contract(store: &str) {
    let host = Host::start("probe", store, &["--bucket", "default", "--bucket", "second=a:b"]);
    let mut client = Client::connect(host.address).await;

    // Buckets.
    for (name, seen) in [
        ("", "Ok(\"opened\")"),
        ("default", "Ok(\"opened\")"),
        ("second", "Ok(\"opened\")"),
        ("a:b", "Err(Error::NoSuchStore)"),
        ("third", "Err(Error::NoSuchStore)"),
        ("tally.health", "Err(Error::AccessDenied)"),
    ] {
        assert_eq!(client.get(&format!("/open?{name}")).await.text(), seen, "{name}");
    }

    // Keys.
    assert_eq!(client.get("/get?key").await.text(), "(none)");
    assert_eq!(client.get("/exists?key").await.text(), "false");
    client.get("/set?key=value").await;
    assert_eq!(client.get("/get?key").await.text(), "value");
    assert_eq!(client.get("/exists?key").await.text(), "true");
    client.get("/delete?key").await;
    assert_eq!(client.get("/get?key").await.text(), "(none)");

    // Counters read as decimal text, and a text that is one counts on.
    assert_eq!(client.get("/add?n").await.text(), "1");
    assert_eq!(client.get("/get?n").await.text(), "1");
    client.get("/set?n=41").await;
    assert_eq!(client.get("/add?n").await.text(), "42");

    // What holds no number is not counted, and is left as it was.
    client.get("/set?n=007").await;
    let response = client.get("/add?n").await;
    let detail = response.problem(409, "state_conflict");
    assert!(detail.contains("not a whole number"), "{detail}");
    assert_eq!(response.json()["applied"], "no");
    assert_eq!(client.get("/get?n").await.text(), "007");

    // Keys and values out of bounds.
    assert_eq!(client.get("/long-key?1000").await.text(), "1");
    for (path, part) in [
        ("/long-key?0", "must not be empty"),
        ("/long-key?1001", "over the limit of 1000 bytes"),
        ("/long-key?2048", "over the limit of 1000 bytes"),
        ("/long-value?1048577", "over the limit of 1048576 bytes"),
        ("/long-value?8388608", "over the limit of 1048576 bytes"),
    ] {
        let detail = client.get(path).await.problem(400, "state_refused");
        assert!(detail.contains(part), "{path}: {detail}");
    }
    assert_eq!(client.get("/long-value?1048576").await.text(), "set");
    // Beyond what a host call may take: the guest is stopped, not the host.
    client.get("/long-value?10000000").await.problem(500, "trap");

    // Compare-and-swap, and several keys at once.
    assert_eq!(client.get("/swap").await.text(), "None true first true second");
    assert_eq!(client.get("/batch").await.text(), "two=2,-,one=1 -,-,-");

    // Listing.
    client.get("/delete?long").await;
    client.get(&format!("/delete?{}", "k".repeat(1000))).await;
    assert_eq!(client.get("/list").await.text(), "n,swap");

    // A write and then a trap: whoever asked cannot know.
    let response = client.get("/add-and-panic?p").await;
    response.problem(500, "trap");
    assert_eq!(response.json()["applied"], "unknown");
    assert_eq!(client.get("/get?p").await.text(), "1");

    // A write and then a refusal, of the store's or of the guest's own: the write has happened.
    let response = client.get("/add-and-refuse?q").await;
    response.problem(409, "state_conflict");
    assert_eq!(response.json()["applied"], "unknown");
    let response = client.get("/add-and-complain?q").await;
    response.problem(400, "bad_request");
    assert_eq!(response.json()["applied"], "unknown");
    assert_eq!(client.get("/get?q").await.text(), "2");
}

#[tokio::test]
async fn memory_keeps_the_contract() {
    keeps_the_contract("memory:").await;
}

#[tokio::test]
async fn sqlite_keeps_the_contract() {
    keeps_the_contract("sqlite:tally.db").await;
}

#[tokio::test]
async fn redis_keeps_the_contract() {
    let redis = Redis::start().unwrap();
    keeps_the_contract(&redis.url()).await;
}

#[tokio::test]
async fn postgres_keeps_the_contract() {
    let postgres = Postgres::start(Durability::Unsynced).unwrap();
    keeps_the_contract(&postgres.url()).await;
}

/// Asks until the store is there again; every other answer says that nothing was changed.
async fn until_counted(client: &mut Client) -> i64 {
    loop {
        let response = client.post("/increment").await;
        if response.status == 200 {
            return response.count();
        }
        response.problem(503, "store_unavailable");
        assert_eq!(response.json()["applied"], "no");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// What a client sees of a store that is stopped and started again.
async fn is_503_while_it_is_gone(url: &str, port: u16, stop: impl FnOnce(), start: impl FnOnce()) {
    let host = Host::start("counter", url, &[]);
    let mut client = Client::connect(host.address).await;
    assert_eq!(client.post("/increment").await.count(), 1);
    stop();
    // The end of a connection may not have been seen yet; a server that has stopped counts nothing.
    while client.post("/increment").await.status == 504 {}
    let mut slowest = Duration::ZERO;
    for _ in 0..20 {
        let asked = Instant::now();
        let response = client.post("/increment").await;
        slowest = slowest.max(asked.elapsed());
        response.problem(503, "store_unavailable");
        assert_eq!(response.json()["applied"], "no");
        assert_eq!(response.headers["retry-after"], "1");
        let body = response.text();
        assert!(!body.contains(&port.to_string()), "{body}");
    }
    assert_eq!(get(host.admin, "/readyz").await.status, 503);
    assert_eq!(get(host.admin, "/livez").await.status, 200);
    start();
    let returned = Instant::now();
    assert_eq!(until_counted(&mut client).await, 2, "exactly those acknowledged");
    println!("refused within {slowest:?}; counted {:?} after its return", returned.elapsed());
    while get(host.admin, "/readyz").await.status != 200 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let metrics = get(host.admin, "/metrics").await;
    assert!(metrics.text().contains("tally_state_connection_failures_total"));
}

#[tokio::test]
async fn a_redis_that_is_gone_is_503_and_comes_back_by_itself() {
    let redis = RefCell::new(Redis::start().unwrap());
    let (url, port) = (redis.borrow().url(), redis.borrow().port());
    let stop = || redis.borrow_mut().stop().unwrap();
    is_503_while_it_is_gone(&url, port, stop, || redis.borrow_mut().restart().unwrap()).await;
}

#[tokio::test]
async fn a_postgres_that_is_gone_is_503_and_comes_back_by_itself() {
    let postgres = RefCell::new(Postgres::start(Durability::Unsynced).unwrap());
    let (url, port) = (postgres.borrow().url(), postgres.borrow().port());
    let stop = || postgres.borrow_mut().stop().unwrap();
    is_503_while_it_is_gone(&url, port, stop, || postgres.borrow_mut().restart().unwrap()).await;
}

#[tokio::test]
async fn a_frozen_store_holds_up_only_what_needs_it() {
    let redis = Redis::start().unwrap();
    let flags = ["--store-timeout", "300ms", "--connect-timeout", "200ms"];
    let host = Host::start("probe", &redis.url(), &flags);
    let mut client = Client::connect(host.address).await;
    assert_eq!(client.get("/add?n").await.text(), "1");
    redis.signal("STOP").unwrap();
    let address = host.address;
    let sent: Vec<_> =
        (0..32).map(|_| tokio::spawn(async move { get(address, "/add?n").await })).collect();
    assert_eq!(client.get("/static").await.text(), "1", "it asks no store");
    assert_eq!(get(host.admin, "/livez").await.status, 200);
    let mut unknown = 0;
    for answer in sent {
        let response = answer.await.unwrap();
        match response.status.as_u16() {
            504 => {
                response.problem(504, "store_unknown");
                assert_eq!(response.json()["applied"], "unknown");
                unknown += 1;
            }
            _ => drop(response.problem(503, "store_unavailable")),
        }
    }
    assert!(unknown > 0, "some were on their way");
    client.get("/add?n").await.problem(503, "store_unavailable");
    redis.signal("CONT").unwrap();
    let count = loop {
        let response = client.get("/add?n").await;
        if response.status == 200 {
            break response.text().parse::<i64>().unwrap();
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    };
    assert!((2..=2 + unknown).contains(&count), "{count} with {unknown} unknown");
}
