//! Records of idempotent requests in a store, put there directly, as Tally keeps them: as if each of
//! so many requests with an `Idempotency-Key` had incremented a counter just now.
//!
//! Requests are known by digests, so these are random. Where a store keeps them in order, they come
//! in parts, each sorted and over the whole range: that takes a fraction of the time, and leaves
//! pages as full as requests in random order do. One part would leave all of them full.

use std::{
    path::Path,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, Result, bail};
use rusqlite::{OptionalExtension as _, params};
use tokio::time::sleep;
use tokio_postgres::NoTls;

use crate::random::Random;

/// Records of one part.
const PART: u64 = 1_000_000;

/// Records after which Tally begins the next run in SQLite.
const RUN: u64 = 1 << 17;

/// How long records are kept: Tally's default.
const KEPT: Duration = Duration::from_hours(24);

/// 2024-01-01 UTC, from which PostgreSQL's records count seconds, in those since 1970.
const EPOCH_2024: u64 = 1_704_067_200;

/// Hashes of a generation in Redis: one for each value of a request's first two bytes.
const SHARDS: u64 = 1 << 16;

/// Hashes that are sent to Redis at once.
const PIPELINE: u64 = 256;

/// When Redis syncs its log.
const SYNC: &str = "appendfsync";

/// The number of a request's first and only write.
const WRITE: i64 = i64::MAX / 3;

/// Longest time for Tally to make the filters of records in SQLite.
const FILTERS_LIMIT: Duration = Duration::from_mins(1);

/// Longest time for Redis to write its log anew.
const REWRITE_LIMIT: Duration = Duration::from_mins(10);

/// Puts records into PostgreSQL whose tables Tally has made.
///
/// # Errors
/// When the table is missing or has other columns, or the server fails.
pub(crate) async fn postgres(url: &str, records: u64) -> Result<()> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
    let driver = tokio::spawn(connection);
    let expires = i32::try_from(now()?.as_secs() + KEPT.as_secs() - EPOCH_2024)?;
    let insert = "INSERT INTO tally_write (request, write, count, fingerprint, expires)
        SELECT request, $1, number, (random() * 2147483647)::int4, $2
        FROM (SELECT gen_random_uuid() AS request, number
            FROM generate_series($3::bigint, $4::bigint) AS number) AS made
        ORDER BY request";
    let insert = client.prepare(insert).await.context(NO_TABLE)?;
    for (first, last) in parts(records, PART) {
        let (first, last) = (i64::try_from(first)?, i64::try_from(last)?);
        client.execute(&insert, &[&WRITE, &expires, &first, &last]).await?;
    }
    // Each by itself, because neither can run in the transaction that a batch is.
    client.batch_execute("VACUUM ANALYZE tally_write").await?;
    client.batch_execute("CHECKPOINT").await?;
    drop(client);
    Ok(driver.await??)
}

/// Puts records into Redis, into the current generation.
///
/// # Errors
/// When Tally has not begun a generation, or the server fails.
pub(crate) async fn redis(url: &str, records: u64) -> Result<()> {
    let client = redis::Client::open(url)?;
    let mut connection = client.get_multiplexed_async_connection().await?;
    let generations: Vec<u64> =
        redis::cmd("HKEYS").arg("tally.write").query_async(&mut connection).await?;
    let generation = generations.into_iter().max().context(NO_TABLE)?;
    // Each part of a pipeline would be synced by itself. The log that is written anew afterwards is
    // synced whatever the setting.
    let mut get = redis::cmd("CONFIG");
    get.arg("GET").arg(SYNC);
    let (_, sync): (String, String) = get.query_async(&mut connection).await?;
    configure(&mut connection, SYNC, "no").await?;
    let mut random = Random::new();
    // Each shard's records at once, as one command for each record would take far longer.
    let before = |shard: u64| u128::from(records) * u128::from(shard) / u128::from(SHARDS);
    for first in (0..SHARDS).step_by(usize::try_from(PIPELINE)?) {
        let mut pipeline = redis::pipe();
        for shard in first..first + PIPELINE {
            let numbers = before(shard)..before(shard + 1);
            if numbers.is_empty() {
                continue;
            }
            let command = pipeline.cmd("HSET").arg(format!("tally.write:{generation}:{shard:04x}"));
            for number in numbers {
                let request = u128::from(shard) << 112 | random.next_u128() >> 16;
                let outcome = format!("c{}", number + 1);
                let mut value =
                    random.next_u64().to_be_bytes().get(..4).unwrap_or_default().to_vec();
                value.extend(WRITE.to_be_bytes());
                value.extend(u32::try_from(outcome.len())?.to_be_bytes());
                value.extend(outcome.as_bytes());
                command.arg(&request.to_be_bytes()).arg(value);
            }
            command.ignore();
        }
        pipeline.query_async::<()>(&mut connection).await?;
    }
    rewrite_log(&mut connection).await?;
    configure(&mut connection, SYNC, &sync).await
}

