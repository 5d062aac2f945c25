//! What is recorded of writes, and the increments that are applied once.
//!
//! One row for each write, found by its request. There is no index on the rows' ages, which every
//! writer would pay for: rows lie in the table about in the order of their ages, and sweeping walks
//! through the table's pages instead.

use std::{
    sync::atomic::{AtomicI64, Ordering::Relaxed},
    time::Duration,
};

use bytes::Bytes;
use tokio_postgres::{Client, Error, Statement, error::SqlState, types::ToSql};
use uuid::Uuid;

use super::{Answer, Failure, Placed, statement::name};
use crate::{
    Rejection,
    idempotency::{RESPONSE, WriteId},
    operation::{Action, Increments, Member, Outcome, Step},
    semantics,
};

/// `expires` is in seconds since 2024 (UTC), which takes four bytes until 2092.
pub(super) const CREATE: &str = r#"
CREATE TABLE IF NOT EXISTS tally_write (
    request uuid NOT NULL,
    write bigint NOT NULL,
    count bigint,
    fingerprint integer NOT NULL,
    expires integer NOT NULL,
    outcome bytea,
    PRIMARY KEY (request, write)
)"#;

/// Records are found by their index, however few the planner believes there are: it keeps a plan while
/// the table grows.
pub(super) const SESSION: &str = "SET enable_seqscan = off";

/// The second at which a record expires that is made now and kept for some seconds.
macro_rules! expires {
    ($seconds:literal) => {
        concat!(
            "(extract(epoch FROM statement_timestamp())::bigint - 1704067200 + ",
            $seconds,
            "::bigint)::int"
        )
    };
}
pub(super) use expires;

/// Whether there is a record of the write, or one of another request of the same name. A scalar
/// subquery, which the planner never turns into a join with all records.
macro_rules! seen {
    () => {
        "(SELECT bool_or(o.write = u.write OR o.fingerprint <> u.fingerprint)
        FROM tally_write o WHERE o.request = u.request)"
    };
}

/// Adds to the row that is there. One that holds no number, would overflow, or has expired, is left
/// alone, and none of its increments are applied.
macro_rules! add {
    () => {
        "
    ON CONFLICT (bucket, key) DO UPDATE SET number = t.number + excluded.number
    WHERE t.number IS NOT NULL AND CASE
        WHEN excluded.number >= 0 THEN t.number <= 9223372036854775807 - excluded.number
        ELSE t.number >= -9223372036854775808 - excluded.number
    END AND (t.expires IS NULL OR t.expires > (extract(epoch FROM now()) * 1000)::bigint)"
    };
}

/// What both statements end with: the records, and each increment's place and number.
macro_rules! record {
    ($window:literal) => {
        concat!(
            "
recorded AS (
    INSERT INTO tally_write (request, write, fingerprint, count, expires)
    SELECT request, write, fingerprint, count, ",
            expires!($window),
            "
    FROM counted WHERE request IS NOT NULL
)
SELECT array_agg(n), array_agg(count) FROM counted"
        )
    };
}

// Increments of one key. Another host that makes the same write at the same time has its record in
// the index first: then this statement fails as a whole, and finds the record when tried again.
const INCREMENTS_OF_ONE: &str = concat!(
    "
WITH asked AS MATERIALIZED (
    SELECT u.*, ",
    seen!(),
    " AS seen
    FROM unnest($1::uuid[], $2::bigint[], $3::int[], $4::bigint[])
        WITH ORDINALITY AS u(request, write, fingerprint, delta, n)
),
new AS MATERIALIZED (
    SELECT *, (sum(delta) OVER (ORDER BY n))::bigint AS upto FROM asked WHERE seen IS NOT TRUE
),
added AS (
    INSERT INTO tally_kv AS t (bucket, key, number, expires)
    SELECT $5, $6, sum(delta)::bigint,
        (extract(epoch FROM now()) * 1000)::bigint + $7::bigint
    FROM new HAVING count(*) > 0",
    add!(),
    "
    RETURNING number
),
counted AS MATERIALIZED (
    SELECT n, request, write, fingerprint,
        added.number - (SELECT sum(delta)::bigint FROM new) + upto AS count
    FROM new CROSS JOIN added
),",
    record!("$8")
);

