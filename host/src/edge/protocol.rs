//! What is spoken on a listener's connections.

use std::sync::Arc;

use super::{socket::StdListener, tls::Tls};

/// What is spoken on a listener's connections.
#[derive(Clone, Debug)]
pub(crate) enum Protocol {
    /// HTTP by itself.
    Plain,
    /// HTTP over TLS.
    Tls(Arc<Tls>),
    /// HTTP by itself, by which clients are sent to the port with TLS.
    Redirect { port: u16 },
}

/// A place to listen at: its sockets, one for each worker or one for all, and what is spoken there.
#[derive(Debug)]
pub(crate) struct Listening {
    pub(crate) sockets: Vec<StdListener>,
    pub(crate) protocol: Protocol,
}
