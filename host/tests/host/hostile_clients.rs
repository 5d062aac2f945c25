//! Clients that send what they should not.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    time::Duration,
};

use crate::{
    client::{Client, get, raw, until_metrics_say},
    host::Host,
};

fn host(flags: &[&str]) -> Host {
    Host::start("counter", "memory:", flags)
}

#[tokio::test]
async fn a_body_of_ten_megabytes_is_413_and_the_client_gets_to_read_it() {
    let host = host(&[]);
    let mut client = Client::connect(host.address).await;
    let mut request = client.request(http::Method::POST, "/increment");
    *request.body_mut() = bytes::Bytes::from(vec![b'x'; 10 << 20]).into();
    let response = client.try_send(request).await.unwrap();
    let detail = response.problem(413, "body_too_large");
    assert!(detail.contains("1048576"), "{detail}");
    assert_eq!(get(host.address, "/report").await.count(), 0);
}

#[tokio::test]
async fn a_body_of_unknown_length_has_the_same_limit() {
    let host = host(&["--body-limit", "10B"]);
    let chunked = |body: &str| {
        format!(
            "POST /increment HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n{body}"
        )
    };
    let answer = raw(host.address, chunked("5\r\nhello\r\n5\r\nworld\r\n0\r\n\r\n").as_bytes());
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let answer = raw(host.address, chunked("5\r\nhello\r\n6\r\nworlds\r\n0\r\n\r\n").as_bytes());
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
    assert_eq!(get(host.address, "/report").await.count(), 1);
}

#[tokio::test]
async fn bodies_that_are_arriving_are_bounded_in_all() {
    let host = host(&["--bodies-limit", "1MiB"]);
    // Three quarters of what may be held, from a client that does not go on.
    let mut slow = TcpStream::connect(host.address).unwrap();
    slow.write_all(b"POST /increment HTTP/1.1\r\nhost: x\r\ncontent-length: 1000000\r\n\r\n")
        .unwrap();
    slow.write_all(&vec![b'x'; 786_432]).unwrap();
    // Counted is the memory that was taken for it.
    until_metrics_say(host.admin, "tally_request_body_bytes 1000000").await;
    let mut client = Client::connect(host.address).await;
    let mut request = client.request(http::Method::POST, "/increment");
    *request.body_mut() = bytes::Bytes::from(vec![b'x'; 524_288]).into();
    let response = client.try_send(request).await.unwrap();
    response.problem(503, "bodies");
    assert_eq!(response.headers["retry-after"], "1");
    assert_eq!(client.post("/increment").await.status, 200, "a request without a body is let in");
    drop(slow);
    for _ in 0..1_000 {
        let mut request = client.request(http::Method::POST, "/increment");
        *request.body_mut() = bytes::Bytes::from(vec![b'x'; 524_288]).into();
        if client.try_send(request).await.unwrap().status == 200 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("what the other held is free again");
}

#[tokio::test]
async fn a_request_names_its_host_once() {
    let host = host(&[]);
    for head in ["", "host: a\r\nhost: b\r\n"] {
        let request = format!("GET /report HTTP/1.1\r\n{head}connection: close\r\n\r\n");
        let answer = raw(host.address, request.as_bytes());
        assert!(answer.starts_with("HTTP/1.1 400"), "{head:?}: {answer}");
        assert!(answer.contains("problem+json"), "{answer}");
    }
    let answer = raw(host.address, b"GET /report HTTP/1.0\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.0 200"), "HTTP/1.0 knew no such header: {answer}");
}

#[tokio::test]
async fn a_client_that_asks_before_sending_is_told_no() {
    let host = host(&[]);
    let answer = raw(
        host.address,
        b"POST /increment HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 10000000\r\n\r\n",
    );
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
}

#[tokio::test]
async fn targets_that_are_too_long_or_none_are_refused() {
    let host = host(&[]);
    let mut client = Client::connect(host.address).await;
    client.get(&format!("/{}", "x".repeat(8_000))).await.problem(414, "target_too_long");
    client.get(&format!("/{}", "x".repeat(7_999))).await.problem(404, "not_found");
    let answer = raw(
        host.address,
        b"CONNECT example.com:80 HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n",
    );
    assert!(answer.starts_with("HTTP/1.1 501"), "{answer}");
    let answer =
        raw(host.address, b"CONNECT /report HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.1 "), "{answer}");
    assert!(!answer.starts_with("HTTP/1.1 2"), "a guest never gets to answer it: {answer}");
}