// The same for several keys, where no id has a record and no key is left alone: nearly always. The host
// says by how much each increment's number is behind that of its key after all of them, so that nothing
// is grouped here, and finds each key's number by its place. Ends with the numbers, or with nothing
// where an id has a record, and then changes nothing. Fails where a key is left alone.
const INCREMENTS_ALL_NEW: &str = concat!(
    "
WITH asked AS MATERIALIZED (
    SELECT u.*, ",
    seen!(),
    " AS seen
    FROM unnest($1::uuid[], $2::bigint[], $3::int[], $4::bigint[], $5::int[])
        AS u(request, write, fingerprint, behind, place)
),
news AS MATERIALIZED (SELECT bool_and(seen IS NOT TRUE) AS are_all FROM asked),
added AS (
    INSERT INTO tally_kv AS t (bucket, key, number, expires)
    SELECT bucket, key, delta, (extract(epoch FROM now()) * 1000)::bigint + ttl
    FROM unnest($6::text[], $7::text[], $8::bigint[], $9::bigint[]) AS u(bucket, key, delta, ttl)
    WHERE (SELECT are_all FROM news)
    ORDER BY bucket COLLATE \"C\", key COLLATE \"C\"",
    add!(),
    "
    RETURNING bucket, key, number
),
numbered AS MATERIALIZED (
    SELECT array_agg(number ORDER BY bucket COLLATE \"C\", key COLLATE \"C\") AS numbers, count(*) AS keys
    FROM added
),
recorded AS (
    INSERT INTO tally_write (request, write, fingerprint, count, expires)
    SELECT request, write, fingerprint, ((SELECT numbers FROM numbered))[place] - behind, ",
    expires!("$10"),
    "
    FROM asked WHERE request IS NOT NULL AND (SELECT are_all FROM news)
)
SELECT CASE
    WHEN NOT are_all THEN NULL
    WHEN keys = cardinality($6) THEN numbers
    -- Takes it all back.
    ELSE ARRAY[1 / (keys - keys)]
END FROM numbered, news"
);

// The same for several keys, whatever there is. Their new numbers are handed out by a window, as a join would be done
// in loops: the planner takes arrays to be short.
const INCREMENTS: &str = concat!(
    "
WITH asked AS MATERIALIZED (
    SELECT u.*, ",
    seen!(),
    " AS seen
    FROM unnest($1::uuid[], $2::bigint[], $3::int[], $4::bigint[], $5::text[], $6::text[], $7::bigint[])
        WITH ORDINALITY AS u(request, write, fingerprint, delta, bucket, key, ttl, n)
),
new AS MATERIALIZED (
    SELECT *, (sum(delta) OVER (PARTITION BY bucket, key ORDER BY n))::bigint AS upto
    FROM asked WHERE seen IS NOT TRUE
),
added AS (
    INSERT INTO tally_kv AS t (bucket, key, number, expires)
    SELECT bucket, key, sum(delta)::bigint,
        (extract(epoch FROM now()) * 1000)::bigint + max(ttl)
    FROM new GROUP BY bucket, key
    ORDER BY bucket COLLATE \"C\", key COLLATE \"C\"",
    add!(),
    "
    RETURNING bucket, key, number
),
handed AS MATERIALIZED (
    SELECT n, request, write, fingerprint, upto,
        (max(number) OVER of_key - sum(delta) OVER of_key)::bigint AS before
    FROM (
        SELECT n, request, write, fingerprint, upto, bucket, key, delta, NULL::bigint AS number
        FROM new
        UNION ALL
        SELECT NULL, NULL, NULL, NULL, NULL, bucket COLLATE \"default\", key COLLATE \"default\", 0, number
        FROM added
    ) AS both_sides
    WINDOW of_key AS (PARTITION BY bucket, key)
),
counted AS MATERIALIZED (
    SELECT n, request, write, fingerprint, before + upto AS count
    FROM handed WHERE n IS NOT NULL AND before IS NOT NULL
),",
    record!("$8")
);

const LOAD: &str = "
SELECT request, fingerprint, outcome FROM tally_write
WHERE request = ANY($1::uuid[]) AND write = -1";

const STORE: &str = concat!(
    "
INSERT INTO tally_write (request, write, fingerprint, outcome, expires)
SELECT request, -1, fingerprint, outcome, ",
    expires!("$4"),
    "
FROM unnest($1::uuid[], $2::int[], $3::bytea[]) AS u(request, fingerprint, outcome)
ORDER BY request
ON CONFLICT DO NOTHING"
);

const PAGES: &str = "
SELECT pg_relation_size('tally_write') / current_setting('block_size')::bigint";

const SWEEP: &str = concat!(
    "
DELETE FROM tally_write
WHERE ctid >= $1::text::tid AND ctid < $2::text::tid AND expires <= ",
    expires!("0")
);

/// Pages that one step of sweeping goes through: some thousand records.
const SWEEP_PAGES: i64 = 16;

/// How often sweeping goes through the whole table while a record is kept: what has expired is gone
/// a tenth of the window later.
const PASSES: u32 = 10;

/// The statements of one connection, and how far it has swept.
pub(super) struct Records {
    increments_of_one: Statement,
    increments_all_new: Statement,
    increments: Statement,
    load: Statement,
    store: Statement,
    pages: Statement,
    sweep: Statement,
    /// The next page to sweep.
    page: AtomicI64,
    /// Pages that are still to be swept in this round.
    left: AtomicI64,
    /// Batches for which it is not tried whether all is new, as lately a key was left alone.
    doubted: AtomicI64,
}

/// See [`Records::doubted`]: where keys are left alone often, as counters with a time to live are, few
/// batches are tried in vain.
const DOUBTED: i64 = 32;

type Parameters<'a, const N: usize> = [&'a (dyn ToSql + Sync); N];

