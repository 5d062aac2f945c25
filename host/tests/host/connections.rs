//! How connections end, how long they may be idle, and how what is not HTTP is answered.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use crate::{
    client::{Client, raw},
    host::Host,
};

fn host(flags: &[&str]) -> Host {
    Host::start("probe-http", "memory:", flags)
}

fn connect(address: SocketAddr, bytes: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    stream.write_all(bytes).unwrap();
    stream
}

/// Reads a response of a known length, whose end is a text.
fn read_until(stream: &mut TcpStream, end: &str) -> String {
    let mut read = Vec::new();
    while !read.ends_with(end.as_bytes()) {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap_or_else(|error| {
            panic!("{error}, and no {end:?} yet: {}", String::from_utf8_lossy(&read))
        });
        read.extend(byte);
    }
    String::from_utf8(read).unwrap()
}

const HELLO: &[u8] = b"GET /hello HTTP/1.1\r\nhost: x\r\n\r\n";

#[test]
fn what_is_not_http_is_answered_with_a_problem() {
    let host = host(&["--head-limit", "8KiB"]);
    let target = format!("GET /{} HTTP/1.1\r\nhost: x\r\n\r\n", "a".repeat(9_000));
    let field = format!("GET / HTTP/1.1\r\nhost: x\r\nx-a: {}\r\n\r\n", "a".repeat(9_000));
    let hello = std::str::from_utf8(HELLO).unwrap();
    for (bytes, status, code) in [
        ("nonsense\r\n\r\n", "400 Bad Request", "malformed"),
        ("GET / HTTP/1.1\r\nx a: b\r\n\r\n", "400 Bad Request", "malformed"),
        ("GET / HTTP/2.0\r\nhost: x\r\n\r\n", "505 HTTP Version Not Supported", "version"),
        (&target, "414 URI Too Long", "target_too_long"),
        (&field, "431 Request Header Fields Too Large", "head_too_large"),
        (
            "POST /length HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nx\r\n",
            "400 Bad Request",
            "body",
        ),
        (
            "POST /length HTTP/1.1\r\nhost: x\r\ntransfer-encoding: gzip, chunked\r\n\r\n",
            "501 Not Implemented",
            "transfer_coding",
        ),
        (
            "POST /length HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked, chunked\r\n\r\n",
            "400 Bad Request",
            "transfer_coding",
        ),
    ] {
        // The first of its connection, and one behind another.
        for before in ["", hello] {
            let mut stream = connect(host.address, before.as_bytes());
            if !before.is_empty() {
                read_until(&mut stream, "Hello, World!");
            }
            stream.write_all(bytes.as_bytes()).unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).unwrap();
            let start = bytes.get(..40).unwrap_or(bytes);
            assert!(answer.starts_with(&format!("HTTP/1.1 {status}\r\n")), "{start}: {answer}");
            let (head, body) = answer.split_once("\r\n\r\n").unwrap();
            let field = |name: &str| {
                let mut lines = head.lines().filter_map(|line| line.split_once(": "));
                lines
                    .find(|(found, _)| *found == name)
                    .unwrap_or_else(|| panic!("{name}: {head}"))
                    .1
            };
            assert_eq!(field("content-type"), "application/problem+json", "{start}");
            assert_eq!(field("content-length"), body.len().to_string());
            assert_eq!(field("connection"), "close");
            assert!(field("date").ends_with(" GMT"));
            let problem: serde_json::Value = serde_json::from_str(body).unwrap();
            assert_eq!(problem["code"], code, "{start}");
            assert_eq!(problem["applied"], "no");
            assert_eq!(problem["instance"], field("x-request-id"));
        }
    }
}

