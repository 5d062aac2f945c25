//! Accepting connections. Each worker listens for itself, and serves a connection where the kernel has
//! put it, without a hop between threads. As the kernel spreads by chance, one that finds more than
//! its share on its worker is handed on.

use std::{io, sync::Arc, time::Duration};
use tokio::{net::TcpListener, sync::Semaphore};

use super::worker::Crew;

/// The pause after an error that concerns the process, such as no more descriptors: long enough
/// not to spin, short enough to be serving again at once.
const PAUSE: Duration = Duration::from_millis(50);

/// Accepts connections until dropped. Without a place, one waits for it here, and others in the kernel's
/// queue. `near` is the worker that this runs on; while a guest computes there, a connection waits until
/// that yields.
pub(super) async fn accept(
    listener: &TcpListener,
    near: usize,
    crew: &Crew,
    places: &Arc<Semaphore>,
) {
    // Of what lasts, the first time is said.
    let mut fails = false;
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                fails = false;
                // Only now: the last place may be for a connection that comes to another worker.
                let Ok(place) = Arc::clone(places).acquire_owned().await else { return };
                match stream.into_std() {
                    Ok(stream) => crew.give(near, stream, place),
                    Err(error) => tracing::warn!(%error, "a connection was lost"),
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

/// How long a listener that closes still accepts: handshakes of the network that have begun end within a
/// round trip, which takes less than this around the world.
const LAST_ACCEPTS: Duration = Duration::from_millis(200);

/// Accepts the connections that have reached the kernel, and no new ones. To close a listener resets
/// what waits in its queue, and with it requests that were sent.
pub(super) async fn accept_last(
    listener: &TcpListener,
    near: usize,
    crew: &Crew,
    places: &Arc<Semaphore>,
) {
    #[cfg(target_os = "linux")]
    // Without it, connections are lost that come in the instant of the close.
    if let Err(error) = socket2::SockRef::from(listener).attach_filter(&NO_NEW_CONNECTIONS) {
        tracing::debug!(%error, "a listener closes without a filter");
    }
    let last = accept(listener, near, crew, places);
    // The only end it has.
    let _ = tokio::time::timeout(LAST_ACCEPTS, last).await;
}

/// A filter for the kernel (classic BPF, over the TCP header) that drops the first segment of a
/// connection, SYN without ACK (RFC 9293, 3.5), and lets all others pass.
#[cfg(target_os = "linux")]
const NO_NEW_CONNECTIONS: [socket2::SockFilter; 5] = [
    // The byte of the flags.
    socket2::SockFilter::new(0x30, 0, 0, 13),
    // SYN and ACK of it.
    socket2::SockFilter::new(0x54, 0, 0, 0x12),
    // SYN alone is dropped.
    socket2::SockFilter::new(0x15, 0, 1, 0x02),
    socket2::SockFilter::new(0x06, 0, 0, 0),
    socket2::SockFilter::new(0x06, 0, 0, u32::MAX),
];

/// Whether the client went away before it was accepted, which says nothing of the next.
fn concerns_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
    )
}
