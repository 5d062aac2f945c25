//! The log and the access log: neither blocks the host, floods its operators, or can be forged by
//! clients.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    process::Stdio,
    time::{Duration, Instant},
};

use http::Method;
use serde_json::Value;
use tally_testkit::free_port;

use crate::{
    client::{Client, get, post, raw, until_metrics_say},
    command_line::run,
    host::{Host, guest, tally},
};

const LIMIT: Duration = Duration::from_secs(60);

/// Sends requests to one target, over several connections at once.
async fn storm(address: SocketAddr, target: &str, requests: usize, status: u16) {
    let clients = (0..8).map(|_| {
        let target = target.to_owned();
        tokio::spawn(async move {
            let mut client = Client::connect(address).await;
            for _ in 0..requests / 8 {
                assert_eq!(client.get(&target).await.status, status);
            }
        })
    });
    for client in clients.collect::<Vec<_>>() {
        tokio::time::timeout(LIMIT, client).await.expect("all are answered").unwrap();
    }
}

/// Has a guest print so many times 8,000 bytes: six hundred times is more than the queue and a pipe hold.
async fn print(address: SocketAddr, times: usize) {
    storm(address, &format!("/stdout?{}", "x".repeat(7_900)), times, 200).await;
}

/// The value of a counter without labels.
async fn counter(host: &Host, name: &str) -> u64 {
    let metrics = get(host.admin, "/metrics").await;
    let line = metrics.text().lines().find_map(|line| line.strip_prefix(name));
    line.unwrap_or_else(|| panic!("no {name}")).trim().parse().unwrap()
}

#[tokio::test]
async fn a_log_that_nobody_reads_stops_neither_requests_nor_the_end() {
    let flags = ["--log-every-failure", "--workers", "2"];
    let (mut host, reader) = Host::start_unread("probe-http", "memory:", &flags);
    storm(host.address, "/trap-before", 2_000, 500).await;
    print(host.address, 600).await;
    assert!(counter(&host, "tally_log_dropped_lines_total").await > 0);
    assert_eq!(get(host.address, "/static").await.text(), "1", "each worker answers on");
    host.signal("TERM");
    assert!(host.wait().success());
    drop(reader);
}

#[tokio::test]
async fn a_log_that_is_read_again_says_how_much_was_lost() {
    let (mut host, reader) = Host::start_unread("probe-http", "memory:", &[]);
    print(host.address, 600).await;
    let lost = counter(&host, "tally_log_dropped_lines_total").await;
    assert!(lost > 0);
    let reading = tokio::task::spawn_blocking(move || {
        let mut lines = BufReader::new(reader).lines();
        lines.find(|line| line.as_ref().unwrap().contains("lines of this log were lost"))
    });
    let line = tokio::time::timeout(LIMIT, reading).await.expect("it is told").unwrap();
    let line = line.expect("before the end").unwrap();
    assert!(line.contains(&format!("{lost} lines")), "{line}");
    // The reader is gone, which is no reason to stop either.
    print(host.address, 8).await;
    host.signal("TERM");
    assert!(host.wait().success());
}

