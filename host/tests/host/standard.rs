//! Standard guests: what `wasi:http` promises, and what a guest does wrong.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use bytes::Bytes;
use futures_util::StreamExt as _;
use http::{HeaderMap, Method, Request};
use http_body::Frame;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};

use crate::{
    client::{Client, get, raw, until_metrics_say},
    host::Host,
};

/// The tests of one guest, in a module of its own: those of all versions of `wasi:http` pass the same.
#[macro_export]
macro_rules! standard_suite {
    ($module:ident, $guest:literal) => {
        mod $module {
            $crate::standard_suite! { @tests $guest
                a_small_answer_has_its_length_and_a_large_one_streams
                bodies_stream_through_in_both_directions
                request_bodies_arrive_whole_and_are_bounded
                an_early_answer_reaches_a_client_that_still_sends
                trailers_pass_in_both_directions
                trailers_of_small_answers_come_in_chunks_over_http_1
                clients_that_do_not_read_are_let_go
                a_trap_is_a_clean_500_until_the_answer_has_left
                answers_that_are_none_are_explained
                endless_answers_are_cut_off
                guests_find_what_standard_libraries_need_and_nothing_else
                what_a_guest_prints_is_in_the_log_line_by_line_with_the_requests_id
                outgoing_requests_go_to_hosts_that_are_named_and_to_no_private_address
                head_and_forbidden_headers_are_the_hosts_business
            }
        }
    };
    (@tests $guest:literal $($test:ident)*) => {
        $(
            #[tokio::test]
            async fn $test() {
                $crate::standard::$test($guest).await;
            }
        )*
    };
}

fn host(flags: &[&str]) -> Host {
    serving("probe-http", flags)
}

fn serving(guest: &str, flags: &[&str]) -> Host {
    Host::start(guest, "memory:", flags)
}

pub async fn a_small_answer_has_its_length_and_a_large_one_streams(guest: &str) {
    let host = serving(guest, &["--response-limit", "64MiB"]);
    let mut client = Client::connect(host.address).await;
    let small = client.get("/hello").await;
    assert_eq!(small.headers["content-length"], small.body.len().to_string());
    assert!(!small.headers.contains_key("transfer-encoding"));
    let large = client.get("/stream?10000").await;
    assert_eq!(large.body.len(), 10_000 * 1_000);
    assert_eq!(large.headers["transfer-encoding"], "chunked");
    assert_eq!(client.get("/hello").await.text(), small.text(), "the connection goes on");
}

pub async fn bodies_stream_through_in_both_directions(guest: &str) {
    // A client that sends the next part only once it has read the one before.
    let host = serving(guest, &[]);
    let stream = tokio::net::TcpStream::connect(host.address).await.unwrap();
    let (mut sender, connection) =
        http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let (parts, receiver) = tokio::sync::mpsc::unbounded_channel::<Bytes>();
    let body = StreamBody::new(futures_util::stream::unfold(receiver, |mut receiver| async {
        let part = receiver.recv().await?;
        Some((Ok::<_, std::convert::Infallible>(Frame::data(part)), receiver))
    }));
    let request = Request::builder()
        .method(Method::POST)
        .uri(format!("http://{}/echo", host.address))
        .body(body.boxed_unsync())
        .unwrap();
    parts.send(Bytes::from_static(b"first")).unwrap();
    let mut response = sender.send_request(request).await.unwrap().into_body();
    for part in ["first", "second", "third"] {
        if part != "first" {
            parts.send(Bytes::from(part)).unwrap();
        }
        let mut read = Vec::new();
        while read.len() < part.len() {
            read.extend(response.frame().await.unwrap().unwrap().into_data().unwrap());
        }
        assert_eq!(read, part.as_bytes());
    }
    drop(parts);
    assert!(response.collect().await.unwrap().to_bytes().is_empty());
}

pub async fn request_bodies_arrive_whole_and_are_bounded(guest: &str) {
    let host = serving(guest, &["--body-limit", "300KiB"]);
    let mut client = Client::connect(host.address).await;
    for length in [0, 1, 65_536, 65_537, 300 << 10] {
        let mut request = client.request(Method::POST, "/count-body");
        *request.body_mut() = Full::from(vec![b'x'; length]);
        let response = client.try_send(request).await.unwrap();
        assert_eq!(response.text(), length.to_string());
    }
    let mut request = client.request(Method::POST, "/count-body");
    *request.body_mut() = Full::from(vec![b'x'; (300 << 10) + 1]);
    client.try_send(request).await.unwrap().problem(413, "body_too_large");
    // The same where the length is not announced, so that it shows only on the way.
    let answer = chunked(host.address, "/count-body", 31, 10_000);
    assert!(answer.contains("413") || answer.contains("body"), "{answer}");
}

