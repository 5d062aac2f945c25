//! The admin listener: who may ask it for what, and that no client keeps others out.

use std::{
    io::{Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    os::unix::fs::MetadataExt as _,
    path::Path,
    process::{Output, Stdio},
    time::{Duration, Instant},
};

use http::{HeaderMap, Method, Request};
use http_body_util::Full;
use tally_testkit::free_port;

use crate::{
    client::{Client, Response, get, raw},
    command_line::run,
    host::{Host, guest, tally},
};

const LIMIT: Duration = Duration::from_secs(60);

const TOKEN: &str = "a-token-of-this-test";

fn component() -> Vec<u8> {
    std::fs::read(guest("counter-http")).unwrap()
}

/// A deployment with headers beside those that it must have.
async fn put(admin: SocketAddr, headers: &[(&str, &str)], component: Vec<u8>) -> Response {
    let mut request = Request::put("/guests/default");
    if headers.iter().all(|(name, _)| *name != "host") {
        request = request.header("host", admin.to_string());
    }
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(Full::from(component)).unwrap();
    Client::connect(admin).await.try_send(request).await.unwrap()
}

fn bearer(token: &str) -> String {
    format!("Bearer {token}")
}

async fn version(host: &Host) -> serde_json::Value {
    get(host.address, "/report").await.json()["guest_version"].clone()
}

#[track_caller]
fn assert_unauthorized(response: &Response) {
    assert_eq!(response.status, 401, "{response:?}");
    let challenge = |headers: &HeaderMap| headers["www-authenticate"].to_str().unwrap().to_owned();
    assert!(challenge(&response.headers).starts_with("Bearer "), "{response:?}");
    for part in ["Authorization: Bearer", "TALLY_ADMIN_TOKEN", "--admin-token-file"] {
        assert!(response.text().contains(part), "{response:?}");
    }
}

#[tokio::test]
async fn nobody_deploys_without_the_token() {
    let host = Host::start("counter", "memory:", &[]);
    let before = version(&host).await;
    let wrong = bearer(&host.token().replace(|_: char| true, "0"));
    for headers in [
        &[][..],
        &[("authorization", &*wrong)],
        &[("authorization", &format!("Basic {}", host.token()))],
        &[("authorization", &format!("Bearer {}0", host.token()))],
    ] {
        assert_unauthorized(&put(host.admin, headers, component()).await);
    }
    // Large enough that the client would be cut off, and not get to read why.
    assert_unauthorized(&put(host.admin, &[], vec![0; 20 << 20]).await);
    assert_eq!(version(&host).await, before);
    for path in ["/livez", "/readyz?verbose", "/metrics", "/guests"] {
        assert_eq!(get(host.admin, path).await.status, 200, "{path} changes nothing");
    }
    assert_eq!(host.deploy("default", component()).await.status, 200);
    assert_ne!(version(&host).await, before);
}

#[tokio::test]
async fn the_token_is_kept_where_only_this_user_can_read_it_and_ends_with_the_host() {
    let mut host = Host::start("counter", "memory:", &[]);
    let file = host.token_file();
    assert!(host.banner.contains(file.to_str().unwrap()), "{}", host.banner);
    let mode = |path: &Path| std::fs::metadata(path).unwrap().mode() & 0o777;
    assert_eq!((mode(&file), mode(file.parent().unwrap())), (0o600, 0o700));
    let token = host.token();
    assert!(token.len() >= 32 && token != Host::start("counter", "memory:", &[]).token());
    assert!(!host.banner.contains(&token) && !host.log().contains(&token));
    host.signal("TERM");
    assert!(host.wait().success());
    assert!(!file.exists());
}

#[tokio::test]
async fn without_a_place_for_a_token_nothing_is_deployed_and_the_rest_goes_on() {
    let host = Host::start_with("counter", |command| {
        command.args(["--store", "memory:"]).env("XDG_RUNTIME_DIR", "/proc/none");
        command.env("XDG_STATE_HOME", "/proc/none");
    });
    host.wait_for_log("no deployments over HTTP");
    let response = put(host.admin, &[("authorization", &bearer(TOKEN))], component()).await;
    assert_eq!(response.status, 403, "{response:?}");
    assert!(response.text().contains("TALLY_ADMIN_TOKEN"), "{response:?}");
    assert_eq!(get(host.admin, "/readyz").await.status, 200);
}

fn deploy(host: &Host, complete: impl FnOnce(&mut std::process::Command)) -> (bool, String) {
    std::fs::write(host.dir().join("next.wasm"), component()).unwrap();
    let mut command = tally(host.dir());
    command.args(["deploy", "next.wasm", "--admin", &format!("http://{}", host.admin)]);
    complete(&mut command);
    let Output { status, stdout, stderr } = command.output().unwrap();
    (status.success(), String::from_utf8([stdout, stderr].concat()).unwrap())
}

#[tokio::test]
async fn deploy_takes_the_token_from_the_environment_or_a_file() {
    let host = Host::start_with("counter", |command| {
        command.args(["--store", "memory:"]).env("TALLY_ADMIN_TOKEN", TOKEN);
    });
    assert!(!host.token_file().exists(), "one is configured");
    let file = host.dir().join("token");
    std::fs::write(&file, format!("{TOKEN}\n")).unwrap();
    let (done, text) = deploy(&host, |_| {});
    assert!(!done && text.contains("this needs the admin token"), "{text}");
    let (done, text) = deploy(&host, |command| {
        command.env("TALLY_ADMIN_TOKEN", "another-token-than-that");
    });
    assert!(!done && text.contains("this is not the admin token"), "{text}");
    let (done, text) = deploy(&host, |command| {
        command.env("TALLY_ADMIN_TOKEN", TOKEN);
    });
    assert!(done, "{text}");
    let (done, text) = deploy(&host, |command| {
        command.arg("--admin-token-file").arg(&file);
    });
    assert!(done, "{text}");
    let (done, text) = deploy(&host, |command| {
        command.arg("--admin-token-file").arg(&file).env("TALLY_ADMIN_TOKEN", TOKEN);
    });
    assert!(!done && text.contains("give it in one of them"), "{text}");
    assert!(!host.log().contains(TOKEN), "{}", host.log());
}

#[tokio::test]
async fn deploy_finds_the_token_beside_one_that_a_killed_host_left() {
    let host = Host::start("counter", "memory:", &[]);
    let (done, text) = deploy(&host, |_| {});
    assert!(done, "{text}");
    // Found first, and of no use.
    let stale = tempfile::tempdir().unwrap();
    let name = host.token_file().file_name().unwrap().to_owned();
    std::fs::create_dir(stale.path().join("tally")).unwrap();
    std::fs::write(stale.path().join("tally").join(name), "a-token-of-the-past").unwrap();
    let (done, text) = deploy(&host, |command| {
        command.env("XDG_RUNTIME_DIR", stale.path());
        command.env("XDG_STATE_HOME", host.dir().join("run"));
    });
    assert!(done, "{text}");
}

#[tokio::test]
async fn where_others_can_reach_it_all_but_probes_needs_the_token() {
    let host = Host::start_with("counter", |command| {
        command.args(["--store", "memory:", "--admin", "0.0.0.0:0"]);
        command.env("TALLY_ADMIN_TOKEN", TOKEN);
    });
    let admin = SocketAddr::from((Ipv4Addr::LOCALHOST, host.admin.port()));
    for path in ["/livez", "/readyz"] {
        assert_eq!(get(admin, path).await.status, 200, "{path}");
    }
    let mut client = Client::connect(admin).await;
    for path in ["/readyz?verbose", "/metrics", "/guests", "/", "/elsewhere"] {
        assert_unauthorized(&client.get(path).await);
        let mut request = client.request(Method::GET, path);
        request.headers_mut().insert("authorization", bearer(TOKEN).parse().unwrap());
        let expected = if path == "/elsewhere" { 404 } else { 200 };
        assert_eq!(client.try_send(request).await.unwrap().status, expected, "{path}");
    }
    assert_unauthorized(&put(admin, &[], component()).await);
    let headers = [("authorization", &*bearer(TOKEN))];
    assert_eq!(put(admin, &headers, component()).await.status, 200);
}

/// Runs a command that must fail, and soon; gives what it wrote.
#[track_caller]
fn fails(command: &mut std::process::Command) -> String {
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let started = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if started.elapsed() > LIMIT {
            child.kill().unwrap();
            child.wait().unwrap();
            panic!("it goes on");
        }
        std::thread::sleep(Duration::from_millis(10));
    };
    assert_eq!(status.code(), Some(1));
    let mut error = String::new();
    child.stderr.take().unwrap().read_to_string(&mut error).unwrap();
    error
}

