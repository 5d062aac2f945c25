//! What each operation does to one value. The embedded backends (memory, SQLite) run this; the
//! servers' own commands are held to it by the contract and property tests.

use bytes::Bytes;

use crate::{
    counter,
    error::Rejection,
    operation::{Action, Outcome, Swapped},
};

/// What is to become of the stored value.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Change {
    Keep,
    Put(Bytes),
    Remove,
}

/// Applies an action on one key to its current value. [`Action::List`] concerns no single value:
/// backends answer it from their index, and here it yields an empty page.
pub(crate) fn apply(
    action: &Action,
    current: Option<Bytes>,
) -> Result<(Outcome, Change), Rejection> {
    Ok(match action {
        Action::Get => (Outcome::Value(current), Change::Keep),
        Action::Exists => (Outcome::Exists(current.is_some()), Change::Keep),
        Action::Set(value) => (Outcome::Done, Change::Put(value.clone())),
        Action::Delete => (Outcome::Done, Change::Remove),
        Action::Increment(delta) => {
            let before = match &current {
                None => 0,
                Some(value) => counter::parse(value).ok_or(Rejection::NotANumber)?,
            };
            let after = before.checked_add(*delta).ok_or(Rejection::Overflow)?;
            (Outcome::Count(after), Change::Put(counter::format(after).into()))
        }
        Action::Swap { expected, value } => {
            if current == *expected {
                (Outcome::Swapped(Swapped::Yes), Change::Put(value.clone()))
            } else {
                (Outcome::Swapped(Swapped::No(current)), Change::Keep)
            }
        }
        Action::List { .. } => (Outcome::Page(crate::Page::default()), Change::Keep),
    })
}
