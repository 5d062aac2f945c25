//! TCP connections of guests: to whom the configuration names.

use std::{io::Write as _, net::TcpListener};

use http::Method;
use tally_testkit::Redis;

use crate::{
    client::{Client, get},
    files::Probe,
    of_each_probe,
};

of_each_probe! {
    a_guest_speaks_to_a_server_that_is_named_and_to_no_other
    a_guest_has_no_sockets_by_default_and_never_listens
    a_request_opens_no_more_sockets_than_it_may
    a_server_that_says_nothing_is_waited_for_as_long_as_the_request_may_take
    a_request_with_a_key_reaches_the_server_once
}

pub async fn a_guest_speaks_to_a_server_that_is_named_and_to_no_other(probe: Probe) {
    let redis = Redis::start().unwrap();
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    let (port, other) = (redis.port(), other.local_addr().unwrap().port());
    let incr = |server: &str, port: u16| format!("/redis?{server}:{port}=k");

    // By its address.
    let named = format!("127.0.0.1:{port}");
    let allowed = probe.serve(&["--tcp", &named, "--outgoing-private"]);
    for count in 1..=3 {
        let answer = get(allowed.address, &incr("127.0.0.1", port)).await;
        assert_eq!(answer.text(), format!(":{count}"));
    }
    for target in [incr("127.0.0.1", other), incr("[::1]", port), incr("localhost", port)] {
        let answer = get(allowed.address, &target).await;
        assert_eq!(answer.status, 500, "{target}: {answer:?}");
    }
    let log = allowed.wait_for_log("to allow a connection, add \"localhost:PORT\" to its tcp");
    assert!(log.contains(&format!("add \"127.0.0.1:{other}\" or")), "{log}");
    // Once for each.
    get(allowed.address, &incr("127.0.0.1", other)).await;
    let again = allowed.log();
    assert_eq!(again.matches("may not connect to 127.0.0.1").count(), 1, "{again}");

    // By its name, which gives the guest an address of that server and none of others.
    let named = format!("localhost:{port}");
    let allowed = probe.serve(&["--tcp", &named, "--outgoing-private"]);
    let answer = get(allowed.address, &incr("localhost", port)).await;
    assert_eq!(answer.text(), ":4");
    let found = get(allowed.address, "/lookup?localhost").await;
    assert!(found.text().contains("127.0.0.1"), "{found:?}");
    for target in [incr("localhost", other), incr("127.0.0.1", port), "/lookup?example.com".into()]
    {
        let answer = get(allowed.address, &target).await;
        assert_eq!(answer.status, 500, "{target}: {answer:?}");
    }

    // At a private address, which takes leave of its own.
    for named in [format!("localhost:{port}"), format!("127.0.0.1:{port}"), "*".into()] {
        let public = probe.serve(&["--tcp", &named]);
        for server in ["localhost", "127.0.0.1", "[::ffff:127.0.0.1]"] {
            let answer = get(public.address, &incr(server, port)).await;
            assert_eq!(answer.status, 500, "{server} with {named}: {answer:?}");
        }
        public.wait_for_log("outgoing-private");
    }
}

pub async fn a_guest_has_no_sockets_by_default_and_never_listens(probe: Probe) {
    let redis = Redis::start().unwrap();
    let none = probe.serve(&["--outgoing-private", "--outgoing-host", "*"]);
    let to_redis = format!("/redis?127.0.0.1:{}=k", redis.port());
    for target in [&to_redis, "/lookup?localhost", "/listen?127.0.0.1:0", "/udp?127.0.0.1:0"] {
        assert_eq!(get(none.address, target).await.status, 500, "{target}");
    }
    let all = probe.serve(&["--tcp", "*", "--outgoing-private"]);
    assert_eq!(get(all.address, &to_redis).await.text(), ":1");
    for target in
        ["/listen?127.0.0.1:0", "/listen?0.0.0.0:0", "/listen?0.0.0.0:1234", "/udp?0.0.0.0:0"]
    {
        let answer = get(all.address, target).await;
        assert_eq!(answer.status, 500, "{target}: {answer:?}");
    }
}

pub async fn a_request_opens_no_more_sockets_than_it_may(probe: Probe) {
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = server.local_addr().unwrap();
    let accepting = std::thread::spawn(move || {
        let mut connections = Vec::new();
        while connections.len() < 2 * 200 {
            connections.push(server.accept().unwrap());
        }
    });
    let host = probe.serve(&["--tcp", &address.to_string(), "--outgoing-private"]);
    let mut client = Client::connect(host.address).await;
    for _ in 0..2 {
        let answer = client.get(&format!("/connect?{address}=300")).await;
        assert!(answer.text().starts_with("200 connections: "), "{answer:?}");
    }
    accepting.join().unwrap();
}

pub async fn a_server_that_says_nothing_is_waited_for_as_long_as_the_request_may_take(
    probe: Probe,
) {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let server = silent.local_addr().unwrap().to_string();
    let flags = ["--tcp", &server, "--outgoing-private", "--workers", "1", "--wall-limit", "500ms"];
    let host = probe.serve(&flags);
    let target = format!("/wait?{server}");
    let (address, waiting) = (host.address, target.clone());
    let waiting = tokio::spawn(async move { get(address, &waiting).await });
    let mut others = 0;
    while !waiting.is_finished() {
        assert_eq!(get(address, "/directories").await.status, 200);
        others += 1;
    }
    assert!(others > 0, "the one worker serves others meanwhile");
    let response = waiting.await.unwrap();
    response.problem(504, "wall_limit");
    assert_eq!(response.json()["applied"], "unknown", "what it sent may have changed something");
    let (mut connection, _) = silent.accept().unwrap();
    drop(connection.write_all(b"too late"));
    let mut client = Client::connect(address).await;
    let answering = std::thread::spawn(move || {
        let (mut connection, _) = silent.accept().unwrap();
        connection.write_all(b"in time").unwrap();
    });
    assert_eq!(client.get(&target).await.text(), "in time");
    answering.join().unwrap();
}

pub async fn a_request_with_a_key_reaches_the_server_once(probe: Probe) {
    let redis = Redis::start().unwrap();
    let server = format!("127.0.0.1:{}", redis.port());
    let host = probe.serve(&["--tcp", &server, "--outgoing-private"]);
    let mut client = Client::connect(host.address).await;
    for _ in 0..3 {
        let mut request = client.request(Method::POST, &format!("/redis-and-count?{server}=k"));
        request.headers_mut().insert("idempotency-key", "once".parse().unwrap());
        assert_eq!(client.try_send(request).await.unwrap().text(), ":1");
    }
    assert_eq!(client.get(&format!("/redis?{server}=k")).await.text(), ":2");
}
