//! Responses.

use wasip3::{
    http::types::{ErrorCode, Fields, Response, Trailers},
    spawn_local,
    wit_bindgen::{FutureWriter, StreamWriter},
    wit_future, wit_stream,
};

/// How a body ends: perhaps with trailers, or with an error.
pub type End = Result<Option<Trailers>, ErrorCode>;

/// A response whose body a task writes after it. The body ends when the task does.
pub fn streaming(
    headers: Fields,
    write: impl AsyncFnOnce(StreamWriter<u8>, FutureWriter<End>) + 'static,
) -> Response {
    let (contents, reader) = wit_stream::new();
    let (end, ending) = wit_future::new(|| Ok(None));
    let (response, _) = Response::new(headers, Some(reader), ending);
    spawn_local(async move { write(contents, end).await });
    response
}

/// A text.
pub fn text(status: u16, text: &str) -> Response {
    let headers = Fields::new();
    let _ = headers.append("content-type", b"text/plain; charset=utf-8");
    let text = text.to_owned();
    let response = streaming(headers, async move |mut contents, _end| {
        // A client that has gone away is no concern of this request's any more.
        drop(contents.write_all(text.into_bytes()).await);
    });
    let _ = response.set_status_code(status);
    response
}

/// A response without a body.
pub fn empty(status: u16, headers: Fields) -> Response {
    let (_, ending) = wit_future::new(|| Ok(None));
    let (response, _) = Response::new(headers, None, ending);
    match response.set_status_code(status) {
        Ok(()) => response,
        Err(()) => text(200, "this status was refused"),
    }
}
