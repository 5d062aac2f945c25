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
    // A header's value may hold tabs, a string of RFC 8941 may not.
    let plain =
        |key: &&str| (1..=MAX_BYTES).contains(&key.len()) && !key.contains(['"', '\\', '\t']);
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

    /// A key that is taken is plain, and the same with quotes around it.
    #[test]
    fn fuzz_idempotency_keys() {
        let seeds: [&[u8]; 4] =
            [b"8e03978e-40d5-43dd-bc93-6894a57f9324", b"\"quoted\"", b" spaces ", &[b'k'; 256]];
        let words: [&[u8]; 6] = [b"\"", b"\\", b" ", b"\t", b"\x80", b";a=1"];
        tally_testkit::fuzz("idempotency_keys", &seeds, &words, |input| {
            let Ok(value) = HeaderValue::from_bytes(input) else { return };
            let mut headers = http::HeaderMap::new();
            headers.insert(HEADER, value);
            let Ok(key) = read_header(&headers).map(str::to_owned) else { return };
            assert!((1..=super::MAX_BYTES).contains(&key.len()) && key.is_ascii());
            assert!(!key.contains(['"', '\\']) && !key.chars().any(char::is_control), "{key:?}");
            let quoted = HeaderValue::from_str(&format!("\"{key}\"")).unwrap();
            headers.insert(HEADER, quoted.clone());
            assert_eq!(read_header(&headers), Ok(&*key));
            headers.append(HEADER, quoted);
            assert!(read_header(&headers).is_err(), "there must be one");
        });
    }
}
