//! What proxies say of their clients, and who is believed.

use std::{
    io::{Read as _, Write as _},
    os::unix::net::UnixStream,
    process::Command,
    time::Duration,
};

use crate::{
    client::{Client, raw},
    host::{Host, tally},
};

fn host(flags: &[&str]) -> Host {
    Host::start("probe-http", "memory:", flags)
}

/// What a guest sees of a field, of a request that claims to come from 192.0.2.7.
async fn seen(host: &Host, field: &str) -> String {
    let mut client = Client::connect(host.address).await;
    let mut request = client.request(http::Method::GET, &format!("/header?{field}"));
    for (name, value) in [
        ("x-forwarded-for", "1.1.1.1, 192.0.2.7"),
        ("x-forwarded-proto", "https"),
        ("x-forwarded-host", "shop.example"),
        ("forwarded", "for=\"[2001:db8::7]\";proto=https"),
        ("x-real-ip", "1.1.1.1"),
    ] {
        request.headers_mut().insert(name, value.parse().unwrap());
    }
    client.try_send(request).await.unwrap().text().to_owned()
}

#[tokio::test]
async fn by_default_nobody_is_believed() {
    for flags in [&[][..], &["--trusted-proxy", "10.0.0.0/8"]] {
        let host = host(flags);
        assert_eq!(seen(&host, "x-forwarded-for").await, "127.0.0.1");
        assert_eq!(seen(&host, "forwarded").await, "for=127.0.0.1;proto=http");
        for field in ["x-forwarded-proto", "x-forwarded-host", "x-real-ip"] {
            assert_eq!(seen(&host, field).await, "(none)", "{field}");
        }
    }
}

#[tokio::test]
async fn a_trusted_proxy_says_who_its_client_is() {
    let host = host(&["--trusted-proxy", "10.0.0.0/8", "--trusted-proxy", "127.0.0.1"]);
    assert_eq!(seen(&host, "x-forwarded-for").await, "192.0.2.7");
    assert_eq!(seen(&host, "x-forwarded-proto").await, "https");
    assert_eq!(seen(&host, "x-forwarded-host").await, "shop.example");
    let forwarded = "for=192.0.2.7;proto=https;host=\"shop.example\"";
    assert_eq!(seen(&host, "forwarded").await, forwarded);
    assert_eq!(seen(&host, "x-real-ip").await, "(none)");
}

#[tokio::test]
async fn the_standard_field_is_believed_in_its_place() {
    let host = Host::start_with("probe-http", |command: &mut Command| {
        command.args(["--store", "memory:"]);
        command.env("TALLY_TRUSTED_PROXIES", "10.0.0.1,127.0.0.0/8");
        command.env("TALLY_TRUSTED_PROXY_HEADER", "forwarded");
    });
    assert_eq!(seen(&host, "x-forwarded-for").await, "2001:db8::7");
    assert_eq!(seen(&host, "forwarded").await, "for=\"[2001:db8::7]\";proto=https");
    assert_eq!(seen(&host, "x-forwarded-host").await, "(none)");
}

const REQUEST: &str =
    "GET /header?x-forwarded-for HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";

#[test]
fn the_proxy_protocol_is_read_of_trusted_proxies() {
    let flags = ["--trusted-proxy", "127.0.0.1", "--proxy-protocol", "--head-timeout", "500ms"];
    let host = host(&flags);
    let version_2 = [
        b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c".as_slice(),
        &[192, 0, 2, 2, 127, 0, 0, 1, 0, 1, 0, 2],
    ];
    let local = [b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0".as_slice(), b""];
    for (header, client) in [
        (b"PROXY TCP4 192.0.2.1 127.0.0.1 1 2\r\n".to_vec(), "192.0.2.1"),
        (b"PROXY TCP6 2001:db8::1 ::1 1 2\r\n".to_vec(), "2001:db8::1"),
        (version_2.concat(), "192.0.2.2"),
        (local.concat(), "127.0.0.1"),
        (b"PROXY UNKNOWN\r\n".to_vec(), "127.0.0.1"),
    ] {
        let answer = raw(host.address, &[header, REQUEST.into()].concat());
        assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with(client), "{answer}");
    }
    // Without it, or with half of it, nothing is said: who knows what would be read.
    for bytes in [REQUEST, "PROXY TCP4 1\r\n", "PROXY TCP4 192.0.2.1"] {
        assert_eq!(raw(host.address, bytes.as_bytes()), "");
    }
}

#[test]
fn the_proxy_protocol_of_others_is_not_http() {
    let flags = ["--trusted-proxy", "10.0.0.1", "--proxy-protocol"];
    for flags in [flags.as_slice(), &[]] {
        let host = host(flags);
        let answer = raw(host.address, REQUEST.as_bytes());
        assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("127.0.0.1"), "{answer}");
        let header = "PROXY TCP4 192.0.2.1 127.0.0.1 1 2\r\n";
        let answer = raw(host.address, [header, REQUEST].concat().as_bytes());
        assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
    }
}

#[test]
fn what_cannot_be_a_proxy_is_refused_at_the_start() {
    let dir = tempfile::tempdir().unwrap();
    for (flags, hint) in [
        (&["--trusted-proxy", "proxy.example"][..], "10.0.0.0/8"),
        (&["--proxy-protocol"], "trusted-proxy"),
        (&["--trusted-proxy-header", "x-real-ip"], "x-forwarded"),
    ] {
        let mut command = tally(dir.path());
        let output = command.arg("serve").args(flags).arg("none.wasm").output().unwrap();
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success() && error.contains(hint), "{flags:?}: {error}");
    }
}

/// Proxies at Unix sockets have no address to be known by.
#[test]
fn a_proxy_at_a_unix_socket_is_believed_where_that_is_asked_for() {
    let ask = |flags: &[&str], first: &str| {
        let flags = [&["--listen", "unix:tally.sock"], flags].concat();
        let host = host(&flags);
        let mut stream = UnixStream::connect(host.dir().join("tally.sock")).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let request = format!(
            "{first}GET /header?x-forwarded-for HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\
            x-forwarded-for: 1.1.1.1, 192.0.2.7\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).unwrap();
        let mut response = String::new();
        stream.read_to_string(&mut response).unwrap();
        response.rsplit("\r\n\r\n").next().unwrap().to_owned()
    };
    let trusts = ["--trusted-proxy", "unix"];
    assert_eq!(ask(&[], ""), "(none)");
    assert_eq!(ask(&["--trusted-proxy", "0.0.0.0/0"], ""), "(none)");
    assert_eq!(ask(&trusts, ""), "192.0.2.7");
    let protocol = [&trusts[..], &["--proxy-protocol"]].concat();
    let line = "PROXY TCP4 192.0.2.9 10.0.0.1 4711 80\r\n";
    assert_eq!(ask(&protocol, line), "192.0.2.9", "the client that it names is no proxy");
}
