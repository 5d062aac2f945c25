//! Many guests of many people on one host: loaded when they are asked for, dropped when others want the
//! room, and none in another's way.

use std::{
    fmt::Write as _,
    path::Path,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use http::{Method, Request};
use http_body_util::Full;

use crate::{
    client::{Client, Response, get, post, until_metrics_say},
    host::{Host, guest, tally},
    swapping::standard_handler,
};

/// A guest's component in another version.
fn versioned(name: &str, number: usize) -> Vec<u8> {
    with_number(std::fs::read(guest(name)).unwrap(), number)
}

/// A component with a custom section at its end: the same code, another version.
fn with_number(mut bytes: Vec<u8>, number: usize) -> Vec<u8> {
    bytes.extend([0, 10, 1, b'n']);
    bytes.extend((number as u64).to_le_bytes());
    bytes
}

/// Writes so many versions of a guest into a folder.
fn write_versions(dir: &Path, name: &str, count: usize) {
    for number in 0..count {
        std::fs::write(dir.join(format!("{name}{number}.wasm")), versioned(name, number)).unwrap();
    }
}

/// A request to the guest of a host name.
async fn ask(client: &mut Client, method: Method, host: &str, path: &str) -> Response {
    let mut request = client.request(method, path);
    request.headers_mut().insert("host", host.parse().unwrap());
    client.try_send(request).await.unwrap()
}

/// The sum of a metric over all guests and other labels.
async fn sum(host: &Host, metric: &str) -> f64 {
    let metrics = get(host.admin, "/metrics").await;
    let values = metrics.text().lines().filter(|line| line.starts_with(metric));
    values.map(|line| line.rsplit_once(' ').unwrap().1.parse::<f64>().unwrap()).sum()
}

#[tokio::test]
async fn two_thousand_guests_are_loaded_dropped_swapped_and_loaded_again() {
    const GUESTS: usize = 2_000;
    const LOADED: usize = 100;
    const FILES: usize = 20;
    let dir = tempfile::tempdir().unwrap();
    write_versions(dir.path(), "counter", FILES);
    std::fs::write(dir.path().join("broken.wasm"), b"\0asm, and then nothing").unwrap();
    let mut config =
        format!("store = 'memory:'\nmax-loaded = {LOADED}\nload-ahead = 0\nqueue-timeout = '1m'\n");
    for number in 0..GUESTS {
        let file = if number == 7 { "broken".into() } else { format!("counter{}", number % FILES) };
        write!(
            config,
            "[[route]]\nname = 'g{number}'\nhost = 'g{number}.test'\nguest = '{file}.wasm'\n"
        )
        .unwrap();
    }
    let host = Host::start_configured(dir, &config);
    assert_eq!(sum(&host, "tally_loaded_guests").await, 0.0, "none was asked for");
    host.wait_for_log("guest=\"g7\"");
    let ready = get(host.admin, "/readyz?verbose").await;
    assert_eq!(ready.status, 200, "one broken guest is no trouble for the others");
    assert!(ready.text().contains("guest g7: failed: "), "{}", ready.text());
    let mut client = Client::connect(host.address).await;
    for pass in 1..=2 {
        for number in 0..GUESTS {
            let name = format!("g{number}.test");
            let response = ask(&mut client, Method::POST, &name, "/increment").await;
            if number == 7 {
                response.problem(503, "guest_unavailable");
                assert_eq!(response.json()["applied"], "no");
            } else {
                assert_eq!(response.status, 200, "{number}: {response:?}");
                assert_eq!(response.count(), pass, "each has a counter of its own");
            }
        }
        let loaded = sum(&host, "tally_loaded_guests").await;
        assert!((1.0..=LOADED as f64).contains(&loaded), "{loaded}");
    }
    assert!(sum(&host, "tally_guest_evictions_total").await > (GUESTS - LOADED) as f64);
    // Another version for one that is not loaded, which it keeps when it is dropped again.
    let before = ask(&mut client, Method::GET, "g3.test", "/report").await;
    let swapped = host.deploy("g3", versioned("counter", 12_345)).await;
    assert_eq!(swapped.status, 200, "{swapped:?}");
    for number in 100..300 {
        ask(&mut client, Method::GET, &format!("g{number}.test"), "/report").await;
    }
    let version = |report: &Response| report.json()["guest_version"].as_str().unwrap().to_owned();
    let after = ask(&mut client, Method::GET, "g3.test", "/report").await;
    assert_eq!(after.json()["total"], before.json()["total"]);
    assert_ne!(version(&after), version(&before));
    assert_eq!(version(&after), swapped.json()["version"].as_str().unwrap());
    // The broken one is tried again when its file is another.
    std::fs::copy(guest("counter"), host.dir().join("broken.wasm")).unwrap();
    let healed = async {
        while ask(&mut client, Method::POST, "g7.test", "/increment").await.status != 200 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), healed).await.expect("it is loaded");
    let ready = get(host.admin, "/readyz?verbose").await;
    assert!(ready.text().contains("guest g7: ok"), "{}", ready.text());
}

