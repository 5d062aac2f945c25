//! `wasi:keyvalue` as a guest sees it, on every backend.

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

#[tokio::test]
async fn a_store_that_is_gone_is_503_and_comes_back_by_itself() {
    let mut redis = Redis::start().unwrap();
    let host = Host::start("counter", &redis.url(), &[]);
    let mut client = Client::connect(host.address).await;
    assert_eq!(client.post("/increment").await.count(), 1);
    redis.stop().unwrap();
    for _ in 0..3 {
        let response = client.post("/increment").await;
        response.problem(503, "store_unavailable");
        assert_eq!(response.json()["applied"], "no");
        assert_eq!(response.headers["retry-after"], "1");
        let body = response.text();
        assert!(!body.contains(&redis.port().to_string()), "{body}");
    }
    assert_eq!(get(host.admin, "/readyz").await.status, 503);
    assert_eq!(get(host.admin, "/livez").await.status, 200);
    redis.restart().unwrap();
    let second = loop {
        let response = client.post("/increment").await;
        if response.status == 200 {
            break response;
        }
        response.problem(503, "store_unavailable");
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    };
    assert_eq!(second.count(), 2, "exactly those acknowledged");
    assert_eq!(get(host.admin, "/readyz").await.status, 200);
}
