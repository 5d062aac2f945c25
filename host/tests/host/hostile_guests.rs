//! Guests that misbehave: their own request fails, and nobody else notices.

use std::time::Duration;

use crate::{
    client::{Client, get, until_metrics_say},
    host::Host,
};

const IN_USE: &str = "tally_pool_instances_in_use{guest=\"default\"} 1";

/// What misbehaves in each world. All pass the same tests; what one world alone can do has its own below, and in
/// `concurrent::hostile`.
#[derive(Clone, Copy)]
struct World {
    guest: &'static str,
    /// Paths that trap before anything of their response has left.
    traps: &'static [&'static str],
    /// Paths that compute without end.
    loops: &'static [&'static str],
}

impl World {
    const PLUGIN: Self = Self {
        guest: "probe",
        traps: &["/panic", "/recurse", "/grow?100000000", "/handles?5000"],
        loops: &["/loop"],
    };
    const OF_0_2: Self =
        Self { guest: "probe-http", traps: &["/trap-before", "/trap-after-head"], loops: &[] };
    const OF_0_3: Self = Self {
        guest: "probe-p3",
        traps: &[
            "/trap-before",
            "/trap-after-head",
            "/trap-while-waiting",
            // Nothing is left that could ever wake it.
            "/forget",
            "/grow?100000000",
            "/fields?5000",
            "/streams?5000",
            "/futures?5000",
            "/tasks?5000",
        ],
        loops: &["/loop", "/loop-in-turns"],
    };

    fn host(self, flags: &[&str]) -> Host {
        Host::start(self.guest, "memory:", flags)
    }
}

/// The tests of a world, in a module of its own.
macro_rules! of_world {
    ($module:ident, $world:ident: $($test:ident)*) => {
        mod $module {
            $(
                #[tokio::test]
                async fn $test() {
                    super::$test(super::World::$world).await;
                }
            )*
        }
    };
}

of_world! { plugin, PLUGIN:
    every_request_finds_fresh_memory
    a_trap_fails_one_request_and_gives_its_place_back
    a_guest_that_computes_too_long_is_stopped
    others_go_on_while_a_guest_computes
}

of_world! { of_0_2, OF_0_2:
    every_request_finds_fresh_memory
    a_trap_fails_one_request_and_gives_its_place_back
}

of_world! { of_0_3, OF_0_3:
    every_request_finds_fresh_memory
    a_trap_fails_one_request_and_gives_its_place_back
    a_guest_that_computes_too_long_is_stopped
    others_go_on_while_a_guest_computes
}

async fn every_request_finds_fresh_memory(world: World) {
    let host = world.host(&["--pool", "2"]);
    let clients: Vec<_> = (0..4)
        .map(|_| {
            let address = host.address;
            tokio::spawn(async move {
                let mut client = Client::connect(address).await;
                for _ in 0..300 {
                    assert_eq!(client.get("/static").await.text(), "1");
                }
            })
        })
        .collect();
    for client in clients {
        client.await.unwrap();
    }
}

async fn a_trap_fails_one_request_and_gives_its_place_back(world: World) {
    let host = world.host(&["--pool", "1"]);
    let mut client = Client::connect(host.address).await;
    for path in world.traps {
        for _ in 0..2 {
            client.get(path).await.problem(500, "trap");
            assert_eq!(client.get("/static").await.text(), "1", "after {path}");
        }
    }
    host.wait_for_log("a guest failed");
}

async fn a_guest_that_computes_too_long_is_stopped(world: World) {
    let host = world.host(&["--cpu-limit", "50ms", "--pool", "1"]);
    let mut client = Client::connect(host.address).await;
    for path in world.loops {
        client.get(path).await.problem(504, "cpu_limit");
        assert_eq!(client.get("/static").await.text(), "1", "after {path}");
    }
}

async fn others_go_on_while_a_guest_computes(world: World) {
    for path in world.loops {
        // One worker: the others share its thread. The limit is never reached.
        let host = world.host(&["--cpu-limit", "1h", "--wall-limit", "1h", "--workers", "1"]);
        let address = host.address;
        let looping = tokio::spawn(async move { get(address, path).await });
        until_metrics_say(host.admin, IN_USE).await;
        let mut client = Client::connect(address).await;
        for _ in 0..3 {
            assert_eq!(client.get("/static").await.text(), "1");
        }
        assert!(!looping.is_finished(), "{path}");
        looping.abort();
    }
}

fn host(flags: &[&str]) -> Host {
    Host::start("probe", "memory:", flags)
}

