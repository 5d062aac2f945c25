//! Operations of a request whose writes are applied once.

use std::sync::Arc;

use bytes::Bytes;

use super::{Answer, Gathering, Handle, OWN, done, mismatch, wait};
use crate::{
    error::Error,
    idempotency::{Attempt, Scope},
    name::Bucket,
    operation::{Action, Outcome, Step},
    state::Asked,
};

/// A write of a scope on its way.
pub(super) struct Sent {
    pub(super) attempt: Attempt,
    /// `None` once it is waited for.
    asked: Option<Answer<Asked>>,
}

impl Handle {
    /// A handle whose writes belong to a request and are applied once, however often the request is
    /// sent. Reads are not affected.
    #[must_use]
    pub fn scoped(&self, scope: &Scope) -> Self {
        Self { scope: Some(scope.clone()), ..self.clone() }
    }

    /// A handle for one request that may have several operations on their way at a time. Those that it starts at the
    /// same time leave together. It may start them in another order each time that it runs, so what a write does is part
    /// of what identifies it: an increment by another amount is another write.
    #[must_use]
    pub fn concurrent(&self) -> Self {
        let gathering = Some(Gathering::new(Arc::clone(&self.shared.queues)));
        Self { gathering, ..self.clone() }
    }

    /// The request that this handle's writes belong to, if they are applied once.
    #[must_use]
    pub fn scope(&self) -> Option<&Scope> {
        self.scope.as_ref()
    }

    /// Looks for the stored response of this handle's scope, whichever of some buckets its request
    /// wrote to first; see [`Scope::response`]. Does nothing for a handle without a scope, or after the
    /// scope has written.
    ///
    /// # Errors
    /// [`Rejection::Reused`](crate::Rejection::Reused) where another request had this name; else see [`Error`].
    pub async fn look_up(&self, buckets: impl Iterator<Item = &Bucket>) -> Answer<()> {
        let Some(scope) = self.scope.as_ref().filter(|scope| scope.recorded().bucket.is_none())
        else {
            return Ok(());
        };
        for bucket in buckets {
            if let Some(response) = self.load_response(bucket, scope).await? {
                scope.set_response(response);
                break;
            }
        }
        Ok(())
    }

    /// The response stored for a request, which has written to this bucket.
    ///
    /// # Errors
    /// [`Rejection::Reused`](crate::Rejection::Reused) where another request had this name; else see [`Error`].
    pub async fn load_response(&self, bucket: &Bucket, scope: &Scope) -> Answer<Option<Bytes>> {
        match self.own(bucket, scope, Action::LoadResponse).await? {
            Outcome::Response(response) => Ok(response),
            other => Err(mismatch(&other)),
        }
    }

    /// Stores the response to a request that has written to this bucket, if none is stored yet.
    ///
    /// # Errors
    /// [`Rejection::ValueTooLarge`](crate::Rejection::ValueTooLarge); else see [`Error`].
    pub async fn store_response(
        &self,
        bucket: &Bucket,
        scope: &Scope,
        response: Bytes,
    ) -> Answer<()> {
        let bytes = response.len();
        done(self.own(bucket, scope, Action::StoreResponse(response)).await?)?;
        scope.count_response(bytes);
        Ok(())
    }

    async fn own(&self, bucket: &Bucket, scope: &Scope, action: Action) -> Answer<Outcome> {
        let write = scope.response_id(bucket);
        // A name for its queue: all that concerns one request's response keeps its order.
        let key = format!("{:032x}", u128::from_be_bytes(write.request));
        self.check_operation(&key, &action)?;
        let (bucket, key) = (Bucket::new(OWN)?, key.into());
        let step = Step { bucket, key, action, write: Some(write) };
        wait(self.shared.queues.push(self.owner, step, false)?).await
    }

    /// Closes the earlier writes of a key that failed, before a write of a scope.
    pub(super) async fn close_failed(
        &self,
        scope: &Scope,
        bucket: &Bucket,
        key: &str,
        attempt: &Attempt,
    ) -> Answer<()> {
        while let Some(failed) = scope.unsettled(attempt) {
            let mut closing = self.send(failed, bucket, key, Action::Forgo);
            self.finish(scope, &mut closing).await.map_err(|error| {
                Error::not_applied(format!(
                    "it was not sent, as the outcome of an earlier write cannot be settled: {error}"
                ))
            })?;
            closing.attempt.settle();
        }
        Ok(())
    }

    /// Puts a write of a scope into its queue.
    pub(super) fn send(
        &self,
        attempt: Attempt,
        bucket: &Bucket,
        key: &str,
        action: Action,
    ) -> Sent {
        let asked = self.push(bucket, key, action, Some(attempt.write));
        Sent { attempt, asked: Some(asked) }
    }

    /// Waits for the reply to a write of a scope. With the first that had been recorded before, the
    /// response is loaded as well: the request may have been answered.
    pub(super) async fn finish(&self, scope: &Scope, sent: &mut Sent) -> Answer<Outcome> {
        let reply = match sent.asked.take() {
            Some(Ok(asked)) => wait(asked).await,
            Some(Err(error)) => Err(error),
            None => Err(Error::unknown("its reply was taken before")),
        };
        let (reply, is_first_replay) = sent.attempt.end(reply);
        if is_first_replay && let Some(bucket) = scope.recorded().bucket {
            // Where this fails, the handler runs on, over the recorded writes.
            if let Ok(Some(response)) = self.load_response(&bucket, scope).await {
                scope.set_response(response);
            }
        }
        reply
    }
}
