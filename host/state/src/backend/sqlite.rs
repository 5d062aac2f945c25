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
//! rolls it back, certainly not applied. A file that is removed or replaced takes no more writes.
//!
//! `place` reads URLs, `open` opens files, and `watch` notices what becomes of them.

mod open;
mod place;
mod watch;

use std::time::Duration;

use bytes::Bytes;
use rusqlite::{
    Connection as Database, ErrorCode, OptionalExtension as _, TransactionBehavior,
    config::DbConfig, params, types::ValueRef,
};

pub use self::place::sqlite_path;
use self::{
    open::{create_tables, has_tables, patiently},
    place::{Mode, Place},
    watch::Watch,
};
use crate::{
    Page, Rejection,
    backend::{Connection, Description, Role, prefix_end},
    counter,
    error::{Error, OpenError},
    once::{Record, Token},
    operation::{Action, Outcome, Recalled, Step},
    plan::Reply,
    semantics::{self, Change, Entry, Moment},
    state::Options,
};

/// The longest time to wait for another process that writes to the same file, such as a shell or a
/// second host; half of the operation timeout, if that is less, so that the failure is certain.
const LONGEST_BUSY: Duration = Duration::from_secs(2);

/// A number of no meaning here. To set it writes the file's first page, which asks for all that any
/// write asks for, and changes nothing that anybody can see.
const NUMBER: &str = "user_version";

const READS_NOTHING: &str = "SELECT EXISTS (SELECT 1 FROM tally_kv)";

/// The table and its columns. `expires`, as all moments, is in milliseconds since 1970 (UTC).
const TABLE: &str = "
CREATE TABLE IF NOT EXISTS tally_kv (
    bucket TEXT NOT NULL,
    key TEXT NOT NULL,
    value NOT NULL CHECK (typeof(value) IN ('integer', 'blob')),
    expires INTEGER,
    PRIMARY KEY (bucket, key)
)";
/// A column that files of earlier versions lack.
const HAS_EXPIRES: &str =
    "SELECT count(*) FROM pragma_table_info('tally_kv') WHERE name = 'expires'";
const ADD_EXPIRES: &str = "ALTER TABLE tally_kv ADD COLUMN expires INTEGER";
/// What is recorded of requests: each of their writes, and as write -1 their answer.
const REST: &str = "
CREATE INDEX IF NOT EXISTS tally_kv_expires ON tally_kv (expires) WHERE expires IS NOT NULL;
CREATE TABLE IF NOT EXISTS tally_once (
    request BLOB NOT NULL,
    write INTEGER NOT NULL,
    fingerprint BLOB NOT NULL,
    outcome BLOB NOT NULL,
    expires INTEGER NOT NULL,
    PRIMARY KEY (request, write)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS tally_once_expires ON tally_once (expires)";

const SELECT: &str = "SELECT value, expires FROM tally_kv WHERE bucket = ?1 AND key = ?2";
const UPSERT: &str = "INSERT INTO tally_kv (bucket, key, value, expires) VALUES (?1, ?2, ?3, ?4)
    ON CONFLICT (bucket, key) DO UPDATE SET value = excluded.value, expires = excluded.expires";
const DELETE: &str = "DELETE FROM tally_kv WHERE bucket = ?1 AND key = ?2";
const LIST: &str = "SELECT key FROM tally_kv
    WHERE bucket = ?1 AND key > ?2 AND key >= ?3 AND (?4 IS NULL OR key < ?4)
        AND (expires IS NULL OR expires > ?5)
    ORDER BY key LIMIT ?6";
const RECALL: &str = "SELECT fingerprint, outcome FROM tally_once
    WHERE request = ?1 AND write = ?2 AND expires > ?3";
const OTHERS: &str = "SELECT EXISTS (SELECT 1 FROM tally_once
    WHERE request = ?1 AND fingerprint <> ?2 AND expires > ?3)";
// One that has expired and is not removed yet gives way.
const RECORD: &str = "INSERT INTO tally_once (request, write, fingerprint, outcome, expires)
    VALUES (?1, ?2, ?3, ?4, ?5)
    ON CONFLICT (request, write) DO UPDATE SET fingerprint = excluded.fingerprint,
        outcome = excluded.outcome, expires = excluded.expires
    WHERE expires <= ?6";
const SWEEP_VALUES: &str = "DELETE FROM tally_kv WHERE rowid IN
    (SELECT rowid FROM tally_kv WHERE expires <= ?1 LIMIT ?2)";
const SWEEP_RECORDS: &str = "DELETE FROM tally_once WHERE (request, write) IN
    (SELECT request, write FROM tally_once WHERE expires <= ?1 LIMIT ?2)";

/// An SQLite file.
#[derive(Clone)]
pub(crate) struct Sqlite {
    place: Place,
    /// How long records of requests are kept.
    remember: Duration,
    /// How long to wait for another process that writes.
    busy: Duration,
}

