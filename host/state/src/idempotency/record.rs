//! What a store keeps of a write.

use bytes::Bytes;

use super::RESPONSE;
use crate::{
    counter,
    error::{Error, Rejection},
    operation::{Action, Bounded, Kind, Outcome, Swapped},
    plan::Reply,
};

/// What a store keeps of a write, or of a response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Record {
    /// An increment, with the number after it. By far the most common, so it has a short form.
    Count(i64),
    /// Anything else, as [`encode`] writes it.
    Outcome(Bytes),
    /// A response, as it was given to be stored.
    Response(Bytes),
}

impl Record {
    /// Of a write that was applied or rejected.
    pub(crate) fn new(result: &Result<Outcome, Rejection>) -> Self {
        match result {
            Ok(Outcome::Count(count)) => Self::Count(*count),
            result => Self::Outcome(encode(result).into()),
        }
    }

    /// From its columns.
    pub(crate) fn stored(write: i64, count: Option<i64>, outcome: Option<Bytes>) -> Self {
        match (write, count, outcome) {
            (RESPONSE, _, outcome) => Self::Response(outcome.unwrap_or_default()),
            (_, Some(count), _) => Self::Count(count),
            (_, None, outcome) => Self::Outcome(outcome.unwrap_or_default()),
        }
    }

    /// Its columns: a number, or bytes.
    pub(crate) fn columns(&self) -> (Option<i64>, Option<&[u8]>) {
        match self {
            Self::Count(count) => (Some(*count), None),
            Self::Outcome(bytes) | Self::Response(bytes) => (None, Some(bytes)),
        }
    }

    /// The reply to an operation with the same id.
    pub(crate) fn reply(&self, action: &Action) -> Reply {
        match (action, self) {
            (Action::LoadResponse, Self::Response(response)) => {
                Ok(Outcome::Response(Some(response.clone())))
            }
            (Action::StoreResponse(_), _) => Ok(Outcome::Done),
            (action, _) => self.replay(action.kind()),
        }
    }

    /// The reply to a write of this kind with the same id.
    pub(crate) fn replay(&self, kind: Kind) -> Reply {
        let before = match (kind, self) {
            // Whatever is there, the position is closed.
            (Kind::Forgo, _) => Ok(Outcome::Forgone),
            (kind, Self::Count(count)) => fitting(Outcome::Count(*count), kind),
            (kind, Self::Outcome(recorded)) => decode(recorded, kind),
            (_, Self::Response(_)) => Err(unreadable()),
        };
        replay(before)
    }
}

pub(super) fn replay(before: Reply) -> Reply {
    Ok(Outcome::Replay(Box::new(before)))
}

/// An outcome as it is recorded: a letter for its kind, and a number or a value. Redis' script
/// writes the same.
pub(crate) fn encode(result: &Result<Outcome, Rejection>) -> Vec<u8> {
    let with = |letter: u8, rest: &[u8]| [&[letter], rest].concat();
    let number = |letter, number| with(letter, &counter::format(number));
    match result {
        Ok(Outcome::Done) => vec![b'd'],
        Ok(Outcome::Count(count)) => number(b'c', *count),
        Ok(Outcome::Value(None)) => vec![b'n'],
        Ok(Outcome::Value(Some(value))) => with(b'v', value),
        Ok(Outcome::Flag(false)) => vec![b'f'],
        Ok(Outcome::Flag(true)) => vec![b't'],
        Ok(Outcome::Bounded(Bounded::Applied(count))) => number(b'w', *count),
        Ok(Outcome::Bounded(Bounded::Refused(count))) => number(b'r', *count),
        Ok(Outcome::Swapped(Swapped::Yes)) => vec![b's'],
        Ok(Outcome::Swapped(Swapped::No(None))) => vec![b'y'],
        Ok(Outcome::Swapped(Swapped::No(Some(value)))) => with(b'x', value),
        Err(Rejection::NotANumber) => vec![b'N'],
        Err(Rejection::Overflow) => vec![b'O'],
        Err(Rejection::WrongType(reason)) => with(b'T', reason.as_bytes()),
        Ok(Outcome::Forgone) => vec![b'z'],
        // No outcome of a write on one key.
        Ok(
            Outcome::TimeToLive(_)
            | Outcome::Page(_)
            | Outcome::Buckets(_)
            | Outcome::Response(_)
            | Outcome::Replay(_)
            | Outcome::Each(_)
            | Outcome::Swept(_),
        )
        | Err(_) => vec![b'?'],
    }
}

