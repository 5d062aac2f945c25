//! The requests of each kind of growth.

use std::{fmt::Write as _, path::Path};

use crate::client::Requests;

/// Requests that are made before the load, of which each is chosen by chance.
const PREPARED: u64 = 100_000;

/// A factor that spreads numbers: the golden ratio of 64 bits.
const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;

/// An increment of one counter.
pub(super) fn increment(key: Option<u64>) -> String {
    let name = key.map(|key| format!("?name=key{key}")).unwrap_or_default();
    format!("POST /increment{name} HTTP/1.1\r\nhost: localhost\r\n\r\n")
}

/// Increments of so many counters.
pub(super) fn keys(count: u64) -> Requests {
    let key =
        |number: u64| if count <= PREPARED { number } else { number.wrapping_mul(SPREAD) % count };
    Requests::of((0..count.min(PREPARED)).map(|number| increment(Some(key(number)))).collect())
}

/// An increment by one of many guests.
pub(super) fn to_guest(number: u64) -> String {
    format!("POST /increment HTTP/1.1\r\nhost: guest{number}.test\r\n\r\n")
}

/// The configuration of so many guests, found by host.
pub(super) fn routes(count: u64, guest: &Path) -> String {
    let mut toml = String::new();
    for number in 0..count {
        let _ = write!(
            toml,
            "[[route]]\nhost = \"guest{number}.test\"\nname = \"guest{number}\"\nguest = {guest:?}\n\n"
        );
    }
    toml
}

pub(super) fn get(path: &str, argument: u64) -> String {
    format!("GET {path}?{argument} HTTP/1.1\r\nhost: localhost\r\n\r\n")
}

/// A request with a body of so many bytes.
pub(super) fn post(path: &str, bytes: u64) -> String {
    let body = "x".repeat(usize::try_from(bytes).unwrap_or_default());
    format!("POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {bytes}\r\n\r\n{body}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_is_as_long_as_it_says() {
        let request = post("/", 300);
        let (head, body) = request.split_once("\r\n\r\n").unwrap();
        assert!(head.contains("content-length: 300"));
        assert_eq!(body.len(), 300);
    }
}
