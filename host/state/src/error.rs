//! What went wrong, and what is known about its effect.
//!
//! Every failed operation is either certainly not applied or unknown; nothing is left open. The
//! text of an error is written for the person who operates the server or wrote the handler. It
//! never holds a credential: backends build it from server messages and addresses, not from URLs.

use std::sync::Arc;

/// What is known about the effect of a failed operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Applied {
    /// The operation had no effect and never will have.
    No,
    /// The operation was sent and its answer never came: it may have been applied or not.
    Unknown,
}

/// Why one operation failed. Cloned to every caller whose operation shared its fate.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The operation itself cannot be done; nothing changed, and a retry would fail as well.
    #[error(transparent)]
    Rejected(#[from] Rejection),
    /// Certainly not applied; the same operation may succeed later.
    #[error("not applied: {0}")]
    NotApplied(Arc<str>),
    /// Sent, but no answer came. Must not be retried blindly.
    #[error("outcome unknown: {0}")]
    Unknown(Arc<str>),
}

impl Error {
    /// What is known about the effect.
    #[must_use]
    pub fn applied(&self) -> Applied {
        match self {
            Self::Rejected(_) | Self::NotApplied(_) => Applied::No,
            Self::Unknown(_) => Applied::Unknown,
        }
    }

    pub(crate) fn not_applied(reason: impl AsRef<str>) -> Self {
        Self::NotApplied(reason.as_ref().into())
    }

    pub(crate) fn unknown(reason: impl AsRef<str>) -> Self {
        Self::Unknown(reason.as_ref().into())
    }
}

/// Why an operation can never succeed as it was asked for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    /// The key holds something other than a decimal number in the range of `i64`.
    #[error(
        "the value of this key is not a whole number in the range of a signed 64-bit integer; set it to one, or delete it, before incrementing"
    )]
    NotANumber,
    /// The result would leave the range of `i64`.
    #[error("the increment would leave the range of a signed 64-bit integer; nothing was changed")]
    Overflow,
    /// The key cannot be stored; the text says why.
    #[error("{0}")]
    Key(String),
    /// The bucket name cannot be stored; the text says why.
    #[error("{0}")]
    Bucket(String),
    /// The value is larger than the limit. Sizes are in bytes.
    #[error("a value of {actual} bytes is over the limit of {limit} bytes")]
    ValueTooLarge {
        /// Bytes given.
        actual: usize,
        /// Bytes allowed.
        limit: usize,
    },
    /// One call names more keys than the limit.
    #[error("one call may name {limit} keys, and this one names {actual}")]
    TooManyKeys {
        /// Keys given.
        actual: usize,
        /// Keys allowed.
        limit: usize,
    },
    /// The values of one call are larger together than the caller takes. Sizes are in bytes.
    #[error("the values are over the {limit} bytes that may be read at once")]
    ReadTooLarge {
        /// Bytes allowed.
        limit: usize,
    },
    /// The cursor did not come from a page of this backend.
    #[error("this cursor is not one that listing this bucket has returned")]
    Cursor,
    /// A write under this name was made before, for a request that looked otherwise.
    #[error("this idempotency key was used before, with another request")]
    Reused,
    /// The time-to-live is out of bounds.
    #[error("a time-to-live is at least one millisecond and at most 100 years")]
    TimeToLive,
    /// The key exists in the backend as something that is no plain value, such as a Redis list.
    #[error("the key holds no plain value in the backend: {0}")]
    WrongType(String),
}

/// Why a backend could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The URL is not one this crate understands; the text says what to write instead.
    #[error("{0}")]
    Url(String),
    /// The backend refuses to serve, or is set up in a way that cannot be used. Waiting does not help.
    #[error("{0}")]
    Backend(String),
    /// The backend could not be reached, or does not serve yet. It may later.
    #[error("{0}")]
    Away(String),
}

/// Why a connection could not be made.
#[derive(Clone, Debug)]
pub(crate) struct Unconnected {
    pub(crate) reason: String,
    /// Whether it may be made later, with nothing done about it here.
    pub(crate) is_passing: bool,
}

impl Unconnected {
    pub(crate) fn passing(reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), is_passing: true }
    }

    pub(crate) fn lasting(reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), is_passing: false }
    }

    /// Why a backend could not be opened, with what else there is to say.
    pub(crate) fn explain(self, text: impl FnOnce(String) -> String) -> OpenError {
        match self.is_passing {
            true => OpenError::Away(text(self.reason)),
            false => OpenError::Backend(text(self.reason)),
        }
    }
}
