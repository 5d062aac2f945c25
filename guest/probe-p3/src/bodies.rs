//! Heads, bodies and trailers, in the ways that a guest may and may not send them.

use wasip3::{
    http::types::{ErrorCode, Fields, Request, Response},
    wit_future,
};

use crate::reply::{End, empty, streaming, text};

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

/// Bytes asked for in one read.
const READ_BYTES: usize = 64 << 10;

/// Sends the request's body back, each part as it arrives.
pub fn echo(request: Request) -> Response {
    let (_, fared) = wit_future::new(|| Ok(()));
    let (mut body, trailers) = Request::consume_body(request, fared);
    streaming(Fields::new(), async move |mut contents, end| {
        loop {
            let (result, part) = body.read(Vec::with_capacity(READ_BYTES)).await;
            if !part.is_empty() && !contents.write_all(part).await.is_empty() {
                return;
            }
            if !matches!(result, wasip3::wit_bindgen::StreamResult::Complete(_)) {
                break;
            }
        }
        drop(contents);
        // If the request's body broke off, the response's does: its client must not take it for whole.
        let _ = end.write(trailers.await.map(|_| None)).await;
    })
}

/// Sends the request's body back, and leaves all of that to the host.
pub fn hand_on(request: Request) -> Response {
    let (_, fared) = wit_future::new(|| Ok(()));
    let (body, trailers) = Request::consume_body(request, fared);
    Response::new(Fields::new(), Some(body), trailers).0
}

/// Reads the request's body to its end; gives its length, and how it ended.
pub async fn length(request: Request) -> (usize, End) {
    let (_, fared) = wit_future::new(|| Ok(()));
    let (mut body, trailers) = Request::consume_body(request, fared);
    let mut length = 0;
    loop {
        let (result, part) = body.read(Vec::with_capacity(READ_BYTES)).await;
        length += part.len();
        if !matches!(result, wasip3::wit_bindgen::StreamResult::Complete(_)) {
            return (length, trailers.await);
        }
    }
}

/// Answers the length of the request's body.
pub async fn count(request: Request) -> Response {
    match length(request).await {
        (length, Ok(_)) => text(200, &length.to_string()),
        (_, Err(code)) => text(500, &format!("the body failed: {code:?}")),
    }
}

/// Answers the request's trailers, a line for each.
pub async fn request_trailers(request: Request) -> Response {
    match length(request).await.1 {
        Ok(None) => text(200, "(none)"),
        Ok(Some(trailers)) => {
            let line = |(name, value): (String, Vec<u8>)| {
                format!("{name}: {}\n", String::from_utf8_lossy(&value))
            };
            let lines: String = trailers.copy_all().into_iter().map(line).collect();
            text(200, &lines)
        }
        Err(code) => text(500, &format!("the body failed: {code:?}")),
    }
}

/// Sends a thousand bytes, and these as often as asked to.
pub fn stream(count: u32) -> Response {
    streaming(Fields::new(), async move |mut contents, _end| {
        for _ in 0..count {
            if !contents.write_all(vec![b'x'; 1_000]).await.is_empty() {
                return;
            }
        }
    })
}

/// Sends a body, and trailers with the sum of its bytes.
pub fn trailers() -> Response {
    const BODY: &[u8] = b"a body with trailers";
    let headers = Fields::new();
    // Without it, HTTP/1.1 may leave them out.
    let _ = headers.append("trailer", b"x-checksum");
    streaming(headers, async move |mut contents, end| {
        if !contents.write_all(BODY.into()).await.is_empty() {
            return;
        }
        drop(contents);
        let sum: u32 = BODY.iter().copied().map(u32::from).sum();
        let trailers = Fields::new();
        let _ = trailers.append("x-checksum", sum.to_string().as_bytes());
        let _ = end.write(Ok(Some(trailers))).await;
    })
}

/// Tells a length, and sends a body that may have another.
pub fn content_length(length: u64, body: &'static [u8]) -> Response {
    let headers = Fields::new();
    let _ = headers.append("content-length", length.to_string().as_bytes());
    streaming(headers, async move |mut contents, _end| {
        // One that is longer than told is refused here, one that is shorter at the end.
        drop(contents.write_all(body.into()).await);
    })
}

/// Answers with the status of an answer that others follow, and lets none follow.
pub fn informational() -> Response {
    let headers = Fields::new();
    let _ = headers.append("link", b"</style.css>; rel=preload");
    empty(103, headers)
}

/// Tries headers that are none of a guest's business. Sends those that were taken, and answers what
/// was said to each.
pub fn forbidden_headers() -> Response {
    let headers = Fields::new();
    let lines: String = FORBIDDEN
        .iter()
        .map(|(name, value)| match headers.append(name, value) {
            Ok(()) => format!("{name}: taken\n"),
            Err(error) => format!("{name}: {error:?}\n"),
        })
        .collect();
    streaming(headers, async move |mut contents, _end| {
        drop(contents.write_all(lines.into_bytes()).await);
    })
}

/// Ends a body with an error.
pub fn unfinished() -> Response {
    streaming(Fields::new(), async |mut contents, end| {
        drop(contents.write_all(b"half a body".into()).await);
        drop(contents);
        let _ = end.write(Err(ErrorCode::InternalError(None))).await;
    })
}
