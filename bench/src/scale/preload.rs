//! Many keys in a store, put there directly, as Tally keeps them: counters of zero in the bucket
//! `default`.

use anyhow::{Context as _, Result};

use crate::backend::Store;

/// Keys that are sent to Redis at once.
const PART: u64 = 10_000;

/// Puts `key0`, `key1` and so on into a store that a server has opened.
pub(super) async fn fill(store: &Store, keys: u64) -> Result<()> {
    if keys == 0 {
        return Ok(());
    }
    match store {
        Store::Memory => Ok(()),
        Store::Sqlite(path) => {
            let mut connection = rusqlite::Connection::open(path)?;
            let transaction = connection.transaction()?;
            let mut insert = transaction
                .prepare("INSERT INTO tally_kv (bucket, key, value) VALUES ('default', ?1, 0)")?;
            for key in 0..keys {
                insert.execute([format!("key{key}")])?;
            }
            drop(insert);
            transaction.commit()?;
            // The log holds all of it, and would be read through by the first who writes.
            let checkpoint =
                connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()));
            Ok(checkpoint?)
        }
        Store::Redis(redis) => {
            let client = redis::Client::open(redis.url())?;
            let mut connection = client.get_multiplexed_async_connection().await?;
            let mut next = 0;
            while next < keys {
                let end = keys.min(next + PART);
                let mut pipeline = redis::pipe();
                for key in next..end {
                    pipeline.set(format!("default:key{key}"), 0).ignore();
                }
                pipeline.query_async::<()>(&mut connection).await?;
                next = end;
            }
            Ok(())
        }
        Store::Postgres(postgres) => {
            let (client, connection) =
                tokio_postgres::connect(&postgres.url(), tokio_postgres::NoTls).await?;
            let driver = tokio::spawn(connection);
            let last = i64::try_from(keys)? - 1;
            let insert = "INSERT INTO tally_kv (bucket, key, number) \
                SELECT 'default', 'key' || number, 0 FROM generate_series(0, $1::bigint) AS number";
            client.execute(insert, &[&last]).await.context("cannot fill PostgreSQL")?;
            // Each by itself, as a batch is a transaction, in which neither can run.
            client.batch_execute("VACUUM ANALYZE tally_kv").await?;
            client.batch_execute("CHECKPOINT").await?;
            drop(client);
            Ok(driver.await??)
        }
    }
}
