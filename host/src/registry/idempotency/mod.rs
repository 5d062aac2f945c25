//! Requests with an `Idempotency-Key`: their writes are applied once, however often they are sent
//! (draft-ietf-httpapi-idempotency-key-header-07).
//!
//! This works for any guest, because it lives around the guest and below `wasi:keyvalue`. The store
//! records the outcome of each write with the write itself ([`Scope`]). A request that is sent
//! again, be it to another host and after a crash, runs again without writing again, and gets the
//! outcomes of the first time.
//!
//! Where that alone would not give the same response, because the guest has used something else
//! than its request and the outcomes of its writes, the response is stored as well. A repeat learns
//! at its first write that it is one, and before its first read whether a response is stored: then
//! the guest is stopped there and the response is given.
//!
//! A guest that has read state might take another path when it runs again, because its own writes
//! are in that state. Its response is therefore stored before it is sent. So is that of a guest that
//! may call others, which is not even run again. Otherwise the response is stored in the background:
//! whoever never got it gets one with the same outcomes from the records.
//!
//! While a request is in flight on this host, the same key is refused. On another host it runs
//! beside it and shares its writes.

mod budget;
mod key;
mod stored;

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use http::{HeaderMap, HeaderName, HeaderValue, Method};
use sha2::{Digest as _, Sha256};
use tally_state::{Applied, Digest, Error, Handle, RecordMeter, Rejection, Scope};

use self::budget::Budget;
use crate::{
    interfaces::{Effects, Settings},
    logging,
    runtime::{Body, Cause, Failure, Recordings, Request, Response},
};

/// Tells a client that its request had been made before, and that nothing was written this time.
const REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");

/// Whether a request's writes are to be applied once: it has a key, and may change something.
pub(crate) fn applies(method: &Method, headers: &HeaderMap) -> bool {
    !method.is_safe() && headers.contains_key(key::HEADER)
}

/// The requests of a guest that are in flight, by their keys' digests.
#[derive(Default)]
struct InFlight(Mutex<HashSet<Digest>>);

impl InFlight {
    fn enter(&self, request: Digest) -> Option<Entered<'_>> {
        let mut requests = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Made only if it is one: dropping it takes the request out.
        requests.insert(request).then(|| Entered { requests: self, request })
    }
}

/// A request's place among those in flight.
struct Entered<'a> {
    requests: &'a InFlight,
    request: Digest,
}

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        let mut requests = self.requests.0.lock().unwrap_or_else(PoisonError::into_inner);
        requests.remove(&self.request);
    }
}

/// What a guest's requests with a key go through.
pub(crate) struct Layer {
    in_flight: InFlight,
    budget: Budget,
}

impl Layer {
    /// With what may be recorded of them, and for how long.
    pub(super) fn new(limits: Recordings, window: Duration) -> Self {
        Self { in_flight: InFlight::default(), budget: Budget::new(limits, window) }
    }

    /// What is recorded of them, and how much may be.
    pub(crate) fn budget(&self) -> &Budget {
        &self.budget
    }

    /// Adds what this host has recorded to the store's account, which is that of the bucket that the
    /// guest opens by default: services that share no bucket share no budget.
    ///
    /// # Errors
    /// See [`Error`].
    pub(super) async fn report(&self, settings: &Settings, state: &Handle) -> Result<(), Error> {
        let bucket = settings.buckets.stored().next();
        let account = bucket.map_or(&*settings.name, |bucket| bucket.as_str());
        self.budget.report(account, state).await
    }

