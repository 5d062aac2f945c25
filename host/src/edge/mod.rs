//! HTTP: from sockets to requests for the runtime, and back.
//!
//! `worker`s are threads with a runtime of their own each, on which they `accept` connections;
//! `connection` speaks HTTP/1.1 and HTTP/2 on them; `service` turns one HTTP request into
//! one call of the guest that the registry finds, `body` reads what the client sends; `problem` is the
//! one place that decides status codes, for what `explain` calls by name. `head` and `authority` check
//! what hyper leaves to its users, `wire` sees to the bytes that hyper reads and writes, and `proxies` to
//! what proxies say of their clients (`forwarded`, `proxy_protocol`).
//!
//! This room knows no WebAssembly.

mod accept;
mod authority;
mod body;
mod connection;
mod explain;
mod forwarded;
mod head;
mod limits;
mod metrics;
mod preamble;
mod problem;
mod proxies;
mod proxy_protocol;
mod refusal;
mod request_id;
mod service;
mod signals;
mod wire;
mod worker;
mod writing;

pub(crate) use self::limits::open_files;
pub use self::{
    limits::Limits,
    proxies::{Proxies, ProxyHeader},
};
pub(crate) use self::{
    limits::SMALLEST_HEAD,
    metrics::Metrics,
    worker::{Workers, WorkersError},
};
