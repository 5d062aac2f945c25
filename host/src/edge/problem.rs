//! Errors as responses: the one place that decides status codes and what clients are told of the
//! effect.
//!
//! The body is `application/problem+json` (RFC 9457). `code` names the problem for programs,
//! `detail` tells people what to do, and `instance` is the request's id. `applied` says whether the
//! request changed something: `no`, or `unknown`. Reasons that name the inside of the host, the guest
//! or the store go to the log and not to the client.

use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, header};
use serde_json::json;
use tally_state::Applied;
use tracing::Level;

use super::{explain::explain, request_id::RequestId};
use crate::{
    logging,
    runtime::{Body, BodyError, Cause, Failure, OverRate, Rate},
};

/// Seconds after which a refused request may be tried again: a full pool or a restarting store
/// need about that.
const RETRY_AFTER: HeaderValue = HeaderValue::from_static("1");

/// Statuses with which clients and proxies send a request again by themselves, whatever its method:
/// 408 and 425 because HTTP lets them (RFC 9110, 15.5.9; RFC 8470, 5.2), 429 and 503 because of
/// `Retry-After`, 502 because proxies try another server. A status here promises that nothing was
/// changed.
///
/// 504 is not among them: it is HTTP's word for "no answer came". Clients that repeat it were told
/// to, and those repeat 500 as well.
const REPEATED: [StatusCode; 5] = [
    StatusCode::REQUEST_TIMEOUT,
    StatusCode::TOO_EARLY,
    StatusCode::TOO_MANY_REQUESTS,
    StatusCode::BAD_GATEWAY,
    StatusCode::SERVICE_UNAVAILABLE,
];

/// Why a request gets no response of its guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Problem {
    /// The target is neither a path nor `*`.
    Target,
    /// The `Host` header is missing or invalid, or there is more than one (RFC 9112, 3.2).
    Host,
    /// A field is not what its version of HTTP allows.
    Field,
    /// The body has other transfer codings than `chunked`, or `chunked` twice (RFC 9112, 6.1 and 7).
    Coding {
        is_known: bool,
    },
    /// What came is no request; hyper says so by this status.
    Protocol(StatusCode),
    TargetTooLong {
        limit: usize,
    },
    /// No route takes this host and path.
    NoRoute,
    /// There were more requests of a guest than its rate.
    Rate(OverRate),
    /// As much of responses waits for clients as may, and no guest has run.
    Responses,
    /// The body could not be had, and no guest has run.
    Body(BodyError),
    Guest(Failure),
}

impl From<BodyError> for Problem {
    fn from(error: BodyError) -> Self {
        Self::Body(error)
    }
}

impl Problem {
    /// Whether a request changed something; with an `Idempotency-Key` (`keyed`), whether any
    /// request with that key did.
    fn applied(&self, keyed: bool) -> Applied {
        match self {
            Self::Guest(failure) => failure.applied,
            // Refused for what the request is, as an earlier one with the same key was.
            Self::Target
            | Self::Host
            | Self::Field
            | Self::Coding { .. }
            | Self::Protocol(_)
            | Self::TargetTooLong { .. } => Applied::No,
            Self::Body(BodyError::TooLarge { .. }) => Applied::No,
            // An earlier one with the same key may have come further.
            Self::NoRoute | Self::Rate(_) | Self::Responses | Self::Body(_) if keyed => {
                Applied::Unknown
            }
            Self::NoRoute | Self::Rate(_) | Self::Responses | Self::Body(_) => Applied::No,
        }
    }

    /// Why the guest failed, if one was asked.
    fn cause(&self) -> Option<&Cause> {
        match self {
            Self::Guest(failure) => Some(&failure.cause),
            _ => None,
        }
    }

    /// Whether the client may still be sending the request's body, so that its connection serves no
    /// other request.
    pub(super) fn leaves_body(&self) -> bool {
        let error = match self {
            Self::Body(error) => error,
            Self::Guest(Failure { cause: Cause::Body(error), .. }) => error,
            // Where the body ends is not known.
            Self::Coding { .. } => return true,
            _ => return false,
        };
        !matches!(error, BodyError::TooMany)
    }

