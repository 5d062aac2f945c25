//! What those who run the host rely on: health, metrics, and an orderly end.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    time::Duration,
};

use crate::{
    client::{Client, get, post},
    host::Host,
};

/// The value of a metric, by its name with labels as Prometheus writes it.
fn metric(text: &str, name: &str) -> f64 {
    let line =
        text.lines().find(|line| line.strip_prefix(name).is_some_and(|l| l.starts_with(' ')));
    let line = line.unwrap_or_else(|| panic!("no {name} in\n{text}"));
    line.rsplit_once(' ').unwrap().1.parse().unwrap()
}

#[tokio::test]
async fn health_and_metrics_are_served_apart() {
    let host = Host::start("counter", "sqlite:tally.db", &["--pool", "7"]);
    let mut client = Client::connect(host.address).await;
    for _ in 0..3 {
        client.post("/increment").await;
    }
    client.get("/report").await;
    client.get("/nothing").await;

    assert_eq!(get(host.admin, "/livez").await.status, 200);
    let ready = get(host.admin, "/readyz?verbose").await;
    assert_eq!(ready.status, 200);
    for part in ["guest default: ok, version ", "store: ok", "serving: ok"] {
        assert!(ready.text().contains(part), "{ready:?}");
    }
    assert_eq!(get(host.admin, "/elsewhere").await.status, 404);
    assert_eq!(post(host.admin, "/metrics").await.status, 405);
    for path in ["/livez", "/readyz", "/metrics"] {
        assert_eq!(get(host.address, path).await.status, 404, "not where clients are");
    }

    let metrics = get(host.admin, "/metrics").await;
    assert!(metrics.headers["content-type"].to_str().unwrap().starts_with("text/plain"));
    let text = metrics.text();
    let requests = |method: &str, status: &str| {
        metric(
            text,
            &format!(
                "http_server_request_duration_seconds_count{{guest=\"default\",http_request_method=\"{method}\",http_response_status_code=\"{status}\"}}"
            ),
        )
    };
    assert_eq!(requests("POST", "200"), 3.0);
    assert_eq!(requests("GET", "200"), 1.0);
    let operations = |operation: &str| {
        metric(
            text,
            &format!("tally_state_operations_total{{operation=\"{operation}\",outcome=\"ok\"}}"),
        )
    };
    assert_eq!(operations("increment"), 3.0);
    // The host reads releases as well.
    assert!(operations("get") >= 1.0);
    assert!(metric(text, "tally_state_batches_total") >= 2.0);
    assert_eq!(
        metric(text, "tally_state_batch_operations_count"),
        metric(text, "tally_state_batches_total")
    );
    assert!(metric(text, "tally_state_steps_total") >= 4.0);
    assert_eq!(metric(text, "tally_pool_instances{guest=\"default\"}"), 7.0);
    assert_eq!(metric(text, "tally_pool_instances_in_use{guest=\"default\"}"), 0.0);
    assert_eq!(metric(text, "http_server_active_requests"), 0.0);
}

#[tokio::test]
async fn a_signal_lets_requests_finish_and_closes_the_rest() {
    for signal in ["TERM", "INT"] {
        // With a listener each.
        let mut host = Host::start("counter", "memory:", &["--workers", "4"]);
        let mut client = Client::connect(host.address).await;
        client.post("/increment").await;
        let mut idle = TcpStream::connect(host.address).unwrap();
        idle.set_read_timeout(Some(Duration::from_secs(30))).unwrap();

        // A request whose body is still on its way.
        let mut under_way = TcpStream::connect(host.address).unwrap();
        under_way.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        under_way
            .write_all(b"POST /increment HTTP/1.1\r\nhost: x\r\ncontent-length: 4\r\n\r\nab")
            .unwrap();
        // All three are accepted, and the request has been read.
        loop {
            let metrics = get(host.admin, "/metrics").await;
            let metrics = metrics.text();
            if metrics.contains("tally_connections 3") && metrics.contains("active_requests 1") {
                break;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }

        host.signal(signal);
        assert_eq!(idle.read(&mut [0]).unwrap(), 0, "an idle connection is closed");
        assert_eq!(get(host.admin, "/readyz").await.status, 503, "no new clients, please");
        assert!(TcpStream::connect(host.address).is_err(), "the listener is closed");

        under_way.write_all(b"cd").unwrap();
        let mut answer = String::new();
        under_way.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        assert!(answer.ends_with(r#"{"count":2}"#), "{answer}");
        assert!(host.wait().success());
    }
}

#[tokio::test]
async fn a_client_that_does_not_say_goodbye_does_not_hold_up_the_end() {
    let mut host = Host::start("counter", "memory:", &["--drain-timeout", "1h"]);
    // HTTP/2 clients are asked to confirm the end, and these never will.
    let _deaf: Vec<TcpStream> = (0..3)
        .map(|_| {
            let mut stream = TcpStream::connect(host.address).unwrap();
            stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").unwrap();
            stream
        })
        .collect();
    while !get(host.admin, "/metrics").await.text().contains("tally_connections 3") {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    host.signal("TERM");
    assert!(host.wait().success());
}

#[tokio::test]
async fn a_second_signal_and_the_time_limit_end_at_once() {
    for flags in [&["--drain-timeout", "1h"], &["--drain-timeout", "100ms"]] {
        let mut host = Host::start("counter", "memory:", flags);
        let mut under_way = TcpStream::connect(host.address).unwrap();
        under_way
            .write_all(b"POST /increment HTTP/1.1\r\nhost: x\r\ncontent-length: 4\r\n\r\nab")
            .unwrap();
        while get(host.admin, "/metrics").await.text().contains("active_requests 0") {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        host.signal("TERM");
        if flags[1] == "1h" {
            while !host.log().contains("stopping") {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            host.signal("TERM");
        }
        assert_eq!(host.wait().code(), Some(1));
        assert!(host.log().contains("1 connections still open"), "{}", host.log());
    }
}

#[tokio::test]
async fn logs_can_be_json() {
    let host = Host::start("probe", "memory:", &["--log-format", "json"]);
    let id = get(host.address, "/panic").await.headers["x-request-id"].clone();
    let log = host.wait_for_log("a guest failed");
    let line = log.lines().find(|line| line.contains("a guest failed")).unwrap();
    let json: serde_json::Value = serde_json::from_str(line).unwrap();
    assert_eq!(json["fields"]["id"], id.to_str().unwrap());
}
