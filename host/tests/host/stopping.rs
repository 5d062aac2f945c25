//! Stopping as orchestrators do it: with clients that are busy, idle, or do not finish.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use tally_testkit::signal_process;

use crate::{
    client::{Client, Held, get, post, until_metrics_say},
    command_line::run,
    host::{Host, guest, tally},
};

/// Longest time to wait for anything.
const LIMIT: Duration = Duration::from_secs(60);

/// What became of one request.
enum Outcome {
    Answered {
        closes: bool,
    },
    /// The host had closed the connection before the request was sent.
    Closed,
    /// The request was sent, and no response came.
    Lost(std::io::Error),
}

/// Sends one request on a connection, and reads the response.
fn increment(stream: &mut TcpStream) -> Outcome {
    stream.set_nonblocking(true).unwrap();
    let closed =
        !matches!(stream.peek(&mut [0]), Err(error) if error.kind() == ErrorKind::WouldBlock);
    stream.set_nonblocking(false).unwrap();
    if closed {
        return Outcome::Closed;
    }
    let exchange = |stream: &mut TcpStream| {
        stream.write_all(b"POST /increment HTTP/1.1\r\nhost: h\r\n\r\n")?;
        let mut response = Vec::new();
        let mut buffer = [0; 1_024];
        loop {
            let read = stream.read(&mut buffer)?;
            if read == 0 {
                return Err(ErrorKind::UnexpectedEof.into());
            }
            response.extend_from_slice(&buffer[..read]);
            if response.ends_with(b"}") {
                return Ok(String::from_utf8(response).unwrap());
            }
        }
    };
    match exchange(stream) {
        Ok(response) => {
            assert!(response.starts_with("HTTP/1.1 200"), "{response}");
            Outcome::Answered { closes: response.contains("connection: close") }
        }
        Err(error) => Outcome::Lost(error),
    }
}

/// A client that asks again and again, and connects again, until nobody listens any more.
/// Gives the requests that were answered, and why others were lost.
fn busy(
    address: SocketAddr,
    keeps_connections: bool,
    begun: &Arc<AtomicUsize>,
) -> JoinHandle<(usize, Vec<String>)> {
    let begun = Arc::clone(begun);
    std::thread::spawn(move || {
        let (mut answered, mut lost) = (0, Vec::new());
        while let Ok(mut stream) = TcpStream::connect(address) {
            stream.set_nodelay(true).unwrap();
            stream.set_read_timeout(Some(LIMIT)).unwrap();
            for number in 0_usize.. {
                match increment(&mut stream) {
                    Outcome::Answered { closes } => {
                        answered += 1;
                        if answered == 1 {
                            begun.fetch_add(1, Ordering::Relaxed);
                        }
                        if closes || !keeps_connections {
                            break;
                        }
                    }
                    Outcome::Closed => break,
                    Outcome::Lost(error) => {
                        lost.push(format!("request {number} of a connection: {error}"));
                        break;
                    }
                }
            }
        }
        (answered, lost)
    })
}