/// Sends a body in chunks of a length, and gives the answer.
fn chunked(address: SocketAddr, path: &str, chunks: usize, length: usize) -> String {
    let mut bytes = format!(
        "POST {path} HTTP/1.1\r\nhost: h\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n"
    )
    .into_bytes();
    for _ in 0..chunks {
        bytes.extend(format!("{length:x}\r\n").bytes());
        bytes.extend(std::iter::repeat_n(b'x', length));
        bytes.extend(b"\r\n");
    }
    bytes.extend(b"0\r\n\r\n");
    raw(address, &bytes)
}

pub async fn an_early_answer_reaches_a_client_that_still_sends(guest: &str) {
    let host = serving(guest, &["--body-limit", "16MiB"]);
    for _ in 0..20 {
        // A client that has its answer does not send the rest, and its connection ends there.
        let mut client = Client::connect(host.address).await;
        let mut request = client.request(Method::POST, "/early");
        *request.body_mut() = Full::from(vec![b'x'; 8 << 20]);
        assert_eq!(client.try_send(request).await.unwrap().status, 200);
    }
    // And one that waits for the answer before it sends any more.
    let mut stream = TcpStream::connect(host.address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    stream
        .write_all(b"POST /early HTTP/1.1\r\nhost: h\r\ncontent-length: 1000000\r\n\r\nbegin")
        .unwrap();
    let mut answer = [0; 15];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"HTTP/1.1 200 OK");
}

pub async fn trailers_pass_in_both_directions(guest: &str) {
    let host = serving(guest, &[]);
    let stream = tokio::net::TcpStream::connect(host.address).await.unwrap();
    let (mut sender, connection) =
        http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let mut trailers = HeaderMap::new();
    trailers.insert("x-sum", "17".parse().unwrap());
    let frames = [Frame::data(Bytes::from_static(b"body")), Frame::trailers(trailers)];
    let body =
        StreamBody::new(futures_util::stream::iter(frames).map(Ok::<_, std::convert::Infallible>));
    let send = |path: &str, body| {
        Request::builder()
            .method(Method::POST)
            .uri(format!("http://{}{path}", host.address))
            .body(body)
            .unwrap()
    };
    let request = send("/request-trailers", body.boxed_unsync());
    let response = sender.send_request(request).await.unwrap().collect().await.unwrap();
    let text = String::from_utf8(response.to_bytes().into()).unwrap();
    assert!(text.contains("x-sum") && text.contains("17"), "{text}");

    let request = send("/trailers", http_body_util::Empty::new().boxed_unsync());
    let response = sender.send_request(request).await.unwrap().collect().await.unwrap();
    assert!(response.trailers().unwrap().contains_key("x-checksum"));
    assert!(!response.to_bytes().is_empty());
}

pub async fn trailers_of_small_answers_come_in_chunks_over_http_1(guest: &str) {
    let host = serving(guest, &[]);
    let answer = raw(
        host.address,
        b"GET /trailers HTTP/1.1\r\nhost: h\r\nte: trailers\r\nconnection: close\r\n\r\n",
    );
    assert!(answer.contains("transfer-encoding: chunked"), "{answer}");
    assert!(answer.contains("\r\n0\r\nx-checksum: "), "{answer}");
}

pub async fn clients_that_do_not_read_are_let_go(guest: &str) {
    let flags = ["--head-timeout", "500ms", "--wall-limit", "1h", "--response-limit", "1GiB"];
    let host = serving(guest, &flags);
    let mut stream = TcpStream::connect(host.address).unwrap();
    stream.write_all(b"GET /stream?200000 HTTP/1.1\r\nhost: h\r\n\r\n").unwrap();
    for wanted in ["tally_connections 1", "tally_connections 0"] {
        until_metrics_say(host.admin, wanted).await;
    }
}

pub async fn a_trap_is_a_clean_500_until_the_answer_has_left(guest: &str) {
    let host = serving(guest, &["--pool", "1"]);
    let mut client = Client::connect(host.address).await;
    for _ in 0..2 {
        client.get("/trap-before").await.problem(500, "trap");
        client.get("/trap-after-head").await.problem(500, "trap");
    }
    // A megabyte has left by then: the connection is cut, and nobody takes it for whole.
    let request = client.request(Method::GET, "/trap-after-stream");
    assert!(client.try_send(request).await.is_err());
    host.wait_for_log("a guest failed after its response had begun");
    assert_eq!(get(host.address, "/static").await.text(), "1", "the place is free again");
}

