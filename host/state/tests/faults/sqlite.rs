//! An SQLite file that others lock, change or break.

use rusqlite::Connection;
use tally_state::{Bucket, Handle, State};
use tempfile::TempDir;

use crate::{BUCKET, not_applied, open, patient, run};

/// A file with one counter, `key`, that stands at 1, and another program's connection to it.
async fn counted() -> (TempDir, State, Handle, Bucket, Connection) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("tally.db");
    let state = open(&format!("sqlite:{}", path.display()), patient()).await;
    let (handle, bucket) = (state.worker(), Bucket::new(BUCKET).unwrap());
    assert_eq!(handle.increment(&bucket, "key", 1).await, Ok(1));
    let other = Connection::open(path).unwrap();
    (dir, state, handle, bucket, other)
}

#[test]
fn a_locked_file_refuses_writes_and_goes_on_reading() {
    run(async {
        let (_dir, _state, handle, bucket, other) = counted().await;
        other
            .execute_batch("BEGIN IMMEDIATE; UPDATE tally_kv SET value = 100 WHERE key = 'key'")
            .unwrap();
        let writing = tokio::spawn({
            let (handle, bucket) = (handle.clone(), bucket.clone());
            async move { handle.increment(&bucket, "key", 1).await }
        });
        while !writing.is_finished() {
            let seen = handle.get(&bucket, "key").await;
            assert_eq!(seen, Ok(Some("1".into())), "the last committed value");
            assert_eq!(handle.list(&bucket, "", None).await.unwrap().keys, ["key"]);
        }
        not_applied(writing.await.unwrap(), "locked");
        other.execute_batch("ROLLBACK").unwrap();
        assert_eq!(handle.increment(&bucket, "key", 1).await, Ok(2));
    });
}

#[test]
fn a_short_lock_is_waited_for() {
    run(async {
        let (_dir, _state, handle, bucket, other) = counted().await;
        other.execute_batch("BEGIN IMMEDIATE; UPDATE tally_kv SET value = 100").unwrap();
        let writing = tokio::spawn({
            let (handle, bucket) = (handle.clone(), bucket.clone());
            async move { handle.increment(&bucket, "key", 1).await }
        });
        assert_eq!(handle.get(&bucket, "key").await, Ok(Some("1".into())));
        other.execute_batch("COMMIT").unwrap();
        assert_eq!(writing.await.unwrap(), Ok(101), "it counts on from what the other wrote");
    });
}

#[test]
fn a_shell_may_read_and_change_counters() {
    run(async {
        let (_dir, _state, handle, bucket, other) = counted().await;
        let select = "SELECT typeof(value), value FROM tally_kv WHERE key = 'key'";
        let read = || {
            let columns = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, row.get(1)?));
            other.query_row(select, [], columns).unwrap()
        };
        assert_eq!(read(), (String::from("integer"), 1));
        other.execute_batch("UPDATE tally_kv SET value = value + 41").unwrap();
        assert_eq!(handle.increment(&bucket, "key", 1).await, Ok(43));
        handle.set(&bucket, "key", "7".into()).await.unwrap();
        assert_eq!(read(), (String::from("integer"), 7), "a number is one however it came");
        let refused = other.execute_batch("UPDATE tally_kv SET value = 'text'");
        assert!(refused.is_err(), "the table keeps what would be no value");
    });
}

#[test]
fn a_dropped_table_is_named_and_opening_makes_it_again() {
    run(async {
        let (dir, _state, handle, bucket, other) = counted().await;
        other.execute_batch("DROP TABLE tally_kv").unwrap();
        for _ in 0..2 {
            not_applied(handle.increment(&bucket, "key", 1).await, "no such table: tally_kv");
            not_applied(handle.get(&bucket, "key").await, "no such table: tally_kv");
        }
        let url = format!("sqlite:{}", dir.path().join("tally.db").display());
        let again = open(&url, patient()).await.worker();
        assert_eq!(again.increment(&bucket, "key", 1).await, Ok(1));
        assert_eq!(handle.increment(&bucket, "key", 1).await, Ok(2), "the first one recovers");
    });
}
