//! The id of a request, in its log lines, its response and its problem.

use std::fmt::Write as _;

use http::{HeaderMap, HeaderValue};

/// Bytes of a client's own request id that are taken over.
const MAX_ID_BYTES: usize = 64;

/// The id of a request: the client's own, if it can be one, or a new one.
#[derive(Clone, Debug)]
pub(super) struct RequestId(HeaderValue);

impl RequestId {
    /// The id for a request with these headers.
    pub(super) fn of(headers: &HeaderMap) -> Self {
        match headers.get("x-request-id") {
            Some(theirs) if is_plain(theirs.as_bytes()) => Self(theirs.clone()),
            _ => Self::new(),
        }
    }

    fn new() -> Self {
        let mut text = String::with_capacity(16);
        // Writing to a string does not fail.
        let _ = write!(text, "{:016x}", fastrand::u64(..));
        Self(HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static("none")))
    }

    pub(super) fn header(&self) -> HeaderValue {
        self.0.clone()
    }

    pub(super) fn as_str(&self) -> &str {
        self.0.to_str().unwrap_or_default()
    }
}

/// Whether an id can go into logs and headers as it is.
fn is_plain(id: &[u8]) -> bool {
    (1..=MAX_ID_BYTES).contains(&id.len())
        && id.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clients_id_is_taken_over_only_if_it_is_plain() {
        let id = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert("x-request-id", HeaderValue::try_from(text).unwrap());
            RequestId::of(&headers).as_str().to_owned()
        };
        assert_eq!(id("abc-1.2_3"), "abc-1.2_3");
        for other in ["", "a b", "a\"b", &"x".repeat(65)] {
            assert_eq!(id(other).len(), 16, "{other}");
        }
    }
}