impl Sqlite {
    /// Opens or creates the file and its table.
    pub(crate) fn open(rest: &str, options: &Options) -> Result<(Self, Description), OpenError> {
        let mut place = Place::parse(rest)?;
        if place.mode == Mode::ReadOnly && !options.read_only {
            return Err(OpenError::Url(
                "mode=ro opens a file to read it only, and a host writes; leave it out, or use it with tally kv get, list and ttl"
                    .into(),
            ));
        }
        if options.read_only {
            place.mode = Mode::ReadOnly;
        }
        let busy = options.timeout.checked_div(2).unwrap_or_default().min(LONGEST_BUSY);
        let sqlite = Self { place, remember: options.remember, busy };
        // Fails now rather than at the first request, with the path in the message.
        let opened = patiently(|| {
            let mut database = sqlite.database()?;
            match options.read_only {
                true => has_tables(&database),
                false => create_tables(&mut database).map(|()| true),
            }
        });
        if !opened.map_err(|error| sqlite.explain(&error))? {
            return Err(OpenError::Backend(format!(
                "the SQLite file {} holds no state of Tally's, or that of an earlier version, which a start of the host brings up to date",
                sqlite.place.path.display()
            )));
        }
        let description = Description {
            backend: "sqlite",
            location: sqlite.place.path.display().to_string(),
            guarantee: String::from(
                "every acknowledged write is synced to disk (WAL, synchronous=FULL)",
            ),
            warning: None,
        };
        Ok((sqlite, description))
    }

    /// A connection for one lane.
    pub(crate) fn connection(&self, role: Role) -> Result<SqliteConnection, OpenError> {
        let opened = patiently(|| {
            let database = self.database()?;
            // Has the log be there, whose identity is then known.
            database.pragma_query_value(None, NUMBER, |row| row.get::<_, i64>(0))?;
            Ok(database)
        });
        let database = opened.map_err(|error| self.explain(&error))?;
        if role == Role::Read {
            database
                .pragma_update(None, "query_only", true)
                .map_err(|error| self.explain(&error))?;
        }
        let path = &self.place.path;
        let watch = Watch::new(path).map_err(|error| {
            OpenError::Backend(format!("cannot find the SQLite file {}: {error}", path.display()))
        })?;
        let is_reader = role == Role::Read || self.place.mode == Mode::ReadOnly;
        Ok(SqliteConnection { database, remember: self.remember, watch, is_reader })
    }

    fn database(&self) -> rusqlite::Result<Database> {
        open::database(&self.place, self.busy)
    }

    fn explain(&self, error: &rusqlite::Error) -> OpenError {
        let path = self.place.path.display();
        match error.sqlite_error_code() {
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => OpenError::Away(format!(
                "cannot open the SQLite file {path}: {error}; another program holds it"
            )),
            _ => OpenError::Backend(format!(
                "cannot open the SQLite file {path}: {error}; check that its folder exists and is writable, and that the file is a database"
            )),
        }
    }
}

/// One lane's connection.
pub(crate) struct SqliteConnection {
    database: Database,
    remember: Duration,
    watch: Watch,
    is_reader: bool,
}

impl Drop for SqliteConnection {
    fn drop(&mut self) {
        if self.watch.check().is_err() {
            // SQLite would remove the log by its name, which may be that of another file's by now.
            let _ = self.database.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true);
        }
    }
}

impl Connection for SqliteConnection {
    /// Blocks the thread, which is this lane's own.
    async fn check(&mut self) -> Result<(), Error> {
        if !self.is_reader {
            self.watch.check().map_err(Error::not_applied)?;
        }
        let checked = match self.is_reader {
            true => {
                self.database.query_row(READS_NOTHING, [], |row| row.get::<_, i64>(0)).map(drop)
            }
            false => self
                .database
                .pragma_query_value(None, NUMBER, |row| row.get::<_, i64>(0))
                .and_then(|number| self.database.pragma_update(None, NUMBER, number)),
        };
        checked.map_err(|error| Error::not_applied(format!("SQLite: {error}")))
    }

    /// Blocks the thread, which is this lane's own.
    async fn apply(&mut self, steps: &[Step]) -> Vec<Reply> {
        let now = semantics::now();
        if steps.iter().all(|step| step.action.kind().is_read()) {
            return steps.iter().map(|step| read(&self.database, step, now)).collect();
        }
        match self.write(steps, now) {
            Ok(replies) => replies,
            // Reads are answered all the same: a full disk does not stop them.
            Err(error) => steps
                .iter()
                .map(|step| match step.action.kind().is_read() {
                    true => read(&self.database, step, now),
                    false => Err(error.clone()),
                })
                .collect(),
        }
    }
}

