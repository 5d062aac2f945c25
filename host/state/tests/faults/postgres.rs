//! PostgreSQL that stops, holds locks, cancels, forbids, deadlocks, or loses its table.

use std::{future::poll_fn, pin::pin, task::Poll, time::Duration};

use bytes::Bytes;
use futures_util::future::join_all;
use tally_state::{Bucket, Error, Handle, Options, Scope, State};
use tally_testkit::{Durability, Postgres, Proxy, Way};
use tokio_postgres::Client;

use crate::{
    BUCKET,
    ledger::Ledger,
    not_applied,
    observer::{Observer, session},
    open, patient, run, until,
};

/// An open server with one counter, `key`, that stands at 1.
async fn counted(server: &Postgres, options: Options) -> (State, Handle, Bucket) {
    let state = open(&server.url(), options).await;
    let (handle, bucket) = (state.worker(), Bucket::new(BUCKET).unwrap());
    assert_eq!(handle.increment(&bucket, "key", 1).await, Ok(1));
    (state, handle, bucket)
}

/// How many sessions wait for a lock that another holds.
async fn waiting(client: &Client) -> i64 {
    let select = "SELECT count(DISTINCT pid) FROM pg_locks WHERE NOT granted";
    client.query_one(select, &[]).await.unwrap().get(0)
}

/// How many sessions wait for a lock of a kind (`pg_locks.locktype`).
async fn waiting_for(client: &Client, kind: &str) -> i64 {
    let select = "SELECT count(DISTINCT pid) FROM pg_locks WHERE NOT granted AND locktype = $1";
    client.query_one(select, &[&kind]).await.unwrap().get(0)
}

#[test]
fn a_stopped_server_refuses_and_serves_again_by_itself() {
    let mut server = Postgres::start(Durability::Unsynced).unwrap();
    run(async {
        let state = open(&server.url(), patient()).await;
        let mut ledger = Ledger::new(state.worker(), "key");
        let bucket = Bucket::new(BUCKET).unwrap();
        ledger.increment().await.unwrap();
        server.stop().unwrap();
        // The first may find the connection before its end was seen, and so end unknown.
        let first = ledger.increment().await;
        assert!(first.is_err());
        for _ in 0..3 {
            not_applied(ledger.increment().await, "cannot connect to PostgreSQL");
        }
        not_applied(ledger.increment().await, "refused");
        let read = state.worker().get(&bucket, "key").await;
        not_applied(read, "cannot connect to PostgreSQL");
        server.restart().unwrap();
        ledger.until_ok().await;
        let applied = ledger.verify(&mut Observer::postgres(&server.url()).await).await;
        assert_eq!(applied, 0, "a stopped server applied nothing");
    });
}

#[test]
fn a_locked_row_holds_up_its_writes_for_a_while_and_no_reads() {
    let server = Postgres::start(Durability::Unsynced).unwrap();
    run(async {
        // The lock timeout is a part of the whole, and far enough below it.
        let (_state, handle, bucket) = counted(&server, Options::default()).await;
        let other = session(&server.url()).await;
        other.batch_execute("BEGIN; SELECT 1 FROM tally_kv FOR UPDATE").await.unwrap();
        let writing = tokio::spawn({
            let (handle, bucket) = (handle.clone(), bucket.clone());
            async move { handle.increment(&bucket, "key", 1).await }
        });
        let watcher = session(&server.url()).await;
        until(|| async { waiting(&watcher).await == 1 }).await;
        assert_eq!(handle.get(&bucket, "key").await, Ok(Some("1".into())));
        assert!(handle.exists(&bucket, "key").await.unwrap());
        assert_eq!(handle.list(&bucket, "", None).await.unwrap().keys, ["key"]);
        not_applied(writing.await.unwrap(), "55P03");
        let other_key = handle.increment(&bucket, "other", 1).await;
        assert_eq!(other_key, Ok(1), "other keys count on");
        other.batch_execute("ROLLBACK").await.unwrap();
        assert_eq!(handle.increment(&bucket, "key", 1).await, Ok(2));
    });
}

#[test]
fn a_cancelled_statement_is_not_applied_and_an_ended_session_unknown() {
    let server = Postgres::start(Durability::Unsynced).unwrap();
    run(async {
        let (_state, handle, bucket) = counted(&server, patient()).await;
        let (other, admin) = (session(&server.url()).await, session(&server.url()).await);
        other.batch_execute("BEGIN; SELECT 1 FROM tally_kv FOR UPDATE").await.unwrap();
        for function in ["pg_cancel_backend", "pg_terminate_backend"] {
            let writing = tokio::spawn({
                let (handle, bucket) = (handle.clone(), bucket.clone());
                async move { handle.increment(&bucket, "key", 10).await }
            });
            until(|| async { waiting(&admin).await == 1 }).await;
            let end = format!("SELECT {function}(pid) FROM pg_locks WHERE NOT granted LIMIT 1");
            admin.query_one(&end, &[]).await.unwrap();
            let answer = writing.await.unwrap();
            match function {
                "pg_cancel_backend" => not_applied(answer, "57014"),
                _ => assert!(matches!(answer, Err(Error::Unknown(_))), "{answer:?}"),
            }
        }
        other.batch_execute("ROLLBACK").await.unwrap();
        assert_eq!(handle.increment(&bucket, "key", 1).await, Ok(2), "neither was applied");
    });
}

