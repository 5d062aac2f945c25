//! Why a request got no response of its guest.

use tally_state::Applied;

/// Why a request got no response of its guest. The edge maps these to status codes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// No instance was free, and no place in the queue or no time left in it.
    Busy,
    /// The guest computed longer than it may.
    CpuLimit(Applied),
    /// The request took longer than it may, most likely waiting for the store.
    WallLimit(Applied),
    /// The guest trapped: a panic, memory beyond its limit, or a broken promise to the host.
    Trap {
        /// What wasmtime says of it, for the log.
        reason: String,
        /// What is known of the effect of the request.
        applied: Applied,
    },
    /// The guest's response cannot be sent; the text says why, for the log.
    InvalidResponse {
        /// What is wrong with it.
        reason: String,
        /// What is known of the effect of the request.
        applied: Applied,
    },
    /// The guest says that the request cannot be understood; the text is for the client.
    BadRequest(String),
    /// The guest has nothing at this path.
    NotFound,
    /// The path does not take this method; the methods it takes.
    MethodNotAllowed(Vec<String>),
    /// The operation is refused for what was asked: a key, a value or a bucket out of bounds.
    StateRefused(String),
    /// The operation conflicts with what the key holds; nothing was changed.
    StateConflict(String),
    /// The store could not be used, and the request certainly changed nothing. The text is for the
    /// log, as the store's words may name what is none of a client's business.
    StateNotApplied(String),
    /// The store could not be used, and what the request changed is unknown. The text as before.
    StateUnknown(String),
    /// The guest gave up; the text is for the log.
    Internal {
        /// What the guest says.
        reason: String,
        /// What is known of the effect of the request.
        applied: Applied,
    },
}
