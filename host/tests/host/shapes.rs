//! The shapes of key-value stores that guests of other hosts import, each through a guest that was
//! built for it, on every backend; and what other hosts get wrong.

use tally_testkit::{Durability, Postgres, Redis};

use crate::{
    client::{Client, get},
    host::Host,
};

/// Answers of a probe: the text, or with 500 the error that the guest was given.
struct Probe {
    client: Client,
}

impl Probe {
    async fn of(host: &Host) -> Self {
        Self { client: Client::connect(host.address).await }
    }

    async fn says(&mut self, target: &str, expected: &str) {
        let response = self.client.get(target).await;
        assert_eq!(response.text(), expected, "{target}: {response:?}");
        assert_eq!(response.status, 200);
    }

    /// Checks that the guest was given an error of which this is a part.
    async fn fails(&mut self, target: &str, part: &str) {
        let response = self.client.get(target).await;
        assert_eq!(response.status, 500, "{target}: {response:?}");
        assert!(response.text().contains(part), "{target}: {response:?}");
    }
}

/// What single keys do in every shape.
async fn keys(probe: &mut Probe, elsewhere: &str) {
    for name in ["", "default"] {
        probe.says(&format!("/open?{name}"), "opened").await;
    }
    probe.fails("/open?elsewhere", elsewhere).await;
    probe.fails("/open?tally.health", "AccessDenied").await;
    probe.says("/get?key", "(none)").await;
    probe.says("/exists?key", "false").await;
    probe.says("/set?key=value", "set").await;
    probe.says("/get?key", "value").await;
    probe.says("/exists?key", "true").await;
    probe.says("/delete?key", "deleted").await;
    probe.says("/delete?key", "deleted").await;
    probe.says("/get?key", "(none)").await;
    let long = "k".repeat(1_024);
    probe.fails(&format!("/set?{long}=v"), "over the limit of 1000 bytes").await;
    probe.fails("/get?", "must not be empty").await;
}

/// What counters do in every shape of `wasi:keyvalue`.
async fn counters(probe: &mut Probe) {
    probe.says("/add?n", "1").await;
    probe.says("/add?n=41", "42").await;
    probe.says("/get?n", "42").await;
    // What holds no number is an error and stays as it was.
    for value in ["x", "007", "1.5", "9223372036854775808"] {
        probe.says(&format!("/set?n={value}"), "set").await;
        probe.fails("/add?n", "not a whole number").await;
        probe.says("/get?n", value).await;
    }
    // So does a count that would leave its range.
    probe.says(&format!("/set?n={}", i64::MAX), "set").await;
    probe.fails("/add?n", "64-bit").await;
    probe.says("/get?n", &i64::MAX.to_string()).await;
    probe.says("/delete?n", "deleted").await;
}

/// Several keys at once, and listing.
async fn several(probe: &mut Probe, found: &str) {
    probe.says("/set-many?b=2,a=1,c=3", "set").await;
    probe.says("/get-many?c,nothing,a", found).await;
    probe.says("/all-keys", "a,b,c").await;
    probe.says("/delete-many?a,b,nothing", "deleted").await;
    probe.says("/all-keys", "c").await;
    probe.says("/delete?c", "deleted").await;
    // More than a page.
    let mut all = Vec::new();
    for page in 0..12 {
        let keys: Vec<String> = (0..100).map(|key| format!("{page:02}-{key:03}")).collect();
        let pairs: Vec<String> = keys.iter().map(|key| format!("{key}=x")).collect();
        probe.says(&format!("/set-many?{}", pairs.join(",")), "set").await;
        all.extend(keys);
    }
    probe.says("/all-keys", &all.join(",")).await;
}

/// Compare-and-swap, which says so when it succeeds, and never overwrites blindly.
async fn swaps(probe: &mut Probe) {
    probe.says("/swap?s=first", "swapped").await;
    probe.says("/swap?s=second", "swapped").await;
    probe.says("/get?s", "second").await;
    probe.says("/swap-late?s=third", "changed late, then swapped").await;
    // A key that was not there when the handle was taken, and is now.
    probe.says("/delete?s", "deleted").await;
    probe.says("/swap-late?s=mine", "changed late, then swapped").await;
    probe.says("/get?s", "mine").await;
    probe.says("/delete?s", "deleted").await;
}

