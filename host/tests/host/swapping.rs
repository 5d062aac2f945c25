//! Replacing guests while they run.

use std::{
    collections::HashSet,
    io::Write as _,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use http::Method;

use crate::{
    client::{Client, Held, get, until_metrics_say},
    command_line::run,
    host::{Host, guest},
};

/// A guest's component with a custom section at its end: the same code, another version.
pub fn versioned(name: &str, label: &str) -> Vec<u8> {
    let mut bytes = std::fs::read(guest(name)).unwrap();
    let length = u8::try_from(label.len()).unwrap();
    // Section 0, its length, and its name with its own length: all below 128, so one byte each.
    bytes.extend([0, length + 1, length]);
    bytes.extend(label.as_bytes());
    bytes
}

/// A standard handler that does something while it is instantiated, which few toolchains let a
/// guest do.
fn starting(with: &str) -> Vec<u8> {
    starting_with_memory(with, 1)
}

/// As [`starting`], with a number of pages of memory to begin with.
fn starting_with_memory(with: &str, pages: usize) -> Vec<u8> {
    standard_handler(&format!(
        r#"(memory {pages})
            (func $start {with})
            (start $start)
            (func (export "handle") (param i32 i32))"#
    ))
}

/// A standard handler whose one core module has these fields.
pub fn standard_handler(fields: &str) -> Vec<u8> {
    let text = format!(
        r#"(component
            (import "wasi:http/types@0.2.0" (instance $types
                (export "incoming-request" (type (sub resource)))
                (export "response-outparam" (type (sub resource)))))
            (alias export $types "incoming-request" (type $request))
            (alias export $types "response-outparam" (type $outparam))
            (core module $module {fields})
            (core instance $instance (instantiate $module))
            (func $handle (param "request" (own $request)) (param "response-out" (own $outparam))
                (canon lift (core func $instance "handle")))
            (instance $handler (export "handle" (func $handle)))
            (export "wasi:http/incoming-handler@0.2.0" (instance $handler)))"#
    );
    wat::parse_str(text).unwrap()
}

/// Clients that count and report until told to stop, and what they saw.
struct Load {
    stop: Arc<AtomicBool>,
    increments: Arc<AtomicUsize>,
    clients: Vec<tokio::task::JoinHandle<HashSet<String>>>,
}

impl Load {
    fn start(host: &Host) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let increments = Arc::new(AtomicUsize::new(0));
        let clients = (0..8)
            .map(|_| {
                let (stop, increments) = (Arc::clone(&stop), Arc::clone(&increments));
                let address = host.address;
                tokio::spawn(async move {
                    let mut client = Client::connect(address).await;
                    let mut versions = HashSet::new();
                    while !stop.load(Ordering::Relaxed) {
                        let response = client.post("/increment").await;
                        assert_eq!(response.status, 200, "{response:?}");
                        increments.fetch_add(1, Ordering::Relaxed);
                        let report = client.get("/report").await;
                        assert_eq!(report.status, 200, "{report:?}");
                        // Each kind of guest says who it is in its own way.
                        versions.insert(report.json()["guest_version"].as_str().unwrap().into());
                    }
                    versions
                })
            })
            .collect();
        Self { stop, increments, clients }
    }

    /// How many were counted, and all versions that answered.
    async fn stop(self) -> (usize, HashSet<String>) {
        self.stop.store(true, Ordering::Relaxed);
        let mut versions = HashSet::new();
        for client in self.clients {
            versions.extend(client.await.unwrap());
        }
        (self.increments.load(Ordering::Relaxed), versions)
    }
}

