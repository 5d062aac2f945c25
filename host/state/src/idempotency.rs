//! Writes that are applied once, however often their request is sent.
//!
//! A request that may be repeated has a [`Scope`], which gives each of its writes a [`WriteId`].
//! A backend records the outcome of a write under its id, in the same transaction as the write.
//! The same id again changes nothing and gets the recorded outcome, also from another host and
//! after a crash. Rejections for what the key holds are recorded as well, so that a handler that
//! runs again takes the same path. Failures are not recorded.
//!
//! # What makes two writes the same
//! An id consists of the request, the bucket, the key, and the *position*: how many writes of this
//! request to this key came before. Arguments are not part of it, because a handler that runs
//! again may compute others (from the time, or from what it reads) for the same write.
//!
//! The request's part is a digest of its name and of the **bucket that is written**. A record
//! therefore lives with the data that it protects: nothing but that data's place decides where it
//! is looked for, so no change of a guest's other settings can hide it, and two services meet in a
//! record only if they write the same data.
//!
//! # Positions and failures
//! A position is *settled* once its outcome is recorded, and only then. After a failure:
//! - the same operation on the key, asked again, is the same write and takes the same position.
//!   This holds whether the failure was certain or its outcome unknown;
//! - another operation on the key is another write. Before it is sent, the failed position is
//!   closed for good ([`Action::Forgo`]): a record is put there that says that the handler went on
//!   without that write, unless the write turns out to be recorded. A handler that runs again is
//!   told of the same failure, as often as it asks, and takes the same path. The other write has its position before
//!   that, so that it keeps it if the closing fails;
//! - a call on several keys that fails for one of them has failed: the positions of all its writes
//!   count as failed, the recorded ones as well, so that the same call again is the same writes.
//!
//! Positions count per key, so a handler that finds one write done and leaves it out does not take
//! that write's outcome for another's.
//!
//! Records are kept for at least [`Options::idempotency_window`](crate::Options::idempotency_window).

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use bytes::Bytes;
use sha2::{Digest as _, Sha256};

use crate::{
    Bucket, counter,
    error::{Error, Rejection},
    operation::{Action, Bounded, Kind, Outcome, Swapped},
    plan::Reply,
};

/// 128 bits of a digest: of a request's name, or of its content.
pub type Digest = [u8; 16];

/// A request whose writes are applied once. Clones share its progress. Whoever sends the request
/// again begins with a new scope of the same name.
#[derive(Clone, Debug)]
pub struct Scope(Arc<Request>);

#[derive(Debug)]
struct Request {
    name: Digest,
    fingerprint: u32,
    meter: Option<Arc<RecordMeter>>,
    progress: Mutex<Progress>,
    /// The response that was stored when the request was answered before.
    response: OnceLock<Bytes>,
}

#[derive(Debug, Default)]
struct Progress {
    keys: HashMap<(Bucket, Box<str>), Positions>,
    recorded: Recorded,
}

/// The positions of one key.
#[derive(Debug, Default)]
struct Positions {
    next: u32,
    /// Writes that failed, and whose outcome is therefore not known to be recorded.
    failed: Vec<(u32, Action)>,
}

/// Counts what scopes have recorded. Shared by all scopes of a guest.
#[derive(Debug, Default)]
pub struct RecordMeter {
    records: AtomicU64,
    bytes: AtomicU64,
}

/// Bytes that a record takes beside its outcome, about: ids, and what a backend adds.
const RECORD_BYTES: usize = 64;

impl RecordMeter {
    /// Records and bytes since they were last taken.
    pub fn get(&self) -> (u64, u64) {
        (self.records.load(Relaxed), self.bytes.load(Relaxed))
    }

    /// Takes records and bytes off that have been accounted for.
    pub fn take(&self, records: u64, bytes: u64) {
        self.records.fetch_sub(records, Relaxed);
        self.bytes.fetch_sub(bytes, Relaxed);
    }

    fn add(&self, bytes: usize) {
        self.records.fetch_add(1, Relaxed);
        self.bytes.fetch_add(bytes.saturating_add(RECORD_BYTES) as u64, Relaxed);
    }
}

/// What is recorded of the writes of a scope so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recorded {
    /// The bucket of the first recorded write.
    pub bucket: Option<Bucket>,
    /// Writes that were applied or rejected, and recorded, by this scope.
    pub new: u32,
    /// Writes that had been recorded before.
    pub replayed: u32,
}

