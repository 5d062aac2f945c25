//! What can be asked of a backend, and what it answers.

use std::time::Duration;

use bytes::Bytes;

use crate::{idempotency::WriteId, name::Bucket, plan::Reply};

/// One operation on one key of one bucket, as a backend applies it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Step {
    pub(crate) bucket: Bucket,
    /// The key; empty for what concerns no key: [`Action::List`], [`Action::Buckets`],
    /// [`Action::Sweep`], and what is remembered of a request.
    pub(crate) key: Box<str>,
    pub(crate) action: Action,
    /// What makes a write happen once, whoever sends it again.
    pub(crate) write: Option<WriteId>,
}

/// What is to be done with the key. A time-to-live is that of the value from now on; none is for
/// ever.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    Get,
    Exists,
    Set {
        value: Bytes,
        ttl: Option<Duration>,
    },
    /// Sets the value, and answers with the one before.
    GetAndSet {
        value: Bytes,
        ttl: Option<Duration>,
    },
    SetIfAbsent {
        value: Bytes,
        ttl: Option<Duration>,
    },
    Delete,
    /// Adds to the number the key holds; a missing key counts as 0, and is created with this
    /// time-to-live. That of an existing key stays.
    Increment {
        delta: i64,
        ttl: Option<Duration>,
    },
    /// Several of these, applied one after the other in one go. Only a plan makes them.
    Increments(Increments),
    /// Adds, if the number after it lies within the bounds, both included. The time-to-live is as
    /// for [`Action::Increment`].
    IncrementWithin {
        delta: i64,
        min: i64,
        max: i64,
        ttl: Option<Duration>,
    },
    /// Sets the value if the key still holds what was seen (`None`: is still missing). Its
    /// time-to-live stays.
    Swap {
        expected: Option<Bytes>,
        value: Bytes,
    },
    /// Gives the value another time-to-live.
    Expire(Option<Duration>),
    TimeToLive,
    /// The next keys of the bucket with a prefix, after a cursor.
    List {
        prefix: Box<str>,
        cursor: Option<Box<str>>,
        limit: usize,
    },
    /// The next names of buckets that hold keys, after a cursor.
    Buckets {
        cursor: Option<Box<str>>,
        limit: usize,
    },
    /// Closes the position of a write that failed, unless it is recorded.
    Forgo,
    /// Reads the stored response to the request.
    LoadResponse,
    /// Stores the response to the request, if none is stored yet.
    StoreResponse(Bytes),
    /// Removes what has expired, up to a number of entries of each sort.
    Sweep {
        limit: usize,
    },
}

/// Increments of one key that a plan has put together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Increments {
    pub(crate) members: Vec<Member>,
    /// The sum of the deltas' magnitudes, which fits: no sum of some of them leaves the range.
    pub(crate) magnitude: i64,
    pub(crate) ttl: Option<Duration>,
}

/// One of several increments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Member {
    /// Set where it is to be applied once.
    pub(crate) write: Option<WriteId>,
    pub(crate) delta: i64,
}

impl Action {
    pub(crate) fn kind(&self) -> Kind {
        match self {
            Self::Get => Kind::Get,
            Self::Exists => Kind::Exists,
            Self::Set { .. } => Kind::Set,
            Self::GetAndSet { .. } => Kind::GetAndSet,
            Self::SetIfAbsent { .. } => Kind::SetIfAbsent,
            Self::Delete => Kind::Delete,
            Self::Increment { .. } | Self::Increments(_) => Kind::Increment,
            Self::IncrementWithin { .. } => Kind::IncrementWithin,
            Self::Swap { .. } => Kind::Swap,
            Self::Expire(_) => Kind::Expire,
            Self::TimeToLive => Kind::TimeToLive,
            Self::List { .. } => Kind::List,
            Self::Buckets { .. } => Kind::Buckets,
            Self::Forgo => Kind::Forgo,
            Self::LoadResponse => Kind::LoadResponse,
            Self::StoreResponse(_) => Kind::StoreResponse,
            Self::Sweep { .. } => Kind::Sweep,
        }
    }

    /// The value that is to be stored, if any.
    pub(crate) fn value(&self) -> Option<&Bytes> {
        match self {
            Self::Set { value, .. }
            | Self::GetAndSet { value, .. }
            | Self::SetIfAbsent { value, .. }
            | Self::Swap { value, .. }
            | Self::StoreResponse(value) => Some(value),
            _ => None,
        }
    }

