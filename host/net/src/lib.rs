//! Names, ports and addresses of servers: one grammar for `HOST[:PORT]`, and connecting to a name
//! that has several addresses.

#![forbid(unsafe_code)]
#![cfg_attr(
    test,
    allow(
        clippy::indexing_slicing,
        clippy::unwrap_used,
        reason = "a test that fails should stop there"
    )
)]

mod connect;
mod host_port;

pub use self::{
    connect::{ATTEMPT_DELAY, connect, resolve},
    host_port::{HostPort, HostPortError},
};
