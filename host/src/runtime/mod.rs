//! Running guests: one fresh instance for one request, out of a bounded pool.
//!
//! The way of a request through here: its `Guest` waits for a place in its `pool` (`admission`
//! gives it, or refuses; a request that is to be made once is first looked up, in `idempotency`),
//! takes the `deployment` that is current, and `plugin` or `standard` calls it in a fresh instance
//! within its `limits` (`call`); a `Failure` says what went wrong in the terms of the edge, which
//! decides status codes. `alone` does without the rest of the server, for measurements.
//!
//! The way of a guest: its bytes are taken apart (`anatomy`), which says what it is (`inspection`)
//! and what slots it needs (`profile`); an `engine` with those slots compiles it.
//!
//! This room knows no sockets and no HTTP protocol, only its vocabulary of requests and responses.

mod admission;
#[cfg(feature = "alone")]
mod alone;
mod anatomy;
mod call;
mod cpu;
mod deployment;
mod engine;
mod failure;
mod guest;
mod idempotency;
mod inspection;
mod limits;
mod message;
mod plugin;
mod pool;
mod profile;
mod response;
mod standard;

#[cfg(feature = "alone")]
pub use self::alone::Alone;
pub(crate) use self::{
    cpu::Meter,
    failure::{Cause, Failure},
    guest::Guest,
    idempotency::applies as is_to_be_made_once,
    message::{Body, BodyError, Request, Response, join},
};
pub use self::{
    idempotency::Recordings,
    inspection::{Inspection, LoadError, inspect},
    limits::Limits,
};
