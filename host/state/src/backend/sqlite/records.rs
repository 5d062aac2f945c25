//! What is recorded of writes: one table, in runs that follow one another.
//!
//! The last run takes new records until it has many or is old, then the next one begins. Requests
//! are named by digests, in no order, so a table of all records would have a page written for nearly
//! each of them; a run is small enough for many records to share a page before it is written. A run
//! that takes no more gets a filter, which says of nearly every request that it has no record there.
//!
//! A record has no age: it expires with its run, a window after the next run began. Runs are removed
//! in the order in which they lie in the file, many records to a page.
//!
//! All this happens in the transactions that write, so processes that share a file agree on it.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use rusqlite::{Connection as Database, OptionalExtension as _, params, types::ValueRef};

use super::filter::Filter;
use crate::{
    idempotency::{Digest, Record, WriteId},
    semantics::{Found, Moment, milliseconds},
};

/// A run ends after this part of the time that records are kept, which they are kept longer at most.
const RUNS_PER_WINDOW: i64 = 8;

/// Records removed in one batch: about a millisecond. More than the 250 values of a batch, as
/// they lie side by side.
const SWEEP_RECORDS: usize = 1_000;

pub(super) const TABLES: &str = "
CREATE TABLE IF NOT EXISTS tally_write (
    run INTEGER NOT NULL, request BLOB NOT NULL, write INTEGER NOT NULL, fingerprint INTEGER NOT NULL,
    outcome NOT NULL,
    PRIMARY KEY (run, request, write)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS tally_write_run (
    run INTEGER PRIMARY KEY,
    began INTEGER NOT NULL
);
CREATE TABLE IF NOT EXISTS tally_write_filter (
    run INTEGER PRIMARY KEY,
    filter BLOB NOT NULL
);";

const LAST: &str = "SELECT run, began FROM tally_write_run ORDER BY run DESC LIMIT 1";
const RUNS: &str = "SELECT run, began FROM tally_write_run ORDER BY run";
const BEGIN: &str = "INSERT INTO tally_write_run (run, began) VALUES (?1, ?2)";
const FILTER: &str = "SELECT filter FROM tally_write_filter WHERE run = ?1";
const SET_FILTER: &str = "INSERT OR REPLACE INTO tally_write_filter (run, filter) VALUES (?1, ?2)";
const COUNT: &str = "SELECT count(*) FROM tally_write WHERE run = ?1";
const REQUESTS: &str = "SELECT request FROM tally_write WHERE run = ?1";
const FIND: &str =
    "SELECT write, fingerprint, outcome FROM tally_write WHERE run = ?1 AND request = ?2";
const RECORD: &str = "INSERT INTO tally_write (run, request, write, fingerprint, outcome)
    VALUES (?1, ?2, ?3, ?4, ?5)";
/// From the run's first record up to the one with a number; with fewer, up to what is more than any
/// digest.
const REMOVE: &str = "DELETE FROM tally_write WHERE run = ?1 AND request <= coalesce(
    (SELECT request FROM tally_write WHERE run = ?1 ORDER BY request LIMIT 1 OFFSET ?2),
    x'ffffffffffffffffffffffffffffffffff')";

/// Filters that were read, for all connections of a process: by the number of their run, and when the next one
/// began. In a file that was put back to what it had been, the same run ends at another moment.
pub(super) type Filters = Arc<Mutex<HashMap<(i64, Moment), Arc<Filter>>>>;

/// The runs as one connection knows them.
#[derive(Debug)]
pub(super) struct Records {
    /// How long records are kept at least, in milliseconds.
    window: i64,
    /// How many records end a run. Processes that share a file count their own, so a run may have as many of
    /// each.
    most: u64,
    /// In order; the last one takes records.
    runs: Vec<Run>,
    /// Records of the last run that this process knows of; `None` until they are counted.
    size: Option<u64>,
    /// Whether runs have to be read again, though the last one is the same.
    is_stale: bool,
    filters: Filters,
}

