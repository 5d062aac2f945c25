//! Responses as they are stored.

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

use super::REPLAYED;
use crate::runtime::{Body, Response};

/// Status, number of headers, then each header's name and value behind their lengths, then the
/// body. `None` for one that streams.
pub(super) fn encode(response: &Response) -> Option<Bytes> {
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

/// A stored response, marked as given before.
pub(super) fn decode(mut bytes: Bytes) -> Option<Response> {
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
}