/// Counts from 64 clients, and checks that each was given its own value and none was lost.
async fn counts_exactly(host: &Host, add: &'static str, read: &str, increments: usize) {
    const CLIENTS: usize = 64;
    let clients: Vec<_> = (0..CLIENTS)
        .map(|_| {
            let address = host.address;
            tokio::spawn(async move {
                let mut client = Client::connect(address).await;
                let mut values = Vec::new();
                for _ in 0..increments / CLIENTS {
                    let response = client.get(add).await;
                    assert_eq!(response.status, 200, "{response:?}");
                    values.push(response.text().parse::<usize>().unwrap());
                }
                values
            })
        })
        .collect();
    let mut values = Vec::new();
    for client in clients {
        values.extend(client.await.unwrap());
    }
    values.sort_unstable();
    assert_eq!(values, (1..=values.len()).collect::<Vec<_>>());
    assert_eq!(get(host.address, read).await.text(), values.len().to_string());
}

async fn every_shape_on(store: &str) {
    let host = Host::start("probe-draft2", store, &[]);
    let mut probe = Probe::of(&host).await;
    keys(&mut probe, "NoSuchStore").await;
    counters(&mut probe).await;
    probe.says("/add?below=-3", "-3").await;
    probe.says("/delete?below", "deleted").await;
    swaps(&mut probe).await;
    several(&mut probe, "c=3,(none),a=1").await;
    counts_exactly(&host, "/add?hot", "/get?hot", 6_400).await;
    counts_exactly(&host, "/swap-add?swapped", "/get?swapped", 192).await;
    drop(host);

    let host = Host::start("probe-spin", store, &["--bucket", "default=spin"]);
    let mut probe = Probe::of(&host).await;
    keys(&mut probe, "NoSuchStore").await;
    counters(&mut probe).await;
    swaps(&mut probe).await;
    several(&mut probe, "c=3,nothing=(none),a=1").await;
    counts_exactly(&host, "/add?hot", "/get?hot", 6_400).await;
    drop(host);

    let host = Host::start("probe-draft", store, &["--bucket", "default=draft"]);
    let mut probe = Probe::of(&host).await;
    keys(&mut probe, "NoSuchStore").await;
    counters(&mut probe).await;
    // This shape knows no sign: what has one is an error that says that it was counted.
    probe.says("/set?below=-3", "set").await;
    probe.fails("/add?below=1", "the count is -2").await;
    probe.says("/get?below", "-2").await;
    probe.says("/delete?below", "deleted").await;
    probe.fails("/add?below=9223372036854775808", "64-bit").await;
    several(&mut probe, "c=3,(none),a=1").await;
    probe.fails("/keys?7", "this cursor was not given out in this request").await;
    counts_exactly(&host, "/add?hot", "/get?hot", 6_400).await;
    drop(host);

    for (guest, bucket) in [("probe-spin-kv", "spin-kv"), ("probe-spin-p3", "spin-p3")] {
        let host = Host::start(guest, store, &["--bucket", &format!("default={bucket}")]);
        let mut probe = Probe::of(&host).await;
        keys(&mut probe, "AccessDenied").await;
        probe.says("/get-keys", "").await;
        for key in ["b", "a", "c%2Cd"] {
            probe.says(&format!("/set?{key}=x"), "set").await;
        }
        probe.says("/get-keys", "a,b,c,d").await;
    }
}

#[tokio::test]
async fn every_shape_does_everything_on_memory() {
    every_shape_on("memory:").await;
}

#[tokio::test]
async fn every_shape_does_everything_on_sqlite() {
    let dir = tempfile::tempdir().unwrap();
    every_shape_on(&format!("sqlite:{}", dir.path().join("tally.db").display())).await;
}