#[test]
fn no_guest_writes_what_is_taken_for_such_an_answer() {
    let host = host(&[]);
    let forged = "HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
    for length in [0, 1, 70_000, 200_000] {
        // In parts of their own, too, as the guest echoes what it gets.
        let body = format!("{forged}{}{forged}", "x".repeat(length));
        let request = format!(
            "POST /echo HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        let answer = raw(host.address, request.as_bytes());
        assert!(answer.starts_with("HTTP/1.1 200"), "{}", &answer[..200]);
        assert_eq!(answer.matches(forged).count(), 2, "{length}");
        assert!(!answer.contains("problem+json"));
    }
}

#[test]
fn an_answer_that_is_cut_off_does_not_look_whole_in_http_1_0() {
    let host = host(&[]);
    let mut stream = connect(host.address, b"GET /trap-after-stream HTTP/1.0\r\n\r\n");
    let mut answer = Vec::new();
    let error = stream.read_to_end(&mut answer).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    // One that is whole ends in order.
    let mut stream = connect(host.address, b"GET /stream?200 HTTP/1.0\r\n\r\n");
    stream.read_to_end(&mut answer).unwrap();
    assert!(answer.ends_with(&[b'x'; 1_000]));
    // In HTTP/1.1 the last chunk is missing.
    let request = b"GET /trap-after-stream HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    let answer = raw(host.address, request);
    assert!(!answer.ends_with("0\r\n\r\n"));
}

#[test]
fn an_idle_connection_has_a_time_of_its_own() {
    // Far longer than a head may take.
    let longer = host(&["--head-timeout", "100ms", "--idle-timeout", "1h"]);
    let mut stream = connect(longer.address, HELLO);
    for _ in 0..3 {
        read_until(&mut stream, "Hello, World!");
        std::thread::sleep(Duration::from_millis(500));
        stream.write_all(HELLO).unwrap();
    }
    // And far shorter.
    let shorter = host(&["--head-timeout", "1h", "--idle-timeout", "100ms"]);
    let mut stream = connect(shorter.address, HELLO);
    read_until(&mut stream, "Hello, World!");
    assert_eq!(stream.read(&mut [0]).unwrap(), 0, "it is closed, and nothing more is said");
}

#[tokio::test]
async fn an_idle_connection_of_http2_has_the_same_time() {
    let host = host(&["--head-timeout", "100ms", "--idle-timeout", "1h"]);
    let mut client = Client::connect_http2(host.address).await;
    for _ in 0..3 {
        assert_eq!(client.get("/hello").await.status, 200);
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

#[test]
fn a_head_that_does_not_come_to_its_end_is_408() {
    let host = host(&["--head-timeout", "200ms", "--idle-timeout", "1h"]);
    for before in [b"".as_slice(), HELLO] {
        let mut stream = connect(host.address, before);
        if !before.is_empty() {
            read_until(&mut stream, "Hello, World!");
        }
        stream.write_all(b"GET /hello HTTP/1.1\r\nhost:").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 408 Request Timeout\r\n"), "{answer}");
        assert!(answer.contains("\"code\":\"head_timeout\""), "{answer}");
    }
}

#[test]
fn a_client_that_sends_too_much_gets_to_read_that() {
    let host = host(&["--body-limit", "1KiB"]);
    for length in ["content-length: 8000000\r\n", "transfer-encoding: chunked\r\n"] {
        for _ in 0..5 {
            let head = format!("POST /length HTTP/1.1\r\nhost: x\r\n{length}\r\n");
            let mut stream = connect(host.address, head.as_bytes());
            // It looks for an answer only when it has sent all.
            for _ in 0..80 {
                let part = [b'x'; 100_000];
                let frame = match length.starts_with('t') {
                    true => [b"186a0\r\n".as_slice(), &part, b"\r\n"].concat(),
                    false => part.to_vec(),
                };
                stream.write_all(&frame).unwrap();
            }
            let mut answer = String::new();
            stream.read_to_string(&mut answer).unwrap();
            assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
            assert!(answer.contains("connection: close\r\n"), "{answer}");
        }
    }
}

#[tokio::test]
async fn a_304_says_what_a_200_would() {
    let host = host(&[]);
    let http1 = Client::connect(host.address).await;
    let http2 = Client::connect_http2(host.address).await;
    for mut client in [http1, http2] {
        let response = client.get("/not-modified").await;
        assert_eq!(response.status, 304);
        assert!(response.body.is_empty());
        for (name, value) in [
            ("cache-control", "max-age=60"),
            ("content-location", "/not-modified?whole"),
            ("content-length", "1000"),
            ("content-type", "text/plain"),
            ("etag", "\"one\""),
            ("expires", "Thu, 01 Jan 2032 00:00:00 GMT"),
            ("last-modified", "Thu, 01 Jan 1970 00:00:00 GMT"),
            ("vary", "accept"),
        ] {
            assert_eq!(
                response.headers.get(name).map(|value| value.to_str().unwrap()),
                Some(value),
                "{name}"
            );
        }
        assert!(response.headers.contains_key("date"));
        assert_eq!(client.get("/hello").await.text(), "Hello, World!", "nothing is waited for");
    }
}

#[test]
fn a_host_that_looks_like_another_is_not_routed_as_that() {
    let dir = tempfile::tempdir().unwrap();
    let guest = crate::host::guest("probe-http");
    let host = Host::start_configured(
        dir,
        &format!("store = 'memory:'\n[[route]]\nhost = 'ph'\nguest = '{}'\n", guest.display()),
    );
    for (name, status) in [
        ("ph", "200"),
        ("PH:80", "200"),
        ("ph.", "200"),
        ("evil", "404"),
        ("ph:80@evil", "400"),
        ("evil@ph", "400"),
        ("ph/evil", "400"),
        ("ph:port", "400"),
    ] {
        let request = format!("GET /hello HTTP/1.1\r\nhost: {name}\r\nconnection: close\r\n\r\n");
        let answer = raw(host.address, request.as_bytes());
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{name}: {answer}");
    }
}