    /// Has a request answered by `run` whose writes are applied once. Its body is here in full.
    pub(super) async fn answer<Run, Answer>(
        &self,
        settings: &Settings,
        state: Handle,
        request: Request,
        run: Run,
    ) -> Result<Response, Failure>
    where
        Run: FnOnce(Handle, Request, Effects) -> Answer,
        Answer: Future<Output = Result<Response, Failure>>,
    {
        let failed = |cause, applied| Failure { cause, applied };
        let key = key::read(&request.headers)
            .map_err(|reason| failed(Cause::IdempotencyKey(reason), Applied::No))?;
        let scope = scope(key, &request, self.budget.meter());
        let in_flight = self.in_flight.enter(scope.name());
        let _entered =
            in_flight.ok_or_else(|| failed(Cause::IdempotencyInFlight, Applied::Unknown))?;
        if !self.budget.is_known()
            && let Err(error) = self.report(settings, &state).await
        {
            tracing::debug!(guest = %settings.name, %error, "it is not known how much is recorded");
        }
        if !self.budget.has_room() {
            return Err(failed(Cause::IdempotencyFull, Applied::Unknown));
        }
        let scoped = state.scoped(&scope);
        // A call of another server is no write of ours, and would be made again; so would a statement.
        let calls_others = settings.reaches_beyond_the_store();
        // What it has read decides which buckets it writes, where it may open any: the response is kept where
        // it is found whichever those were.
        let home = settings.buckets.stored().next().filter(|_| settings.buckets.are_open());
        if calls_others || home.is_some() {
            scoped.look_up(settings.buckets.stored()).await.map_err(|error| match error {
                Error::Rejected(Rejection::Reused) => failed(Cause::IdempotencyReused, Applied::No),
                error => failed(Cause::IdempotencyUnknown(error.to_string()), Applied::Unknown),
            })?;
            if let Some(response) = scope.response() {
                return given_before(response);
            }
        }
        let effects = Effects::default();
        let answer = run(scoped, request, effects.clone()).await;
        if let Some(response) = scope.response().filter(|_| !effects.streams()) {
            return given_before(response);
        }
        if matches!(effects.failure(), Some(Error::Rejected(Rejection::Reused))) {
            return Err(failed(Cause::IdempotencyReused, effects.applied()));
        }
        let mut response = answer.map_err(with_what_was_before)?;
        let recorded = scope.recorded();
        if recorded.new == 0 && recorded.replayed > 0 {
            response.headers.insert(REPLAYED, HeaderValue::from_static("true"));
        }
        // Without a write of its own, it is found where all requests with a key are looked for.
        let beyond = || match calls_others && effects.reached_beyond() {
            true => settings.buckets.stored().next().cloned(),
            false => None,
        };
        let bucket = recorded.bucket.map(|first| home.cloned().unwrap_or(first)).or_else(beyond);
        if let Some(bucket) = bucket
            && (calls_others || effects.saw_outside())
            && let Some(encoded) = to_store(&response, &effects)
        {
            let name = Arc::clone(&settings.name);
            let storing = async move {
                if let Err(error) = state.store_response(&bucket, &scope, encoded).await {
                    // Its writes are recorded: sent again, the request runs again over them.
                    logging::log(&logging::Failure {
                        level: tracing::Level::WARN,
                        what: "a response could not be stored",
                        kind: "store",
                        guest: &name,
                        id: "",
                        method: None,
                        reason: &error,
                    });
                }
            };
            // What it has read would lead it another way: the request's own writes are in there now.
            match calls_others || effects.has_read() {
                true => storing.await,
                false => drop(tokio::spawn(storing)),
            }
        }
        Ok(response)
    }
}

/// A stored response.
fn given_before(response: bytes::Bytes) -> Result<Response, Failure> {
    stored::decode(response).ok_or_else(|| {
        let cause = Cause::Internal("the stored response cannot be read".into());
        Failure { cause, applied: Applied::Unknown }
    })
}

/// A failure in the light of what the same request may have done before. This host does not know:
/// another host may have applied it, or another version of the guest.
fn with_what_was_before(failure: Failure) -> Failure {
    let cause = match failure.cause {
        Cause::StateNotApplied(reason) => Cause::IdempotencyUnknown(reason),
        cause => cause,
    };
    Failure { cause, applied: Applied::Unknown }
}

/// What identifies a request, and what it looks like.
///
/// The key alone identifies it, and that among the requests that write to the same bucket: see
/// [`Scope`]. Neither the guest's name nor its other buckets, nor anything else that a configuration
/// may change between two tries, makes the same key another.
fn scope(key: &str, request: &Request, meter: Arc<RecordMeter>) -> Scope {
    let body = match &request.body {
        Body::Whole(body) => body.as_ref(),
        Body::Stream(_) => &[],
    };
    let target = request.uri.path_and_query().map_or("", |target| target.as_str());
    let fingerprint = digest(&[request.method.as_str().as_bytes(), target.as_bytes(), body]);
    Scope::metered(digest(&[key.as_bytes()]), fingerprint, meter)
}

/// A digest of parts, each with its length, so that none runs into the next.
fn digest(parts: &[&[u8]]) -> Digest {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update(u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
        hash.update(part);
    }
    hash.finalize().first_chunk().copied().unwrap_or_default()
}

/// A response that can be given again: one of the guest's own making, after which it has ended, to a
/// request that met no failure that may be gone by the next time.
fn to_store(response: &Response, effects: &Effects) -> Option<bytes::Bytes> {
    let failed = effects.failure().is_some_and(|error| !matches!(error, Error::Rejected(_)));
    if failed || !response.is_final || response.status.is_server_error() {
        return None;
    }
    stored::encode(response)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_do_not_run_into_each_other() {
        assert_ne!(digest(&[b"ab", b"c"]), digest(&[b"a", b"bc"]));
    }

    #[test]
    fn a_request_is_in_flight_until_it_has_ended() {
        let requests = InFlight::default();
        let entered = requests.enter([1; 16]);
        assert!(entered.is_some() && requests.enter([1; 16]).is_none());
        assert!(requests.enter([2; 16]).is_some());
        drop(entered);
        assert!(requests.enter([1; 16]).is_some());
    }
}
