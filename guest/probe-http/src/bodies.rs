//! Heads, bodies and trailers, in the ways that a guest may and may not send them.

use wasip2::http::types::{Fields, IncomingRequest, OutgoingResponse, ResponseOutparam};

use crate::streams::{Reading, Writing};

/// Names that concern the connection, and others that are no names.
const FORBIDDEN: [(&str, &[u8]); 10] = [
    ("connection", b"close"),
    ("keep-alive", b"timeout=5"),
    ("proxy-connection", b"close"),
    ("transfer-encoding", b"chunked"),
    ("upgrade", b"h2c"),
    ("host", b"elsewhere.example"),
    ("te", b"trailers"),
    ("date", b"Thu, 01 Jan 1970 00:00:00 GMT"),
    ("bad name", b"value"),
    ("x-split", b"a\r\nset-cookie: b"),
];

fn reading(request: &IncomingRequest) -> Reading {
    Reading::new(request.consume().expect("the first time it is asked for"))
}

/// Sends the request's body back, each part as it arrives.
pub fn echo(request: &IncomingRequest, out: ResponseOutparam) {
    let reading = reading(request);
    let writing = Writing::plain(out);
    // If either side breaks off, the body stays unfinished: its client must not take it for whole.
    while let Ok(part) = reading.next() {
        match part {
            None => return writing.finish(None),
            Some(part) if writing.write(&part).is_err() => return,
            Some(_) => {}
        }
    }
}

/// Answers the length of the request's body.
pub fn count(request: &IncomingRequest, out: ResponseOutparam) {
    let reading = reading(request);
    let mut length = 0;
    loop {
        match reading.next() {
            Ok(Some(part)) => length += part.len(),
            Ok(None) => return probing::send(out, 200, &length.to_string()),
            Err(code) => return probing::send(out, 500, &format!("the body failed: {code:?}")),
        }
    }
}

/// Answers the length of the request's body, and passes an error of the body on.
pub fn length(request: &IncomingRequest, out: ResponseOutparam) {
    match reading(request).to_end() {
        Ok(body) => probing::send(out, 200, &body.len().to_string()),
        Err(code) => ResponseOutparam::set(out, Err(code)),
    }
}

/// Answers that nothing has changed, with what a whole response would say of itself.
pub fn not_modified(out: ResponseOutparam) {
    let headers = Fields::new();
    for (name, value) in [
        ("cache-control", "max-age=60"),
        ("content-location", "/not-modified?whole"),
        ("content-length", "1000"),
        ("content-type", "text/plain"),
        ("etag", "\"one\""),
        ("expires", "Thu, 01 Jan 2032 00:00:00 GMT"),
        ("last-modified", "Thu, 01 Jan 1970 00:00:00 GMT"),
        ("vary", "accept"),
    ] {
        let _ = headers.append(name, value.as_bytes());
    }
    status(304, headers, out);
}

/// Sends a thousand bytes, and these as often as asked to.
pub fn stream(count: u32, out: ResponseOutparam) {
    let writing = Writing::plain(out);
    for _ in 0..count {
        if writing.write(&[b'x'; 1_000]).is_err() {
            return;
        }
    }
    writing.finish(None);
}

/// Sends a body, and trailers with the sum of its bytes.
pub fn trailers(out: ResponseOutparam) {
    const BODY: &[u8] = b"a body with trailers";
    let headers = Fields::new();
    // Without it, HTTP/1.1 may leave them out.
    let _ = headers.append("trailer", b"x-checksum");
    let writing = Writing::begin(OutgoingResponse::new(headers), out);
    if writing.write(BODY).is_err() {
        return;
    }
    let sum: u32 = BODY.iter().copied().map(u32::from).sum();
    let trailers = Fields::new();
    let _ = trailers.append("x-checksum", sum.to_string().as_bytes());
    writing.finish(Some(trailers));
}

/// Answers the request's trailers, a line for each.
pub fn request_trailers(request: &IncomingRequest, out: ResponseOutparam) {
    let reading = reading(request);
    match reading.to_end().and_then(|_| reading.trailers()) {
        Ok(None) => probing::send(out, 200, "(none)"),
        Ok(Some(trailers)) => {
            let line = |(name, value): (String, Vec<u8>)| {
                format!("{name}: {}\n", String::from_utf8_lossy(&value))
            };
            let lines: String = trailers.entries().into_iter().map(line).collect();
            probing::send(out, 200, &lines);
        }
        Err(code) => probing::send(out, 500, &format!("the body failed: {code:?}")),
    }
}

/// Tells a length, and sends a body that may have another.
pub fn content_length(length: u64, body: &[u8], out: ResponseOutparam) {
    let headers = Fields::new();
    let _ = headers.append("content-length", length.to_string().as_bytes());
    let writing = Writing::begin(OutgoingResponse::new(headers), out);
    // One that is longer than told is refused here, one that is shorter at the end.
    let _ = writing.write(body);
    writing.finish(None);
}

/// Answers with a status, and no body.
pub fn status(status: u16, headers: Fields, out: ResponseOutparam) {
    let response = OutgoingResponse::new(headers);
    if response.set_status_code(status).is_err() {
        return probing::send(out, 200, "this status was refused");
    }
    Writing::begin(response, out).finish(None);
}

/// Answers with the status of an answer that others follow, and lets none follow.
pub fn informational(out: ResponseOutparam) {
    let headers = Fields::new();
    let _ = headers.append("link", b"</style.css>; rel=preload");
    status(103, headers, out);
}

/// Tries headers that are none of a guest's business. Sends those that were taken, and answers what
/// was said to each.
pub fn forbidden_headers(out: ResponseOutparam) {
    let headers = Fields::new();
    let lines: String = FORBIDDEN
        .iter()
        .map(|(name, value)| match headers.append(name, value) {
            Ok(()) => format!("{name}: taken\n"),
            Err(error) => format!("{name}: {error:?}\n"),
        })
        .collect();
    let writing = Writing::begin(OutgoingResponse::new(headers), out);
    if writing.write(lines.as_bytes()).is_ok() {
        writing.finish(None);
    }
}
