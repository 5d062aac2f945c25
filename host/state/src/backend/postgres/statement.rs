//! The SQL: the table, and one prepared statement for each kind of step.
//!
//! A value that looks like a counter is stored as `number`, any other as `value`, so that adding
//! needs no parsing, a hot row stays small, and the counters can be read and changed with plain
//! SQL. There is no index on either, and pages keep room, so that an update of a hot row stays on
//! its page (heap-only tuples).

use std::{collections::HashMap, time::Duration};

use bytes::Bytes;
use tokio_postgres::{Client, Error, Row, Statement, types::ToSql};

use super::{Answer, Failure, Placed};
use crate::{
    Page, counter,
    operation::{Action, Outcome, Step},
};

/// Serializes the creation of the table between hosts that start at once. Any constant does; this
/// one is "tally_kv" in ASCII.
const CREATE_LOCK: i64 = 0x7461_6c6c_795f_6b76;

const CREATE: &str = r#"
CREATE TABLE IF NOT EXISTS tally_kv (
    bucket text COLLATE "C" NOT NULL,
    key text COLLATE "C" NOT NULL,
    number bigint,
    value bytea,
    PRIMARY KEY (bucket, key),
    CHECK (num_nonnulls(number, value) = 1)
) WITH (fillfactor = 70)"#;

const READ: &str = r#"
SELECT t.bucket, t.key, t.number, CASE WHEN u.wanted THEN t.value END
FROM unnest($1::text[], $2::text[], $3::bool[]) AS u(bucket, key, wanted)
JOIN tally_kv t ON t.bucket = u.bucket AND t.key = u.key"#;

// A row that holds no number, or would overflow, is left alone and not returned.
const INCREMENT: &str = r#"
INSERT INTO tally_kv AS t (bucket, key, number)
SELECT bucket, key, delta
FROM unnest($1::text[], $2::text[], $3::bigint[]) AS u(bucket, key, delta)
ORDER BY bucket COLLATE "C", key COLLATE "C"
ON CONFLICT (bucket, key) DO UPDATE SET number = t.number + excluded.number
WHERE t.number IS NOT NULL AND CASE
    WHEN excluded.number >= 0 THEN t.number <= 9223372036854775807 - excluded.number
    ELSE t.number >= -9223372036854775808 - excluded.number
END
RETURNING bucket, key, number"#;

const SET: &str = r#"
INSERT INTO tally_kv (bucket, key, number, value)
SELECT bucket, key, number, value
FROM unnest($1::text[], $2::text[], $3::bigint[], $4::bytea[]) AS u(bucket, key, number, value)
ORDER BY bucket COLLATE "C", key COLLATE "C"
ON CONFLICT (bucket, key) DO UPDATE SET number = excluded.number, value = excluded.value"#;

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

const INSERT_MISSING: &str = r#"
INSERT INTO tally_kv (bucket, key, number, value) VALUES ($1, $2, $3, $4)
ON CONFLICT (bucket, key) DO NOTHING"#;

const SWAP: &str = r#"
UPDATE tally_kv SET number = $3, value = $4
WHERE bucket = $1 AND key = $2
    AND number IS NOT DISTINCT FROM $5 AND value IS NOT DISTINCT FROM $6"#;

const LIST: &str = r#"
SELECT key FROM tally_kv WHERE bucket = $1 AND key > $2 ORDER BY key LIMIT $3"#;

/// What is set in each session: limits on the server's side, inside the lane's own limit, and
/// durability even where the database's default is weaker.
pub(super) fn session(timeout: Duration) -> String {
    let milliseconds = timeout.as_millis();
    let part = |share: u128| milliseconds.saturating_mul(share).checked_div(10).unwrap_or(1).max(1);
    format!(
        "SET statement_timeout = {}; SET lock_timeout = {};
         SELECT set_config('synchronous_commit', 'on', false)
         WHERE current_setting('synchronous_commit') = 'off'",
        part(8),
        part(4)
    )
}

/// Creates the table if it is not there, safely while other hosts do the same. A user without the
/// right to create tables can use one that exists.
pub(super) async fn create_table(client: &Client) -> Result<(), Error> {
    let exists: bool =
        client.query_one("SELECT to_regclass('tally_kv') IS NOT NULL", &[]).await?.try_get(0)?;
    if !exists {
        client
            .batch_execute(&format!(
                "BEGIN; SELECT pg_advisory_xact_lock({CREATE_LOCK}); {CREATE}; COMMIT"
            ))
            .await?;
    }
    Ok(())
}

/// What weakens "committed means durable" on this server.
pub(super) async fn durability_warning(client: &Client) -> Result<Option<String>, Error> {
    let row = client
        .query_one("SELECT current_setting('fsync'), current_setting('server_encoding')", &[])
        .await?;
    let (fsync, encoding): (String, String) = (row.try_get(0)?, row.try_get(1)?);
    if fsync == "off" {
        return Ok(Some(
            "the server runs with fsync=off: acknowledged writes are lost when its machine crashes"
                .into(),
        ));
    }
    Ok((encoding != "UTF8").then(|| {
        format!("the database's encoding is {encoding}: names with characters outside it are refused; use a database with encoding UTF8")
    }))
}

/// The statements of one connection.
pub(super) struct Statements {
    read: Statement,
    increment: Statement,
    set: Statement,
    delete: Statement,
    insert_missing: Statement,
    swap: Statement,
    list: Statement,
}

