//! Steps that share a transaction: those that no single statement does, and several of one key.
//!
//! Two exchanges. The first locks the rows of all keys, in the global order, and reads them and what
//! is recorded of the steps' writes. Then the steps are applied here, in order, by the same
//! [`semantics`] as in the embedded backends. The second writes what came out, and commits.
//!
//! What keeps it exact: a key without a row gets one to be locked, which nobody else sees unless it
//! stays; records are read after the locks are had, so a write that another host has made is seen.
//! Until the second exchange is sent a failure of the connection is certain.

use std::{
    collections::{BTreeSet, HashMap},
    convert::Infallible,
    time::Duration,
};

use bytes::Bytes;
use tokio_postgres::{Client, Error, Row, Statement, types::ToSql};
use uuid::Uuid;

use super::{
    Answer, Failure, Placed,
    records::{expires, seconds},
    statement::{name, place, split, stored},
    text,
};
use crate::{
    error::Error as StateError,
    idempotency::{Digest, Record, WriteId},
    operation::{Action, Step},
    semantics::{self, Change, Entry, Found, Moment, Values},
};

const BEGIN: &str = "BEGIN ISOLATION LEVEL READ COMMITTED";

// Rows that exist are locked though their WHERE is false, and only new ones are returned.
// <https://www.postgresql.org/docs/current/sql-insert.html>
const LOCK: &str = r#"
INSERT INTO tally_kv AS t (bucket, key, number)
SELECT bucket, key, 0 FROM unnest($1::text[], $2::text[]) AS u(bucket, key)
ORDER BY bucket COLLATE "C", key COLLATE "C"
ON CONFLICT (bucket, key) DO UPDATE SET number = t.number WHERE false
RETURNING bucket, key"#;

/// The server's clock once the locks are had.
macro_rules! now {
    () => {
        "(extract(epoch FROM statement_timestamp()) * 1000)::bigint"
    };
}

const NOW: &str = concat!("SELECT ", now!());

const READ: &str = r#"
SELECT t.bucket, t.key, t.number, t.value, t.expires
FROM unnest($1::text[], $2::text[]) AS u(bucket, key)
JOIN tally_kv t ON t.bucket = u.bucket AND t.key = u.key"#;

const RECORDED: &str = r#"
SELECT request, write, fingerprint, count, outcome FROM tally_write WHERE request = ANY($1::uuid[])"#;

const PUT: &str = r#"
INSERT INTO tally_kv (bucket, key, number, value, expires)
SELECT * FROM unnest($1::text[], $2::text[], $3::bigint[], $4::bytea[], $5::bigint[])
ON CONFLICT (bucket, key) DO UPDATE
SET number = excluded.number, value = excluded.value, expires = excluded.expires"#;

const REMOVE: &str = r#"
DELETE FROM tally_kv t USING unnest($1::text[], $2::text[]) AS u(bucket, key)
WHERE t.bucket = u.bucket AND t.key = u.key"#;

const RECORD: &str = concat!(
    r#"
INSERT INTO tally_write (request, write, fingerprint, count, outcome, expires)
SELECT request, write, fingerprint, count, outcome, "#,
    expires!("$6"),
    r#"
FROM unnest($1::uuid[], $2::bigint[], $3::int[], $4::bigint[], $5::bytea[])
    AS u(request, write, fingerprint, count, outcome)
ORDER BY request, write"#
);

/// The statements of a transaction.
pub(super) struct Transaction {
    lock: Statement,
    now: Statement,
    read: Statement,
    recorded: Statement,
    put: Statement,
    remove: Statement,
    record: Statement,
}

type Parameters<'a, const N: usize> = [&'a (dyn ToSql + Sync); N];

/// What the transaction works on.
#[derive(Default)]
struct Work<'a> {
    now: Moment,
    /// Sorted by bucket and key.
    entries: Vec<((&'a str, &'a str), Held)>,
    /// What was recorded, and what is to be: of each request its fingerprint and its writes.
    requests: HashMap<Digest, (u32, Vec<(i64, Record)>)>,
    /// Records that are new.
    written: Vec<(WriteId, Record)>,
}

/// A locked row.
#[derive(Default)]
struct Held {
    entry: Option<Entry>,
    /// The row is there only to be locked.
    is_new: bool,
    is_changed: bool,
}

