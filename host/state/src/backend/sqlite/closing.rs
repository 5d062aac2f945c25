//! Closing one connection after the other.
//!
//! The last connection to a file moves its log into it and removes the log. It finds out that it is the last by a lock
//! that it shares with no other (<https://sqlite.org/wal.html>, 5): two that close at once each find the other still
//! there, and the log stays until the next start.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Longest time to wait for another connection to close, which may have to copy all of the log.
const LONGEST: Duration = Duration::from_secs(10);

/// How often to look whether it has. The thread is a lane's own, and has nothing else to do.
const LOOK: Duration = Duration::from_millis(1);

/// A connection's turn to close, shared by all connections of a file; cloned for each.
#[derive(Debug)]
pub(super) struct Closing {
    one: Arc<Semaphore>,
    /// Until dropped, once this one's turn has come.
    held: Option<OwnedSemaphorePermit>,
}

impl Default for Closing {
    fn default() -> Self {
        Self { one: Arc::new(Semaphore::new(1)), held: None }
    }
}

impl Clone for Closing {
    fn clone(&self) -> Self {
        Self { one: Arc::clone(&self.one), held: None }
    }
}

impl Closing {
    /// Waits for the turn of a connection that is to close, which lasts until this is dropped.
    pub(super) fn begin(&mut self) {
        let started = Instant::now();
        while self.held.is_none() && started.elapsed() < LONGEST {
            self.held = Arc::clone(&self.one).try_acquire_owned().ok();
            if self.held.is_none() {
                std::thread::sleep(LOOK);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Barrier, thread};

    use super::super::Sqlite;
    use crate::{backend::Role, state::Options};

    #[test]
    fn connections_that_close_at_once_leave_no_log() {
        let dir = tempfile::tempdir().unwrap();
        for round in 0..100 {
            let path = dir.path().join(format!("{round}.db"));
            let (sqlite, _) = Sqlite::open(path.to_str().unwrap(), &Options::default()).unwrap();
            let lanes = [Role::Write, Role::Read].map(|role| sqlite.connection(role).unwrap());
            let log = dir.path().join(format!("{round}.db-wal"));
            assert!(log.exists());
            let together = Barrier::new(lanes.len());
            thread::scope(|scope| {
                for lane in lanes {
                    let together = &together;
                    scope.spawn(move || {
                        together.wait();
                        drop(lane);
                    });
                }
            });
            assert!(!log.exists(), "round {round}");
        }
    }
}
