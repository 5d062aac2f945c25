//! What each operation does to one key. Memory, SQLite and PostgreSQL's transactions run this; what
//! the servers do by their own commands is held to it by the contract and property tests.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;

use crate::{
    counter,
    error::Rejection,
    operation::{Action, Bounded, Outcome, Swapped, TimeToLive},
};

/// A moment, in milliseconds since 1970 (UTC).
pub(crate) type Moment = i64;

/// Now, by this machine's clock.
pub(crate) fn now() -> Moment {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Moment::try_from(since.as_millis()).unwrap_or(Moment::MAX)
}

/// The moment at which a time-to-live that begins now is over.
pub(crate) fn end(now: Moment, ttl: Duration) -> Moment {
    now.saturating_add(milliseconds(ttl))
}

/// A time-to-live in milliseconds, at least one.
pub(crate) fn milliseconds(ttl: Duration) -> i64 {
    i64::try_from(ttl.as_millis()).unwrap_or(i64::MAX).max(1)
}

/// What a key holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) value: Bytes,
    /// When it ends, if it does.
    pub(crate) expires: Option<Moment>,
}

impl Entry {
    /// Whether its time has not come yet.
    pub(crate) fn is_live(&self, now: Moment) -> bool {
        self.expires.is_none_or(|end| end > now)
    }
}

/// What is to become of the stored entry.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Change {
    Keep,
    Put(Entry),
    Remove,
}

/// Applies an action on one key to what it holds, if that is still alive. What concerns no single
/// key ([`Action::List`], [`Action::Sweep`], what is remembered) is the backends' own, and here
/// changes nothing.
pub(crate) fn apply(
    action: &Action,
    current: Option<Entry>,
    now: Moment,
) -> Result<(Outcome, Change), Rejection> {
    let current = current.filter(|entry| entry.is_live(now));
    let put = |value: &Bytes, ttl: Option<Duration>| {
        Change::Put(Entry { value: value.clone(), expires: ttl.map(|ttl| end(now, ttl)) })
    };
    // What is changed in place keeps its time.
    let expires = current.as_ref().and_then(|entry| entry.expires);
    let count = |number| Change::Put(Entry { value: counter::format(number).into(), expires });
    Ok(match action {
        Action::Get => (Outcome::Value(current.map(|entry| entry.value)), Change::Keep),
        Action::Exists => (Outcome::Flag(current.is_some()), Change::Keep),
        Action::Set { value, ttl } => (Outcome::Done, put(value, *ttl)),
        Action::GetAndSet { value, ttl } => {
            (Outcome::Value(current.map(|entry| entry.value)), put(value, *ttl))
        }
        Action::SetIfAbsent { .. } if current.is_some() => (Outcome::Flag(false), Change::Keep),
        Action::SetIfAbsent { value, ttl } => (Outcome::Flag(true), put(value, *ttl)),
        Action::Delete => (Outcome::Done, Change::Remove),
        Action::Increment(delta) => {
            let after = number(current.as_ref())?.checked_add(*delta);
            let after = after.ok_or(Rejection::Overflow)?;
            (Outcome::Count(after), count(after))
        }
        Action::IncrementWithin { delta, min, max } => {
            let before = number(current.as_ref())?;
            match before.checked_add(*delta).filter(|after| (min..=max).contains(&after)) {
                Some(after) => (Outcome::Bounded(Bounded::Applied(after)), count(after)),
                None => (Outcome::Bounded(Bounded::Refused(before)), Change::Keep),
            }
        }
        Action::Swap { expected, value } => {
            let current = current.map(|entry| entry.value);
            if current == *expected {
                let entry = Entry { value: value.clone(), expires };
                (Outcome::Swapped(Swapped::Yes), Change::Put(entry))
            } else {
                (Outcome::Swapped(Swapped::No(current)), Change::Keep)
            }
        }
        Action::Expire(ttl) => match current {
            None => (Outcome::Flag(false), Change::Keep),
            Some(entry) => (Outcome::Flag(true), put(&entry.value, *ttl)),
        },
        Action::TimeToLive => {
            (Outcome::TimeToLive(time_to_live(current.as_ref(), now)), Change::Keep)
        }
        Action::List { .. } => (Outcome::Page(crate::Page::default()), Change::Keep),
        Action::Recall => (Outcome::Recalled(None), Change::Keep),
        Action::Remember(_) => (Outcome::Done, Change::Keep),
        Action::Sweep { .. } => (Outcome::Swept(false), Change::Keep),
    })
}

/// The number an entry holds; a missing one counts as 0.
fn number(entry: Option<&Entry>) -> Result<i64, Rejection> {
    entry.map_or(Ok(0), |entry| counter::parse(&entry.value).ok_or(Rejection::NotANumber))
}

fn time_to_live(entry: Option<&Entry>, now: Moment) -> TimeToLive {
    match entry {
        None => TimeToLive::Missing,
        Some(Entry { expires: None, .. }) => TimeToLive::Unlimited,
        Some(Entry { expires: Some(end), .. }) => left(end.saturating_sub(now)),
    }
}

/// Milliseconds that are left.
pub(crate) fn left(milliseconds: i64) -> TimeToLive {
    TimeToLive::Left(Duration::from_millis(u64::try_from(milliseconds).unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(value: &'static str, expires: Option<Moment>) -> Option<Entry> {
        Some(Entry { value: value.into(), expires })
    }

    #[test]
    fn what_is_changed_in_place_keeps_its_time_and_what_is_set_anew_does_not() {
        let swap = Action::Swap { expected: Some("5".into()), value: "6".into() };
        for in_place in [Action::Increment(1), swap] {
            let (_, change) = apply(&in_place, entry("5", Some(20)), 10).unwrap();
            assert_eq!(change, Change::Put(Entry { value: "6".into(), expires: Some(20) }));
        }
        let set = Action::Set { value: "6".into(), ttl: None };
        let (_, change) = apply(&set, entry("5", Some(20)), 10).unwrap();
        assert_eq!(change, Change::Put(Entry { value: "6".into(), expires: None }));
    }

    #[test]
    fn what_has_expired_is_missing() {
        for (now, found) in [(19, true), (20, false), (21, false)] {
            let (outcome, _) = apply(&Action::Exists, entry("5", Some(20)), now).unwrap();
            assert_eq!(outcome, Outcome::Flag(found), "{now}");
        }
        let (_, change) = apply(&Action::Increment(1), entry("5", Some(20)), 20).unwrap();
        assert_eq!(change, Change::Put(Entry { value: "1".into(), expires: None }));
    }

    #[test]
    fn bounds_are_included_and_leaving_the_range_is_leaving_the_bounds() {
        let within = |delta, min, max| Action::IncrementWithin { delta, min, max };
        for (action, bounded) in [
            (within(2, 0, 10), Bounded::Applied(10)),
            (within(3, 0, 10), Bounded::Refused(8)),
            (within(-8, 0, 10), Bounded::Applied(0)),
            (within(-9, 0, 10), Bounded::Refused(8)),
            (within(i64::MAX, i64::MIN, i64::MAX), Bounded::Refused(8)),
        ] {
            let (outcome, _) = apply(&action, entry("8", None), 0).unwrap();
            assert_eq!(outcome, Outcome::Bounded(bounded), "{action:?}");
        }
    }
}
