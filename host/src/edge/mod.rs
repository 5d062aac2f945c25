//! HTTP: from sockets to requests for the runtime, and back.
//!
//! `worker`s are threads with a runtime of their own each, on which they `accept` connections;
//! `connection` speaks HTTP/1.1 and HTTP/2 on them, over a `transport` as the listener's `protocol` says; `service` turns one HTTP request into
//! one call of the guest that the registry finds, `body` reads what the client sends; `problem` is the
//! one place that decides status codes, for what `explain` calls by name. `head` and `authority` check
//! what hyper leaves to its users, `wire` sees to the bytes that hyper reads and writes, and `proxies` to
//! what proxies say of their clients (`forwarded`, `proxy_protocol`). What waits for a client is bounded by
//! `progress` and `responses`. A `heartbeat` saves each request system calls.
//!
//! This room knows no WebAssembly.

mod accept;
mod authority;
mod body;
mod connection;
mod explain;
mod forwarded;
mod head;
mod heartbeat;
mod limits;
mod metrics;
mod newcomers;
mod parking;
mod preamble;
mod problem;
mod progress;
mod protocol;
mod proxies;
mod proxy_protocol;
mod redirect;
mod refusal;
mod request_id;
mod responses;
mod service;
mod signals;
mod socket;
mod spin_headers;
mod tls;
mod transport;
mod wire;
mod worker;

pub(crate) use self::limits::open_files;
pub use self::{
    limits::Limits,
    proxies::{Proxies, ProxyHeader},
};
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
