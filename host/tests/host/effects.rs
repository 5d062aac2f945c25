//! What clients are told of a failed request's effect: never `no` where something was changed, and
//! no status that clients repeat by themselves where it may have been.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use http::Method;
use serde_json::Value;
use tally_testkit::{Proxy, Redis, Way, ask};

use crate::{
    client::{Client, Response, get, until_metrics_say},
    host::Host,
};

/// Long enough for a store on this machine, short enough to be waited for.
const HASTY: [&str; 4] = ["--store-timeout", "300ms", "--connect-timeout", "200ms"];

/// Guests that stream, of each version of `wasi:http`.
const STANDARD: [&str; 2] = ["probe-http", "probe-p3"];

/// A problem's status and body, and its head, from what a connection brought until its end.
fn problem(answer: &str) -> (u16, Value, String) {
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{answer:?}"));
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    let json = serde_json::from_str(body).unwrap_or_else(|error| panic!("{error}: {answer}"));
    (status.unwrap_or_else(|| panic!("{answer}")), json, head.to_ascii_lowercase())
}

/// Sends a head, and then parts of a body that does not come to its end; gives the answer, once the
/// server has closed the connection.
fn send_half(address: SocketAddr, head: &str, part: &[u8]) -> (u16, Value, String) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    stream.write_all(format!("{head}\r\nhost: h\r\n\r\n").as_bytes()).unwrap();
    stream.write_all(part).unwrap();
    let mut answer = Vec::new();
    // A reset after the answer is as good as a close.
    let _ = stream.read_to_end(&mut answer);
    problem(&String::from_utf8_lossy(&answer))
}

/// A chunk of so many bytes.
fn chunk(length: usize) -> Vec<u8> {
    let mut chunk = format!("{length:x}\r\n").into_bytes();
    chunk.extend(std::iter::repeat_n(b'x', length));
    chunk.extend(b"\r\n");
    chunk
}

fn chunked(path: &str) -> String {
    format!("POST {path} HTTP/1.1\r\ntransfer-encoding: chunked")
}

#[track_caller]
fn told(response: &Response, status: u16, code: &str, applied: &str) -> String {
    let detail = response.problem(status, code);
    assert_eq!(response.json()["applied"], applied, "{response:?}");
    detail
}

/// A guest that wrote and then fails over its client's body.
#[tokio::test]
async fn a_failed_body_does_not_hide_a_write() {
    for guest in STANDARD {
        let flags = ["--body-timeout", "300ms", "--body-limit", "64KiB"];
        let host = Host::start(guest, "memory:", &flags);
        let large = [chunk(40_000), chunk(40_000)].concat();
        for (part, before, after, code) in [
            // Clients repeat 408 by themselves.
            (chunk(5), 408, 400, "body_timeout"),
            (large, 413, 413, "body_too_large"),
            (b"zz\r\n".to_vec(), 400, 400, "body"),
        ] {
            let path = format!("/body-then-add?{code}");
            let (status, json, head) = send_half(host.address, &chunked(&path), &part);
            assert_eq!((status, json["code"].as_str()), (before, Some(code)), "{json}");
            assert_eq!(json["applied"], "no", "{json}");
            // The rest may never come.
            assert!(head.contains("connection: close"), "{head}");
            assert_eq!(get(host.address, &format!("/value?{code}")).await.text(), "(none)");

            let path = format!("/add-then-body?{code}");
            let (status, json, head) = send_half(host.address, &chunked(&path), &part);
            assert_eq!((status, json["code"].as_str()), (after, Some(code)), "{json}");
            assert_eq!(json["applied"], "unknown", "{json}");
            assert!(head.contains("connection: close"), "{head}");
            assert_eq!(get(host.address, &format!("/value?{code}")).await.text(), "1");
        }
    }
}

