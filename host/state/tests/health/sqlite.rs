//! An SQLite file that goes, is replaced, or is locked while another opens it.

use std::{fs, path::Path, time::Duration};

use rusqlite::Connection;
use tally_state::{Metrics, OpenError, Options, State};

use crate::{bucket, increment, not_applied, open, patient, run, until_health};

fn url(path: &Path) -> String {
    format!("sqlite:{}", path.display())
}

/// The files of a database.
fn files(path: &Path) -> Vec<std::path::PathBuf> {
    let name = path.display();
    ["", "-wal", "-shm"].iter().map(|end| format!("{name}{end}").into()).collect()
}

#[test]
fn a_file_that_is_removed_takes_no_writes_until_it_is_back() {
    run(async {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tally.db");
        let state = open(&url(&path)).await;
        let handle = state.worker();
        assert_eq!(increment(&handle).await, Ok(1));
        until_health(&state, None).await;
        // Each of its files matters: without its log, the file lacks what was counted last.
        for (number, file) in (1..).zip(files(&path)) {
            let away = dir.path().join("away");
            fs::rename(&file, &away).unwrap();
            for _ in 0..3 {
                not_applied(increment(&handle).await, "was removed");
            }
            until_health(&state, Some("was removed")).await;
            assert!(!file.exists(), "none is made in its place");
            fs::rename(&away, &file).unwrap();
            assert_eq!(increment(&handle).await, Ok(number + 1));
            until_health(&state, None).await;
        }
    });
}

#[test]
fn a_file_that_is_replaced_is_used_by_the_next_start_alone() {
    run(async {
        let dir = tempfile::tempdir().unwrap();
        let (path, other) = (dir.path().join("tally.db"), dir.path().join("other.db"));
        let state = open(&url(&other)).await;
        assert_eq!(state.worker().increment(&bucket(), "key", 70).await, Ok(70));
        let state = open(&url(&path)).await;
        let handle = state.worker();
        assert_eq!(increment(&handle).await, Ok(1));
        for (from, to) in files(&other).iter().zip(files(&path)) {
            if from.exists() {
                fs::rename(from, to).unwrap();
            }
        }
        not_applied(increment(&handle).await, "has been replaced");
        until_health(&state, Some("has been replaced")).await;
        let again = open(&url(&path)).await;
        assert_eq!(increment(&again.worker()).await, Ok(71));
        // What the first one leaves behind is not in the way.
        drop((handle, state));
        assert_eq!(increment(&again.worker()).await, Ok(72));
        drop(again);
        assert_eq!(increment(&open(&url(&path)).await.worker()).await, Ok(73));
    });
}

#[test]
fn a_second_start_and_a_look_wait_for_nobody_who_writes() {
    run(async {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tally.db");
        let first = open(&url(&path)).await;
        assert_eq!(increment(&first.worker()).await, Ok(1));
        let other = Connection::open(&path).unwrap();
        other.execute_batch("BEGIN IMMEDIATE").unwrap();
        // Long before anybody who waited for the lock would get it.
        let hasty = Options { timeout: Duration::from_millis(2), ..patient() };
        let second = State::open(&url(&path), hasty.clone(), Metrics::default()).await.unwrap();
        let value = second.worker().get(&bucket(), "key").await;
        drop(value);
        let options = Options { read_only: true, ..patient() };
        let look = State::open(&url(&path), options, Metrics::default()).await.unwrap();
        assert_eq!(look.worker().get(&bucket(), "key").await, Ok(Some("1".into())));
        assert_eq!(look.worker().list(&bucket(), "", None).await.unwrap().keys, ["key"]);
        not_applied(increment(&look.worker()).await, "read only");
        other.execute_batch("ROLLBACK").unwrap();
    });
}

#[test]
fn a_file_is_opened_as_its_url_says_or_not_at_all() {
    run(async {
        let dir = tempfile::tempdir().unwrap();
        let at = |rest: &str| format!("sqlite:{}/{rest}", dir.path().display());
        for (url, read_only) in
            [("x.db?mode=ro", true), ("x.db?mode=ro", false), ("x.db?mode=rw", false)]
        {
            let options = Options { read_only, ..patient() };
            let refused = State::open(&at(url), options, Metrics::default()).await;
            let error = refused.err().expect("there is no such file").to_string();
            assert_eq!(error.contains("mode=rw makes none"), url.ends_with("mode=rw"), "{error}");
        }
        let refused = State::open(&at("x.db?cache=shared"), patient(), Metrics::default()).await;
        assert!(matches!(refused, Err(OpenError::Url(_))));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "nothing was made");
        let state = open(&at("a%20b%3f.db?mode=rwc")).await;
        assert_eq!(increment(&state.worker()).await, Ok(1));
        assert!(dir.path().join("a b?.db").exists());
        let options = Options { read_only: true, ..patient() };
        let look = State::open(&at("a%20b%3f.db?mode=ro"), options, Metrics::default()).await;
        assert_eq!(look.unwrap().worker().get(&bucket(), "key").await, Ok(Some("1".into())));
    });
}