#[derive(Clone, Debug)]
struct Run {
    number: i64,
    began: Moment,
    /// Of a run that takes no more records; without one, its records are looked up.
    filter: Option<Arc<Filter>>,
}

impl Records {
    pub(super) fn new(window: Duration, most: u64, filters: Filters) -> Self {
        let window = milliseconds(window);
        Self { window, most, runs: Vec::new(), size: None, is_stale: true, filters }
    }

    /// Notices what other connections did. In a transaction that writes, the next run begins if it is
    /// time. To be called once in each transaction, before all else.
    pub(super) fn open(
        &mut self,
        database: &Database,
        now: Moment,
        writes: bool,
    ) -> rusqlite::Result<()> {
        let last: Option<(i64, Moment)> = database
            .prepare_cached(LAST)?
            .query_row([], |row| Ok((row.get(0)?, row.get(1)?)))
            .optional()?;
        let known = self.runs.last().map(|run| (run.number, run.began));
        if self.is_stale || known != last {
            self.read(database)?;
        }
        if !writes {
            return Ok(());
        }
        let Some((number, began)) = last else { return self.begin(database, 1, now) };
        let size = match self.size {
            Some(size) => size,
            None => {
                let count = |row: &rusqlite::Row<'_>| row.get::<_, i64>(0);
                let size = database.prepare_cached(COUNT)?.query_row([number], count)?;
                u64::try_from(size).unwrap_or(0)
            }
        };
        self.size = Some(size);
        let longest = self.window.checked_div(RUNS_PER_WINDOW).unwrap_or_default().max(1);
        // One that began in the future did so before the clock was put right.
        if size >= self.most || now.saturating_sub(began).saturating_abs() >= longest {
            set_filter(database, number)?;
            self.begin(database, number.saturating_add(1), now)?;
        }
        Ok(())
    }

    fn read(&mut self, database: &Database) -> rusqlite::Result<()> {
        let mut statement = database.prepare_cached(RUNS)?;
        let runs = statement.query_map([], |row| {
            Ok(Run { number: row.get(0)?, began: row.get(1)?, filter: None })
        })?;
        let mut runs = runs.collect::<rusqlite::Result<Vec<_>>>()?;
        let ends: Vec<(i64, Moment)> = runs
            .windows(2)
            .filter_map(|pair| Some((pair.first()?.number, pair.get(1)?.began)))
            .collect();
        let mut filters = self.filters.lock().unwrap_or_else(PoisonError::into_inner);
        filters.retain(|end, _| ends.contains(end));
        for (run, end) in runs.iter_mut().zip(ends) {
            if !filters.contains_key(&end)
                && let Some(filter) = stored_filter(database, run.number)?
            {
                filters.insert(end, Arc::new(filter));
            }
            run.filter = filters.get(&end).cloned();
        }
        drop(filters);
        self.runs = runs;
        self.size = None;
        self.is_stale = false;
        Ok(())
    }

    fn begin(&mut self, database: &Database, number: i64, now: Moment) -> rusqlite::Result<()> {
        database.prepare_cached(BEGIN)?.execute(params![number, now])?;
        self.runs.push(Run { number, began: now, filter: None });
        self.size = Some(0);
        // The transaction may be rolled back, and the filter is read once it is not.
        self.is_stale = true;
        Ok(())
    }

    /// The runs whose records count, the newest first.
    fn live(&self, now: Moment) -> impl Iterator<Item = &Run> {
        self.runs.iter().skip(self.expired(now)).rev()
    }

    /// How many of the runs have only records that have expired: those before the last one that began a window
    /// ago. A clock that was ahead for a while holds up only the run that began then.
    fn expired(&self, now: Moment) -> usize {
        let is_old = |run: &Run| now.saturating_sub(run.began) >= self.window;
        self.runs.iter().rposition(is_old).unwrap_or(0)
    }

