//! The SQL: the tables, and one prepared statement for each kind of step that needs no transaction
//! of several.
//!
//! A value that looks like a counter is stored as `number`, any other as `value`, so that adding
//! needs no parsing, a hot row stays small, and the counters can be read and changed with plain
//! SQL. There is no index on either, and pages keep room, so that an update of a hot row stays on
//! its page (heap-only tuples).

use std::{collections::HashMap, time::Duration};

use bytes::Bytes;
use tokio_postgres::{Client, Error, Row, Statement, types::ToSql};

use super::{
    Answer, Failure, Placed,
    records::{self, Records},
    transaction::Transaction,
};
use crate::{
    Page,
    backend::prefix_end,
    counter,
    idempotency::not_read,
    operation::{Action, Outcome, Step, TimeToLive},
    semantics,
};

/// Serializes the creation of the table between hosts that start at once. Any constant does; this
/// one is "tally_kv" in ASCII.
const CREATE_LOCK: i64 = 0x7461_6c6c_795f_6b76;

/// The tables and what earlier versions' lack. `expires`, as all moments, is in milliseconds since
/// 1970 (UTC).
const CREATE: &str = r#"
CREATE TABLE IF NOT EXISTS tally_kv (
    bucket text COLLATE "C" NOT NULL,
    key text COLLATE "C" NOT NULL,
    number bigint,
    value bytea,
    expires bigint,
    PRIMARY KEY (bucket, key),
    CHECK (num_nonnulls(number, value) = 1)
) WITH (fillfactor = 70);
ALTER TABLE tally_kv ADD COLUMN IF NOT EXISTS expires bigint;
CREATE INDEX IF NOT EXISTS tally_kv_expires ON tally_kv (expires) WHERE expires IS NOT NULL;"#;

const IS_COMPLETE: &str = "
SELECT to_regclass('tally_write') IS NOT NULL AND EXISTS (
    SELECT FROM pg_attribute
    WHERE attrelid = to_regclass('tally_kv') AND attname = 'expires' AND NOT attisdropped
)";

/// The moment at which the statement's transaction began, by the server's clock: one for all hosts.
macro_rules! now {
    () => {
        "(extract(epoch FROM now()) * 1000)::bigint"
    };
}

const READ: &str = concat!(
    r#"
SELECT t.bucket, t.key, t.number, CASE WHEN u.wanted THEN t.value END, t.expires - "#,
    now!(),
    r#"
FROM unnest($1::text[], $2::text[], $3::bool[]) AS u(bucket, key, wanted)
JOIN tally_kv t ON t.bucket = u.bucket AND t.key = u.key
WHERE t.expires IS NULL OR t.expires > "#,
    now!()
);

