//! Requests with an `Idempotency-Key`: made again, they change nothing and get the same answer
//! (draft-ietf-httpapi-idempotency-key-header-07).
//!
//! Any guest's, as it lives around the guest. A request is known by its key, the guest's name, and
//! the buckets that the guest has in the store. The store records the outcome of each of its writes
//! with the write itself, so a request that is made again, be it to another host and after a crash, runs
//! again without writing again. The answer is remembered as well before it is sent, and from then on
//! is given without running the guest.
//!
//! While a request is under way on this host, the same key is refused. On another host it runs
//! beside it and shares its writes.

use std::{
    collections::HashSet,
    sync::{Mutex, PoisonError},
};

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use sha2::{Digest as _, Sha256};
use tally_state::{Applied, Digest, Error, Handle, Once, Rejection};

use super::{
    Body, Request, Response,
    failure::{Cause, Failure},
    guest::Guest,
};
use crate::interfaces::Effects;

/// The header of the key.
const KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// Tells a client that its request was answered before.
const REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");

/// Longest key, in bytes: room for any identifier that clients make.
const MAX_KEY_BYTES: usize = 255;

/// Whether a request is one to be made once: it has a key, and may change something.
pub(crate) fn applies(method: &Method, headers: &HeaderMap) -> bool {
    !method.is_safe() && headers.contains_key(KEY)
}

/// The requests of a guest that are under way, by their tokens' name.
#[derive(Default)]
pub(super) struct UnderWay(Mutex<HashSet<Digest>>);

impl UnderWay {
    fn enter(&self, request: Digest) -> Option<Entered<'_>> {
        let mut requests = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Made only if it is one: dropping it takes the request out.
        requests.insert(request).then(|| Entered { requests: self, request })
    }
}

/// A request's place among those under way.
struct Entered<'a> {
    requests: &'a UnderWay,
    request: Digest,
}

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        let mut requests = self.requests.0.lock().unwrap_or_else(PoisonError::into_inner);
        requests.remove(&self.request);
    }
}

/// Answers a request once. Its body is here in full.
pub(super) async fn answer(
    guest: &Guest,
    state: Handle,
    request: Request,
) -> Result<Response, Failure> {
    let failed = |cause, applied| Failure { cause, applied };
    let key = key(&request.headers)
        .map_err(|reason| failed(Cause::IdempotencyKey(reason), Applied::No))?;
    let once = once(&guest.namespace(), key, &request);
    let under_way = guest.under_way().enter(once.name());
    let _entered = under_way.ok_or_else(|| failed(Cause::IdempotencyUnderWay, Applied::Unknown))?;
    let recalled = state
        .recall(&once)
        .await
        .map_err(|error| failed(Cause::IdempotencyUnknown(error.to_string()), Applied::Unknown))?;
    if let Some(recalled) = recalled {
        if recalled.fingerprint != once.fingerprint() {
            return Err(failed(Cause::IdempotencyReused, Applied::No));
        }
        if let Some(response) = decode(recalled.answer) {
            return Ok(response);
        }
    }
    let effects = Effects::default();
    let answer = guest.run(state.once(&once), request, effects.clone()).await;
    let failure = effects.failure();
    if matches!(failure, Some(Error::Rejected(Rejection::Reused))) {
        return Err(failed(Cause::IdempotencyReused, effects.applied()));
    }
    let response = answer.map_err(with_what_was_before)?;
    if let Some(answer) = to_remember(&response, &effects)
        && let Err(error) = state.remember(&once, answer).await
    {
        // Its writes are recorded: made again, the request runs again and gets their outcomes.
        tracing::warn!(guest = %guest.name(), %error, "an answer could not be remembered");
    }
    Ok(response)
}

/// A failure in the light of what the same request may have done before, which is not known here
/// unless it was refused for what it asks.
fn with_what_was_before(failure: Failure) -> Failure {
    match failure.cause {
        Cause::Body(_)
        | Cause::BadRequest(_)
        | Cause::NotFound
        | Cause::MethodNotAllowed(_)
        | Cause::StateRefused(_)
        | Cause::StateConflict(_) => failure,
        Cause::StateNotApplied(reason) => {
            Failure { cause: Cause::IdempotencyUnknown(reason), applied: Applied::Unknown }
        }
        _ => Failure { applied: Applied::Unknown, ..failure },
    }
}

/// The key, without the quotes that it may have: a string of RFC 8941, or what clients write for
/// one.
fn key(headers: &HeaderMap) -> Result<&str, String> {
    let mut keys = headers.get_all(KEY).iter();
    let (first, second) = (keys.next(), keys.next());
    if second.is_some() {
        return Err("There must be one Idempotency-Key.".into());
    }
    let text = first.and_then(|value| value.to_str().ok()).unwrap_or_default().trim();
    let quoted = text.strip_prefix('"').map(|rest| rest.strip_suffix('"'));
    let key = match quoted {
        None => Some(text),
        Some(inner) => inner,
    };
    let plain = |key: &&str| (1..=MAX_KEY_BYTES).contains(&key.len()) && !key.contains(['"', '\\']);
    key.filter(plain).ok_or_else(|| {
        format!(
            "The Idempotency-Key must be 1 to {MAX_KEY_BYTES} characters of ASCII without quotes inside; a new UUID for each request is a good one."
        )
    })
}