#[test]
fn an_admin_listener_that_others_can_reach_does_not_start_without_a_token() {
    let dir = tempfile::tempdir().unwrap();
    let counter = guest("counter");
    let port = free_port().unwrap();
    let serve =
        ["serve", counter.to_str().unwrap(), "--store", "memory:", "--listen", "127.0.0.1:0"];
    for admin in [format!("0.0.0.0:{port}"), format!("[::]:{port}")] {
        // As a compose file sets it that finds no value.
        for set in [false, true] {
            let mut command = tally(dir.path());
            command.args(serve).args(["--admin", &admin]);
            if set {
                command.env("TALLY_ADMIN_TOKEN", "");
            }
            let error = fails(&mut command);
            for part in ["TALLY_ADMIN_TOKEN", "--admin-token-file", "--admin 127.0.0.1:", "openssl"]
            {
                assert!(error.contains(part), "{error}");
            }
        }
    }
}

#[test]
fn tokens_that_cannot_be_are_explained_and_none_is_printed() {
    let dir = tempfile::tempdir().unwrap();
    let counter = guest("counter");
    std::fs::write(dir.path().join("short"), "hunter2\n").unwrap();
    let serve = ["serve", counter.to_str().unwrap(), "--store", "memory:"];
    for (file, part) in [("short", "at least 16 characters"), ("none", "cannot read none")] {
        let mut command = tally(dir.path());
        let error = fails(command.args(serve).args(["--admin-token-file", file]));
        assert!(error.contains(part) && !error.contains("hunter2"), "{error}");
    }
    let mut command = tally(dir.path());
    let output = command.arg("config").env("TALLY_ADMIN_TOKEN", TOKEN).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert!(!format!("{output:?}").contains(TOKEN), "{output:?}");
    // Other users see command lines.
    let output = run(dir.path(), &["serve", "--admin-token", TOKEN]);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
}

