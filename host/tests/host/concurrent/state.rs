//! State operations of guests of WASI 0.3, several on their way at a time.

use http::Method;
use tally_testkit::{Durability, Postgres, Redis};

use crate::{
    client::{Client, Response, get},
    host::Host,
};

fn host(store: &str, flags: &[&str]) -> Host {
    Host::start("probe-p3", store, flags)
}

/// Batches that the host has sent so far.
async fn batches(host: &Host) -> u64 {
    let metrics = get(host.admin, "/metrics").await;
    let line =
        metrics.text().lines().find_map(|line| line.strip_prefix("tally_state_batches_total "));
    line.unwrap().parse().unwrap()
}

/// What a guest sees, whatever the store.
async fn keeps_the_contract(store: &str, counts_batches: bool) {
    let host = host(store, &["--workers", "1"]);
    let mut client = Client::connect(host.address).await;
    let all = client.get("/all-shapes").await;
    let wanted = [
        "exists Ok(true) lives true extended Ok(true) persisted Ok(true)",
        "before Some(\"1\") absent Ok(true)",
        "within applied 15 beyond refused 2 counted Ok(4)",
        "seen Some(\"15\") swapped true newer Some(\"meanwhile\")",
        "many [Some(Some(\"meanwhile\")), None, Some(Some(\"5\"))]",
        "all [\"five\", \"one\"] some [\"five\"]",
    ];
    assert_eq!(all.text().lines().collect::<Vec<_>>(), wanted, "over {store}");

    let counts = |from: i64, to: i64| {
        (from..=to).map(|count| count.to_string()).collect::<Vec<_>>().join(" ")
    };
    client.get("/add?warm").await;
    let before = batches(&host).await;
    assert_eq!(client.get("/increments?100").await.text(), counts(1, 100));
    if counts_batches {
        assert_eq!(batches(&host).await - before, 1, "100 increments at once are one batch");
    }
    assert_eq!(client.get("/increments?100").await.text(), counts(101, 200));
    assert_eq!(client.get("/value?many").await.text(), "200");
    assert_eq!(client.get("/reads?100").await.text(), "0");

    // More than one request may ask for.
    let response = client.get("/increments?1001").await;
    response.problem(500, "internal");
    assert_eq!(response.json()["applied"], "unknown");
    assert_eq!(client.get("/value?many").await.text(), "1200", "a thousand of them were made");
}

#[tokio::test]
async fn memory_keeps_the_contract() {
    keeps_the_contract("memory:", false).await;
}

#[tokio::test]
async fn sqlite_keeps_the_contract() {
    keeps_the_contract("sqlite:tally.db", true).await;
}

#[tokio::test]
async fn redis_keeps_the_contract() {
    let redis = Redis::start().unwrap();
    keeps_the_contract(&redis.url(), true).await;
}

#[tokio::test]
async fn postgres_keeps_the_contract() {
    let postgres = Postgres::start(Durability::Unsynced).unwrap();
    keeps_the_contract(&postgres.url(), true).await;
}

async fn with_key(client: &mut Client, path: &str, key: &str) -> Response {
    client.post_with_key(path, key).await
}

/// A request whose writes begin in another order when it is made again, after a run that made only the first.
async fn keys_hold_in_any_order(store: &str) {
    const PATH: &str = "/add-each?key=1,5,1,20";
    let flags = |env: &'static str| ["--env", env];
    let stopped = host(store, &flags("PANICS=1"));
    let mut client = Client::connect(stopped.address).await;
    for _ in 0..2 {
        with_key(&mut client, PATH, "order").await.problem(500, "trap");
        assert_eq!(client.get("/value?key").await.text(), "1", "the first of them was made, once");
    }
    drop(stopped);
    let reversed = host(store, &flags("REVERSED=1"));
    let mut client = Client::connect(reversed.address).await;
    let first = with_key(&mut client, PATH, "order").await;
    assert_eq!(first.status, 200, "{first:?}");
    assert_eq!(client.get("/value?key").await.text(), "27", "each of them was made once");
    drop(reversed);
    let forwards = host(store, &flags("OTHER=1"));
    let mut client = Client::connect(forwards.address).await;
    for _ in 0..2 {
        let again = with_key(&mut client, PATH, "order").await;
        assert_eq!(again.text(), first.text());
        assert_eq!(again.headers["idempotent-replayed"], "true");
    }
    assert_eq!(client.get("/value?key").await.text(), "27");
    // Without a key it is another request each time.
    client.post("/add-each?key=1,5").await;
    assert_eq!(client.get("/value?key").await.text(), "33");
}

