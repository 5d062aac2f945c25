//! Writes that happen once, whoever sends them again.
//!
//! A request that may be made again is known by a [`Once`], which gives each of its writes a
//! [`Token`]: the request, the key that is written, and how many writes of the request that key has
//! had. The backend records a token's outcome in the same transaction as the write. The same token
//! again changes nothing and is answered with the recorded outcome, also by another host and after a
//! crash. Refusals for what the key holds are recorded as well, so that a handler that runs again
//! takes the same way. Failures are not: they may be tried again.
//!
//! Writes are counted for each key by itself, so that a handler that finds one of them done, and
//! leaves it out the second time, does not take its outcome for that of another.
//!
//! Records are kept for [`Options::remember`](crate::Options::remember).

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;
use sha2::{Digest as _, Sha256};

use crate::{
    Bucket, counter,
    error::{Error, Rejection},
    operation::{Action, Bounded, Kind, Outcome, Swapped},
    plan::Reply,
};

/// What is known of a request: 128 bits of a digest of its name, or of what it looks like.
pub type Digest = [u8; 16];

/// A request whose writes happen once. Clones count its writes together; whoever makes the request
/// again begins with a new one of the same name.
#[derive(Clone, Debug)]
pub struct Once(Arc<Request>);

#[derive(Debug)]
struct Request {
    name: Digest,
    fingerprint: Digest,
    /// How often each key has been written.
    writes: Mutex<HashMap<(Bucket, Box<str>), u32>>,
}

impl Once {
    /// `name` is what the request is known by, whoever sends it; `fingerprint` is what it looks
    /// like, so that another one under the same name is noticed.
    #[must_use]
    pub fn new(name: Digest, fingerprint: Digest) -> Self {
        Self(Arc::new(Request { name, fingerprint, writes: Mutex::default() }))
    }

    /// What the request is known by.
    #[must_use]
    pub fn name(&self) -> Digest {
        self.0.name
    }

    /// What the request looks like.
    #[must_use]
    pub fn fingerprint(&self) -> Digest {
        self.0.fingerprint
    }

    /// The token of the next write of a key.
    pub(crate) fn next(&self, bucket: &Bucket, key: &str) -> Token {
        let mut writes = self.0.writes.lock().unwrap_or_else(PoisonError::into_inner);
        let count = writes.entry((bucket.clone(), key.into())).or_default();
        let write = number(bucket.as_str(), key, *count);
        *count = count.saturating_add(1);
        self.token(write)
    }

    /// The token of the answer.
    pub(crate) fn answer(&self) -> Token {
        self.token(ANSWER)
    }

    fn token(&self, write: i64) -> Token {
        Token { request: self.0.name, fingerprint: self.0.fingerprint, write }
    }
}

/// The place of a request's answer among its writes.
pub(crate) const ANSWER: i64 = -1;

/// Names one write of one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Token {
    pub(crate) request: Digest,
    pub(crate) fingerprint: Digest,
    /// Which of the request's writes it is: no negative number, or [`ANSWER`].
    pub(crate) write: i64,
}

/// A number for one write of a key, the same on every host: 63 bits of a digest.
fn number(bucket: &str, key: &str, count: u32) -> i64 {
    let mut hash = Sha256::new();
    hash.update(u64::try_from(bucket.len()).unwrap_or(u64::MAX).to_be_bytes());
    hash.update(bucket);
    hash.update(count.to_be_bytes());
    hash.update(key);
    let digest = hash.finalize();
    i64::from_be_bytes(digest.first_chunk().copied().unwrap_or_default()) & i64::MAX
}

/// What is kept of a write, or of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    /// Of the request that wrote it.
    pub(crate) fingerprint: Digest,
    pub(crate) outcome: Bytes,
}

impl Record {
    /// Of a write that has been applied or refused.
    pub(crate) fn of(token: Token, result: &Result<Outcome, Rejection>) -> Self {
        Self { fingerprint: token.fingerprint, outcome: encode(result).into() }
    }

    /// Of an answer.
    pub(crate) fn answer(token: Token, answer: &Bytes) -> Self {
        Self { fingerprint: token.fingerprint, outcome: answer.clone() }
    }

    /// The answer to a write with the same token.
    pub(crate) fn reply(&self, token: Token, action: &Action) -> Reply {
        if self.fingerprint != token.fingerprint {
            return Err(Rejection::Reused.into());
        }
        match action {
            Action::Remember(_) => Ok(Outcome::Done),
            _ => decode(&self.outcome, action.kind()),
        }
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
        let bucket = Bucket::new("b").unwrap();
        let token = Once::new([1; 16], [2; 16]).next(&bucket, "key");
        let record = Record::of(token, &Ok(Outcome::Count(1)));
        let action = Action::Increment(1);
        assert_eq!(record.reply(token, &action), Ok(Outcome::Count(1)));
        let other = Once::new([1; 16], [3; 16]).next(&bucket, "key");
        assert_eq!(record.reply(other, &action), Err(Rejection::Reused.into()));
    }

    #[test]
    fn writes_are_counted_for_each_key_by_itself() {
        let (a, b) = (Bucket::new("a").unwrap(), Bucket::new("b").unwrap());
        let tokens = |keys: &[(&Bucket, &str)]| -> Vec<i64> {
            let once = Once::new([1; 16], [2; 16]);
            keys.iter().map(|(bucket, key)| once.next(bucket, key).write).collect()
        };
        let first = tokens(&[(&a, "x"), (&b, "x"), (&a, "x"), (&a, "y")]);
        assert!(first.iter().all(|write| *write >= 0));
        assert_eq!(std::collections::HashSet::<_>::from_iter(&first).len(), 4);
        let again = tokens(&[(&a, "y"), (&a, "x"), (&a, "x")]);
        assert_eq!(again, [first[3], first[0], first[2]], "whatever comes in between");
    }
}
