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

mod buckets;
mod closing;
mod filter;
mod open;
mod place;
mod records;
mod watch;

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use rusqlite::{
    Connection as Database, ErrorCode, OptionalExtension as _, TransactionBehavior,
    config::DbConfig, params, types::ValueRef,
};

pub use self::place::sqlite_path;
use self::{
    closing::Closing,
    open::{create_tables, has_tables, old_records, patiently},
    place::{Mode, Place},
    records::{Filters, Records},
    watch::Watch,
};
use crate::{
    Page,
    backend::{Connection, Description, Role, prefix_end},
    counter,
    error::{Error, OpenError},
    idempotency::{Record, WriteId, not_read},
    operation::{Action, Outcome, Step},
    plan::Reply,
    semantics::{self, Change, Entry, Found, Moment, Values},
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
const REST: &str = "
CREATE INDEX IF NOT EXISTS tally_kv_expires ON tally_kv (expires) WHERE expires IS NOT NULL;";

const SELECT: &str = "SELECT value, expires FROM tally_kv WHERE bucket = ?1 AND key = ?2";
const UPSERT: &str = "INSERT INTO tally_kv (bucket, key, value, expires) VALUES (?1, ?2, ?3, ?4)
    ON CONFLICT (bucket, key) DO UPDATE SET value = excluded.value, expires = excluded.expires";
const DELETE: &str = "DELETE FROM tally_kv WHERE bucket = ?1 AND key = ?2";
const LIST: &str = "SELECT key FROM tally_kv
    WHERE bucket = ?1 AND key > ?2 AND key >= ?3 AND (?4 IS NULL OR key < ?4)
        AND (expires IS NULL OR expires > ?5)
    ORDER BY key LIMIT ?6";
const SWEEP_VALUES: &str = "DELETE FROM tally_kv WHERE rowid IN
    (SELECT rowid FROM tally_kv WHERE expires <= ?1 LIMIT ?2)";

/// An SQLite file.
#[derive(Clone)]
pub(crate) struct Sqlite {
    place: Place,
    /// How long records of requests are kept.
    window: Duration,
    /// Records after which another run of them begins.
    run_records: u64,
    /// How long to wait for another process that writes.
    busy: Duration,
    filters: Filters,
    closing: Closing,
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
        let sqlite = Self {
            place,
            window: options.idempotency_window,
            run_records: options.run_records,
            busy,
            filters: Filters::default(),
            closing: Closing::default(),
        };
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
        let old = patiently(|| old_records(&sqlite.database()?));
        let old = old.map_err(|error| sqlite.explain(&error))?;
        let description = Description {
            backend: "sqlite",
            location: sqlite.place.path.display().to_string(),
            guarantee: String::from(
                "every acknowledged write is synced to disk (WAL, synchronous=FULL)",
            ),
            warning: old.map(|tables| not_read(&tables)),
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
        let records = Records::new(self.window, self.run_records, Arc::clone(&self.filters));
        let closing = self.closing.clone();
        Ok(SqliteConnection { database, records, watch, is_reader, closing })
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
            _ if self.place.mode == Mode::ReadWrite && !self.place.path.exists() => {
                OpenError::Backend(format!(
                    "there is no SQLite file {path}, and mode=rw makes none; leave the mode out to have it made"
                ))
            }
            _ => OpenError::Backend(format!(
                "cannot open the SQLite file {path}: {error}; check that its folder exists and is writable, and that the file is a database"
            )),
        }
    }
}

/// One lane's connection.
pub(crate) struct SqliteConnection {
    database: Database,
    records: Records,
    watch: Watch,
    is_reader: bool,
    /// Behind the database, which is closed first then.
    closing: Closing,
}

impl Drop for SqliteConnection {
    fn drop(&mut self) {
        self.closing.begin();
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
        if steps.iter().all(|step| step.action.kind().is_read()) {
            return self.read(steps);
        }
        match self.write(steps) {
            Ok(replies) => replies,
            // Reads are answered all the same: a full disk does not stop them.
            Err(error) => {
                let read = self.read(steps);
                let is_read = |step: &Step| step.action.kind().is_read();
                steps
                    .iter()
                    .zip(read)
                    .map(|(step, read)| if is_read(step) { read } else { Err(error.clone()) })
                    .collect()
            }
        }
    }
}

impl SqliteConnection {
    /// Answers those steps that read, each by itself.
    fn read(&mut self, steps: &[Step]) -> Vec<Reply> {
        let mut open = Open::new(&self.database, &mut self.records, false);
        steps
            .iter()
            .map(|step| match step.action.kind().is_read() {
                true => open.apply(step).unwrap_or_else(|error| Err(not_applied(&error))),
                false => Err(Error::not_applied("no operation that reads")),
            })
            .collect()
    }