#[tokio::test]
async fn only_requests_for_this_host_are_answered() {
    let host = Host::start("counter", "memory:", &["--admin-host", "tally.internal,other.test"]);
    let ask = |path: &str, name: &str| {
        let request = format!("GET {path} HTTP/1.1\r\nhost: {name}\r\nconnection: close\r\n\r\n");
        let answer = raw(host.admin, request.as_bytes());
        answer.split(' ').nth(1).unwrap_or_default().to_owned()
    };
    let port = host.admin.port();
    for name in [
        "localhost",
        &format!("localhost:{port}"),
        "127.0.0.1",
        "[::1]:9",
        "tally.internal",
        "OTHER.test:1",
    ] {
        assert_eq!(ask("/metrics", name), "200", "{name}");
    }
    for name in
        ["evil.example", &format!("evil.example:{port}"), "localhost.evil.example", "10.1.2.3"]
    {
        for path in ["/metrics", "/guests", "/", "/readyz?verbose"] {
            assert_eq!(ask(path, name), "403", "{name} {path}");
        }
        assert_eq!(ask("/livez", name), "200", "probes come by any name");
    }
    let headers = [("host", "evil.example"), ("authorization", &*bearer(&host.token()))];
    let refused = put(host.admin, &headers, component()).await;
    assert_eq!(refused.status, 403);
    assert!(refused.text().contains("--admin-host"), "{refused:?}");
}

/// Begins an upload of a megabyte that does not go on.
fn slow_upload(host: &Host) -> TcpStream {
    let mut stream = TcpStream::connect(host.admin).unwrap();
    let token = host.token();
    let head = format!(
        "PUT /guests/default HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {token}\r\ncontent-length: 1000000\r\n\r\nfirst"
    );
    stream.write_all(head.as_bytes()).unwrap();
    stream
}