    /// The response. `keyed` says that the request has an `Idempotency-Key`, and that sending it
    /// again changes nothing that was changed.
    pub(super) fn into_response(self, id: &RequestId, keyed: bool) -> Response<Body> {
        let applied = self.applied(keyed);
        let (status, code, detail) = explain(&self);
        let status = settle(status, applied, keyed);
        let mut detail = detail.into_owned();
        if !self.cause().is_some_and(is_about_keys) {
            add(&mut detail, advice(status, applied, keyed));
        }
        let over_rate = match &self {
            Self::Rate(over) => Some(*over),
            _ => None,
        };
        let body = json!({
            "type": "about:blank",
            "title": status.canonical_reason().unwrap_or("Error"),
            "status": status.as_u16(),
            "code": code,
            "detail": detail,
            "instance": id.as_str(),
            "applied": match applied {
                Applied::No => "no",
                Applied::Unknown => "unknown",
            },
        });
        let mut response = Response::new(Body::Whole(body.to_string().into()));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        let under_way = keyed && matches!(self.cause(), Some(Cause::IdempotencyInFlight));
        if status == StatusCode::SERVICE_UNAVAILABLE || under_way {
            headers.insert(header::RETRY_AFTER, RETRY_AFTER);
        }
        if let Some(over) = over_rate {
            add_rate(headers, &over);
        }
        if let Some(Cause::MethodNotAllowed(methods)) = self.cause()
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
        let (level, what) = match &failure.cause {
            Cause::Trap(_) | Cause::InvalidResponse(_) | Cause::Internal(_) => {
                (Level::ERROR, "a guest failed")
            }
            Cause::StateNotApplied(_) | Cause::StateUnknown(_) | Cause::IdempotencyUnknown(_) => {
                (Level::WARN, "the store failed")
            }
            Cause::CpuLimit | Cause::WallLimit => (Level::WARN, "a guest reached its limit"),
            Cause::Unavailable(reason) => {
                tracing::debug!(id, guest, %method, reason, "a guest is not loaded");
                return;
            }
            _ => {
                tracing::debug!(id, %method, ?failure, "a request was refused");
                return;
            }
        };
        let (method, reason) = (Some(method.as_str()), &failure.cause);
        let (_, kind, _) = explain(self);
        logging::log(&logging::Failure { level, what, kind, guest, id, method, reason });
    }
}

/// The status for an effect: none of [`REPEATED`] where a repeat could change something twice. What
/// takes its place keeps the side at fault, and `code` still says what happened.
fn settle(status: StatusCode, applied: Applied, keyed: bool) -> StatusCode {
    match applied {
        Applied::Unknown if !keyed && REPEATED.contains(&status) => {
            if status.is_client_error() {
                StatusCode::BAD_REQUEST
            } else {
                StatusCode::INTERNAL_SERVER_ERROR
            }
        }
        _ => status,
    }
}

/// Says when there is room for another request (RFC 9110, 10.2.3), and of which rate
/// (draft-ietf-httpapi-ratelimit-headers-10).
fn add_rate(headers: &mut HeaderMap, over: &OverRate) {
    let Rate { per_second, burst } = over.rate;
    // In whole seconds, of which a client waits for one too many rather than too few.
    let after =
        over.after.as_secs().saturating_add(u64::from(over.after.subsec_nanos() > 0)).max(1);
    let window = burst.div_ceil(per_second.max(1)).max(1);
    headers.insert(header::RETRY_AFTER, after.into());
    for (name, value) in [
        ("ratelimit-policy", format!("\"guest\";q={burst};w={window}")),
        ("ratelimit", format!("\"guest\";r=0;t={after}")),
    ] {
        if let Ok(value) = value.parse() {
            headers.insert(name, value);
        }
    }
}

/// Whether a cause's detail says all there is to say of effects and repeats.
fn is_about_keys(cause: &Cause) -> bool {
    matches!(
        cause,
        Cause::IdempotencyKey(_)
            | Cause::IdempotencyUnknown(_)
            | Cause::IdempotencyFull
            | Cause::IdempotencyInFlight
            | Cause::IdempotencyReused
    )
}

