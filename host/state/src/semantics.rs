//! What each operation does to one key. Memory, SQLite and PostgreSQL's transactions run this; what
//! the servers do by their own commands is held to it by the contract and property tests.
//!
//! [`apply`] is about one value. [`apply_step`] adds what is recorded of writes, over whatever
//! [`Values`] a backend has.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;

use crate::{
    counter,
    error::{Error, Rejection},
    idempotency::{Record, WriteId},
    operation::{Action, Bounded, Increments, Member, Outcome, Step, Swapped, TimeToLive},
    plan::Reply,
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
/// key ([`Action::List`], [`Action::Buckets`], [`Action::Sweep`], what is remembered) is the backends' own, and here
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
    let exists = current.is_some();
    let count = |number, ttl: Option<Duration>| {
        let expires = if exists { expires } else { ttl.map(|ttl| end(now, ttl)) };
        Change::Put(Entry { value: counter::format(number).into(), expires })
    };
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
        Action::Increment { delta, ttl } => {
            let after = number(current.as_ref())?.checked_add(*delta);
            let after = after.ok_or(Rejection::Overflow)?;
            (Outcome::Count(after), count(after, *ttl))
        }
        Action::IncrementWithin { delta, min, max, ttl } => {
            let before = number(current.as_ref())?;
            match before.checked_add(*delta).filter(|after| (min..=max).contains(&after)) {
                Some(after) => (Outcome::Bounded(Bounded::Applied(after)), count(after, *ttl)),
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
        Action::Buckets { .. } => (Outcome::Buckets(crate::BucketPage::default()), Change::Keep),
        Action::Increments(_) => (Outcome::Each(Vec::new()), Change::Keep),
        Action::Forgo => (Outcome::Forgone, Change::Keep),
        Action::LoadResponse => (Outcome::Response(None), Change::Keep),
        Action::StoreResponse(_) => (Outcome::Done, Change::Keep),
        Action::Sweep { .. } => (Outcome::Swept(false), Change::Keep),
    })
}

/// Values and records that this process reads and writes itself, within a transaction or a lock.
pub(crate) trait Values {
    /// Why one of them cannot be had.
    type Error;

    /// The moment at which the step is applied.
    fn now(&self) -> Moment;

    /// What the step's key holds, expired or not.
    fn entry(&mut self, step: &Step) -> Result<Option<Entry>, Self::Error>;

    /// Changes what the step's key holds.
    fn change(&mut self, step: &Step, change: Change) -> Result<(), Self::Error>;

    /// What is recorded of a write.
    fn find(&mut self, write: &WriteId) -> Result<Found, Self::Error>;

    /// Records a write that has no record.
    fn record(&mut self, write: &WriteId, record: Record) -> Result<(), Self::Error>;
}

/// What is recorded of a write.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Found {
    Nothing,
    Record(Record),
    /// Writes of another request of the same name.
    Reused,
}

/// Applies a step to one key, once if it has a write id.
///
/// # Errors
/// When the values fail; what the step itself is refused for is in the reply.
pub(crate) fn apply_step<V: Values>(values: &mut V, step: &Step) -> Result<Reply, V::Error> {
    if let Action::Increments(increments) = &step.action {
        return apply_increments(values, step, increments);
    }
    let Some(write) = &step.write else {
        return Ok(apply_action(values, step)?.map_err(Error::Rejected));
    };
    match values.find(write)? {
        Found::Record(record) => return Ok(record.reply(&step.action)),
        Found::Reused => return Ok(Err(Rejection::Reused.into())),
        Found::Nothing => {}
    }
    let result = match &step.action {
        Action::LoadResponse => return Ok(Ok(Outcome::Response(None))),
        Action::StoreResponse(response) => {
            values.record(write, Record::Response(response.clone()))?;
            return Ok(Ok(Outcome::Done));
        }
        _ => apply_action(values, step)?,
    };
    values.record(write, Record::new(&result))?;
    Ok(result.map_err(Error::Rejected))
}

fn apply_action<V: Values>(
    values: &mut V,
    step: &Step,
) -> Result<Result<Outcome, Rejection>, V::Error> {
    let current = values.entry(step)?;
    let (outcome, change) = match apply(&step.action, current, values.now()) {
        Ok(applied) => applied,
        Err(rejection) => return Ok(Err(rejection)),
    };
    if change != Change::Keep {
        values.change(step, change)?;
    }
    Ok(Ok(outcome))
}

/// Reads and writes the key once for all members.
fn apply_increments<V: Values>(
    values: &mut V,
    step: &Step,
    increments: &Increments,
) -> Result<Reply, V::Error> {
    let now = values.now();
    let mut current = values.entry(step)?;
    let mut is_changed = false;
    let mut replies = Vec::with_capacity(increments.members.len());
    for Member { write, delta } in &increments.members {
        let action = Action::Increment { delta: *delta, ttl: increments.ttl };
        let found = match write {
            Some(write) => values.find(write)?,
            None => Found::Nothing,
        };
        let result = match found {
            Found::Record(record) => {
                replies.push(record.reply(&action));
                continue;
            }
            Found::Reused => {
                replies.push(Err(Rejection::Reused.into()));
                continue;
            }
            Found::Nothing => match apply(&action, current.clone(), now) {
                Ok((outcome, Change::Put(entry))) => {
                    (current, is_changed) = (Some(entry), true);
                    Ok(outcome)
                }
                Ok((outcome, _)) => Ok(outcome),
                Err(rejection) => Err(rejection),
            },
        };
        if let Some(write) = write {
            values.record(write, Record::new(&result))?;
        }
        replies.push(result.map_err(Error::Rejected));
    }
    if is_changed && let Some(entry) = current {
        values.change(step, Change::Put(entry))?;
    }
    Ok(Ok(Outcome::Each(replies)))
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
        for in_place in [Action::Increment { delta: 1, ttl: Some(Duration::from_secs(1)) }, swap] {
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
        let (_, change) =
            apply(&Action::Increment { delta: 1, ttl: None }, entry("5", Some(20)), 20).unwrap();
        assert_eq!(change, Change::Put(Entry { value: "1".into(), expires: None }));
        let ttl = Some(Duration::from_millis(5));
        let for_a_while = Action::Increment { delta: 1, ttl };
        let within = Action::IncrementWithin { delta: 1, min: 0, max: 9, ttl };
        for action in [for_a_while, within] {
            for before in [None, entry("5", Some(20))] {
                let (_, change) = apply(&action, before, 20).unwrap();
                assert_eq!(change, Change::Put(Entry { value: "1".into(), expires: Some(25) }));
            }
            let (_, change) = apply(&action, entry("5", Some(21)), 20).unwrap();
            assert_eq!(change, Change::Put(Entry { value: "6".into(), expires: Some(21) }));
        }
    }

    #[test]
    fn bounds_are_included_and_leaving_the_range_is_leaving_the_bounds() {
        let within = |delta, min, max| Action::IncrementWithin { delta, min, max, ttl: None };
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