/// All that each of a dozen guests may have at once, of a host with the limits it has by default: what one leaves
/// behind takes nothing from the next.
#[tokio::test]
async fn a_dozen_guests_are_each_asked_a_thousand_times_at_once() {
    const GUESTS: usize = 12;
    const CONNECTIONS: usize = 10;
    const AT_ONCE: usize = 100;
    let dir = tempfile::tempdir().unwrap();
    write_versions(dir.path(), "counter", GUESTS);
    let redis = tally_testkit::Redis::start().unwrap();
    // While the store waits, so do all instances.
    let proxy = tally_testkit::Proxy::start(redis.port()).unwrap();
    let mut config = format!(
        "store = 'redis://127.0.0.1:{}'\nstore-timeout = '1m'\nwall-limit = '2m'\n",
        proxy.port()
    );
    for number in 0..GUESTS {
        write!(config, "[[route]]\nhost = 'g{number}.test'\nguest = 'counter{number}.wasm'\n")
            .unwrap();
    }
    let host = Host::start_configured(dir, &config);
    let mut connections = Vec::new();
    for _ in 0..CONNECTIONS {
        let mut connection = Client::connect_http2(host.address).await;
        // Its worker is connected to the store from here on, and the host has looked for releases.
        let request = Request::get("http://g0.test/report").body(Full::default()).unwrap();
        assert_eq!(connection.try_send(request).await.unwrap().status, 200);
        connections.push(connection);
    }
    for number in 0..GUESTS {
        proxy.stall(tally_testkit::Way::Requests, 0);
        let asking: Vec<_> = connections
            .iter()
            .flat_map(|connection| (0..AT_ONCE).map(|_| connection.beside()))
            .map(|mut client| {
                let request = Request::post(format!("http://g{number}.test/increment"));
                let request = request.body(Full::default()).unwrap();
                tokio::spawn(async move { client.try_send(request).await.unwrap() })
            })
            .collect();
        let all = format!("tally_pool_instances_in_use{{guest=\"counter{number}\"}} 1000");
        until_metrics_say(host.admin, &all).await;
        proxy.release();
        let mut counts = Vec::new();
        for answer in asking {
            let answer = answer.await.unwrap();
            assert_eq!(answer.status, 200, "guest {number}: {answer:?}");
            counts.push(answer.count());
        }
        counts.sort_unstable();
        let expected: Vec<i64> = (1..=1_000).collect();
        assert_eq!(counts, expected, "guest {number}");
    }
}

