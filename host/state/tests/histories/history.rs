//! Operations, what each does to a value by itself, and the record of what clients asked and were
//! answered.

use std::{
    fmt,
    ops::RangeInclusive,
    sync::atomic::{AtomicU64, Ordering},
};

use bytes::Bytes;
use tally_state::{Bounded, Rejection, Swapped};

/// What a key holds.
pub(crate) type Value = Option<Bytes>;

/// What a client may ask about a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Operation {
    Get,
    Exists,
    Set(Bytes),
    Delete,
    GetAndSet(Bytes),
    SetIfAbsent(Bytes),
    Increment(i64),
    /// By so much, within these bounds.
    Within(i64, RangeInclusive<i64>),
    Swap {
        expected: Value,
        value: Bytes,
    },
}

/// What a client may be answered. A rejection is an answer: it says what the key held.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    Value(Value),
    Exists(bool),
    Set(bool),
    Done,
    Count(i64),
    Bounded(Bounded),
    Swapped(Swapped),
    Rejected(Rejection),
}

/// How an operation ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Answered(Answer),
    NotApplied,
    Unknown,
}

impl Operation {
    /// What the operation does to a value: the answer, and the value after.
    pub(crate) fn apply(&self, current: Value) -> (Answer, Value) {
        match self {
            Self::Get => (Answer::Value(current.clone()), current),
            Self::Exists => (Answer::Exists(current.is_some()), current),
            Self::Set(value) => (Answer::Done, Some(value.clone())),
            Self::Delete => (Answer::Done, None),
            Self::GetAndSet(value) => (Answer::Value(current), Some(value.clone())),
            Self::SetIfAbsent(_) if current.is_some() => (Answer::Set(false), current),
            Self::SetIfAbsent(value) => (Answer::Set(true), Some(value.clone())),
            Self::Within(delta, bounds) => match number(current.as_ref()) {
                None => (Answer::Rejected(Rejection::NotANumber), current),
                Some(number) => {
                    match number.checked_add(*delta).filter(|after| bounds.contains(after)) {
                        None => (Answer::Bounded(Bounded::Refused(number)), current),
                        Some(count) => (
                            Answer::Bounded(Bounded::Applied(count)),
                            Some(count.to_string().into()),
                        ),
                    }
                }
            },
            Self::Increment(delta) => {
                match number(current.as_ref()).map(|number| number.checked_add(*delta)) {
                    None => (Answer::Rejected(Rejection::NotANumber), current),
                    Some(None) => (Answer::Rejected(Rejection::Overflow), current),
                    Some(Some(count)) => (Answer::Count(count), Some(count.to_string().into())),
                }
            }
            Self::Swap { expected, value } if current == *expected => {
                (Answer::Swapped(Swapped::Yes), Some(value.clone()))
            }
            Self::Swap { .. } => (Answer::Swapped(Swapped::No(current.clone())), current),
        }
    }

    /// What the key held right after the operation, where its answer says so.
    pub(crate) fn leaves(&self, answer: &Answer) -> Option<Value> {
        match (self, answer) {
            (Self::GetAndSet(value), Answer::Value(_))
            | (Self::SetIfAbsent(value), Answer::Set(true)) => Some(Some(value.clone())),
            (_, Answer::Value(value) | Answer::Swapped(Swapped::No(value))) => Some(value.clone()),
            (_, Answer::Exists(false)) | (Self::Delete, Answer::Done) => Some(None),
            (_, Answer::Count(count) | Answer::Bounded(Bounded::Applied(count))) => {
                Some(Some(count.to_string().into()))
            }
            (Self::Set(value), Answer::Done)
            | (Self::Swap { value, .. }, Answer::Swapped(Swapped::Yes)) => {
                Some(Some(value.clone()))
            }
            _ => None,
        }
    }
}

/// The number a value stands for: a missing one for 0, and others if they are how it is written.
pub(crate) fn number(value: Option<&Bytes>) -> Option<i64> {
    let Some(value) = value else { return Some(0) };
    let text = std::str::from_utf8(value).ok()?;
    text.parse::<i64>().ok().filter(|number| number.to_string() == text)
}

/// Numbers the moments of a history.
#[derive(Default)]
pub(crate) struct Clock(AtomicU64);

impl Clock {
    pub(crate) fn now(&self) -> u64 {
        self.0.fetch_add(1, Ordering::SeqCst)
    }
}

/// One operation of a history on one key.
#[derive(Clone, Debug)]
pub(crate) struct Event {
    pub(crate) client: usize,
    pub(crate) operation: Operation,
    pub(crate) outcome: Outcome,
    pub(crate) start: u64,
    pub(crate) end: u64,
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { client, operation, outcome, start, end } = self;
        write!(f, "{start:>5} to {end:>5}  client {client:>2}  {operation:?}: ")?;
        match outcome {
            Outcome::Answered(answer) => write!(f, "{answer:?}"),
            Outcome::NotApplied => f.write_str("not applied"),
            Outcome::Unknown => f.write_str("unknown"),
        }
    }
}

/// A history for people, in the order of asking.
pub(crate) fn readable(events: &[Event]) -> String {
    let mut events: Vec<&Event> = events.iter().collect();
    events.sort_by_key(|event| event.start);
    events.iter().map(|event| format!("{event}\n")).collect()
}
