//! Looks into a server past the code under test.

use tokio_postgres::NoTls;

use crate::{BUCKET, until};

/// A connection of its own to the server.
pub(crate) enum Observer {
    Redis(redis::aio::MultiplexedConnection),
    Postgres(tokio_postgres::Client),
}

impl Observer {
    pub(crate) async fn redis(url: &str) -> Self {
        let client = redis::Client::open(url).unwrap();
        Self::Redis(client.get_multiplexed_async_connection().await.unwrap())
    }

    pub(crate) async fn postgres(url: &str) -> Self {
        Self::Postgres(session(url).await)
    }

    /// The count that a key holds; 0 where there is none.
    pub(crate) async fn count(&mut self, key: &str) -> i64 {
        match self {
            Self::Redis(connection) => {
                let name = format!("{BUCKET}:{key}");
                let count: Option<i64> =
                    redis::cmd("GET").arg(name).query_async(connection).await.unwrap();
                count.unwrap_or(0)
            }
            Self::Postgres(client) => {
                let select = "SELECT number FROM tally_kv WHERE bucket = $1 AND key = $2";
                let row = client.query_opt(select, &[&BUCKET, &key]).await.unwrap();
                row.map_or(0, |row| row.get(0))
            }
        }
    }

    /// Waits until the server has ended all connections but this one, and with them all that was
    /// still to be done for them.
    pub(crate) async fn alone(&mut self) {
        self.others(0).await;
    }

    /// Waits until the server has at most so many connections besides this one.
    pub(crate) async fn others(&mut self, most: usize) {
        match self {
            Self::Redis(connection) => {
                let connection = &*connection;
                until(|| async {
                    let clients: String = redis::cmd("CLIENT")
                        .arg("LIST")
                        .query_async(&mut connection.clone())
                        .await
                        .unwrap();
                    clients.trim().lines().count() <= most + 1
                })
                .await;
            }
            Self::Postgres(client) => {
                let client = &*client;
                until(|| async {
                    let select = "SELECT count(*) FROM pg_stat_activity
                        WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()";
                    let others: i64 = client.query_one(select, &[]).await.unwrap().get(0);
                    usize::try_from(others).unwrap() <= most
                })
                .await;
            }
        }
    }
}

/// A session with a PostgreSQL server.
pub(crate) async fn session(url: &str) -> tokio_postgres::Client {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
    tokio::spawn(async move {
        // Ends with an error when the test stops the server.
        let _ = connection.await;
    });
    client
}