impl Transaction {
    pub(super) async fn prepare(client: &Client) -> Result<Self, Error> {
        let (lock, now, read, recorded, put, remove, record) = tokio::try_join!(
            client.prepare(LOCK),
            client.prepare(NOW),
            client.prepare(READ),
            client.prepare(RECORDED),
            client.prepare(PUT),
            client.prepare(REMOVE),
            client.prepare(RECORD),
        )?;
        Ok(Self { lock, now, read, recorded, put, remove, record })
    }

    /// Applies the steps in order, all or none.
    pub(super) async fn run(
        &self,
        client: &Client,
        steps: &[Placed<'_>],
        window: Duration,
    ) -> Result<Vec<Answer>, Failure> {
        let mut work = match self.begin(client, steps).await {
            Ok(work) => work,
            Err(error) => {
                let failure = not_begun(error);
                // Whatever of it has begun must not go on into what is sent next.
                return Err(match client.batch_execute("ROLLBACK").await {
                    Ok(()) => failure,
                    Err(_) => Failure::Broken(failure.into_error()),
                });
            }
        };
        let answers = steps
            .iter()
            .map(|(_, step)| {
                let Ok(reply) = semantics::apply_step(&mut work, step);
                reply.map_err(Failure::Final)
            })
            .collect();
        self.finish(client, &work, window).await?;
        Ok(answers)
    }

    /// Locks and reads. The statements travel together.
    async fn begin<'a>(&self, client: &Client, steps: &[Placed<'a>]) -> Result<Work<'a>, Error> {
        let names: BTreeSet<(&str, &str)> = steps.iter().map(|(_, step)| name(step)).collect();
        let (buckets, keys): (Vec<&str>, Vec<&str>) = names.iter().copied().unzip();
        let requests: BTreeSet<Digest> =
            steps.iter().flat_map(|(_, step)| writes(step)).map(|write| write.request).collect();
        let requests: Vec<Uuid> = requests.into_iter().map(Uuid::from_bytes).collect();
        let records = async {
            if requests.is_empty() {
                return Ok(Vec::new());
            }
            client.query(&self.recorded, &[&requests]).await
        };
        let places: Parameters<'_, 2> = [&buckets, &keys];
        let (_, new, now, rows, records) = tokio::try_join!(
            biased;
            client.batch_execute(BEGIN),
            client.query(&self.lock, &places),
            client.query_one(&self.now, &[]),
            client.query(&self.read, &places),
            records,
        )?;
        let entries = names.into_iter().map(|name| (name, Held::default())).collect();
        let mut work = Work { now: now.try_get(0)?, entries, ..Work::default() };
        for row in &rows {
            if let Some(held) = work.held(place(row)?) {
                held.entry = entry(row)?;
            }
        }
        for row in &new {
            if let Some(held) = work.held(place(row)?) {
                *held = Held { is_new: true, ..Held::default() };
            }
        }
        for row in &records {
            let request: Uuid = row.try_get(0)?;
            let (write, fingerprint): (i64, i32) = (row.try_get(1)?, row.try_get(2)?);
            let outcome = row.try_get::<_, Option<&[u8]>>(4)?.map(Bytes::copy_from_slice);
            let record = Record::stored(write, row.try_get(3)?, outcome);
            let recorded = work.requests.entry(request.into_bytes());
            let (_, records) =
                recorded.or_insert_with(|| (fingerprint.cast_unsigned(), Vec::new()));
            records.push((write, record));
        }
        Ok(work)
    }

    /// Writes and commits. The statements travel together: if one fails, `COMMIT` rolls back.
    async fn finish(
        &self,
        client: &Client,
        work: &Work<'_>,
        window: Duration,
    ) -> Result<(), Failure> {
        let mut put = (Vec::new(), Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let mut removed = (Vec::new(), Vec::new());
        for ((bucket, key), held) in &work.entries {
            match &held.entry {
                Some(entry) if held.is_changed => {
                    let (number, value) = split(&entry.value);
                    put.0.push(*bucket);
                    put.1.push(*key);
                    put.2.push(number);
                    put.3.push(value);
                    put.4.push(entry.expires);
                }
                None if held.is_changed || held.is_new => {
                    removed.0.push(*bucket);
                    removed.1.push(*key);
                }
                _ => {}
            }
        }
        let mut records = (Vec::new(), Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for (write, record) in &work.written {
            let (count, outcome) = record.columns();
            records.0.push(Uuid::from_bytes(write.request));
            records.1.push(write.write);
            records.2.push(write.fingerprint.cast_signed());
            records.3.push(count);
            records.4.push(outcome);
        }
        let window = seconds(window);
        let putting = async {
            if put.0.is_empty() {
                return Ok(0);
            }
            client.execute(&self.put, &[&put.0, &put.1, &put.2, &put.3, &put.4]).await
        };
        let removing = async {
            if removed.0.is_empty() {
                return Ok(0);
            }
            client.execute(&self.remove, &[&removed.0, &removed.1]).await
        };
        let recording = async {
            if records.0.is_empty() {
                return Ok(0);
            }
            let (requests, writes, fingerprints, counts, outcomes) = &records;
            let parameters: Parameters<'_, 6> =
                [requests, writes, fingerprints, counts, outcomes, &window];
            client.execute(&self.record, &parameters).await
        };
        let (put, removed, recorded, committed) = tokio::join!(
            biased;
            putting,
            removing,
            recording,
            client.batch_execute("COMMIT"),
        );
        for written in [put, removed, recorded] {
            // A statement that failed rolled back, and so did `COMMIT`, unless the connection failed.
            written?;
        }
        committed.map_err(Failure::from)
    }
}

impl Work<'_> {
    fn held(&mut self, name: (&str, &str)) -> Option<&mut Held> {
        let place = self.entries.binary_search_by(|(other, _)| (*other).cmp(&name)).ok()?;
        self.entries.get_mut(place).map(|(_, held)| held)
    }
}

