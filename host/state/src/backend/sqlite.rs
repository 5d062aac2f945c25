//! `sqlite:PATH`: a file of this host's own, the default.
//!
//! WAL with `synchronous=FULL`: a commit returns once its log is synced to disk, and one commit
//! carries a whole batch. One writer on a thread of its own, and one reader beside it, which sees
//! every committed batch and never waits for a writer (<https://sqlite.org/wal.html>).
//!
//! The table can be read and changed with the ordinary `sqlite3` shell: a counter is an INTEGER,
//! any other value a BLOB. A value that looks like a counter is stored as one.
//!
//! What keeps it exact: a batch is one `BEGIN IMMEDIATE` transaction; a failure before `COMMIT`
//! rolls it back, certainly not applied.

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use bytes::Bytes;
use rusqlite::{
    Connection as Database, ErrorCode, OptionalExtension as _, TransactionBehavior, params,
    types::ValueRef,
};

use crate::{
    Page, Rejection,
    backend::{Connection, Description, Role},
    counter,
    error::{Error, OpenError},
    operation::{Action, Outcome, Step},
    plan::Reply,
    semantics::{self, Change},
};

/// How long to wait for another process that writes to the same file, such as a shell or a second
/// host. Below the default operation timeout, so that the failure is certain.
const BUSY_TIMEOUT: Duration = Duration::from_secs(2);

/// How long to pause before opening a busy file again: about what another's opening takes.
const OPEN_PAUSE: Duration = Duration::from_millis(5);

const SCHEMA: &str = "
CREATE TABLE IF NOT EXISTS tally_kv (
    bucket TEXT NOT NULL,
    key TEXT NOT NULL,
    value NOT NULL CHECK (typeof(value) IN ('integer', 'blob')),
    PRIMARY KEY (bucket, key)
)";
const SELECT: &str = "SELECT value FROM tally_kv WHERE bucket = ?1 AND key = ?2";
const UPSERT: &str = "INSERT INTO tally_kv (bucket, key, value) VALUES (?1, ?2, ?3)
    ON CONFLICT (bucket, key) DO UPDATE SET value = excluded.value";
const DELETE: &str = "DELETE FROM tally_kv WHERE bucket = ?1 AND key = ?2";
const LIST: &str = "SELECT key FROM tally_kv WHERE bucket = ?1 AND key > ?2 ORDER BY key LIMIT ?3";

/// An SQLite file.
pub(crate) struct Sqlite {
    path: PathBuf,
}

impl Sqlite {
    /// Opens or creates the file and its table.
    pub(crate) fn open(rest: &str) -> Result<(Self, Description), OpenError> {
        let path = rest.strip_prefix("//").unwrap_or(rest);
        if path.is_empty() {
            return Err(OpenError::Url(
                "sqlite: needs a path, as in sqlite:tally.db or sqlite:/var/lib/tally/tally.db"
                    .into(),
            ));
        }
        if path == ":memory:" {
            return Err(OpenError::Url(
                "an SQLite database in memory cannot be shared between threads; write memory: instead"
                    .into(),
            ));
        }
        let sqlite = Self { path: PathBuf::from(path) };
        // Fails now rather than at the first request, with the path in the message.
        patiently(|| sqlite.database()?.execute_batch(SCHEMA))
            .map_err(|error| sqlite.explain(&error))?;
        let description = Description {
            backend: "sqlite",
            location: sqlite.path.display().to_string(),
            guarantee: String::from(
                "every acknowledged write is synced to disk (WAL, synchronous=FULL)",
            ),
            warning: None,
        };
        Ok((sqlite, description))
    }

    /// A connection for one lane.
    pub(crate) fn connection(&self, role: Role) -> Result<SqliteConnection, OpenError> {
        let database = patiently(|| self.database()).map_err(|error| self.explain(&error))?;
        if role == Role::Read {
            database
                .pragma_update(None, "query_only", true)
                .map_err(|error| self.explain(&error))?;
        }
        Ok(SqliteConnection { database })
    }

    fn database(&self) -> rusqlite::Result<Database> {
        let database = Database::open(&self.path)?;
        database.busy_timeout(BUSY_TIMEOUT)?;
        database.pragma_update(None, "journal_mode", "wal")?;
        database.pragma_update(None, "synchronous", "full")?;
        database.set_prepared_statement_cache_capacity(16);
        Ok(database)
    }

    fn explain(&self, error: &rusqlite::Error) -> OpenError {
        OpenError::Backend(format!(
            "cannot open the SQLite file {}: {error}; check that its folder exists and is writable, and that the file is a database",
            self.path.display()
        ))
    }
}

/// Opens again while the file is busy. SQLite itself does not wait where two who open a new file
/// at once both turn it to WAL, as they might wait for each other.
fn patiently<T>(mut open: impl FnMut() -> rusqlite::Result<T>) -> rusqlite::Result<T> {
    let started = Instant::now();
    loop {
        match open() {
            Err(error)
                if error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy)
                    && started.elapsed() < BUSY_TIMEOUT =>
            {
                std::thread::sleep(OPEN_PAUSE.mul_f32(fastrand::f32()));
            }
            result => return result,
        }
    }
}

