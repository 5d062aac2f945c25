//! Whether a lane's operations would succeed.
//!
//! Its own batches are the best evidence: one write that was applied shows that writes are. Where
//! the last evidence is old, or is a failure, whoever asks has the lane make a check over its own
//! connection, once an interval however many ask.

use std::time::Duration;

use tokio::{sync::watch, time::Instant};

use crate::{
    backend::Role,
    error::Error,
    lane::Lane,
    operation::{Outcome, Step},
    plan::Reply,
    state::Options,
};

/// How long evidence is good for: probes of an orchestrator come every few seconds.
const INTERVAL: Duration = Duration::from_secs(1);

/// Evidence of success is noted this often at most, so that noting it costs batches nothing.
const NOTED_EVERY: Duration = Duration::from_millis(200);

/// Longest time that one who asks waits for a check.
const PATIENCE: Duration = Duration::from_secs(1);

/// A part of the state layer, and whether it works.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// What it is, such as `write 1`, `read`, or for a worker's own connection its thread.
    pub name: String,
    /// Whether requests depend on it; otherwise it is a background task of the store's.
    pub is_needed: bool,
    /// `None` if it works, else why not. Holds no credentials.
    pub failure: Option<String>,
}

/// What is known of one lane.
pub(crate) struct Health(watch::Sender<Known>);

struct Known {
    /// `None` if it must be found out.
    at: Option<Instant>,
    result: Result<(), Error>,
}

impl Health {
    pub(crate) fn new() -> Self {
        Self(watch::Sender::new(Known { at: None, result: Ok(()) }))
    }

    fn is_fresh(&self) -> bool {
        self.0.borrow().at.is_some_and(|at| at.elapsed() < INTERVAL)
    }

    /// Notes how a check ended, or that there is no connection to check.
    pub(crate) fn found(&self, result: Result<(), Error>) {
        self.0.send_replace(Known { at: Some(Instant::now()), result });
    }

    /// Notes what a batch shows. A write that was applied shows that writes are; one that was not
    /// makes it uncertain, as the failure may be that of its key alone.
    pub(crate) fn heed(&self, role: Role, steps: &[Step], results: &[Reply]) {
        let counts = |step: &Step| role == Role::Read || !step.action.kind().is_read();
        let mut failed = false;
        let counted = steps.iter().zip(results).filter(|(step, _)| counts(step));
        for result in counted.flat_map(|(_, result)| each(result)) {
            match result {
                // What was recorded before was not written now.
                Ok(Outcome::Replay(_)) | Err(Error::Rejected(_)) => {}
                Ok(_) => return self.succeeded(),
                Err(Error::NotApplied(_) | Error::Unknown(_)) => failed = true,
            }
        }
        if failed {
            self.0.send_if_modified(|known| {
                known.at = None;
                false
            });
        }
    }

    fn succeeded(&self) {
        let noted = {
            let known = self.0.borrow();
            known.result.is_ok() && known.at.is_some_and(|at| at.elapsed() < NOTED_EVERY)
        };
        if !noted {
            self.found(Ok(()));
        }
    }
}

/// The reply to a step, or to each of its increments.
fn each(reply: &Reply) -> &[Reply] {
    match reply {
        Ok(Outcome::Each(replies)) => replies,
        reply => std::slice::from_ref(reply),
    }
}

impl Lane {
    /// Whether an operation would succeed.
    ///
    /// # Errors
    /// Why it would not, or that this could not be found out in time.
    pub(crate) async fn health(&self) -> Result<(), Error> {
        let health = self.known();
        let mut changes = health.0.subscribe();
        let before = {
            let known = changes.borrow_and_update();
            if known.at.is_some_and(|at| at.elapsed() < INTERVAL) {
                return known.result.clone();
            }
            known.at
        };
        if !self.ask_for_check() {
            return Err(Error::not_applied("the connection to the store has ended"));
        }
        let checked = changes.wait_for(|known| known.at.is_some() && known.at != before);
        match tokio::time::timeout(PATIENCE, checked).await {
            Ok(Ok(known)) => known.result.clone(),
            Ok(Err(_)) => Err(Error::not_applied("the connection to the store has ended")),
            Err(_) => Err(Error::not_applied(format!("no answer within {PATIENCE:?}"))),
        }
    }

    /// Checks the connection if somebody has asked for it, and the last batch did not show enough.
    pub(crate) async fn check_if_asked(
        &self,
        connection: &mut impl crate::backend::Connection,
        options: &Options,
    ) {
        if !self.take_check() || self.known().is_fresh() {
            return;
        }
        let checked = tokio::time::timeout(options.timeout, connection.check()).await;
        let result = checked
            .unwrap_or_else(|_| Err(Error::unknown("the store did not answer a check in time")));
        self.known().found(result);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Bucket, operation::Action};

    #[test]
    fn only_a_write_that_was_applied_shows_that_writes_are() {
        let step = |action| {
            let bucket = Bucket::new("b").unwrap();
            [Step { bucket, key: "key".into(), action, write: None }]
        };
        let failure = || Err(Error::not_applied("read only"));
        let replay = || Ok(Outcome::Replay(Box::new(Ok(Outcome::Count(1)))));
        for (action, result, shows) in [
            (Action::Delete, Ok(Outcome::Done), true),
            (Action::Delete, failure(), false),
            (Action::Delete, replay(), false),
            (Action::Delete, Ok(Outcome::Each(vec![failure(), Ok(Outcome::Count(1))])), true),
            (Action::Delete, Ok(Outcome::Each(vec![failure(), failure()])), false),
            (Action::Delete, Ok(Outcome::Each(vec![replay()])), false),
            (Action::Get, Ok(Outcome::Value(None)), false),
        ] {
            let health = Health::new();
            health.heed(Role::Write, &step(action.clone()), std::slice::from_ref(&result));
            assert_eq!(health.is_fresh(), shows, "{action:?}: {result:?}");
        }
    }
}