#[tokio::test]
async fn no_answer_at_all_is_explained() {
    get(host(&[]).address, "/never").await.problem(500, "invalid_response");
}

pub async fn answers_that_are_none_are_explained(guest: &str) {
    let host = serving(guest, &["--cpu-limit", "50ms", "--wall-limit", "500ms"]);
    let mut client = Client::connect(host.address).await;
    client.get("/error-code").await.problem(500, "internal");
    client.get("/no-finish").await.problem(500, "invalid_response");
    client.get("/content-length?10").await.problem(500, "invalid_response");
    client.get("/status?199").await.problem(500, "invalid_response");
    assert_eq!(client.get("/status?404").await.status, 404);
    // Nobody waits for what a guest does after its answer, and that has an end too.
    assert_eq!(client.get("/long-after").await.status, 200);
    client.get("/sleep?5000").await.problem(504, "wall_limit");
    host.wait_for_log("it computes for longer than it may");
}

pub async fn endless_answers_are_cut_off(guest: &str) {
    let host = serving(guest, &["--response-limit", "100KiB", "--cpu-limit", "200ms"]);
    let mut client = Client::connect(host.address).await;
    assert_eq!(client.get("/stream?100").await.body.len(), 100_000);
    let request = client.request(Method::GET, "/stream?10000");
    assert!(client.try_send(request).await.is_err());
    host.wait_for_log("a response was cut off at its limit");
    // Writes of nothing have an end as well: each takes a place in the queue, and a little time.
    let mut client = Client::connect(host.address).await;
    let request = client.request(Method::GET, "/zero-writes");
    assert!(client.try_send(request).await.is_err());
    host.wait_for_log("it computes for longer than it may");
    assert_eq!(get(host.address, "/static").await.text(), "1");
}

pub async fn guests_find_what_standard_libraries_need_and_nothing_else(guest: &str) {
    let host = Host::start_with(guest, |command| {
        command.args(["--store", "memory:", "--env", "GREETING=hello", "--env", "A=b=c"]);
        // The host's own environment is none of a guest's business.
        command.env("A_SECRET", "planted");
    });
    let mut client = Client::connect(host.address).await;
    let env = client.get("/env").await;
    let mut lines: Vec<&str> = env.text().lines().collect();
    lines.sort_unstable();
    assert_eq!(lines, ["A=b=c", "GREETING=hello"]);
    assert_eq!(client.get("/args").await.text().trim(), "");
    let random = client.get("/random").await.text().to_owned();
    assert_ne!(client.get("/random").await.text(), random);
    assert_eq!(client.get("/time").await.status, 200);
    assert_eq!(client.get("/sleep?5").await.status, 200);
    let files = client.get("/files").await;
    assert!(files.text().starts_with('0'), "{files:?}");
    let connect = client.get("/connect").await;
    assert!(!connect.text().contains("connected"), "{connect:?}");
    assert_eq!(client.get("/static").await.text(), "1");
    assert_eq!(client.get("/static").await.text(), "1", "fresh memory");
}

pub async fn what_a_guest_prints_is_in_the_log_line_by_line_with_the_requests_id(guest: &str) {
    let host = serving(guest, &["--cpu-limit", "10s"]);
    let mut client = Client::connect(host.address).await;
    for (path, line) in [("/stdout?a-line", "a-line"), ("/stderr?an-error", "an-error")] {
        let response = client.get(path).await;
        let id = response.headers["x-request-id"].to_str().unwrap().to_owned();
        let log = host.wait_for_log(line);
        let found = log.lines().find(|found| found.contains(line)).unwrap();
        assert!(found.contains(&id) && found.contains("default"), "{found}");
    }
    assert_eq!(client.get("/flood-stdout").await.status, 200);
    let log = host.wait_for_log("the rest is left out");
    assert!(log.len() < 512 << 10, "{} bytes of log", log.len());
    assert!(log.lines().all(|line| line.len() < 8 << 10), "long lines are cut");
}

