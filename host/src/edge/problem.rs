//! Errors as responses: the one place that decides status codes.
//!
//! The body is `application/problem+json` (RFC 9457). `code` names the problem for programs,
//! `detail` says for people what to do, `instance` is the request's id. Where a guest has run,
//! `applied` says what is known of the request's effect: `no`, or `unknown`. What goes to the log
//! and not to the client: reasons that name the inside of the host, the guest or the store.

use std::{borrow::Cow, fmt::Write as _};

use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, header};
use serde_json::json;
use tally_state::Applied;

use crate::runtime::{Body, BodyError, Cause, Failure};

/// Seconds after which a refused request may be tried again: a full pool or a restarting store
/// need about that.
const RETRY_AFTER: HeaderValue = HeaderValue::from_static("1");

/// Bytes of a client's own request id that are taken over.
const MAX_ID_BYTES: usize = 64;

/// Why a request gets no response of its guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Problem {
    /// The target is neither a path nor `*`.
    Target,
    /// The `Host` header is missing, or there is more than one (RFC 9112, 3.2).
    Host,
    TargetTooLong {
        limit: usize,
    },
    Connect,
    /// No route takes this host and path.
    NoRoute,
    Body(BodyError),
    Guest(Failure),
}

impl From<Failure> for Problem {
    fn from(failure: Failure) -> Self {
        match failure.cause {
            Cause::Body(error) => Self::Body(error),
            _ => Self::Guest(failure),
        }
    }
}

impl From<BodyError> for Problem {
    fn from(error: BodyError) -> Self {
        Self::Body(error)
    }
}

/// What a problem looks like to a client.
struct Shape {
    status: StatusCode,
    code: &'static str,
    detail: String,
    applied: Option<Applied>,
}

impl Problem {
    fn shape(&self) -> Shape {
        let client = |status, code, detail: String| Shape { status, code, detail, applied: None };
        match self {
            Self::Target => client(
                StatusCode::BAD_REQUEST,
                "target",
                "The request's target must be a path that begins with a slash.".into(),
            ),
            Self::TargetTooLong { limit } => client(
                StatusCode::URI_TOO_LONG,
                "target_too_long",
                format!("The request's path and query are over the limit of {limit} bytes."),
            ),
            Self::Body(BodyError::TooLarge { limit }) => client(
                StatusCode::PAYLOAD_TOO_LARGE,
                "body_too_large",
                format!("The request's body is over the limit of {limit} bytes."),
            ),
            Self::Host => client(
                StatusCode::BAD_REQUEST,
                "host",
                "The request must have one Host header.".into(),
            ),
            Self::Body(BodyError::TooMany) => client(
                StatusCode::SERVICE_UNAVAILABLE,
                "bodies",
                "The server is at its limit of request bodies; try again.".into(),
            ),
            Self::Body(BodyError::Timeout) => client(
                StatusCode::REQUEST_TIMEOUT,
                "body_timeout",
                "The request's body did not arrive in time.".into(),
            ),
            Self::Body(BodyError::Broken) => client(
                StatusCode::BAD_REQUEST,
                "body",
                "The request's body ended early or could not be read.".into(),
            ),
            Self::Connect => client(
                StatusCode::NOT_IMPLEMENTED,
                "connect",
                "This server is no proxy: it does not take CONNECT.".into(),
            ),
            Self::NoRoute => client(
                StatusCode::NOT_FOUND,
                "no_route",
                "This server has no handler for this host and path.".into(),
            ),
            Self::Guest(Failure { cause, applied }) => {
                let (status, code, detail) = explain(cause);
                Shape { status, code, detail: detail.into_owned(), applied: Some(*applied) }
            }
        }
    }

    /// The response.
    pub(super) fn into_response(self, id: &RequestId) -> Response<Body> {
        let Shape { status, code, detail, applied } = self.shape();
        let mut body = json!({
            "type": "about:blank",
            "title": status.canonical_reason().unwrap_or("Error"),
            "status": status.as_u16(),
            "code": code,
            "detail": detail,
            "instance": id.as_str(),
        });
        if let (Some(applied), Some(members)) = (applied, body.as_object_mut()) {
            let text = match applied {
                Applied::No => "no",
                Applied::Unknown => "unknown",
            };
            members.insert("applied".into(), text.into());
        }
        let mut response = Response::new(Body::Whole(body.to_string().into()));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        let under_way =
            matches!(&self, Self::Guest(Failure { cause: Cause::IdempotencyInFlight, .. }));
        if status == StatusCode::SERVICE_UNAVAILABLE || under_way {
            headers.insert(header::RETRY_AFTER, RETRY_AFTER);
        }
        if let Self::Guest(Failure { cause: Cause::MethodNotAllowed(methods), .. }) = &self
            && let Ok(allow) = HeaderValue::try_from(methods.join(", "))
        {
            headers.insert(header::ALLOW, allow);
        }
        response
    }

