//! Steps that share a transaction: what no single statement does, and all that is to happen once.
//!
//! Two exchanges. The first locks the rows of all keys, in the global order, and reads them and what
//! is recorded of the steps' tokens. Then the steps are applied here, in order, by the same
//! [`semantics`] as in the embedded backends. The second writes what came out, and commits.
//!
//! What keeps it exact: a key without a row gets one to be locked, which nobody else sees unless it
//! stays; records are read after the locks are had, so a token that another host is using is seen
//! or, if it should be on another key, stops this transaction. Until the second exchange is sent a
//! failure of the connection is certain.

use std::{
    collections::{BTreeSet, HashMap},
    time::Duration,
};

use bytes::Bytes;
use tokio_postgres::{Client, Error, Row, Statement, error::SqlState, types::ToSql};

use super::{
    Answer, Failure, Placed,
    statement::{name, place, split, stored},
    text,
};
use crate::{
    Rejection,
    error::Error as StateError,
    once::{Digest, Record},
    operation::{Action, Kind, Outcome, Step},
    semantics::{self, Change, Entry, Moment},
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

// A record that has expired and is not removed yet gives way.
const FORGET: &str = concat!(
    r#"
DELETE FROM tally_once WHERE request = ANY($1::bytea[]) AND expires <= "#,
    now!()
);

const RECORDED: &str = r#"
SELECT request, write, fingerprint, outcome FROM tally_once WHERE request = ANY($1::bytea[])"#;

const PUT: &str = r#"
INSERT INTO tally_kv (bucket, key, number, value, expires)
SELECT * FROM unnest($1::text[], $2::text[], $3::bigint[], $4::bytea[], $5::bigint[])
ON CONFLICT (bucket, key) DO UPDATE
SET number = excluded.number, value = excluded.value, expires = excluded.expires"#;

const REMOVE: &str = r#"
DELETE FROM tally_kv t USING unnest($1::text[], $2::text[]) AS u(bucket, key)
WHERE t.bucket = u.bucket AND t.key = u.key"#;

const RECORD: &str = r#"
INSERT INTO tally_once (request, write, fingerprint, outcome, expires)
SELECT request, write, fingerprint, outcome, $5
FROM unnest($1::bytea[], $2::bigint[], $3::bytea[], $4::bytea[])
    AS u(request, write, fingerprint, outcome)
ORDER BY request, write"#;

/// What stands among a request's writes for the request itself, from its first one on: two requests
/// under one name cannot both put it there.
const NAME: i64 = -2;

/// The statements of a transaction.
pub(super) struct Transaction {
    lock: Statement,
    now: Statement,
    read: Statement,
    forget: Statement,
    recorded: Statement,
    put: Statement,
    remove: Statement,
    record: Statement,
}

type Parameters<'a, const N: usize> = [&'a (dyn ToSql + Sync); N];

/// The name of a record: the request, and which of its writes.
type Name = (Digest, i64);