/// What a client may do, given whether the request changed something.
fn advice(status: StatusCode, applied: Applied, keyed: bool) -> &'static str {
    match applied {
        Applied::Unknown if keyed => {
            "Whether a change was made is not known; trying again with the same Idempotency-Key does not make it twice."
        }
        Applied::Unknown => {
            "Whether a change was made is not known; trying again may make it twice. Requests with an Idempotency-Key are safe to repeat."
        }
        Applied::No => match status {
            // It may be otherwise the next time.
            StatusCode::REQUEST_TIMEOUT
            | StatusCode::TOO_MANY_REQUESTS
            | StatusCode::INTERNAL_SERVER_ERROR
            | StatusCode::SERVICE_UNAVAILABLE
            | StatusCode::GATEWAY_TIMEOUT => "Nothing was changed; it is safe to try again.",
            _ => "",
        },
    }
}

/// Adds a sentence, if there is one, to a text that may be a guest's and end anyhow.
fn add(text: &mut String, sentence: &str) {
    if sentence.is_empty() {
        return;
    }
    if !text.is_empty() {
        text.push_str(if text.ends_with(['.', '!', '?']) { " " } else { ". " });
    }
    text.push_str(sentence);
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;

    use super::*;

    fn body(response: Response<Body>) -> serde_json::Value {
        let collected = futures_util::FutureExt::now_or_never(response.into_body().collect());
        serde_json::from_slice(&collected.unwrap().unwrap().to_bytes()).unwrap()
    }

    fn respond(problem: Problem, keyed: bool) -> Response<Body> {
        let mut headers = http::HeaderMap::new();
        headers.insert("x-request-id", HeaderValue::from_static("test"));
        problem.into_response(&RequestId::of(&headers), keyed)
    }

    fn failed(cause: Cause, applied: Applied) -> Response<Body> {
        respond(Problem::Guest(Failure { cause, applied }), false)
    }

    fn over_rate(per_second: u32, burst: u32, milliseconds: u64) -> OverRate {
        let after = std::time::Duration::from_millis(milliseconds);
        OverRate { rate: Rate { per_second, burst }, after }
    }

    #[test]
    fn who_comes_too_often_is_told_when_to_come_again() {
        let response = respond(Problem::Rate(over_rate(10, 25, 1_200)), false);
        assert_eq!(response.status(), 429);
        let header = |name: &str| response.headers()[name].to_str().unwrap().to_owned();
        assert_eq!(header("retry-after"), "2");
        assert_eq!(header("ratelimit-policy"), "\"guest\";q=25;w=3");
        assert_eq!(header("ratelimit"), "\"guest\";r=0;t=2");
        assert_eq!(body(response)["applied"], "no");
    }

    fn body_errors() -> Vec<BodyError> {
        let all = vec![
            BodyError::TooLarge { limit: 1 },
            BodyError::TooMany,
            BodyError::Timeout,
            BodyError::Broken,
        ];
        for error in &all {
            // One more must be added above.
            match error {
                BodyError::TooLarge { .. }
                | BodyError::TooMany
                | BodyError::Timeout
                | BodyError::Broken => {}
            }
        }
        all
    }

    fn causes() -> Vec<Cause> {
        let text = || "planted".to_owned();
        let mut all = vec![
            Cause::Busy,
            Cause::Overloaded,
            Cause::Loading,
            Cause::Unavailable(text()),
            Cause::CpuLimit,
            Cause::WallLimit,
            Cause::Trap(text()),
            Cause::InvalidResponse(text()),
            Cause::BadRequest(text()),
            Cause::NotFound,
            Cause::MethodNotAllowed(vec!["GET".into()]),
            Cause::Connect,
            Cause::IdempotencyKey(text()),
            Cause::IdempotencyFull,
            Cause::AnsweredBefore,
            Cause::IdempotencyInFlight,
            Cause::IdempotencyReused,
            Cause::IdempotencyUnknown(text()),
            Cause::StateRefused(text()),
            Cause::StateConflict(text()),
            Cause::StateNotApplied(text()),
            Cause::StateUnknown(text()),
            Cause::Internal(text()),
        ];
        all.extend(body_errors().into_iter().map(Cause::Body));
        for cause in &all {
            // One more must be added above.
            match cause {
                Cause::Body(_)
                | Cause::Busy
                | Cause::Overloaded
                | Cause::Loading
                | Cause::Unavailable(_)
                | Cause::CpuLimit
                | Cause::WallLimit
                | Cause::Trap(_)
                | Cause::InvalidResponse(_)
                | Cause::BadRequest(_)
                | Cause::NotFound
                | Cause::MethodNotAllowed(_)
                | Cause::Connect
                | Cause::IdempotencyKey(_)
                | Cause::IdempotencyFull
                | Cause::AnsweredBefore
                | Cause::IdempotencyInFlight
                | Cause::IdempotencyReused
                | Cause::IdempotencyUnknown(_)
                | Cause::StateRefused(_)
                | Cause::StateConflict(_)
                | Cause::StateNotApplied(_)
                | Cause::StateUnknown(_)
                | Cause::Internal(_) => {}
            }
        }
        all
    }

    /// Every problem, with every effect that it can have.
    fn problems() -> Vec<Problem> {
        let mut all = vec![
            Problem::Target,
            Problem::Host,
            Problem::Field,
            Problem::Coding { is_known: true },
            Problem::Coding { is_known: false },
            Problem::Protocol(StatusCode::BAD_REQUEST),
            Problem::Protocol(StatusCode::REQUEST_TIMEOUT),
            Problem::TargetTooLong { limit: 1 },
            Problem::NoRoute,
            Problem::Rate(over_rate(10, 20, 100)),
        ];
        all.extend(body_errors().into_iter().map(Problem::Body));
        for applied in [Applied::No, Applied::Unknown] {
            let failures = causes().into_iter().map(|cause| Failure { cause, applied });
            all.extend(failures.map(Problem::Guest));
        }
        all
    }

    #[test]
    fn whatever_goes_wrong_a_client_that_repeats_by_itself_changes_nothing_twice() {
        for problem in problems() {
            let applied = problem.applied(false);
            let response = respond(problem.clone(), false);
            let (status, headers) = (response.status(), response.headers().clone());
            let body = body(response);
            let detail = body["detail"].as_str().unwrap();
            match applied {
                Applied::No => {
                    assert_eq!(body["applied"], "no", "{problem:?}");
                    assert!(!detail.contains("may make it twice"), "{problem:?}: {detail}");
                }
                Applied::Unknown => {
                    assert_eq!(body["applied"], "unknown", "{problem:?}");
                    let repeated = [408, 425, 429, 502, 503].contains(&status.as_u16());
                    assert!(!repeated, "{problem:?}: {status}");
                    assert!(!headers.contains_key("retry-after"), "{problem:?}");
                    assert!(!detail.contains("Nothing was changed"), "{problem:?}: {detail}");
                    assert!(!detail.contains("is safe to try"), "{problem:?}: {detail}");
                }
            }
        }
    }

    #[test]
    fn with_a_key_repeats_are_safe_and_statuses_stay_as_they_are() {
        for problem in problems() {
            let keyed = respond(problem.clone(), true);
            assert_eq!(keyed.status(), explain(&problem).0, "{problem:?}");
            let unknown = problem.applied(true) == Applied::Unknown;
            let body = body(keyed);
            assert_eq!(body["applied"], if unknown { "unknown" } else { "no" }, "{problem:?}");
            let detail = body["detail"].as_str().unwrap();
            assert!(!detail.contains("may make it twice"), "{problem:?}: {detail}");
        }
    }

    #[test]
    fn a_request_with_a_key_may_have_come_further_before() {
        for error in [BodyError::TooMany, BodyError::Timeout, BodyError::Broken] {
            assert_eq!(Problem::Body(error.clone()).applied(true), Applied::Unknown);
            assert_eq!(Problem::Body(error).applied(false), Applied::No);
        }
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
    fn a_body_that_is_late_is_408_only_where_nothing_was_changed() {
        let late = || Cause::Body(BodyError::Timeout);
        assert_eq!(failed(late(), Applied::No).status(), 408);
        let response = failed(late(), Applied::Unknown);
        assert_eq!(response.status(), 400);
        assert_eq!(body(response)["code"], "body_timeout");
    }

    #[test]
    fn what_a_guest_says_and_what_is_added_are_two_sentences() {
        let complained = |text: &str| {
            let response = failed(Cause::BadRequest(text.into()), Applied::Unknown);
            body(response)["detail"].as_str().unwrap().to_owned()
        };
        assert!(complained("no such thing").starts_with("no such thing. Whether"));
        assert!(complained("No such thing!").starts_with("No such thing! Whether"));
        assert!(complained("").starts_with("Whether"));
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
}
