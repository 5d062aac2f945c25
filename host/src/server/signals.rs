//! The signals that the program takes: those that ask for a stop, and the one that asks to reload.

use std::sync::Arc;

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::{ServerError, certificates};
use crate::{config::TlsConfig, edge::Tls};

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

/// Reloads at each SIGHUP, until dropped, and logs what it did. One that came during the start is the first.
pub(super) async fn reload_on(
    mut hangup: Signal,
    reload: impl Fn() -> Result<String, String>,
    tls: Option<(TlsConfig, Arc<Tls>)>,
) {
    while hangup.recv().await.is_some() {
        match reload() {
            Ok(done) => tracing::info!("SIGHUP: {done}"),
            Err(reason) => {
                tracing::error!("SIGHUP: the file of settings is not used: {reason}");
            }
        }
        let Some((files, tls)) = &tls else { continue };
        match certificates::reload(files, tls).await {
            Ok(()) => tracing::info!("SIGHUP: certificates are read again, and in use"),
            Err(reason) => {
                tracing::error!("SIGHUP: the certificates before stay in use: {reason}");
            }
        }
    }
}