impl Scope {
    /// `name` identifies the request, whoever sends it; `fingerprint` its content, so that another
    /// request under the same name is noticed. 32 bits of it are kept.
    #[must_use]
    pub fn new(name: Digest, fingerprint: Digest) -> Self {
        Self::with_meter(name, fingerprint, None)
    }

    /// The same, and what is recorded is counted.
    #[must_use]
    pub fn metered(name: Digest, fingerprint: Digest, meter: Arc<RecordMeter>) -> Self {
        Self::with_meter(name, fingerprint, Some(meter))
    }

    fn with_meter(name: Digest, fingerprint: Digest, meter: Option<Arc<RecordMeter>>) -> Self {
        let fingerprint =
            u32::from_be_bytes(fingerprint.first_chunk().copied().unwrap_or_default());
        Self(Arc::new(Request {
            name,
            fingerprint,
            meter,
            progress: Mutex::default(),
            response: OnceLock::new(),
        }))
    }

    /// What identifies the request.
    #[must_use]
    pub fn name(&self) -> Digest {
        self.0.name
    }

    /// What is recorded so far.
    #[must_use]
    pub fn recorded(&self) -> Recorded {
        self.progress().recorded.clone()
    }

    /// The stored response, if one of the scope's writes had been recorded before and the request
    /// was answered then.
    #[must_use]
    pub fn response(&self) -> Option<Bytes> {
        self.0.response.get().cloned()
    }

    /// Counts a stored response.
    pub(crate) fn count_response(&self, bytes: usize) {
        if let Some(meter) = &self.0.meter {
            meter.add(bytes);
        }
    }

    pub(crate) fn set_response(&self, response: Bytes) {
        // Set once: a stored response never changes.
        let _ = self.0.response.set(response);
    }

    /// Begins a write of a key: gives it its position, that of the same operation where it failed.
    /// It may be sent when [`Scope::unsettled`] has nothing more to close before it.
    pub(crate) fn begin(&self, bucket: &Bucket, key: &str, action: &Action) -> Attempt {
        let mut progress = self.progress();
        let positions = progress.keys.entry((bucket.clone(), key.into())).or_default();
        let again = positions.failed.iter().position(|(_, failed)| failed == action);
        let position = if let Some(place) = again {
            positions.failed.swap_remove(place).0
        } else {
            let position = positions.next;
            positions.next = position.saturating_add(1);
            position
        };
        drop(progress);
        self.attempt(bucket, key, position, action.clone())
    }

    /// An earlier write of the key that failed, and whose position is to be closed before this one
    /// is sent.
    pub(crate) fn unsettled(&self, attempt: &Attempt) -> Option<Attempt> {
        let mut progress = self.progress();
        let positions = progress.keys.get_mut(&attempt.place)?;
        let is_earlier = |(position, _): &(u32, Action)| *position < attempt.position;
        let place = positions.failed.iter().position(is_earlier)?;
        let (position, failed) = positions.failed.swap_remove(place);
        drop(progress);
        let (bucket, key) = &attempt.place;
        Some(self.attempt(bucket, key, position, failed))
    }

    fn attempt(&self, bucket: &Bucket, key: &str, position: u32, action: Action) -> Attempt {
        let write = WriteId { write: number(key, position), ..self.response_id(bucket) };
        let place = (bucket.clone(), key.into());
        let scope = self.clone();
        Attempt { scope, place, position, action: Some(action), write, is_recorded: false }
    }

    /// The id of the stored response of a request that writes to this bucket.
    pub(crate) fn response_id(&self, bucket: &Bucket) -> WriteId {
        let mut hash = Sha256::new();
        hash.update(self.0.name);
        hash.update(bucket.as_str());
        let request = hash.finalize().first_chunk().copied().unwrap_or_default();
        WriteId { request, fingerprint: self.0.fingerprint, write: RESPONSE }
    }

    fn progress(&self) -> MutexGuard<'_, Progress> {
        self.0.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A write that has its position. Dropped before it is settled, it counts as failed.
pub(crate) struct Attempt {
    scope: Scope,
    place: (Bucket, Box<str>),
    position: u32,
    /// `None` once it is settled.
    action: Option<Action>,
    pub(crate) write: WriteId,
    /// Whether an outcome other than a failure is recorded.
    is_recorded: bool,
}

impl Attempt {
    /// Whether an outcome other than a failure is recorded.
    pub(crate) fn is_recorded(&self) -> bool {
        self.is_recorded
    }

    /// Settles the position, if such an outcome is recorded.
    pub(crate) fn settle(mut self) {
        if self.is_recorded {
            self.action = None;
        }
    }

