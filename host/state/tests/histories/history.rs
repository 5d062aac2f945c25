//! Operations, what each does to a value by itself, and the record of what clients asked and were
//! answered.

use std::{
    fmt,
    ops::RangeInclusive,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use bytes::Bytes;
use tally_state::{Bounded, Rejection, Swapped, TimeToLive};

/// The value that a key is read to hold.
pub(crate) type Value = Option<Bytes>;

/// How long a key is to live. What has an end lives far longer than any test, so that histories
/// need no clock: a key keeps its end, loses it or gets another, but never gets there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Life {
    Unlimited,
    Hours,
    Days,
}

impl Life {
    const HOURS: Duration = Duration::from_secs(10 * 3_600);
    const DAYS: Duration = Duration::from_secs(10 * 86_400);

    pub(crate) fn ttl(self) -> Option<Duration> {
        match self {
            Self::Unlimited => None,
            Self::Hours => Some(Self::HOURS),
            Self::Days => Some(Self::DAYS),
        }
    }

    /// Which one is meant by what a store says is left; `None` of a key that is missing.
    pub(crate) fn of(left: TimeToLive) -> Option<Self> {
        match left {
            TimeToLive::Missing => None,
            TimeToLive::Unlimited => Some(Self::Unlimited),
            TimeToLive::Left(left) if left > Self::HOURS => Some(Self::Days),
            TimeToLive::Left(_) => Some(Self::Hours),
        }
    }
}

/// What a key that exists holds.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Held {
    value: Bytes,
    life: Life,
}

/// What a key holds, if it exists.
pub(crate) type State = Option<Held>;

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
    /// The same with a time to live: of a value that is set, or of a counter that is created.
    Living(Life, Box<Operation>),
    Expire(Life),
    Lives,
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
    Expired(bool),
    Lives(Option<Life>),
    /// That what is recorded is of another write: never right.
    OtherWrites,
}

/// How an operation ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Answered(Answer),
    NotApplied,
    Unknown,
}

impl Operation {
    /// The operation without its time to live.
    fn plain(&self) -> &Self {
        match self {
            Self::Living(_, operation) => operation,
            operation => operation,
        }
    }

    /// Whether it adds to a number.
    pub(crate) fn adds(&self) -> bool {
        matches!(self.plain(), Self::Increment(_) | Self::Within(..))
    }

    /// Whether a handler that makes both at once cannot tell which of them is which when it runs again: they do the
    /// same, and add as much if they add.
    pub(crate) fn is_like(&self, other: &Self) -> bool {
        let (one, other) = (self.plain(), other.plain());
        if one.adds() || other.adds() {
            return one == other;
        }
        std::mem::discriminant(one) == std::mem::discriminant(other)
    }

    /// What the operation does to what a key holds: the answer, and what it holds after.
    pub(crate) fn apply(&self, current: State) -> (Answer, State) {
        self.apply_for(current, Life::Unlimited)
    }

    fn apply_for(&self, current: State, life: Life) -> (Answer, State) {
        let value = || current.as_ref().map(|held| held.value.clone());
        let anew = |value: &Bytes| Some(Held { value: value.clone(), life });
        // What is changed in place keeps its time.
        let in_place = |value: Bytes, life: Life| {
            Some(Held { value, life: current.as_ref().map_or(life, |held| held.life) })
        };
        let number = || number(value().as_ref());
        match self {
            Self::Get => (Answer::Value(value()), current),
            Self::Exists => (Answer::Exists(current.is_some()), current),
            Self::Set(value) => (Answer::Done, anew(value)),
            Self::Delete => (Answer::Done, None),
            Self::GetAndSet(after) => (Answer::Value(value()), anew(after)),
            Self::SetIfAbsent(_) if current.is_some() => (Answer::Set(false), current),
            Self::SetIfAbsent(value) => (Answer::Set(true), anew(value)),
            Self::Within(delta, bounds) => match number() {
                None => (Answer::Rejected(Rejection::NotANumber), current),
                Some(number) => {
                    match number.checked_add(*delta).filter(|after| bounds.contains(after)) {
                        None => (Answer::Bounded(Bounded::Refused(number)), current),
                        Some(count) => (
                            Answer::Bounded(Bounded::Applied(count)),
                            in_place(count.to_string().into(), Life::Unlimited),
                        ),
                    }
                }
            },
            Self::Increment(delta) => match number().map(|number| number.checked_add(*delta)) {
                None => (Answer::Rejected(Rejection::NotANumber), current),
                Some(None) => (Answer::Rejected(Rejection::Overflow), current),
                Some(Some(count)) => {
                    (Answer::Count(count), in_place(count.to_string().into(), life))
                }
            },
            Self::Swap { expected, value: after } if value() == *expected => {
                (Answer::Swapped(Swapped::Yes), in_place(after.clone(), Life::Unlimited))
            }
            Self::Swap { .. } => (Answer::Swapped(Swapped::No(value())), current),
            Self::Living(life, operation) => operation.apply_for(current, *life),
            Self::Expire(life) => {
                let after = current.map(|held| Held { life: *life, ..held });
                (Answer::Expired(after.is_some()), after)
            }
            Self::Lives => (Answer::Lives(current.as_ref().map(|held| held.life)), current),
        }
    }

    /// Whether it has a time to live, if it is asked for with one.
    pub(crate) fn may_live(&self) -> bool {
        matches!(
            self,
            Self::Set(_) | Self::GetAndSet(_) | Self::SetIfAbsent(_) | Self::Increment(_)
        )
    }

    /// What the key held right after the operation, where its answer says so.
    pub(crate) fn leaves(&self, answer: &Answer) -> Option<Value> {
        match (self, answer) {
            (Self::Living(_, operation), answer) => operation.leaves(answer),
            (Self::GetAndSet(value), Answer::Value(_))
            | (Self::SetIfAbsent(value), Answer::Set(true)) => Some(Some(value.clone())),
            (_, Answer::Value(value) | Answer::Swapped(Swapped::No(value))) => Some(value.clone()),
            (_, Answer::Exists(false) | Answer::Expired(false) | Answer::Lives(None))
            | (Self::Delete, Answer::Done) => Some(None),
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
    /// The request with a key that asks for it. Such a request's operations on one key come in the
    /// order in which it asks for them first, whatever becomes of each.
    pub(crate) request: Option<u64>,
    pub(crate) operation: Operation,
    pub(crate) outcome: Outcome,
    pub(crate) start: u64,
    pub(crate) end: u64,
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { client, request, operation, outcome, start, end } = self;
        write!(f, "{start:>5} to {end:>5}  client {client:>2}  ")?;
        if let Some(request) = request {
            write!(f, "request {:04x}  ", request & 0xffff)?;
        }
        write!(f, "{operation:?}: ")?;
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
