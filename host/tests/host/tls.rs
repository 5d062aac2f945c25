//! TLS towards clients: versions, names, certificates that change, and clients that misbehave.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
};
use tally_testkit::{Authority, Identity};

use crate::{
    client::{Client, get, raw, until_metrics_say},
    command_line::{fails_to_serve, run},
    host::{Host, guest},
};

/// Longest time to wait for anything.
const LIMIT: Duration = Duration::from_secs(60);

/// A client's TLS: whom it trusts, which versions of HTTP it offers, and what it shows.
fn config(authority: &Authority, alpn: &[&str], identity: Option<&Identity>) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(authority.certificate()).unwrap()).unwrap();
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    let mut config = match identity {
        None => builder.with_no_client_auth(),
        Some(Identity { certificate, key }) => {
            let chain = vec![CertificateDer::from_pem_file(certificate).unwrap()];
            let key = PrivateKeyDer::from_pem_file(key).unwrap();
            builder.with_client_auth_cert(chain, key).unwrap()
        }
    };
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    Arc::new(config)
}

/// The flags for certificates.
fn identities(identities: &[&Identity]) -> Vec<String> {
    let path = |path: &Path| path.display().to_string();
    let flags = identities.iter().flat_map(|identity| {
        let (certificate, key) = (path(&identity.certificate), path(&identity.key));
        ["--tls-certificate".into(), certificate, "--tls-key".into(), key]
    });
    flags.collect()
}

/// Serves the counter over TLS, beside its plain listener; gives where.
fn serve(identity: &[&Identity], flags: &[&str]) -> (Host, SocketAddr) {
    let host = Host::start_with("counter", |command| {
        command.args(["--store", "memory:", "--tls-listen", "127.0.0.1:0"]);
        command.args(identities(identity)).args(flags);
    });
    let tls = place(&host, "serving  https://");
    (host, tls)
}

/// The address in the line of the banner that begins so.
fn place(host: &Host, begins: &str) -> SocketAddr {
    let line = host.banner.lines().find_map(|line| line.strip_prefix(begins));
    let line = line.unwrap_or_else(|| panic!("no {begins}: {}", host.banner));
    line.split_whitespace().next().unwrap().parse().unwrap()
}

fn certificate(identity: &Identity) -> CertificateDer<'static> {
    CertificateDer::from_pem_file(&identity.certificate).unwrap()
}

#[tokio::test]
async fn both_versions_of_http_are_served_over_tls() {
    let authority = Authority::new().unwrap();
    let (host, tls) = serve(&[&authority.sign(&["localhost"]).unwrap()], &["--workers", "3"]);
    let mut count = 0;
    for (alpn, is_http2) in [
        (["h2", "http/1.1"].as_slice(), true),
        (&["http/1.1"], false),
        // What knows no ALPN speaks HTTP/1.1.
        (&[], false),
    ] {
        let config = config(&authority, alpn, None);
        for _ in 0..8 {
            let connected = Client::connect_tls(tls, Arc::clone(&config), "localhost").await;
            let (mut client, _) = connected.unwrap();
            assert_eq!(client.is_http2(), is_http2, "{alpn:?}");
            for _ in 0..2 {
                count += 1;
                assert_eq!(client.post("/increment").await.count(), count);
            }
        }
    }
    let none = config(&authority, &["smtp"], None);
    assert!(Client::connect_tls(tls, none, "localhost").await.is_err(), "no version in common");
    assert_eq!(get(host.address, "/report").await.count(), count, "and without beside it");
    let answer = raw(tls, b"GET /report HTTP/1.1\r\nhost: h\r\n\r\n");
    assert!(!answer.contains("HTTP/1.1 200"), "what is not TLS is not served: {answer}");
    assert_eq!(get(host.address, "/report").await.status, 200);
}

#[tokio::test]
async fn a_large_body_goes_both_ways_over_tls() {
    let authority = Authority::new().unwrap();
    let identity = authority.sign(&["localhost"]).unwrap();
    let host = Host::start_with("probe-http", |command| {
        command.args(["--store", "memory:", "--tls-listen", "127.0.0.1:0"]);
        command.args(identities(&[&identity]));
    });
    let tls = place(&host, "serving  https://");
    for alpn in ["h2", "http/1.1"] {
        let config = config(&authority, &[alpn], None);
        let (mut client, _) = Client::connect_tls(tls, config, "localhost").await.unwrap();
        let body = bytes::Bytes::from(vec![b'x'; 900_000]);
        let mut request = client.request(http::Method::POST, "/echo");
        *request.body_mut() = body.clone().into();
        let response = client.try_send(request).await.unwrap();
        assert_eq!((response.status.as_u16(), response.body.len()), (200, body.len()), "{alpn}");
        assert_eq!(client.get("/stream?2000").await.body.len(), 2_000_000, "{alpn}");
    }
}

