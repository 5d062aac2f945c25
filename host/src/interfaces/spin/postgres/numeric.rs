//! `numeric` as PostgreSQL sends it: a sign, groups of four decimal digits, where the point is among
//! them, and how many digits are shown behind it.

use bytes::{BufMut as _, BytesMut};

/// Digits that a number may have before its point and behind it, at most.
const MOST_DIGITS: usize = 131_072 + 16_383;

const NEGATIVE: u16 = 0x4000;

/// The text of a number.
pub(super) fn decode(raw: &[u8]) -> Option<String> {
    let (header, rest) = raw.split_first_chunk::<8>()?;
    let word = |at: usize| Some(u16::from_be_bytes([*header.get(at)?, *header.get(at + 1)?]));
    let (count, weight, sign, scale) = (word(0)?, word(2)?.cast_signed(), word(4)?, word(6)?);
    match sign {
        0 | NEGATIVE => {}
        0xc000 => return Some("NaN".into()),
        0xd000 => return Some("Infinity".into()),
        0xf000 => return Some("-Infinity".into()),
        _ => return None,
    }
    let groups: Vec<u16> =
        rest.as_chunks::<2>().0.iter().map(|group| u16::from_be_bytes(*group)).collect();
    if groups.len() != usize::from(count) {
        return None;
    }
    // The group for this power of 10,000.
    let group = |power: i32| {
        let place = usize::try_from(i32::from(weight) - power).ok();
        place.and_then(|place| groups.get(place)).copied().unwrap_or_default()
    };
    let mut text = String::new();
    if sign == NEGATIVE {
        text.push('-');
    }
    let mut whole = String::new();
    for power in (0..=i32::from(weight)).rev() {
        whole.push_str(&format!("{:04}", group(power)));
    }
    let whole = whole.trim_start_matches('0');
    text.push_str(if whole.is_empty() { "0" } else { whole });
    if scale > 0 {
        let mut behind = String::new();
        let mut power = -1;
        while behind.len() < usize::from(scale) {
            behind.push_str(&format!("{:04}", group(power)));
            power -= 1;
        }
        behind.truncate(scale.into());
        text.push('.');
        text.push_str(&behind);
    }
    Some(text)
}

/// A number as PostgreSQL takes it, if the text is one.
pub(super) fn encode(text: &str, out: &mut BytesMut) -> Option<()> {
    let (sign, digits) = match text.strip_prefix('-') {
        Some(digits) => (NEGATIVE, digits),
        None => (0, text.strip_prefix('+').unwrap_or(text)),
    };
    let (whole, behind) = digits.split_once('.').unwrap_or((digits, ""));
    let plain = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if digits.len() > MOST_DIGITS
        || (whole.is_empty() && behind.is_empty())
        || !plain(whole)
        || !plain(behind)
    {
        return None;
    }
    let scale = u16::try_from(behind.len()).ok().filter(|scale| *scale < NEGATIVE)?;
    let whole = whole.trim_start_matches('0');
    let before = whole.len().div_ceil(4);
    let padded = format!(
        "{whole:0>before$}{behind:0<behind_width$}",
        before = before * 4,
        behind_width = behind.len().div_ceil(4) * 4
    );
    let group =
        |group: &[u8]| group.iter().fold(0, |sum: u16, digit| sum * 10 + u16::from(digit - b'0'));
    let groups: Vec<u16> = padded.as_bytes().chunks(4).map(group).collect();
    let first = groups.iter().position(|group| *group != 0).unwrap_or(groups.len());
    let last = groups.iter().rposition(|group| *group != 0).map_or(first, |last| last + 1);
    let groups = groups.get(first..last)?;
    let weight =
        i16::try_from(before).ok()?.checked_sub(i16::try_from(first).ok()?)?.checked_sub(1)?;
    out.put_u16(u16::try_from(groups.len()).ok()?);
    out.put_i16(if groups.is_empty() { 0 } else { weight });
    out.put_u16(if groups.is_empty() { 0 } else { sign });
    out.put_u16(scale);
    groups.iter().for_each(|group| out.put_u16(*group));
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(text: &str) -> Option<BytesMut> {
        let mut out = BytesMut::new();
        encode(text, &mut out).map(|()| out)
    }

    #[test]
    fn numbers_come_back_as_they_went() {
        for text in [
            "0",
            "1",
            "-1",
            "10000",
            "12345678",
            "0.1",
            "-0.0001",
            "0.00001",
            "100000000.5",
            "123456789.987654321",
            "0.00",
            "10000.0000",
            "1.50",
            "99999999999999999999999999.9",
        ] {
            assert_eq!(decode(&encoded(text).unwrap()).unwrap(), text);
        }
        assert_eq!(decode(&encoded("+007.").unwrap()).unwrap(), "7");
        assert_eq!(decode(&encoded(".5").unwrap()).unwrap(), "0.5");
        assert_eq!(decode(&encoded("-0").unwrap()).unwrap(), "0");
        // As a server sends 12345.678.
        let raw = [0, 3, 0, 1, 0, 0, 0, 3, 0, 1, 9, 41, 26, 124];
        assert_eq!(decode(&raw).unwrap(), "12345.6780"[..9]);
        assert_eq!(&encoded("12345.678").unwrap()[..], raw);
    }

    #[test]
    fn what_is_no_number_is_refused() {
        for text in ["", ".", "-", "1e5", "1.2.3", "NaN", " 1", "١", "--1"] {
            assert!(encoded(text).is_none(), "{text}");
        }
        for raw in [&[][..], &[0; 7], &[0, 2, 0, 0, 0, 0, 0, 0, 0, 1], &[0, 0, 0, 0, 9, 9, 0, 0]] {
            assert!(decode(raw).is_none(), "{raw:?}");
        }
        assert_eq!(decode(&[0, 0, 0, 0, 0xc0, 0, 0, 0]).unwrap(), "NaN");
    }
}