/// Each guest answers with how often its instance was called, by a mark in its memory, and half of them by marks in
/// a global and in a table as well: a second time would be another request's, or another guest's.
#[tokio::test]
async fn a_million_requests_never_see_a_mark_of_another_through_loading_and_dropping() {
    const REQUESTS: usize = 1_000_000;
    const GUESTS: usize = 48;
    const CLIENTS: usize = 32;
    let dir = tempfile::tempdir().unwrap();
    write_versions(dir.path(), "probe", GUESTS);
    let marking = marking();
    let mut config =
        String::from("store = 'memory:'\nmax-loaded = 12\nload-ahead = 0\nqueue-timeout = '1m'\n");
    for number in 0..GUESTS {
        let name = if number % 2 == 0 { "probe" } else { "marking" };
        let file = dir.path().join(format!("marking{number}.wasm"));
        std::fs::write(file, with_number(marking.clone(), number)).unwrap();
        write!(config, "[[route]]\nhost = 'p{number}.test'\nguest = '{name}{number}.wasm'\n")
            .unwrap();
    }
    let host = Host::start_configured(dir, &config);
    let (address, asked) = (host.address, std::sync::Arc::new(AtomicUsize::new(0)));
    let clients: Vec<_> = (0..CLIENTS)
        .map(|seed| {
            let asked = std::sync::Arc::clone(&asked);
            tokio::spawn(async move {
                let mut random = fastrand::Rng::with_seed(seed as u64);
                let mut client = Client::connect(address).await;
                while asked.fetch_add(1, Ordering::Relaxed) < REQUESTS {
                    // Mostly some that stay loaded, and seldom one of all.
                    let guest = match random.u16(..500) {
                        0 => random.usize(..GUESTS),
                        _ => random.usize(..8),
                    };
                    let once = if guest % 2 == 0 { "1" } else { "111" };
                    let response =
                        ask(&mut client, Method::GET, &format!("p{guest}.test"), "/static").await;
                    assert_eq!((response.status.as_u16(), response.text()), (200, once), "{guest}");
                }
            })
        })
        .collect();
    for client in clients {
        client.await.unwrap();
    }
    assert!(sum(&host, "tally_guest_evictions_total").await > 100.0);
}

/// A plugin that marks its memory, a global and a table, and answers with how often each was.
fn marking() -> Vec<u8> {
    let module = r#"(module
        (type $digit (func (result i32)))
        (memory (export "memory") 1)
        (global $free (mut i32) (i32.const 1024))
        (global $calls (mut i32) (i32.const 48))
        (table $digits 2 2 funcref)
        (elem (table $digits) (i32.const 0) func $one $two)
        (data (i32.const 0) "0")
        (func $one (result i32) (i32.const 49))
        (func $two (result i32) (i32.const 50))
        (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
            (local $at i32)
            (local.set $at (i32.and (i32.add (global.get $free) (i32.const 7)) (i32.const -8)))
            (global.set $free (i32.add (local.get $at) (local.get 3)))
            (local.get $at))
        (func (export "tally:plugin/handler@0.1.0#handle")
            (param i32 i32 i32 i32 i32 i32 i32 i32 i32) (result i32)
            (i32.store8 (i32.const 0) (i32.add (i32.load8_u (i32.const 0)) (i32.const 1)))
            (global.set $calls (i32.add (global.get $calls) (i32.const 1)))
            (i32.store8 (i32.const 1) (global.get $calls))
            (i32.store8 (i32.const 2) (call_indirect $digits (type $digit) (i32.const 0)))
            (table.copy $digits $digits (i32.const 0) (i32.const 1) (i32.const 1))
            ;; Of the answer all is zero, but the status and the length of the body.
            (i32.store16 (i32.const 68) (i32.const 200))
            (i32.store (i32.const 84) (i32.const 3))
            (i32.const 64)))"#;
    let mut module = wat::parse_str(module).unwrap();
    let mut wit = wit_parser::Resolve::default();
    let (package, _) = wit.push_path("../wit").unwrap();
    let world = wit.select_world(&[package], Some("plugin")).unwrap();
    let encoding = wit_component::StringEncoding::UTF8;
    wit_component::embed_component_metadata(&mut module, &wit, world, encoding).unwrap();
    let encoder = wit_component::ComponentEncoder::default().module(&module).unwrap();
    encoder.validate(true).encode().unwrap()
}

