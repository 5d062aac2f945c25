//! What one request did: how many state operations it asked for, whether they changed something,
//! and whether it saw anything that may be different the next time.
//!
//! The single source of `applied`, for every failure of a request from the moment its guest may
//! have run: see [`Effects::applied`].

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicBool, Ordering},
};

use tally_state::{Applied, Error};

/// The effects of one request. Shared with the code that answers when the guest is thrown away in
/// the middle of a call.
#[derive(Clone, Default)]
pub(crate) struct Effects(Arc<Shared>);

#[derive(Default)]
struct Shared {
    /// By itself, because a guest may ask for the time or for random bytes very often.
    saw_outside: AtomicBool,
    streams: AtomicBool,
    entries: Mutex<Entries>,
}

#[derive(Default)]
struct Entries {
    operations: u32,
    /// State was read.
    read: bool,
    /// Writes on their way: if the request ends now, their effect is unknown.
    writing: u32,
    /// A write changed something, so a failure of the request no longer means "nothing happened".
    changed: bool,
    /// A request that may change something was sent to another server.
    reached_out: bool,
    /// Something outside the store was changed, or may have been.
    changed_elsewhere: bool,
    /// The worst failure so far: unknown outranks not applied, because the client must be told, and
    /// both outrank an operation that was refused for its own sake, because they may not recur.
    failure: Option<Error>,
}

impl Effects {
    /// Counts one more state operation; `false` when the request has used up its operations.
    pub(crate) fn begin(&self, limit: u32, write: bool) -> bool {
        let mut entries = self.lock();
        if entries.operations >= limit {
            return false;
        }
        entries.operations = entries.operations.saturating_add(1);
        if write {
            entries.writing = entries.writing.saturating_add(1);
        } else {
            entries.read = true;
            self.look_outside();
        }
        true
    }

    /// Records how an operation ended. `changed` says whether a write that was answered changed
    /// something: a swap that found another value did not.
    ///
    /// An operation that is dropped never ends: a write then stays on its way, and its effect
    /// unknown.
    pub(crate) fn end<T>(
        &self,
        write: bool,
        result: &Result<T, Error>,
        changed: impl FnOnce(&T) -> bool,
    ) {
        let mut entries = self.lock();
        if write {
            entries.writing = entries.writing.saturating_sub(1);
        }
        match result {
            Ok(value) => {
                entries.changed |= write && changed(value);
            }
            Err(error) => {
                let error = match error {
                    // A read without an answer is a failure of the store that changed nothing.
                    Error::Unknown(reason) if !write => Error::NotApplied(Arc::clone(reason)),
                    error => error.clone(),
                };
                if entries.failure.as_ref().is_none_or(|before| rank(&error) > rank(before)) {
                    entries.failure = Some(error);
                }
            }
        }
    }

    /// Records that a request which may change something is about to be sent to another server.
    pub(crate) fn reach_out(&self) {
        self.lock().reached_out = true;
    }

    /// Records that a change is about to be made outside the store whose outcome will be known. If
    /// the request ends before [`Effects::end_elsewhere`], its effect is unknown.
    pub(crate) fn begin_elsewhere(&self) {
        let mut entries = self.lock();
        entries.writing = entries.writing.saturating_add(1);
    }

    /// Records how such a change ended.
    pub(crate) fn end_elsewhere(&self, changed: bool) {
        let mut entries = self.lock();
        entries.writing = entries.writing.saturating_sub(1);
        entries.changed |= changed;
        entries.changed_elsewhere |= changed;
    }

    /// Whether something outside the store was changed, or may have been by another server.
    pub(crate) fn reached_beyond(&self) -> bool {
        let entries = self.lock();
        entries.reached_out || entries.changed_elsewhere
    }

    /// Records that the guest uses something that may be different the next time: a state read, the
    /// time, random bytes, its environment, its instance, another server's response.
    pub(crate) fn look_outside(&self) {
        self.0.saw_outside.store(true, Ordering::Relaxed);
    }

    /// Whether the guest has used anything that may be different the next time. If not, then its
    /// response follows from its request and from the outcomes of its writes. Logging does not
    /// count, nor do the request's own headers.
    pub(crate) fn saw_outside(&self) -> bool {
        self.0.saw_outside.load(Ordering::Relaxed)
    }

    /// Whether state was read.
    pub(crate) fn has_read(&self) -> bool {
        self.lock().read
    }

    /// Records that the response has begun to stream.
    pub(crate) fn begin_stream(&self) {
        self.0.streams.store(true, Ordering::Release);
    }

    /// Whether the response has begun to stream, and no other can be given any more.
    pub(crate) fn streams(&self) -> bool {
        self.0.streams.load(Ordering::Acquire)
    }

    /// The worst failure of a state operation, if there was one.
    pub(crate) fn failure(&self) -> Option<Error> {
        self.lock().failure.clone()
    }