    /// What is recorded of a write.
    pub(super) fn find(
        &self,
        database: &Database,
        write: &WriteId,
        now: Moment,
    ) -> rusqlite::Result<Found> {
        for run in self.live(now) {
            if run.filter.as_ref().is_some_and(|filter| !filter.may_hold(&write.request)) {
                continue;
            }
            let mut statement = database.prepare_cached(FIND)?;
            let mut rows = statement.query(params![run.number, write.request])?;
            let mut found = None;
            while let Some(row) = rows.next()? {
                if row.get::<_, u32>(1)? != write.fingerprint {
                    return Ok(Found::Reused);
                }
                if row.get::<_, i64>(0)? == write.write {
                    let (count, outcome) = match row.get_ref(2)? {
                        ValueRef::Integer(count) => (Some(count), None),
                        ValueRef::Blob(bytes) => (None, Some(bytes.to_vec().into())),
                        _ => (None, None),
                    };
                    found = Some(Record::stored(write.write, count, outcome));
                }
            }
            if let Some(record) = found {
                return Ok(Found::Record(record));
            }
        }
        Ok(Found::Nothing)
    }

    /// Records a write that has no record.
    pub(super) fn record(
        &mut self,
        database: &Database,
        write: &WriteId,
        record: &Record,
    ) -> rusqlite::Result<()> {
        let run = self.runs.last().map_or(0, |run| run.number);
        let mut statement = database.prepare_cached(RECORD)?;
        let WriteId { request, fingerprint, write } = write;
        match record.columns() {
            (Some(count), _) => {
                statement.execute(params![run, request, write, fingerprint, count])?
            }
            (None, bytes) => statement.execute(params![run, request, write, fingerprint, bytes])?,
        };
        self.size = self.size.map(|size| size.saturating_add(1));
        Ok(())
    }

    /// Removes records that have expired, up to a number of them; whether there are more. Sees to a
    /// run that has no filter, one at a time.
    pub(super) fn sweep(&mut self, database: &Database, now: Moment) -> rusqlite::Result<bool> {
        while self.expired(now) > 0
            && let Some(first) = self.runs.first()
        {
            let number = first.number;
            let rows = i64::try_from(SWEEP_RECORDS).unwrap_or(i64::MAX);
            let removed = database.prepare_cached(REMOVE)?.execute(params![number, rows])?;
            if removed >= SWEEP_RECORDS {
                return Ok(true);
            }
            for table in ["tally_write_filter", "tally_write_run"] {
                let remove = format!("DELETE FROM {table} WHERE run = ?1");
                database.prepare_cached(&remove)?.execute([number])?;
            }
            self.runs.remove(0);
            // This may be rolled back.
            self.is_stale = true;
        }
        let ended = self.runs.split_last().map_or(&[][..], |(_, ended)| ended);
        for run in ended.iter().filter(|run| run.filter.is_none()) {
            self.is_stale = true;
            if stored_filter(database, run.number)?.is_none() {
                set_filter(database, run.number)?;
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// Makes the filter of a run that takes no more records.
fn set_filter(database: &Database, run: i64) -> rusqlite::Result<()> {
    let mut statement = database.prepare_cached(REQUESTS)?;
    let requests = statement.query_map([run], |row| row.get::<_, Digest>(0))?;
    let filter = Filter::of(&requests.collect::<rusqlite::Result<Vec<_>>>()?);
    database.prepare_cached(SET_FILTER)?.execute(params![run, filter.bytes()])?;
    Ok(())
}

fn stored_filter(database: &Database, run: i64) -> rusqlite::Result<Option<Filter>> {
    let mut statement = database.prepare_cached(FILTER)?;
    let bytes = statement.query_row([run], |row| row.get::<_, Vec<u8>>(0)).optional()?;
    Ok(bytes.as_deref().and_then(Filter::stored))
}

#[cfg(test)]
mod tests;
