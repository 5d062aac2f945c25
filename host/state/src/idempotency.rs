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
//!   told of the same failure, as often as it asks, and takes the same path. The other write takes
//!   its position first, and keeps it if the closing fails;
//! - a call on several keys that fails for one of them has failed: the positions of all its writes
//!   count as failed, the recorded ones as well, so that the same call again is the same writes.
//!
//! # Writes begun in any order
//! A handler with several operations on their way at a time begins its writes in an order that may be another each time
//! that it runs, as it depends on which of them is answered first. So a position alone does not say which write it is
//! ([`Order::Any`]): of a request that adds 1 and 5, and was stopped when one of them was applied, a run that begins
//! with the other would take that one for done. There the *sort* of a write is part of its id, and positions count for
//! each sort by itself. Increments are of one sort if they add the same within the same bounds: those are
//! interchangeable, as whichever of them has a record, the others still to be applied add as much. All other writes
//! are told apart by what they do and not by their values, which a handler often computes from what it read or from
//! the time: of two such writes of one key on their way at a time, any may be the last one.
//!
//! As long as a write of a key is failed, only the same operation can follow it on that key; every other one is
//! refused, as not applied. Closing positions is for handlers that go past a failure, and one of many writes on their
//! way does not show whether its handler has.
//!
//! Positions count per key, so a handler that finds one write done and leaves it out does not take
//! that write's outcome for another's.
//!
//! Records are kept for at least [`Options::idempotency_window`](crate::Options::idempotency_window).

mod record;
#[cfg(test)]
mod tests;

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use bytes::Bytes;
use sha2::{Digest as _, Sha256};

pub(crate) use self::record::{Record, decode};
use crate::{
    Bucket,
    error::{Error, Rejection},
    operation::{Action, Outcome, Swapped},
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

/// Whether a request begins the writes of a key in the same order each time that it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    /// It does: it has one operation on its way at a time.
    Fixed,
    /// It may not.
    Any,
}

/// The positions of one key.
#[derive(Debug, Default)]
struct Positions {
    next: u32,
    /// The same for each sort of writes that are begun in any order.
    of_sorts: HashMap<Sort, u32>,
    /// Writes that failed, and whose outcome is therefore not known to be recorded.
    failed: Vec<(Position, Action)>,
}

/// A place among the writes of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Position {
    number: u32,
    /// Among writes of what sort, if they are begun in any order.
    sort: Option<Sort>,
}

/// What tells writes of a key apart that are begun in any order: what they do, and how much those add that add.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Sort {
    /// A letter, which is part of ids: it never changes.
    does: u8,
    delta: i64,
    bounds: (i64, i64),
}

impl Sort {
    fn of(action: &Action) -> Self {
        let other = |does| Self { does, delta: 0, bounds: (0, 0) };
        match action {
            Action::Increment { delta, .. } => Self { delta: *delta, ..other(b'i') },
            Action::IncrementWithin { delta, min, max, .. } => {
                Self { does: b'w', delta: *delta, bounds: (*min, *max) }
            }
            Action::Set { .. } => other(b's'),
            Action::GetAndSet { .. } => other(b'g'),
            Action::SetIfAbsent { .. } => other(b'a'),
            Action::Delete => other(b'd'),
            Action::Swap { .. } => other(b'c'),
            Action::Expire(_) => other(b'e'),
            // No write of a handler's.
            _ => other(b'?'),
        }
    }
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
    ///
    /// # Errors
    /// [`Error::NotApplied`], where writes are begun in any order and another one of the key has failed.
    pub(crate) fn begin(
        &self,
        bucket: &Bucket,
        key: &str,
        action: &Action,
        order: Order,
    ) -> Result<Attempt, Error> {
        let sort = (order == Order::Any).then(|| Sort::of(action));
        let mut progress = self.progress();
        let positions = progress.keys.entry((bucket.clone(), key.into())).or_default();
        let failed = positions.failed.iter().enumerate();
        // The first of them: where many failed, those asked again are to be the same ones.
        let again = failed
            .filter(|(_, (position, failed))| position.sort == sort && failed == action)
            .min_by_key(|(_, (position, _))| position.number);
        let position = match (again.map(|(place, _)| place), sort) {
            (Some(place), _) => positions.failed.swap_remove(place).0,
            (None, Some(_)) if !positions.failed.is_empty() => {
                return Err(Error::not_applied(
                    "it was not sent, as an earlier write of this request to the key has failed",
                ));
            }
            (None, sort) => {
                let next = match sort {
                    Some(sort) => positions.of_sorts.entry(sort).or_default(),
                    None => &mut positions.next,
                };
                let number = *next;
                *next = number.saturating_add(1);
                Position { number, sort }
            }
        };
        drop(progress);
        Ok(self.attempt(bucket, key, position, action.clone()))
    }

    /// An earlier write of the key that failed, and whose position is to be closed before this one
    /// is sent.
    pub(crate) fn unsettled(&self, attempt: &Attempt) -> Option<Attempt> {
        if attempt.position.sort.is_some() {
            return None;
        }
        let mut progress = self.progress();
        let positions = progress.keys.get_mut(&attempt.place)?;
        let is_earlier = |(position, _): &(Position, Action)| {
            position.sort.is_none() && position.number < attempt.position.number
        };
        let place = positions.failed.iter().position(is_earlier)?;
        let (position, failed) = positions.failed.swap_remove(place);
        drop(progress);
        let (bucket, key) = &attempt.place;
        Some(self.attempt(bucket, key, position, failed))
    }

    fn attempt(&self, bucket: &Bucket, key: &str, position: Position, action: Action) -> Attempt {
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
    position: Position,
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

/// Said of a store that still has tables in which earlier versions recorded writes.
pub(crate) fn not_read(tables: &str) -> String {
    format!(
        "records of an earlier version (in {tables}) are not read: a request with an Idempotency-Key that was made before the upgrade counts again if it is repeated; once no repeats are to come, drop what they are in"
    )
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
fn number(key: &str, position: Position) -> i64 {
    let mut hash = Sha256::new();
    hash.update(position.number.to_be_bytes());
    hash.update(key);
    if let Some(Sort { does, delta, bounds: (min, max) }) = position.sort {
        // No key has a byte of 0.
        hash.update([0, does]);
        for number in [delta, min, max] {
            hash.update(number.to_be_bytes());
        }
    }
    let digest = hash.finalize();
    i64::from_be_bytes(digest.first_chunk().copied().unwrap_or_default()) & i64::MAX
}
