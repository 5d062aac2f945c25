//! Where the host listens: addresses in all forms, several at once, and sockets in the file system.

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    os::unix::{
        fs::{FileTypeExt as _, PermissionsExt as _},
        net::{UnixListener, UnixStream},
    },
    path::Path,
    process::Stdio,
};

use crate::{
    client::{get, post},
    command_line::{fails, fails_to_serve},
    host::{Host, guest, tally},
};

/// Where a host says that it serves.
fn places(host: &Host) -> Vec<String> {
    let lines = host.banner.lines().filter_map(|line| line.strip_prefix("serving  "));
    lines.map(|line| line.split_whitespace().next().unwrap().to_owned()).collect()
}

/// The addresses of those that speak HTTP at one.
fn addresses(host: &Host) -> Vec<SocketAddr> {
    let places = places(host);
    let http = places.iter().filter_map(|place| place.strip_prefix("http://"));
    http.map(|address| address.parse().unwrap()).collect()
}

/// Increments over a socket in the file system; gives the response.
fn increment(path: &Path) -> String {
    let mut stream = UnixStream::connect(path).unwrap();
    stream.write_all(b"POST /increment HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n").unwrap();
    let mut response = String::new();
    stream.read_to_string(&mut response).unwrap();
    response
}

#[tokio::test]
async fn each_of_several_listeners_reaches_all_workers() {
    let host = Host::start(
        "counter",
        "memory:",
        &["--workers", "3", "--listen", "[::1]:0,127.0.0.1:0", "--listen", "unix:tally.sock"],
    );
    let addresses = addresses(&host);
    assert_eq!(addresses.len(), 3, "{}", host.banner);
    assert!(addresses.iter().any(SocketAddr::is_ipv6), "{addresses:?}");
    let mut count = 0;
    for address in addresses {
        // As many as reach each worker's own listener.
        for _ in 0..16 {
            count += 1;
            assert_eq!(post(address, "/increment").await.count(), count);
        }
    }
    let socket = host.dir().join("tally.sock");
    for _ in 0..16 {
        count += 1;
        let response = increment(&socket);
        assert!(response.starts_with("HTTP/1.1 200"), "{response}");
        assert!(response.ends_with(&format!("{{\"count\":{count}}}")), "{response}");
    }
}

#[tokio::test]
async fn every_address_of_the_machine_and_of_a_name() {
    // No port is known to be free on all addresses, so the system chooses.
    let host = Host::start_with("counter", |command| {
        command.args(["--store", "memory:", "--listen", ":0"]);
    });
    let every = addresses(&host)[1];
    for ip in ["127.0.0.1", "::1"] {
        let address = SocketAddr::new(ip.parse().unwrap(), every.port());
        assert_eq!(get(address, "/report").await.status, 200, "{ip}");
    }
    let host = Host::start("counter", "memory:", &["--listen", "localhost:0"]);
    for address in addresses(&host) {
        assert!(address.ip().is_loopback(), "{}", host.banner);
        assert_eq!(get(address, "/report").await.status, 200);
    }
}

#[tokio::test]
async fn the_admin_listener_takes_names_and_every_address() {
    for (address, ip) in [("localhost:0", "127.0.0.1"), (":0", "::1")] {
        let dir = tempfile::tempdir().unwrap();
        let mut command = tally(dir.path());
        command.args(["serve", "--store", "memory:", "--listen", "127.0.0.1:0"]);
        command.args(["--admin", address]).arg(guest("counter"));
        command.env("TALLY_ADMIN_TOKEN", "0123456789abcdef");
        let mut host = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(host.stdout.take().unwrap()).lines();
        let line =
            lines.find_map(|line| Some(line.unwrap().strip_prefix("admin    http://")?.to_owned()));
        let line = line.unwrap_or_else(|| panic!("{address}: it does not serve"));
        let admin: SocketAddr = line.split_whitespace().next().unwrap().parse().unwrap();
        let admin = SocketAddr::new(ip.parse().unwrap(), admin.port());
        assert_eq!(get(admin, "/livez").await.status, 200, "{address}");
        host.kill().unwrap();
        host.wait().unwrap();
    }
}