    /// Applies a batch in one transaction. Rejected steps fail alone; any other failure rolls the
    /// whole batch back.
    fn write(&mut self, steps: &[Step]) -> Result<Vec<Reply>, Error> {
        self.watch.check().map_err(Error::not_applied)?;
        let transaction = self
            .database
            .transaction_with_behavior(TransactionBehavior::Immediate)
            .map_err(|error| not_applied(&error))?;
        let mut open = Open::new(&transaction, &mut self.records, true);
        let mut replies = Vec::with_capacity(steps.len());
        for step in steps {
            replies.push(open.apply(step).map_err(|error| not_applied(&error))?);
        }
        match transaction.commit() {
            // It may have gone meanwhile, with what was written.
            Ok(()) => self.watch.check().map(|()| replies).map_err(Error::unknown),
            Err(error) => Err(commit_failed(&error)),
        }
    }
}

fn not_applied(error: &rusqlite::Error) -> Error {
    Error::not_applied(format!("SQLite: {error}"))
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

/// The file as one transaction sees it.
struct Open<'a> {
    database: &'a Database,
    now: Moment,
    writes: bool,
    records: &'a mut Records,
    /// Whether the records were opened, which is done when they are first needed.
    is_open: bool,
}

impl<'a> Open<'a> {
    fn new(database: &'a Database, records: &'a mut Records, writes: bool) -> Self {
        Self { database, now: semantics::now(), writes, records, is_open: false }
    }

    fn records(&mut self) -> rusqlite::Result<&mut Records> {
        if !self.is_open {
            self.records.open(self.database, self.now, self.writes)?;
            self.is_open = true;
        }
        Ok(self.records)
    }

    fn apply(&mut self, step: &Step) -> rusqlite::Result<Reply> {
        let database = self.database;
        Ok(match &step.action {
            Action::List { prefix, cursor, limit } => {
                let (bucket, cursor) = (step.bucket.as_str(), cursor.as_deref());
                Ok(Outcome::Page(page(database, bucket, prefix, cursor, *limit, self.now)?))
            }
            Action::Buckets { cursor, limit } => {
                let page = buckets::page(database, cursor.as_deref(), *limit, self.now)?;
                Ok(Outcome::Buckets(page))
            }
            Action::Sweep { limit } => {
                let rows = i64::try_from(*limit).unwrap_or(i64::MAX);
                let now = self.now;
                let values = database.prepare_cached(SWEEP_VALUES)?.execute(params![now, rows])?;
                let more = self.records()?.sweep(database, now)?;
                Ok(Outcome::Swept(more || values >= *limit))
            }
            _ => semantics::apply_step(self, step)?,
        })
    }
}

impl Values for Open<'_> {
    type Error = rusqlite::Error;

    fn now(&self) -> Moment {
        self.now
    }

    fn entry(&mut self, step: &Step) -> rusqlite::Result<Option<Entry>> {
        self.database
            .prepare_cached(SELECT)?
            .query_row(params![step.bucket.as_str(), &*step.key], |row| {
                Ok(Entry { value: value(row.get_ref(0)?), expires: row.get(1)? })
            })
            .optional()
    }

    fn change(&mut self, step: &Step, change: Change) -> rusqlite::Result<()> {
        let (bucket, key) = (step.bucket.as_str(), &*step.key);
        match change {
            Change::Keep => {}
            Change::Put(Entry { value, expires }) => {
                let mut upsert = self.database.prepare_cached(UPSERT)?;
                match counter::parse(&value) {
                    Some(number) => upsert.execute(params![bucket, key, number, expires])?,
                    None => upsert.execute(params![bucket, key, &value[..], expires])?,
                };
            }
            Change::Remove => {
                self.database.prepare_cached(DELETE)?.execute(params![bucket, key])?;
            }
        }
        Ok(())
    }

    fn find(&mut self, write: &WriteId) -> rusqlite::Result<Found> {
        let (database, now) = (self.database, self.now);
        self.records()?.find(database, write, now)
    }

    fn record(&mut self, write: &WriteId, record: Record) -> rusqlite::Result<()> {
        let database = self.database;
        self.records()?.record(database, write, &record)
    }
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

/// What is wrong with a URL, for fuzzing.
#[cfg(test)]
pub(crate) fn fuzz_url(url: &str) -> Option<String> {
    place::Place::parse(url.strip_prefix("sqlite:")?).err().map(|error| error.to_string())
}