impl SqliteConnection {
    /// Applies a batch in one transaction. Rejected steps fail alone; any other failure rolls the
    /// whole batch back.
    fn write(&mut self, steps: &[Step], now: Moment) -> Result<Vec<Reply>, Error> {
        let not_applied = |error: rusqlite::Error| Error::not_applied(format!("SQLite: {error}"));
        self.watch.check().map_err(Error::not_applied)?;
        let transaction = self
            .database
            .transaction_with_behavior(TransactionBehavior::Immediate)
            .map_err(not_applied)?;
        let mut replies = Vec::with_capacity(steps.len());
        for step in steps {
            replies.push(match once(&transaction, step, now, self.remember) {
                Ok(outcome) => Ok(outcome),
                Err(Failure::Answered(error)) => Err(error),
                Err(Failure::Database(error)) => return Err(not_applied(error)),
            });
        }
        match transaction.commit() {
            // It may have gone meanwhile, with what was written.
            Ok(()) => self.watch.check().map(|()| replies).map_err(Error::unknown),
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

/// Why a step has no outcome.
enum Failure {
    /// The step's own error, which leaves the others' as they are.
    Answered(Error),
    Database(rusqlite::Error),
}

impl From<rusqlite::Error> for Failure {
    fn from(error: rusqlite::Error) -> Self {
        Self::Database(error)
    }
}

impl From<Rejection> for Failure {
    fn from(rejection: Rejection) -> Self {
        Self::Answered(rejection.into())
    }
}

fn read(database: &Database, step: &Step, now: Moment) -> Reply {
    apply(database, step, now).map_err(|failure| match failure {
        Failure::Answered(error) => error,
        Failure::Database(error) => Error::not_applied(format!("SQLite: {error}")),
    })
}

/// Applies a step that may have been applied before, if its token says so.
fn once(
    database: &Database,
    step: &Step,
    now: Moment,
    remember: Duration,
) -> Result<Outcome, Failure> {
    let Some(token) = step.token else { return apply(database, step, now) };
    let record = |outcome: &[u8]| {
        database.prepare_cached(RECORD)?.execute(params![
            token.request,
            token.write,
            token.fingerprint,
            outcome,
            semantics::end(now, remember),
            now,
        ])
    };
    if let Some(record) = recorded(database, token, now)? {
        return record.reply(token, &step.action).map_err(Failure::Answered);
    }
    let others = params![token.request, token.fingerprint, now];
    if database.prepare_cached(OTHERS)?.query_row(others, |row| row.get(0))? {
        return Err(Rejection::Reused.into());
    }
    if let Action::Remember(answer) = &step.action {
        record(answer)?;
        return Ok(Outcome::Done);
    }
    let result = match apply(database, step, now) {
        Ok(outcome) => Ok(outcome),
        Err(Failure::Answered(Error::Rejected(rejection))) => Err(rejection),
        Err(failure) => return Err(failure),
    };
    record(&Record::of(token, &result).outcome)?;
    Ok(result?)
}

fn recorded(database: &Database, token: Token, now: Moment) -> rusqlite::Result<Option<Record>> {
    database
        .prepare_cached(RECALL)?
        .query_row(params![token.request, token.write, now], |row| {
            let outcome: Vec<u8> = row.get(1)?;
            Ok(Record { fingerprint: row.get(0)?, outcome: outcome.into() })
        })
        .optional()
}

fn apply(database: &Database, step: &Step, now: Moment) -> Result<Outcome, Failure> {
    let (bucket, key) = (step.bucket.as_str(), &*step.key);
    match (&step.action, step.token) {
        (Action::List { prefix, cursor, limit }, _) => {
            let page = page(database, bucket, prefix, cursor.as_deref(), *limit, now)?;
            return Ok(Outcome::Page(page));
        }
        (Action::Recall, Some(token)) => {
            let record = recorded(database, token, now)?;
            return Ok(Outcome::Recalled(record.map(|record| Recalled {
                fingerprint: record.fingerprint,
                answer: record.outcome,
            })));
        }
        (Action::Sweep { limit }, _) => {
            let rows = i64::try_from(*limit).unwrap_or(i64::MAX);
            let values = database.prepare_cached(SWEEP_VALUES)?.execute(params![now, rows])?;
            let records = database.prepare_cached(SWEEP_RECORDS)?.execute(params![now, rows])?;
            return Ok(Outcome::Swept(values.max(records) >= *limit));
        }
        _ => {}
    }
    let current = database
        .prepare_cached(SELECT)?
        .query_row(params![bucket, key], |row| {
            Ok(Entry { value: value(row.get_ref(0)?), expires: row.get(1)? })
        })
        .optional()?;
    let (outcome, change) = semantics::apply(&step.action, current, now)?;
    match change {
        Change::Keep => {}
        Change::Put(Entry { value, expires }) => {
            let mut upsert = database.prepare_cached(UPSERT)?;
            match counter::parse(&value) {
                Some(number) => upsert.execute(params![bucket, key, number, expires])?,
                None => upsert.execute(params![bucket, key, &value[..], expires])?,
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
    prefix: &str,
    cursor: Option<&str>,
    limit: usize,
    now: Moment,
) -> rusqlite::Result<Page> {
    let mut list = database.prepare_cached(LIST)?;
    let rows = i64::try_from(limit.saturating_add(1)).unwrap_or(i64::MAX);
    let after = cursor.unwrap_or_default();
    let end = prefix_end(prefix);
    let mut keys: Vec<String> = list
        .query_map(params![bucket, after, prefix, end, now, rows], |row| row.get(0))?
        .collect::<rusqlite::Result<_>>()?;
    let more = keys.len() > limit;
    keys.truncate(limit);
    let cursor = if more { keys.last().cloned() } else { None };
    Ok(Page { keys, cursor })
}
