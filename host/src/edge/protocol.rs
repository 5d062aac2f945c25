//! What is spoken on a listener's connections, below HTTP.

use super::socket::StdListener;

/// What is spoken on a listener's connections.
#[derive(Clone, Debug)]
pub(crate) enum Protocol {
    /// HTTP by itself.
    Plain,
}

/// A place to listen at: its sockets, one for each worker or one for all, and what is spoken there.
#[derive(Debug)]
pub(crate) struct Listening {
    pub(crate) sockets: Vec<StdListener>,
    pub(crate) protocol: Protocol,
}