#[tokio::test]
async fn the_end_does_not_wait_for_a_reader_to_say_why_it_failed() {
    let (mut host, reader) =
        Host::start_unread("probe-http", "memory:", &["--drain-timeout", "100ms"]);
    print(host.address, 80).await;
    let held = crate::client::Held::begin(host.address, "/count-body");
    while get(host.admin, "/metrics").await.text().contains("active_requests 0") {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    host.signal("TERM");
    assert_eq!(host.wait().code(), Some(1));
    drop((held, reader));
}

#[tokio::test]
async fn what_is_queued_is_written_before_the_end() {
    let (mut host, mut reader) = Host::start_unread("probe-http", "memory:", &[]);
    // Many times what a pipe holds.
    print(host.address, 240).await;
    get(host.address, "/stdout?the-last-line").await;
    host.signal("TERM");
    // It has stopped serving, and would be gone in a moment.
    let started = Instant::now();
    while Client::try_connect(host.address).await.is_some() {
        assert!(started.elapsed() < LIMIT, "it listens on");
    }
    let reading = tokio::task::spawn_blocking(move || {
        let (mut log, mut part) = (Vec::new(), vec![0; 64 << 10]);
        loop {
            match reader.read(&mut part).unwrap() {
                0 => return String::from_utf8(log).unwrap(),
                bytes => log.extend_from_slice(&part[..bytes]),
            }
            // Slower than the process would end by itself.
            std::thread::sleep(Duration::from_millis(2));
        }
    });
    let log = tokio::time::timeout(LIMIT, reading).await.expect("an end").unwrap();
    assert!(log.contains("the-last-line"), "{} bytes", log.len());
    assert!(host.wait().success());
}

#[tokio::test]
async fn a_standard_output_that_nobody_reads_keeps_no_host_from_serving() {
    let dir = tempfile::tempdir().unwrap();
    let (listen, admin) = (free_port().unwrap(), free_port().unwrap());
    let (reader, writer) = std::io::pipe().unwrap();
    let mut filling = writer.try_clone().unwrap();
    // Ends when the reader is gone.
    let filling = std::thread::spawn(move || filling.write_all(&[b'x'; 4 << 20]));
    // Until it is full; with less time, the test would find less.
    std::thread::sleep(Duration::from_millis(200));
    let mut child = tally(dir.path())
        .arg("serve")
        .arg(guest("counter"))
        .args(["--store", "memory:", "--listen", &format!("127.0.0.1:{listen}")])
        .args(["--admin", &format!("127.0.0.1:{admin}")])
        .stdout(writer)
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let (listen, started) = (SocketAddr::from(([127, 0, 0, 1], listen)), Instant::now());
    while Client::try_connect(listen).await.is_none() {
        assert!(started.elapsed() < LIMIT);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(get(listen, "/report").await.status, 200);
    tally_testkit::signal_process(child.id(), "TERM").unwrap();
    while child.try_wait().unwrap().is_none() {
        assert!(started.elapsed() < LIMIT, "it has not ended");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(child.wait().unwrap().success());
    drop(reader);
    assert!(filling.join().unwrap().is_err());
}

#[tokio::test]
async fn equal_failures_are_summed_up_and_none_is_lost_at_the_end() {
    const REQUESTS: usize = 2_000;
    let mut host = Host::start("probe-http", "memory:", &[]);
    let first = get(host.address, "/trap-before").await.headers["x-request-id"].clone();
    let log = host.wait_for_log("a guest failed");
    assert!(log.contains(first.to_str().unwrap()), "the first at once, with its id: {log}");
    storm(host.address, "/trap-before", REQUESTS, 500).await;
    // Of another kind.
    get(host.address, "/forget").await.problem(500, "invalid_response");
    host.signal("TERM");
    assert!(host.wait().success());
    let log = host.log();
    let failed: Vec<&str> = log.lines().filter(|line| line.contains("a guest failed")).collect();
    assert!(failed.len() < 10, "{} lines: {log}", failed.len());
    let counts = failed.iter().filter_map(|line| line.split_once(" count=")?.1.split(' ').next());
    let sum: usize = counts.map(|count| count.parse::<usize>().unwrap()).sum();
    assert_eq!(sum, REQUESTS, "{log}");
    assert_eq!(failed.iter().filter(|line| line.contains("invalid_response")).count(), 1, "{log}");
}

#[tokio::test]
async fn failures_are_counted_at_the_end_of_the_interval_though_no_more_follow() {
    let host = Host::start("probe-http", "memory:", &["--log-format", "json"]);
    storm(host.address, "/trap-before", 80, 500).await;
    let log = host.wait_for_log("a guest failed: 79 more in ");
    let line = log.lines().find(|line| line.contains("79 more")).unwrap();
    let fields = &serde_json::from_str::<Value>(line).unwrap()["fields"];
    assert_eq!((&fields["count"], &fields["guest"]), (&79.into(), &"default".into()), "{line}");
    assert_eq!(fields["kind"], "trap");
    assert!(fields["example_reason"].as_str().unwrap().contains("unreachable"), "{line}");
}

#[tokio::test]
async fn each_failure_is_logged_where_that_is_asked_for() {
    let host = Host::start("probe-http", "memory:", &["--log-every-failure"]);
    storm(host.address, "/trap-before", 80, 500).await;
    let started = Instant::now();
    while host.log().matches("a guest failed").count() < 80 {
        assert!(started.elapsed() < LIMIT, "{}", host.log());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The lines of an access log, once there are so many.
async fn lines(host: &Host, file: &str, count: usize) -> Vec<String> {
    let started = Instant::now();
    loop {
        let text = std::fs::read_to_string(host.dir().join(file)).unwrap_or_default();
        if text.lines().count() >= count && text.ends_with('\n') {
            return text.lines().map(str::to_owned).collect();
        }
        assert!(started.elapsed() < LIMIT, "{count} lines, and not:\n{text}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

const FILE: [&str; 2] = ["--access-log-file", "access.log"];

fn logging(guest: &str, format: &str) -> Host {
    Host::start(guest, "memory:", &[&["--access-log", format][..], &FILE].concat())
}

#[tokio::test]
async fn the_access_log_has_a_line_for_each_request_in_the_combined_format() {
    let host = logging("probe-http", "combined");
    let mut client = Client::connect(host.address).await;
    let mut request = client.request(Method::GET, "/static?a=b");
    request.headers_mut().insert("user-agent", "a test".parse().unwrap());
    request.headers_mut().insert("referer", "http://here/".parse().unwrap());
    assert_eq!(client.try_send(request).await.unwrap().body.len(), 1);
    assert_eq!(client.send(Method::HEAD, "/static").await.status, 200);
    let streamed = client.get("/stream?200").await.body.len();
    client.get("/trap-before").await;
    let mut second = Client::connect_http2(host.address).await;
    second.get("/static").await;
    let lines = lines(&host, "access.log", 5).await;
    // The address, who nobody is, and the time in brackets.
    let parts = |line: &str| {
        let (before, rest) = line.split_once("] \"").unwrap();
        let (client, time) = before.split_once(" - - [").unwrap();
        assert_eq!((client, time.len()), ("127.0.0.1", "27/Nov/2026:15:45:26 +0000".len()));
        format!("\"{rest}")
    };
    let lines: Vec<String> = lines.iter().map(|line| parts(line)).collect();
    assert_eq!(
        lines,
        [
            "\"GET /static?a=b HTTP/1.1\" 200 1 \"http://here/\" \"a test\"".to_owned(),
            "\"HEAD /static HTTP/1.1\" 200 0 \"-\" \"-\"".to_owned(),
            format!("\"GET /stream?200 HTTP/1.1\" 200 {streamed} \"-\" \"-\""),
            lines[3].clone(),
            "\"GET /static HTTP/2.0\" 200 1 \"-\" \"-\"".to_owned(),
        ]
    );
    assert!(lines[3].starts_with("\"GET /trap-before HTTP/1.1\" 500 "), "{}", lines[3]);
}

#[tokio::test]
async fn the_access_log_as_json_says_who_answered_and_what_was_cut_off() {
    let host = logging("probe-http", "json");
    let mut client = Client::connect(host.address).await;
    let id = client.get("/static").await.headers["x-request-id"].clone();
    let cut = client.request(Method::GET, "/trap-after-stream");
    assert!(client.try_send(cut).await.is_err());
    // A client that leaves before there is an answer. It resets the connection:
    // one that only closes it looks like one that has sent all and still reads.
    let mut leaving = TcpStream::connect(host.address).unwrap();
    leaving.write_all(b"GET /sleep?60000 HTTP/1.1\r\nhost: h\r\n\r\n").unwrap();
    until_metrics_say(host.admin, "http_server_active_requests 1").await;
    socket2::SockRef::from(&leaving).set_linger(Some(Duration::ZERO)).unwrap();
    drop(leaving);
    let lines = lines(&host, "access.log", 3).await;
    let json: Vec<Value> = lines.iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    let find = |target: &str| json.iter().find(|line| line["target"] == target).unwrap();
    let plain = find("/static");
    assert_eq!(plain["id"], id.to_str().unwrap());
    for (field, value) in [
        ("client", Value::from("127.0.0.1")),
        ("method", "GET".into()),
        ("version", "HTTP/1.1".into()),
        ("status", 200.into()),
        ("bytes", 1.into()),
        ("guest", "default".into()),
        ("complete", true.into()),
        ("host", host.address.to_string().into()),
        ("user_agent", Value::Null),
        ("referer", Value::Null),
    ] {
        assert_eq!(plain[field], value, "{field} of {plain}");
    }
    assert!(plain["duration"].as_f64().unwrap() > 0.0);
    assert_eq!(find("/trap-after-stream")["complete"], false);
    let left = find("/sleep?60000");
    assert_eq!((&left["status"], &left["complete"]), (&499.into(), &false.into()), "{left}");
}

#[tokio::test]
async fn clients_cannot_forge_lines_of_the_access_log() {
    for format in ["combined", "json"] {
        let host = logging("probe-http", format);
        let evil: &[u8] = b"GET /\"%0a{\\}?x HTTP/1.1\r\nhost: h\r\n\
            user-agent: x\" 200 0 \"-\" \"\\\x80\xe2\x80\xa8\t{\"status\":200}\r\n\
            referer: \"\\\"\r\nx-request-id: one\"two\r\nconnection: close\r\n\r\n";
        let answer = raw(host.address, evil);
        assert!(answer.contains("x-request-id: "), "{answer}");
        let mut client = Client::connect(host.address).await;
        client.get("/static").await;
        let lines = lines(&host, "access.log", 2).await;
        assert_eq!(lines.len(), 2, "{lines:?}");
        for line in &lines {
            assert!(line.bytes().all(|byte| (b' '..=b'~').contains(&byte)), "{line}");
            if format == "json" {
                let json: Value = serde_json::from_str(line).unwrap();
                assert!(json["status"].is_u64(), "{line}");
            } else {
                // The quotes are those of the three fields that have some.
                assert_eq!(line.matches('"').count(), 6, "{line}");
            }
        }
    }
}

#[tokio::test]
async fn an_access_log_that_was_moved_is_begun_anew() {
    let host = logging("counter", "combined");
    post(host.address, "/increment").await;
    lines(&host, "access.log", 1).await;
    std::fs::rename(host.dir().join("access.log"), host.dir().join("access.log.1")).unwrap();
    post(host.address, "/reset").await;
    assert!(lines(&host, "access.log", 1).await[0].contains("/reset"));
    assert_eq!(lines(&host, "access.log.1", 1).await.len(), 1);
}

#[tokio::test]
async fn an_access_log_on_standard_output_holds_nothing_else_and_may_go_unread() {
    let dir = tempfile::tempdir().unwrap();
    let (listen, admin) = (free_port().unwrap(), free_port().unwrap());
    let (listen, admin) = (format!("127.0.0.1:{listen}"), format!("127.0.0.1:{admin}"));
    let log = std::fs::File::create(dir.path().join("log")).unwrap();
    let mut child = tally(dir.path())
        .arg("serve")
        .arg(guest("counter"))
        .args(["--store", "memory:", "--listen", &listen, "--admin", &admin])
        .args(["--access-log", "json"])
        .stdout(Stdio::piped())
        .stderr(log)
        .spawn()
        .unwrap();
    let (listen, started) = (listen.parse().unwrap(), Instant::now());
    while Client::try_connect(listen).await.is_none() {
        assert!(started.elapsed() < LIMIT);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // More than a pipe holds, which is 64 KiB.
    storm(listen, "/report", 800, 200).await;
    tally_testkit::signal_process(child.id(), "TERM").unwrap();
    let mut output = child.stdout.take().unwrap();
    let reading = tokio::task::spawn_blocking(move || {
        let mut text = String::new();
        output.read_to_string(&mut text).map(|_| text)
    });
    let text = tokio::time::timeout(LIMIT, reading).await.expect("an end").unwrap().unwrap();
    assert!(child.wait().unwrap().success());
    assert_eq!(text.lines().count(), 800);
    for line in text.lines() {
        let json: Value = serde_json::from_str(line).unwrap();
        assert_eq!(json["target"], "/report");
    }
    let log = std::fs::read_to_string(dir.path().join("log")).unwrap();
    assert!(log.contains("serving") && log.contains("http://"), "where it serves: {log}");
}

#[test]
fn access_logs_that_cannot_be_are_explained() {
    let dir = tempfile::tempdir().unwrap();
    let counter = guest("counter");
    let serve = ["serve", counter.to_str().unwrap(), "--store", "memory:"];
    for (flags, part) in [
        (&["--access-log-file", "a"][..], "only with access-log"),
        (&["--access-log", "json", "--access-log-file", "no/where"], "its folder must exist"),
        (&["--log", "a=b=c"], "is no filter"),
    ] {
        let output = run(dir.path(), &[&serve[..], flags].concat());
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(error.lines().last().unwrap().contains(part), "{error}");
    }
}

#[tokio::test]
async fn a_bucket_that_may_not_be_opened_is_logged_once_with_what_would_allow_it() {
    for guest in ["probe-draft2", "probe-draft", "probe-spin-kv", "probe-spin-p3"] {
        let host = Host::start(guest, "memory:", &[]);
        let mut client = Client::connect(host.address).await;
        for name in ["elsewhere", "elsewhere", "tally.health", "default"] {
            client.get(&format!("/open?{name}")).await;
        }
        let log = host.wait_for_log("may not open the bucket 'tally.health'");
        let said = |text: &str| log.matches(text).count();
        assert_eq!(said("may not open the bucket 'elsewhere'"), 1, "{log}");
        assert_eq!(said("configure buckets = [\"default\", \"elsewhere\"]"), 1, "{log}");
        assert_eq!(said("names that begin with 'tally.' are reserved for the host"), 1, "{log}");
        assert_eq!(said("may not"), 2, "{log}");
    }
    // The advice keeps the buckets that there are.
    let host = Host::start("probe-draft2", "memory:", &["--bucket", "default=main"]);
    get(host.address, "/open?elsewhere").await;
    host.wait_for_log("configure buckets = [\"default=main\", \"elsewhere\"]");
}
