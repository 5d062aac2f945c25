//! The `Idempotency-Key` header.

use http::{HeaderMap, HeaderName};

/// The header's name.
pub(super) const HEADER: HeaderName = HeaderName::from_static("idempotency-key");

/// Longest key, in bytes: room for any identifier that clients make.
const MAX_BYTES: usize = 255;

/// The key, without the quotes that it may have: a string of RFC 8941, or what clients write for
/// one.
pub(super) fn read(headers: &HeaderMap) -> Result<&str, String> {
    let mut keys = headers.get_all(HEADER).iter();
    let (first, second) = (keys.next(), keys.next());
    if second.is_some() {
        return Err("There must be one Idempotency-Key.".into());
    }
    let text = first.and_then(|value| value.to_str().ok()).unwrap_or_default().trim();
    let quoted = text.strip_prefix('"').map(|rest| rest.strip_suffix('"'));
    let key = match quoted {
        None => Some(text),
        Some(inner) => inner,
    };
    let plain = |key: &&str| (1..=MAX_BYTES).contains(&key.len()) && !key.contains(['"', '\\']);
    key.filter(plain).ok_or_else(|| {
        format!(
            "The Idempotency-Key must be 1 to {MAX_BYTES} characters of ASCII without quotes inside; a new UUID for each request is a good one."
        )
    })
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::{HEADER, read as read_header};

    fn read(values: &[&str]) -> Result<String, String> {
        let mut headers = http::HeaderMap::new();
        for value in values {
            headers.append(HEADER, HeaderValue::try_from(*value).unwrap());
        }
        read_header(&headers).map(str::to_owned)
    }

    #[test]
    fn keys_are_taken_with_quotes_and_without() {
        assert_eq!(read(&["abc-1"]).unwrap(), "abc-1");
        assert_eq!(read(&["\"abc-1\""]).unwrap(), "abc-1");
        assert_eq!(read(&[&"k".repeat(255)]).unwrap().len(), 255);
    }

    #[test]
    fn what_is_no_key_is_explained() {
        let long = "k".repeat(256);
        for wrong in ["", "\"\"", "\"", "\"a", "a\"b", "\"a\\b\"", long.as_str()] {
            assert!(read(&[wrong]).unwrap_err().contains("255"), "{wrong:?}");
        }
        assert!(read(&["a", "b"]).unwrap_err().contains("one Idempotency-Key"));
    }
}