#[tokio::test]
async fn every_request_has_an_instance_of_its_own() {
    let host = host(&[]);
    let mut client = Client::connect(host.address).await;
    let mut last = 0;
    for _ in 0..3 {
        let worker = client.get("/worker").await;
        let mut parts = worker.text().split(' ');
        assert_eq!(parts.next().unwrap(), host.id().to_string());
        let instance: u64 = parts.next().unwrap().parse().unwrap();
        assert!(instance > last);
        last = instance;
        assert!(host.banner.contains(parts.next().unwrap()), "the version is in the banner");
    }
}

#[tokio::test]
async fn a_guest_sees_the_request_as_it_was_sent() {
    let host = host(&[]);
    let mut client = Client::connect(host.address).await;
    assert_eq!(client.get("/echo?a=%20b&c").await.text(), "GET /echo a=%20b&c 0");
    let mut request = client.request(http::Method::PATCH, "/echo");
    *request.body_mut() = bytes::Bytes::from("12345").into();
    assert_eq!(client.try_send(request).await.unwrap().text(), "PATCH /echo  5");
    let mut request = client.request(http::Method::GET, "/header?X-Several");
    request.headers_mut().append("x-several", "one".parse().unwrap());
    request.headers_mut().append("x-several", "two".parse().unwrap());
    assert_eq!(client.try_send(request).await.unwrap().text(), "one, two");
    assert_eq!(client.get("/header?none").await.text(), "(none)");
    let address = host.address.to_string();
    assert_eq!(client.get("/header?host").await.text(), address);
    let mut http2 = Client::connect_http2(host.address).await;
    assert_eq!(http2.get("/header?host").await.text(), address, "its authority");
    assert_eq!(client.get("/wasi").await.text(), "0", "no environment reaches a guest");
}

#[tokio::test]
async fn what_a_guest_says_of_its_failure_is_for_the_log_alone() {
    let host = host(&[]);
    let response = get(host.address, "/internal").await;
    let detail = response.problem(500, "internal");
    assert!(!detail.contains("secret"), "{detail}");
    host.wait_for_log("a secret of the guest");
}

/// A guest that computes yields once a tick, 150 to 300 times before this limit, and each time its worker
/// looks at what has arrived. A connection with a request takes two or three looks: were there one look
/// for 16 tasks, fewer than ten would be answered.
#[tokio::test]
async fn new_connections_are_answered_whenever_a_guest_yields() {
    let host = host(&["--cpu-limit", "3s", "--wall-limit", "1h", "--workers", "1"]);
    let address = host.address;
    let looping = tokio::spawn(async move { get(address, "/loop").await });
    until_metrics_say(host.admin, "tally_pool_instances_in_use{guest=\"default\"} 1").await;
    let mut answered = 0;
    while !looping.is_finished() {
        assert_eq!(get(address, "/static").await.text(), "1");
        answered += 1;
    }
    looping.await.unwrap().problem(504, "cpu_limit");
    assert!(answered >= 20, "{answered}");
}

#[tokio::test]
async fn a_guest_that_never_gets_through_its_start_is_stopped() {
    let host = Host::start("stuck", "memory:", &["--pool", "1", "--cpu-limit", "50ms"]);
    for _ in 0..2 {
        get(host.address, "/").await.problem(504, "cpu_limit");
    }
}

#[tokio::test]
async fn responses_that_cannot_be_sent_are_not() {
    let host = host(&["--response-limit", "64KiB"]);
    let mut client = Client::connect(host.address).await;
    for path in [
        "/status?99",
        "/status?101",
        "/status?199",
        "/status?600",
        "/answer?x-split=aCRLFset-cookie:%20b",
        "/answer?bad(name=x",
        "/answer?content-length=5",
        "/answer?transfer-encoding=chunked",
        "/answer?connection=close",
        "/headers?65",
        "/body?65537",
    ] {
        client.get(path).await.problem(500, "invalid_response");
    }
    assert_eq!(client.get("/status?200").await.status, 200);
    assert_eq!(client.get("/status?599").await.status, 599);
    assert_eq!(client.get("/answer?x-good=yes").await.headers["x-good"], "yes");
    assert_eq!(client.get("/headers?64").await.status, 200);
    assert_eq!(client.get("/body?65536").await.body.len(), 65536);
}

