//! What another program sees in the store, and what it may put there.

use std::time::Duration;

use tally_state::{Bucket, Error, Metrics, Options, Rejection, Scope, State, Swapped};

use crate::bench::{Bench, options};

pub(crate) async fn redis_keys_are_plain_strings(bench: Bench) {
    let client = redis::Client::open(bench.url()).unwrap();
    let mut other = client.get_multiplexed_async_connection().await.unwrap();
    let handle = &bench.handle;
    let bucket = Bucket::new("shared").unwrap();
    handle.increment(&bucket, "count", 41).await.unwrap();
    let count: i64 = redis::cmd("INCR").arg("shared:count").query_async(&mut other).await.unwrap();
    assert_eq!(count, 42);
    assert_eq!(handle.increment(&bucket, "count", 1).await, Ok(43));
    let () = redis::cmd("SET").arg("shared:text").arg("v").query_async(&mut other).await.unwrap();
    assert_eq!(handle.get(&bucket, "text").await, Ok(Some("v".into())));
}

pub(crate) async fn a_redis_list_is_no_value(bench: Bench) {
    let client = redis::Client::open(bench.url()).unwrap();
    let mut other = client.get_multiplexed_async_connection().await.unwrap();
    let handle = &bench.handle;
    let bucket = Bucket::new("foreign").unwrap();
    let _: i64 =
        redis::cmd("LPUSH").arg("foreign:list").arg("x").query_async(&mut other).await.unwrap();
    let refused = |error: Error| {
        assert!(matches!(error, Error::Rejected(Rejection::WrongType(_))), "{error}");
    };
    refused(handle.get(&bucket, "list").await.unwrap_err());
    refused(handle.increment(&bucket, "list", 1).await.unwrap_err());
    refused(handle.swap(&bucket, "list", None, "v".into()).await.unwrap_err());
    assert_eq!(handle.list(&bucket, "", None).await.unwrap().keys, Vec::<String>::new());
    let length: i64 = redis::cmd("LLEN").arg("foreign:list").query_async(&mut other).await.unwrap();
    assert_eq!(length, 1, "unchanged");
}

pub(crate) async fn postgres_counters_are_plain_numbers(bench: Bench) {
    let (other, connection) =
        tokio_postgres::connect(&bench.url(), tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    let Bench { handle, bucket, .. } = &bench;
    handle.increment(bucket, "count", 41).await.unwrap();
    let change = "UPDATE tally_kv SET number = number + 1 WHERE bucket = $1 AND key = 'count'";
    assert_eq!(other.execute(change, &[&bucket.as_str()]).await.unwrap(), 1);
    assert_eq!(handle.increment(bucket, "count", 1).await, Ok(43));
    assert_eq!(handle.swap(bucket, "count", Some("43".into()), "x".into()).await, Ok(Swapped::Yes));
    let row = other
        .query_one(
            "SELECT number, value FROM tally_kv WHERE bucket = $1 AND key = 'count'",
            &[&bucket.as_str()],
        )
        .await
        .unwrap();
    assert_eq!(row.get::<_, Option<i64>>(0), None);
    assert_eq!(row.get::<_, Option<&[u8]>>(1), Some(&b"x"[..]));
}

/// Fills a fresh store, which sweeps often, with what soon expires.
async fn expiring(url: &str) -> State {
    let moment = Duration::from_millis(20);
    let options = Options { idempotency_window: moment, sweep_every: moment, ..options() };
    let state = State::open(url, options, Metrics::default()).await.unwrap();
    let (handle, bucket) = (state.worker(), Bucket::new("expiring").unwrap());
    handle.set(&bucket, "stays", "v".into()).await.unwrap();
    for number in 0..1_200_u64 {
        let (key, name) = (number.to_string(), u128::from(number).to_be_bytes());
        let once = handle.scoped(&Scope::new(name, name));
        // Kept by two clocks: of the value, and of the record.
        once.set_for(&bucket, &key, "v".into(), Some(moment)).await.unwrap();
    }
    state
}

pub(crate) async fn sqlite_gives_room_back(bench: Bench) {
    let url = bench.fresh().await;
    let _state = expiring(&url).await;
    let path = url.strip_prefix("sqlite:").unwrap().to_owned();
    let waiting = tokio::task::spawn_blocking(move || {
        let other = rusqlite::Connection::open(path).unwrap();
        other.busy_timeout(Duration::from_secs(30)).unwrap();
        let count = |table: &str| {
            let select = format!("SELECT count(*) FROM {table}");
            other.query_row(&select, [], |row| row.get::<_, i64>(0)).unwrap()
        };
        while (count("tally_kv"), count("tally_write")) != (1, 0) {
            std::thread::sleep(Duration::from_millis(10));
        }
    });
    waiting.await.unwrap();
}

pub(crate) async fn postgres_gives_room_back(bench: Bench) {
    let url = bench.fresh().await;
    let _state = expiring(&url).await;
    let (other, connection) = tokio_postgres::connect(&url, tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    let select = "SELECT (SELECT count(*) FROM tally_kv), (SELECT count(*) FROM tally_write)";
    loop {
        let row = other.query_one(select, &[]).await.unwrap();
        if (row.get::<_, i64>(0), row.get::<_, i64>(1)) == (1, 0) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Runs last: all hosts took their locks in one order, so that none had to be rolled back.
pub(crate) async fn postgres_saw_no_deadlock(bench: Bench) {
    let (other, connection) =
        tokio_postgres::connect(&bench.url(), tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    // Sessions publish what they counted about once a second.
    tokio::time::sleep(Duration::from_millis(1_200)).await;
    let select = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()";
    assert_eq!(other.query_one(select, &[]).await.unwrap().get::<_, i64>(0), 0);
}

pub(crate) async fn records_of_earlier_versions_are_said_not_to_be_read(bench: Bench) {
    let url = bench.fresh().await;
    let open = async || State::open(&url, options(), Metrics::default()).await.unwrap();
    let before = open().await.description().warning.clone().unwrap_or_default();
    assert!(!before.contains("tally_once"), "{before}");
    let tables = match url.strip_prefix("sqlite:") {
        Some(path) => {
            let create = "CREATE TABLE tally_once (request); CREATE TABLE tally_write_0 (request)";
            rusqlite::Connection::open(path).unwrap().execute_batch(create).unwrap();
            "tally_once, tally_write_0"
        }
        None => {
            let (other, connection) =
                tokio_postgres::connect(&url, tokio_postgres::NoTls).await.unwrap();
            tokio::spawn(connection);
            other.batch_execute("CREATE TABLE tally_once (request text)").await.unwrap();
            "tally_once"
        }
    };
    let warning = open().await.description().warning.clone().unwrap_or_default();
    assert!(warning.contains(tables) && warning.contains("counts again"), "{warning}");
}