async fn configure(
    connection: &mut redis::aio::MultiplexedConnection,
    setting: &str,
    value: &str,
) -> Result<()> {
    let mut set = redis::cmd("CONFIG");
    set.arg("SET").arg(setting).arg(value);
    Ok(set.query_async(connection).await?)
}

/// Has Redis write its log anew now: the log has grown so much that it would do so under load.
async fn rewrite_log(connection: &mut redis::aio::MultiplexedConnection) -> Result<()> {
    // It may be doing so already.
    let _ = redis::cmd("BGREWRITEAOF").query_async::<()>(connection).await;
    let started = Instant::now();
    loop {
        let info: String = redis::cmd("INFO").arg("persistence").query_async(connection).await?;
        let is_idle = ["aof_rewrite_in_progress:0", "aof_rewrite_scheduled:0"]
            .iter()
            .all(|state| info.lines().any(|line| line == *state));
        if is_idle {
            return Ok(());
        }
        if started.elapsed() > REWRITE_LIMIT {
            bail!("Redis did not rewrite its append-only file within {REWRITE_LIMIT:?}");
        }
        sleep(Duration::from_millis(100)).await;
    }
}

/// Puts records into an SQLite file whose tables Tally has made, as runs behind those that are there.
/// Their filters are left to Tally, whose sweep makes them: see [`filters`].
///
/// # Errors
/// When the tables are missing or have other columns, or the file cannot be written.
pub(crate) fn sqlite(path: &Path, records: u64) -> Result<()> {
    let mut connection = rusqlite::Connection::open(path)?;
    let began = i64::try_from(now()?.as_millis())?;
    let last = "SELECT coalesce(max(run), 0) FROM tally_write_run";
    let mut run: i64 = connection.query_row(last, [], |row| row.get(0)).context(NO_TABLE)?;
    let mut random = Random::new();
    for (first, last) in parts(records, RUN) {
        run += 1;
        let transaction = connection.transaction()?;
        let begin = "INSERT INTO tally_write_run (run, began) VALUES (?1, ?2)";
        transaction.execute(begin, [run, began])?;
        let insert = "INSERT INTO tally_write (run, request, write, fingerprint, outcome)
            VALUES (?1, ?2, ?3, ?4, ?5)";
        let mut insert = transaction.prepare(insert).context(NO_TABLE)?;
        let mut requests: Vec<u128> = (first..=last).map(|_| random.next_u128()).collect();
        requests.sort_unstable();
        for (number, request) in (first..=last).zip(requests) {
            let fingerprint = i64::from(random.next_u64() as u32);
            let outcome = i64::try_from(number)?;
            insert.execute(params![run, request.to_be_bytes(), WRITE, fingerprint, outcome])?;
        }
        drop(insert);
        transaction.commit()?;
    }
    // The log holds all of it, and would be read through by the first who writes.
    let busy: Option<i64> =
        connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0)).optional()?;
    if busy == Some(1) {
        bail!("the SQLite file is in use, so its log could not be emptied");
    }
    Ok(())
}

