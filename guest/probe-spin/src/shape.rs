//! What sets this shape apart: text for cursors, signed counts, and values that are there or not.

use probing::show;

pub use crate::bindings::wasi::keyvalue::store::{Bucket, open};
use crate::bindings::wasi::keyvalue::store::{Error, KeyResponse};

/// Where a page of keys starts.
pub type Cursor = String;

/// How much is added.
pub type Delta = i64;

pub fn list_keys(bucket: &Bucket, cursor: Option<Cursor>) -> Result<KeyResponse, Error> {
    bucket.list_keys(cursor.as_deref())
}

/// A result of `get-many`.
pub fn show_found((key, value): (String, Option<Vec<u8>>)) -> String {
    format!("{key}={}", show(value))
}