/// What the transaction works on.
#[derive(Default)]
struct Work<'a> {
    now: Moment,
    /// Sorted by bucket and key.
    entries: Vec<((&'a str, &'a str), Held)>,
    records: HashMap<Name, Record>,
    /// The fingerprints of requests that have records.
    requests: HashMap<Digest, Digest>,
    /// Names of records that are new.
    written: Vec<Name>,
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
        let (lock, now, read, forget, recorded, put, remove, record) = tokio::try_join!(
            client.prepare(LOCK),
            client.prepare(NOW),
            client.prepare(READ),
            client.prepare(FORGET),
            client.prepare(RECORDED),
            client.prepare(PUT),
            client.prepare(REMOVE),
            client.prepare(RECORD),
        )?;
        Ok(Self { lock, now, read, forget, recorded, put, remove, record })
    }

    /// Applies the steps in order, all or none.
    pub(super) async fn run(
        &self,
        client: &Client,
        steps: &[Placed<'_>],
        remember: Duration,
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
        let answers = steps.iter().map(|(_, step)| work.apply(step)).collect();
        self.finish(client, &work, remember).await?;
        Ok(answers)
    }

    /// Locks and reads. The statements travel together.
    async fn begin<'a>(&self, client: &Client, steps: &[Placed<'a>]) -> Result<Work<'a>, Error> {
        let names: BTreeSet<(&str, &str)> = steps
            .iter()
            .filter(|(_, step)| step.action.kind() != Kind::Remember)
            .map(|(_, step)| name(step))
            .collect();
        let (buckets, keys): (Vec<&str>, Vec<&str>) = names.iter().copied().unzip();
        let requests: BTreeSet<Digest> =
            steps.iter().filter_map(|(_, step)| Some(step.token?.request)).collect();
        let requests: Vec<&[u8]> = requests.iter().map(|request| &request[..]).collect();
        let records = async {
            if requests.is_empty() {
                return Ok(Vec::new());
            }
            let names: Parameters<'_, 1> = [&requests];
            let (_, records) = tokio::try_join!(
                biased;
                client.execute(&self.forget, &names),
                client.query(&self.recorded, &names),
            )?;
            Ok(records)
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
            let request: &[u8] = row.try_get(0)?;
            let fingerprint: &[u8] = row.try_get(2)?;
            let record = Record {
                fingerprint: fingerprint.try_into().unwrap_or_default(),
                outcome: Bytes::copy_from_slice(row.try_get(3)?),
            };
            let request = request.try_into().unwrap_or_default();
            work.requests.insert(request, record.fingerprint);
            work.records.insert((request, row.try_get(1)?), record);
        }
        Ok(work)
    }

    /// Writes and commits. The statements travel together: if one fails, `COMMIT` rolls back.
    async fn finish(
        &self,
        client: &Client,
        work: &Work<'_>,
        remember: Duration,
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
        let mut records = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for (request, write) in &work.written {
            let Some(record) = work.records.get(&(*request, *write)) else { continue };
            records.0.push(&request[..]);
            records.1.push(*write);
            records.2.push(&record.fingerprint[..]);
            records.3.push(&record.outcome[..]);
        }
        let expires = semantics::end(work.now, remember);
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
            let parameters: Parameters<'_, 5> =
                [&records.0, &records.1, &records.2, &records.3, &expires];
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
            written.map_err(not_written)?;
        }
        committed.map_err(Failure::from)
    }
}

impl Work<'_> {
    fn held(&mut self, name: (&str, &str)) -> Option<&mut Held> {
        let place = self.entries.binary_search_by(|(other, _)| (*other).cmp(&name)).ok()?;
        self.entries.get_mut(place).map(|(_, held)| held)
    }

    fn apply(&mut self, step: &Step) -> Answer {
        let Some(token) = step.token else {
            return self.one(step).map_err(|rejection| Failure::Final(rejection.into()));
        };
        let name = (token.request, token.write);
        if let Some(record) = self.records.get(&name) {
            return record.reply(token, &step.action).map_err(Failure::Final);
        }
        match self.requests.get(&token.request) {
            Some(fingerprint) if *fingerprint != token.fingerprint => {
                return Err(Failure::Final(Rejection::Reused.into()));
            }
            Some(_) => {}
            None => {
                self.requests.insert(token.request, token.fingerprint);
                self.record((token.request, NAME), Record::answer(token, &Bytes::new()));
            }
        }
        if let Action::Remember(answer) = &step.action {
            self.record(name, Record::answer(token, answer));
            return Ok(Outcome::Done);
        }
        let result = self.one(step);
        self.record(name, Record::of(token, &result));
        result.map_err(|rejection| Failure::Final(rejection.into()))
    }

    fn record(&mut self, name: Name, record: Record) {
        self.records.insert(name, record);
        self.written.push(name);
    }

    fn one(&mut self, step: &Step) -> Result<Outcome, Rejection> {
        let now = self.now;
        let current = self.held(name(step)).and_then(|held| held.entry.clone());
        let (outcome, change) = semantics::apply(&step.action, current, now)?;
        if let Some(held) = self.held(name(step)) {
            match change {
                Change::Keep => {}
                Change::Put(entry) => (held.entry, held.is_changed) = (Some(entry), true),
                Change::Remove => (held.entry, held.is_changed) = (None, true),
            }
        }
        Ok(outcome)
    }
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

/// A statement failed, so `COMMIT` rolled back; unless the connection did.
fn not_written(error: Error) -> Failure {
    let reason = format!("PostgreSQL: {}", text(&error));
    match error.code() {
        // The token is being used by another host, for another key.
        Some(code) if *code == SqlState::UNIQUE_VIOLATION => {
            Failure::Conflict(StateError::not_applied(reason))
        }
        _ => Failure::from(error),
    }
}