/// Waits until Tally has made the filters of all runs that take no more records.
///
/// # Errors
/// When it has not within a minute.
pub(crate) async fn filters(path: &Path) -> Result<()> {
    let connection = rusqlite::Connection::open(path)?;
    let missing = "SELECT (SELECT count(*) FROM tally_write_run) - 1
        - (SELECT count(*) FROM tally_write_filter)";
    let started = Instant::now();
    while connection.query_row(missing, [], |row| row.get::<_, i64>(0)).context(NO_TABLE)? > 0 {
        if started.elapsed() > FILTERS_LIMIT {
            bail!("Tally did not make the filters of all records within {FILTERS_LIMIT:?}");
        }
        sleep(Duration::from_millis(100)).await;
    }
    Ok(())
}

const NO_TABLE: &str = "the store has no records of requests as this program knows them: --tally must be the host of the same repository";

/// The numbers of the records of each part of a size: the first and the last.
fn parts(records: u64, size: u64) -> impl Iterator<Item = (u64, u64)> {
    let starts = (0..records.div_ceil(size)).map(move |part| part * size);
    starts.map(move |before| (before + 1, records.min(before + size)))
}

fn now() -> Result<Duration> {
    SystemTime::now().duration_since(UNIX_EPOCH).context("the clock is before 1970")
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use tally_testkit::{Durability, Postgres, Redis};

    use super::*;

    const RECORDS: u64 = 10_000;

    /// Random numbers of 128 bits spread over their range, and none is there twice.
    fn check_spread(requests: &[u128]) {
        assert_eq!(requests.len(), RECORDS as usize);
        assert_eq!(requests.iter().collect::<HashSet<_>>().len(), requests.len());
        for sixteenth in 0..16 {
            let count = requests.iter().filter(|request| *request >> 124 == sixteenth).count();
            assert!((450..800).contains(&count), "{sixteenth}: {count}");
        }
    }

    #[test]
    fn parts_hold_every_record_once() {
        assert_eq!(parts(0, 10).count(), 0);
        assert_eq!(parts(1, 10).collect::<Vec<_>>(), [(1, 1)]);
        assert_eq!(parts(25, 10).collect::<Vec<_>>(), [(1, 10), (11, 20), (21, 25)]);
        assert_eq!(parts(10, 10).collect::<Vec<_>>(), [(1, 10)]);
    }

    #[test]
    fn sqlite_gets_records_in_runs_behind_the_last_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store.db");
        let records = RUN + RECORDS;
        let error = format!("{:#}", sqlite(&path, records).unwrap_err());
        assert!(error.starts_with(NO_TABLE), "{error}");
        let connection = rusqlite::Connection::open(&path).unwrap();
        let tables = "PRAGMA journal_mode = WAL;
            CREATE TABLE tally_write (run INTEGER, request BLOB, write INTEGER, fingerprint INTEGER,
                outcome, PRIMARY KEY (run, request, write)) WITHOUT ROWID;
            CREATE TABLE tally_write_run (run INTEGER PRIMARY KEY, began INTEGER);
            INSERT INTO tally_write_run VALUES (7, 1)";
        connection.execute_batch(tables).unwrap();
        let before = now().unwrap().as_millis() as i64;
        sqlite(&path, records).unwrap();
        let runs = "SELECT run, began FROM tally_write_run ORDER BY run";
        let mut runs = connection.prepare(runs).unwrap();
        let runs: Vec<(i64, i64)> = runs
            .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))
            .unwrap()
            .collect::<Result<_, _>>()
            .unwrap();
        assert!(matches!(runs[..], [(7, 1), (8, one), (9, _)] if one >= before), "{runs:?}");
        let in_run = |run: i64| -> Vec<u128> {
            let mut requests =
                connection.prepare("SELECT request FROM tally_write WHERE run = ?1").unwrap();
            let requests = requests.query_map([run], |row| row.get::<_, [u8; 16]>(0)).unwrap();
            requests.map(|request| u128::from_be_bytes(request.unwrap())).collect()
        };
        assert_eq!(in_run(8).len() as u64, RUN);
        check_spread(&in_run(9));
    }

    #[tokio::test]
    async fn redis_gets_records_in_the_shards_of_the_current_generation() {
        let server = Redis::start().unwrap();
        let error = format!("{:#}", redis(&server.url(), RECORDS).await.unwrap_err());
        assert!(error.starts_with(NO_TABLE), "{error}");
        let client = redis::Client::open(server.url()).unwrap();
        let mut connection = client.get_multiplexed_async_connection().await.unwrap();
        let mut begin = redis::cmd("HSET");
        begin.arg("tally.write").arg(9).arg(1_000).arg(10).arg(2_000);
        begin.query_async::<()>(&mut connection).await.unwrap();
        redis(&server.url(), RECORDS).await.unwrap();
        let mut sync = redis::cmd("CONFIG");
        sync.arg("GET").arg(SYNC);
        let sync: Vec<String> = sync.query_async(&mut connection).await.unwrap();
        assert_eq!(sync, [SYNC, "always"]);
        let keys: Vec<String> =
            redis::cmd("KEYS").arg("tally.write:*").query_async(&mut connection).await.unwrap();
        let mut requests = Vec::new();
        for key in keys {
            let shard = key.strip_prefix("tally.write:10:").unwrap();
            let records: Vec<([u8; 16], Vec<u8>)> =
                redis::cmd("HGETALL").arg(&key).query_async(&mut connection).await.unwrap();
            for (request, value) in records {
                let request = u128::from_be_bytes(request);
                assert_eq!(format!("{:04x}", request >> 112), shard);
                let (head, outcome) = value.split_at(16);
                assert_eq!(head[4..12], WRITE.to_be_bytes());
                assert_eq!(head[12..], (outcome.len() as u32).to_be_bytes());
                let number = str::from_utf8(outcome).unwrap().strip_prefix('c').unwrap();
                assert!((1..=RECORDS).contains(&number.parse().unwrap()), "{number}");
                requests.push(request);
            }
        }
        check_spread(&requests);
    }

    #[tokio::test]
    async fn postgres_gets_records_that_expire_in_a_day() {
        let server = Postgres::start(Durability::Unsynced).unwrap();
        let error = format!("{:#}", postgres(&server.url(), RECORDS).await.unwrap_err());
        assert!(error.starts_with(NO_TABLE), "{error}");
        let (client, connection) = tokio_postgres::connect(&server.url(), NoTls).await.unwrap();
        let driver = tokio::spawn(connection);
        let table = "CREATE TABLE tally_write (request uuid, write bigint, count bigint,
            fingerprint int4, expires int4, outcome bytea, PRIMARY KEY (request, write))";
        client.batch_execute(table).await.unwrap();
        postgres(&server.url(), RECORDS).await.unwrap();
        let left = "SELECT min(left_s), max(left_s) FROM (SELECT expires
            - extract(epoch FROM now() - timestamptz '2024-01-01 00:00:00+00')::int4 AS left_s
            FROM tally_write) AS each";
        let left = client.query_one(left, &[]).await.unwrap();
        let (least, most): (i32, i32) = (left.get(0), left.get(1));
        assert!(least > 80_000 && most <= 86_401, "{least} {most}");
        let requests = "SELECT uuid_send(request) FROM tally_write WHERE outcome IS NULL";
        let requests: Vec<u128> = client
            .query(requests, &[])
            .await
            .unwrap()
            .iter()
            .map(|row| u128::from_be_bytes(row.get::<_, &[u8]>(0).try_into().unwrap()))
            .collect();
        check_spread(&requests);
        drop(client);
        driver.await.unwrap().unwrap();
    }
}
