//! A session: what is checked when it begins and while it is idle, and what becomes of it when it is
//! given up.
//!
//! A session that takes no writes (of a standby, or read only by default) is of no use to a lane that
//! writes, and one of a standby would have reads see the past: neither is kept. What is given up with
//! a statement on its way is cancelled, and ended by the next session, because a server process that
//! waits, say for a synchronous standby that is gone, does not notice that its client has left.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::task::AbortHandle;
use tokio_postgres::{CancelToken, Client, SimpleQueryMessage, SimpleQueryRow};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::{failure::Failure, text};
use crate::{backend::Role, error::Unconnected};

/// Sessions that were given up and are not known to have ended. One that cannot be told from others by
/// then ends by itself, or by its server's own limits.
const MOST_GIVEN_UP: usize = 64;

/// What a session is asked when it begins.
pub(super) const ABOUT: &str = "
SELECT pg_is_in_recovery(), current_setting('transaction_read_only'), pg_backend_pid(),
    (SELECT backend_start::text FROM pg_stat_activity WHERE pid = pg_backend_pid()),
    current_setting('server_version_num')";

/// Ends sessions that still do what they were given up with. `state` and `xact_start` keep one alive
/// that a pooler has given to another client meanwhile.
const END: &str = "
SELECT pid, CASE WHEN state <> 'idle' AND xact_start < now() - $3 * interval '1 millisecond'
    THEN pg_terminate_backend(pid) ELSE false END
FROM pg_stat_activity WHERE (pid, backend_start::text) IN (
    SELECT pid, start FROM unnest($1::int[], $2::text[]) AS u(pid, start))";

/// Asks for all that a write asks for, and writes nothing: the rights, a table, a transaction that may
/// write.
const WRITES_NOTHING: &str = "
INSERT INTO tally_kv (bucket, key, number) SELECT '', '', 0 WHERE false;
UPDATE tally_kv SET number = number WHERE false;
DELETE FROM tally_kv WHERE false;
INSERT INTO tally_write (request, write, fingerprint, expires)
SELECT '00000000-0000-0000-0000-000000000000', 0, 0, 0 WHERE false;
DELETE FROM tally_write WHERE false";

/// Commits a record that concerns no table, as durably as any write: this needs room in the log, and
/// an answer of the standbys that a commit waits for.
const COMMITS: &str = "SELECT pg_logical_emit_message(true, 'tally', '')";

const READS_NOTHING: &str = "SELECT FROM tally_kv WHERE false";

/// A server process, told from later ones of the same number by when it began.
type Process = (i32, String);

/// Those that were given up.
#[derive(Clone, Default)]
pub(super) struct GivenUp(Arc<Mutex<Vec<Process>>>);

/// What a server says of a session.
pub(super) struct About {
    is_standby: bool,
    is_read_only: bool,
    process: Option<Process>,
    /// As in 140005 for 14.5.
    pub(super) version: u32,
}

impl About {
    pub(super) fn read(messages: &[SimpleQueryMessage]) -> Option<Self> {
        let row: &SimpleQueryRow = messages.iter().rev().find_map(|message| match message {
            SimpleQueryMessage::Row(row) => Some(row),
            _ => None,
        })?;
        let id = row.try_get(2).ok()??.parse().ok()?;
        Some(Self {
            is_standby: row.try_get(0).ok()?? == "t",
            is_read_only: row.try_get(1).ok()?? == "on",
            process: row.try_get(3).ok()?.map(|started| (id, started.to_owned())),
            version: row.try_get(4).ok()??.parse().ok()?,
        })
    }

    /// Whether the session can do what it is for.
    pub(super) fn check(&self, role: Role, read_only: bool) -> Result<(), Unconnected> {
        if self.is_standby && !read_only {
            return Err(Unconnected::lasting(
                "this server is a standby, which takes no writes and may be behind; name the primary in the store URL, or all servers, separated by commas, of which the primary is found",
            ));
        }
        if self.is_read_only && role != Role::Read && !read_only {
            return Err(Unconnected::lasting(
                "sessions are read only here (default_transaction_read_only is on); set it to off for the database and the user, as in ALTER DATABASE … SET default_transaction_read_only = off",
            ));
        }
        Ok(())
    }
}