/// A session that locks keys in another order than the one all hosts take: a host's statement that
/// loses is rolled back by the server, and tried again.
#[test]
fn a_deadlock_with_another_program_counts_once() {
    let server = Postgres::start(Durability::Unsynced).unwrap();
    run(async {
        let (_state, handle, bucket) = counted(&server, patient()).await;
        let keys: Vec<String> = (0..20).map(|number| format!("key-{number:02}")).collect();
        let pairs = keys.iter().map(|key| (key.clone(), Bytes::from("0"))).collect();
        handle.set_many(&bucket, pairs).await.unwrap();
        let (other, admin) = (session(&server.url()).await, session(&server.url()).await);
        // The last key's row is locked; the table as well for a moment, so that the increments of
        // each lane gather behind its first one, and become one statement.
        other
            .batch_execute(
                "BEGIN; UPDATE tally_kv SET number = number WHERE key = 'key-19';
                 SAVEPOINT gathering; LOCK TABLE tally_kv IN EXCLUSIVE MODE",
            )
            .await
            .unwrap();
        let first = tokio::spawn({
            let (handle, bucket) = (handle.clone(), bucket.clone());
            // So many that no lane is left without one.
            let firsts: Vec<String> = (0..100).map(|number| format!("first-{number}")).collect();
            async move { join_all(firsts.iter().map(|key| handle.increment(&bucket, key, 1))).await }
        });
        until(|| async { waiting_for(&admin, "relation").await == 2 }).await;
        let increments = keys.iter().map(|key| handle.increment(&bucket, key, 1));
        let mut gathered = pin!(join_all(increments));
        // They are queued when they have been polled once.
        let queued = poll_fn(|context| Poll::Ready(gathered.as_mut().poll(context).is_pending()));
        assert!(queued.await, "behind the first ones");
        other.batch_execute("ROLLBACK TO gathering").await.unwrap();
        // One lane's statement has locked other keys, and waits for the last: for the transaction
        // that holds its row, and not for the table any more.
        until(|| async { waiting_for(&admin, "transactionid").await == 1 }).await;
        let crossing = other
            .batch_execute("UPDATE tally_kv SET number = number WHERE key LIKE 'key-%'; COMMIT")
            .await;
        // Either side may be the one that the server chose to roll back.
        if crossing.is_err() {
            other.batch_execute("ROLLBACK").await.unwrap();
        }
        for answer in first.await.unwrap() {
            assert_eq!(answer, Ok(1));
        }
        for answer in gathered.await {
            assert_eq!(answer, Ok(1));
        }
        let counts = handle.get_many(&bucket, &keys, usize::MAX).await.unwrap();
        assert_eq!(counts, vec![Some(Bytes::from("1")); keys.len()]);
        // The server's own count of deadlocks, which it publishes a little later.
        let select = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()";
        until(|| async { admin.query_one(select, &[]).await.unwrap().get::<_, i64>(0) > 0 }).await;
    });
}

#[test]
fn a_database_that_may_only_be_read_is_read() {
    let server = Postgres::start(Durability::Unsynced).unwrap();
    run(async {
        let (_state, handle, bucket) = counted(&server, patient()).await;
        assert_eq!(handle.get(&bucket, "key").await, Ok(Some("1".into())));
        let admin = session(&server.url()).await;
        let set = "ALTER SYSTEM SET default_transaction_read_only = on";
        admin.batch_execute(set).await.unwrap();
        admin.batch_execute("SELECT pg_reload_conf()").await.unwrap();
        // Sessions hear of it a little later.
        until(|| async { handle.increment(&bucket, "key", 0).await.is_err() }).await;
        // The next one is read only from its beginning.
        not_applied(handle.increment(&bucket, "key", 1).await, "read");
        not_applied(handle.set(&bucket, "key", "0".into()).await, "read");
        not_applied(handle.delete(&bucket, "key").await, "read");
        not_applied(handle.swap(&bucket, "key", None, "0".into()).await, "read");
        assert_eq!(handle.get(&bucket, "key").await, Ok(Some("1".into())));
    });
}