/// What a request is known by, and what it looks like.
fn once(namespace: &[&str], key: &str, request: &Request) -> Once {
    let body = match &request.body {
        Body::Whole(body) => body.as_ref(),
        Body::Stream(_) => &[],
    };
    let target = request.uri.path_and_query().map_or("", |target| target.as_str());
    let name: Vec<&[u8]> = namespace.iter().chain([&key]).map(|part| part.as_bytes()).collect();
    Once::new(digest(&name), digest(&[request.method.as_str().as_bytes(), target.as_bytes(), body]))
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

/// An answer that is to be given again: one of the guest's own making, after which it has ended, to
/// a request that changed something and met no failure that may be gone by the next time.
fn to_remember(response: &Response, effects: &Effects) -> Option<Bytes> {
    let failed = effects.failure().is_some_and(|error| !matches!(error, Error::Rejected(_)));
    if !effects.wrote() || failed || !response.is_final || response.status.is_server_error() {
        return None;
    }
    encode(response)
}

/// Status, number of headers, then each header's name and value behind their lengths, then the
/// body. `None` for one that streams.
fn encode(response: &Response) -> Option<Bytes> {
    let Body::Whole(body) = &response.body else { return None };
    let mut bytes = BytesMut::new();
    bytes.put_u16(response.status.as_u16());
    bytes.put_u16(u16::try_from(response.headers.len()).ok()?);
    for (name, value) in &response.headers {
        for part in [name.as_str().as_bytes(), value.as_bytes()] {
            bytes.put_u32(u32::try_from(part.len()).ok()?);
            bytes.put_slice(part);
        }
    }
    bytes.put_slice(body);
    Some(bytes.freeze())
}

fn decode(mut bytes: Bytes) -> Option<Response> {
    let status = StatusCode::from_u16(bytes.try_get_u16().ok()?).ok()?;
    let count = bytes.try_get_u16().ok()?;
    let mut headers = HeaderMap::with_capacity(usize::from(count));
    for _ in 0..count {
        let mut part = || {
            let length = usize::try_from(bytes.try_get_u32().ok()?).ok()?;
            (length <= bytes.len()).then(|| bytes.split_to(length))
        };
        let name = HeaderName::from_bytes(&part()?).ok()?;
        headers.append(name, HeaderValue::from_maybe_shared(part()?).ok()?);
    }
    headers.insert(REPLAYED, HeaderValue::from_static("true"));
    Some(Response { status, headers, body: Body::Whole(bytes), is_final: true })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(values: &[&str]) -> Result<String, String> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(KEY, HeaderValue::try_from(*value).unwrap());
        }
        key(&headers).map(str::to_owned)
    }

    #[test]
    fn keys_are_taken_with_quotes_and_without() {
        assert_eq!(read(&["abc-1"]).unwrap(), "abc-1");
        assert_eq!(read(&["\"abc-1\""]).unwrap(), "abc-1");
        assert_eq!(read(&[&"k".repeat(255)]).unwrap().len(), 255);
    }

    #[test]
    fn what_is_no_key_is_explained() {
        let long = "k".repeat(256);
        for wrong in ["", "\"\"", "\"", "\"a", "a\"b", "\"a\\b\"", long.as_str()] {
            assert!(read(&[wrong]).unwrap_err().contains("255"), "{wrong:?}");
        }
        assert!(read(&["a", "b"]).unwrap_err().contains("one Idempotency-Key"));
    }

    #[test]
    fn answers_are_read_back_as_they_were_remembered() {
        let mut headers = HeaderMap::new();
        headers.append("set-cookie", HeaderValue::from_static("a"));
        headers.append("set-cookie", HeaderValue::from_bytes(b"b\xff").unwrap());
        let body = Body::Whole(Bytes::from_static(b"\0body"));
        let response = Response { status: StatusCode::CREATED, headers, body, is_final: true };
        let encoded = encode(&response).unwrap();
        let again = decode(encoded.clone()).unwrap();
        assert_eq!(again.status, 201);
        assert_eq!(again.headers.get_all("set-cookie").iter().count(), 2);
        assert_eq!(again.headers["idempotent-replayed"], "true");
        assert!(matches!(again.body, Body::Whole(body) if body == "\0body"));
        for cut in 0..encoded.len() - 5 {
            // Whatever is there, nothing panics.
            let _ = decode(encoded.slice(..cut));
        }
    }

    #[test]
    fn parts_do_not_run_into_each_other() {
        assert_ne!(digest(&[b"ab", b"c"]), digest(&[b"a", b"bc"]));
    }

    #[test]
    fn a_request_is_under_way_until_it_has_ended() {
        let requests = UnderWay::default();
        let entered = requests.enter([1; 16]);
        assert!(entered.is_some() && requests.enter([1; 16]).is_none());
        assert!(requests.enter([2; 16]).is_some());
        drop(entered);
        assert!(requests.enter([1; 16]).is_some());
    }
}
