//! Guests of WASI 0.3 that misbehave in ways of their own. What all worlds have in common is in `hostile_guests`.

use std::time::Duration;

use http::Method;

use super::host;
use crate::client::{Client, get, until_metrics_say};

const IN_USE: &str = "tally_pool_instances_in_use{guest=\"default\"}";

#[tokio::test]
async fn a_trap_in_a_stream_cuts_it_off_and_gives_its_place_back() {
    let host = host(&["--pool", "1"]);
    let mut client = Client::connect(host.address).await;
    let request = client.request(Method::GET, "/trap-after-stream");
    assert!(client.try_send(request).await.is_err());
    host.wait_for_log("a guest failed after its response had begun");
    assert_eq!(get(host.address, "/static").await.text(), "1");
}

#[tokio::test]
async fn what_is_within_the_limits_may_be_had() {
    let host = host(&["--wall-limit", "500ms"]);
    let mut client = Client::connect(host.address).await;
    for path in ["/grow?1000000", "/fields?500", "/streams?300", "/futures?300", "/tasks?300"] {
        let response = client.get(path).await;
        let (_, count) = path.split_once('?').unwrap();
        assert_eq!((response.status.as_u16(), response.text()), (200, count), "{path}");
    }
    until_metrics_say(host.admin, &format!("{IN_USE} 0")).await;
}

#[tokio::test]
async fn a_guest_that_computes_too_long_after_its_response_is_stopped() {
    let host = host(&["--cpu-limit", "50ms", "--pool", "1"]);
    let mut client = Client::connect(host.address).await;
    assert_eq!(client.get("/long-after").await.text(), "done");
    host.wait_for_log("it computes for longer than it may");
    assert_eq!(client.get("/static").await.text(), "1", "the place is free again");
}

#[tokio::test]
async fn tasks_after_the_answer_hold_their_place_and_come_to_an_end() {
    let host = host(&["--wall-limit", "1s", "--pool", "1"]);
    let mut client = Client::connect(host.address).await;
    assert_eq!(client.get("/wait-after").await.text(), "done");
    until_metrics_say(host.admin, &format!("{IN_USE} 1")).await;
    // Waits for that place, which the limit frees.
    assert_eq!(client.get("/static").await.text(), "1");
    host.wait_for_log("a guest failed after its response had begun");
    assert_eq!(client.get("/grow-after").await.text(), "done");
    assert_eq!(client.get("/static").await.text(), "1");
    let failures = || host.log().matches("a guest failed after its response had begun").count();
    let failing = async {
        while failures() < 2 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), failing).await.expect("the trap is logged");
}

#[tokio::test]
async fn a_body_that_never_ends_is_cut_off() {
    let host = host(&["--wall-limit", "500ms", "--pool", "1"]);
    let mut client = Client::connect(host.address).await;
    let request = client.request(Method::GET, "/never-ends");
    assert!(client.try_send(request).await.is_err(), "half a body is not taken for whole");
    until_metrics_say(host.admin, &format!("{IN_USE} 0")).await;
    assert_eq!(get(host.address, "/static").await.text(), "1");
}
