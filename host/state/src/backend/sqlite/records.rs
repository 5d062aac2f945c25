//! What is recorded of writes: four tables that take turns.
//!
//! One table takes new records for half of the time that they are kept, then the next one does.
//! When a table's turn comes again, its records are one and a half times that old, and have been
//! removed. So a record needs no column and no index for its age, and records are removed in the
//! order in which they lie in the file, many to a page.
//!
//! All this happens in the transactions that write, so processes that share a file agree on it.

use std::fmt::Write as _;

use rusqlite::{Connection as Database, OptionalExtension as _, params, types::ValueRef};

use crate::{
    idempotency::{Record, WriteId},
    semantics::{Found, Moment},
};

/// How many tables take turns: one takes records, two are old enough to be read only, and one is
/// being emptied.
const SLOTS: usize = 4;

/// The tables, and since when each has taken records; the latest is the one that does.
pub(super) const TABLES: &str = "
CREATE TABLE IF NOT EXISTS tally_write_slots (
    slot INTEGER PRIMARY KEY,
    began INTEGER NOT NULL
);
CREATE TABLE IF NOT EXISTS tally_write_0 (
    request BLOB NOT NULL, write INTEGER NOT NULL, fingerprint INTEGER NOT NULL, outcome NOT NULL,
    PRIMARY KEY (request, write)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS tally_write_1 (
    request BLOB NOT NULL, write INTEGER NOT NULL, fingerprint INTEGER NOT NULL, outcome NOT NULL,
    PRIMARY KEY (request, write)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS tally_write_2 (
    request BLOB NOT NULL, write INTEGER NOT NULL, fingerprint INTEGER NOT NULL, outcome NOT NULL,
    PRIMARY KEY (request, write)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS tally_write_3 (
    request BLOB NOT NULL, write INTEGER NOT NULL, fingerprint INTEGER NOT NULL, outcome NOT NULL,
    PRIMARY KEY (request, write)) WITHOUT ROWID;";

const BEGAN: &str = "SELECT slot, began FROM tally_write_slots ORDER BY slot";
const BEGIN: &str = "INSERT INTO tally_write_slots (slot, began) VALUES (?1, ?2)
    ON CONFLICT (slot) DO UPDATE SET began = excluded.began";

/// The tables as a transaction sees them.
#[derive(Debug)]
pub(super) struct Records {
    /// Since when each has taken records; `None` before its first turn.
    began: [Option<Moment>; SLOTS],
    current: usize,
    find: String,
    record: String,
}

impl Records {
    /// Reads which tables there are records in. In a transaction that writes, the next table's turn
    /// begins if it is time.
    pub(super) fn open(
        database: &Database,
        now: Moment,
        window: i64,
        writes: bool,
    ) -> rusqlite::Result<Self> {
        let mut began = [None; SLOTS];
        let mut rows = database.prepare_cached(BEGAN)?;
        let mut rows = rows.query([])?;
        while let Some(row) = rows.next()? {
            let slot = usize::from(row.get::<_, u8>(0)?);
            if let Some(slot) = began.get_mut(slot) {
                *slot = row.get(1)?;
            }
        }
        let latest = began.iter().enumerate().max_by_key(|(_, began)| **began);
        let mut current = latest.map_or(0, |(slot, _)| slot);
        let last: Option<Moment> = began.get(current).copied().flatten();
        let half = window.checked_div(2).unwrap_or_default().max(1);
        let is_due = last.is_none_or(|last| now.saturating_sub(last) >= half);
        if writes && is_due {
            let next = if last.is_none() { 0 } else { after(current) };
            // One that is not emptied yet keeps its turn waiting: nothing is forgotten too early.
            if is_empty(database, next)? {
                database
                    .prepare_cached(BEGIN)?
                    .execute(params![i64::try_from(next).unwrap_or(0), now])?;
                current = next;
                if let Some(slot) = began.get_mut(next) {
                    *slot = Some(now);
                }
            }
        }
        let mut find = String::new();
        for slot in (0..SLOTS).filter(|slot| began.get(*slot).is_some_and(Option::is_some)) {
            let all = if find.is_empty() { "" } else { " UNION ALL " };
            // Writing to a string does not fail.
            let _ = write!(
                find,
                "{all}SELECT write, fingerprint, outcome FROM tally_write_{slot} WHERE request = ?1"
            );
        }
        let record = format!(
            "INSERT INTO tally_write_{current} (request, write, fingerprint, outcome) VALUES (?1, ?2, ?3, ?4)"
        );
        Ok(Self { began, current, find, record })
    }

    /// What is recorded of a write.
    pub(super) fn find(&self, database: &Database, write: &WriteId) -> rusqlite::Result<Found> {
        if self.find.is_empty() {
            return Ok(Found::Nothing);
        }
        let mut statement = database.prepare_cached(&self.find)?;
        let mut rows = statement.query(params![write.request])?;
        let mut found = Found::Nothing;
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
                found = Found::Record(Record::stored(write.write, count, outcome));
            }
        }
        Ok(found)
    }

    /// Records a write that has no record.
    pub(super) fn record(
        &self,
        database: &Database,
        write: &WriteId,
        record: &Record,
    ) -> rusqlite::Result<()> {
        let mut statement = database.prepare_cached(&self.record)?;
        let WriteId { request, fingerprint, write } = write;
        match record.columns() {
            (Some(count), _) => statement.execute(params![request, write, fingerprint, count])?,
            (None, bytes) => statement.execute(params![request, write, fingerprint, bytes])?,
        };
        Ok(())
    }

    /// Removes records that have expired, up to a number of them; whether there are more.
    pub(super) fn sweep(
        &self,
        database: &Database,
        now: Moment,
        window: i64,
        limit: usize,
    ) -> rusqlite::Result<bool> {
        for slot in (0..SLOTS).filter(|slot| *slot != self.current) {
            // The youngest records of a table are as old as the next one's turn.
            let next = self.began.get(after(slot)).copied().flatten();
            let is_taken = self.began.get(slot).is_some_and(Option::is_some);
            let is_over = next.is_some_and(|next| now.saturating_sub(next) >= window);
            if !is_taken || !is_over {
                continue;
            }
            let rows = i64::try_from(limit).unwrap_or(i64::MAX);
            let removed = database
                .prepare_cached(&format!(
                    "DELETE FROM tally_write_{slot} WHERE (request, write) IN
                        (SELECT request, write FROM tally_write_{slot} LIMIT ?1)"
                ))?
                .execute(params![rows])?;
            if removed >= limit {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

fn after(slot: usize) -> usize {
    slot.saturating_add(1).checked_rem(SLOTS).unwrap_or(0)
}

fn is_empty(database: &Database, slot: usize) -> rusqlite::Result<bool> {
    let first: Option<i64> = database
        .prepare_cached(&format!("SELECT 1 FROM tally_write_{slot} LIMIT 1"))?
        .query_row([], |row| row.get(0))
        .optional()?;
    Ok(first.is_none())
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW: i64 = 100;

    fn database() -> Database {
        let database = Database::open_in_memory().unwrap();
        database.execute_batch(TABLES).unwrap();
        database
    }

    fn id(moment: Moment) -> WriteId {
        WriteId { request: i128::from(moment).to_be_bytes(), fingerprint: 1, write: 3 }
    }

    #[test]
    fn records_are_kept_for_their_time_and_removed_soon_after() {
        let database = database();
        for now in 0..1_000 {
            let records = Records::open(&database, now, WINDOW, true).unwrap();
            records.record(&database, &id(now), &Record::Count(now)).unwrap();
            while records.sweep(&database, now, WINDOW, 7).unwrap() {}
            for past in 0..=now {
                let found = records.find(&database, &id(past)).unwrap();
                if now - past < WINDOW {
                    assert_eq!(found, Found::Record(Record::Count(past)), "{past} at {now}");
                } else if now - past > WINDOW * 3 / 2 {
                    assert_eq!(found, Found::Nothing, "{past} at {now}");
                }
            }
        }
    }

    #[test]
    fn a_table_that_is_not_emptied_keeps_its_turn_waiting() {
        let database = database();
        for now in 0..1_000 {
            let records = Records::open(&database, now, WINDOW, true).unwrap();
            records.record(&database, &id(now), &Record::Count(now)).unwrap();
        }
        let records = Records::open(&database, 1_000, WINDOW, true).unwrap();
        assert_eq!(records.find(&database, &id(0)).unwrap(), Found::Record(Record::Count(0)));
        assert_eq!(records.current, 3, "the first is not empty");
        while records.sweep(&database, 1_000, WINDOW, 50).unwrap() {}
        let records = Records::open(&database, 1_001, WINDOW, true).unwrap();
        assert_eq!(records.current, 0);
        assert_eq!(records.find(&database, &id(0)).unwrap(), Found::Nothing);
    }

    #[test]
    fn another_request_of_the_name_is_noticed_whatever_it_writes() {
        let database = database();
        let records = Records::open(&database, 0, WINDOW, true).unwrap();
        records.record(&database, &id(1), &Record::Count(1)).unwrap();
        let find = |write| records.find(&database, &write).unwrap();
        assert_eq!(find(WriteId { write: 4, ..id(1) }), Found::Nothing);
        assert_eq!(find(WriteId { write: 4, fingerprint: 2, ..id(1) }), Found::Reused);
    }
}