#[tokio::test]
async fn slow_uploads_keep_no_other_from_deploying() {
    let host = Host::start("counter", "memory:", &[]);
    let slow: Vec<TcpStream> = (0..20).map(|_| slow_upload(&host)).collect();
    let started = Instant::now();
    let response = tokio::time::timeout(LIMIT, host.deploy("default", component())).await;
    assert_eq!(response.expect("it waits for none").status, 200);
    // Those that are slow have not been given up yet, which takes 10 s.
    if started.elapsed() < Duration::from_secs(5) {
        let mut byte = [0];
        slow[0].set_nonblocking(true).unwrap();
        assert!((&slow[0]).read(&mut byte).is_err(), "it is still waited for");
    }
}

#[tokio::test]
async fn uploads_leave_connections_for_health_and_metrics() {
    let host = Host::start("counter", "memory:", &[]);
    // More than there may be connections.
    let slow: Vec<TcpStream> = (0..80).map(|_| slow_upload(&host)).collect();
    for path in ["/livez", "/readyz", "/metrics"] {
        let answer = tokio::time::timeout(LIMIT, get(host.admin, path)).await;
        assert_eq!(answer.expect("an answer").status, 200, "{path}");
    }
    // Those beyond the limit are told so, once their clients had time to read it.
    let mut last = slow.last().unwrap();
    last.set_read_timeout(Some(LIMIT)).unwrap();
    let mut answer = [0; 12];
    last.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"HTTP/1.1 503");
}

#[tokio::test]
async fn connections_that_do_nothing_make_room_for_others() {
    let host = Host::start("counter", "memory:", &[]);
    // Far more than may be open; some have begun a request, and some wait for an answer that is no.
    let idle: Vec<TcpStream> = (0..300)
        .map(|number| {
            let mut stream = TcpStream::connect(host.admin).unwrap();
            let begun: &[u8] = match number % 3 {
                0 => b"",
                1 => b"GET /metrics HT",
                _ => {
                    b"PUT /guests/default HTTP/1.1\r\nhost: localhost\r\ncontent-length: 9\r\n\r\n"
                }
            };
            // It may have made room already.
            let _ = stream.write_all(begun);
            stream
        })
        .collect();
    for path in ["/livez", "/readyz", "/metrics"] {
        // Sooner than idle connections are given up, which takes 10 s.
        let answer = tokio::time::timeout(Duration::from_secs(8), get(host.admin, path)).await;
        assert_eq!(answer.expect("an answer").status, 200, "{path}");
    }
    let deployed = tokio::time::timeout(LIMIT, host.deploy("default", component())).await;
    assert_eq!(deployed.expect("an answer").status, 200);
    drop(idle);
}

#[tokio::test]
async fn idle_connections_and_slow_heads_are_closed() {
    let host = Host::start("counter", "memory:", &[]);
    let begin = |bytes: &'static [u8]| {
        let mut stream = TcpStream::connect(host.admin).unwrap();
        stream.write_all(bytes).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        tokio::task::spawn_blocking(move || {
            let mut answer = String::new();
            stream.read_to_string(&mut answer).map(|_| answer)
        })
    };
    let connections = [
        begin(b""),
        begin(b"GET /livez HTTP/1.1\r\nhost: loc"),
        begin(b"GET /livez HTTP/1.1\r\nhost: localhost\r\n\r\n"),
    ];
    for connection in connections {
        connection.await.unwrap().expect("it is closed in time");
    }
}

#[tokio::test]
async fn components_that_arrive_are_bounded_in_all() {
    let host = Host::start("counter", "memory:", &[]);
    let token = host.token();
    // Four of the largest fit; each is held back by its last byte.
    let body = vec![0; 64 << 20];
    let begin = || {
        let mut stream = TcpStream::connect(host.admin).unwrap();
        let head = format!(
            "PUT /guests/default HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {token}\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
            body.len() + 1
        );
        stream.write_all(head.as_bytes()).unwrap();
        stream.write_all(&body).unwrap();
        stream
    };
    let mut held: Vec<TcpStream> = (0..4).map(|_| begin()).collect();
    let mut fifth = begin();
    fifth.write_all(b"x").unwrap();
    fifth.set_read_timeout(Some(LIMIT)).unwrap();
    let mut answer = String::new();
    fifth.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 503") && answer.contains("retry-after"), "{answer}");
    // The others were not given up for it.
    held[0].write_all(b"x").unwrap();
    held[0].set_read_timeout(Some(LIMIT)).unwrap();
    let mut answer = String::new();
    held[0].read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 422"), "{answer}");
}