#[tokio::test]
async fn a_client_gets_the_certificate_for_the_name_it_asks_for() {
    let authority = Authority::new().unwrap();
    let sign = |names: &[&str]| authority.sign(names).unwrap();
    let (first, exact, any) =
        (sign(&["first.example"]), sign(&["a.b.example"]), sign(&["*.b.example", "other.example"]));
    let (_host, tls) = serve(&[&first, &exact, &any], &[]);
    let config = config(&authority, &["h2"], None);
    for (name, expected) in [
        ("first.example", &first),
        ("a.b.example", &exact),
        ("A.B.example", &exact),
        ("c.b.example", &any),
        ("other.example", &any),
    ] {
        let connected = Client::connect_tls(tls, Arc::clone(&config), name).await;
        let (mut client, shown) = connected.unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(shown, certificate(expected), "{name}");
        assert_eq!(client.get("/report").await.status, 200);
    }
    // Another name, and one below the asterisk's, get the first, which the client does not take.
    for name in ["unknown.example", "d.c.b.example", "127.0.0.1"] {
        let error = Client::connect_tls(tls, Arc::clone(&config), name).await.err().unwrap();
        assert!(error.to_string().contains("first.example"), "{name}: {error}");
    }
}

#[tokio::test]
async fn certificates_are_exchanged_without_a_lost_request() {
    let authority = Authority::new().unwrap();
    let names = ["localhost"];
    let identity = authority.sign(&names).unwrap();
    let before = certificate(&identity);
    let (host, tls) = serve(&[&identity], &["--workers", "2"]);
    let client_config = config(&authority, &["http/1.1"], None);
    let connect = || async {
        Client::connect_tls(tls, Arc::clone(&client_config), "localhost").await.unwrap()
    };
    let (mut old, shown) = connect().await;
    assert_eq!(shown, before);

    // Others come and go all the while.
    let (done, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let coming: Vec<_> = (0..4)
        .map(|_| {
            let (done, answered) = (Arc::clone(&done), Arc::clone(&answered));
            let client_config = config(&authority, &["h2"], None);
            tokio::spawn(async move {
                while !done.load(Ordering::Relaxed) {
                    let config = Arc::clone(&client_config);
                    let (mut client, _) =
                        Client::connect_tls(tls, config, "localhost").await.unwrap();
                    assert_eq!(client.post("/increment").await.status, 200);
                    answered.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();

    authority.sign(&names).unwrap();
    host.signal("HUP");
    host.wait_for_log("SIGHUP: certificates are read again");
    let second = certificate(&identity);
    assert!(second != before && connect().await.1 == second);

    // Without a signal.
    let changes = host.log().matches("certificates have changed, and are in use").count();
    authority.sign(&names).unwrap();
    let third = certificate(&identity);
    let waiting = async {
        while host.log().matches("certificates have changed, and are in use").count() == changes
            || connect().await.1 != third
        {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(LIMIT, waiting).await.expect("the changed files are in use");

    // What cannot be used is not.
    fs::write(&identity.key, "half a fi").unwrap();
    host.wait_for_log("those before stay in use: tls-key: ");
    host.signal("HUP");
    host.wait_for_log("SIGHUP: the certificates before stay in use: tls-key: ");
    assert_eq!(connect().await.1, third);

    done.store(true, Ordering::Relaxed);
    for client in coming {
        client.await.unwrap();
    }
    let answered = answered.load(Ordering::Relaxed);
    assert!(answered > 0);
    let count = i64::try_from(answered).unwrap();
    assert_eq!(old.get("/report").await.count(), count, "the first connection is open still");
}

#[tokio::test]
async fn a_client_that_does_not_finish_its_handshake_is_given_up() {
    let authority = Authority::new().unwrap();
    let identity = authority.sign(&["localhost"]).unwrap();
    let (_host, tls) = serve(&[&identity], &["--tls-handshake-timeout", "200ms"]);
    // Nothing at all, and the beginning of a handshake.
    for bytes in [b"".as_slice(), b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"] {
        let mut stream = TcpStream::connect(tls).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        stream.write_all(bytes).unwrap();
        let mut answer = Vec::new();
        // Ends by itself, in order or not.
        if let Err(error) = stream.read_to_end(&mut answer) {
            assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{bytes:?}");
        }
    }
}

/// Whether the host has closed a connection on which it sends nothing.
fn is_closed(mut stream: &TcpStream) -> bool {
    stream.set_nonblocking(true).unwrap();
    match stream.read(&mut [0]) {
        Ok(read) => read == 0,
        Err(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
    }
}

#[tokio::test]
async fn handshakes_that_do_not_end_make_room_for_others() {
    let authority = Authority::new().unwrap();
    let identity = authority.sign(&["localhost"]).unwrap();
    let flags = ["--max-connections", "3", "--tls-handshake-timeout", "1h", "--workers", "2"];
    let (mut host, tls) = serve(&[&identity], &flags);
    // Nothing at all, and the beginning of a handshake.
    let begun = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03";
    let mut silent: Vec<TcpStream> = [b"".as_slice(), begun, b""]
        .map(|bytes| {
            let mut stream = TcpStream::connect(tls).unwrap();
            stream.write_all(bytes).unwrap();
            stream
        })
        .into();
    until_metrics_say(host.admin, "tally_connections 3").await;
    let config = config(&authority, &["h2"], None);
    let mut kept = Vec::new();
    for left in (0..3).rev() {
        let report = async {
            let client = Client::connect_tls(tls, Arc::clone(&config), "localhost").await;
            let (mut client, _) = client.expect("there is room");
            (client.get("/report").await.status, client)
        };
        let (status, client) = tokio::time::timeout(LIMIT, report).await.expect("an answer");
        assert_eq!(status, 200);
        // It keeps its place, so that the next one needs another.
        silent.retain(|stream| !is_closed(stream));
        assert_eq!(silent.len(), left);
        kept.push(client);
    }
    until_metrics_say(host.admin, "tally_connections_closed_for_others_total 3").await;
    drop(kept);
    // And one does not hold up the end.
    let _silent = TcpStream::connect(tls).unwrap();
    until_metrics_say(host.admin, "tally_connections 1").await;
    host.signal("TERM");
    assert!(host.wait().success(), "{}", host.log());
}

#[tokio::test]
async fn a_client_shows_a_certificate_where_that_is_asked_for() {
    let (authority, clients, others) =
        (Authority::new().unwrap(), Authority::new().unwrap(), Authority::new().unwrap());
    let identity = authority.sign(&["localhost"]).unwrap();
    let ca = clients.certificate();
    let (_host, tls) = serve(&[&identity], &["--tls-client-ca", ca.to_str().unwrap()]);
    let (right, wrong) = (clients.sign(&[]).unwrap(), others.sign(&[]).unwrap());
    for alpn in ["h2", "http/1.1"] {
        for (identity, is_let_in) in [(Some(&right), true), (Some(&wrong), false), (None, false)] {
            let config = config(&authority, &[alpn], identity);
            let report = async {
                // In TLS 1.3 the client is done before it hears that it is refused.
                let (mut client, _) = Client::connect_tls(tls, config, "localhost").await.ok()?;
                let request = client.request(http::Method::GET, "/report");
                client.try_send(request).await.ok()
            };
            let report = tokio::time::timeout(LIMIT, report).await.unwrap();
            assert_eq!(report.is_some(), is_let_in, "{alpn} {identity:?}");
        }
    }
}

#[tokio::test]
async fn a_stop_answers_requests_over_tls_and_says_goodbye() {
    let authority = Authority::new().unwrap();
    let (mut host, tls) = serve(&[&authority.sign(&["localhost"]).unwrap()], &[]);
    let config = config(&authority, &["http/1.1"], None);
    let (mut client, _) = Client::connect_tls(tls, config, "localhost").await.unwrap();
    assert_eq!(client.post("/increment").await.count(), 1);
    host.signal("TERM");
    host.wait_for_log("stopping");
    let until_last = async {
        // The connection may hear of the stop after the log.
        for count in 2.. {
            let response = client.post("/increment").await;
            assert_eq!(response.count(), count);
            if response.headers.get("connection").is_some_and(|value| value == "close") {
                return;
            }
        }
    };
    tokio::time::timeout(LIMIT, until_last).await.expect("a last response");
    assert!(host.wait().success(), "{}", host.log());
}

#[tokio::test]
async fn a_listener_can_send_clients_to_the_one_with_tls() {
    let authority = Authority::new().unwrap();
    let identity = authority.sign(&["localhost"]).unwrap();
    for to in [None, Some("443")] {
        let mut flags = vec!["--redirect-listen", "127.0.0.1:0"];
        flags.extend(to.iter().flat_map(|port| ["--redirect-to", port]));
        let (host, tls) = serve(&[&identity], &flags);
        let line = host.banner.lines().find(|line| line.contains("sends clients")).unwrap();
        let redirect = line.strip_prefix("serving  http://").unwrap();
        let redirect = redirect.split_whitespace().next().unwrap().parse().unwrap();
        let port = if to.is_some() { String::new() } else { format!(":{}", tls.port()) };
        let location = format!("https://127.0.0.1{port}/increment?by=2");
        for mut client in [Client::connect(redirect).await, Client::connect_http2(redirect).await] {
            let response = client.post("/increment?by=2").await;
            assert_eq!(response.status, 308);
            assert_eq!(response.headers["location"], location.as_str());
        }
        let answer = raw(redirect, b"GET / HTTP/1.0\r\n\r\n");
        assert!(answer.starts_with("HTTP/1.0 400"), "{answer}");
        assert_eq!(get(host.address, "/report").await.count(), 0, "nothing is served there");
    }
}

#[test]
fn what_is_wrong_with_tls_is_said_at_the_start() {
    let authority = Authority::new().unwrap();
    let (one, two) = (authority.sign(&["one"]).unwrap(), authority.sign(&["two"]).unwrap());
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| fs::write(dir.path().join(name), text).unwrap();
    write("empty.pem", "");
    write("broken.pem", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
    write("cut.pem", "-----BEGIN CERTIFICATE-----\nAAAA\n");
    write(
        "secret.key",
        "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n",
    );
    let path = |path: &Path| path.display().to_string();
    let (cert, key, other) = (path(&one.certificate), path(&one.key), path(&two.key));
    let counter = guest("counter");
    let counter = counter.to_str().unwrap();
    let with = |certificate: &str, key: &str, more: &[&str]| {
        let mut arguments = vec!["--store", "memory:", "--tls-listen", "127.0.0.1:0"];
        arguments.extend(["--tls-certificate", certificate, "--tls-key", key]);
        arguments.extend(more);
        arguments.push(counter);
        fails_to_serve(dir.path(), &arguments)
    };
    for (certificate, key, parts) in [
        ("missing.pem", key.as_str(), ["tls-certificate: missing.pem", "No such file"]),
        ("empty.pem", &key, ["tls-certificate: empty.pem", "no certificate"]),
        ("broken.pem", &key, ["tls-certificate: broken.pem", "cannot be read"]),
        ("cut.pem", &key, ["tls-certificate: cut.pem", "no PEM"]),
        (&key, &cert, ["tls-certificate: ", "were the files exchanged?"]),
        (&cert, "missing.key", ["tls-key: missing.key", "No such file"]),
        (&cert, "empty.pem", ["tls-key: empty.pem", "no private key"]),
        (&cert, "secret.key", ["tls-key: secret.key", "encrypted"]),
        (&cert, &other, [&format!("tls-key: {other}"), "not the key of the first certificate"]),
    ] {
        let error = with(certificate, key, &[]);
        for part in parts {
            assert!(error.contains(part), "{part}: {error}");
        }
    }
    let error = with(&cert, &key, &["--tls-client-ca", "empty.pem"]);
    assert!(error.contains("tls-client-ca: empty.pem"), "{error}");
    let error = with(&cert, &key, &["--tls-listen", "unix:t.sock", "--tls-key", &other]);
    assert!(error.contains("each certificate has its key"), "{error}");

    for (arguments, part) in [
        (["--tls-listen", ":443"].as_slice(), "--tls-certificate FILE"),
        (&["--tls-certificate", "a", "--tls-key", "b"], "--tls-listen ADDRESS"),
        (&["--tls-client-ca", "a"], "--tls-listen ADDRESS"),
        (&["--redirect-listen", ":80"], "--redirect-to"),
    ] {
        let output = run(dir.path(), &[&["config"], arguments].concat());
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(error.contains(part), "{part}: {error}");
    }
    let alone = ["config", "--tls-listen", ":443", "--tls-certificate", "a", "--tls-key", "b"];
    let shown = String::from_utf8(run(dir.path(), &alone).stdout).unwrap();
    assert!(shown.contains("tls-listen = \":443\""), "{shown}");
    assert!(!shown.lines().any(|line| line.starts_with("listen")), "TLS alone: {shown}");
}

#[test]
fn a_certificate_outside_its_time_is_warned_of() {
    let authority = Authority::new().unwrap();
    let expired = authority.sign_until(&["localhost"], 2020).unwrap();
    let (host, _) = serve(&[&expired], &[]);
    let warning = format!("the certificate in {} expired", expired.certificate.display());
    assert!(host.log().contains(&warning), "{}", host.log());
}