#[tokio::test]
async fn every_shape_does_everything_on_redis() {
    let redis = Redis::start().unwrap();
    every_shape_on(&redis.url()).await;
    // Listing blocked nobody: the server was never asked for all its keys at once.
    let client = redis::Client::open(redis.url()).unwrap();
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    let stats: String =
        redis::cmd("INFO").arg("commandstats").query_async(&mut connection).await.unwrap();
    assert!(stats.contains("cmdstat_scan"), "{stats}");
    assert!(!stats.contains("cmdstat_keys"), "{stats}");
}

#[tokio::test]
async fn every_shape_does_everything_on_postgres() {
    let postgres = Postgres::start(Durability::Unsynced).unwrap();
    every_shape_on(&postgres.url()).await;
}

const SHAPES: [&str; 5] =
    ["probe-draft", "probe-draft2", "probe-spin", "probe-spin-kv", "probe-spin-p3"];

/// Opens while the store is gone.
async fn opens_and_does_no_more(host: &Host) {
    assert_eq!(get(host.address, "/open?").await.text(), "opened", "the store is gone");
    assert_eq!(get(host.address, "/get?key").await.status, 500);
}

#[tokio::test]
async fn opening_costs_no_round_trip_to_redis() {
    let mut redis = Redis::start().unwrap();
    let hosts = SHAPES.map(|guest| Host::start(guest, &redis.url(), &[]));
    redis.stop().unwrap();
    for host in &hosts {
        opens_and_does_no_more(host).await;
    }
}

#[tokio::test]
async fn opening_costs_no_round_trip_to_postgres() {
    let mut postgres = Postgres::start(Durability::Unsynced).unwrap();
    let hosts = SHAPES.map(|guest| Host::start(guest, &postgres.url(), &[]));
    postgres.stop().unwrap();
    for host in &hosts {
        opens_and_does_no_more(host).await;
    }
}

#[tokio::test]
async fn a_store_that_fails_is_explained_to_the_guest() {
    let mut redis = Redis::start().unwrap();
    let host = Host::start("probe-draft", &redis.url(), &[]);
    let counter = Host::start("counter-http", &redis.url(), &[]);
    redis.stop().unwrap();
    let mut probe = Probe::of(&host).await;
    probe.fails("/add?n", "nothing was changed, and it is safe to retry").await;
    // A guest that gives up is answered for in its place, as one of the plugin world is.
    let response = Client::connect(counter.address).await.post("/increment").await;
    response.problem(503, "store_unavailable");
    assert_eq!(response.json()["applied"], "no");
    redis.restart().unwrap();
    // This connection's worker may be some moments away from the next attempt to connect; each
    // worker has its own.
    while probe.client.get("/get?n").await.status != 200 {
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    probe.says("/add?n", "1").await;
}

#[tokio::test]
async fn logging_and_settings_reach_guests_under_each_name() {
    let host = Host::start("probe-draft2", "memory:", &["--setting", "a=1", "--setting", "b=2=3"]);
    let mut probe = Probe::of(&host).await;
    probe.says("/config?a", "1").await;
    probe.says("/config?c", "(none)").await;
    let all = get(host.address, "/config").await;
    let mut lines: Vec<&str> = all.text().lines().collect();
    lines.sort_unstable();
    assert_eq!(lines, ["a=1", "b=2=3"]);
    probe.says("/log?warn=something-odd", "logged").await;
    probe.says("/log?debug=unheard", "logged").await;
    // A line that would hide another, or turn it around.
    probe.says("/log?warn=one%0Dtwo%E2%80%AEthree", "logged").await;
    let log = host.wait_for_log("one\\rtwo\\u{202e}three");
    let line = log.lines().find(|line| line.contains("something-odd")).unwrap();
    assert!(line.contains("WARN") && line.contains("probe") && line.contains("default"), "{line}");
    assert!(!log.contains("unheard"), "{log}");
    let draft = Host::start("probe-draft", "memory:", &[]);
    Probe::of(&draft).await.says("/log?critical=on-fire", "logged").await;
    assert!(draft.wait_for_log("on-fire").contains("ERROR"));
}
