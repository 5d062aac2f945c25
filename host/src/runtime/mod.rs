//! Running guests: one fresh instance for one request, out of a bounded pool.
//!
//! The way of a request through here: a `Guest` is asked for its current `release` once, and `answer` is the way
//! in. A request that is to be made once goes through `idempotency`, a layer around the guest. The release is
//! loaded if it is not (`host` has what all guests share), the request waits for a place (`admission`, and the
//! `door` of its class), and `plugin` or `standard` calls a fresh instance of what was `loaded` (`call`). A guest
//! that has had more of the machine than others waits for its `turns`; what it used is on its `account`, and
//! what is counted of it besides is its `usage`. A `Failure` says what went wrong in the terms of the edge, which
//! decides status codes. `alone` does without the rest of the server, for measurements.
//!
//! The way of a guest: its bytes are taken apart (`anatomy`), which says what it is (`inspection`)
//! and which `class` of slots it needs; the `engine` of that class's `pool` compiles it.
//!
//! This room knows no sockets and no HTTP protocol, only its vocabulary of requests and responses.

mod account;
mod admission;
#[cfg(feature = "alone")]
mod alone;
mod anatomy;
mod answer;
mod call;
mod class;
mod clock;
mod cpu;
mod door;
mod engine;
mod failure;
mod guest;
mod host;
mod idempotency;
mod inspection;
mod kernel;
mod limits;
mod loaded;
mod memory;
mod message;
mod plugin;
mod pool;
mod rate;
mod release;
mod response;
mod standard;
mod turns;
mod usage;

#[cfg(feature = "alone")]
pub use self::alone::Alone;
pub(crate) use self::{
    account::take_seat,
    answer::answer,
    cpu::Meter,
    failure::{Cause, Failure},
    guest::Guest,
    idempotency::applies as is_to_be_made_once,
    memory::Memory,
    message::{Body, BodyError, Request, Response, join},
    rate::OverRate,
    usage::Refused,
};
pub use self::{
    host::{Room, Runtime, Sizes},
    idempotency::Recordings,
    inspection::{Inspection, LoadError, inspect},
    limits::Limits,
    rate::Rate,
};
