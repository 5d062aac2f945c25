//! `tally:keyvalue/extensions` as a guest sees it, on every backend.

use std::time::Duration;

use tally_testkit::{Durability, Postgres, Redis};

use crate::{client::Client, host::Host};

async fn keeps_the_contract(store: &str) {
    let host = Host::start("probe", store, &[]);
    let mut client = Client::connect(host.address).await;

    // Times to live.
    assert_eq!(client.get("/remaining?key").await.text(), "missing");
    assert_eq!(client.get("/extend?key=1000").await.text(), "false");
    assert_eq!(client.get("/persist?key").await.text(), "false");
    client.get("/set-for?key=1=3600000").await;
    let left: u64 = client.get("/remaining?key").await.text().parse().unwrap();
    assert!(left > 3_000_000 && left <= 3_600_000, "{left} milliseconds");
    assert_eq!(client.get("/add?key").await.text(), "2");
    assert!(client.get("/remaining?key").await.text().parse::<u64>().unwrap() > 3_000_000);
    assert_eq!(client.get("/persist?key").await.text(), "true");
    assert_eq!(client.get("/remaining?key").await.text(), "unlimited");
    assert_eq!(client.get("/extend?key=1").await.text(), "true");
    while client.get("/remaining?key").await.text() != "missing" {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(client.get("/get?key").await.text(), "(none)");
    let detail = client.get("/set-for?key=1=0").await.problem(400, "state_refused");
    assert!(detail.contains("at least one millisecond"), "{detail}");
    client.get("/set-for?key=1=18446744073709551615").await.problem(400, "state_refused");

    // Values that are replaced, and those that are not.
    assert_eq!(client.get("/get-and-set?a=one").await.text(), "(none)");
    assert_eq!(client.get("/get-and-set?a=two").await.text(), "one");
    assert_eq!(client.get("/set-if-absent?a=three").await.text(), "false");
    assert_eq!(client.get("/get?a").await.text(), "two");
    assert_eq!(client.get("/set-if-absent?ab=three").await.text(), "true");
    assert!(client.get("/remaining?ab").await.text().parse::<u64>().unwrap() > 3_000_000);

    // Bounds.
    assert_eq!(client.get("/within?n=2").await.text(), "applied 2");
    assert_eq!(client.get("/within?n=2").await.text(), "refused 2");
    assert_eq!(client.get("/within?n=-2").await.text(), "applied 0");
    client.get("/within?a=1").await.problem(409, "state_conflict");

    // Increments with a time to live for what they create.
    let is_left = |left: &str, most: u64| {
        let left: u64 = left.parse().unwrap();
        assert!(left > most * 5 / 6 && left <= most, "{left} milliseconds of {most}");
    };
    assert_eq!(client.get("/add-for?hits=3600000").await.text(), "1");
    is_left(client.get("/remaining?hits").await.text(), 3_600_000);
    assert_eq!(client.get("/add-for?hits=1").await.text(), "2", "it keeps its own");
    is_left(client.get("/remaining?hits").await.text(), 3_600_000);
    client.get("/persist?hits").await;
    assert_eq!(client.get("/add-for?hits=3600000").await.text(), "3");
    assert_eq!(client.get("/remaining?hits").await.text(), "unlimited");
    for count in 1..=3 {
        let answer = client.get("/within-for?rate=3600000").await;
        assert_eq!(answer.text(), format!("applied {count}"));
    }
    assert_eq!(client.get("/within-for?rate=3600000").await.text(), "refused 3");
    is_left(client.get("/remaining?rate").await.text(), 3_600_000);
    for path in ["/add-for?window=30", "/within-for?limited=30"] {
        let first = client.get(path).await.text().to_owned();
        assert!(first == "1" || first == "applied 1", "{first}");
        let (_, key) = path.split_once('?').unwrap();
        let key = key.trim_end_matches("=30");
        let over = async {
            while client.get(&format!("/remaining?{key}")).await.text() != "missing" {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), over).await.expect("its time ends");
        assert_eq!(client.get(path).await.text(), first, "a window begins anew");
    }
    for path in ["/add-for?new=0", "/within-for?new=0"] {
        let detail = client.get(path).await.problem(400, "state_refused");
        assert!(detail.contains("at least one millisecond"), "{detail}");
    }
    for key in ["hits", "rate", "window", "limited"] {
        client.get(&format!("/delete?{key}")).await;
    }

    assert_eq!(client.get("/prefix?a").await.text(), "a,ab");
    assert_eq!(client.get("/prefix?").await.text(), "a,ab,n");
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
