//! Redis that stops, freezes, refuses writes, or forgets its scripts.

use std::{fs, time::Duration};

use bytes::Bytes;
use tally_state::{Bucket, Error, Options, Swapped};
use tally_testkit::{Redis, ask};

use crate::{BUCKET, ledger::Ledger, not_applied, observer::Observer, open, patient, run, until};

/// A connection past the code under test.
async fn admin(server: &Redis) -> redis::aio::MultiplexedConnection {
    let client = redis::Client::open(server.url()).unwrap();
    client.get_multiplexed_async_connection().await.unwrap()
}

async fn tell(connection: &mut redis::aio::MultiplexedConnection, command: &[&str]) {
    let mut cmd = redis::cmd(command[0]);
    let () = cmd.arg(&command[1..]).query_async(connection).await.unwrap();
}

/// Waits until this process has closed its side of all connections to a port.
async fn until_unconnected(port: u16) {
    let remote = format!(":{port:04X}");
    until(|| async {
        let sockets = fs::read_to_string("/proc/self/net/tcp").unwrap();
        // Fields: number, local address, remote address, state. 01 is established, 08 is closed by
        // the other side alone.
        !sockets.lines().skip(1).any(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            fields[2].ends_with(&remote) && ["01", "08"].contains(&fields[3])
        })
    })
    .await;
}

#[test]
fn a_connection_seen_closed_is_never_written_to() {
    let mut server = Redis::start().unwrap();
    run(async {
        let state = open(&server.url(), patient()).await;
        let mut ledger = Ledger::new(state.worker(), "key");
        let bucket = Bucket::new(BUCKET).unwrap();
        for _ in 0..3 {
            ledger.until_ok().await;
            server.stop().unwrap();
            until_unconnected(server.port()).await;
            for _ in 0..3 {
                not_applied(ledger.increment().await, "cannot connect to Redis");
            }
            let read = state.worker().get(&bucket, "key").await;
            not_applied(read, "cannot connect to Redis");
            server.restart().unwrap();
        }
        assert_eq!(ledger.verify(&mut Observer::redis(&server.url()).await).await, 0);
    });
}

#[test]
fn a_frozen_redis_leaves_what_was_sent_unknown_and_refuses_the_rest() {
    let server = Redis::start().unwrap();
    run(async {
        let timeout = Duration::from_millis(400);
        let options = Options { timeout, connect_timeout: timeout / 2, ..Options::default() };
        let state = open(&server.url(), options).await;
        let mut ledger = Ledger::new(state.worker(), "key");
        ledger.until_ok().await;
        server.signal("STOP").unwrap();
        let error = ledger.increment().await.unwrap_err();
        assert!(matches!(error, Error::Unknown(_)), "{error}");
        // The connection was given up, and the server's machine still takes new ones.
        for _ in 0..2 {
            not_applied(ledger.increment().await, "no connection within");
        }
        server.signal("CONT").unwrap();
        ledger.until_ok().await;
        let mut observer = Observer::redis(&server.url()).await;
        drop(state);
        ledger.verify(&mut observer).await;
    });
}

#[test]
fn behind_a_frozen_redis_the_queue_is_bounded() {
    let server = Redis::start().unwrap();
    run(async {
        let options = Options {
            timeout: Duration::from_secs(2),
            connect_timeout: Duration::from_millis(200),
            queue_operations: 10,
            ..Options::default()
        };
        let state = open(&server.url(), options).await;
        let handle = state.worker();
        let mut first = Ledger::new(handle.clone(), "key");
        first.until_ok().await;
        server.signal("STOP").unwrap();
        let bucket = Bucket::new(BUCKET).unwrap();
        let behind = (0..30).map(|_| handle.increment(&bucket, "key", 1));
        let (answer, behind) =
            tokio::join!(first.increment(), futures_util::future::join_all(behind));
        assert!(matches!(answer, Err(Error::Unknown(_))), "{answer:?}");
        // At most ten were in the batch that was sent, and ten wait behind it.
        let full = behind
            .iter()
            .filter(
                |answer| matches!(answer, Err(Error::NotApplied(text)) if text.contains("full")),
            )
            .count();
        assert!(full >= 11, "{full} were refused for a full queue");
        let unknown = behind.iter().filter(|a| matches!(a, Err(Error::Unknown(_)))).count();
        assert_eq!(behind.iter().filter(|answer| answer.is_ok()).count(), 0);
        server.signal("CONT").unwrap();
        first.unknown += i64::try_from(unknown).unwrap();
        first.until_ok().await;
        first.verify(&mut Observer::redis(&server.url()).await).await;
    });
}