/// Adds to the row that is there. One that holds no number, would overflow, or has expired, is left alone
/// and not returned.
macro_rules! increment_held {
    () => {
        concat!(
            "
ON CONFLICT (bucket, key) DO UPDATE SET number = t.number + excluded.number
WHERE t.number IS NOT NULL AND CASE
    WHEN excluded.number >= 0 THEN t.number <= 9223372036854775807 - excluded.number
    ELSE t.number >= -9223372036854775808 - excluded.number
END AND (t.expires IS NULL OR t.expires > ",
            now!(),
            ")"
        )
    };
}

const INCREMENT: &str = concat!(
    r#"
INSERT INTO tally_kv AS t (bucket, key, number, expires)
SELECT bucket, key, delta, "#,
    now!(),
    r#" + ttl
FROM unnest($1::text[], $2::text[], $3::bigint[], $4::bigint[]) AS u(bucket, key, delta, ttl)
ORDER BY bucket COLLATE "C", key COLLATE "C"
"#,
    increment_held!(),
    r#"
RETURNING bucket, key, number"#
);

// The same for one row to live for ever, which is what a hot counter takes: less work for the server
// than arrays.
const INCREMENT_ONE: &str = concat!(
    r#"
INSERT INTO tally_kv AS t (bucket, key, number) VALUES ($1, $2, $3)
"#,
    increment_held!(),
    r#"
RETURNING number"#
);

const SET: &str = concat!(
    r#"
INSERT INTO tally_kv (bucket, key, number, value, expires)
SELECT bucket, key, number, value, "#,
    now!(),
    r#" + ttl
FROM unnest($1::text[], $2::text[], $3::bigint[], $4::bytea[], $5::bigint[])
    AS u(bucket, key, number, value, ttl)
ORDER BY bucket COLLATE "C", key COLLATE "C"
ON CONFLICT (bucket, key) DO UPDATE
SET number = excluded.number, value = excluded.value, expires = excluded.expires"#
);

// The rows are locked in order first; a plain DELETE would lock them in any.
const DELETE: &str = r#"
WITH locked AS (
    SELECT t.bucket, t.key
    FROM tally_kv t
    JOIN unnest($1::text[], $2::text[]) AS u(bucket, key)
        ON t.bucket = u.bucket AND t.key = u.key
    ORDER BY t.bucket, t.key
    FOR UPDATE OF t
)
DELETE FROM tally_kv t USING locked WHERE t.bucket = locked.bucket AND t.key = locked.key"#;

const LIST: &str = concat!(
    r#"
SELECT key FROM tally_kv
WHERE bucket = $1 AND key > $2 AND key >= $3 AND ($4::text IS NULL OR key < $4)
    AND (expires IS NULL OR expires > "#,
    now!(),
    r#")
ORDER BY key LIMIT $5"#
);

// Rows that somebody holds are left for the next time.
const SWEEP_VALUES: &str = concat!(
    r#"
DELETE FROM tally_kv WHERE ctid = ANY(ARRAY(
    SELECT ctid FROM tally_kv WHERE expires <= "#,
    now!(),
    r#"
    LIMIT $1 FOR UPDATE SKIP LOCKED))"#
);
/// What is set in each session: limits on the server's side, inside the lane's own limit, and
/// durability even where the database's default is weaker. A transaction whose host has frozen, or
/// is cut off, ends and lets go of its locks before another host has waited for them too long. Where
/// users begin with a stricter isolation, statements on a hot row would fail rather than wait.
pub(super) fn session(timeout: Duration) -> String {
    format!(
        "SET statement_timeout = {}; {};
         SET idle_in_transaction_session_timeout = {};
         SET default_transaction_isolation = 'read committed';
         {};
         SELECT set_config('synchronous_commit', 'on', false)
         WHERE current_setting('synchronous_commit') = 'off'",
        part(timeout, 8),
        patience(timeout),
        part(timeout, 2),
        records::SESSION
    )
}

/// How long a statement waits for a row that another session holds: longer than hosts that share a
/// hot row take, however many they are.
pub(super) fn patience(timeout: Duration) -> String {
    lock_timeout(part(timeout, 3))
}

/// The same for a step whose row may be the one that has been waited for already.
pub(super) fn impatience() -> String {
    lock_timeout(50)
}

fn lock_timeout(milliseconds: u128) -> String {
    format!("SET lock_timeout = {milliseconds}")
}

/// Some tenths of a time limit, in milliseconds.
fn part(timeout: Duration, tenths: u128) -> u128 {
    timeout.as_millis().saturating_mul(tenths).checked_div(10).unwrap_or(1).max(1)
}

/// Creates the tables if they are not there, safely while other hosts do the same. A user without
/// the right to create tables can use those that exist.
pub(super) async fn create_tables(client: &Client) -> Result<(), Error> {
    let is_complete: bool = client.query_one(IS_COMPLETE, &[]).await?.try_get(0)?;
    if !is_complete {
        client
            .batch_execute(&format!(
                "BEGIN; SELECT pg_advisory_xact_lock({CREATE_LOCK}); {CREATE}; {}; COMMIT",
                records::CREATE
            ))
            .await?;
    }
    Ok(())
}

/// What weakens "committed means durable" on this server.
pub(super) async fn durability_warning(client: &Client) -> Result<Option<String>, Error> {
    let row = client
        .query_one(
            "SELECT current_setting('fsync'), current_setting('server_encoding'), to_regclass('tally_once') IS NOT NULL",
            &[],
        )
        .await?;
    let (fsync, encoding): (String, String) = (row.try_get(0)?, row.try_get(1)?);
    let mut warnings = Vec::new();
    if fsync == "off" {
        warnings.push(
            "the server runs with fsync=off: acknowledged writes are lost when its machine crashes"
                .into(),
        );
    }
    if encoding != "UTF8" {
        warnings.push(format!("the database's encoding is {encoding}: names with characters outside it are refused; use a database with encoding UTF8"));
    }
    if row.try_get(2)? {
        warnings.push(not_read("tally_once"));
    }
    Ok((!warnings.is_empty()).then(|| warnings.join("; ")))
}

/// The statements of one connection.
pub(super) struct Statements {
    read: Statement,
    increment: Statement,
    increment_one: Statement,
    set: Statement,
    delete: Statement,
    list: Statement,
    sweep_values: Statement,
    pub(super) records: Records,
    pub(super) transaction: Transaction,
}

impl Statements {
    pub(super) async fn prepare(client: &Client) -> Result<Self, Error> {
        let (read, increment, increment_one, set, delete, list, sweep_values, records, transaction) =
            tokio::try_join!(
                client.prepare(READ),
                client.prepare(INCREMENT),
                client.prepare(INCREMENT_ONE),
                client.prepare(SET),
                client.prepare(DELETE),
                client.prepare(LIST),
                client.prepare(SWEEP_VALUES),
                Records::prepare(client),
                Transaction::prepare(client),
            )?;
        Ok(Self {
            read,
            increment,
            increment_one,
            set,
            delete,
            list,
            sweep_values,
            records,
            transaction,
        })
    }

    /// The new counts, one for each step; `None` where nothing was changed.
    pub(super) async fn increment(
        &self,
        client: &Client,
        steps: &[Placed<'_>],
    ) -> Result<Vec<Option<i64>>, Failure> {
        let delta = |step: &Step| match step.action {
            Action::Increment { delta, .. } => delta,
            _ => 0,
        };
        if let [(_, step)] = steps
            && step.action.ttl().is_none()
        {
            let parameters: [&(dyn ToSql + Sync); 3] =
                [&step.bucket.as_str(), &&*step.key, &delta(step)];
            let row = client.query_opt(&self.increment_one, &parameters).await?;
            return Ok(vec![row.map(|row| row.try_get(0)).transpose()?]);
        }
        let deltas: Vec<i64> = steps.iter().map(|(_, step)| delta(step)).collect();
        let ttls = ttls(steps);
        let (buckets, keys) = columns(steps);
        let rows = client.query(&self.increment, &[&buckets, &keys, &deltas, &ttls]).await?;
        let mut counts = HashMap::with_capacity(rows.len());
        for row in &rows {
            counts.insert(place(row)?, row.try_get(2)?);
        }
        Ok(steps.iter().map(|(_, step)| counts.get(&name(step)).copied()).collect())
    }

    /// Answers `Get`, `Exists` and `TimeToLive`.
    pub(super) async fn read(
        &self,
        client: &Client,
        steps: &[Placed<'_>],
    ) -> Result<Vec<Answer>, Failure> {
        let wanted: Vec<bool> =
            steps.iter().map(|(_, step)| matches!(step.action, Action::Get)).collect();
        let (buckets, keys) = columns(steps);
        let rows = client.query(&self.read, &[&buckets, &keys, &wanted]).await?;
        let mut found = HashMap::with_capacity(rows.len());
        for row in &rows {
            found.insert(place(row)?, (stored(row)?, row.try_get::<_, Option<i64>>(4)?));
        }
        Ok(steps
            .iter()
            .map(|(_, step)| {
                let found = found.get(&name(step));
                Ok(match step.action {
                    Action::Exists => Outcome::Flag(found.is_some()),
                    Action::TimeToLive => Outcome::TimeToLive(match found {
                        None => TimeToLive::Missing,
                        Some((_, None)) => TimeToLive::Unlimited,
                        Some((_, Some(milliseconds))) => semantics::left(*milliseconds),
                    }),
                    _ => Outcome::Value(found.and_then(|(value, _)| value.clone())),
                })
            })
            .collect())
    }

    /// Removes values that have expired; whether there are more.
    pub(super) async fn sweep(&self, client: &Client, limit: usize) -> Result<bool, Failure> {
        let rows = i64::try_from(limit).unwrap_or(i64::MAX);
        let values = client.execute(&self.sweep_values, &[&rows]).await?;
        Ok(values >= limit as u64)
    }

    pub(super) async fn set(
        &self,
        client: &Client,
        steps: &[Placed<'_>],
    ) -> Result<Vec<Answer>, Failure> {
        let (numbers, values): (Vec<_>, Vec<_>) = steps
            .iter()
            .map(|(_, step)| step.action.value().map_or((None, None), |v| split(v)))
            .unzip();
        let ttls = ttls(steps);
        let (buckets, keys) = columns(steps);
        client.execute(&self.set, &[&buckets, &keys, &numbers, &values, &ttls]).await?;
        Ok(steps.iter().map(|_| Ok(Outcome::Done)).collect())
    }

    pub(super) async fn delete(
        &self,
        client: &Client,
        steps: &[Placed<'_>],
    ) -> Result<Vec<Answer>, Failure> {
        let (buckets, keys) = columns(steps);
        client.execute(&self.delete, &[&buckets, &keys]).await?;
        Ok(steps.iter().map(|_| Ok(Outcome::Done)).collect())
    }

    /// Keys in order; the cursor is the last key of the page before.
    pub(super) async fn list(
        &self,
        client: &Client,
        step: &Step,
        prefix: &str,
        cursor: Option<&str>,
        limit: usize,
    ) -> Result<Page, Failure> {
        let (bucket, _) = name(step);
        let rows = i64::try_from(limit.saturating_add(1)).unwrap_or(i64::MAX);
        let (after, end) = (cursor.unwrap_or_default(), prefix_end(prefix));
        let rows = client.query(&self.list, &[&bucket, &after, &prefix, &end, &rows]).await?;
        let mut keys: Vec<String> =
            rows.iter().map(|row| row.try_get(0)).collect::<Result<_, Error>>()?;
        let more = keys.len() > limit;
        keys.truncate(limit);
        let cursor = if more { keys.last().cloned() } else { None };
        Ok(Page { keys, cursor })
    }
}

pub(super) fn name(step: &Step) -> (&str, &str) {
    (step.bucket.as_str(), &step.key)
}

/// Times to live, in milliseconds.
fn ttls(steps: &[Placed<'_>]) -> Vec<Option<i64>> {
    steps.iter().map(|(_, step)| step.action.ttl().map(semantics::milliseconds)).collect()
}

fn columns<'a>(steps: &[Placed<'a>]) -> (Vec<&'a str>, Vec<&'a str>) {
    steps.iter().map(|(_, step)| name(step)).unzip()
}

/// Bucket and key of a row, which are its first columns.
pub(super) fn place(row: &Row) -> Result<(&str, &str), Error> {
    Ok((row.try_get(0)?, row.try_get(1)?))
}

/// Number and value of a row, which follow its name. `None` is a value that was not asked for.
pub(super) fn stored(row: &Row) -> Result<Option<Bytes>, Error> {
    if let Some(number) = row.try_get::<_, Option<i64>>(2)? {
        return Ok(Some(counter::format(number).into()));
    }
    Ok(row.try_get::<_, Option<&[u8]>>(3)?.map(Bytes::copy_from_slice))
}

/// A value as its two columns, of which exactly one is set.
pub(super) fn split(value: &[u8]) -> (Option<i64>, Option<&[u8]>) {
    match counter::parse(value) {
        Some(number) => (Some(number), None),
        None => (None, Some(value)),
    }
}