fn until(what: &str, done: impl Fn() -> bool) {
    let started = Instant::now();
    while !done() {
        assert!(started.elapsed() < LIMIT, "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// What the store of a host that has ended says was counted.
fn counted(host: &Host) -> usize {
    let counted = run(host.dir(), &["kv", "--store", "sqlite:tally.db", "get", "count"]);
    String::from_utf8(counted.stdout).unwrap().trim().parse().unwrap()
}

#[test]
fn no_busy_client_loses_a_request_when_the_host_stops() {
    const CLIENTS: usize = 64;
    // Those that keep their connections, and those that make one for each request.
    for keeps_connections in [true, false] {
        let mut host = Host::start("counter", "sqlite:tally.db", &["--workers", "2"]);
        let begun = Arc::default();
        let client = |_| busy(host.address, keeps_connections, &begun);
        let clients: Vec<_> = (0..CLIENTS).map(client).collect();
        until("all clients are at work", || begun.load(Ordering::Relaxed) == CLIENTS);
        host.signal("TERM");
        let ends: Vec<_> = clients.into_iter().map(|client| client.join().unwrap()).collect();
        assert!(host.wait().success(), "{}", host.log());
        let lost: Vec<_> = ends.iter().flat_map(|(_, lost)| lost).collect();
        assert!(lost.is_empty(), "{} lost with {keeps_connections}: {lost:?}", lost.len());
        let answered: usize = ends.iter().map(|(answered, _)| answered).sum();
        assert_eq!(counted(&host), answered);
    }
}

#[tokio::test]
async fn http2_says_which_requests_it_still_answers() {
    let mut host = Host::start("counter", "sqlite:tally.db", &["--workers", "2"]);
    let client = Client::connect_http2(host.address).await;
    let begun = Arc::new(AtomicUsize::new(0));
    let streams: Vec<_> = (0..16)
        .map(|_| {
            let (mut client, begun) = (client.beside(), Arc::clone(&begun));
            tokio::spawn(async move {
                let mut answered = 0;
                loop {
                    let request = client.request(http::Method::POST, "/increment");
                    match client.try_send(request).await {
                        Ok(response) => assert_eq!(response.status, 200),
                        Err(error) => return (answered, error),
                    }
                    answered += 1;
                    if answered == 1 {
                        begun.fetch_add(1, Ordering::Relaxed);
                    }
                }
            })
        })
        .collect();
    while begun.load(Ordering::Relaxed) < streams.len() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    host.signal("TERM");
    let mut all = 0;
    for stream in streams {
        let (answered, _) = tokio::time::timeout(LIMIT, stream).await.unwrap().unwrap();
        all += answered;
    }
    drop(client);
    assert!(host.wait().success(), "{}", host.log());
    assert_eq!(counted(&host), all, "each that was counted was answered");
}

#[tokio::test]
async fn the_host_serves_on_for_the_shutdown_delay_and_is_not_ready() {
    let mut host = Host::start("counter", "memory:", &["--shutdown-delay", "1h"]);
    let mut client = Client::connect(host.address).await;
    assert_eq!(get(host.admin, "/readyz").await.status, 200);
    host.signal("TERM");
    while get(host.admin, "/readyz").await.status == 200 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let response = client.post("/increment").await;
    assert_eq!(response.count(), 1);
    assert!(!response.headers.contains_key("connection"), "{response:?}");
    assert_eq!(post(host.address, "/increment").await.count(), 2, "and accepts");
    assert_eq!(get(host.admin, "/livez").await.status, 200);
    host.signal("TERM");
    assert_eq!(host.wait().code(), Some(1), "the second ends at once: {}", host.log());

    let mut host = Host::start("counter", "memory:", &["--shutdown-delay", "200ms"]);
    assert_eq!(post(host.address, "/increment").await.count(), 1);
    host.signal("TERM");
    assert!(host.wait().success(), "and then it drains: {}", host.log());
    assert!(host.log().contains("stopping in 200ms"), "{}", host.log());
}

#[tokio::test]
async fn half_a_body_does_not_hold_up_the_end() {
    // One reads bodies before the guest has them, the other streams them.
    // The other's guest says for itself that its body failed.
    for (name, path, status) in
        [("counter", "/increment", "HTTP/1.1 408"), ("probe-http", "/count-body", "HTTP/1.1 500")]
    {
        let flags = ["--drain-timeout", "1h", "--body-timeout", "1h", "--wall-limit", "1h"];
        let mut host = Host::start(name, "memory:", &flags);
        let mut half = TcpStream::connect(host.address).unwrap();
        half.set_read_timeout(Some(LIMIT)).unwrap();
        write!(half, "POST {path} HTTP/1.1\r\nhost: h\r\ncontent-length: 100000\r\n\r\nab")
            .unwrap();
        until_metrics_say(host.admin, "http_server_active_requests 1").await;
        // A body that makes progress is waited for.
        let mut slow = Held::begin(host.address, path);
        until_metrics_say(host.admin, "http_server_active_requests 2").await;
        host.signal("TERM");
        let moving = std::thread::spawn(move || {
            let mut response = String::new();
            let mut buffer = [0; 1_024];
            half.set_nonblocking(true).unwrap();
            let started = Instant::now();
            loop {
                slow.send(b"1\r\n.\r\n");
                match half.read(&mut buffer) {
                    Ok(0) => break,
                    Ok(read) => response.push_str(&String::from_utf8_lossy(&buffer[..read])),
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                    Err(error) => panic!("{error}: {response}"),
                }
                assert!(started.elapsed() < LIMIT, "half a body is waited for: {response}");
                std::thread::sleep(Duration::from_millis(200));
            }
            (response, slow.finish())
        });
        let (half, slow) = moving.join().unwrap();
        assert!(half.starts_with(status), "{name}: {half}");
        assert!(slow.starts_with("HTTP/1.1 200"), "{name}: {slow}");
        assert!(host.wait().success(), "{}", host.log());
    }
}

/// Whether a process watches for a signal by its number.
fn watches_for(process: u32, signal: u32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap_or("0");
    u64::from_str_radix(caught.trim(), 16).unwrap() & (1 << (signal - 1)) != 0
}

/// The process that a process has started, which is the first one of a namespace of its own.
fn child_of(process: u32) -> Option<u32> {
    let path = format!("/proc/{process}/task/{process}/children");
    std::fs::read_to_string(path).ok()?.split_whitespace().next()?.parse().ok()
}

/// The first process of a container has no default handlers: the kernel throws away what it does not watch
/// for. Where the kernel lets nobody make such a namespace, it runs as any other process.
#[test]
fn a_signal_ends_the_start_as_the_first_process_of_a_container() {
    let isolate = ["--user", "--map-root-user", "--pid", "--fork", "--kill-child"];
    let can = std::process::Command::new("unshare").args(isolate).arg("true").output();
    let can = can.is_ok_and(|output| output.status.success());
    let away = format!("redis://127.0.0.1:{}", tally_testkit::free_port().unwrap());
    for (store, name) in [("memory:", "probe-http"), (away.as_str(), "counter")] {
        let dir = tempfile::tempdir().unwrap();
        let own = tally(dir.path());
        let mut command =
            std::process::Command::new(if can { "unshare".as_ref() } else { own.get_program() });
        if can {
            command.args(isolate).arg(own.get_program());
        }
        command.current_dir(dir.path()).stdin(std::process::Stdio::null());
        // Nothing is compiled yet.
        command.env("XDG_CACHE_HOME", dir.path().join("cache"));
        command.args(["serve", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"]);
        command.args(["--store", store, "--store-wait", "10m"]).arg(guest(name));
        let log = std::fs::File::create(dir.path().join("log")).unwrap();
        let mut started = command.stdout(std::process::Stdio::null()).stderr(log).spawn().unwrap();
        let host = || if can { child_of(started.id()) } else { Some(started.id()) };
        until("it watches for SIGTERM", || host().is_some_and(|host| watches_for(host, 15)));
        let host = host().unwrap();
        signal_process(host, "HUP").unwrap();
        signal_process(host, "TERM").unwrap();
        let begun = Instant::now();
        let status = loop {
            if let Some(status) = started.try_wait().unwrap() {
                break status;
            }
            if begun.elapsed() > LIMIT {
                started.kill().unwrap();
                panic!("SIGTERM does not end the start with {store}");
            }
            std::thread::sleep(Duration::from_millis(10));
        };
        let log = std::fs::read_to_string(dir.path().join("log")).unwrap();
        assert_eq!(status.code(), Some(0), "{store}: {log}");
    }
}

#[tokio::test]
async fn sighup_reloads_the_log_s_filter_and_never_ends_the_host() {
    let dir = tempfile::tempdir().unwrap();
    let config = |log: &str| {
        format!("guest = {:?}\nstore = \"memory:\"\nlog = \"{log}\"\n", guest("counter"))
    };
    let host = Host::start_configured(dir, &config("info"));
    let write = |text: &str| std::fs::write(host.dir().join("tally.toml"), text).unwrap();
    assert!(!host.log().contains("DEBUG"), "{}", host.log());
    write(&config("info,tally=debug"));
    host.signal("HUP");
    host.wait_for_log("SIGHUP: the log's filter is info,tally=debug");
    let _ = crate::client::raw(host.address, b"nonsense\r\n\r\n");
    host.wait_for_log("DEBUG");
    write("log = 3");
    host.signal("HUP");
    host.wait_for_log("SIGHUP: the file of settings is not used");
    assert_eq!(post(host.address, "/increment").await.count(), 1);
}

#[test]
fn variables_of_services_in_kubernetes_are_no_settings() {
    let dir = tempfile::tempdir().unwrap();
    let mut command = tally(dir.path());
    command.arg("config");
    for service in ["TALLY", "TALLY_REDIS", "TALLY_ADMIN", "TALLY_STORE", "TALLY_LISTEN_2"] {
        for (name, value) in [
            ("SERVICE_HOST", "10.0.0.7"),
            ("SERVICE_PORT", "3000"),
            ("SERVICE_PORT_HTTP", "3000"),
            ("SERVICE_PORT_HTTP_METRICS", "3000"),
            ("PORT", "tcp://10.0.0.7:3000"),
            ("PORT_3000_TCP", "tcp://10.0.0.7:3000"),
            ("PORT_3000_TCP_PROTO", "tcp"),
            ("PORT_3000_TCP_PORT", "3000"),
            ("PORT_3000_TCP_ADDR", "10.0.0.7"),
            ("PORT_53_UDP", "udp://10.0.0.7:53"),
        ] {
            command.env(format!("{service}_{name}"), value);
        }
    }
    let with = command.output().unwrap();
    assert!(with.status.success(), "{with:?}");
    let without = run(dir.path(), &["config"]);
    assert_eq!(String::from_utf8(with.stdout), String::from_utf8(without.stdout));
    for name in
        ["TALLY_PORTS", "TALLY_PORT_3000", "TALLY_PORT_HTTP_TCP", "TALLY_STORE_PORT_1_TCP_X"]
    {
        let output = tally(dir.path()).arg("config").env(name, "1").output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{name}");
        assert!(String::from_utf8(output.stderr).unwrap().contains(name));
    }
}

#[tokio::test]
async fn the_store_s_url_can_come_from_a_file() {
    let dir = tempfile::tempdir().unwrap();
    let write = |text: &[u8]| std::fs::write(dir.path().join("url"), text).unwrap();
    let file = dir.path().join("url");
    let file = file.to_str().unwrap();
    write(b"sqlite:from-file.db\n");
    let output = run(dir.path(), &["kv", "--store-file", file, "incr", "count"]);
    assert!(output.status.success(), "{output:?}");
    assert!(dir.path().join("from-file.db").exists());
    let config = run(dir.path(), &["config", "--store-file", file]);
    let config = String::from_utf8(config.stdout).unwrap();
    assert!(config.contains("store-file = ") && !config.contains("from-file"), "{config}");
    std::fs::write(dir.path().join("tally.toml"), &config).unwrap();
    let again = run(dir.path(), &["config"]);
    assert_eq!(String::from_utf8(again.stdout).unwrap(), config, "it can be read back");
    // A flag wins over the file of settings.
    let output = run(dir.path(), &["kv", "--store", "sqlite:from-file.db", "get", "count"]);
    assert_eq!(output.stdout, b"1", "{output:?}");

    let both = tally(dir.path())
        .args(["config", "--store-file", file])
        .env("TALLY_STORE", "redis://u:planted-secret@h")
        .output()
        .unwrap();
    let mut errors = vec![("are both given", both)];
    for (text, part) in [
        (b"".as_slice(), "is empty"),
        (b"\n", "is empty"),
        (b"planted-secret", "does not hold a store's URL"),
        (b"planted-secret://u:x@h/d", "does not hold a store's URL"),
        (b"redis://planted-secret@h\nmore", "on one line"),
        (b"\xffplanted-secret", "not text"),
    ] {
        write(text);
        errors.push((part, run(dir.path(), &["kv", "--store-file", file, "list"])));
    }
    errors.push(("No such file", run(dir.path(), &["kv", "--store-file", "missing", "list"])));
    for (part, output) in errors {
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(error.contains(part) && error.contains("store-file"), "{part}: {error}");
        assert!(!error.contains("planted-secret"), "{error}");
    }

    write(b"sqlite:served.db\r\n");
    let host = Host::start_with("counter", |command| {
        command.env("TALLY_STORE_FILE", file);
    });
    assert_eq!(post(host.address, "/increment").await.count(), 1);
    assert!(host.banner.contains("served.db"), "{}", host.banner);
}