#[test]
fn a_dropped_table_is_named_and_made_again() {
    let server = Postgres::start(Durability::Unsynced).unwrap();
    run(async {
        let (_state, handle, bucket) = counted(&server, patient()).await;
        assert_eq!(handle.get(&bucket, "key").await, Ok(Some("1".into())));
        let admin = session(&server.url()).await;
        admin.batch_execute("DROP TABLE tally_kv").await.unwrap();
        not_applied(handle.increment(&bucket, "key", 1).await, "\"tally_kv\" does not exist");
        assert_eq!(handle.increment(&bucket, "key", 1).await, Ok(1));
        // Reads have a connection of their own.
        let read = handle.get(&bucket, "key").await;
        if read != Ok(Some("1".into())) {
            not_applied(read, "tally_kv");
            assert_eq!(handle.get(&bucket, "key").await, Ok(Some("1".into())));
        }
    });
}

#[test]
fn a_table_that_was_changed_by_hand_stops_no_counting() {
    let server = Postgres::start(Durability::Unsynced).unwrap();
    run(async {
        let (_state, handle, bucket) = counted(&server, patient()).await;
        handle.get(&bucket, "key").await.unwrap();
        let admin = session(&server.url()).await;
        admin
            .batch_execute("ALTER TABLE tally_kv ADD COLUMN seen timestamptz DEFAULT now()")
            .await
            .unwrap();
        let mut ledger = Ledger::new(handle.clone(), "other");
        assert!(ledger.until_ok().await <= 2, "at most one finds its statement stale");
        assert_eq!(ledger.unknown, 0);
        assert_eq!(handle.get(&bucket, "key").await, Ok(Some("1".into())));
    });
}

#[test]
fn a_locked_row_fails_no_other_key() {
    let server = Postgres::start(Durability::Unsynced).unwrap();
    run(async {
        let (_state, handle, bucket) = counted(&server, Options::default()).await;
        let other = session(&server.url()).await;
        let admin = session(&server.url()).await;
        other.batch_execute("BEGIN; SELECT 1 FROM tally_kv FOR UPDATE").await.unwrap();
        let keys: Vec<String> = (0..8).map(|number| format!("other {number}")).collect();
        for round in 1..=2 {
            // Once with statements, and once with a transaction.
            let handle = match round {
                1 => handle.clone(),
                _ => handle.scoped(&Scope::new([1; 16], [1; 16])),
            };
            // While the first waits, the others gather behind it, with another one for its row.
            let first = handle.increment(&bucket, "key", 1);
            let rest = async {
                until(|| async { waiting_for(&admin, "transactionid").await > 0 }).await;
                let others = join_all(keys.iter().map(|key| handle.increment(&bucket, key, 1)));
                tokio::join!(handle.increment(&bucket, "key", 1), others)
            };
            let (first, (locked, others)) = tokio::join!(first, rest);
            not_applied(first, "55P03");
            not_applied(locked, "55P03");
            assert!(others.iter().all(|count| *count == Ok(round)), "{others:?}");
        }
        other.batch_execute("COMMIT").await.unwrap();
        assert_eq!(handle.increment(&bucket, "key", 1).await, Ok(2));
    });
}

#[test]
fn a_host_that_freezes_in_a_transaction_lets_go_of_its_rows() {
    let server = Postgres::start(Durability::Unsynced).unwrap();
    let proxy = Proxy::start(server.port()).unwrap();
    run(async {
        let timeout = Duration::from_millis(600);
        let frozen = open(&server.url_at(proxy.port()), Options { timeout, ..patient() }).await;
        let (_state, handle, bucket) = counted(&server, patient()).await;
        let admin = session(&server.url()).await;
        let open = "SELECT count(*) FROM pg_stat_activity WHERE state LIKE 'idle in transaction%'";
        let mut was_held = false;
        // Somewhere between these bytes the rows are locked, and nothing is committed.
        for after in (300..2_400).step_by(90) {
            let (freezing, of) = (frozen.worker(), bucket.clone());
            freezing.exists(&bucket, "key").await.unwrap();
            while freezing.expire(&bucket, "key", None).await.is_err() {}
            proxy.stall(Way::Requests, after);
            let asked =
                tokio::spawn(
                    async move { freezing.get_and_set(&of, "key", "0".into(), None).await },
                );
            while !asked.is_finished() && !was_held {
                let row = admin.query_one(open, &[]).await.unwrap();
                was_held = row.get::<_, i64>(0) > 0;
            }
            if was_held {
                // Nothing of the frozen host's comes through, and its connection stays open.
                handle.increment(&bucket, "key", 1).await.unwrap();
                let error = asked.await.unwrap().unwrap_err();
                assert!(matches!(error, Error::Unknown(_) | Error::NotApplied(_)), "{error}");
                break;
            }
            let _ = asked.await.unwrap();
            proxy.cut_all();
        }
        assert!(was_held, "it never froze with its rows locked");
    });
}
