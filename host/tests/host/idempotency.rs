//! Requests with an `Idempotency-Key`, on every backend: made again, they change nothing and are
//! answered alike, whoever answers them, and whoever was killed in between.

use std::time::Duration;

use http::Method;
use tally_testkit::{Durability, Postgres, Proxy, Redis, Way};

use crate::{
    client::{Client, get},
    host::Host,
};

/// Waits until a key of the probe holds a value.
async fn until_holds(host: &Host, key: &str, value: &str) {
    while get(host.address, &format!("/get?{key}")).await.text() != value {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// The host is killed after the write and before the answer; another one is asked again.
async fn a_killed_hosts_request_counts_once(store: &str) {
    let mut killed = Host::start("probe", store, &[]);
    get(killed.address, "/set?hold=1").await;
    let address = killed.address;
    let asking = tokio::spawn(async move {
        let mut client = Client::connect(address).await;
        let mut request = client.request(Method::POST, "/add-and-wait?key");
        request.headers_mut().insert("idempotency-key", "crash".parse().unwrap());
        client.try_send(request).await
    });
    until_holds(&killed, "key", "1").await;
    killed.signal("KILL");
    killed.wait();
    assert!(asking.await.unwrap().is_err(), "no answer");

    let host = Host::start("probe", store, &[]);
    let mut client = Client::connect(host.address).await;
    client.get("/delete?hold").await;
    client.get("/add?key").await;
    let again = client.post_with_key("/add-and-wait?key", "crash").await;
    assert_eq!(again.text(), "1", "the value that it got the first time");
    assert_eq!(again.headers["idempotent-replayed"], "true", "nothing was written this time");
    assert_eq!(client.get("/get?key").await.text(), "2", "counted once");
    let last = client.post_with_key("/add-and-wait?key", "crash").await;
    assert_eq!(last.headers["idempotent-replayed"], "true");
    assert_eq!(last.text(), "1");
}

/// What does not need a host to die.
async fn requests_are_made_once(store: &str) {
    let host = Host::start("probe", store, &[]);
    let mut client = Client::connect(host.address).await;

    // The answer is remembered, not only the writes.
    let first = client.post_with_key("/add-if-first?once", "first").await;
    assert_eq!(first.text(), "1");
    assert_eq!(client.post("/add-if-first?once").await.text(), "not the first");
    assert_eq!(client.post_with_key("/add-if-first?once", "first").await.text(), "1");

    // Several writes.
    let first = client.post_with_key("/write-much?a=1", "much").await;
    assert_eq!(first.text(), "(none) 1 2");
    client.get("/set?writes=10").await;
    assert_eq!(client.post_with_key("/write-much?a=1", "much").await.text(), first.text());
    assert_eq!(client.get("/get?writes").await.text(), "10");

    // A request that fails after a write may be made again, and does not write again.
    for _ in 0..2 {
        client.post_with_key("/add-and-panic?p", "panic").await.problem(500, "trap");
        client.post_with_key("/add-and-refuse?q", "refuse").await.problem(409, "state_conflict");
    }
    assert_eq!(client.get("/get?p").await.text(), "1");
    assert_eq!(client.get("/get?q").await.text(), "1");

    // Another body is another request; reading has no use for a key.
    let mut other = client.request(Method::POST, "/add-if-first?once");
    other.headers_mut().insert("idempotency-key", "first".parse().unwrap());
    let other = other.map(|_| "body".into());
    client.try_send(other).await.unwrap().problem(422, "idempotency_reused");
    let mut reading = client.request(Method::GET, "/add?read");
    reading.headers_mut().insert("idempotency-key", "first".parse().unwrap());
    assert_eq!(client.try_send(reading).await.unwrap().text(), "1");

    // What is no key.
    client.post_with_key("/add?key", "\"").await.problem(400, "idempotency_key");
    client.post_with_key("/add?key", &"k".repeat(256)).await.problem(400, "idempotency_key");
    assert_eq!(client.get("/get?key").await.text(), "(none)");
}

/// The counter of standard guests.
async fn standard_guests_count_once(store: &str) {
    let hosts = [(); 2].map(|()| Host::start("counter-http", store, &[]));
    let mut clients = Vec::new();
    for host in &hosts {
        clients.push(Client::connect(host.address).await);
    }
    let first = clients[0].post_with_key("/increment?by=5", "one").await;
    for client in &mut clients {
        client.post("/increment").await;
        let again = client.post_with_key("/increment?by=5", "one").await;
        assert_eq!(again.text(), first.text());
        assert_eq!(again.headers["idempotent-replayed"], "true");
    }
    clients[1].post_with_key("/reset", "one").await.problem(422, "idempotency_reused");
    assert_eq!(clients[1].get("/report").await.count(), 7);
}

async fn keys_hold(store: &str) {
    requests_are_made_once(store).await;
    standard_guests_count_once(store).await;
    a_killed_hosts_request_counts_once(store).await;
}

#[tokio::test]
async fn keys_hold_over_memory() {
    requests_are_made_once("memory:").await;
}

#[tokio::test]
async fn keys_hold_over_sqlite() {
    let dir = tempfile::tempdir().unwrap();
    keys_hold(&format!("sqlite:{}", dir.path().join("tally.db").display())).await;
}

#[tokio::test]
async fn keys_hold_over_redis() {
    let redis = Redis::start().unwrap();
    keys_hold(&redis.url()).await;
}

#[tokio::test]
async fn keys_hold_over_postgres() {
    let postgres = Postgres::start(Durability::Unsynced).unwrap();
    keys_hold(&postgres.url()).await;
}

#[tokio::test]
async fn a_request_under_way_is_a_conflict_until_it_is_answered() {
    let host = Host::start("probe", "memory:", &[]);
    let mut client = Client::connect(host.address).await;
    client.get("/set?hold=1").await;
    let address = host.address;
    let first = tokio::spawn(async move {
        Client::connect(address).await.post_with_key("/add-and-wait?key", "one").await
    });
    until_holds(&host, "key", "1").await;
    let response = client.post_with_key("/add-and-wait?key", "one").await;
    response.problem(409, "idempotency_in_flight");
    assert_eq!(response.json()["applied"], "unknown", "the other one may have counted");
    assert_eq!(response.headers["retry-after"], "1");
    // Another key is another request.
    client.get("/delete?hold").await;
    assert_eq!(client.post_with_key("/add-and-wait?key", "two").await.text(), "2");
    assert_eq!(first.await.unwrap().text(), "1");
    assert_eq!(client.post_with_key("/add-and-wait?key", "one").await.text(), "1");
    assert_eq!(client.get("/get?key").await.text(), "2");
}

#[tokio::test]
async fn a_client_that_leaves_and_asks_again_counts_once() {
    let host = Host::start("probe", "sqlite:tally.db", &[]);
    get(host.address, "/set?hold=1").await;
    let address = host.address;
    let first = tokio::spawn(async move {
        Client::connect(address).await.post_with_key("/add-and-wait?key", "one").await
    });
    until_holds(&host, "key", "1").await;
    first.abort();
    get(host.address, "/delete?hold").await;
    let mut client = Client::connect(host.address).await;
    let again = loop {
        let response = client.post_with_key("/add-and-wait?key", "one").await;
        // The host may not have seen yet that the first has left.
        if response.status != 409 {
            break response;
        }
    };
    assert_eq!(again.text(), "1");
    assert_eq!(client.get("/get?key").await.text(), "1");
}

#[tokio::test]
async fn two_hosts_that_are_asked_at_once_count_once() {
    let redis = Redis::start().unwrap();
    let hosts = [(); 2].map(|()| Host::start("counter", &redis.url(), &[]));
    for round in 1..=20 {
        let key = format!("round-{round}");
        let asked = hosts.each_ref().map(|host| {
            let (address, key) = (host.address, key.clone());
            tokio::spawn(async move {
                Client::connect(address).await.post_with_key("/increment", &key).await.count()
            })
        });
        for count in asked {
            assert_eq!(count.await.unwrap(), round);
        }
    }
}

#[tokio::test]
async fn a_key_is_forgotten_after_its_window() {
    let flags = ["--idempotency-window", "100ms"];
    let host = Host::start("counter", "memory:", &flags);
    let mut client = Client::connect(host.address).await;
    assert_eq!(client.post_with_key("/increment", "one").await.count(), 1);
    while client.post_with_key("/increment", "one").await.count() != 2 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Wherever the store's connection is cut, a guest that tries again counts once, and so does a client
/// that sends the request again.
#[tokio::test]
async fn a_guest_that_tries_again_counts_once() {
    let redis = Redis::start().unwrap();
    let proxy = Proxy::start(redis.port()).unwrap();
    let url = format!("redis://127.0.0.1:{}", proxy.port());
    let host = Host::start("probe", &url, &["--store-timeout", "1s"]);
    let mut client = Client::connect(host.address).await;
    let mut number = 0;
    for way in [Way::Requests, Way::Replies] {
        for after in [0, 1, 40, 100, 150, 200] {
            number += 1;
            for path in ["/add-until-it-works", "/add-one-or-five"] {
                let (key, name) = (format!("key-{number}"), format!("{path}-{number}"));
                let target = format!("{path}?{key}{}", path.len());
                // The connection is there, and is used next.
                client.get("/exists?nothing").await;
                proxy.cut(way, after);
                let first = client.post_with_key(&target, &name).await;
                proxy.release();
                assert_eq!(first.status, 200, "{target}: {}", first.text());
                let look = format!("/get?{key}{}", path.len());
                let held = client.get(&look).await.text().to_owned();
                if path == "/add-until-it-works" {
                    assert_eq!((first.text(), &*held), ("1", "1"), "{target}");
                }
                let again = client.post_with_key(&target, &name).await;
                let held_now = client.get(&look).await;
                assert_eq!(held_now.text(), held, "{way:?} after {after}: {target} was made again");
                if path == "/add-until-it-works" {
                    assert_eq!(again.text(), "1", "{target}");
                }
            }
        }
    }
}

#[tokio::test]
async fn a_change_of_the_configuration_makes_no_key_another() {
    let redis = Redis::start().unwrap();
    let configurations: [&[&str]; 4] = [
        &["--bucket", "default=main"],
        &["--bucket", "default=main", "--bucket", "more=extra"],
        &["--bucket", "more=extra", "--bucket", "default=main", "--idempotency-window", "2days"],
        &["--bucket", "default=main", "--idempotency-records", "1000"],
    ];
    for flags in configurations {
        let host = Host::start("counter", &redis.url(), flags);
        let mut client = Client::connect(host.address).await;
        assert_eq!(client.post_with_key("/increment", "one").await.count(), 1, "{flags:?}");
    }
    // As a route of its own, under a name of its own.
    let dir = tempfile::tempdir().unwrap();
    let counter = crate::host::guest("counter").display().to_string();
    let config = format!(
        "store = \"{}\"\n[[route]]\nprefix = \"/\"\nguest = \"{counter}\"\nname = \"renamed\"\nbuckets = [\"default=main\"]\n",
        redis.url()
    );
    let host = Host::start_configured(dir, &config);
    let mut client = Client::connect(host.address).await;
    assert_eq!(client.post_with_key("/increment", "one").await.count(), 1, "renamed");
    assert_eq!(client.post("/increment").await.count(), 2);
}

#[tokio::test]
async fn no_more_is_recorded_than_a_guest_may() {
    let flags = ["--idempotency-records", "3"];
    let host = Host::start("counter", "memory:", &flags);
    let mut client = Client::connect(host.address).await;
    for number in 1..=3 {
        assert_eq!(client.post_with_key("/increment", &number.to_string()).await.count(), number);
    }
    let refused = client.post_with_key("/increment", "4").await;
    let detail = refused.problem(503, "idempotency_full");
    assert!(detail.contains("same key"), "{detail}");
    assert_eq!(refused.json()["applied"], "unknown", "an earlier try may have come further");
    assert_eq!(client.post("/increment").await.count(), 4, "others are not concerned");
    let metrics = get(host.admin, "/metrics").await;
    let metrics = metrics.text();
    assert!(metrics.contains("tally_idempotency_records{guest=\"default\"} 3"), "{metrics}");
    assert!(metrics.contains("tally_idempotency_records_limit{guest=\"default\"} 3"), "{metrics}");
}

#[tokio::test]
async fn guests_do_not_share_keys() {
    let dir = tempfile::tempdir().unwrap();
    let counter = crate::host::guest("counter").display().to_string();
    let config = format!(
        "store = \"memory:\"\n[[route]]\nprefix = \"/\"\nguest = \"{counter}\"\nname = \"a\"\n\
         [[route]]\nhost = \"other\"\nprefix = \"/\"\nguest = \"{counter}\"\nname = \"b\"\n"
    );
    let host = Host::start_configured(dir, &config);
    let mut client = Client::connect(host.address).await;
    assert_eq!(client.post_with_key("/increment", "one").await.count(), 1);
    let mut request = client.request(Method::POST, "/increment?by=3");
    request.headers_mut().insert("idempotency-key", "one".parse().unwrap());
    request.headers_mut().insert("host", "other".parse().unwrap());
    assert_eq!(client.try_send(request).await.unwrap().count(), 3);
}

#[tokio::test]
async fn services_that_share_a_store_do_not_share_keys() {
    let redis = Redis::start().unwrap();
    let buckets = ["default=a", "default=b"];
    for (bucket, by) in buckets.into_iter().zip([1, 2]) {
        let host = Host::start("counter", &redis.url(), &["--bucket", bucket]);
        let mut client = Client::connect(host.address).await;
        let response = client.post_with_key(&format!("/increment?by={by}"), "one").await;
        assert_eq!(response.count(), by, "each its own count under its own key");
    }
}

/// Whoever asks again while the store is away is not told that nothing was changed: it was.
#[tokio::test]
async fn what_may_have_been_made_before_is_not_said_to_have_no_effect() {
    let mut redis = Redis::start().unwrap();
    let host = Host::start("probe", &redis.url(), &[]);
    get(host.address, "/set?hold=1").await;
    let address = host.address;
    let first = tokio::spawn(async move {
        Client::connect(address).await.post_with_key("/add-and-wait?key", "one").await
    });
    until_holds(&host, "key", "1").await;
    first.abort();
    redis.stop().unwrap();
    let mut client = Client::connect(host.address).await;
    let response = loop {
        let response = client.post_with_key("/add-and-wait?key", "one").await;
        // The host may not have seen yet that the first has left.
        if response.status != 409 {
            break response;
        }
    };
    let detail = response.problem(503, "store_unavailable");
    assert_eq!(response.json()["applied"], "unknown");
    assert!(detail.contains("same key"), "{detail}");
    redis.restart().unwrap();
    while get(host.address, "/delete?hold").await.status != 200 {}
    let again = loop {
        let response = client.post_with_key("/add-and-wait?key", "one").await;
        // The client's worker may not have tried to connect again.
        if response.status != 503 {
            break response;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    };
    assert_eq!(again.text(), "1");
}