/// Increments in the columns that the statements take.
#[derive(Default)]
struct Columns<'a> {
    requests: Vec<Option<Uuid>>,
    writes: Vec<Option<i64>>,
    fingerprints: Vec<Option<i32>>,
    deltas: Vec<i64>,
    buckets: Vec<&'a str>,
    keys: Vec<&'a str>,
    ttls: Vec<Option<i64>>,
}

impl Records {
    pub(super) async fn prepare(client: &Client) -> Result<Self, Error> {
        let (of_one, all_new, increments, load, store, pages, sweep) = tokio::try_join!(
            client.prepare(INCREMENTS_OF_ONE),
            client.prepare(INCREMENTS_ALL_NEW),
            client.prepare(INCREMENTS),
            client.prepare(LOAD),
            client.prepare(STORE),
            client.prepare(PAGES),
            client.prepare(SWEEP),
        )?;
        Ok(Self {
            increments_of_one: of_one,
            increments_all_new: all_new,
            increments,
            load,
            store,
            pages,
            sweep,
            page: AtomicI64::new(0),
            left: AtomicI64::new(0),
            doubted: AtomicI64::new(0),
        })
    }

    /// Applies the increments of each step, all of one sign, that can be applied at once. Gives each
    /// one's number; `None` for one that has a record, or whose key was left alone.
    pub(super) async fn increment(
        &self,
        client: &Client,
        steps: &[Placed<'_>],
        window: Duration,
    ) -> Result<Vec<Vec<Option<i64>>>, Failure> {
        if steps.len() > 1
            && let Some(counts) = self.increment_all_new(client, steps, window).await?
        {
            return Ok(counts);
        }
        let mut columns = Columns::default();
        let mut counts = Vec::with_capacity(steps.len());
        for (_, step) in steps {
            let Action::Increments(Increments { members, .. }) = &step.action else { continue };
            counts.push(vec![None; members.len()]);
            members.iter().for_each(|member| columns.push(step, member));
        }
        let (window, Columns { requests, writes, fingerprints, deltas, buckets, keys, ttls }) =
            (seconds(window), &columns);
        let row = match steps {
            [(_, step)] => {
                let ((bucket, key), ttl) =
                    (name(step), step.action.ttl().map(semantics::milliseconds));
                let parameters: Parameters<'_, 8> =
                    [requests, writes, fingerprints, deltas, &bucket, &key, &ttl, &window];
                client.query_one(&self.increments_of_one, &parameters).await?
            }
            _ => {
                let parameters: Parameters<'_, 8> =
                    [requests, writes, fingerprints, deltas, buckets, keys, ttls, &window];
                client.query_one(&self.increments, &parameters).await?
            }
        };
        let places: Option<Vec<i64>> = row.try_get(0)?;
        let numbers: Option<Vec<i64>> = row.try_get(1)?;
        let mut flat = counts.iter_mut().flatten().collect::<Vec<_>>();
        for (place, number) in places.into_iter().flatten().zip(numbers.into_iter().flatten()) {
            // Places count from one.
            let place = usize::try_from(place).ok().and_then(|place| place.checked_sub(1));
            if let Some(count) = place.and_then(|place| flat.get_mut(place)) {
                **count = Some(number);
            }
        }
        Ok(counts)
    }

    /// Applies the increments of several keys, sorted, if none has a record and all keys can be added to;
    /// else changes nothing.
    async fn increment_all_new(
        &self,
        client: &Client,
        steps: &[Placed<'_>],
        window: Duration,
    ) -> Result<Option<Vec<Vec<Option<i64>>>>, Failure> {
        if self.doubted.load(Relaxed) > 0 {
            self.doubted.fetch_sub(1, Relaxed);
            return Ok(None);
        }
        // Keys are told apart by their order, which beyond ASCII depends on the database's encoding.
        if !steps.iter().all(|(_, step)| step.bucket.as_str().is_ascii() && step.key.is_ascii()) {
            return Ok(None);
        }
        let (mut columns, mut sums, mut behind, mut places) =
            (Columns::default(), Vec::new(), Vec::new(), Vec::new());
        let mut key_ttls = Vec::new();
        for (place, (_, step)) in (1_i32..).zip(steps) {
            let Action::Increments(Increments { members, .. }) = &step.action else { continue };
            let mut sum = Some(0_i64);
            let first = behind.len();
            for member in members {
                columns.push(step, member);
                sum = sum.and_then(|sum| sum.checked_add(member.delta));
                behind.push(sum.unwrap_or_default());
                places.push(place);
            }
            // One that leaves the range is told so by the other statement.
            let Some(sum) = sum else { return Ok(None) };
            for upto in behind.iter_mut().skip(first) {
                // Of one sign, so it stays in the range.
                *upto = sum.wrapping_sub(*upto);
            }
            sums.push(sum);
            key_ttls.push(step.action.ttl().map(semantics::milliseconds));
        }
        let (buckets, keys): (Vec<&str>, Vec<&str>) =
            steps.iter().map(|(_, step)| name(step)).unzip();
        let window = seconds(window);
        let Columns { requests, writes, fingerprints, .. } = &columns;
        let parameters: Parameters<'_, 10> = [
            requests,
            writes,
            fingerprints,
            &behind,
            &places,
            &buckets,
            &keys,
            &sums,
            &key_ttls,
            &window,
        ];
        let row = match client.query_one(&self.increments_all_new, &parameters).await {
            Err(error) if error.code() == Some(&SqlState::DIVISION_BY_ZERO) => {
                self.doubted.store(DOUBTED, Relaxed);
                return Ok(None);
            }
            row => row?,
        };
        let Some(numbers) = row.try_get::<_, Option<Vec<i64>>>(0)? else { return Ok(None) };
        let mut behind = behind.into_iter();
        let counts = steps.iter().zip(numbers).map(|((_, step), number)| {
            let count = match &step.action {
                Action::Increments(increments) => increments.members.len(),
                _ => 0,
            };
            behind.by_ref().take(count).map(|behind| Some(number.wrapping_sub(behind))).collect()
        });
        Ok(Some(counts.collect()))
    }

    /// Answers `LoadResponse`.
    pub(super) async fn load(
        &self,
        client: &Client,
        steps: &[Placed<'_>],
    ) -> Result<Vec<Answer>, Failure> {
        let writes: Vec<WriteId> = steps.iter().filter_map(|(_, step)| step.write).collect();
        let requests: Vec<Uuid> =
            writes.iter().map(|write| Uuid::from_bytes(write.request)).collect();
        let rows = client.query(&self.load, &[&requests]).await?;
        let mut answers = Vec::with_capacity(writes.len());
        for write in writes {
            let mut answer = Ok(Outcome::Response(None));
            for row in &rows {
                if row.try_get::<_, Uuid>(0)?.into_bytes() != write.request {
                    continue;
                }
                answer = match row.try_get::<_, i32>(1)?.cast_unsigned() == write.fingerprint {
                    true => {
                        let response = row.try_get::<_, Option<&[u8]>>(2)?.unwrap_or_default();
                        Ok(Outcome::Response(Some(Bytes::copy_from_slice(response))))
                    }
                    false => Err(Failure::Final(Rejection::Reused.into())),
                };
            }
            answers.push(answer);
        }
        Ok(answers)
    }

    /// Answers `StoreResponse`.
    pub(super) async fn store(
        &self,
        client: &Client,
        steps: &[Placed<'_>],
        window: Duration,
    ) -> Result<Vec<Answer>, Failure> {
        let (mut requests, mut fingerprints, mut responses) = (Vec::new(), Vec::new(), Vec::new());
        for (_, step) in steps {
            let (Some(write), Some(response)) = (step.write, step.action.value()) else { continue };
            debug_assert_eq!(write.write, RESPONSE);
            requests.push(Uuid::from_bytes(write.request));
            fingerprints.push(write.fingerprint.cast_signed());
            responses.push(&response[..]);
        }
        let window = seconds(window);
        let parameters: Parameters<'_, 4> = [&requests, &fingerprints, &responses, &window];
        client.execute(&self.store, &parameters).await?;
        Ok(steps.iter().map(|_| Ok(Outcome::Done)).collect())
    }

    /// Goes on with sweeping, or begins another round; whether there is more to do in this one.
    ///
    /// # Errors
    /// [`Failure`]; the same pages are swept next time.
    pub(super) async fn sweep(
        &self,
        client: &Client,
        every: Duration,
        window: Duration,
    ) -> Result<bool, Failure> {
        if self.left.load(Relaxed) == 0 {
            let pages: i64 = client.query_one(&self.pages, &[]).await?.try_get(0)?;
            self.left.store(round(pages, every, window), Relaxed);
            if self.page.load(Relaxed) >= pages {
                self.page.store(0, Relaxed);
            }
        }
        let (first, left) = (self.page.load(Relaxed), self.left.load(Relaxed));
        let next = first.saturating_add(SWEEP_PAGES.min(left));
        let place = |page: i64| format!("({page},0)");
        client.execute(&self.sweep, &[&place(first), &place(next)]).await?;
        self.page.store(next, Relaxed);
        let left = left.saturating_sub(SWEEP_PAGES).max(0);
        self.left.store(left, Relaxed);
        Ok(left > 0)
    }
}

/// Pages to sweep in one round, so that the whole table is gone through some times in a window.
fn round(pages: i64, every: Duration, window: Duration) -> i64 {
    let rounds = window.as_millis().checked_div(every.as_millis().max(1)).unwrap_or(0);
    let rounds = i64::try_from(rounds).unwrap_or(i64::MAX);
    let rounds = rounds.checked_div(i64::from(PASSES)).unwrap_or(0).max(1);
    pages.checked_div(rounds).unwrap_or(0).max(SWEEP_PAGES).min(pages)
}

/// A window in seconds, at least one.
pub(super) fn seconds(window: Duration) -> i64 {
    i64::try_from(window.as_secs_f64().ceil() as u64).unwrap_or(i64::MAX).clamp(1, 1 << 30)
}

impl<'a> Columns<'a> {
    fn push(&mut self, step: &'a Step, member: &Member) {
        let Member { write, delta } = member;
        self.requests.push(write.map(|write| Uuid::from_bytes(write.request)));
        self.writes.push(write.map(|write| write.write));
        self.fingerprints.push(write.map(|write| write.fingerprint.cast_signed()));
        self.deltas.push(*delta);
        let (bucket, key) = name(step);
        self.buckets.push(bucket);
        self.keys.push(key);
        self.ttls.push(step.action.ttl().map(semantics::milliseconds));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_whole_table_is_swept_some_times_in_a_window() {
        let (every, day) = (Duration::from_secs(10), Duration::from_secs(86_400));
        assert_eq!(round(86_400, every, day), 100);
        assert_eq!(round(10, every, day), 10, "no more than there is");
        assert_eq!(round(1_000, every, day), SWEEP_PAGES);
        assert_eq!(round(1_000_000, every, Duration::from_millis(60)), 1_000_000);
        assert_eq!(round(0, every, day), 0);
    }
}
