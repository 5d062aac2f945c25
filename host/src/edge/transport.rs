//! What HTTP is spoken over: a socket as it is.

use std::time::Duration;

use super::{protocol::Protocol, socket::StdSocket, writing::Impatient};

/// What HTTP is spoken over.
pub(super) type Transport = Impatient;

/// Makes a connection of this worker's ready for HTTP. `longest` is how long its client may leave unread what
/// was sent.
pub(super) async fn open(
    socket: StdSocket,
    protocol: &Protocol,
    longest: Duration,
) -> std::io::Result<Transport> {
    let socket = Impatient::new(socket.register()?, longest);
    match protocol {
        Protocol::Plain => Ok(socket),
    }
}
