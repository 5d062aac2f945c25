//! Accepting connections. Each worker listens for itself, and serves a connection where the kernel has
//! put it, without a hop between threads. As the kernel spreads by chance, one that finds more than
//! its share on its worker is handed on.

use std::{io, sync::Arc, time::Duration};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{parking::Parking, protocol::Protocol, socket::Listener, worker::Crew};

/// The pause after an error that concerns the process, such as no more descriptors: long enough
/// not to spin, short enough to be serving again at once.
const PAUSE: Duration = Duration::from_millis(50);

/// How often an idle connection is asked to make room for one that waits: they take some time to close.
const LOOK: Duration = Duration::from_millis(50);

/// Connections that are accepted before others have their turn.
const AT_ONCE: u32 = 16;

/// The places for connections that are open.
#[derive(Clone)]
pub(super) struct Places {
    pub(super) free: Arc<Semaphore>,
    /// The connections that may make room.
    pub(super) parking: Arc<Parking>,
}

impl Places {
    /// Waits for a place, while connections that are idle make room for it. None once there will be none.
    async fn take(&self) -> Option<OwnedSemaphorePermit> {
        loop {
            if let Ok(place) = Arc::clone(&self.free).try_acquire_owned() {
                return Some(place);
            }
            self.parking.make_room();
            let place = Arc::clone(&self.free).acquire_owned();
            if let Ok(place) = tokio::time::timeout(LOOK, place).await {
                return place.ok();
            }
        }
    }
}

/// Accepts connections until dropped. Without a place, one waits for it here, and others in the kernel's
/// queue. `near` is the worker that this runs on; while a guest computes there, a connection waits until
/// that yields.
pub(super) async fn accept(
    listener: &Listener,
    protocol: &Protocol,
    near: usize,
    crew: &Crew,
    places: &Places,
) {
    // A persistent error is logged once.
    let mut fails = false;
    let mut accepted = 0_u32;
    loop {
        if accepted.is_multiple_of(AT_ONCE) {
            tokio::task::yield_now().await;
        }
        accepted = accepted.wrapping_add(1);
        match listener.accept().await {
            Ok(socket) => {
                fails = false;
                // Only now: the last place may be for a connection that comes to another worker.
                let Some(place) = places.take().await else { return };
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
    places: &Places,
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
