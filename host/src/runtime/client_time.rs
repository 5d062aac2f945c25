//! Time that a request spends waiting for its client: to send more of its body, or to take more of the response.
//! It is the client's, whom the edge bounds by progress, and none of the guest's limits on time counts it.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// The time that one request has waited for its client so far. Clones share it.
#[derive(Clone, Debug)]
pub(super) struct ClientTime(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    body: Mutex<Waits>,
    response: Mutex<Waits>,
    /// The longest that the edge lets the body take. A guest that asked for more of it once and then did something
    /// else looks as if it waited still: it gains no more than this.
    longest_body: Duration,
}

/// What is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum For {
    /// More of the request's body.
    Body,
    /// The client to take more of the response.
    Response,
}

#[derive(Debug, Default)]
struct Waits {
    /// When the present one began.
    since: Option<Instant>,
    /// What waits took that are over.
    over: Duration,
}

impl ClientTime {
    pub(super) fn new(longest_body: Duration) -> Self {
        let (body, response) = (Mutex::default(), Mutex::default());
        Self(Arc::new(Inner { body, response, longest_body }))
    }

    /// Begins to wait, if it does not already.
    pub(super) fn begin(&self, what: For) {
        self.lock(what).since.get_or_insert_with(Instant::now);
    }

    /// The wait is over, if there was one.
    pub(super) fn end(&self, what: For) {
        let mut waits = self.lock(what);
        waits.over = waits.total();
        waits.since = None;
    }

    /// All waits so far, with present ones.
    pub(super) fn total(&self) -> Duration {
        let body = self.lock(For::Body).total().min(self.0.longest_body);
        body.saturating_add(self.lock(For::Response).total())
    }

    /// How long the client has taken nothing of the response that is there for it.
    pub(super) fn since_it_took(&self) -> Duration {
        self.lock(For::Response).present()
    }

    fn lock(&self, what: For) -> MutexGuard<'_, Waits> {
        let waits = match what {
            For::Body => &self.0.body,
            For::Response => &self.0.response,
        };
        // Nothing panics while it is locked, and it is whole between statements.
        waits.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waits {
    fn present(&self) -> Duration {
        self.since.map_or(Duration::ZERO, |since| since.elapsed())
    }

    fn total(&self) -> Duration {
        self.over.saturating_add(self.present())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAUSE: Duration = Duration::from_millis(20);

    #[test]
    fn waits_add_up_whether_they_are_over_or_not() {
        let time = ClientTime::new(Duration::from_secs(60));
        assert_eq!(time.total(), Duration::ZERO);
        time.begin(For::Response);
        std::thread::sleep(PAUSE);
        time.begin(For::Response);
        assert!(time.since_it_took() >= PAUSE, "it has waited since the first");
        time.end(For::Response);
        time.end(For::Response);
        assert_eq!(time.since_it_took(), Duration::ZERO);
        let first = time.total();
        assert!(first >= PAUSE);
        std::thread::sleep(PAUSE);
        assert_eq!(time.total(), first, "nobody waited");
        time.begin(For::Body);
        std::thread::sleep(PAUSE);
        assert!(time.total() >= first + PAUSE);
    }

    #[test]
    fn a_body_that_is_never_asked_for_again_gains_no_more_than_it_may_take() {
        let time = ClientTime::new(PAUSE / 2);
        time.begin(For::Body);
        std::thread::sleep(PAUSE);
        assert_eq!(time.total(), PAUSE / 2);
    }
}
