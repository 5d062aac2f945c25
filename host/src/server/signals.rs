//! The signals that the program takes: those that ask for a stop, and the one that asks to reload.

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::ServerError;

/// Signals that are watched for. From here on none of them ends the process by itself, and none is lost:
/// the first process of a container has no default handlers, so the kernel throws away a signal that it
/// does not watch for.
#[derive(Debug)]
pub struct Signals {
    pub(super) stop: Stop,
    pub(super) hangup: Signal,
}

/// SIGTERM and SIGINT.
#[derive(Debug)]
pub(super) struct Stop {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// Begins to watch, within a Tokio runtime.
    ///
    /// # Errors
    /// [`ServerError::Signals`].
    pub fn watch() -> Result<Self, ServerError> {
        let watch = |kind| signal(kind).map_err(ServerError::Signals);
        Ok(Self {
            stop: Stop {
                terminate: watch(SignalKind::terminate())?,
                interrupt: watch(SignalKind::interrupt())?,
            },
            hangup: watch(SignalKind::hangup())?,
        })
    }
}

impl Stop {
    /// Waits for the next one.
    pub(super) async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// Reloads at each SIGHUP, until dropped. One that came during the start is the first.
pub(super) async fn reload_on(mut hangup: Signal, reload: impl Fn() -> Result<String, String>) {
    while hangup.recv().await.is_some() {
        match reload() {
            Ok(done) => tracing::info!("SIGHUP: {done}"),
            Err(reason) => {
                tracing::error!("SIGHUP: nothing is reloaded, what was in force stays: {reason}");
            }
        }
    }
}