    /// The time-to-live that is asked for, if any.
    pub(crate) fn ttl(&self) -> Option<Duration> {
        match self {
            Self::Set { ttl, .. }
            | Self::GetAndSet { ttl, .. }
            | Self::SetIfAbsent { ttl, .. }
            | Self::Increment { ttl, .. }
            | Self::IncrementWithin { ttl, .. }
            | Self::Expire(ttl) => *ttl,
            Self::Increments(increments) => increments.ttl,
            _ => None,
        }
    }

    /// Bytes held for this action while it waits, to bound the queue by memory.
    pub(crate) fn bytes(&self) -> usize {
        let expected = match self {
            Self::Swap { expected: Some(expected), .. } => expected.len(),
            _ => 0,
        };
        self.value().map_or(0, Bytes::len).saturating_add(expected)
    }
}

/// The kinds of operations, as metrics and backends sort them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Kind {
    Get,
    Exists,
    Set,
    GetAndSet,
    SetIfAbsent,
    Delete,
    Increment,
    IncrementWithin,
    Swap,
    Expire,
    TimeToLive,
    List,
    Buckets,
    Forgo,
    LoadResponse,
    StoreResponse,
    Sweep,
}

impl Kind {
    pub(crate) const ALL: [Self; 17] = [
        Self::Get,
        Self::Exists,
        Self::Set,
        Self::GetAndSet,
        Self::SetIfAbsent,
        Self::Delete,
        Self::Increment,
        Self::IncrementWithin,
        Self::Swap,
        Self::Expire,
        Self::TimeToLive,
        Self::List,
        Self::Buckets,
        Self::Forgo,
        Self::LoadResponse,
        Self::StoreResponse,
        Self::Sweep,
    ];

    pub(crate) fn is_read(self) -> bool {
        matches!(
            self,
            Self::Get
                | Self::Exists
                | Self::TimeToLive
                | Self::List
                | Self::Buckets
                | Self::LoadResponse
        )
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Get => "get",
            Self::Exists => "exists",
            Self::Set => "set",
            Self::GetAndSet => "get_and_set",
            Self::SetIfAbsent => "set_if_absent",
            Self::Delete => "delete",
            Self::Increment => "increment",
            Self::IncrementWithin => "increment_within",
            Self::Swap => "swap",
            Self::Expire => "expire",
            Self::TimeToLive => "time_to_live",
            Self::List => "list",
            Self::Buckets => "buckets",
            Self::Forgo => "forgo",
            Self::LoadResponse => "load_response",
            Self::StoreResponse => "store_response",
            Self::Sweep => "sweep",
        }
    }
}

/// What a backend answered to one step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// To `Get`; to `GetAndSet`: the value before it.
    Value(Option<Bytes>),
    /// To `Exists` and `Expire`: whether the key is there. To `SetIfAbsent`: whether it was set.
    Flag(bool),
    /// To `Set`, `Delete` and `StoreResponse`.
    Done,
    /// To `Increment`: the number after it.
    Count(i64),
    /// To `Increments`: a reply to each member.
    Each(Vec<Reply>),
    /// To `IncrementWithin`.
    Bounded(Bounded),
    /// To `Swap`.
    Swapped(Swapped),
    /// To `TimeToLive`.
    TimeToLive(TimeToLive),
    /// To `List`.
    Page(Page),
    /// To `Buckets`.
    Buckets(BucketPage),
    /// To `LoadResponse`.
    Response(Option<Bytes>),
    /// To `Forgo`.
    Forgone,
    /// To a write whose outcome had been recorded before: that outcome.
    Replay(Box<Reply>),
    /// To `Sweep`: whether there is more of what has expired.
    Swept(bool),
}

/// The result of a compare-and-swap that reached the backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Swapped {
    /// The key held what was expected and now holds the new value.
    Yes,
    /// The key held something else, given here, and was not changed.
    No(Option<Bytes>),
}

/// The result of an increment within bounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bounded {
    /// It was made; the number after it.
    Applied(i64),
    /// It would have left the bounds and was not made; the number as it is.
    Refused(i64),
}

/// How long a key is to live.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimeToLive {
    /// There is no such key.
    Missing,
    /// For ever.
    Unlimited,
    /// This long from now.
    Left(Duration),
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

/// A page of the names of a store's buckets, possibly empty. In order from SQLite, PostgreSQL and
/// memory; in no order from Redis, which may repeat names between pages.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BucketPage {
    /// Names.
    pub buckets: Vec<String>,
    /// Where the next page starts; `None` after the last.
    pub cursor: Option<String>,
}
