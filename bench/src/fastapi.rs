//! FastAPI under uvicorn, as many workers as cores; [`peers`](../peers) has the applications.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    thread::available_parallelism,
};

use anyhow::Result;
use tally_testkit::{Postgres, TEST_DATABASE, TEST_PASSWORD, TEST_USER};
use tokio::process::Command;
use tokio_postgres::NoTls;

use crate::{backend::Store, program};

/// What each worker prints when it is ready.
pub(crate) const READY: &str = "Application startup complete";

/// The table of the model in `postgres_counter.py`.
const SCHEMA: &str = "CREATE TABLE IF NOT EXISTS fastapi_counter (
    name varchar(255) PRIMARY KEY, count bigint NOT NULL DEFAULT 0)";

/// Where uvicorn is.
pub(crate) fn program(peers: &Path) -> PathBuf {
    // In full, as it is started in another folder.
    let path = peers.join("fastapi/.venv/bin/uvicorn");
    std::path::absolute(&path).unwrap_or(path)
}

/// As many as cores.
pub(crate) fn workers() -> usize {
    available_parallelism().map_or(1, std::num::NonZero::get)
}

/// The command that serves the application for a store.
pub(crate) fn serve(peers: &Path, store: Option<&Store>, port: u16) -> Command {
    let mut command = program::command(program(peers));
    let application = match store {
        Some(Store::Redis(redis)) => {
            command.env("STORE_PORT", redis.port().to_string());
            "redis_counter:app"
        }
        Some(Store::Postgres(postgres)) => {
            let place = SocketAddr::from(([127, 0, 0, 1], postgres.port()));
            let url = format!("asyncpg://{TEST_USER}:{TEST_PASSWORD}@{place}/{TEST_DATABASE}");
            command.env("STORE_URL", url);
            "postgres_counter:app"
        }
        _ => "hello:app",
    };
    command.arg(application).args(["--host", "127.0.0.1", "--no-access-log"]);
    command.args(["--port", &port.to_string(), "--workers", &workers().to_string()]);
    command.current_dir(peers.join("fastapi"));
    command
}

/// Makes the table that the application counts in.
pub(crate) async fn prepare(postgres: &Postgres) -> Result<()> {
    let (client, connection) = tokio_postgres::connect(&postgres.url(), NoTls).await?;
    tokio::spawn(connection);
    Ok(client.batch_execute(SCHEMA).await?)
}
