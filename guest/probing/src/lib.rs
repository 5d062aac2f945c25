//! What standard handlers for tests share: a request's path is what to do, its query the argument,
//! and the answer is text.

mod arguments;

use std::fmt::Debug;

use wasip2::http::types::{
    Fields, IncomingRequest, OutgoingBody, OutgoingResponse, ResponseOutparam,
};

pub use self::arguments::{decode, list, pair};

/// Bytes of one blocking write, the most that `wasi:io` takes.
pub const WRITE_BYTES: usize = 4_096;

/// What came of an operation, in text.
pub type Answer = Result<String, Failure>;

/// Why there is no answer. Without `Debug`, so that whatever has it can become one by `?`.
pub enum Failure {
    /// 404: nothing is done at this path.
    NoSuchPath,
    /// 400: what the argument should be.
    Argument(&'static str),
    /// 500: the host refused. The error as it came, for tests to read.
    Operation(String),
}

impl<E: Debug> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::Operation(format!("{error:?}"))
    }
}

/// Answers a request with what `operate` makes of its path and its argument.
pub fn answer(
    request: &IncomingRequest,
    out: ResponseOutparam,
    operate: impl FnOnce(&str, &str) -> Answer,
) {
    let target = request.path_with_query().unwrap_or_default();
    let (path, argument) = target.split_once('?').unwrap_or((&target, ""));
    match operate(path, argument) {
        Ok(text) => send(out, 200, &text),
        Err(Failure::NoSuchPath) => send(out, 404, "there is nothing at this path"),
        Err(Failure::Argument(wanted)) => send(out, 400, &format!("the query must be {wanted}")),
        Err(Failure::Operation(error)) => send(out, 500, &error),
    }
}

/// Sends a text. A client that has gone away is no concern of this request's any more.
pub fn send(out: ResponseOutparam, status: u16, text: &str) {
    let headers = Fields::new();
    // A name that no host keeps to itself.
    let _ = headers.append("content-type", b"text/plain; charset=utf-8");
    let response = OutgoingResponse::new(headers);
    let _ = response.set_status_code(status);
    let body = response.body();
    ResponseOutparam::set(out, Ok(response));
    let Ok(body) = body else { return };
    if let Ok(stream) = body.write() {
        for part in text.as_bytes().chunks(WRITE_BYTES) {
            if stream.blocking_write_and_flush(part).is_err() {
                return;
            }
        }
    }
    let _ = OutgoingBody::finish(body, None);
}

/// A value as text, or a word for none.
pub fn show(value: Option<Vec<u8>>) -> String {
    value.map_or("(none)".into(), |value| String::from_utf8_lossy(&value).into_owned())
}