/// Bodies that fail before there is a guest.
#[tokio::test]
async fn a_body_that_fails_before_the_guest_changes_nothing() {
    for guest in STANDARD {
        let host = Host::start(guest, "memory:", &["--body-timeout", "300ms"]);
        let head = "POST /add-then-body?n HTTP/1.1\r\ncontent-length: 5";
        let (status, json, _) = send_half(host.address, head, b"ab");
        assert_eq!((status, &json["applied"]), (408, &"no".into()), "{json}");
        // An earlier request with this key may have come through; it is safe to repeat all the same.
        let (status, json, _) =
            send_half(host.address, &format!("{head}\r\nidempotency-key: k"), b"ab");
        assert_eq!((status, &json["applied"]), (408, &"unknown".into()), "{json}");
        assert_eq!(get(host.address, "/value?n").await.text(), "(none)");
    }
}

/// What a key of the default bucket holds in Redis, asked past the host.
fn held(redis: &Redis, key: &str) -> Option<String> {
    let reply = ask(redis.port(), &format!("GET default:{key}")).unwrap();
    let held = reply.strip_prefix("$-1").is_none();
    held.then(|| reply.lines().nth(1).unwrap_or_default().to_owned())
}

/// Asks until the store is used again.
async fn until_used(client: &mut Client) {
    let using = async {
        while client.get("/add?until-used").await.status != 200 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let used = tokio::time::timeout(Duration::from_secs(60), using).await;
    used.expect("the store is used again");
}

#[tokio::test]
async fn a_read_without_an_answer_changed_nothing() {
    let redis = Redis::start().unwrap();
    let proxy = Proxy::start(redis.port()).unwrap();
    let url = format!("redis://127.0.0.1:{}", proxy.port());
    let probe = Host::start("probe", &url, &HASTY);
    let standard = Host::start("probe-http", &url, &HASTY);
    let mut client = Client::connect(probe.address).await;
    let mut to_standard = Client::connect(standard.address).await;
    for path in ["/get?n", "/exists?n", "/list", "/remaining?n", "/read-many?3", "/read-often?1"] {
        until_used(&mut client).await;
        proxy.stall(Way::Replies, 0);
        let response = client.get(path).await;
        let detail = told(&response, 503, "store_unavailable", "no");
        assert!(detail.contains("Nothing was changed"), "{path}: {detail}");
        assert_eq!(response.headers["retry-after"], "1", "{path}");
        proxy.cut_all();
    }
    // The guest is told so too.
    assert_eq!(to_standard.get("/value?n").await.text(), "(none)");
    proxy.stall(Way::Replies, 0);
    let seen = to_standard.get("/value?n").await;
    assert!(seen.text().contains("did not answer; nothing was changed, and it is safe to retry"));
    proxy.cut_all();
}

/// Wherever the store's replies stop: `no` is the truth.
#[tokio::test]
async fn a_read_after_a_write_does_not_hide_it() {
    let redis = Redis::start().unwrap();
    let proxy = Proxy::start(redis.port()).unwrap();
    let url = format!("redis://127.0.0.1:{}", proxy.port());
    let host = Host::start("probe", &url, &HASTY);
    let mut client = Client::connect(host.address).await;
    let mut written = 0;
    for after in 0..8 {
        until_used(&mut client).await;
        proxy.stall(Way::Replies, after);
        let key = format!("after-{after}");
        let response = client.get(&format!("/add-and-get?{key}")).await;
        proxy.cut_all();
        assert_eq!(held(&redis, &key).as_deref(), Some("1"));
        written += u32::from(after >= 4);
        let detail = told(&response, 504, "store_unknown", "unknown");
        assert!(detail.contains("may make it twice"), "{detail}");
        assert!(!response.headers.contains_key("retry-after"));
    }
    assert_eq!(written, 4, "the increment was answered, and the read was not");
}

#[tokio::test]
async fn calls_of_many_keys_that_are_cut_off_say_so() {
    let redis = Redis::start().unwrap();
    let proxy = Proxy::start(redis.port()).unwrap();
    let url = format!("redis://127.0.0.1:{}", proxy.port());
    let host = Host::start("probe", &url, &HASTY);
    let mut client = Client::connect(host.address).await;
    let mut partly = 0;
    for cut in (0..400).step_by(50) {
        ask(redis.port(), "FLUSHALL").unwrap();
        until_used(&mut client).await;
        proxy.cut(Way::Requests, cut);
        let response = client.get("/set-many?10").await;
        proxy.cut_all();
        let set = (0..10).filter(|key| held(&redis, &key.to_string()).is_some()).count();
        match response.status.as_u16() {
            200 => assert_eq!(set, 10),
            503 => {
                told(&response, 503, "store_unavailable", "no");
                assert_eq!(set, 0, "cut after {cut} bytes");
            }
            _ => drop(told(&response, 504, "store_unknown", "unknown")),
        }
        partly += u32::from((1..10).contains(&set));
    }
    assert!(partly > 0, "some of the cuts are in the middle of what is sent");
}

#[tokio::test]
async fn the_wall_limit_in_the_middle_of_a_write_is_unknown() {
    let redis = Redis::start().unwrap();
    let host = Host::start("probe", &redis.url(), &["--wall-limit", "300ms"]);
    let mut client = Client::connect(host.address).await;
    assert_eq!(client.get("/add?n").await.text(), "1");
    redis.signal("STOP").unwrap();
    for path in ["/set-many?10", "/delete-many?10"] {
        told(&client.get(path).await, 504, "wall_limit", "unknown");
    }
    for path in ["/exists?n", "/read-many?10"] {
        told(&client.get(path).await, 504, "wall_limit", "no");
    }
    redis.signal("CONT").unwrap();
}

#[tokio::test]
async fn failures_after_a_write_are_unknown() {
    let host = Host::start("probe", "memory:", &["--cpu-limit", "200ms"]);
    let mut client = Client::connect(host.address).await;
    told(&client.get("/add-and-split?n").await, 500, "invalid_response", "unknown");
    told(&client.get("/add-and-loop?n").await, 504, "cpu_limit", "unknown");
    told(&client.get("/add-and-panic?n").await, 500, "trap", "unknown");
    assert_eq!(client.get("/get?n").await.text(), "3");
    told(&client.get("/answer?x-split=aCRLFb").await, 500, "invalid_response", "no");
    told(&client.get("/loop").await, 504, "cpu_limit", "no");
    // Problems that no guest had a part in say so as well.
    told(&client.get(&format!("/{}", "x".repeat(8_000))).await, 414, "target_too_long", "no");
}

#[tokio::test]
async fn writes_that_changed_nothing_leave_the_effect_known() {
    let host = Host::start("probe", "memory:", &[]);
    let mut client = Client::connect(host.address).await;
    let mut attempt = async |key: &str, what: &str, applied: &str| {
        let response = client.get(&format!("/try-and-complain?{key}={what}")).await;
        told(&response, 400, "bad_request", applied);
    };
    attempt("a", "persist", "no").await;
    attempt("a", "extend", "no").await;
    attempt("a", "within", "unknown").await;
    for what in ["within", "absent"] {
        attempt("a", what, "no").await;
    }
    attempt("b", "absent", "unknown").await;
    for what in ["absent", "extend", "persist", "swap"] {
        attempt("b", what, if what == "absent" { "no" } else { "unknown" }).await;
    }
    // A swap that finds another value than was seen.
    client.get("/set?hold=1").await;
    let address = host.address;
    let swapping = tokio::spawn(async move { get(address, "/try-and-complain?b=swap").await });
    // It reads `b`, and then looks at `hold` over and over; the one before looked at it once.
    let looking = async {
        while looks(&get(host.admin, "/metrics").await) < 2 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), looking).await.expect("it has read `b`");
    client.get("/set?b=changed").await;
    client.get("/delete?hold").await;
    told(&swapping.await.unwrap(), 400, "bad_request", "no");
    assert_eq!(client.get("/get?b").await.text(), "changed");
}

