//! Clients that take their time: what they are reading is never cut, and what they leave lying is bounded.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt as _, Empty};
use hyper_util::rt::{TokioExecutor, TokioIo};

use crate::{
    client::{Client, get, until_metrics_say},
    host::Host,
};

/// More than the kernel keeps of a connection on its way.
const LARGE: usize = 16_000_000;

/// Longest time that anything here takes that comes to an end by itself.
const LIMIT: Duration = Duration::from_secs(60);

/// Plugin guests that may answer so much.
const LARGE_ANSWERS: [&str; 4] = ["--response-limit", "32MiB", "--memory-limit", "64MiB"];

fn begin(host: &Host, head: &str) -> TcpStream {
    let mut stream = TcpStream::connect(host.address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    stream.write_all(head.as_bytes()).unwrap();
    stream
}

/// Reads all that comes, some at a time, and gives how much that was.
fn read_steadily(stream: &mut TcpStream, part: usize, pause: Duration) -> usize {
    let mut buffer = vec![0; part];
    let mut all = 0;
    loop {
        match stream.read(&mut buffer).expect("it goes on") {
            0 => return all,
            read => all += read,
        }
        std::thread::sleep(pause);
    }
}

#[test]
fn a_steady_reader_gets_all_of_it_however_long_that_takes() {
    let flags = [&LARGE_ANSWERS[..], &["--idle-timeout", "2s"]].concat();
    let host = Host::start("probe", "memory:", &flags);
    let head = format!("GET /body?{LARGE} HTTP/1.1\r\nhost: h\r\n\r\n");
    let mut stream = begin(&host, &head);
    let started = Instant::now();
    // In all longer than a connection may be idle and then gets to close. The kernel passes on what it keeps in
    // pieces of a megabyte and more, so half a second may be without progress.
    let read = read_steadily(&mut stream, 200_000, Duration::from_millis(100));
    assert!(read > LARGE, "{read} bytes, of which the body has {LARGE}");
    assert!(started.elapsed() > Duration::from_secs(7), "it was not slow: {:?}", started.elapsed());
}

/// Its client knows the end by that of the connection, and must not take what came for all of it.
#[tokio::test]
async fn a_response_to_http_1_0_that_its_client_does_not_take_ends_with_a_reset() {
    let flags = ["--head-timeout", "1s", "--cpu-limit", "8s", "--response-limit", "32MiB"];
    let host = Host::start("probe-http", "memory:", &flags);
    let mut stream = begin(&host, "GET /stream?16000 HTTP/1.0\r\n\r\n");
    until_metrics_say(host.admin, "tally_connections 1").await;
    until_metrics_say(host.admin, "tally_connections 0").await;
    let error = stream.read_to_end(&mut Vec::new()).expect_err("it is not all of it");
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
}

#[test]
fn a_steady_reader_gets_all_of_it_from_a_host_that_stops() {
    let flags = [&LARGE_ANSWERS[..], &["--drain-timeout", "60s"]].concat();
    let mut host = Host::start("probe", "memory:", &flags);
    let head = format!("GET /body?{LARGE} HTTP/1.1\r\nhost: h\r\n\r\n");
    let mut stream = begin(&host, &head);
    let mut first = [0; 1_000];
    stream.read_exact(&mut first).unwrap();
    host.signal("TERM");
    // Longer than a connection gets that has nothing to do.
    let read = read_steadily(&mut stream, 200_000, Duration::from_millis(100));
    assert!(read + first.len() > LARGE, "{read} bytes");
    assert!(host.wait().success(), "{}", host.log());
}

#[test]
fn a_guest_that_streams_to_a_slow_client_is_not_at_its_limit() {
    for guest in ["probe-http", "probe-p3"] {
        let flags = ["--wall-limit", "500ms", "--response-limit", "32MiB"];
        let host = Host::start(guest, "memory:", &flags);
        let mut stream = begin(&host, "GET /stream?16000 HTTP/1.0\r\nhost: h\r\n\r\n");
        let read = read_steadily(&mut stream, 200_000, Duration::from_millis(30));
        assert!(read > LARGE, "{read} bytes");
        assert!(!host.log().contains("a guest failed"), "{}", host.log());
    }
}

#[tokio::test]
async fn a_client_without_a_window_loses_its_stream_and_no_other() {
    let flags = ["--head-timeout", "500ms", "--drain-timeout", "60s"];
    let mut host = Host::start("probe", "memory:", &flags);
    let stream = tokio::net::TcpStream::connect(host.address).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http2::Builder::new(TokioExecutor::new())
        .initial_stream_window_size(0)
        .handshake::<_, Empty<Bytes>>(TokioIo::new(stream))
        .await
        .unwrap();
    tokio::spawn(connection);
    let mut ask = async |path: &str| {
        let request = Request::get(format!("http://h{path}")).body(Empty::new()).unwrap();
        sender.send_request(request).await.unwrap()
    };
    let stuck = ask("/body?4000000").await;
    assert_eq!(stuck.status(), 200);
    // It goes on being used meanwhile: a status needs no window.
    let ended = tokio::spawn(stuck.into_body().collect());
    let started = Instant::now();
    while !ended.is_finished() {
        assert_eq!(ask("/status?204").await.status(), 204);
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert!(started.elapsed() < Duration::from_secs(60), "the stream is never ended");
    }
    assert!(ended.await.unwrap().is_err(), "it was reset");
    // Nor does one hold up the end, though it may take its time for as long as it reads.
    let _stuck = ask("/body?4000000").await;
    host.signal("TERM");
    let ended = tokio::task::spawn_blocking(move || (host.wait(), host));
    let (status, host) = tokio::time::timeout(Duration::from_secs(40), ended)
        .await
        .expect("it ends before the time to drain is over")
        .unwrap();
    assert!(status.success(), "{}", host.log());
}

/// What is small leaves the guest at once, and waits where only HTTP/2 itself knows of it.
#[tokio::test]
async fn what_a_client_does_not_take_is_not_kept_however_small_it_is() {
    let flags = ["--head-timeout", "500ms", "--responses-limit", "100KiB"];
    let mut host = Host::start("probe", "memory:", &flags);
    let begin = async |window: u32| {
        let stream = tokio::net::TcpStream::connect(host.address).await.unwrap();
        let (sender, connection) = hyper::client::conn::http2::Builder::new(TokioExecutor::new())
            .initial_stream_window_size(window)
            .handshake::<_, Empty<Bytes>>(TokioIo::new(stream))
            .await
            .unwrap();
        (sender, tokio::spawn(connection))
    };
    let request = |path: &str| Request::get(format!("http://h{path}")).body(Empty::new()).unwrap();
    for (window, path) in [(0, "/body?13"), (1, "/body?13"), (0, "/body?15000"), (1, "/body?15000")]
    {
        let (mut sender, connection) = begin(window).await;
        let stuck = sender.send_request(request(path)).await.unwrap();
        if window > 0 {
            // All of it is on its way, so that there is nothing to reset but the connection.
            let closed = tokio::time::timeout(LIMIT, connection).await;
            let _ = closed.expect("the connection is closed").unwrap();
        }
        let read = tokio::time::timeout(LIMIT, stuck.into_body().collect()).await;
        assert!(read.expect("it comes to an end").is_err(), "{path} with a window of {window}");
    }
    // They count, too.
    let (mut sender, _connection) = begin(0).await;
    let mut stuck = Vec::new();
    let refused = async {
        loop {
            let answer = sender.send_request(request("/body?15000")).await.unwrap();
            if answer.status() == 503 {
                return stuck.len();
            }
            stuck.push(answer);
        }
    };
    let answered = tokio::time::timeout(LIMIT, refused).await.expect("one is refused");
    assert!((5..=8).contains(&answered), "{answered} of 15 kB within 100 KiB");
    // And the end does not wait for them.
    host.signal("TERM");
    let ended = tokio::task::spawn_blocking(move || (host.wait(), host));
    let (status, host) = tokio::time::timeout(LIMIT, ended).await.expect("it ends").unwrap();
    assert!(status.success(), "{}", host.log());
}

/// As one that sends nothing.
#[tokio::test]
async fn clients_that_send_next_to_nothing_leave_places_to_others() {
    let host = Host::start("probe-http", "memory:", &["--pool", "8", "--wall-limit", "1m"]);
    let head = "POST /count-body HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n";
    let mut trickling: Vec<_> = (0..30).map(|_| begin(&host, head)).collect();
    let is_over = Arc::<AtomicBool>::default();
    let trickle = std::thread::spawn({
        let is_over = Arc::clone(&is_over);
        move || {
            while !is_over.load(Ordering::Relaxed) {
                trickling.retain_mut(|client| client.write_all(b"1\r\nx\r\n").is_ok());
                std::thread::sleep(Duration::from_millis(300));
            }
        }
    });
    let mut client = Client::connect(host.address).await;
    // In the beginning, they may have all places for a second.
    let served = async {
        let mut in_a_row = 0;
        while in_a_row < 30 {
            let is_served = client.get("/static").await.status == 200;
            in_a_row = if is_served { in_a_row + 1 } else { 0 };
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let served = tokio::time::timeout(Duration::from_secs(25), served).await;
    is_over.store(true, Ordering::Relaxed);
    trickle.join().unwrap();
    served.expect("others are served, before bodies take longer than they may");
}

/// A body that does not begin to arrive takes none of the places that others need.
#[tokio::test]
async fn clients_that_send_nothing_leave_places_to_others() {
    for guest in ["probe-http", "probe-p3"] {
        let host = Host::start(guest, "memory:", &["--pool", "8", "--wall-limit", "1m"]);
        let head = "POST /count-body HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n";
        let silent: Vec<_> = (0..30).map(|_| begin(&host, head)).collect();
        // Two of eight places may be held for clients.
        until_metrics_say(host.admin, "tally_pool_instances_in_use{guest=\"default\"} 2").await;
        // A body that has begun takes another one, until its client has been silent for a second.
        let mut stuck: Vec<_> =
            (0..30).map(|_| begin(&host, &format!("{head}1\r\nx\r\n"))).collect();
        for client in &mut stuck {
            let mut answer = [0; 12];
            client.read_exact(&mut answer).expect("it is told that it is too slow");
            assert!(answer.starts_with(b"HTTP/1.1 50"), "{answer:?}");
        }
        let mut client = Client::connect(host.address).await;
        for _ in 0..20 {
            assert_eq!(client.get("/static").await.text(), "1");
        }
        drop(silent);
    }
}

#[tokio::test]
async fn bodies_in_tiny_chunks_take_what_they_hold() {
    const CLIENTS: usize = 16;
    const BYTES: usize = 200_000;
    let host = Host::start("counter", "memory:", &[]);
    let resident = || {
        let status = std::fs::read_to_string(format!("/proc/{}/status", host.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.split_whitespace().next().unwrap().parse::<usize>().unwrap()
    };
    let before = resident();
    let head = "POST /increment HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n";
    let mut slow: Vec<_> = (0..CLIENTS).map(|_| begin(&host, head)).collect();
    for client in &mut slow {
        client.write_all("1\r\nx\r\n".repeat(BYTES).as_bytes()).unwrap();
    }
    let taken = BYTES.next_power_of_two() * CLIENTS;
    until_metrics_say(host.admin, &format!("tally_request_body_bytes {taken}")).await;
    let grown = resident().saturating_sub(before);
    assert!(grown < (10 * taken) >> 10, "{grown} KiB for bodies of {} KiB", taken >> 10);
}

#[tokio::test]
async fn responses_that_wait_for_their_clients_are_bounded() {
    let flags =
        [&LARGE_ANSWERS[..], &["--responses-limit", "10MiB", "--head-timeout", "1h"]].concat();
    let host = Host::start("probe", "memory:", &flags);
    let head = format!("GET /body?{LARGE} HTTP/1.1\r\nhost: h\r\n\r\n");
    let _unread = begin(&host, &head);
    let mut client = Client::connect(host.address).await;
    let refused = async {
        loop {
            let response = client.get("/static").await;
            if response.status != 200 {
                return response;
            }
        }
    };
    let refused = tokio::time::timeout(Duration::from_secs(60), refused).await;
    refused.expect("there is no room").problem(503, "responses");
    let metrics = get(host.admin, "/metrics").await;
    assert!(metrics.text().contains("reason=\"responses\"} 1"), "{}", metrics.text());
    // While there is so little room, nobody may leave it unread for long.
    let served = async {
        while client.get("/static").await.status != 200 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), served).await.expect("there is room again");
}