    /// What is known of the effect of the whole request, if it fails now. Reads never make it
    /// unknown.
    pub(crate) fn applied(&self) -> Applied {
        let entries = self.lock();
        let unanswered =
            matches!(&entries.failure, Some(error) if error.applied() == Applied::Unknown);
        let known = !(entries.changed || entries.reached_out || entries.writing > 0 || unanswered);
        if known { Applied::No } else { Applied::Unknown }
    }

    fn lock(&self) -> MutexGuard<'_, Entries> {
        self.0.entries.lock().unwrap_or_else(PoisonError::into_inner)
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

    fn end(effects: &Effects, write: bool, result: Result<(), Error>) {
        effects.end(write, &result, |()| true);
    }

    fn unknown() -> Result<(), Error> {
        Err(Error::Unknown("cut".into()))
    }

    fn not_applied() -> Result<(), Error> {
        Err(Error::NotApplied("down".into()))
    }

    fn refused() -> Result<(), Error> {
        Err(Error::Rejected(Rejection::Overflow))
    }

    #[test]
    fn a_request_that_only_read_changed_nothing() {
        let effects = Effects::default();
        assert!(effects.begin(10, false));
        assert_eq!(effects.applied(), Applied::No, "on its way");
        end(&effects, false, Ok(()));
        assert_eq!(effects.applied(), Applied::No);
    }

    #[test]
    fn a_read_without_an_answer_is_a_failure_that_changed_nothing() {
        let effects = Effects::default();
        assert!(effects.begin(10, false));
        end(&effects, false, unknown());
        assert_eq!(effects.applied(), Applied::No);
        assert_eq!(effects.failure(), Some(Error::NotApplied("cut".into())));
        assert!(effects.begin(10, true));
        end(&effects, true, unknown());
        assert_eq!(effects.applied(), Applied::Unknown, "of a write, it is unknown");
        end(&effects, false, unknown());
        assert!(matches!(effects.failure(), Some(Error::Unknown(_))));
    }

    #[test]
    fn a_write_in_the_middle_or_behind_makes_the_effect_unknown() {
        let effects = Effects::default();
        assert!(effects.begin(10, true));
        assert_eq!(effects.applied(), Applied::Unknown, "on its way");
        end(&effects, true, refused());
        assert_eq!(effects.applied(), Applied::No, "refused");
        assert!(effects.begin(10, true));
        end(&effects, true, Ok(()));
        assert_eq!(effects.applied(), Applied::Unknown, "one write is applied");
        end(&effects, false, Ok(()));
        assert_eq!(effects.applied(), Applied::Unknown, "and stays so");
    }

    #[test]
    fn a_write_that_changed_nothing_leaves_the_effect_known() {
        let effects = Effects::default();
        assert!(effects.begin(10, true));
        effects.end(true, &Ok(false), |changed| *changed);
        assert_eq!(effects.applied(), Applied::No);
        assert!(effects.begin(10, true));
        effects.end(true, &Ok(true), |changed| *changed);
        assert_eq!(effects.applied(), Applied::Unknown);
    }

    #[test]
    fn the_failure_that_says_most_counts() {
        let effects = Effects::default();
        for result in [refused(), not_applied(), refused()] {
            end(&effects, true, result);
        }
        assert!(matches!(effects.failure(), Some(Error::NotApplied(_))));
        assert_eq!(effects.applied(), Applied::No);
        for result in [not_applied(), unknown(), not_applied()] {
            end(&effects, true, result);
        }
        assert!(matches!(effects.failure(), Some(Error::Unknown(_))));
        assert_eq!(effects.applied(), Applied::Unknown);
    }

    #[test]
    fn a_request_to_another_server_may_have_changed_something_there() {
        let effects = Effects::default();
        effects.look_outside();
        assert_eq!(effects.applied(), Applied::No);
        effects.reach_out();
        assert_eq!(effects.applied(), Applied::Unknown);
    }

    #[test]
    fn a_change_outside_the_store_counts_unless_it_is_known_to_have_failed() {
        let effects = Effects::default();
        effects.begin_elsewhere();
        assert_eq!(effects.applied(), Applied::Unknown, "on its way");
        effects.end_elsewhere(false);
        assert_eq!(effects.applied(), Applied::No);
        assert!(!effects.reached_beyond());
        effects.begin_elsewhere();
        effects.end_elsewhere(true);
        assert_eq!(effects.applied(), Applied::Unknown);
        assert!(effects.reached_beyond());
    }

    #[test]
    fn reads_and_other_servers_are_outside_and_writes_are_not() {
        let effects = Effects::default();
        assert!(effects.begin(10, true));
        end(&effects, true, Ok(()));
        assert!(!effects.saw_outside());
        assert!(effects.begin(10, false));
        assert!(effects.saw_outside());
    }

    #[test]
    fn operations_are_limited() {
        let effects = Effects::default();
        assert!(effects.begin(1, false));
        assert!(!effects.begin(1, false));
    }
}
