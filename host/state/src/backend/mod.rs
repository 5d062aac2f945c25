//! Backends: what applies a batch of steps, in order, and says what happened to each.
//!
//! A backend is chosen by URL. It says how many lanes it wants and where: on each worker's own
//! runtime, which saves the hop between cores and merges less (Redis), or on threads of their own,
//! where a commit may block and all workers' increments meet (SQLite, PostgreSQL). What is in this
//! process wants none: to apply a step takes less than to hand it over.

pub(crate) mod memory;
mod postgres;
mod redis;
mod sqlite;
mod tls;
mod url;

use std::{fmt, sync::Arc};

pub use self::sqlite::sqlite_path;
use crate::{
    error::{Error, OpenError},
    lane::{Lane, Place},
    operation::Step,
    plan::Reply,
    state::Options,
};

/// A connection of one lane to its backend.
pub(crate) trait Connection: Send + 'static {
    /// Whether a batch can be sent, as far as is known without trying.
    fn is_ready(&self) -> bool {
        true
    }

    /// Connects, within the time limit for it.
    ///
    /// # Errors
    /// [`Error::NotApplied`], with the reason.
    fn connect(&mut self) -> impl Future<Output = Result<(), Error>> + Send {
        std::future::ready(Ok(()))
    }

    /// Whether operations would succeed, writes where the connection is for them, found out without a
    /// change that anybody could see.
    ///
    /// # Errors
    /// The reason, in either kind of error.
    ///
    /// # Cancel safety
    /// As that of [`Connection::apply`].
    fn check(&mut self) -> impl Future<Output = Result<(), Error>> + Send {
        std::future::ready(Ok(()))
    }

    /// Applies the steps in order, durably as the backend promises, and answers one reply for
    /// each.
    ///
    /// # Cancel safety
    /// When the future is dropped, what was sent stays sent; the connection must be given up, so
    /// that no answer of this batch is taken for one of the next.
    fn apply(&mut self, steps: &[Step]) -> impl Future<Output = Vec<Reply>> + Send;
}

/// Where a backend's lanes run, and how many of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lanes {
    /// There are none: steps are applied where they are asked for.
    Direct,
    /// One on each worker's runtime.
    PerWorker,
    /// This many threads, shared by all workers. Keys are spread over them.
    Threads { writers: usize, readers: usize, sweepers: usize },
}

/// What a lane's connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// Everything, or all writes where there are lanes for reads.
    Write,
    /// Reads alone.
    Read,
    /// Removing what has expired, where that need not wait for those who write.
    Sweep,
}

impl Role {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Write => "write",
            Self::Read => "read",
            Self::Sweep => "sweep",
        }
    }
}

/// What an open backend is, for the people who run it. Holds no credentials.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Description {
    /// `memory`, `sqlite`, `redis` or `postgres`.
    pub backend: &'static str,
    /// Where it is: a path, or host, port and database.
    pub location: String,
    /// What an acknowledged write is promised.
    pub guarantee: String,
    /// What weakens that promise and could be set otherwise.
    pub warning: Option<String>,
}

impl Description {
    /// Of a server that was away, of which nothing is known but where it is.
    pub(crate) fn away(backend: &'static str, location: String) -> Self {
        Self {
            backend,
            location,
            guarantee: String::from("what it guarantees is not known, as it was away at the start"),
            warning: None,
        }
    }
}

impl fmt::Display for Description {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: {}", self.backend, self.location, self.guarantee)
    }
}

/// An open backend.
pub(crate) enum Opened {
    Memory(memory::Memory),
    Sqlite(sqlite::Sqlite),
    Redis(redis::Redis),
    Postgres(postgres::Postgres),
}

/// Opens the backend that a URL names.
pub(crate) async fn open(url: &str, options: &Options) -> Result<(Opened, Description), OpenError> {
    let (scheme, rest) = url.split_once(':').unwrap_or((url, ""));
    Ok(match scheme {
        "memory" => {
            let description = Description {
                backend: "memory",
                location: String::from("(this process)"),
                guarantee: String::from("counts are exact, and gone when the process ends"),
                warning: None,
            };
            (Opened::Memory(memory::Memory::new(options.idempotency_window)), description)
        }
        "sqlite" => {
            let (backend, description) = sqlite::Sqlite::open(rest, options)?;
            (Opened::Sqlite(backend), description)
        }
        "redis" | "rediss" | "redis-sentinel" | "rediss-sentinel" => {
            let (backend, description) = redis::Redis::open(url, options).await?;
            (Opened::Redis(backend), description)
        }
        "postgres" | "postgresql" => {
            let (backend, description) = postgres::Postgres::open(url, options).await?;
            (Opened::Postgres(backend), description)
        }
        // The scheme alone, and only what can be one: all else may hold a password.
        _ => {
            let is_scheme = |byte: u8| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte);
            let named = if scheme.bytes().all(is_scheme) { scheme } else { "this" };
            return Err(OpenError::Url(format!(
                "'{named}' is no store Tally knows; write sqlite:PATH, memory:, redis://HOST:6379, redis-sentinel://HOST:26379,…/SERVICE, rediss://… for TLS, or postgres://USER:PASSWORD@HOST:5432/DATABASE"
            )));
        }
    })
}

