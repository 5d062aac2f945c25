//! Counters as text: ASCII decimal in the range of `i64`, in its one canonical form.
//!
//! The form is the one Redis accepts for `INCRBY`: an optional minus, no plus, no leading zeros,
//! no blanks, no `-0`. Every backend takes the same texts for numbers, so that a key counts in all
//! of them or in none.

/// The number a value holds, or `None` where it is no number in canonical form.
pub(crate) fn parse(value: &[u8]) -> Option<i64> {
    let digits = value.strip_prefix(b"-").unwrap_or(value);
    let canonical = match digits {
        [b'0'] => value.len() == 1,
        [b'1'..=b'9', rest @ ..] => rest.iter().all(u8::is_ascii_digit),
        _ => false,
    };
    if !canonical {
        return None;
    }
    std::str::from_utf8(value).ok()?.parse().ok()
}

/// The canonical text of a number.
pub(crate) fn format(number: i64) -> Vec<u8> {
    number.to_string().into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_canonical_decimals_are_numbers() {
        for (text, number) in [
            ("0", Some(0)),
            ("42", Some(42)),
            ("-7", Some(-7)),
            ("9223372036854775807", Some(i64::MAX)),
            ("-9223372036854775808", Some(i64::MIN)),
            ("9223372036854775808", None),
            ("", None),
            ("-", None),
            ("-0", None),
            ("+1", None),
            ("01", None),
            (" 1", None),
            ("1 ", None),
            ("1.5", None),
            ("0x10", None),
        ] {
            assert_eq!(parse(text.as_bytes()), number, "{text:?}");
        }
        assert_eq!(parse(b"\xff"), None);
    }

    #[test]
    fn formatting_reads_back() {
        for number in [0, 1, -1, i64::MAX, i64::MIN] {
            assert_eq!(parse(&format(number)), Some(number));
        }
    }
}