/// The outcome of a write of this kind, from what was recorded.
pub(crate) fn decode(recorded: &Bytes, kind: Kind) -> Reply {
    let Some((letter, rest)) = recorded.split_first() else { return Err(unreadable()) };
    let value = || recorded.slice(1..);
    let number = || counter::parse(rest).ok_or_else(unreadable);
    let outcome = match letter {
        b'd' => Outcome::Done,
        b'c' => Outcome::Count(number()?),
        b'n' => Outcome::Value(None),
        b'v' => Outcome::Value(Some(value())),
        b'f' => Outcome::Flag(false),
        b't' => Outcome::Flag(true),
        b'w' => Outcome::Bounded(Bounded::Applied(number()?)),
        b'r' => Outcome::Bounded(Bounded::Refused(number()?)),
        b's' => Outcome::Swapped(Swapped::Yes),
        b'y' => Outcome::Swapped(Swapped::No(None)),
        b'x' => Outcome::Swapped(Swapped::No(Some(value()))),
        b'z' => return Err(forgone()),
        b'N' => return Err(Rejection::NotANumber.into()),
        b'O' => return Err(Rejection::Overflow.into()),
        b'T' => return Err(Rejection::WrongType(String::from_utf8_lossy(rest).into()).into()),
        _ => return Err(unreadable()),
    };
    fitting(outcome, kind)
}

/// The outcome, if it is one of a write of this kind.
fn fitting(outcome: Outcome, kind: Kind) -> Reply {
    let fits = match kind {
        Kind::Set | Kind::Delete => matches!(outcome, Outcome::Done),
        Kind::Increment => matches!(outcome, Outcome::Count(_)),
        Kind::GetAndSet => matches!(outcome, Outcome::Value(_)),
        Kind::SetIfAbsent | Kind::Expire => matches!(outcome, Outcome::Flag(_)),
        Kind::IncrementWithin => matches!(outcome, Outcome::Bounded(_)),
        Kind::Swap => matches!(outcome, Outcome::Swapped(_)),
        _ => false,
    };
    if fits {
        return Ok(outcome);
    }
    Err(Error::unknown(
        "the handler made other writes when it first ran for this request; what it changed then stays",
    ))
}

pub(super) fn forgone() -> Error {
    Error::not_applied(
        "this write failed when the handler first ran for this request, and it went on without it",
    )
}

fn unreadable() -> Error {
    Error::unknown("what is recorded of this write cannot be read")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outcomes_are_read_back_as_they_were_recorded() {
        let value = || Some(Bytes::from_static(b"\0value"));
        for (kind, result) in [
            (Kind::Set, Ok(Outcome::Done)),
            (Kind::Increment, Ok(Outcome::Count(i64::MIN))),
            (Kind::GetAndSet, Ok(Outcome::Value(None))),
            (Kind::GetAndSet, Ok(Outcome::Value(value()))),
            (Kind::GetAndSet, Ok(Outcome::Value(Some(Bytes::new())))),
            (Kind::SetIfAbsent, Ok(Outcome::Flag(false))),
            (Kind::Expire, Ok(Outcome::Flag(true))),
            (Kind::IncrementWithin, Ok(Outcome::Bounded(Bounded::Applied(7)))),
            (Kind::IncrementWithin, Ok(Outcome::Bounded(Bounded::Refused(-7)))),
            (Kind::Swap, Ok(Outcome::Swapped(Swapped::Yes))),
            (Kind::Swap, Ok(Outcome::Swapped(Swapped::No(None)))),
            (Kind::Swap, Ok(Outcome::Swapped(Swapped::No(value())))),
            (Kind::Increment, Err(Rejection::NotANumber)),
            (Kind::Increment, Err(Rejection::Overflow)),
            (Kind::Increment, Err(Rejection::WrongType("a list".into()))),
        ] {
            let read = decode(&encode(&result).into(), kind);
            assert_eq!(read, result.map_err(Error::Rejected), "{kind:?}");
        }
    }

    #[test]
    fn a_record_of_another_kind_of_write_answers_none() {
        let recorded = encode(&Ok(Outcome::Count(1))).into();
        assert!(matches!(decode(&recorded, Kind::Set), Err(Error::Unknown(_))));
        assert!(matches!(decode(&Bytes::new(), Kind::Set), Err(Error::Unknown(_))));
    }
}
