//! Connections that pause between two requests: they hold next to nothing, make room for others where there is no
//! place left, and go on as if there had been no pause.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use crate::{
    client::{Client, get},
    host::Host,
};

/// After that, nothing is held any more for a request: see `edge/parking.rs`.
const PAUSE: Duration = Duration::from_secs(3);

const HELLO: &str = "GET /hello HTTP/1.1\r\nhost: x\r\n\r\n";

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    stream
}

/// Sends something, and reads answers to the end of the last of them.
fn exchange(stream: &mut TcpStream, request: &str, end: &str) -> String {
    stream.write_all(request.as_bytes()).unwrap();
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

fn metric(metrics: &str, name: &str) -> u64 {
    let line = metrics.lines().find_map(|line| line.strip_prefix(name));
    line.unwrap_or_else(|| panic!("no {name} in {metrics}")).trim().parse().unwrap()
}

/// Most of the time that a new connection waits for its first answer, on a machine that is busy.
const LONGEST: Duration = Duration::from_secs(30);

const CLOSED: &str = "tally_connections_closed_for_others_total ";

/// The kernel's and the allocator's shares are in it as well, and a program that is not optimized.
const MOST_BYTES: usize = 16 << 10;

#[test]
fn many_idle_connections_take_little_memory() {
    const CONNECTIONS: usize = 2_000;
    let host = Host::start("probe-http", "memory:", &["--max-connections", "10000"]);
    let open = || {
        let mut stream = connect(host.address);
        exchange(&mut stream, HELLO, "Hello, World!");
        stream
    };
    // Whatever is made once.
    let first: Vec<_> = (0..10).map(|_| open()).collect();
    std::thread::sleep(PAUSE);
    let before = host.resident();
    let mut more: Vec<_> = (0..CONNECTIONS).map(|_| open()).collect();
    let limit = Instant::now() + Duration::from_secs(30);
    loop {
        let each = host.resident().saturating_sub(before) / CONNECTIONS;
        if each < MOST_BYTES {
            break;
        }
        assert!(Instant::now() < limit, "each takes {each} bytes");
        std::thread::sleep(Duration::from_millis(200));
    }
    for stream in more.iter_mut().take(20) {
        exchange(stream, HELLO, "Hello, World!");
    }
    drop(first);
}

#[test]
fn requests_after_a_pause_are_read_as_all_others() {
    let host = Host::start("probe-http", "memory:", &[]);
    let mut stream = connect(host.address);
    // A body in full, in parts, in chunks; and two requests at once.
    let length = "POST /echo HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\r\nfirst";
    let chunks = "POST /echo HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n5\r\nthird\r\n0\r\n\r\n";
    exchange(&mut stream, HELLO, "Hello, World!");
    std::thread::sleep(PAUSE);
    exchange(&mut stream, length, "first");
    std::thread::sleep(PAUSE);
    let (head, body) = length.split_at(length.len() - 3);
    stream.write_all(&head.as_bytes()[..10]).unwrap();
    std::thread::sleep(Duration::from_millis(100));
    stream.write_all(&head.as_bytes()[10..]).unwrap();
    std::thread::sleep(PAUSE);
    exchange(&mut stream, body, "first");
    std::thread::sleep(PAUSE);
    exchange(&mut stream, chunks, "third");
    std::thread::sleep(PAUSE);
    let both = exchange(&mut stream, &format!("{HELLO}{length}"), "first");
    assert_eq!(both.matches("HTTP/1.1 200 OK").count(), 2, "{both}");
    std::thread::sleep(PAUSE);
    let last = HELLO.replace("\r\n\r\n", "\r\nconnection: close\r\n\r\n");
    exchange(&mut stream, &last, "Hello, World!");
    assert_eq!(stream.read(&mut [0]).unwrap(), 0, "it is the last");
}

/// What is still to come of a body is never taken for a request.
#[test]
fn the_rest_of_a_body_is_no_request() {
    let host = Host::start("probe-http", "memory:", &["--body-timeout", "1h"]);
    // Answered before the body is read.
    for path in ["/hello", "/count-body", "/nowhere"] {
        let mut stream = connect(host.address);
        let inner = "GET /hello?smuggled HTTP/1.1\r\nhost: x\r\n\r\n";
        let length = inner.len() * 2;
        let head = format!("POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: {length}\r\n\r\n");
        stream.write_all(head.as_bytes()).unwrap();
        std::thread::sleep(PAUSE);
        // Where the connection has been closed by now, there is nobody to mistake it.
        let _ = stream.write_all(format!("{inner}{inner}").as_bytes());
        stream.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
        let (mut answers, mut part) = (Vec::new(), [0; 1_000]);
        loop {
            match stream.read(&mut part) {
                Ok(0) => break,
                Ok(read) => answers.extend(&part[..read]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
                    break;
                }
            }
        }
        let answers = String::from_utf8(answers).unwrap();
        assert!(answers.matches("HTTP/1.1 ").count() <= 1, "{path}: {answers}");
    }
}

#[test]
fn a_client_that_ends_its_side_after_a_pause_is_let_go() {
    let host = Host::start("probe-http", "memory:", &[]);
    let mut stream = connect(host.address);
    exchange(&mut stream, HELLO, "Hello, World!");
    std::thread::sleep(PAUSE);
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(stream.read(&mut [0]).unwrap(), 0);
}

#[test]
fn a_connection_that_pauses_hears_of_the_end_by_its_next_answer() {
    let flags = ["--drain-timeout", "30s", "--idle-timeout", "1h"];
    let mut host = Host::start("probe-http", "memory:", &flags);
    let mut stream = connect(host.address);
    exchange(&mut stream, HELLO, "Hello, World!");
    let mut silent = connect(host.address);
    exchange(&mut silent, HELLO, "Hello, World!");
    std::thread::sleep(PAUSE);
    host.signal("TERM");
    host.wait_for_log("stopping");
    let answer = exchange(&mut stream, HELLO, "Hello, World!");
    assert!(answer.contains("connection: close\r\n"), "{answer}");
    assert_eq!(stream.read(&mut [0]).unwrap(), 0);
    assert_eq!(silent.read(&mut [0]).unwrap(), 0, "it is closed without a word");
    assert!(host.wait().success(), "{}", host.log());
}

/// As a client that holds many connections and asks now and then on each.
#[tokio::test]
async fn the_longest_idle_connection_makes_room_for_a_new_one() {
    let host = Host::start("counter", "memory:", &["--max-connections", "3"]);
    let mut idle = connect(host.address);
    let report = "GET /report HTTP/1.1\r\nhost: x\r\n\r\n";
    exchange(&mut idle, report, "}");
    tokio::time::sleep(Duration::from_millis(300)).await;
    let mut later = connect(host.address);
    exchange(&mut later, report, "}");
    let mut busy = Client::connect(host.address).await;
    // Only now is it sure that it has the third place.
    assert_eq!(busy.get("/report").await.status, 200);
    for round in 1..=3 {
        let answer = tokio::time::timeout(Duration::from_secs(30), async {
            let newcomer = get(host.address, "/report");
            tokio::pin!(newcomer);
            loop {
                tokio::select! {
                    answer = &mut newcomer => return answer,
                    () = tokio::time::sleep(Duration::from_millis(50)) => {
                        assert_eq!(busy.get("/report").await.status, 200);
                    }
                }
            }
        });
        assert_eq!(answer.await.expect("there is room for it").status, 200);
        let metrics = get(host.admin, "/metrics").await;
        assert_eq!(metric(metrics.text(), CLOSED), 1, "round {round}: its place stays free");
    }
    assert_eq!(idle.read(&mut [0]).unwrap(), 0, "the longest idle one was closed");
    exchange(&mut later, report, "}");
    assert_eq!(busy.get("/report").await.status, 200);
    assert_eq!(host.log().matches("longest idle one is closed").count(), 1, "{}", host.log());
}

/// Every kind of connection on which no request is under way, each with the only place.
#[tokio::test]
async fn whatever_a_client_leaves_undone_makes_room() {
    let flags = ["--max-connections", "1", "--head-timeout", "1h", "--idle-timeout", "1h"];
    let host = Host::start("counter", "memory:", &flags);
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    let silent = [
        ("nothing", b"".as_slice()),
        ("half a head", b"GET /report HTTP/1.1\r\nho"),
        ("half a preface", b"PRI * HTTP/2.0\r\n"),
        ("HTTP/2 without a request", preface),
        ("a request, and half of the next", b"GET /report HTTP/1.1\r\nhost: x\r\n\r\nGET /"),
    ];
    for (number, (name, bytes)) in (1..).zip(silent) {
        let mut stream = connect(host.address);
        stream.write_all(bytes).unwrap();
        let answer = tokio::time::timeout(LONGEST, get(host.address, "/report")).await;
        assert_eq!(answer.unwrap_or_else(|_| panic!("{name} keeps its place")).status, 200);
        let mut rest = Vec::new();
        // Ends by itself, in order or not.
        if let Err(error) = stream.read_to_end(&mut rest) {
            assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{name}");
        }
        let metrics = get(host.admin, "/metrics").await;
        assert_eq!(metric(metrics.text(), CLOSED), number, "{name}");
    }
    // Of HTTP/2, one that has had its answer, and still answers pings.
    let mut idle = Client::connect_http2(host.address).await;
    assert_eq!(idle.get("/report").await.status, 200);
    let answer = tokio::time::timeout(LONGEST, get(host.address, "/report")).await;
    assert_eq!(answer.expect("an idle connection of HTTP/2 makes room").status, 200);
    let request = idle.request(http::Method::GET, "/report");
    assert!(idle.try_send(request).await.is_err(), "it was closed");
}