/// How often keys were looked for, by the host's metrics.
fn looks(metrics: &Response) -> u64 {
    let names = |line: &&str| {
        line.starts_with("tally_state_operations_total") && line.contains("\"exists\"")
    };
    let counts = metrics.text().lines().filter(names).filter_map(|line| line.rsplit_once(' '));
    counts.map(|(_, count)| count.parse::<u64>().unwrap()).sum()
}

/// The host answers in the guest's place: what the guest would have done next is not done.
#[tokio::test]
async fn a_guest_whose_response_is_refused_does_not_go_on() {
    for guest in STANDARD {
        let host = Host::start(guest, "memory:", &[]);
        let mut client = Client::connect(host.address).await;
        told(&client.get("/add-after-invalid?n").await, 500, "invalid_response", "no");
        until_metrics_say(host.admin, "tally_pool_instances_in_use{guest=\"default\"} 0").await;
        assert_eq!(client.get("/value?n").await.text(), "(none)", "no means no");
    }
}

#[tokio::test]
async fn requests_to_others_are_effects_too() {
    for guest in STANDARD {
        let other = Host::start("probe", "memory:", &[]);
        let flags = ["--outgoing-host", "127.0.0.1", "--outgoing-private"];
        let host = Host::start(guest, "memory:", &flags);
        let mut client = Client::connect(host.address).await;
        let url = format!("http://{}/add?n", other.address);
        told(&client.get(&format!("/post-then-fail?{url}")).await, 500, "internal", "unknown");
        assert_eq!(get(other.address, "/get?n").await.text(), "1");
        told(&client.get(&format!("/get-then-fail?{url}")).await, 500, "internal", "no");
        for unsent in ["http://127.0.0.1:1/", "http://elsewhere.example/"] {
            told(&client.get(&format!("/post-then-fail?{unsent}")).await, 500, "internal", "no");
        }
    }
}

