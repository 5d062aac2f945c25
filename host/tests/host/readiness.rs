//! A host tells whether requests would succeed, and waits for a store that is away when it starts.

use std::{
    fs,
    process::{Child, Stdio},
    time::{Duration, Instant},
};

use tally_testkit::{Durability, Postgres, Redis, ask, free_port, signal_process};

use crate::{
    client::{get, post},
    command_line::run,
    host::{Host, guest, tally},
};

/// Longest time to wait for anything.
const LIMIT: Duration = Duration::from_secs(60);

/// Waits until `/readyz` has a status, and `/readyz?verbose` says something.
async fn until_ready_says(host: &Host, status: u16, says: &str) {
    let started = Instant::now();
    loop {
        let ready = get(host.admin, "/readyz?verbose").await;
        if ready.status == status && ready.text().contains(says) {
            assert_eq!(get(host.admin, "/livez").await.status, 200);
            return;
        }
        assert!(started.elapsed() < LIMIT, "not {status} with {says:?} but {ready:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn a_file_that_is_removed_makes_the_host_not_ready_and_loses_no_count() {
    let host = Host::start("counter", "sqlite:tally.db", &[]);
    assert_eq!(post(host.address, "/increment").await.count(), 1);
    until_ready_says(&host, 200, "store write: ok").await;
    let (file, away) = (host.dir().join("tally.db"), host.dir().join("away.db"));
    fs::rename(&file, &away).unwrap();
    assert_eq!(post(host.address, "/increment").await.status, 503);
    until_ready_says(&host, 503, "store write: failed: the SQLite file tally.db was removed").await;
    fs::rename(&away, &file).unwrap();
    until_ready_says(&host, 200, "store: ok").await;
    assert_eq!(post(host.address, "/increment").await.count(), 2);
}

#[tokio::test]
async fn each_worker_s_own_connection_counts() {
    let server = Redis::start().unwrap();
    let host = Host::start("counter", &server.url(), &["--workers", "2"]);
    until_ready_says(&host, 200, "store worker-1: ok").await;
    let port = free_port().unwrap();
    ask(server.port(), &format!("REPLICAOF 127.0.0.1 {port}")).unwrap();
    until_ready_says(&host, 503, "store worker-0: failed: ").await;
    ask(server.port(), "REPLICAOF NO ONE").unwrap();
    until_ready_says(&host, 200, "store worker-0: ok").await;
}

/// Starts a host whose output goes to files in a folder.
fn start(dir: &std::path::Path, arguments: &[&str]) -> Child {
    let file = |name: &str| fs::File::create(dir.join(name)).unwrap();
    let mut command = tally(dir);
    command.args(["serve", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"]);
    command.args(arguments).arg(guest("counter"));
    command.stdin(Stdio::null()).stdout(file("out")).stderr(file("log")).spawn().unwrap()
}

/// Waits until a file in a folder holds a text.
fn until_file_says(dir: &std::path::Path, file: &str, says: &str) {
    let started = Instant::now();
    while !fs::read_to_string(dir.join(file)).unwrap().contains(says) {
        assert!(started.elapsed() < LIMIT, "no {says:?} in {file}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_store_that_is_away_is_waited_for() {
    let mut redis = Redis::start().unwrap();
    redis.stop().unwrap();
    let mut postgres = Postgres::start(Durability::Unsynced).unwrap();
    postgres.stop().unwrap();
    for url in [redis.url(), postgres.url()] {
        let dir = tempfile::tempdir().unwrap();
        let mut host = start(dir.path(), &["--store", &url, "--store-wait", "10m"]);
        until_file_says(dir.path(), "log", "waiting up to 600s for the store");
        match url.starts_with("redis") {
            true => redis.restart().unwrap(),
            false => postgres.restart().unwrap(),
        }
        until_file_says(dir.path(), "out", "store    ");
        let log = fs::read_to_string(dir.path().join("log")).unwrap();
        assert_eq!(log.matches("waiting up to").count(), 1, "{log}");
        signal_process(host.id(), "TERM").unwrap();
        assert!(host.wait().unwrap().success());
    }
}

#[test]
fn a_signal_ends_the_wait_and_what_waiting_cannot_mend_begins_none() {
    let port = free_port().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let url = format!("redis://127.0.0.1:{port}");
    let mut host = start(dir.path(), &["--store", &url, "--store-wait", "10m"]);
    until_file_says(dir.path(), "log", "waiting up to");
    signal_process(host.id(), "TERM").unwrap();
    assert_eq!(host.wait().unwrap().code(), Some(0));

    let redis = Redis::start_with(&["--requirepass", "right"]).unwrap();
    let cluster = Redis::start_with(&["--cluster-enabled", "yes"]).unwrap();
    let wrong = redis.url().replace("redis://", "redis://:wrong@");
    for url in [wrong, cluster.url(), "redis://h:port".into(), "sqlite:/nowhere/at/all".into()] {
        let mut host = start(dir.path(), &["--store", &url, "--store-wait", "10m"]);
        assert_eq!(host.wait().unwrap().code(), Some(1), "{url}");
        let log = fs::read_to_string(dir.path().join("log")).unwrap();
        assert!(!log.contains("waiting"), "{log}");
    }
    let mut host = start(dir.path(), &["--store", &url, "--store-wait", "1s"]);
    assert_eq!(host.wait().unwrap().code(), Some(1));
    let log = fs::read_to_string(dir.path().join("log")).unwrap();
    assert!(log.contains("waited for 1s"), "{log}");
}

#[test]
fn keys_can_be_looked_at_while_another_program_writes() {
    let dir = tempfile::tempdir().unwrap();
    let kv = |arguments: &[&str]| {
        let output = run(dir.path(), &[&["kv", "--store", "sqlite:kv.db"], arguments].concat());
        (output.status.success(), String::from_utf8(output.stdout).unwrap())
    };
    assert_eq!(kv(&["incr", "a"]), (true, "1\n".into()));
    let other = rusqlite::Connection::open(dir.path().join("kv.db")).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    assert_eq!(kv(&["get", "a"]), (true, "1".into()));
    assert_eq!(kv(&["list"]), (true, "a\n".into()));
    assert!(!kv(&["incr", "a"]).0, "that writes");
    let read = run(dir.path(), &["kv", "--store", "sqlite:no.db?mode=ro", "get", "a"]);
    assert_eq!(read.status.code(), Some(1), "{read:?}");
    assert!(!dir.path().join("no.db?mode=ro").exists() && !dir.path().join("no.db").exists());
}
