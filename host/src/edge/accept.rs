//! Accepting connections and handing each to the worker with the fewest.

use std::{io, sync::Arc, time::Duration};

use tokio::{net::TcpListener, sync::Semaphore};

use super::worker::Workers;

/// The pause after an error that concerns the process, such as no more descriptors: long enough
/// not to spin, short enough to be serving again at once.
const PAUSE: Duration = Duration::from_millis(50);

/// Accepts connections until dropped, at most `connections` open at once. Beyond, new ones wait in
/// the kernel's queue.
pub(crate) async fn accept(listener: TcpListener, workers: &Workers, connections: usize) {
    let places = Arc::new(Semaphore::new(connections));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => match stream.into_std() {
                Ok(stream) => workers.give(stream, place),
                Err(error) => tracing::warn!(%error, "a connection was lost"),
            },
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
