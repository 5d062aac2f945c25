//! The answer to what is not HTTP, as bytes: there is no request that hyper could answer.

use std::time::SystemTime;

use bytes::{BufMut as _, Bytes, BytesMut};
use http::{HeaderMap, StatusCode};

use super::{problem::Problem, request_id::RequestId};
use crate::runtime::Body;

/// A whole response of HTTP/1.1 that closes its connection.
pub(super) fn response(status: StatusCode) -> Bytes {
    let id = RequestId::of(&HeaderMap::new());
    tracing::debug!(id = id.as_str(), status = status.as_u16(), "what came is no request");
    let (head, body) = Problem::Protocol(status).into_response(&id, false).into_parts();
    let Body::Whole(body) = body else { return Bytes::new() };
    let mut bytes = BytesMut::with_capacity(512 + body.len());
    let reason = head.status.canonical_reason().unwrap_or_default();
    bytes.put(format!("HTTP/1.1 {} {reason}\r\n", head.status.as_u16()).as_bytes());
    let date = httpdate::fmt_http_date(SystemTime::now());
    let own = format!(
        "x-request-id: {}\r\nconnection: close\r\ncontent-length: {}\r\ndate: {date}\r\n\r\n",
        id.as_str(),
        body.len()
    );
    for (name, value) in &head.headers {
        for part in [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"] {
            bytes.put(part);
        }
    }
    bytes.put(own.as_bytes());
    bytes.put(body);
    bytes.freeze()
}
