//! Work that is under way when the power goes.

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use fastrand::Rng;
use futures_util::future::join_all;
use rusqlite::Connection;
use tally_state::{Bucket, Handle, Scope, State};

use crate::{
    BUCKET, COUNTERS, REPLACED,
    ledger::{Contents, Ledger},
    log::{Disk, Event},
    open, vfs,
};

/// How often a store is opened, worked on and closed.
const SESSIONS: usize = 2;
/// Callers who count at once; their additions share commits.
const CALLERS: usize = 6;
const ADDITIONS: usize = 120;
/// Values placed one after another in each session: their pages are more than 1000, at which SQLite
/// copies the log to the database.
const VALUES: usize = 120;
const VALUE_REPEATS: usize = 10_000;
/// Commits of the plain connection, which has no other callers.
const PLAIN: usize = 200;

/// What was done, and what was asked of the disk for it.
pub(crate) struct Run {
    pub(crate) ledger: Ledger,
    pub(crate) events: Vec<Event>,
    /// The disk's name, by which other folders can be reached as well.
    pub(crate) vfs: &'static str,
}

/// A disk with a folder and a name for SQLite to find it by.
struct Place {
    disk: Arc<Disk>,
    folder: tempfile::TempDir,
    vfs: &'static str,
}

impl Place {
    fn new(vfs: &'static str, disk: Disk) -> Self {
        let disk = Arc::new(disk);
        vfs::register(vfs, Arc::clone(&disk));
        Self { disk, folder: tempfile::tempdir().unwrap(), vfs }
    }

    fn uri(&self) -> String {
        uri(self.folder.path(), self.vfs)
    }

    /// Waits until the store is closed, with which its log is copied to the database and removed.
    fn until_closed(&self) {
        let (log, started) = (self.folder.path().join("tally.db-wal"), Instant::now());
        while log.exists() {
            assert!(started.elapsed() < crate::LIMIT, "the store is not closed");
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    fn run(&self, ledger: Ledger) -> Run {
        Run { ledger, events: self.disk.take(), vfs: self.vfs }
    }
}

/// The database in a folder as SQLite takes it, with the disk's name in it
/// (<https://sqlite.org/uri.html>).
pub(crate) fn uri(folder: &Path, vfs: &str) -> String {
    format!("file:{}?vfs={vfs}", folder.join("tally.db").display())
}

/// Many callers count while one replaces large values, over two lives of the store.
pub(crate) async fn callers(vfs: &'static str, disk: Disk, random: &mut Rng) -> Run {
    let place = Place::new(vfs, disk);
    let ledger = Ledger::new(Arc::clone(&place.disk), COUNTERS.len());
    let bucket = Bucket::new(BUCKET).unwrap();
    for session in 0..SESSIONS {
        let state = open(&place.uri().replacen("file:", "sqlite:", 1)).await;
        let mut forks: Vec<Rng> = (0..CALLERS).map(|_| random.fork()).collect();
        let counting = forks.iter_mut().map(|random| count(&state, &bucket, &ledger, random));
        let replacing = replace(&state, &bucket, &ledger, session);
        tokio::join!(join_all(counting), replacing);
        drop(state);
        place.until_closed();
    }
    place.run(ledger)
}

async fn count(state: &State, bucket: &Bucket, ledger: &Ledger, random: &mut Rng) {
    let handle = state.worker();
    for _ in 0..ADDITIONS {
        let (counter, delta) = (random.usize(..COUNTERS.len()), random.i64(1..10));
        let request = random.bool().then(|| random.u64(..));
        let handle = request.map_or_else(|| handle.clone(), |request| once(&handle, request));
        let add = async { handle.increment(bucket, COUNTERS[counter], delta).await.unwrap() };
        ledger.count(counter, delta, request, add).await;
    }
}

/// A handle whose writes are those of a request, to be made once.
fn once(handle: &Handle, request: u64) -> Handle {
    let name = u128::from(request).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835);
    handle.scoped(&Scope::new(name.to_be_bytes(), [0; 16]))
}

async fn replace(state: &State, bucket: &Bucket, ledger: &Ledger, session: usize) {
    let handle = state.worker();
    for number in 0..VALUES {
        // Different all over: SQLite writes no page that stays as it was.
        let value = format!("{session}.{number} ").repeat(VALUE_REPEATS);
        let value = (number % 10 != 9).then_some(value);
        ledger.place(&handle, bucket, REPLACED, value).await;
    }
}

/// One connection of another program counts, with a setting of `synchronous` of its own.
pub(crate) async fn plain(vfs: &'static str, synchronous: &str, random: &mut Rng) -> Run {
    let place = Place::new(vfs, Disk::default());
    let ledger = Ledger::new(Arc::clone(&place.disk), COUNTERS.len());
    // Creates the table.
    drop(open(&place.uri().replacen("file:", "sqlite:", 1)).await);
    let database = Connection::open(place.uri()).unwrap();
    database.pragma_update(None, "synchronous", synchronous).unwrap();
    let add = "INSERT INTO tally_kv (bucket, key, value) VALUES (?1, ?2, ?3)
        ON CONFLICT DO UPDATE SET value = value + ?3 RETURNING value";
    for _ in 0..PLAIN {
        let (counter, delta) = (random.usize(..COUNTERS.len()), random.i64(1..10));
        let add = async {
            let row = (BUCKET, COUNTERS[counter], delta);
            database.query_row(add, row, |row| row.get(0)).unwrap()
        };
        ledger.count(counter, delta, None, add).await;
    }
    place.run(ledger)
}

/// What a store holds, which must be whole and go on counting, and its counters when requests were asked again.
pub(crate) async fn recover(
    uri: &str,
    asked_again: Vec<(usize, i64, u64)>,
) -> Result<(Contents, Vec<i64>), String> {
    let url = uri.replacen("file:", "sqlite:", 1);
    let state =
        State::open(&url, crate::patient(), tally_state::Metrics::default()).await.map_err(text)?;
    let (handle, bucket) = (state.worker(), Bucket::new(BUCKET).unwrap());
    let contents = contents(&handle, &bucket).await?;
    let found: String = Connection::open(uri)
        .and_then(|other| other.query_row("PRAGMA integrity_check", [], |row| row.get(0)))
        .map_err(text)?;
    if found != "ok" {
        return Err(found);
    }
    let again = asked_again.into_iter().map(|(counter, delta, request)| {
        let (handle, bucket) = (once(&handle, request), bucket.clone());
        async move { handle.increment(&bucket, COUNTERS[counter], delta).await }
    });
    for answer in join_all(again).await {
        answer.map_err(text)?;
    }
    let after = self::contents(&handle, &bucket).await?.counters;
    let next = handle.increment(&bucket, COUNTERS[0], 1).await.map_err(text)?;
    if next - 1 != after[0] {
        return Err(format!("{next} after {}", after[0]));
    }
    Ok((contents, after))
}

async fn contents(handle: &Handle, bucket: &Bucket) -> Result<Contents, String> {
    let mut counters = Vec::with_capacity(COUNTERS.len());
    for key in COUNTERS {
        let count = value(handle, bucket, key).await?;
        counters.push(count.map_or(Ok(0), |count| count.parse()).map_err(text)?);
    }
    Ok(Contents { counters, replaced: value(handle, bucket, REPLACED).await? })
}

async fn value(handle: &Handle, bucket: &Bucket, key: &str) -> Result<Option<String>, String> {
    let value = handle.get(bucket, key).await.map_err(text)?;
    value.map(|value| String::from_utf8(value.into())).transpose().map_err(text)
}

fn text(error: impl std::error::Error) -> String {
    error.to_string()
}