#[tokio::test]
async fn keys_hold_in_any_order_over_sqlite() {
    // One folder for all hosts.
    let dir = tempfile::tempdir().unwrap();
    keys_hold_in_any_order(&format!("sqlite:{}", dir.path().join("shared.db").display())).await;
}

#[tokio::test]
async fn keys_hold_in_any_order_over_redis() {
    let redis = Redis::start().unwrap();
    keys_hold_in_any_order(&redis.url()).await;
}

#[tokio::test]
async fn keys_hold_in_any_order_over_postgres() {
    let postgres = Postgres::start(Durability::Unsynced).unwrap();
    keys_hold_in_any_order(&postgres.url()).await;
}

#[tokio::test]
async fn a_request_with_a_key_makes_many_increments_once() {
    let host = host("sqlite:tally.db", &[]);
    let mut client = Client::connect(host.address).await;
    let first = client.post_with_key("/increments?100", "many").await;
    let again = client.post_with_key("/increments?100", "many").await;
    assert_eq!(again.text(), first.text());
    assert_eq!(again.headers["idempotent-replayed"], "true");
    assert_eq!(client.get("/value?many").await.text(), "100");
}

#[tokio::test]
async fn failures_say_whether_something_was_changed() {
    let host = host("memory:", &[]);
    let mut client = Client::connect(host.address).await;
    for (path, code, applied) in [
        ("/add-and-panic?n", "trap", "unknown"),
        ("/add-and-error?n", "internal", "unknown"),
        ("/trap-before", "trap", "no"),
        ("/error-code", "internal", "no"),
    ] {
        let response = client.get(path).await;
        response.problem(500, code);
        assert_eq!(response.json()["applied"], applied, "{path}");
    }
    assert_eq!(client.get("/value?n").await.text(), "2");
}

#[tokio::test]
async fn a_guest_may_write_after_its_answer() {
    let host = host("memory:", &[]);
    let mut client = Client::connect(host.address).await;
    let mut request = client.request(Method::POST, "/add-and-leave?later");
    request.headers_mut().insert("idempotency-key", "later".parse().unwrap());
    assert_eq!(client.try_send(request).await.unwrap().text(), "later");
    let writing = async {
        while client.get("/value?later").await.text() != "1" {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    let written = tokio::time::timeout(std::time::Duration::from_secs(60), writing).await;
    written.expect("the write after the answer is made");
}

/// The functions of `wasmcloud:keyvalue` are all `async`.
#[tokio::test]
async fn increments_of_wasmcloud_leave_in_one_batch_as_well() {
    let host = Host::start("probe-wasmcloud", "sqlite:tally.db", &["--workers", "1"]);
    let mut client = Client::connect(host.address).await;
    assert_eq!(client.get("/add?n,5").await.text(), "5");
    let before = batches(&host).await;
    let sum: i64 = (6..=105).sum();
    assert_eq!(client.get("/add-many?n,100").await.text(), sum.to_string());
    assert_eq!(batches(&host).await - before, 1);
    assert_eq!(client.get("/get?n").await.text(), "105");
}

/// So are those of Spin's key-value store.
#[tokio::test]
async fn writes_of_spin_leave_in_one_batch_as_well() {
    let host = Host::start("probe-spin-p3", "sqlite:tally.db", &["--workers", "1"]);
    let mut client = Client::connect(host.address).await;
    client.get("/set?warm=1").await;
    let before = batches(&host).await;
    let pairs: Vec<_> = (100..200).map(|number| format!("{number}=x")).collect();
    let set_many = format!("/set-many?{}", pairs.join(","));
    assert_eq!(client.get(&set_many).await.text(), "set");
    assert_eq!(batches(&host).await - before, 1);
    // With a key, each is applied once.
    assert_eq!(client.post_with_key(&set_many, "all").await.text(), "set");
    assert_eq!(client.get("/count-keys").await.text(), "101 Ok(())");
    client.get("/delete?150").await;
    let again = client.post_with_key(&set_many, "all").await;
    assert_eq!(again.headers["idempotent-replayed"], "true");
    assert_eq!(client.get("/exists?150").await.text(), "false", "it was not set again");
}
