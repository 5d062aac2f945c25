//! What the state operations of one request did: how many, and what is known of their effect.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tally_state::{Applied, Error};

/// The account of one request. Shared with whoever answers when the guest is thrown away in the
/// middle of a call.
#[derive(Clone, Default)]
pub(crate) struct Ledger(Arc<Mutex<Entries>>);

#[derive(Default)]
struct Entries {
    operations: u32,
    /// Writes on their way: if the request ends now, their effect is unknown.
    writing: u32,
    /// A write has been applied, so a failure of the request no longer means "nothing happened".
    wrote: bool,
    /// The worst failure so far: unknown outranks not applied, as the client must be told, and both
    /// outrank an operation that was refused for its own sake, as that one may yet succeed.
    failure: Option<Error>,
    /// Something was used that may be different next time.
    saw_outside: bool,
    /// The response has begun to stream.
    streams: bool,
}

impl Ledger {
    /// Counts one more call; `false` when the request has used up its operations.
    pub(crate) fn begin(&self, limit: u32, write: bool) -> bool {
        let mut entries = self.lock();
        if entries.operations >= limit {
            return false;
        }
        entries.operations = entries.operations.saturating_add(1);
        if write {
            entries.writing = entries.writing.saturating_add(1);
        }
        true
    }

    /// Notes how a call ended.
    pub(crate) fn end<T>(&self, write: bool, result: &Result<T, Error>) {
        let mut entries = self.lock();
        if write {
            entries.writing = entries.writing.saturating_sub(1);
        }
        match result {
            Ok(_) => entries.wrote |= write,
            Err(error) => {
                if entries.failure.as_ref().is_none_or(|before| rank(error) > rank(before)) {
                    entries.failure = Some(error.clone());
                }
            }
        }
    }

    /// Notes that something was used that may be different next time.
    pub(crate) fn look_outside(&self) {
        self.lock().saw_outside = true;
    }

    /// Whether a response may be another one next time, though the request and the outcomes of its
    /// writes are the same.
    pub(crate) fn saw_outside(&self) -> bool {
        self.lock().saw_outside
    }

    /// Notes that the response has begun to stream.
    pub(crate) fn begin_stream(&self) {
        self.lock().streams = true;
    }

    /// Whether the response has begun to stream.
    pub(crate) fn streams(&self) -> bool {
        self.lock().streams
    }

    /// The worst failure of a state operation, if there was one.
    pub(crate) fn failure(&self) -> Option<Error> {
        self.lock().failure.clone()
    }

    /// Whether a write has been applied.
    pub(crate) fn wrote(&self) -> bool {
        self.lock().wrote
    }

    /// What is known of the effect of the whole request, if it fails now.
    pub(crate) fn applied(&self) -> Applied {
        let entries = self.lock();
        let unknown =
            matches!(&entries.failure, Some(error) if error.applied() == Applied::Unknown);
        if entries.wrote || entries.writing > 0 || unknown { Applied::Unknown } else { Applied::No }
    }

    fn lock(&self) -> MutexGuard<'_, Entries> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How much a failure says about the fate of the whole request.
fn rank(error: &Error) -> u8 {
    match error {
        Error::Rejected(_) => 0,
        Error::NotApplied(_) => 1,
        Error::Unknown(_) => 2,
    }
}

#[cfg(test)]
mod tests {
    use tally_state::Rejection;

    use super::*;

    #[test]
    fn a_request_that_only_read_changed_nothing() {
        let ledger = Ledger::default();
        assert!(ledger.begin(10, false));
        ledger.end(false, &Ok(()));
        assert_eq!(ledger.applied(), Applied::No);
    }

    #[test]
    fn a_write_in_the_middle_or_behind_makes_the_effect_unknown() {
        let ledger = Ledger::default();
        assert!(ledger.begin(10, true));
        assert_eq!(ledger.applied(), Applied::Unknown, "on its way");
        ledger.end(true, &Err::<(), _>(Error::Rejected(Rejection::Overflow)));
        assert_eq!(ledger.applied(), Applied::No, "refused");
        assert!(ledger.begin(10, true));
        ledger.end(true, &Ok(()));
        assert_eq!(ledger.applied(), Applied::Unknown, "one write is applied");
    }

    #[test]
    fn the_failure_that_says_most_counts() {
        let ledger = Ledger::default();
        ledger.end(true, &Err::<(), _>(Error::Rejected(Rejection::Overflow)));
        ledger.end(true, &Err::<(), _>(Error::NotApplied("down".into())));
        ledger.end(true, &Err::<(), _>(Error::Rejected(Rejection::Overflow)));
        assert!(matches!(ledger.failure(), Some(Error::NotApplied(_))));
        assert_eq!(ledger.applied(), Applied::No);
        ledger.end(true, &Err::<(), _>(Error::NotApplied("down".into())));
        ledger.end(true, &Err::<(), _>(Error::Unknown("cut".into())));
        ledger.end(true, &Err::<(), _>(Error::NotApplied("down".into())));
        assert!(matches!(ledger.failure(), Some(Error::Unknown(_))));
        assert_eq!(ledger.applied(), Applied::Unknown);
    }

    #[test]
    fn operations_are_limited() {
        let ledger = Ledger::default();
        assert!(ledger.begin(1, false));
        assert!(!ledger.begin(1, false));
    }
}