    /// Logs what the operator should know: faults of the host, the guest or the store. Clients'
    /// own faults are their business.
    pub(super) fn log(&self, id: &RequestId, guest: &str, method: &Method) {
        let id = id.as_str();
        let Self::Guest(failure) = self else {
            tracing::debug!(id, %method, problem = ?self, "a request was refused");
            return;
        };
        match &failure.cause {
            Cause::Trap(reason) | Cause::InvalidResponse(reason) | Cause::Internal(reason) => {
                tracing::error!(id, guest, %method, reason, "a guest failed");
            }
            Cause::StateNotApplied(reason)
            | Cause::StateUnknown(reason)
            | Cause::IdempotencyUnknown(reason) => {
                tracing::warn!(id, guest, %method, reason, "the store failed");
            }
            Cause::CpuLimit | Cause::WallLimit => {
                tracing::warn!(id, guest, %method, ?failure, "a guest reached its limit");
            }
            _ => tracing::debug!(id, %method, ?failure, "a request was refused"),
        }
    }
}

/// Status, code and detail of a request that a guest got or would have got.
fn explain(cause: &Cause) -> (StatusCode, &'static str, Cow<'_, str>) {
    match cause {
        // A problem of its own: see `From<Failure>`.
        Cause::Body(error) => {
            (StatusCode::BAD_REQUEST, "body", Cow::Owned(format!("The request's body failed: {error}.")))
        }
        Cause::Busy => (
            StatusCode::SERVICE_UNAVAILABLE,
            "busy",
            "The server is at its limit; try again.".into(),
        ),
        Cause::CpuLimit => (
            StatusCode::GATEWAY_TIMEOUT,
            "cpu_limit",
            "The handler computed for longer than it may.".into(),
        ),
        Cause::WallLimit => (
            StatusCode::GATEWAY_TIMEOUT,
            "wall_limit",
            "The request took longer than it may.".into(),
        ),
        Cause::Trap(_) => {
            (StatusCode::INTERNAL_SERVER_ERROR, "trap", "The handler failed.".into())
        }
        Cause::InvalidResponse(_) => (
            StatusCode::INTERNAL_SERVER_ERROR,
            "invalid_response",
            "The handler gave a response that cannot be sent.".into(),
        ),
        // One that is answered before has its response; see `runtime/idempotency`.
        Cause::Internal(_) | Cause::AnsweredBefore => {
            (StatusCode::INTERNAL_SERVER_ERROR, "internal", "The handler failed.".into())
        }
        Cause::BadRequest(detail) => (StatusCode::BAD_REQUEST, "bad_request", detail.into()),
        Cause::NotFound => {
            (StatusCode::NOT_FOUND, "not_found", "There is nothing at this path.".into())
        }
        Cause::MethodNotAllowed(methods) => (
            StatusCode::METHOD_NOT_ALLOWED,
            "method_not_allowed",
            format!("This path takes {}.", methods.join(", ")).into(),
        ),
        Cause::IdempotencyKey(detail) => {
            (StatusCode::BAD_REQUEST, "idempotency_key", detail.into())
        }
        Cause::IdempotencyUnknown(_) => (
            StatusCode::SERVICE_UNAVAILABLE,
            "store_unavailable",
            "The store cannot be used at the moment. This time nothing was changed; whether an earlier request with this Idempotency-Key changed something is not known. Try again with the same key."
                .into(),
        ),
        Cause::IdempotencyFull => (
            StatusCode::SERVICE_UNAVAILABLE,
            "idempotency_full",
            "So many requests with an Idempotency-Key have been made to this handler that no more can be recorded for now. This time nothing was changed; try again later, with the same key."
                .into(),
        ),
        Cause::IdempotencyInFlight => (
            StatusCode::CONFLICT,
            "idempotency_in_flight",
            "A request with this Idempotency-Key is being answered; try again for its answer."
                .into(),
        ),
        Cause::IdempotencyReused => (
            StatusCode::UNPROCESSABLE_ENTITY,
            "idempotency_reused",
            "This Idempotency-Key was used for another request; take a new one for each.".into(),
        ),
        Cause::StateRefused(detail) => (StatusCode::BAD_REQUEST, "state_refused", detail.into()),
        Cause::StateConflict(detail) => (StatusCode::CONFLICT, "state_conflict", detail.into()),
        Cause::StateNotApplied(_) => (
            StatusCode::SERVICE_UNAVAILABLE,
            "store_unavailable",
            "The store cannot be used at the moment. Nothing was changed; it is safe to try again."
                .into(),
        ),
        Cause::StateUnknown(_) => (
            StatusCode::GATEWAY_TIMEOUT,
            "store_unknown",
            "The store did not answer. Whether the change was made is not known; trying again may make it twice, unless the request has an Idempotency-Key."
                .into(),
        ),
    }
}

