//! Writes that happen once, whoever sends them again.
//!
//! A write with a [`Token`] is recorded together with its outcome, in the same transaction of the
//! backend. The same token again changes nothing and is answered with the recorded outcome, also by
//! another host and after a crash. Refusals for what the key holds are recorded as well, so that a
//! handler that runs again takes the same way. Failures are not: they may be tried again.
//!
//! Records are kept for [`Options::remember`](crate::Options::remember).

use bytes::Bytes;

use crate::{
    counter,
    error::{Error, Rejection},
    operation::{Action, Bounded, Kind, Outcome, Swapped},
    plan::Reply,
};

/// What is known of a request: 128 bits of a digest of its name, or of what it looks like.
pub type Digest = [u8; 16];

/// Names one write of one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Token {
    pub(crate) request: Digest,
    pub(crate) fingerprint: Digest,
    /// Which of the request's writes it is, counting from 0.
    pub(crate) write: u32,
}

impl Token {
    /// The first write of a request. `request` is what the request is known by, whoever sends it;
    /// `fingerprint` is what it looks like, so that another one under the same name is noticed.
    #[must_use]
    pub fn new(request: Digest, fingerprint: Digest) -> Self {
        Self { request, fingerprint, write: 0 }
    }

    /// What the request is known by.
    #[must_use]
    pub fn request(self) -> Digest {
        self.request
    }

    /// What the request looks like.
    #[must_use]
    pub fn fingerprint(self) -> Digest {
        self.fingerprint
    }

    /// The write that comes a number of writes after this one.
    #[must_use]
    pub fn after(self, writes: u32) -> Self {
        Self { write: self.write.saturating_add(writes), ..self }
    }
}

/// What is kept of a write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) fingerprint: Digest,
    pub(crate) outcome: Bytes,
}

impl Record {
    /// Of a write that has been applied or refused.
    pub(crate) fn of(token: Token, result: &Result<Outcome, Rejection>) -> Self {
        Self { fingerprint: token.fingerprint, outcome: encode(result).into() }
    }

    /// The answer to a write with the same token.
    pub(crate) fn reply(&self, token: Token, action: &Action) -> Reply {
        if self.fingerprint != token.fingerprint {
            return Err(Rejection::Reused.into());
        }
        decode(&self.outcome, action.kind())
    }
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
        // No outcome of a write on one key.
        Ok(
            Outcome::TimeToLive(_) | Outcome::Page(_) | Outcome::Recalled(_) | Outcome::Swept(_),
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
        b'N' => return Err(Rejection::NotANumber.into()),
        b'O' => return Err(Rejection::Overflow.into()),
        b'T' => return Err(Rejection::WrongType(String::from_utf8_lossy(rest).into()).into()),
        _ => return Err(unreadable()),
    };
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

    #[test]
    fn another_request_under_the_same_name_is_refused() {
        let token = Token::new([1; 16], [2; 16]);
        let record = Record::of(token, &Ok(Outcome::Count(1)));
        let action = Action::Increment(1);
        assert_eq!(record.reply(token, &action), Ok(Outcome::Count(1)));
        let other = Token::new([1; 16], [3; 16]);
        assert_eq!(record.reply(other, &action), Err(Rejection::Reused.into()));
    }
}