#[tokio::test]
async fn a_guest_is_served_beside_every_hostile_neighbour() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["counter", "probe"] {
        std::fs::copy(guest(name), dir.path().join(format!("{name}.wasm"))).unwrap();
    }
    // Neighbours that want more than there is wait for their turn, and are not refused.
    let config = "store = 'sqlite:tally.db'\nqueue-timeout = '1m'\n\
        [[route]]\nname = 'quiet'\nhost = 'quiet.test'\nguest = 'counter.wasm'\n\
        [[route]]\nname = 'spins'\nhost = 'spins.test'\nguest = 'probe.wasm'\ncpu-limit = '50ms'\n\
        [[route]]\nname = 'loud'\nhost = 'loud.test'\nguest = 'probe.wasm'\n";
    let host = Host::start_configured(dir, config);
    let address = host.address;
    let mut quiet = Client::connect(address).await;
    let mut count = 0;
    for (name, path, expected) in [
        ("spins.test", "/loop", 504),
        ("loud.test", "/recurse", 500),
        ("loud.test", "/grow?12000000", 200),
        ("loud.test", "/grow?99000000", 500),
        ("loud.test", "/body?4000000", 200),
        ("loud.test", "/add?mine", 200),
        ("loud.test", "/panic", 500),
    ] {
        let loud: Vec<_> = (0..16)
            .map(|_| {
                tokio::spawn(async move {
                    let mut client = Client::connect(address).await;
                    for _ in 0..4 {
                        let response = ask(&mut client, Method::GET, name, path).await;
                        assert_eq!(response.status.as_u16(), expected, "{path}: {response:?}");
                    }
                })
            })
            .collect();
        while loud.iter().any(|client| !client.is_finished()) {
            let asking = ask(&mut quiet, Method::POST, "quiet.test", "/increment");
            let response = tokio::time::timeout(Duration::from_secs(30), asking).await;
            count += 1;
            assert_eq!(response.expect("it is answered").count(), count, "beside {path}");
        }
        for client in loud {
            client.await.unwrap();
        }
    }
    // What is deployed again and again, and compiled each time.
    let deploying = async {
        for number in 0..5 {
            assert_eq!(host.deploy("loud", versioned("probe", 1_000 + number)).await.status, 200);
        }
    };
    let counting = async {
        loop {
            count += 1;
            let response = ask(&mut quiet, Method::POST, "quiet.test", "/increment").await;
            assert_eq!(response.count(), count);
        }
    };
    tokio::select! {
        () = deploying => {}
        () = counting => {}
    }
    let metrics = get(host.admin, "/metrics").await;
    for line in [
        "tally_guest_traps_total{guest=\"spins\",kind=\"cpu\"} 64",
        // Recursion, a panic, and memory that there is not.
        "tally_guest_traps_total{guest=\"loud\",kind=\"wasm\"} 192",
        "tally_guest_traps_total{guest=\"quiet\",kind=\"cpu\"} 0",
    ] {
        assert!(metrics.text().contains(line), "{line} in {}", metrics.text());
    }
    assert!(sum(&host, "tally_guest_cpu_seconds_total{guest=\"spins\"}").await > 3.0);
}

#[tokio::test]
async fn more_requests_than_the_rate_are_refused_and_told_when_to_come_again() {
    let host = Host::start("counter", "memory:", &["--rate-limit", "1", "--rate-burst", "3"]);
    let mut client = Client::connect(host.address).await;
    let mut taken = 0;
    let refused = loop {
        let response = client.post("/increment").await;
        match response.status.as_u16() {
            200 => taken += 1,
            _ => break response,
        }
        assert!(taken < 1_000, "a loop is faster than one request a second");
    };
    assert!(taken >= 3, "{taken}");
    refused.problem(429, "rate");
    assert_eq!(refused.json()["applied"], "no");
    assert_eq!(refused.headers["retry-after"], "1");
    assert_eq!(refused.headers["ratelimit-policy"], "\"guest\";q=3;w=3");
    assert_eq!(refused.headers["ratelimit"], "\"guest\";r=0;t=1");
    let keyed = loop {
        let response = client.post_with_key("/increment", &format!("key {taken}")).await;
        match response.status.as_u16() {
            200 => taken += 1,
            _ => break response,
        }
        assert!(taken < 1_000, "a loop is faster than one request a second");
    };
    keyed.problem(429, "rate");
    assert_eq!(keyed.json()["applied"], "unknown", "an earlier one may have come further");
    let refused = "tally_guest_refused_requests_total{guest=\"default\",reason=\"rate\"} 2";
    until_metrics_say(host.admin, refused).await;
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    assert_eq!(client.post("/increment").await.count(), taken + 1);
}