impl Statements {
    pub(super) async fn prepare(client: &Client) -> Result<Self, Error> {
        let (read, increment, set, delete, insert_missing, swap, list) = tokio::try_join!(
            client.prepare(READ),
            client.prepare(INCREMENT),
            client.prepare(SET),
            client.prepare(DELETE),
            client.prepare(INSERT_MISSING),
            client.prepare(SWAP),
            client.prepare(LIST),
        )?;
        Ok(Self { read, increment, set, delete, insert_missing, swap, list })
    }

    /// The new counts, one for each step; `None` where nothing was changed.
    pub(super) async fn increment(
        &self,
        client: &Client,
        steps: &[Placed<'_>],
    ) -> Result<Vec<Option<i64>>, Failure> {
        let deltas: Vec<i64> = steps
            .iter()
            .map(|(_, step)| match step.action {
                Action::Increment(delta) => delta,
                _ => 0,
            })
            .collect();
        let (buckets, keys) = columns(steps);
        let rows = client.query(&self.increment, &[&buckets, &keys, &deltas]).await?;
        let mut counts = HashMap::with_capacity(rows.len());
        for row in &rows {
            counts.insert(place(row)?, row.try_get(2)?);
        }
        Ok(steps.iter().map(|(_, step)| counts.get(&name(step)).copied()).collect())
    }

    /// Answers `Get` and `Exists`.
    pub(super) async fn read(
        &self,
        client: &Client,
        steps: &[Placed<'_>],
    ) -> Result<Vec<Answer>, Failure> {
        let wanted: Vec<bool> =
            steps.iter().map(|(_, step)| matches!(step.action, Action::Get)).collect();
        let (buckets, keys) = columns(steps);
        let rows = client.query(&self.read, &[&buckets, &keys, &wanted]).await?;
        let mut values = HashMap::with_capacity(rows.len());
        for row in &rows {
            values.insert(place(row)?, stored(row)?);
        }
        Ok(steps
            .iter()
            .map(|(_, step)| {
                let value = values.get(&name(step));
                Ok(match step.action {
                    Action::Exists => Outcome::Exists(value.is_some()),
                    _ => Outcome::Value(value.cloned().flatten()),
                })
            })
            .collect())
    }

    pub(super) async fn set(
        &self,
        client: &Client,
        steps: &[Placed<'_>],
    ) -> Result<Vec<Answer>, Failure> {
        let (numbers, values): (Vec<_>, Vec<_>) = steps
            .iter()
            .map(|(_, step)| match &step.action {
                Action::Set(value) => split(value),
                _ => (None, None),
            })
            .unzip();
        let (buckets, keys) = columns(steps);
        client.execute(&self.set, &[&buckets, &keys, &numbers, &values]).await?;
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

    /// Whether the key held what was expected and was changed.
    pub(super) async fn swap(
        &self,
        client: &Client,
        step: &Step,
        expected: Option<&[u8]>,
        value: &[u8],
    ) -> Result<bool, Failure> {
        let (bucket, key) = name(step);
        let (number, value) = split(value);
        let mut parameters: Vec<&(dyn ToSql + Sync)> = vec![&bucket, &key, &number, &value];
        let expected = expected.map(split);
        let statement = match &expected {
            None => &self.insert_missing,
            Some((expected_number, expected_value)) => {
                parameters.extend([expected_number as &(dyn ToSql + Sync), expected_value]);
                &self.swap
            }
        };
        Ok(client.execute(statement, &parameters).await? == 1)
    }

    /// The value of one key.
    pub(super) async fn get(&self, client: &Client, step: &Step) -> Result<Option<Bytes>, Error> {
        let (bucket, key) = name(step);
        let row = client
            .query_opt(&self.read, &[&[bucket].as_slice(), &[key].as_slice(), &[true].as_slice()])
            .await?;
        row.map_or(Ok(None), |row| stored(&row))
    }

    /// Keys in order; the cursor is the last key of the page before.
    pub(super) async fn list(
        &self,
        client: &Client,
        step: &Step,
        cursor: Option<&str>,
        limit: usize,
    ) -> Result<Page, Failure> {
        let (bucket, _) = name(step);
        let rows = i64::try_from(limit.saturating_add(1)).unwrap_or(i64::MAX);
        let rows = client.query(&self.list, &[&bucket, &cursor.unwrap_or_default(), &rows]).await?;
        let mut keys: Vec<String> =
            rows.iter().map(|row| row.try_get(0)).collect::<Result<_, Error>>()?;
        let more = keys.len() > limit;
        keys.truncate(limit);
        let cursor = if more { keys.last().cloned() } else { None };
        Ok(Page { keys, cursor })
    }
}

fn name(step: &Step) -> (&str, &str) {
    (step.bucket.as_str(), &step.key)
}

fn columns<'a>(steps: &[Placed<'a>]) -> (Vec<&'a str>, Vec<&'a str>) {
    steps.iter().map(|(_, step)| name(step)).unzip()
}

/// Bucket and key of a row, which are its first columns.
fn place(row: &Row) -> Result<(&str, &str), Error> {
    Ok((row.try_get(0)?, row.try_get(1)?))
}

/// Number and value of a row, which follow its name. `None` is a value that was not asked for.
fn stored(row: &Row) -> Result<Option<Bytes>, Error> {
    if let Some(number) = row.try_get::<_, Option<i64>>(2)? {
        return Ok(Some(counter::format(number).into()));
    }
    Ok(row.try_get::<_, Option<&[u8]>>(3)?.map(Bytes::copy_from_slice))
}

/// A value as its two columns, of which exactly one is set.
fn split(value: &[u8]) -> (Option<i64>, Option<&[u8]>) {
    match counter::parse(value) {
        Some(number) => (Some(number), None),
        None => (None, Some(value)),
    }
}
