//! Where counts are kept, each store used as its client's documentation shows: one command,
//! statement or transaction for each request. Nothing is retried and no connection is made anew.
//!
//! The names differ from Tally's, so that both can count in one store.

use std::{
    collections::HashMap,
    path::Path,
    sync::{
        Arc, RwLock,
        atomic::{AtomicI64, Ordering},
    },
    thread,
};

use anyhow::{Context as _, Result, anyhow, bail};
use redis::aio::MultiplexedConnection;
use tokio::sync::{mpsc, oneshot};
use tokio_postgres::{Client, NoTls, Statement};

/// What keys in Redis begin with.
const REDIS_PREFIX: &str = "plain-hyper";

const SQLITE_SCHEMA: &str = "
CREATE TABLE IF NOT EXISTS plain_hyper (key TEXT PRIMARY KEY, value INTEGER NOT NULL)";

const POSTGRES_SCHEMA: &str = "
CREATE TABLE IF NOT EXISTS plain_hyper (key text PRIMARY KEY, value bigint NOT NULL)";

/// The same in both dialects.
const INCREMENT: &str = "INSERT INTO plain_hyper (key, value) VALUES ($1, 1)
    ON CONFLICT (key) DO UPDATE SET value = plain_hyper.value + 1 RETURNING value";
const RESET: &str = "INSERT INTO plain_hyper (key, value) VALUES ($1, 0)
    ON CONFLICT (key) DO UPDATE SET value = 0 RETURNING value";
const REPORT: &str = "SELECT coalesce(max(value), 0) FROM plain_hyper WHERE key = $1";

/// What a request asks for.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Operation {
    Increment,
    Report,
    Reset,
}

/// Counts by name. An entry is locked for writing only to be made.
type Counters = RwLock<HashMap<String, AtomicI64>>;

/// A store that threads can connect to.
pub(crate) enum Source {
    Memory(Arc<Counters>),
    Sqlite(mpsc::UnboundedSender<Job>),
    Redis(redis::Client),
    Postgres(String),
}

/// One thread's access to the store.
pub(crate) enum Store {
    Memory(Arc<Counters>),
    Sqlite(mpsc::UnboundedSender<Job>),
    Redis(MultiplexedConnection),
    Postgres(Prepared),
}

/// An operation for the thread that owns the SQLite connection, and where to answer.
type Job = (Operation, String, oneshot::Sender<rusqlite::Result<i64>>);

impl Source {
    /// Opens a store by its URL, and makes its table.
    pub(crate) async fn open(url: &str) -> Result<Self> {
        let (scheme, rest) = url.split_once(':').context("the store URL has no scheme")?;
        Ok(match scheme {
            "memory" => Self::Memory(Arc::default()),
            "sqlite" => Self::Sqlite(sqlite(Path::new(rest)).context("cannot use SQLite")?),
            "redis" => Self::Redis(redis::Client::open(url).context("cannot use Redis")?),
            "postgres" => {
                let client = postgres(url).await?;
                client.batch_execute(POSTGRES_SCHEMA).await?;
                Self::Postgres(url.to_owned())
            }
            _ => bail!("the store URL must begin with memory:, sqlite:, redis: or postgres:"),
        })
    }

    /// Makes the calling thread's connections.
    pub(crate) async fn connect(&self) -> Result<Store> {
        Ok(match self {
            Self::Memory(counters) => Store::Memory(Arc::clone(counters)),
            Self::Sqlite(jobs) => Store::Sqlite(jobs.clone()),
            Self::Redis(client) => Store::Redis(client.get_multiplexed_async_connection().await?),
            Self::Postgres(url) => Store::Postgres(Prepared::connect(url).await?),
        })
    }
}

impl Store {
    /// Applies an operation to the counter of a name, and returns the count after it.
    pub(crate) async fn apply(&self, operation: Operation, name: &str) -> Result<i64> {
        match self {
            Self::Memory(counters) => memory(counters, operation, name),
            Self::Sqlite(jobs) => {
                let (answer, answered) = oneshot::channel();
                jobs.send((operation, name.to_owned(), answer))
                    .ok()
                    .context("the SQLite thread is gone")?;
                Ok(answered.await??)
            }
            Self::Redis(connection) => redis(connection.clone(), operation, name).await,
            Self::Postgres(prepared) => prepared.apply(operation, name).await,
        }
    }
}