pub async fn outgoing_requests_go_to_hosts_that_are_named_and_to_no_private_address(guest: &str) {
    let other = Host::start("probe", "memory:", &[]);
    let port = other.address.port();
    let fetch = async |flags: &[&str], url: &str| {
        let host = serving(guest, flags);
        get(host.address, &format!("/fetch?{url}")).await.text().to_owned()
    };
    let url = format!("http://127.0.0.1:{port}/static");
    let named = format!("127.0.0.1:{port}");
    let denied = fetch(&[], &url).await;
    assert!(denied.contains("HttpRequestDenied"), "{denied}");
    let wrong_port = fetch(&["--outgoing-host", "127.0.0.1:1", "--outgoing-private"], &url).await;
    assert!(wrong_port.contains("HttpRequestDenied"), "{wrong_port}");
    let private = fetch(&["--outgoing-host", &named], &url).await;
    assert!(private.contains("DestinationIpProhibited"), "{private}");
    // A name that resolves to this machine is no way around that.
    let url_by_name = format!("http://localhost:{port}/static");
    let by_name = fetch(&["--outgoing-host", "localhost"], &url_by_name).await;
    assert!(by_name.contains("DestinationIpProhibited"), "{by_name}");
    let mapped = format!("http://[::ffff:127.0.0.1]:{port}/static");
    let by_mapped = fetch(&["--outgoing-host", "*"], &mapped).await;
    assert!(by_mapped.contains("DestinationIpProhibited"), "{by_mapped}");
    let allowed = fetch(&["--outgoing-host", &named, "--outgoing-private"], &url).await;
    assert!(allowed.starts_with("200") && allowed.ends_with('1'), "{allowed}");
    let gone = fetch(&["--outgoing-host", "*", "--outgoing-private"], "http://127.0.0.1:1/").await;
    assert!(gone.contains("Connection"), "{gone}");
}

#[tokio::test]
async fn an_empty_line_is_a_line_of_the_log() {
    let host = host(&[]);
    let id = get(host.address, "/lines").await.headers["x-request-id"].to_str().unwrap().to_owned();
    host.wait_for_log("last");
    let log = host.log();
    let lines: Vec<&str> = log.lines().filter(|line| line.contains(&id)).collect();
    let [first, empty, third, long, last] = lines[..] else { panic!("{lines:?}") };
    assert!(first.contains("first") && third.contains("third") && last.contains("last"), "{log}");
    assert!(!empty.contains("first") && !empty.contains("third"), "{empty}");
    assert_eq!(long.matches('x').count() - empty.matches('x').count(), 4 << 10, "{long}");
}

#[tokio::test]
async fn connect_is_answered_by_the_guest_and_opens_no_tunnel() {
    let host = host(&[]);
    let connect = |server: &str| {
        let text = format!(
            "CONNECT {server} HTTP/1.1\r\nhost: {server}\r\n\r\nGET /hello HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
        );
        raw(host.address, text.as_bytes())
    };
    let answer = connect("example.com:80");
    assert!(answer.starts_with("HTTP/1.1 403"), "{answer}");
    assert!(answer.contains("no tunnel to example.com:80"), "{answer}");
    assert!(answer.ends_with("Hello, World!"), "the connection goes on: {answer}");
    let answer = connect("example.com:1");
    assert!(answer.starts_with("HTTP/1.1 501") && answer.contains("\"connect\""), "{answer}");
    assert!(!answer.contains("a tunnel"), "{answer}");

    let stream = tokio::net::TcpStream::connect(host.address).await.unwrap();
    let (mut sender, connection) =
        http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    for (server, status) in [("example.com:80", 403), ("example.com:1", 501)] {
        let request = Request::builder().method(Method::CONNECT).uri(server);
        let response = sender.send_request(request.body(Full::<Bytes>::default()).unwrap());
        assert_eq!(response.await.unwrap().status(), status, "{server}");
    }
}

pub async fn head_and_forbidden_headers_are_the_hosts_business(guest: &str) {
    let host = serving(guest, &[]);
    let mut client = Client::connect(host.address).await;
    let head = client.send(Method::HEAD, "/hello").await;
    let full = client.get("/hello").await;
    assert_eq!(head.status, 200);
    assert_eq!(head.body.len(), 0);
    assert_eq!(head.headers["content-length"], full.body.len().to_string());
    let response = client.get("/bad-header").await;
    assert!(!response.headers.contains_key("transfer-encoding"), "{response:?}");
    let ten = client.send(Method::HEAD, "/head-only").await;
    assert_eq!(ten.status, 200, "a guest that tells a length it does not send");
    // HTTP/1.0 has no need of a host.
    let answer = raw(host.address, b"GET /hello HTTP/1.0\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.0 200"), "{answer}");
}