#[test]
fn a_full_redis_refuses_writes_and_goes_on_reading() {
    let server = Redis::start().unwrap();
    run(async {
        let state = open(&server.url(), patient()).await;
        let (handle, bucket) = (state.worker(), Bucket::new(BUCKET).unwrap());
        let mut admin = admin(&server).await;
        handle.set(&bucket, "value", "kept".into()).await.unwrap();
        assert_eq!(handle.increment(&bucket, "count", 5).await, Ok(5));
        let swap = |expected: &'static str, value: &'static str| {
            handle.swap(&bucket, "value", Some(expected.into()), value.into())
        };
        assert_eq!(swap("kept", "swapped").await, Ok(Swapped::Yes));
        tell(&mut admin, &["CONFIG", "SET", "maxmemory", "1"]).await;
        for _ in 0..3 {
            not_applied(handle.increment(&bucket, "count", 1).await, "OOM");
            not_applied(handle.set(&bucket, "value", "new".into()).await, "OOM");
            not_applied(swap("swapped", "new").await, "OOM");
        }
        assert_eq!(handle.get(&bucket, "count").await, Ok(Some("5".into())));
        assert_eq!(handle.get(&bucket, "value").await, Ok(Some("swapped".into())));
        assert_eq!(handle.list(&bucket, "", None).await.unwrap().keys.len(), 2);
        handle.delete(&bucket, "value").await.expect("deleting makes room");
        tell(&mut admin, &["CONFIG", "SET", "maxmemory", "0"]).await;
        assert_eq!(handle.increment(&bucket, "count", 1).await, Ok(6));
    });
}

#[test]
fn a_replica_refuses_writes_until_it_is_promoted() {
    let server = Redis::start().unwrap();
    run(async {
        let state = open(&server.url(), patient()).await;
        let (handle, bucket) = (state.worker(), Bucket::new(BUCKET).unwrap());
        let mut admin = admin(&server).await;
        assert_eq!(handle.increment(&bucket, "count", 5).await, Ok(5));
        let port = tally_testkit::free_port().unwrap().to_string();
        tell(&mut admin, &["REPLICAOF", "127.0.0.1", &port]).await;
        not_applied(handle.increment(&bucket, "count", 1).await, "READONLY");
        not_applied(handle.set(&bucket, "count", "0".into()).await, "READONLY");
        not_applied(handle.delete(&bucket, "count").await, "READONLY");
        let swap = handle.swap(&bucket, "count", Some("5".into()), "6".into());
        not_applied(swap.await, "READONLY");
        // It may be behind, and so is not asked either once its connection is made anew.
        let read = handle.get(&bucket, "count").await;
        if read != Ok(Some("5".into())) {
            not_applied(read, "READONLY");
        }
        tell(&mut admin, &["REPLICAOF", "NO", "ONE"]).await;
        until(|| async { handle.increment(&bucket, "count", 0).await.is_ok() }).await;
        assert_eq!(handle.increment(&bucket, "count", 1).await, Ok(6));
    });
}

#[test]
fn a_forgotten_script_is_sent_again_and_runs_once() {
    let server = Redis::start().unwrap();
    run(async {
        let state = open(&server.url(), patient()).await;
        let (handle, bucket) = (state.worker(), Bucket::new(BUCKET).unwrap());
        let mut admin = admin(&server).await;
        let mut current: Option<Bytes> = None;
        for round in 0..6 {
            if round % 2 == 0 {
                tell(&mut admin, &["SCRIPT", "FLUSH"]).await;
            }
            let next = Bytes::from(round.to_string());
            let swapped = handle.swap(&bucket, "key", current.clone(), next.clone()).await;
            assert_eq!(swapped, Ok(Swapped::Yes));
            let again = handle.swap(&bucket, "key", current, next.clone()).await;
            assert_eq!(again, Ok(Swapped::No(Some(next.clone()))));
            current = Some(next);
        }
        // Among others in one batch, too.
        tell(&mut admin, &["SCRIPT", "FLUSH"]).await;
        let (a, b, c, d) = tokio::join!(
            handle.increment(&bucket, "count", 1),
            handle.swap(&bucket, "other", None, "1".into()),
            handle.increment(&bucket, "count", 1),
            handle.swap(&bucket, "other", None, "2".into()),
        );
        assert_eq!((a, c), (Ok(1), Ok(2)));
        assert_eq!((b, d), (Ok(Swapped::Yes), Ok(Swapped::No(Some("1".into())))));
    });
}

#[test]
fn a_redis_that_may_evict_is_warned_of() {
    let server = Redis::start().unwrap();
    run(async {
        let warning = || async {
            let state = open(&server.url(), patient()).await;
            state.description().warning.clone().unwrap_or_default()
        };
        assert!(!warning().await.contains("maxmemory-policy"));
        ask(server.port(), "CONFIG SET maxmemory 100mb").unwrap();
        assert!(!warning().await.contains("maxmemory-policy"), "it refuses writes instead");
        ask(server.port(), "CONFIG SET maxmemory-policy volatile-lru").unwrap();
        assert!(warning().await.contains("maxmemory-policy volatile-lru"));
    });
}
