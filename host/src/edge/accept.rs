//! Accepting connections. Each worker listens for itself, and serves a connection where the kernel has
//! put it, without a hop between threads. As the kernel spreads by chance, one that finds more than
//! its share on its worker is handed on.

use std::{io, sync::Arc, time::Duration};
use tokio::sync::Semaphore;

use super::{protocol::Protocol, socket::Listener, worker::Crew};

/// The pause after an error that concerns the process, such as no more descriptors: long enough
/// not to spin, short enough to be serving again at once.
const PAUSE: Duration = Duration::from_millis(50);

/// Accepts connections until dropped. Without a place, one waits for it here, and others in the kernel's
/// queue. `near` is the worker that this runs on; while a guest computes there, a connection waits until
/// that yields.
pub(super) async fn accept(
    listener: &Listener,
    protocol: &Protocol,
    near: usize,
    crew: &Crew,
    places: &Arc<Semaphore>,
) {
    // A persistent error is logged once.
    let mut fails = false;
    loop {
        match listener.accept().await {
            Ok(socket) => {
                fails = false;
                // Only now: the last place may be for a connection that comes to another worker.
                let Ok(place) = Arc::clone(places).acquire_owned().await else { return };
                crew.give(near, socket, protocol.clone(), place);
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

/// How long a listener that closes still accepts: handshakes of the network that have begun end within a
/// round trip, which takes less than this around the world.
const LAST_ACCEPTS: Duration = Duration::from_millis(200);

/// Accepts the connections that have reached the kernel, and no new ones. To close a listener resets
/// what waits in its queue, and with it requests that were sent.
pub(super) async fn accept_last(
    listener: &Listener,
    protocol: &Protocol,
    near: usize,
    crew: &Crew,
    places: &Arc<Semaphore>,
) {
    // Without it, connections are lost that come in the instant of the close.
    if let Err(error) = listener.refuse_new() {
        tracing::debug!(%error, "a listener closes without a filter");
    }
    let last = accept(listener, protocol, near, crew, places);
    // The only end it has.
    let _ = tokio::time::timeout(LAST_ACCEPTS, last).await;
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