fn memory(counters: &Counters, operation: Operation, name: &str) -> Result<i64> {
    let apply = |count: &AtomicI64| match operation {
        Operation::Increment => count.fetch_add(1, Ordering::Relaxed).wrapping_add(1),
        Operation::Report => count.load(Ordering::Relaxed),
        Operation::Reset => {
            count.store(0, Ordering::Relaxed);
            0
        }
    };
    if let Some(count) = counters.read().map_err(|_| anyhow!("a thread panicked"))?.get(name) {
        return Ok(apply(count));
    }
    let mut counters = counters.write().map_err(|_| anyhow!("a thread panicked"))?;
    Ok(apply(counters.entry(name.to_owned()).or_default()))
}

async fn redis(
    mut connection: MultiplexedConnection,
    operation: Operation,
    name: &str,
) -> Result<i64> {
    let connection = &mut connection;
    let key = format!("{REDIS_PREFIX}:{name}");
    Ok(match operation {
        Operation::Increment => {
            redis::cmd("INCRBY").arg(key).arg(1).query_async(connection).await?
        }
        Operation::Report => {
            let count: Option<i64> = redis::cmd("GET").arg(key).query_async(connection).await?;
            count.unwrap_or(0)
        }
        Operation::Reset => {
            let () = redis::cmd("SET").arg(key).arg(0).query_async(connection).await?;
            0
        }
    })
}

/// Opens the file, and starts the thread that owns it. Each operation is a transaction of its own,
/// and synced before it is answered.
fn sqlite(path: &Path) -> rusqlite::Result<mpsc::UnboundedSender<Job>> {
    let database = rusqlite::Connection::open(path)?;
    database.pragma_update(None, "journal_mode", "wal")?;
    database.pragma_update(None, "synchronous", "full")?;
    database.execute_batch(SQLITE_SCHEMA)?;
    let (jobs, mut queue) = mpsc::unbounded_channel::<Job>();
    thread::spawn(move || {
        while let Some((operation, name, answer)) = queue.blocking_recv() {
            let count = database
                .prepare_cached(sql(operation))
                // To its end, where it commits, not only to its first row.
                .and_then(|mut statement| statement.query_one([&name], |row| row.get(0)));
            // A client that is gone does not wait for its answer.
            let _ = answer.send(count);
        }
    });
    Ok(jobs)
}

fn sql(operation: Operation) -> &'static str {
    match operation {
        Operation::Increment => INCREMENT,
        Operation::Report => REPORT,
        Operation::Reset => RESET,
    }
}

/// A connection to PostgreSQL with its statements. It sends each without waiting for the answers to
/// those before. One a thread: more of them wait for each other's locks on the one row, and answered
/// fewer requests a second the more there were.
pub(crate) struct Prepared {
    client: Client,
    increment: Statement,
    report: Statement,
    reset: Statement,
}

impl Prepared {
    async fn connect(url: &str) -> Result<Self> {
        let client = postgres(url).await?;
        let increment = client.prepare(INCREMENT).await?;
        let report = client.prepare(REPORT).await?;
        let reset = client.prepare(RESET).await?;
        Ok(Self { client, increment, report, reset })
    }

    async fn apply(&self, operation: Operation, name: &str) -> Result<i64> {
        let statement = match operation {
            Operation::Increment => &self.increment,
            Operation::Report => &self.report,
            Operation::Reset => &self.reset,
        };
        Ok(self.client.query_one(statement, &[&name]).await?.try_get(0)?)
    }
}

async fn postgres(url: &str) -> Result<Client> {
    let (client, connection) =
        tokio_postgres::connect(url, NoTls).await.context("cannot use PostgreSQL")?;
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            eprintln!("a connection to PostgreSQL ended: {error}");
        }
    });
    Ok(client)
}
