//! A disk without space under SQLite.
//!
//! Stands in for a full disk: a limit on the size of files, which the system enforces on writes in
//! the same place. It holds for a whole process, so the test runs again in one of its own, with
//! the signal ignored that would end it.

use std::process::Command;

use tally_state::Bucket;

use crate::{BUCKET, ledger::Ledger, open, patient, run};

const FILE: &str = "TALLY_TEST_DISK_FULL";

/// Sets the largest size of a file that this process may write.
fn limit_files(bytes: &str) {
    let status = Command::new("prlimit")
        .args(["--pid", &std::process::id().to_string(), &format!("--fsize={bytes}:unlimited")])
        .status()
        .expect("prlimit runs; on Debian: apt-get install util-linux");
    assert!(status.success());
}

#[test]
fn writes_fail_cleanly_reads_go_on_and_writes_resume() {
    if let Ok(path) = std::env::var(FILE) {
        return on_a_full_disk(&path);
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("tally.db");
    let program = std::env::current_exe().unwrap();
    let output = Command::new("sh")
        .args(["-c", "trap '' XFSZ; exec \"$0\" --exact --nocapture \"$1\""])
        .arg(program)
        .arg("disk_full::writes_fail_cleanly_reads_go_on_and_writes_resume")
        .env(FILE, &path)
        .output()
        .unwrap();
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
    let database = rusqlite::Connection::open(&path).unwrap();
    let check: String = database.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
    assert_eq!(check, "ok");
    // The count was verified inside; a crash of the process may not change it either.
    let count: i64 = database
        .query_row("SELECT value FROM tally_kv WHERE key = 'key'", [], |row| row.get(0))
        .unwrap();
    assert!(count >= 20, "{count}");
}

fn on_a_full_disk(path: &str) {
    let url = format!("sqlite:{path}");
    run(async {
        let state = open(&url, patient()).await;
        let (handle, bucket) = (state.worker(), Bucket::new(BUCKET).unwrap());
        let mut ledger = Ledger::new(handle.clone(), "key");
        for _ in 0..10 {
            ledger.increment().await.unwrap();
        }
        limit_files("65536");
        let mut failures = 0;
        for _ in 0..60 {
            // Larger values fill the file; the counter shares its fate.
            let _ = handle.set(&bucket, "large", vec![b'x'; 20_000].into()).await;
            let before = ledger.values.last().copied().unwrap();
            if ledger.increment().await.is_err() {
                failures += 1;
            }
            let read = handle.get(&bucket, "key").await.unwrap().unwrap();
            let read: i64 = std::str::from_utf8(&read).unwrap().parse().unwrap();
            assert!((before..=before + 1 + ledger.unknown).contains(&read), "reads go on");
        }
        assert!(failures > 10, "{failures} writes failed");
        limit_files("unlimited");
        assert_eq!(ledger.until_ok().await, 1, "writes resume by themselves");
        for _ in 0..10 {
            ledger.increment().await.unwrap();
        }
        let stored = handle.get(&bucket, "key").await.unwrap().unwrap();
        let stored: i64 = std::str::from_utf8(&stored).unwrap().parse().unwrap();
        let most = ledger.acknowledged + ledger.unknown;
        assert!((ledger.acknowledged..=most).contains(&stored), "{stored}, at most {most}");
    });
}