/// What the host cannot mend: a guest's own answer is sent as it is.
#[tokio::test]
async fn a_guest_that_hides_a_failure_answers_for_it() {
    let mut redis = Redis::start().unwrap();
    let host = Host::start("probe", &redis.url(), &HASTY);
    redis.stop().unwrap();
    let ignored = get(host.address, "/add-and-ignore?n").await;
    assert_eq!((ignored.status.as_u16(), ignored.text()), (200, "ignored"));
}

#[tokio::test]
async fn a_value_that_was_replaced_is_not_said_to_be_as_before() {
    let host = Host::start("probe", "memory:", &["--memory-limit", "8MiB"]);
    let mut client = Client::connect(host.address).await;
    let response = client.get("/replace-often?key=20").await;
    let detail = told(&response, 409, "state_conflict", "unknown");
    assert!(detail.contains("the new value was set"), "{detail}");
}

/// A client that leaves while its write is on its way: the write is made, its place is free again.
#[tokio::test]
async fn a_client_that_leaves_takes_back_nothing() {
    let redis = Redis::start().unwrap();
    let proxy = Proxy::start(redis.port()).unwrap();
    let url = format!("redis://127.0.0.1:{}", proxy.port());
    // No limit ends the request: its client does.
    let patient = ["--store-timeout", "1h", "--wall-limit", "1h"];
    let host = Host::start("probe", &url, &[&patient[..], &["--workers", "1"]].concat());
    let mut client = Client::connect(host.address).await;
    until_used(&mut client).await;
    proxy.stall(Way::Replies, 0);
    let address = host.address;
    let leaving = tokio::spawn(async move {
        let mut client = Client::connect(address).await;
        let request = client.request(Method::POST, "/add?left");
        client.try_send(request).await.map(drop)
    });
    let counted = async {
        while held(&redis, "left").is_none() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), counted).await.expect("the write is made");
    leaving.abort();
    until_metrics_say(host.admin, "tally_pool_instances_in_use{guest=\"default\"} 0").await;
    proxy.cut_all();
    assert_eq!(held(&redis, "left").as_deref(), Some("1"));
}
