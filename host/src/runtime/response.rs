//! What a guest's response must be, so that nothing it writes reaches the client as protocol.

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};

/// Headers a response may have, and bytes they may have in all: what clients and proxies take.
const MAX_HEADERS: usize = 64;
/// See [`MAX_HEADERS`].
const MAX_HEADER_BYTES: usize = 16 << 10;

/// Checks a status.
pub(super) fn status(status: u16) -> Result<StatusCode, String> {
    match status {
        200..=599 => StatusCode::from_u16(status).map_err(|error| error.to_string()),
        other => Err(format!("the status {other} is not one of 200 to 599")),
    }
}

/// Checks how many headers there are and how long.
pub(super) fn size(count: usize, bytes: usize) -> Result<(), String> {
    if count > MAX_HEADERS {
        return Err(format!("{count} headers are over the limit of {MAX_HEADERS}"));
    }
    if bytes > MAX_HEADER_BYTES {
        return Err(format!("headers of {bytes} bytes are over the limit of {MAX_HEADER_BYTES}"));
    }
    Ok(())
}

/// Checks names and values that a guest has put together by itself.
pub(super) fn headers(list: Vec<(String, String)>) -> Result<HeaderMap, String> {
    size(list.len(), list.iter().map(|(name, value)| name.len() + value.len()).sum())?;
    let mut headers = HeaderMap::with_capacity(list.len());
    for (name, value) in list {
        let header = HeaderName::try_from(name.as_str())
            .map_err(|_| format!("{name:?} is not the name of a header"))?;
        if is_hosts(&header) || header == header::CONTENT_LENGTH {
            return Err(format!("the header {name:?} belongs to the host"));
        }
        let value = HeaderValue::try_from(value)
            .map_err(|_| format!("the value of the header {name:?} has characters it must not"))?;
        headers.append(header, value);
    }
    Ok(headers)
}

/// Takes out of a standard guest's headers what is the host's. Such guests run on other hosts too,
/// which take them as they are.
pub(super) fn leave_out_hosts(headers: &mut HeaderMap) {
    // Most have none of them, and to look for each of the host's would take longer.
    if !headers.keys().any(is_hosts) {
        return;
    }
    // `trailer` says which trailers follow, and those are the guest's.
    for name in HOSTS.iter().filter(|name| **name != header::TRAILER) {
        headers.remove(name);
    }
}

/// Headers about the connection or the framing (RFC 9110, 7.6.1), and others that the host sets.
const HOSTS: [HeaderName; 11] = [
    header::CONNECTION,
    header::DATE,
    header::PROXY_AUTHENTICATE,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    HeaderName::from_static("http2-settings"),
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    HeaderName::from_static("x-request-id"),
];

/// Whether a header is the host's.
fn is_hosts(name: &HeaderName) -> bool {
    HOSTS.contains(name)
}

/// Whether a response with this status has no body (RFC 9110, 6.4.1).
pub(super) fn is_bodiless(status: StatusCode) -> bool {
    matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
}
