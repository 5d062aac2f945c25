//! HTTP: from sockets to requests for the runtime, and back.
//!
//! `worker`s are threads with a runtime of their own each, on which they `accept` connections;
//! `connection` speaks HTTP/1.1 and HTTP/2 on them, over a `transport` as the listener's `protocol` says; `service` turns one HTTP request into
//! one call of the guest that the registry finds, `body` reads what the client sends; `problem` is the
//! one place that decides status codes, for what `explain` calls by name. A `heartbeat` saves each request
//! system calls.
//!
//! This room knows no WebAssembly.

mod accept;
mod body;
mod connection;
mod explain;
mod heartbeat;
mod limits;
mod metrics;
mod problem;
mod progress;
mod protocol;
mod redirect;
mod request_id;
mod responses;
mod service;
mod socket;
mod tls;
mod transport;
mod worker;

pub use self::limits::Limits;
pub(crate) use self::limits::open_files;
pub(crate) use self::{
    limits::SMALLEST_HEAD,
    metrics::Metrics,
    progress::Watched,
    protocol::{Listening, Protocol},
    responses::Patience,
    socket::StdListener,
    tls::Tls,
    worker::{Workers, WorkersError},
};