#[tokio::test]
async fn a_guest_for_which_nobody_may_wait_is_loaded_all_the_same() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::copy(guest("counter"), dir.path().join("counter.wasm")).unwrap();
    let config = "store = 'memory:'\nload-ahead = 0\nqueue = 0\n\
        [[route]]\nprefix = '/'\nguest = 'counter.wasm'\n";
    let host = Host::start_configured(dir, config);
    let mut client = Client::connect(host.address).await;
    let answered = async {
        loop {
            let response = client.get("/report").await;
            if response.status == 200 {
                break;
            }
            response.problem(503, "guest_loading");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), answered).await.expect("it is loaded");
    assert!(sum(&host, "tally_guest_refused_requests_total").await > 0.0);
}

#[tokio::test]
async fn one_broken_guest_keeps_no_other_from_being_served_unless_that_is_asked_for() {
    let config = "store = 'memory:'\nguest = 'counter.wasm'\n\
        [[route]]\npath = '/gone'\nguest = 'gone.wasm'\n";
    let folder = || {
        let dir = tempfile::tempdir().unwrap();
        std::fs::copy(guest("counter"), dir.path().join("counter.wasm")).unwrap();
        dir
    };
    let host = Host::start_configured(folder(), config);
    assert_eq!(get(host.address, "/report").await.status, 200);
    get(host.address, "/gone").await.problem(503, "guest_unavailable");
    assert!(host.banner.contains("NOT SERVED: cannot read gone.wasm"), "{}", host.banner);
    let dir = folder();
    std::fs::write(dir.path().join("tally.toml"), config).unwrap();
    let arguments = ["serve", "--strict", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"];
    let output = tally(dir.path()).args(arguments).output().unwrap();
    assert!(!output.status.success());
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(error.contains("cannot read the guest gone.wasm"), "{error}");
}

#[tokio::test]
async fn a_trap_is_logged_with_the_guests_own_stack_where_that_is_asked_for() {
    let calling = "(func $named_by_its_author unreachable)
        (func (export \"handle\") (param i32 i32) call $named_by_its_author)";
    for (flags, is_told) in [(&["--guest-backtraces"][..], true), (&[], false)] {
        let host = Host::start("probe", "memory:", flags);
        let deployed = host.deploy("default", standard_handler(calling)).await;
        assert_eq!(deployed.status, 200, "{deployed:?}");
        get(host.address, "/").await.problem(500, "trap");
        let log = host.wait_for_log("a guest failed");
        assert_eq!(log.contains("named_by_its_author"), is_told, "{log}");
        assert!(log.contains("unreachable"), "{log}");
    }
}

#[tokio::test]
async fn state_that_a_new_name_leaves_behind_is_said_at_the_start() {
    let redis = tally_testkit::Redis::start().unwrap();
    for store in ["sqlite:tally.db", &redis.url()] {
        let folder = tempfile::tempdir().unwrap();
        let place = match store.strip_prefix("sqlite:") {
            Some(file) => format!("sqlite:{}", folder.path().join(file).display()),
            None => store.to_owned(),
        };
        let start = |more: &str| {
            let dir = tempfile::tempdir().unwrap();
            std::fs::copy(guest("counter"), dir.path().join("counter.wasm")).unwrap();
            let config = format!(
                "store = '{place}'\nlog = 'info,tally=debug'\n[[route]]\nguest = 'counter.wasm'\n{more}\n"
            );
            Host::start_configured(dir, &config)
        };
        let host = start("prefix = '/'");
        assert_eq!(post(host.address, "/increment").await.count(), 1);
        // What a guest had that was named after its route.
        let set = ["kv", "set", "--store", &place, "--bucket", "/old/*", "key", "value"];
        let made = tally(host.dir()).args(set).output().unwrap();
        assert!(made.status.success(), "{made:?}");
        drop(host);
        let host = start("path = '/increment'");
        assert_eq!(post(host.address, "/increment").await.count(), 2, "under another route");
        drop(host);
        let host = start("prefix = '/old'\nname = 'hits'");
        let log = host.wait_for_log("buckets that no guest opens: ");
        assert!(log.contains("'/old/*'") && log.contains("'counter'"), "{log}");
        drop(host);
        let host = start("prefix = '/'\nname = 'hits'\nbuckets = [\"default=counter\"]");
        assert_eq!(post(host.address, "/increment").await.count(), 3);
    }
}
