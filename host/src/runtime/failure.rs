//! Why a request got no response of its guest, and what is known of its effect.

use tally_state::Applied;

/// A request without a response of its guest. The edge maps these to status codes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Why.
    pub cause: Cause,
    /// What is known of the effect of the whole request.
    pub applied: Applied,
}

/// Why a request got no response of its guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cause {
    /// No instance was free, and no place in the queue or no time left in it.
    Busy,
    /// The guest computed longer than it may.
    CpuLimit,
    /// The request took longer than it may, most likely waiting for the store.
    WallLimit,
    /// The guest trapped: a panic, memory beyond its limit, or a broken promise to the host. The
    /// text is what wasmtime says of it, for the log.
    Trap(String),
    /// The guest's response cannot be sent; the text says why, for the log.
    InvalidResponse(String),
    /// The guest says that the request cannot be understood; the text is for the client.
    BadRequest(String),
    /// The guest has nothing at this path.
    NotFound,
    /// The path does not take this method; the methods it takes.
    MethodNotAllowed(Vec<String>),
    /// A state operation was refused for what was asked: a key, a value or a bucket out of bounds.
    StateRefused(String),
    /// A state operation conflicts with what the key holds.
    StateConflict(String),
    /// The store could not be used, and the request certainly changed nothing. The text is for the
    /// log, as the store's words may name what is none of a client's business.
    StateNotApplied(String),
    /// The store could not be used, and what the request changed is unknown. The text as before.
    StateUnknown(String),
    /// The guest gave up; the text is for the log.
    Internal(String),
}

impl Failure {
    /// The pool is full: nothing has begun.
    pub(super) fn busy() -> Self {
        Self { cause: Cause::Busy, applied: Applied::No }
    }
}