#[tokio::test]
async fn a_hundred_swaps_under_load_fail_no_request_and_leave_no_memory_behind() {
    const SWAPS: usize = 100;
    let host = Host::start("counter", "memory:", &[]);
    // One of each world, so that the way a request is called changes as well.
    let guests = [versioned("counter", "a"), versioned("counter-http", "b")];
    let load = Load::start(&host);
    let mut versions = HashSet::new();
    let mut early = 0;
    for swap in 0..SWAPS {
        let response = host.deploy("default", guests[swap % 2].clone()).await;
        assert_eq!(response.status, 200, "{response:?}");
        let version = response.json()["version"].as_str().unwrap().to_owned();
        // What is asked for from now on is answered by the new version.
        let report = get(host.address, "/report").await.json();
        assert_eq!(report["guest_version"], version);
        versions.insert(version);
        if swap == SWAPS / 5 {
            early = host.resident();
        }
    }
    // Wasmtime's cache packs what is new in it for a while, which takes memory that it gives back.
    let enough = Instant::now() + Duration::from_secs(60);
    while host.resident() > early + (16 << 20) {
        assert!(Instant::now() < enough, "{early} bytes grew to {}", host.resident());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let (increments, seen) = load.stop().await;
    assert_eq!(versions.len(), 2);
    assert!(seen.is_superset(&versions), "{seen:?}");
    let count = get(host.address, "/report").await.count();
    assert_eq!(count, i64::try_from(increments).unwrap());
}

/// What a request that is [`Held`] needs to be under way for as long as a test takes.
const PATIENT: [&str; 4] = ["--wall-limit", "1h", "--body-timeout", "1h"];

const IN_USE: &str = "tally_pool_instances_in_use{guest=\"default\"} 1";

#[tokio::test]
async fn a_request_under_way_finishes_on_the_version_it_began_on() {
    let host = Host::start("probe-http", "memory:", &PATIENT);
    let held = Held::begin(host.address, "/count-body");
    until_metrics_say(host.admin, IN_USE).await;
    let response = host.deploy("default", versioned("counter", "a")).await;
    assert_eq!(response.status, 200, "{response:?}");
    assert_eq!(get(host.address, "/report").await.status, 200, "the new one answers");
    let answer = held.finish();
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with('5'), "{answer}");
}

#[tokio::test]
async fn what_cannot_run_is_refused_and_the_version_before_goes_on() {
    let host = Host::start("counter", "memory:", &["--cpu-limit", "50ms"]);
    let version = get(host.address, "/report").await.json()["guest_version"].clone();
    for (body, part) in [
        (b"no wasm".to_vec(), "not WebAssembly"),
        (b"\0asm\x01\0\0\0".to_vec(), "core WebAssembly module"),
        (starting("unreachable"), "cannot be instantiated: "),
        (starting("(loop (br 0))"), "cannot be instantiated: it computes for longer"),
        (vec![0; 66 << 20], "at most"),
    ] {
        let response = host.deploy("default", body).await;
        assert!(response.status.is_client_error(), "{response:?}");
        assert!(response.text().contains(part), "{response:?}");
    }
    let response = host.deploy("other", versioned("counter", "a")).await;
    assert_eq!(response.status, 404);
    assert!(response.text().contains("'default'"), "{response:?}");
    assert_eq!(get(host.address, "/report").await.json()["guest_version"], version);
}

#[tokio::test]
async fn a_full_pool_lets_no_version_in_untried() {
    let host = Host::start("probe-http", "memory:", &[&PATIENT[..], &["--pool", "1"]].concat());
    let held = Held::begin(host.address, "/count-body");
    until_metrics_say(host.admin, IN_USE).await;
    let deploying = host.deploy("default", starting("unreachable"));
    // Time for it to get as far as the full pool; with less, it would find the pool free.
    let finishing = async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        tokio::task::spawn_blocking(|| held.finish()).await.unwrap()
    };
    let (response, answer) = tokio::join!(deploying, finishing);
    assert_eq!(response.status, 422, "{response:?}");
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert_eq!(get(host.address, "/static").await.text(), "1", "the version before goes on");
}

#[tokio::test]
async fn a_full_guest_is_deployed_to_and_requests_keep_the_release_they_began_with() {
    let flags = [&PATIENT[..], &["--pool", "1", "--queue-timeout", "1h"]].concat();
    let host = Host::start("probe-http", "memory:", &flags);
    let address = host.address;
    let held = Held::begin(address, "/count-body");
    until_metrics_say(host.admin, IN_USE).await;
    let queued = tokio::spawn(async move { get(address, "/static").await });
    let waiting = "tally_pool_waiting_requests{guest=\"default\"} 1";
    until_metrics_say(host.admin, waiting).await;
    // Enough memory to be taken for an interpreter, which gets slots of another size.
    let deploying = host.deploy("default", starting_with_memory("nop", 100));
    let response = tokio::time::timeout(Duration::from_secs(60), deploying).await;
    let response = response.expect("it does not wait for the guest's places");
    assert_eq!(response.status, 200, "{response:?}");
    assert!(held.finish().starts_with("HTTP/1.1 200"));
    let answered = tokio::time::timeout(Duration::from_secs(60), queued).await;
    assert_eq!(answered.expect("a place is free").unwrap().status, 200);
    // The new one gives no response.
    get(address, "/static").await.problem(500, "invalid_response");
}

