//! What can be asked of a backend, and what it answers.

use bytes::Bytes;

use crate::name::Bucket;

/// One operation on one key of one bucket, as a backend applies it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Step {
    pub(crate) bucket: Bucket,
    /// The key; empty only for [`Action::List`], which concerns the whole bucket.
    pub(crate) key: Box<str>,
    pub(crate) action: Action,
}

/// What is to be done with the key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    Get,
    Exists,
    Set(Bytes),
    Delete,
    /// Adds to the number the key holds; a missing key counts as 0.
    Increment(i64),
    /// Sets the value if the key still holds what was seen (`None`: is still missing).
    Swap {
        expected: Option<Bytes>,
        value: Bytes,
    },
    /// The next keys of the bucket after a cursor.
    List {
        cursor: Option<Box<str>>,
        limit: usize,
    },
}

impl Action {
    pub(crate) fn kind(&self) -> Kind {
        match self {
            Self::Get => Kind::Get,
            Self::Exists => Kind::Exists,
            Self::Set(_) => Kind::Set,
            Self::Delete => Kind::Delete,
            Self::Increment(_) => Kind::Increment,
            Self::Swap { .. } => Kind::Swap,
            Self::List { .. } => Kind::List,
        }
    }

    /// Bytes held for this action while it waits, to bound the queue by memory.
    pub(crate) fn bytes(&self) -> usize {
        match self {
            Self::Set(value) => value.len(),
            Self::Swap { expected, value } => {
                value.len().saturating_add(expected.as_ref().map_or(0, Bytes::len))
            }
            Self::Get | Self::Exists | Self::Delete | Self::Increment(_) | Self::List { .. } => 0,
        }
    }
}

/// The kinds of operations, as metrics and backends sort them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Kind {
    Get,
    Exists,
    Set,
    Delete,
    Increment,
    Swap,
    List,
}

impl Kind {
    pub(crate) const ALL: [Self; 7] =
        [Self::Get, Self::Exists, Self::Set, Self::Delete, Self::Increment, Self::Swap, Self::List];

    pub(crate) fn is_read(self) -> bool {
        matches!(self, Self::Get | Self::Exists | Self::List)
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Get => "get",
            Self::Exists => "exists",
            Self::Set => "set",
            Self::Delete => "delete",
            Self::Increment => "increment",
            Self::Swap => "swap",
            Self::List => "list",
        }
    }
}

/// What a backend answered to one step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// To `Get`.
    Value(Option<Bytes>),
    /// To `Exists`.
    Exists(bool),
    /// To `Set` and `Delete`.
    Done,
    /// To `Increment`: the number after it.
    Count(i64),
    /// To `Swap`.
    Swapped(Swapped),
    /// To `List`.
    Page(Page),
}

/// The result of a compare-and-swap that reached the backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Swapped {
    /// The key held what was expected and now holds the new value.
    Yes,
    /// The key held something else, given here, and was not changed.
    No(Option<Bytes>),
}

/// A page of keys of one bucket, in no promised order. A key that exists during the whole walk is
/// on at least one page; Redis may repeat keys between pages.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// Keys, without the bucket.
    pub keys: Vec<String>,
    /// Where the next page starts; `None` after the last.
    pub cursor: Option<String>,
}
