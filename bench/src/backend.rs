//! The stores that the servers count in.

use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::ValueEnum;
use tally_testkit::{Durability, Postgres, Redis};

/// Where the count is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Backend {
    Memory,
    Sqlite,
    Redis,
    Postgres,
}

/// A backend ready to be used; its server is stopped in an orderly way when dropped.
pub(crate) enum Store {
    Memory,
    Sqlite(PathBuf),
    Redis(Redis),
    Postgres(Postgres),
}

impl Backend {
    /// Its name in the table.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Sqlite => "sqlite",
            Self::Redis => "redis",
            Self::Postgres => "postgres",
        }
    }
}

impl Store {
    /// Starts the backend's server if it has one; all of them sync what they acknowledge.
    pub(crate) fn start(backend: Backend, dir: &Path) -> Result<Self> {
        Ok(match backend {
            Backend::Memory => Self::Memory,
            Backend::Sqlite => Self::Sqlite(dir.join("bench.db")),
            Backend::Redis => Self::Redis(Redis::start()?),
            Backend::Postgres => Self::Postgres(Postgres::start(Durability::Synced)?),
        })
    }

    pub(crate) fn backend(&self) -> Backend {
        match self {
            Self::Memory => Backend::Memory,
            Self::Sqlite(_) => Backend::Sqlite,
            Self::Redis(_) => Backend::Redis,
            Self::Postgres(_) => Backend::Postgres,
        }
    }

    /// What `--store` takes.
    pub(crate) fn url(&self) -> String {
        match self {
            Self::Memory => "memory:".into(),
            Self::Sqlite(path) => format!("sqlite:{}", path.display()),
            Self::Redis(redis) => redis.url(),
            Self::Postgres(postgres) => postgres.url(),
        }
    }

    /// The process that does the store's work, if that is not the server's own.
    pub(crate) fn process_id(&self) -> Option<u32> {
        match self {
            Self::Memory | Self::Sqlite(_) => None,
            Self::Redis(redis) => redis.process_id(),
            Self::Postgres(postgres) => postgres.process_id(),
        }
    }
}

impl Drop for Store {
    /// Killed, PostgreSQL would leave processes and shared memory behind. What does not stop in an
    /// orderly way is killed next, by its own drop.
    fn drop(&mut self) {
        let _ = match self {
            Self::Memory | Self::Sqlite(_) => Ok(()),
            Self::Redis(redis) => redis.stop(),
            Self::Postgres(postgres) => postgres.stop(),
        };
    }
}