    /// Notes the backend's reply, and gives what the caller is told. The second part is whether
    /// this is the scope's first write that had been recorded before.
    pub(crate) fn end(&mut self, reply: Reply) -> (Reply, bool) {
        let new = match &reply {
            Ok(Outcome::Replay(_)) => false,
            Ok(_)
            | Err(Error::Rejected(
                Rejection::NotANumber | Rejection::Overflow | Rejection::WrongType(_),
            )) => true,
            Err(_) => return (reply, false),
        };
        // Whoever is told of a failure may ask again, and gets the same.
        self.is_recorded = !matches!(
            &reply,
            Ok(Outcome::Replay(before)) if matches!(**before, Err(Error::NotApplied(_) | Error::Unknown(_)))
        );
        let mut progress = self.scope.progress();
        let recorded = &mut progress.recorded;
        recorded.bucket.get_or_insert_with(|| self.place.0.clone());
        if new {
            recorded.new = recorded.new.saturating_add(1);
            if let Some(meter) = &self.scope.0.meter {
                meter.add(reply.as_ref().map_or(0, size));
            }
        }
        let first = !new && recorded.replayed == 0;
        if !new {
            recorded.replayed = recorded.replayed.saturating_add(1);
        }
        drop(progress);
        match reply {
            Ok(Outcome::Replay(before)) => (*before, first),
            reply => (reply, false),
        }
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        let Some(action) = self.action.take() else { return };
        let mut progress = self.scope.progress();
        if let Some(positions) = progress.keys.get_mut(&self.place) {
            positions.failed.push((self.position, action));
        }
    }
}

/// Bytes of an outcome that a record holds.
fn size(outcome: &Outcome) -> usize {
    match outcome {
        Outcome::Value(Some(value)) | Outcome::Swapped(Swapped::No(Some(value))) => value.len(),
        _ => 8,
    }
}

/// The place of a request's response among its writes.
pub(crate) const RESPONSE: i64 = -1;

/// Names one write of one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct WriteId {
    /// The request, among those that write to the same bucket.
    pub(crate) request: Digest,
    pub(crate) fingerprint: u32,
    /// Which of the request's writes it is: not negative, or [`RESPONSE`].
    pub(crate) write: i64,
}

/// A number for one write of a key, the same on every host: 63 bits of a digest.
fn number(key: &str, position: u32) -> i64 {
    let mut hash = Sha256::new();
    hash.update(position.to_be_bytes());
    hash.update(key);
    let digest = hash.finalize();
    i64::from_be_bytes(digest.first_chunk().copied().unwrap_or_default()) & i64::MAX
}

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