#[test]
fn lists_can_come_from_the_environment_and_the_file() {
    let host = Host::start_with("counter", |command| {
        command.args(["--store", "memory:"]).env("TALLY_LISTEN", "127.0.0.1:0,unix:no.sock");
    });
    assert_eq!(places(&host).len(), 1, "a flag wins over the environment: {}", host.banner);

    let dir = tempfile::tempdir().unwrap();
    let written = |config: &str| {
        fs::write(dir.path().join("tally.toml"), config).unwrap();
        let output = crate::command_line::run(dir.path(), &["config"]);
        String::from_utf8([output.stdout, output.stderr].concat()).unwrap()
    };
    let shown = written("listen = [\":3000\", \"unix:/run/t.sock\"]\nsocket-mode = \"0666\"\n");
    assert!(shown.contains("listen = [\":3000\", \"unix:/run/t.sock\"]"), "{shown}");
    assert!(shown.contains("socket-mode = \"0666\""), "{shown}");
    assert_eq!(written(&shown), shown, "it can be read back");
    assert!(written("listen = \":3000\"").contains("listen = \":3000\""));
    let mut command = tally(dir.path());
    let output = command.arg("config").env("TALLY_LISTEN", ":3000,unix:/x").output().unwrap();
    let shown = String::from_utf8(output.stdout).unwrap();
    assert!(shown.contains("listen = [\":3000\", \"unix:/x\"]"), "{shown}");
    let error = written("listen = [\":3000\", \"3001\"]");
    assert!(error.contains("'3001' is no address") && error.contains("unix:/path"), "{error}");
    let error = written("listen = [\":3000\", \":3000\"]");
    assert!(error.contains(":3000 is given twice"), "{error}");
    let error = written("admin = \"unix:/run/t.sock\"");
    assert!(error.contains("admin: an address with a port"), "{error}");
}

#[test]
fn a_socket_that_was_left_behind_is_replaced_and_one_in_use_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("tally.sock");
    let address = format!("unix:{}", path.display());
    // Left behind by a server that was killed.
    drop(UnixListener::bind(&path).unwrap());
    assert!(path.exists());
    let mut host = Host::start("counter", "memory:", &["--listen", &address]);
    assert!(increment(&path).ends_with("{\"count\":1}"));
    let mode = |path: &Path| fs::symlink_metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&path), 0o660);

    let counter = guest("counter");
    let arguments = ["--store", "memory:", "--listen", &address, counter.to_str().unwrap()];
    let error = fails_to_serve(dir.path(), &arguments);
    assert!(error.contains(&address) && error.contains("another program does"), "{error}");
    assert!(increment(&path).ends_with("{\"count\":2}"), "the first one still has it");
    host.signal("TERM");
    assert!(host.wait().success());
    assert!(!path.exists(), "a host that stops takes its socket with it");

    let flags = ["--listen", &address, "--socket-mode", "0600"];
    let host = Host::start("counter", "memory:", &flags);
    assert_eq!(mode(&path), 0o600);
    // Another program's by now, which stays.
    fs::remove_file(&path).unwrap();
    let others = UnixListener::bind(&path).unwrap();
    drop(host);
    assert!(fs::symlink_metadata(&path).unwrap().file_type().is_socket());
    drop(others);

    fs::remove_file(&path).unwrap();
    fs::write(&path, "a file of somebody's").unwrap();
    let error = fails_to_serve(dir.path(), &arguments);
    assert!(error.contains("no socket"), "{error}");
    assert_eq!(fs::read_to_string(&path).unwrap(), "a file of somebody's");
    let nowhere = ["--store", "memory:", "--listen", "unix:/no/such/folder/s", arguments[4]];
    let error = fails_to_serve(dir.path(), &nowhere);
    assert!(error.contains("unix:/no/such/folder/s"), "{error}");
}

#[test]
fn a_wrong_address_is_told_the_forms() {
    let dir = tempfile::tempdir().unwrap();
    let output = crate::command_line::run(dir.path(), &["config", "--listen", "3000"]);
    assert_eq!(output.status.code(), Some(2));
    let error = String::from_utf8(output.stderr).unwrap();
    for form in ["127.0.0.1:3000", "[::1]:3000", ":3000 for all", "localhost:3000", "unix:/path"] {
        assert!(error.contains(form), "{form}: {error}");
    }
    let counter = guest("counter");
    let name = ["serve", "--listen", "no-such-name.invalid:0", counter.to_str().unwrap()];
    let error = fails(dir.path(), &name);
    assert!(error.contains("no-such-name.invalid:0") && error.contains("--listen"), "{error}");
}

/// As when it is a proxy's: the connection that is open and the one that waits get their responses.
#[test]
fn a_stop_answers_who_came_through_the_file_system() {
    let mut host = Host::start("counter", "memory:", &["--listen", "unix:tally.sock"]);
    let path = host.dir().join("tally.sock");
    let mut open = UnixStream::connect(&path).unwrap();
    host.signal("TERM");
    while path.exists() {
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    open.write_all(b"POST /increment HTTP/1.1\r\nhost: h\r\n\r\n").unwrap();
    let mut response = String::new();
    open.read_to_string(&mut response).unwrap();
    assert!(response.starts_with("HTTP/1.1 200"), "{response}");
    assert!(response.ends_with("{\"count\":1}"), "{response}");
    assert!(host.wait().success());
    assert!(TcpStream::connect(host.address).is_err());
}
