//! Why a request got no response of its guest, and what is known of its effect.

use std::fmt;

use tally_state::{Applied, Error, Rejection};

use super::message::BodyError;

/// A request without a response of its guest. The edge maps these to status codes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    /// Why.
    pub(crate) cause: Cause,
    /// What is known of the effect of the whole request. From the moment its guest may have run, the
    /// request's `Effects` say it, and nothing else does.
    pub(crate) applied: Applied,
}

/// Why a request got no response of its guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Cause {
    /// The request's body could not be had.
    Body(BodyError),
    /// No instance was free, and no place in the queue or no time left in it.
    Busy,
    /// More requests came than there is time for.
    Overloaded,
    /// The guest is being loaded, which takes longer than a request waits.
    Loading,
    /// The guest cannot be loaded; the text, for the log, says why.
    Unavailable(String),
    /// The guest was stopped, as its request was answered before.
    AnsweredBefore,
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
    /// The method is CONNECT, and the guest is of a world that has none, or would have the host open a tunnel.
    Connect,
    /// The `Idempotency-Key` is none; the text, for the client, says why.
    IdempotencyKey(String),
    /// The request with this `Idempotency-Key` is being answered.
    IdempotencyInFlight,
    /// This `Idempotency-Key` belongs to another request.
    IdempotencyReused,
    /// As much is recorded of the guest's requests as may be.
    IdempotencyFull,
    /// The store could not be used for a request with an `Idempotency-Key`. This time nothing was
    /// changed; what an earlier one changed is not known. The text is for the log.
    IdempotencyUnknown(String),
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

impl Cause {
    /// Why a guest gave up over a state operation. The reason, where the operation itself is at
    /// fault, is for the client.
    pub(super) fn of_state(error: &Error, applied: Applied, reason: String) -> Self {
        match (error, applied) {
            (Error::Rejected(rejection), _) => match rejection {
                Rejection::NotANumber | Rejection::Overflow | Rejection::WrongType(_) => {
                    Self::StateConflict(reason)
                }
                Rejection::Reused => Self::IdempotencyReused,
                _ => Self::StateRefused(reason),
            },
            (Error::NotApplied(cause), Applied::No) => Self::StateNotApplied(cause.to_string()),
            (Error::NotApplied(cause) | Error::Unknown(cause), _) => {
                Self::StateUnknown(cause.to_string())
            }
        }
    }
}

/// For the log, and for whoever deploys a guest.
impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Body(error) => error.fmt(f),
            Self::Busy => f.write_str("no instance is free"),
            Self::Overloaded => f.write_str("more requests came than there is time for"),
            Self::Loading => f.write_str("it is being loaded"),
            Self::AnsweredBefore => f.write_str("its request was answered before"),
            Self::CpuLimit => f.write_str("it computes for longer than it may"),
            Self::WallLimit => f.write_str("it takes longer than it may"),
            Self::NotFound => f.write_str("it has nothing at this path"),
            Self::IdempotencyInFlight => f.write_str("the same request is under way"),
            Self::IdempotencyFull => f.write_str("no more requests may be recorded"),
            Self::IdempotencyReused => f.write_str("another request had this key"),
            Self::MethodNotAllowed(_) => f.write_str("its path does not take this method"),
            Self::Connect => f.write_str("there are no tunnels"),
            Self::Trap(reason)
            | Self::Unavailable(reason)
            | Self::InvalidResponse(reason)
            | Self::BadRequest(reason)
            | Self::IdempotencyKey(reason)
            | Self::IdempotencyUnknown(reason)
            | Self::StateRefused(reason)
            | Self::StateConflict(reason)
            | Self::StateNotApplied(reason)
            | Self::StateUnknown(reason)
            | Self::Internal(reason) => f.write_str(reason),
        }
    }
}