/// The id of a request: the client's own, if it can be one, or a new one.
#[derive(Clone, Debug)]
pub(super) struct RequestId(HeaderValue);

impl RequestId {
    /// The id for a request with these headers.
    pub(super) fn of(headers: &HeaderMap) -> Self {
        match headers.get("x-request-id") {
            Some(theirs) if is_plain(theirs.as_bytes()) => Self(theirs.clone()),
            _ => Self::new(),
        }
    }

    fn new() -> Self {
        let mut text = String::with_capacity(16);
        // Writing to a string does not fail.
        let _ = write!(text, "{:016x}", fastrand::u64(..));
        Self(HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static("none")))
    }

    pub(super) fn header(&self) -> HeaderValue {
        self.0.clone()
    }

    pub(super) fn as_str(&self) -> &str {
        self.0.to_str().unwrap_or_default()
    }
}

/// Whether an id can go into logs and headers as it is.
fn is_plain(id: &[u8]) -> bool {
    (1..=MAX_ID_BYTES).contains(&id.len())
        && id.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(byte))
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;

    use super::*;

    fn failed(cause: Cause, applied: Applied) -> Response<Body> {
        Problem::from(Failure { cause, applied })
            .into_response(&RequestId(HeaderValue::from_static("test")))
    }

    fn body(response: Response<Body>) -> serde_json::Value {
        let collected = futures_util::FutureExt::now_or_never(response.into_body().collect());
        serde_json::from_slice(&collected.unwrap().unwrap().to_bytes()).unwrap()
    }

    #[test]
    fn a_store_that_is_down_is_503_to_be_retried_and_says_nothing_of_where_it_is() {
        let response =
            failed(Cause::StateNotApplied("connect to 10.0.0.7 refused".into()), Applied::No);
        assert_eq!(response.status(), 503);
        assert_eq!(response.headers()["retry-after"], "1");
        let body = body(response);
        assert_eq!(body["applied"], "no");
        assert_eq!(body["instance"], "test");
        assert!(!body.to_string().contains("10.0.0.7"));
    }

    #[test]
    fn an_unknown_outcome_is_504_and_not_to_be_retried_blindly() {
        let response = failed(Cause::StateUnknown("cut".into()), Applied::Unknown);
        assert_eq!(response.status(), 504);
        assert!(response.headers().get("retry-after").is_none());
        assert_eq!(body(response)["applied"], "unknown");
    }

    #[test]
    fn allow_names_the_methods() {
        let response =
            failed(Cause::MethodNotAllowed(vec!["GET".into(), "HEAD".into()]), Applied::No);
        assert_eq!(response.status(), 405);
        assert_eq!(response.headers()["allow"], "GET, HEAD");
    }

    #[test]
    fn methods_that_would_break_a_header_are_left_out() {
        let response = failed(Cause::MethodNotAllowed(vec!["GET\r\nx: y".into()]), Applied::No);
        assert!(response.headers().get("allow").is_none());
    }

    #[test]
    fn a_clients_id_is_taken_over_only_if_it_is_plain() {
        let id = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert("x-request-id", HeaderValue::try_from(text).unwrap());
            RequestId::of(&headers).as_str().to_owned()
        };
        assert_eq!(id("abc-1.2_3"), "abc-1.2_3");
        for other in ["", "a b", "a\"b", &"x".repeat(65)] {
            assert_eq!(id(other).len(), 16, "{other}");
        }
    }
}