/// One lane's connection.
pub(crate) struct SqliteConnection {
    database: Database,
}

impl Connection for SqliteConnection {
    /// Blocks the thread, which is this lane's own.
    async fn apply(&mut self, steps: &[Step]) -> Vec<Reply> {
        if steps.iter().all(|step| step.action.kind().is_read()) {
            return steps.iter().map(|step| read(&self.database, step)).collect();
        }
        match self.write(steps) {
            Ok(replies) => replies,
            // Reads are answered all the same: a full disk does not stop them.
            Err(error) => steps
                .iter()
                .map(|step| match step.action.kind().is_read() {
                    true => read(&self.database, step),
                    false => Err(error.clone()),
                })
                .collect(),
        }
    }
}

impl SqliteConnection {
    /// Applies a batch in one transaction. Rejected steps fail alone; any other failure rolls the
    /// whole batch back.
    fn write(&mut self, steps: &[Step]) -> Result<Vec<Reply>, Error> {
        let not_applied = |error: rusqlite::Error| Error::not_applied(format!("SQLite: {error}"));
        let transaction = self
            .database
            .transaction_with_behavior(TransactionBehavior::Immediate)
            .map_err(not_applied)?;
        let mut replies = Vec::with_capacity(steps.len());
        for step in steps {
            replies.push(match apply(&transaction, step) {
                Ok(outcome) => Ok(outcome),
                Err(Failure::Rejected(rejection)) => Err(Error::Rejected(rejection)),
                Err(Failure::Database(error)) => return Err(not_applied(error)),
            });
        }
        match transaction.commit() {
            Ok(()) => Ok(replies),
            Err(error) => Err(commit_failed(&error)),
        }
    }
}

/// What is known after `COMMIT` failed. A full disk or a lock stops it before the commit record is
/// in the log. After an I/O error the record may be there, and recovery after a crash would apply
/// it.
fn commit_failed(error: &rusqlite::Error) -> Error {
    let text = format!("SQLite could not commit: {error}");
    match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull | ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
            Error::not_applied(text)
        }
        _ => Error::unknown(text),
    }
}

enum Failure {
    Rejected(Rejection),
    Database(rusqlite::Error),
}

impl From<rusqlite::Error> for Failure {
    fn from(error: rusqlite::Error) -> Self {
        Self::Database(error)
    }
}

impl From<Rejection> for Failure {
    fn from(rejection: Rejection) -> Self {
        Self::Rejected(rejection)
    }
}

fn read(database: &Database, step: &Step) -> Reply {
    apply(database, step).map_err(|failure| match failure {
        Failure::Rejected(rejection) => Error::Rejected(rejection),
        Failure::Database(error) => Error::not_applied(format!("SQLite: {error}")),
    })
}

fn apply(database: &Database, step: &Step) -> Result<Outcome, Failure> {
    let (bucket, key) = (step.bucket.as_str(), &*step.key);
    if let Action::List { cursor, limit } = &step.action {
        return Ok(Outcome::Page(page(database, bucket, cursor.as_deref(), *limit)?));
    }
    let current = database
        .prepare_cached(SELECT)?
        .query_row(params![bucket, key], |row| Ok(value(row.get_ref(0)?)))
        .optional()?;
    let (outcome, change) = semantics::apply(&step.action, current)?;
    match change {
        Change::Keep => {}
        Change::Put(value) => {
            let mut upsert = database.prepare_cached(UPSERT)?;
            match counter::parse(&value) {
                Some(number) => upsert.execute(params![bucket, key, number])?,
                None => upsert.execute(params![bucket, key, &value[..]])?,
            };
        }
        Change::Remove => {
            database.prepare_cached(DELETE)?.execute(params![bucket, key])?;
        }
    }
    Ok(outcome)
}

/// A stored value as bytes. Text and reals, which only another program can have put there past the
/// table's check, are passed on as they print.
fn value(stored: ValueRef<'_>) -> Bytes {
    match stored {
        ValueRef::Integer(number) => counter::format(number).into(),
        ValueRef::Blob(bytes) | ValueRef::Text(bytes) => Bytes::copy_from_slice(bytes),
        ValueRef::Real(number) => number.to_string().into(),
        ValueRef::Null => Bytes::new(),
    }
}

/// Keys in order; the cursor is the last key of the page before.
fn page(
    database: &Database,
    bucket: &str,
    cursor: Option<&str>,
    limit: usize,
) -> rusqlite::Result<Page> {
    let mut list = database.prepare_cached(LIST)?;
    let rows = i64::try_from(limit.saturating_add(1)).unwrap_or(i64::MAX);
    let mut keys: Vec<String> = list
        .query_map(params![bucket, cursor.unwrap_or_default(), rows], |row| row.get(0))?
        .collect::<rusqlite::Result<_>>()?;
    let more = keys.len() > limit;
    keys.truncate(limit);
    let cursor = if more { keys.last().cloned() } else { None };
    Ok(Page { keys, cursor })
}