fn replay(before: Reply) -> Reply {
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

fn forgone() -> Error {
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

    fn bucket(name: &str) -> Bucket {
        Bucket::new(name).unwrap()
    }

    fn scope() -> Scope {
        Scope::new([1; 16], [2; 16])
    }

    const ADD: Action = Action::Increment { delta: 1, ttl: None };
    const ADD_FIVE: Action = Action::Increment { delta: 5, ttl: None };
    const ADD_SIX: Action = Action::Increment { delta: 6, ttl: None };

    fn begin(scope: &Scope, action: &Action) -> Attempt {
        scope.begin(&bucket("b"), "k", action)
    }

    /// Ends and settles a write; gives what its caller is told.
    fn end(mut attempt: Attempt, reply: Reply) -> (Reply, bool) {
        let told = attempt.end(reply);
        attempt.settle();
        told
    }

    /// The id that a write gets, which then ends so.
    fn write(scope: &Scope, key: &str, action: &Action, reply: Reply) -> i64 {
        let attempt = scope.begin(&bucket("b"), key, action);
        assert!(scope.unsettled(&attempt).is_none(), "an earlier write is to be closed");
        let id = attempt.write.write;
        drop(end(attempt, reply));
        id
    }

    fn applied() -> Reply {
        Ok(Outcome::Count(1))
    }

    #[test]
    fn the_same_operation_after_a_failure_is_the_same_write() {
        for failure in [Error::not_applied("down"), Error::unknown("cut")] {
            let scope = scope();
            let first = write(&scope, "k", &ADD, Err(failure));
            assert_eq!(write(&scope, "k", &ADD, applied()), first, "asked again");
            assert_ne!(write(&scope, "k", &ADD, applied()), first, "the next one");
        }
    }

    #[test]
    fn a_write_that_was_abandoned_is_the_same_when_asked_again() {
        let scope = scope();
        let attempt = begin(&scope, &ADD);
        let first = attempt.write.write;
        drop(attempt);
        assert_eq!(write(&scope, "k", &ADD, applied()), first);
    }

    #[test]
    fn another_operation_after_a_failure_closes_the_failed_position_first() {
        let scope = scope();
        let first = write(&scope, "k", &ADD, Err(Error::unknown("cut")));
        let other = begin(&scope, &ADD_FIVE);
        let second = other.write.write;
        let failed = scope.unsettled(&other).unwrap();
        assert_eq!(failed.write.write, first);
        drop(end(failed, Err(Error::not_applied("down"))));
        drop(other);
        let other = begin(&scope, &ADD_FIVE);
        assert_eq!(other.write.write, second, "it keeps its position");
        let failed = scope.unsettled(&other).expect("still open");
        drop(end(failed, Ok(Outcome::Forgone)));
        assert!(scope.unsettled(&other).is_none());
        drop(end(other, applied()));
        assert_ne!(second, first);
        assert_ne!(write(&scope, "other", &ADD, applied()), second, "other keys are not concerned");
    }

    #[test]
    fn a_write_that_was_not_sent_as_an_earlier_one_is_open_has_its_position() {
        let scope = scope();
        let first = write(&scope, "k", &ADD, Err(Error::unknown("cut")));
        let second = begin(&scope, &ADD_FIVE).write.write;
        let third = begin(&scope, &ADD_SIX);
        let mut closed = Vec::new();
        while let Some(failed) = scope.unsettled(&third) {
            closed.push(failed.write.write);
            drop(end(failed, Ok(Outcome::Forgone)));
        }
        closed.sort_unstable();
        let mut both = vec![first, second];
        both.sort_unstable();
        assert_eq!(closed, both);
        assert!(!both.contains(&third.write.write));
    }

    #[test]
    fn a_write_that_an_earlier_run_went_past_stays_so_when_asked_again() {
        let scope = scope();
        let closed = Record::new(&Ok(Outcome::Forgone));
        let first = write(&scope, "k", &ADD, closed.reply(&ADD));
        assert_eq!(write(&scope, "k", &ADD, closed.reply(&ADD)), first);
        let other = begin(&scope, &ADD_FIVE);
        assert_ne!(other.write.write, first);
        let failed = scope.unsettled(&other).unwrap();
        assert_eq!(failed.write.write, first);
        assert_eq!(end(failed, closed.reply(&Action::Forgo)).0, Ok(Outcome::Forgone));
        assert!(scope.unsettled(&other).is_none());
    }

    #[test]
    fn a_recorded_write_that_is_not_settled_is_the_same_when_asked_again() {
        let scope = scope();
        let mut attempt = begin(&scope, &ADD);
        let first = attempt.write.write;
        drop(attempt.end(applied()));
        assert!(attempt.is_recorded());
        drop(attempt);
        assert_eq!(write(&scope, "k", &ADD, applied()), first);
    }

    #[test]
    fn a_record_is_replayed_to_whatever_is_asked_again() {
        let record = Record::new(&Ok(Outcome::Count(7)));
        assert_eq!(record.reply(&ADD), replay(Ok(Outcome::Count(7))));
        assert_eq!(record.reply(&Action::Forgo), replay(Ok(Outcome::Forgone)));
        let closed = Record::new(&Ok(Outcome::Forgone));
        assert_eq!(closed.reply(&ADD), replay(Err(forgone())));
        let scope = scope();
        let again = || end(begin(&scope, &ADD), record.reply(&ADD));
        assert_eq!(again(), (Ok(Outcome::Count(7)), true), "the first");
        assert_eq!(again(), (Ok(Outcome::Count(7)), false));
        assert_eq!((scope.recorded().new, scope.recorded().replayed), (0, 2));
    }

    #[test]
    fn positions_count_for_each_key_by_itself() {
        let ids = |keys: &[&str]| -> Vec<i64> {
            let scope = scope();
            keys.iter().map(|key| write(&scope, key, &ADD, applied())).collect()
        };
        let first = ids(&["x", "z", "x", "y"]);
        assert!(first.iter().all(|write| *write >= 0));
        assert_eq!(std::collections::HashSet::<_>::from_iter(&first).len(), 4);
        let again = ids(&["y", "x", "x"]);
        assert_eq!(again, [first[3], first[0], first[2]], "whatever comes in between");
    }

    #[test]
    fn a_request_is_another_in_each_bucket_and_nothing_else_changes_it() {
        let id = |name| scope().response_id(&bucket(name)).request;
        assert_ne!(id("a"), id("b"));
        assert_eq!(id("a"), Scope::new([1; 16], [9; 16]).response_id(&bucket("a")).request);
    }
}