#[tokio::test]
async fn beyond_pool_and_queue_requests_are_refused_at_once() {
    let host = host(&["--pool", "1", "--queue", "1", "--workers", "1", "--cpu-limit", "2s"]);
    let address = host.address;
    let requests: Vec<_> =
        (0..4).map(|_| tokio::spawn(async move { get(address, "/loop").await })).collect();
    let mut refused = 0;
    let mut computed = 0;
    for request in requests {
        let response = request.await.unwrap();
        if response.status == 503 {
            response.problem(503, "busy");
            assert_eq!(response.headers["retry-after"], "1");
            assert_eq!(response.json()["applied"], "no");
            refused += 1;
        } else {
            response.problem(504, "cpu_limit");
            computed += 1;
        }
    }
    // One computes; one waits, in vain or not; two find the queue full.
    assert!((2..=3).contains(&refused), "{refused} refused, {computed} computed");
    assert_eq!(get(address, "/static").await.text(), "1");
}

#[tokio::test]
async fn a_million_bytes_of_memory_stay_within_the_limit() {
    let host = host(&["--memory-limit", "8MiB"]);
    let mut client = Client::connect(host.address).await;
    assert_eq!(client.get("/grow?1000000").await.text(), "1000000");
    client.get("/grow?9000000").await.problem(500, "trap");
}

/// With address space for all that a guest can name, and with no more than its slot's memory.
#[tokio::test]
async fn no_address_beyond_its_memory_is_a_guests_to_read() {
    let flags = ["--pool", "10"];
    let plenty = Host::start("probe", "memory:", &flags);
    let little = Host::start_within(8_000_000, "probe", "memory:", &flags);
    let sizes = |host: &Host| {
        let status = format!("/proc/{}/status", host.id());
        let status = std::fs::read_to_string(status).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmSize:")).unwrap();
        line.split_whitespace().next().unwrap().parse::<usize>().unwrap()
    };
    assert!(sizes(&plenty) > 10 * (4 << 20) && sizes(&little) < 8_000_000);
    for host in [plenty, little] {
        let mut client = Client::connect(host.address).await;
        assert_eq!(client.get("/peek?1024").await.status, 200);
        for address in [16_usize << 20, 20 << 20, 1 << 30, 3 << 30, (4 << 30) - 1] {
            client.get(&format!("/peek?{address}")).await.problem(500, "trap");
        }
        client.get("/grow?17000000").await.problem(500, "trap");
        assert_eq!(client.get("/grow?12000000").await.text(), "12000000");
    }
}

#[tokio::test]
async fn state_operations_of_one_request_are_limited() {
    let host = host(&["--wall-limit", "1m"]);
    let mut client = Client::connect(host.address).await;
    assert_eq!(client.get("/many?1000").await.text(), "done");
    let detail = client.get("/many?1001").await.problem(409, "state_conflict");
    assert!(detail.contains("1000 state operations"), "{detail}");
}

#[tokio::test]
async fn what_one_request_reads_is_bounded_by_its_memory() {
    let host = host(&["--memory-limit", "8MiB"]);
    let mut client = Client::connect(host.address).await;
    client.get("/long-value?1048576").await;
    assert_eq!(client.get("/read-many?2").await.text(), "2");
    assert_eq!(client.get("/read-often?8").await.text(), "done");
    for path in ["/read-many?9", "/read-many?1000"] {
        let detail = client.get(path).await.problem(400, "state_refused");
        assert!(detail.contains("8388608 bytes"), "{detail}");
    }
    let detail = client.get("/read-often?9").await.problem(409, "state_conflict");
    assert!(detail.contains("its memory"), "{detail}");
}

#[tokio::test]
async fn a_request_waits_for_a_store_no_longer_than_its_wall_limit() {
    let redis = tally_testkit::Redis::start().unwrap();
    let host = Host::start("probe", &redis.url(), &["--wall-limit", "300ms"]);
    let mut client = Client::connect(host.address).await;
    assert_eq!(client.get("/add?key").await.text(), "1");
    redis.signal("STOP").unwrap();
    let response = client.get("/add?key").await;
    response.problem(504, "wall_limit");
    assert_eq!(response.json()["applied"], "unknown", "it was sent");
    let response = client.get("/get?key").await;
    response.problem(504, "wall_limit");
    assert_eq!(response.json()["applied"], "no", "a read changes nothing");
    redis.signal("CONT").unwrap();
    // Its turn comes once the store has answered what was sent, or the lane has given it up.
    let mut last = client.get("/get?key").await;
    for _ in 0..100 {
        if last.status == 200 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
        last = client.get("/get?key").await;
    }
    assert_eq!(last.status, 200, "it recovers by itself");
}
