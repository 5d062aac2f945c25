//! What each problem is called: a status, a code for programs, and a detail for people.
//!
//! The status is the one for a request without effect: [`super::problem`] replaces it where that
//! would be wrong, and adds to the detail whether the request may have changed something.

use std::borrow::Cow;

use http::StatusCode;

use super::problem::Problem;
use crate::runtime::{BodyError, Cause, Failure};

/// Status, code and detail.
pub(super) type Explanation<'a> = (StatusCode, &'static str, Cow<'a, str>);

/// What a problem is called.
pub(super) fn explain(problem: &Problem) -> Explanation<'_> {
    match problem {
        Problem::Target => (
            StatusCode::BAD_REQUEST,
            "target",
            "The request's target must be a path that begins with a slash.".into(),
        ),
        Problem::TargetTooLong { limit } => (
            StatusCode::URI_TOO_LONG,
            "target_too_long",
            format!("The request's path and query are over the limit of {limit} bytes.").into(),
        ),
        Problem::Host => (
            StatusCode::BAD_REQUEST,
            "host",
            "The request must have one Host header: a name or an address, and maybe a port.".into(),
        ),
        Problem::Field => (
            StatusCode::BAD_REQUEST,
            "field",
            "The value of a header must not begin or end with a space.".into(),
        ),
        Problem::Coding { is_known: true } => (
            StatusCode::BAD_REQUEST,
            "transfer_coding",
            "The request's body must be chunked once.".into(),
        ),
        Problem::Coding { is_known: false } => (
            StatusCode::NOT_IMPLEMENTED,
            "transfer_coding",
            "The only transfer coding that this server knows is chunked.".into(),
        ),
        Problem::Protocol(status) => protocol(*status),
        Problem::NoRoute => (
            StatusCode::NOT_FOUND,
            "no_route",
            "This server has no handler for this host and path.".into(),
        ),
        Problem::Rate(_) => (
            StatusCode::TOO_MANY_REQUESTS,
            "rate",
            "There were more requests than this handler takes in a second.".into(),
        ),
        Problem::Responses => (
            StatusCode::SERVICE_UNAVAILABLE,
            "responses",
            "The server is at its limit of responses that wait for their clients.".into(),
        ),
        Problem::Body(error) => body(error),
        Problem::Guest(Failure { cause, .. }) => guest(cause),
    }
}

/// What is not HTTP, or more of it than this server takes.
fn protocol(status: StatusCode) -> Explanation<'static> {
    let (code, detail) = match status {
        StatusCode::REQUEST_TIMEOUT => ("head_timeout", "The request did not arrive in time."),
        StatusCode::URI_TOO_LONG => ("target_too_long", "The request's target is too long."),
        StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE => {
            ("head_too_large", "The request's headers are too many or too large.")
        }
        StatusCode::HTTP_VERSION_NOT_SUPPORTED => (
            "version",
            "This server speaks HTTP/1.1, and HTTP/2 to clients that begin with its preface.",
        ),
        _ => ("malformed", "What came is not a request of HTTP."),
    };
    (status, code, detail.into())
}

/// A request's body that could not be had.
fn body(error: &BodyError) -> Explanation<'static> {
    match error {
        BodyError::TooLarge { limit } => (
            StatusCode::PAYLOAD_TOO_LARGE,
            "body_too_large",
            format!("The request's body is over the limit of {limit} bytes.").into(),
        ),
        BodyError::TooMany => (
            StatusCode::SERVICE_UNAVAILABLE,
            "bodies",
            "The server is at its limit of request bodies.".into(),
        ),
        BodyError::Timeout => (
            StatusCode::REQUEST_TIMEOUT,
            "body_timeout",
            "The request's body did not arrive in time.".into(),
        ),
        BodyError::Broken => (
            StatusCode::BAD_REQUEST,
            "body",
            "The request's body ended early or could not be read.".into(),
        ),
    }
}

/// A request that a guest got or would have got.
fn guest(cause: &Cause) -> Explanation<'_> {
    match cause {
        Cause::Body(error) => body(error),
        Cause::Busy => {
            (StatusCode::SERVICE_UNAVAILABLE, "busy", "The server is at its limit.".into())
        }
        Cause::Overloaded => (
            StatusCode::SERVICE_UNAVAILABLE,
            "overloaded",
            "More requests came than this server has time for.".into(),
        ),
        Cause::Loading => (
            StatusCode::SERVICE_UNAVAILABLE,
            "guest_loading",
            "The handler is being loaded.".into(),
        ),
        Cause::Unavailable(_) => (
            StatusCode::SERVICE_UNAVAILABLE,
            "guest_unavailable",
            "The handler cannot be loaded.".into(),
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
        // One that was answered before has its response: see `registry/idempotency`.
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
        Cause::Connect => (
            StatusCode::NOT_IMPLEMENTED,
            "connect",
            "This server is no proxy: it opens no tunnels for CONNECT.".into(),
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
            "The store cannot be used at the moment.".into(),
        ),
        Cause::StateUnknown(_) => {
            (StatusCode::GATEWAY_TIMEOUT, "store_unknown", "The store did not answer.".into())
        }
    }
}
