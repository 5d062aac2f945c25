//! Accepting connections. Each worker listens for itself: one that connects for each request is
//! served where the kernel has put it, without a hop between threads. One that finds more on its worker
//! than on another is handed on, as the kernel spreads by chance.

use std::{io, sync::Arc, time::Duration};

use tokio::{net::TcpListener, sync::Semaphore};

use super::worker::Crew;

/// The pause after an error that concerns the process, such as no more descriptors: long enough
/// not to spin, short enough to be serving again at once.
const PAUSE: Duration = Duration::from_millis(50);

/// Accepts connections until dropped. Without a place, one waits for it here, and others in the kernel's
/// queue. `near` is the worker that this runs on.
pub(super) async fn accept(
    listener: TcpListener,
    near: usize,
    crew: &Crew,
    places: &Arc<Semaphore>,
) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                // Only now: the last place may be for a connection that comes to another worker.
                let Ok(place) = Arc::clone(places).acquire_owned().await else { return };
                match stream.into_std() {
                    Ok(stream) => crew.give(near, stream, place),
                    Err(error) => tracing::warn!(%error, "a connection was lost"),
                }
            }
            Err(error) if concerns_one_connection(&error) => {}
            Err(error) => {
                tracing::warn!(%error, "cannot accept connections; trying again");
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
