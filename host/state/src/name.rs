//! Names of buckets and keys: what they may look like, and why.

use std::sync::Arc;

use crate::error::Rejection;

/// Longest key, in bytes of UTF-8. PostgreSQL's index rows end near 2,700 bytes and hold bucket
/// and key, so this leaves room for both in every backend.
pub const MAX_KEY_BYTES: usize = 1_000;

/// Longest bucket name, in bytes of UTF-8. See [`MAX_KEY_BYTES`].
pub const MAX_BUCKET_BYTES: usize = 255;

/// Buckets whose names begin so are the host's own: its records, in stores that keep them beside
/// values. Guests cannot open them.
pub const RESERVED: &str = "tally.";

/// The checked name of a bucket. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Bucket(Arc<str>);

impl Bucket {
    /// Checks and takes a name. Any characters are allowed but NUL, which PostgreSQL's text cannot
    /// hold; separators mean nothing, so `a:b` and `a` never share a key.
    ///
    /// # Errors
    /// [`Rejection::Bucket`] for a name that is empty, longer than [`MAX_BUCKET_BYTES`], or holds
    /// a NUL.
    pub fn new(name: &str) -> Result<Self, Rejection> {
        if name.is_empty() {
            return Err(Rejection::Bucket("a bucket name must not be empty".into()));
        }
        if name.len() > MAX_BUCKET_BYTES {
            return Err(Rejection::Bucket(format!(
                "a bucket name of {} bytes is over the limit of {MAX_BUCKET_BYTES} bytes",
                name.len()
            )));
        }
        if name.contains('\0') {
            return Err(Rejection::Bucket("a bucket name must not hold a NUL character".into()));
        }
        Ok(Self(name.into()))
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Checks a key: 1 to [`MAX_KEY_BYTES`] bytes, without NUL.
pub(crate) fn check_key(key: &str) -> Result<(), Rejection> {
    if key.is_empty() {
        return Err(Rejection::Key("a key must not be empty".into()));
    }
    if key.len() > MAX_KEY_BYTES {
        return Err(Rejection::Key(format!(
            "a key of {} bytes is over the limit of {MAX_KEY_BYTES} bytes",
            key.len()
        )));
    }
    if key.contains('\0') {
        return Err(Rejection::Key("a key must not hold a NUL character".into()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_at_the_limit_is_taken_and_one_byte_more_is_not() {
        assert!(check_key(&"k".repeat(MAX_KEY_BYTES)).is_ok());
        let error = check_key(&"k".repeat(MAX_KEY_BYTES + 1)).unwrap_err();
        assert!(error.to_string().contains("1001 bytes"), "{error}");
    }

    #[test]
    fn empty_names_and_nul_are_refused() {
        assert!(check_key("").is_err());
        assert!(check_key("a\0b").is_err());
        assert!(Bucket::new("").is_err());
        assert!(Bucket::new("a\0b").is_err());
        assert!(Bucket::new(&"b".repeat(MAX_BUCKET_BYTES + 1)).is_err());
        assert!(Bucket::new(&"b".repeat(MAX_BUCKET_BYTES)).is_ok());
    }
}
