//! Redis as a cluster, as a replica, with a user of few rights, full, or with errors of any bytes.

use tally_state::{Error, Metrics, Options, Scope, State};
use tally_testkit::{Redis, ask, free_port};

use crate::{BUCKET, bucket, increment, not_applied, open, patient, refuses, run, until_health};

#[test]
fn a_cluster_and_a_replica_are_refused_with_what_to_do() {
    let cluster = Redis::start_with(&["--cluster-enabled", "yes"]).unwrap();
    let port = free_port().unwrap().to_string();
    let replica = Redis::start_with(&["--replicaof", "127.0.0.1", &port]).unwrap();
    run(async {
        refuses(&cluster.url(), &["Redis Cluster", "name a server by itself"]).await;
        refuses(&replica.url(), &["it is a replica", "name the master"]).await;
        // Also where it does not say what it is.
        for (server, says) in [(&cluster, "Redis Cluster"), (&replica, "it is a replica")] {
            ask(server.port(), "ACL SETUSER quiet on >pw ~* +@all -info").unwrap();
            let url = server.url().replace("redis://", "redis://quiet:pw@");
            refuses(&url, &[says]).await;
        }
        let options = Options { read_only: true, ..patient() };
        let look = State::open(&replica.url(), options, Metrics::default()).await.unwrap();
        assert_eq!(look.worker().get(&bucket(), "key").await, Ok(None), "it may be looked at");
    });
}

/// The rights that `docs/stores.md` asks for.
fn documented() -> String {
    let page = include_str!("../../../../docs/stores.md");
    let line = page.lines().find(|line| line.starts_with("ACL SETUSER tally ")).unwrap();
    line.replace("BUCKET", BUCKET).replace("PASSWORD", "pw")
}

#[test]
fn missing_rights_are_named_and_the_documented_ones_are_enough() {
    let server = Redis::start().unwrap();
    let url = server.url().replace("redis://", "redis://tally:pw@");
    let tell = |command: &str| {
        let answer = ask(server.port(), command).unwrap();
        assert_eq!(answer, "+OK\r\n", "{command}");
    };
    run(async {
        tell(&documented());
        tell("ACL SETUSER tally -incrby -scan -evalsha");
        refuses(&url, &["refuses INCRBY, SCAN, EVALSHA", "+incrby +scan +evalsha"]).await;
        tell(&documented());
        tell("ACL SETUSER tally resetkeys ~health:*");
        refuses(&url, &["~tally.*"]).await;
        tell(&documented());
        let buckets = vec![bucket(), tally_state::Bucket::new("other").unwrap()];
        let options = Options { buckets, ..patient() };
        let opened = State::open(&url, options, Metrics::default()).await;
        let error = opened.err().expect("it may not write one of the buckets").to_string();
        assert!(error.contains("~other:*"), "{error}");
        let state = open(&url).await;
        let (handle, bucket) = (state.worker(), bucket());
        assert_eq!(increment(&handle).await, Ok(1));
        assert_eq!(
            handle.scoped(&Scope::new([1; 16], [1; 16])).increment(&bucket, "key", 1).await,
            Ok(2)
        );
        assert_eq!(handle.list(&bucket, "", None).await.unwrap().keys, ["key"]);
        handle.swap(&bucket, "key", Some("2".into()), "3".into()).await.unwrap();
        handle.increment_within(&bucket, "key", 1, 0..=9).await.unwrap();
        assert!(handle.expire(&bucket, "key", None).await.unwrap());
        until_health(&state, None).await;
        for right in ["set", "incrby", "evalsha", "hset"] {
            tell(&format!("ACL SETUSER tally -{right}"));
            until_health(&state, Some("NOPERM")).await;
            tell(&documented());
            until_health(&state, None).await;
        }
    });
}

/// The rights are taken away while the host runs: it may add and may not record that it did.
#[test]
fn a_write_that_cannot_be_recorded_is_unknown() {
    let server = Redis::start().unwrap();
    let url = server.url().replace("redis://", "redis://tally:pw@");
    let tell = |command: &str| ask(server.port(), command).unwrap();
    run(async {
        tell(&documented());
        let state = open(&url).await;
        let (handle, bucket) = (state.worker(), bucket());
        let request = |number| handle.scoped(&Scope::new([number; 16], [number; 16]));
        assert_eq!(request(1).increment(&bucket, "key", 1).await, Ok(1));
        tell("ACL SETUSER tally -hset");
        let unknown = |error: Error| match error {
            Error::Unknown(reason) => assert!(reason.contains("could not record"), "{reason}"),
            error => panic!("it is not unknown: {error}"),
        };
        unknown(request(2).increment(&bucket, "key", 1).await.unwrap_err());
        unknown(request(3).set(&bucket, "other", "value".into()).await.unwrap_err());
        assert_eq!(handle.get(&bucket, "other").await.unwrap().as_deref(), Some(&b"value"[..]));
        assert_eq!(request(1).increment(&bucket, "key", 1).await, Ok(1), "this one is recorded");
    });
}

#[test]
fn health_follows_whether_writes_are_taken() {
    let server = Redis::start().unwrap();
    let tell = |command: &str| ask(server.port(), command).unwrap();
    run(async {
        let state = open(&server.url()).await;
        let handle = state.worker();
        until_health(&state, None).await;
        tell("CONFIG SET maxmemory 1");
        until_health(&state, Some("OOM")).await;
        tell("CONFIG SET maxmemory 0");
        until_health(&state, None).await;
        assert_eq!(increment(&handle).await, Ok(1));
        let port = free_port().unwrap();
        tell(&format!("REPLICAOF 127.0.0.1 {port}"));
        until_health(&state, Some("READONLY")).await;
        not_applied(increment(&handle).await, "READONLY");
        // A connection to a replica that was made since would show the past.
        until_health(&state, Some("it is a replica")).await;
        not_applied(handle.get(&bucket(), "key").await, "it is a replica");
        tell("REPLICAOF NO ONE");
        until_health(&state, None).await;
        assert_eq!(increment(&handle).await, Ok(2));
        assert!(tell("KEYS *").contains(":key"));
        assert!(!tell("KEYS *").contains("tally.probe"), "checks leave nothing behind");
    });
}

/// A server that lacks a command answers with an error that quotes what it was sent.
#[test]
fn errors_of_any_bytes_are_certain_and_cost_no_connection() {
    let mut server = Redis::start().unwrap();
    run(async {
        let state = open(&server.url()).await;
        let handle = state.worker();
        assert_eq!(increment(&handle).await, Ok(1));
        server.stop().unwrap();
        server.restart_with(&["--rename-command", "SET", ""]).unwrap();
        while increment(&handle).await.is_err() {}
        let connections = || ask(server.port(), "INFO stats").unwrap();
        let made = |info: &str| {
            let line = info.lines().find(|line| line.starts_with("total_connections_received"));
            line.unwrap().split_once(':').unwrap().1.trim().parse::<u32>().unwrap()
        };
        let (before, bucket) = (made(&connections()), bucket());
        for _ in 0..5 {
            let binary = vec![0xff, 0xfe, b'\r', 0x80].into();
            let (set, count) =
                tokio::join!(handle.set(&bucket, "other", binary), increment(&handle));
            not_applied(set, "unknown command");
            assert!(count.is_ok(), "{count:?}");
        }
        assert!(matches!(handle.get(&bucket, "other").await, Ok(None) | Err(Error::Unknown(_))));
        assert_eq!(made(&connections()), before + 1, "the one that asks");
    });
}
