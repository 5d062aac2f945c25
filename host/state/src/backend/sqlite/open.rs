//! Opening the file: nothing is locked or written that is as it should be already.

use std::time::{Duration, Instant};

use rusqlite::{Connection as Database, ErrorCode, TransactionBehavior};

use super::{
    ADD_EXPIRES, HAS_EXPIRES, LONGEST_BUSY, REST, TABLE,
    place::{Mode, Place},
    records,
};

/// How long to pause before opening a busy file again: about what another's opening takes.
const OPEN_PAUSE: Duration = Duration::from_millis(5);

/// Memory for pages, negative as SQLite takes it for KiB. Records of requests lie all over the last run,
/// which the default of 2 MiB does not hold.
const CACHE_KIB: i64 = -65_536;

/// Pages in the log before they are moved into the file: 32 MiB. Each move is two syncs, and a page
/// that was written several times meanwhile is moved once.
const CHECKPOINT_PAGES: i64 = 8_192;

/// Whether there is a table to read.
const HAS_TABLE: &str = "SELECT count(*) FROM pragma_table_info('tally_kv') WHERE name = 'value'";

pub(super) fn database(place: &Place, busy: Duration) -> rusqlite::Result<Database> {
    let Place { path, mode, vfs } = place;
    let database = match vfs {
        None => Database::open_with_flags(path, mode.flags())?,
        Some(vfs) => Database::open_with_flags_and_vfs(path, mode.flags(), vfs.as_str())?,
    };
    database.busy_timeout(busy)?;
    if *mode != Mode::ReadOnly {
        // In a file that is so already, this changes nothing.
        database.pragma_update(None, "journal_mode", "wal")?;
        database.pragma_update(None, "synchronous", "full")?;
        database.pragma_update(None, "wal_autocheckpoint", CHECKPOINT_PAGES)?;
    }
    database.pragma_update(None, "cache_size", CACHE_KIB)?;
    database.set_prepared_statement_cache_capacity(32);
    Ok(database)
}

/// Creates what is not there, safely while other hosts do the same. Where all is, as with a second
/// host, it waits for nobody who writes.
pub(super) fn create_tables(database: &mut Database) -> rusqlite::Result<()> {
    // What exists is not written, and so not refused.
    database.pragma_update(None, "query_only", true)?;
    let complete = create(database);
    database.pragma_update(None, "query_only", false)?;
    match complete {
        Ok(()) => return Ok(()),
        Err(error) if error.sqlite_error_code() == Some(ErrorCode::ReadOnly) => {}
        Err(error) => return Err(error),
    }
    let transaction = database.transaction_with_behavior(TransactionBehavior::Immediate)?;
    create(&transaction)?;
    transaction.commit()
}

fn create(database: &Database) -> rusqlite::Result<()> {
    database.execute_batch(TABLE)?;
    let has_expires: i64 = database.query_row(HAS_EXPIRES, [], |row| row.get(0))?;
    if has_expires == 0 {
        database.execute_batch(ADD_EXPIRES)?;
    }
    database.execute_batch(REST)?;
    database.execute_batch(records::TABLES)
}

/// Whether a file can be read as one of Tally's, of this version.
pub(super) fn has_tables(database: &Database) -> rusqlite::Result<bool> {
    let has = |sql| database.query_row(sql, [], |row| row.get::<_, i64>(0));
    Ok(has(HAS_TABLE)? > 0 && has(HAS_EXPIRES)? > 0)
}

/// The tables in which earlier versions recorded writes, if the file has any.
pub(super) fn old_records(database: &Database) -> rusqlite::Result<Option<String>> {
    let sql = "SELECT group_concat(name, ', ') FROM (SELECT name FROM sqlite_master
        WHERE name = 'tally_once' OR name GLOB 'tally_write_[0-3]' ORDER BY name)";
    database.query_row(sql, [], |row| row.get(0))
}

/// Opens again while the file is busy. SQLite itself does not wait where two who open a new file
/// at once both turn it to WAL, as they might wait for each other.
pub(super) fn patiently<T>(mut open: impl FnMut() -> rusqlite::Result<T>) -> rusqlite::Result<T> {
    let started = Instant::now();
    loop {
        match open() {
            Err(error)
                if error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy)
                    && started.elapsed() < LONGEST_BUSY =>
            {
                std::thread::sleep(OPEN_PAUSE.mul_f32(fastrand::f32()));
            }
            result => return result,
        }
    }
}