impl Values for Work<'_> {
    type Error = Infallible;

    fn now(&self) -> Moment {
        self.now
    }

    fn entry(&mut self, step: &Step) -> Result<Option<Entry>, Infallible> {
        Ok(self.held(name(step)).and_then(|held| held.entry.clone()))
    }

    fn change(&mut self, step: &Step, change: Change) -> Result<(), Infallible> {
        if let Some(held) = self.held(name(step)) {
            match change {
                Change::Keep => {}
                Change::Put(entry) => (held.entry, held.is_changed) = (Some(entry), true),
                Change::Remove => (held.entry, held.is_changed) = (None, true),
            }
        }
        Ok(())
    }

    fn find(&mut self, write: &WriteId) -> Result<Found, Infallible> {
        let Some((fingerprint, records)) = self.requests.get(&write.request) else {
            return Ok(Found::Nothing);
        };
        if *fingerprint != write.fingerprint {
            return Ok(Found::Reused);
        }
        let record = records.iter().find(|(other, _)| *other == write.write);
        Ok(record.map_or(Found::Nothing, |(_, record)| Found::Record(record.clone())))
    }

    fn record(&mut self, write: &WriteId, record: Record) -> Result<(), Infallible> {
        let request = self.requests.entry(write.request);
        let (_, records) = request.or_insert_with(|| (write.fingerprint, Vec::new()));
        records.push((write.write, record.clone()));
        self.written.push((*write, record));
        Ok(())
    }
}

/// The ids of a step's writes.
fn writes(step: &Step) -> impl Iterator<Item = &WriteId> {
    let members = match &step.action {
        Action::Increments(increments) => &increments.members[..],
        _ => &[],
    };
    step.write.iter().chain(members.iter().filter_map(|member| member.write.as_ref()))
}

fn entry(row: &Row) -> Result<Option<Entry>, Error> {
    let expires = row.try_get(4)?;
    Ok(stored(row)?.map(|value| Entry { value, expires }))
}

/// Nothing was committed: a lost connection is certain as well.
fn not_begun(error: Error) -> Failure {
    let reason = format!("PostgreSQL: {}", text(&error));
    match Failure::from(error) {
        Failure::Conflict(error) => Failure::Conflict(error),
        Failure::Locked(error) => Failure::Locked(error),
        Failure::Broken(_) => Failure::Broken(StateError::not_applied(reason)),
        failure @ Failure::Unread(_) => failure,
        Failure::Final(_) => Failure::Final(StateError::not_applied(reason)),
    }
}
