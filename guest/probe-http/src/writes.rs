//! Requests that change something and then fail, in every order.

use wasip2::{
    clocks::monotonic_clock,
    http::types::{ErrorCode, Fields, IncomingRequest, OutgoingResponse, ResponseOutparam},
};

use crate::{
    bindings::wasi::keyvalue::{atomics, store},
    fetch,
    streams::{Reading, Writing},
};

/// Nanoseconds that a handler waits to be thrown away, before it goes on with what it should not do.
const GRACE: u64 = 300_000_000;

/// Adds 1 to a key.
fn add(key: &str) -> Result<i64, ErrorCode> {
    let added = store::open("").and_then(|bucket| atomics::increment(&bucket, key, 1));
    added.map_err(|error| ErrorCode::InternalError(Some(format!("{error:?}"))))
}

/// The length of the request's body.
fn length(request: &IncomingRequest) -> Result<usize, ErrorCode> {
    let body = request.consume().expect("the first time it is asked for");
    Ok(Reading::new(body).to_end()?.len())
}

/// Answers a number, or gives up.
fn respond(out: ResponseOutparam, answer: Result<i64, ErrorCode>) {
    match answer {
        Ok(number) => probing::send(out, 200, &number.to_string()),
        Err(code) => ResponseOutparam::set(out, Err(code)),
    }
}

/// What a key holds.
pub fn value(key: &str) -> String {
    let value = store::open("").and_then(|bucket| bucket.get(key));
    value.map_or_else(|error| format!("{error:?}"), probing::show)
}

/// Adds, then reads the request's body, and gives up if that fails.
pub fn add_then_body(key: &str, request: &IncomingRequest, out: ResponseOutparam) {
    respond(out, add(key).and_then(|count| length(request).map(|_| count)));
}

/// Reads the request's body, and adds only if that does not fail.
pub fn body_then_add(key: &str, request: &IncomingRequest, out: ResponseOutparam) {
    respond(out, length(request).and_then(|_| add(key)));
}

/// Begins a response that cannot be sent, waits, and then adds.
pub fn add_after_invalid(key: &str, out: ResponseOutparam) {
    let response = OutgoingResponse::new(Fields::new());
    let _ = response.set_status_code(204);
    let writing = Writing::begin(response, out);
    let _ = writing.write(b"a body that this status does not have");
    writing.finish(None);
    monotonic_clock::subscribe_duration(GRACE).block();
    let _ = add(key);
}

/// Sends an empty POST or a GET to a URL, and then gives up.
pub fn send_then_fail(post: bool, url: &str, out: ResponseOutparam) {
    let sent = if post { fetch::post(url) } else { fetch::get(url) };
    let reason = sent.unwrap_or_else(|code| format!("{code:?}"));
    ResponseOutparam::set(out, Err(ErrorCode::InternalError(Some(reason))));
}