#[tokio::test]
async fn what_is_no_http_is_refused_and_the_connection_closed() {
    let host = host(&[]);
    for bytes in [
        // Invalid UTF-8 and NUL in the path.
        b"GET /\xff\xfe HTTP/1.1\r\nhost: x\r\n\r\n".as_slice(),
        b"GET /\0 HTTP/1.1\r\nhost: x\r\n\r\n",
        // Two lengths, a length beside chunks, a folded header.
        b"POST /increment HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab",
        b"POST /increment HTTP/1.1\r\nhost: x\r\ncontent-length: x\r\n\r\n",
        b"GET /report HTTP/1.1\r\nhost: x\r\nx: a\r\n b\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 not TLS here\r\n\r\n",
        b"nonsense\r\n\r\n",
    ] {
        let answer = raw(host.address, bytes);
        assert!(answer.starts_with("HTTP/1.1 400"), "{bytes:?}: {answer}");
        assert_eq!(answer.matches("HTTP/1.1").count(), 1, "one answer: {answer}");
    }
    assert_eq!(get(host.address, "/report").await.count(), 0, "and nothing was counted");
}

#[tokio::test]
async fn a_length_beside_chunks_never_smuggles_a_second_request() {
    let host = host(&[]);
    let answer = raw(
        host.address,
        b"POST /reset HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\nPOST /increment HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n",
    );
    // RFC 9112 (6.3) lets a server refuse it, or believe the chunks and close afterwards.
    assert_eq!(answer.matches("HTTP/1.1").count(), 1, "{answer}");
    assert_eq!(get(host.address, "/report").await.count(), 0);
}

#[tokio::test]
async fn an_oversized_head_is_431() {
    let host = host(&["--head-limit", "8KiB"]);
    let head = format!("GET /report HTTP/1.1\r\nhost: x\r\nx-large: {}\r\n\r\n", "y".repeat(9_000));
    let answer = raw(host.address, head.as_bytes());
    assert!(answer.starts_with("HTTP/1.1 431"), "{answer}");
}

#[tokio::test]
async fn slow_heads_and_bodies_are_given_up() {
    let host = host(&["--head-timeout", "200ms", "--body-timeout", "200ms"]);
    let mut slow_head = TcpStream::connect(host.address).unwrap();
    slow_head.write_all(b"GET /report HTTP/1.1\r\nhost:").unwrap();
    let mut answer = Vec::new();
    // Ends by itself, as the server closes the connection.
    let _ = slow_head.read_to_end(&mut answer);
    assert!(!String::from_utf8_lossy(&answer).starts_with("HTTP/1.1 200"));

    let mut slow_body = TcpStream::connect(host.address).unwrap();
    slow_body.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    slow_body
        .write_all(b"POST /increment HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\r\nab")
        .unwrap();
    let mut first = [0; 12];
    slow_body.read_exact(&mut first).unwrap();
    assert_eq!(&first, b"HTTP/1.1 408");
    assert_eq!(get(host.address, "/report").await.count(), 0);
}

#[tokio::test]
async fn connections_that_ask_for_nothing_are_closed_and_lock_nobody_out() {
    let host = host(&["--head-timeout", "200ms", "--max-connections", "3"]);
    let mut silent: Vec<TcpStream> = [
        b"".as_slice(),
        b"PRI * HTTP/2.0\r\n",
        // A whole preface and empty settings, and then nothing.
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0",
    ]
    .map(|bytes| {
        let mut stream = TcpStream::connect(host.address).unwrap();
        stream.write_all(bytes).unwrap();
        stream
    })
    .into();
    assert_eq!(get(host.address, "/report").await.status, 200, "once one of them is closed");
    for stream in &mut silent {
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        let mut answer = Vec::new();
        // Ends by itself, in order or not.
        if let Err(error) = stream.read_to_end(&mut answer) {
            assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
        }
    }
}

#[tokio::test]
async fn connections_beyond_the_limit_wait_their_turn() {
    let flags = ["--max-connections", "2", "--wall-limit", "10m"];
    let host = Host::start("probe-http", "memory:", &flags);
    // A guest is at work for it, so it makes room for nobody.
    let mut first = TcpStream::connect(host.address).unwrap();
    first.write_all(b"GET /sleep?300000 HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
    until_metrics_say(host.admin, "http_server_active_requests 1").await;
    let mut second = Client::connect(host.address).await;
    assert_eq!(second.get("/hello").await.status, 200);
    let address = host.address;
    let third = tokio::spawn(async move { get(address, "/hello").await });
    let since = std::time::Instant::now();
    // Longer than a connection that waits for its client may.
    while since.elapsed() < Duration::from_secs(2) {
        assert_eq!(second.get("/hello").await.status, 200);
    }
    assert!(!third.is_finished());
    drop(first);
    let third = tokio::time::timeout(Duration::from_secs(60), third);
    assert_eq!(third.await.expect("there is a place again").unwrap().status, 200);
}

/// Each worker has a listener of its own, and the kernel chooses by chance where a connection goes: none
/// may keep the last place from the others while nothing comes to it.
#[tokio::test]
async fn the_last_place_is_for_whichever_worker_a_connection_comes_to() {
    let host = host(&["--workers", "4", "--max-connections", "1"]);
    for _ in 0..40 {
        let answer = tokio::time::timeout(Duration::from_secs(30), get(host.address, "/report"));
        assert_eq!(answer.await.expect("a place").status, 200);
    }
}
