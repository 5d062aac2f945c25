//! Values of the header `Idempotency-Key`: random UUIDs of version 4, as clients are told to send.

use crate::random::Random;

/// The header as the last one of a request's head, with the empty line still to follow. The key is
/// a placeholder of the length of a UUID.
pub(super) const HEADER: &str = "idempotency-key: 00000000-0000-4000-8000-000000000000\r\n";

/// Characters of a key, and of what follows it to the end of a request.
const KEY: usize = 36;
const END: usize = "\r\n\r\n".len();

/// Makes keys, none twice. Each generator has a seed of its own from the operating system, so that
/// two of them, in one run or in two, share no key but by a chance below 1 in 10³⁰.
pub(super) struct Keys(Random);

impl Keys {
    pub(super) fn new() -> Self {
        Self(Random::new())
    }

    /// Puts a new key in the place of the one at the end of a request, which [`HEADER`] and an
    /// empty line end.
    pub(super) fn renew(&mut self, request: &mut [u8]) {
        // The version and variant of RFC 9562, 5.4.
        let mut uuid = self.0.next_u128() & !(0xf << 76 | 0x3 << 62) | 0x4 << 76 | 0x2 << 62;
        let start = request.len().saturating_sub(KEY + END);
        let key = request.get_mut(start..start + KEY).unwrap_or_default();
        for byte in key.iter_mut().filter(|byte| **byte != b'-') {
            uuid = uuid.rotate_left(4);
            let digit = (uuid & 0xf) as u8;
            *byte = if digit < 10 { b'0' + digit } else { b'a' + digit - 10 };
        }
    }
}

/// A copy has a seed of its own: with the same one, both would make the same keys.
impl Clone for Keys {
    fn clone(&self) -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn key(keys: &mut Keys) -> String {
        let mut request = format!("POST / HTTP/1.1\r\n{HEADER}\r\n").into_bytes();
        keys.renew(&mut request);
        let request = String::from_utf8(request).unwrap();
        let (head, key) = request.split_once("idempotency-key: ").unwrap();
        assert_eq!(head, "POST / HTTP/1.1\r\n");
        key.strip_suffix("\r\n\r\n").unwrap().to_owned()
    }

    #[test]
    fn keys_are_uuids_of_version_4_that_spread_from_their_first_byte_on() {
        let mut keys = Keys::new();
        let (mut starts, mut digits) = (HashSet::new(), [[0_u32; 16]; 32]);
        for _ in 0..10_000 {
            let key = key(&mut keys);
            let groups: Vec<usize> = key.split('-').map(str::len).collect();
            assert_eq!(groups, [8, 4, 4, 4, 12], "{key}");
            assert_eq!(&key[14..15], "4", "{key}");
            assert!("89ab".contains(&key[19..20]), "{key}");
            starts.insert(key[..8].to_owned());
            for (place, digit) in key.replace('-', "").chars().enumerate() {
                digits[place][digit.to_digit(16).unwrap() as usize] += 1;
            }
        }
        // Of 10,000 random numbers of 32 bits, 0.01 pairs are alike.
        assert!(starts.len() > 9_990, "{}", starts.len());
        for (place, counts) in
            digits.iter().enumerate().filter(|(place, _)| ![12, 16].contains(place))
        {
            assert!(counts.iter().all(|count| (450..800).contains(count)), "{place}: {counts:?}");
        }
    }

    #[test]
    fn no_generator_repeats_another_not_even_its_copy() {
        let mut keys = Keys::new();
        let (mut copy, mut other) = (keys.clone(), Keys::new());
        let mut all = HashSet::new();
        for _ in 0..1_000 {
            for keys in [&mut keys, &mut copy, &mut other] {
                assert!(all.insert(key(keys)));
            }
        }
    }
}