impl Opened {
    /// Whether what has expired is to be removed by us.
    pub(crate) fn wants_sweeping(&self) -> bool {
        !matches!(self, Self::Redis(_))
    }

    pub(crate) fn lanes(&self) -> Lanes {
        match self {
            Self::Memory(_) => Lanes::Direct,
            Self::Redis(_) => Lanes::PerWorker,
            // One file, one writer; a reader beside it, so that reads do not wait for a commit.
            Self::Sqlite(_) => Lanes::Threads { writers: 1, readers: 1, sweepers: 0 },
            // A hot row meets in one lane whatever their number; the others keep different keys
            // from waiting for each other's row locks.
            Self::Postgres(_) => Lanes::Threads { writers: 2, readers: 1, sweepers: 1 },
        }
    }

    /// Spawns a lane's loop on the current runtime.
    pub(crate) fn spawn_on_worker(&self, lane: Arc<Lane>) {
        match self {
            Self::Redis(redis) => {
                let redis = redis.clone();
                let first = redis.connection();
                let running = lane.run(Place::Worker, first, move || Ok(redis.connection()));
                drop(tokio::spawn(running));
            }
            Self::Memory(_) | Self::Sqlite(_) | Self::Postgres(_) => lane.close(),
        }
    }

    /// Starts a lane's loop on a thread of its own.
    pub(crate) fn run_on_thread(&self, lane: Arc<Lane>) -> Result<(), OpenError> {
        let role = lane.role();
        match self {
            Self::Sqlite(sqlite) => {
                let sqlite = sqlite.clone();
                let first = sqlite.connection(role)?;
                let another = move || {
                    sqlite.connection(role).map_err(|error| Error::not_applied(error.to_string()))
                };
                start(lane, first, another)
            }
            Self::Postgres(postgres) => {
                let postgres = postgres.clone();
                let first = postgres.connection(role);
                start(lane, first, move || Ok(postgres.connection(role)))
            }
            Self::Memory(_) | Self::Redis(_) => {
                lane.close();
                Ok(())
            }
        }
    }
}

fn start<C: Connection>(
    lane: Arc<Lane>,
    first: C,
    another: impl Fn() -> Result<C, Error> + Send + 'static,
) -> Result<(), OpenError> {
    let name = match lane.role() {
        Role::Write => "state-write",
        Role::Read => "state-read",
        Role::Sweep => "state-sweep",
    };
    let failed =
        |error| OpenError::Backend(format!("cannot start a thread for the store: {error}"));
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
    std::thread::Builder::new()
        .name(name.into())
        .spawn(move || runtime.block_on(lane.run(Place::Thread, first, another)))
        .map_err(failed)?;
    Ok(())
}

/// The same failure for every step.
fn all_failed(steps: &[Step], error: &Error) -> Vec<Reply> {
    vec![Err(error.clone()); steps.len()]
}

/// The first text that comes after all that begin with a prefix, in the order of their bytes, which
/// is that of their characters; none where all that follow begin so.
fn prefix_end(prefix: &str) -> Option<String> {
    let mut end: Vec<char> = prefix.chars().collect();
    while let Some(last) = end.pop() {
        // The code points from U+D800 are no characters.
        let next = match last {
            '\u{d7ff}' => Some('\u{e000}'),
            _ => u32::from(last).checked_add(1).and_then(char::from_u32),
        };
        if let Some(next) = next {
            end.push(next);
            return Some(end.into_iter().collect());
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_begins_with_a_prefix_comes_before_its_end() {
        for (prefix, end) in [
            ("", None),
            ("a", Some("b")),
            ("a\u{10ffff}", Some("b")),
            ("\u{10ffff}", None),
            ("\u{d7ff}", Some("\u{e000}")),
        ] {
            assert_eq!(prefix_end(prefix).as_deref(), end, "{prefix:?}");
        }
    }
}
