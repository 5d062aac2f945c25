//! Accepting connections. Each worker listens for itself, and serves a connection where the kernel has
//! put it, without a hop between threads. As the kernel spreads by chance, one that finds more than
//! its share on its worker is handed on.

use std::{io, sync::Arc, time::Duration};

use tokio::{net::TcpListener, sync::Semaphore};

use super::worker::Crew;
use crate::logging;

/// The pause after an error that concerns the process, such as no more descriptors: long enough
/// not to spin, short enough to be serving again at once.
const PAUSE: Duration = Duration::from_millis(50);

/// Accepts connections until dropped. Without a place, one waits for it here, and others in the kernel's
/// queue. `near` is the worker that this runs on; while a guest computes there, a connection waits until
/// that yields.
pub(super) async fn accept(
    listener: TcpListener,
    near: usize,
    crew: &Crew,
    places: &Arc<Semaphore>,
) {
    // A persistent error is logged once.
    let mut fails = false;
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                fails = false;
                // Only now: the last place may be for a connection that comes to another worker.
                let Ok(place) = Arc::clone(places).acquire_owned().await else { return };
                match stream.into_std() {
                    Ok(stream) => crew.give(near, stream, place),
                    Err(error) => logging::log(&logging::Failure {
                        level: tracing::Level::WARN,
                        what: "a connection was lost",
                        kind: "accept",
                        guest: "",
                        id: "",
                        method: None,
                        reason: &error,
                    }),
                }
            }
            Err(error) if concerns_one_connection(&error) => {}
            Err(error) => {
                if !fails {
                    tracing::warn!(%error, "cannot accept connections; trying until it can");
                }
                fails = true;
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

/// Whether the client went away before it was accepted, which says nothing of the next.
fn concerns_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
    )
}