#[tokio::test]
async fn a_guest_that_cannot_start_is_not_served() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("guest.wasm"), starting("unreachable")).unwrap();
    let arguments =
        ["serve", "--store", "memory:", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"];
    let output = run(dir.path(), &[&arguments[..], &["guest.wasm"]].concat());
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(error.contains("guest.wasm: the guest cannot be instantiated"), "{error}");
}

#[tokio::test]
async fn a_component_that_arrives_slowly_keeps_no_other_from_deploying() {
    let host = Host::start("counter", "memory:", &[]);
    let mut slow = std::net::TcpStream::connect(host.admin).unwrap();
    let token = host.token();
    let head = format!(
        "PUT /guests/default HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {token}\r\ncontent-length: 1000\r\n\r\n"
    );
    slow.write_all(head.as_bytes()).unwrap();
    let response = host.deploy("default", versioned("counter", "a")).await;
    assert_eq!(response.status, 200, "{response:?}");
}

#[tokio::test]
async fn a_web_page_cannot_deploy() {
    let host = Host::start("counter", "memory:", &[]);
    let mut client = Client::connect(host.admin).await;
    let mut request = client.request(Method::PUT, "/guests/default");
    request.headers_mut().insert("origin", "http://localhost:8000".parse().unwrap());
    assert_eq!(client.try_send(request).await.unwrap().status, 403);
    assert_eq!(client.get("/guests/default").await.status, 405);
    assert_eq!(client.post("/guests").await.status, 405);
}

#[tokio::test]
async fn deploy_is_a_command() {
    let host = Host::start("counter", "memory:", &[]);
    let admin = format!("http://{}", host.admin);
    let file = host.dir().join("next.wasm");
    std::fs::write(&file, versioned("counter", "next")).unwrap();
    let deploy = |arguments: &[&str]| {
        let output = run(host.dir(), &[&["deploy", "next.wasm"], arguments].concat());
        let text = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8(text).unwrap())
    };
    let (done, text) = deploy(&["--admin", &admin]);
    assert!(done && text.contains("deployed next.wasm to 'default'"), "{text}");
    let version = get(host.address, "/report").await.json()["guest_version"].clone();
    assert!(text.contains(version.as_str().unwrap()), "{text}");

    for (arguments, part) in [
        (vec!["--admin", &*admin, "--route", "b"], "there is no guest named 'b'"),
        (vec!["--admin", "localhost:3001"], "write the admin listener's URL"),
        (vec!["--admin", "https://localhost:3001"], "no URL of http"),
        (vec!["--admin", "http://127.0.0.1:1"], "cannot reach"),
    ] {
        let (done, text) = deploy(&arguments);
        assert!(!done && text.contains(part), "{text}");
    }
    std::fs::write(&file, "broken").unwrap();
    let (done, text) = deploy(&["--admin", &admin]);
    assert!(!done && text.contains("next.wasm") && text.contains("not WebAssembly"), "{text}");
}

#[tokio::test]
async fn a_rebuilt_file_is_loaded_and_a_broken_one_reported() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("guest.wasm");
    std::fs::write(&file, versioned("counter", "a")).unwrap();
    let config = "guest = 'guest.wasm'\nstore = 'memory:'\nwatch = true\n";
    let host = Host::start_configured(dir, config);
    let version = async || get(host.address, "/report").await.json()["guest_version"].clone();
    let first = version().await;
    std::fs::write(&file, "half a file").unwrap();
    host.wait_for_log("guest.wasm has changed and cannot be loaded; the version before goes on");
    assert_eq!(version().await, first);
    // What is no file could be waited for without end.
    std::fs::remove_file(&file).unwrap();
    assert!(std::process::Command::new("mkfifo").arg(&file).status().unwrap().success());
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(version().await, first);
    std::fs::remove_file(&file).unwrap();
    // As builds do it: under another name, and then renamed.
    replace(&file, &versioned("counter", "b"));
    host.wait_for_log("guest.wasm has changed and is loaded");
    assert_ne!(version().await, first);
}

fn replace(file: &Path, bytes: &[u8]) {
    let next = file.with_extension("next");
    std::fs::write(&next, bytes).unwrap();
    std::fs::rename(&next, file).unwrap();
}
