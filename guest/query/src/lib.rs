//! The query of a request: `by`, the amount, `name`, the counter, and `ttl`, its time to live.

#![no_std]

extern crate alloc;

use alloc::{borrow::Cow, format, string::String, vec::Vec};

/// The counter that is meant where the query names none.
const DEFAULT_NAME: &str = "count";

/// Longest name of a counter, in bytes: well below what stores take for a key.
const MAX_NAME_BYTES: usize = 256;

/// The longest time to live, in milliseconds: 100 years, as stores take it.
const LONGEST_TTL: u64 = 36_525 * 86_400_000;

/// What is wrong with a query, for whoever sent it.
pub type Error = String;

/// What the query says, checked.
pub struct Query<'a> {
    name: Cow<'a, str>,
    by: i64,
    ttl: Option<u64>,
}

impl<'a> Query<'a> {
    /// Reads a query. Parameters that the counter does not know are let be; one that it knows must
    /// be right and stand there once, as counting something else than was meant cannot be undone.
    pub fn parse(query: &'a str) -> Result<Self, Error> {
        let mut name = None;
        let mut by = None;
        let mut ttl = None;
        for pair in query.split('&') {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            let seen_before = match key {
                "name" => name.replace(check_name(value)?).is_some(),
                "by" => by.replace(check_by(value)?).is_some(),
                "ttl" => ttl.replace(check_ttl(value)?).is_some(),
                _ => false,
            };
            if seen_before {
                return Err(format!("'{key}' must be given once"));
            }
        }
        let name = name.unwrap_or(Cow::Borrowed(DEFAULT_NAME));
        Ok(Self { name, by: by.unwrap_or(1), ttl })
    }

    /// The counter's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How much to add.
    pub fn by(&self) -> i64 {
        self.by
    }

    /// How long the counter is to live if this request creates it, in milliseconds; none is for ever.
    pub fn ttl(&self) -> Option<u64> {
        self.ttl
    }
}

fn check_by(value: &str) -> Result<i64, Error> {
    // A plus sign arrives as a space, if the client did not encode it.
    let text = value.strip_prefix("%2B").or(value.strip_prefix("%2b")).unwrap_or(value);
    text.parse().map_err(|_| {
        "'by' must be a whole number from -9223372036854775808 to 9223372036854775807".into()
    })
}

fn check_ttl(value: &str) -> Result<u64, Error> {
    let digits = value.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = value.split_at(digits);
    let unit = match unit {
        "ms" => Some(1),
        "s" => Some(1_000),
        "m" => Some(60_000),
        "h" => Some(3_600_000),
        "d" => Some(86_400_000),
        _ => None,
    };
    let number: Option<u64> = number.parse().ok();
    number
        .zip(unit)
        .and_then(|(number, unit)| number.checked_mul(unit))
        .filter(|ttl| (1..=LONGEST_TTL).contains(ttl))
        .ok_or_else(|| {
            "'ttl' must be a time from 1ms to 36525d, such as 500ms, 60s, 1m, 1h or 1d".into()
        })
}

fn check_name(value: &str) -> Result<Cow<'_, str>, Error> {
    let name = decode(value).ok_or("'name' must be percent-encoded UTF-8")?;
    if name.is_empty() || name.len() > MAX_NAME_BYTES || name.contains('\0') {
        return Err(format!("'name' must be 1 to {MAX_NAME_BYTES} bytes long, without NUL"));
    }
    Ok(name)
}

/// Undoes the percent-encoding of a query's value, with `+` for a space as forms write it.
fn decode(value: &str) -> Option<Cow<'_, str>> {
    if !value.contains(['%', '+']) {
        return Some(Cow::Borrowed(value));
    }
    let mut decoded = Vec::with_capacity(value.len());
    let mut bytes = value.bytes();
    while let Some(byte) = bytes.next() {
        decoded.push(match byte {
            b'%' => {
                let high = char::from(bytes.next()?).to_digit(16)?;
                let low = char::from(bytes.next()?).to_digit(16)?;
                (high * 16 + low) as u8
            }
            b'+' => b' ',
            other => other,
        });
    }
    String::from_utf8(decoded).ok().map(Cow::Owned)
}