/// What ends a session that is given up. Dropped with it.
pub(super) struct Guard {
    cancel: CancelToken,
    tls: MakeRustlsConnect,
    /// The task that has the connection.
    task: AbortHandle,
    process: Option<Process>,
    given_up: GivenUp,
    limit: Duration,
    /// Something is on its way.
    pub(super) is_busy: bool,
}

impl Guard {
    /// Of a session that is being set up, and so is busy.
    pub(super) fn new(
        client: &Client,
        tls: MakeRustlsConnect,
        task: AbortHandle,
        given_up: GivenUp,
        limit: Duration,
    ) -> Self {
        let cancel = client.cancel_token();
        Self { cancel, tls, task, process: None, given_up, limit, is_busy: true }
    }

    pub(super) fn know(&mut self, about: &About) {
        self.process.clone_from(&about.process);
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        // One that is idle says goodbye by itself, and one that has ended need not.
        if !self.is_busy || self.task.is_finished() {
            return;
        }
        if let Some(process) = self.process.take() {
            self.given_up.add(process);
        }
        let (task, cancel, tls, limit) =
            (self.task.clone(), self.cancel.clone(), self.tls.clone(), self.limit);
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return task.abort() };
        runtime.spawn(async move {
            // A server that cannot be reached is not told.
            let _ = tokio::time::timeout(limit, cancel.cancel_query(tls)).await;
            task.abort();
        });
    }
}

impl GivenUp {
    fn add(&self, process: Process) {
        let mut list = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if list.len() < MOST_GIVEN_UP {
            list.push(process);
        }
    }

    /// Ends what was given up at least so long ago and goes on all the same.
    pub(super) async fn end(&self, client: &Client, after: Duration) {
        let list = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        if list.is_empty() {
            return;
        }
        let (ids, starts): (Vec<i32>, Vec<&str>) =
            list.iter().map(|(id, start)| (*id, start.as_str())).unzip();
        let milliseconds = u32::try_from(after.as_millis()).unwrap_or(u32::MAX);
        let parameters: [&(dyn tokio_postgres::types::ToSql + Sync); 3] =
            [&ids, &starts, &f64::from(milliseconds)];
        match client.query(END, &parameters).await {
            Ok(rows) => {
                for row in rows {
                    let (Ok(id), Ok(ended)) = (row.try_get::<_, i32>(0), row.try_get::<_, bool>(1))
                    else {
                        continue;
                    };
                    match list.iter().find(|(other, _)| *other == id) {
                        Some(process) if !ended => self.add(process.clone()),
                        _ => tracing::info!("ended a session of PostgreSQL that was given up"),
                    }
                }
            }
            Err(error) => {
                tracing::debug!(error = %text(&error), "sessions that were given up are not ended");
                list.into_iter().for_each(|process| self.add(process));
            }
        }
    }
}

/// Whether a session does what it is for.
pub(super) async fn check(client: &Client, role: Role) -> Result<(), Failure> {
    if role == Role::Read {
        return Ok(client.batch_execute(READS_NOTHING).await?);
    }
    if role == Role::Sweep {
        return Ok(client.batch_execute(WRITES_NOTHING).await?);
    }
    let (written, committed) =
        tokio::join!(client.batch_execute(WRITES_NOTHING), client.batch_execute(COMMITS));
    written?;
    match committed.map_err(|error| (error.code().map(|code| code.code().to_owned()), error)) {
        Ok(()) => Ok(()),
        // Somebody has taken the right to call it from everybody.
        Err((Some(code), _)) if ["42501", "42883"].contains(&code.as_str()) => Ok(()),
        Err((_, error)) => Err(error.into()),
    }
}
