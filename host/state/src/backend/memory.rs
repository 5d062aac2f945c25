//! `memory:`: maps in this process, for tests and throwaway runs. The same contract, and gone when
//! the process ends.

mod records;

use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry as Held},
    convert::Infallible,
    ops::Bound,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use self::records::Records;
use crate::{
    Bucket, BucketPage, Page,
    backend::prefix_end,
    error::{Error, Rejection},
    idempotency::{Record, WriteId},
    operation::{Action, Outcome, Step},
    plan::Reply,
    semantics::{self, Change, Entry, Found, Moment, Values},
};

type Place = (Bucket, Box<str>);

/// The maps, shared by all workers.
#[derive(Clone)]
pub(crate) struct Memory(Arc<Mutex<Data>>);

struct Data {
    values: BTreeMap<Place, Entry>,
    /// The values that have an end, the first to end first.
    ends: BTreeSet<(Moment, Place)>,
    records: Records,
}

impl Memory {
    /// Empty, and to keep records for this long.
    pub(crate) fn new(window: Duration) -> Self {
        let records = Records::new(window);
        Self(Arc::new(Mutex::new(Data { values: BTreeMap::new(), ends: BTreeSet::new(), records })))
    }

    /// Applies one step, for whoever asks and on their thread.
    pub(crate) fn apply_one(&self, step: Step) -> Reply {
        let mut data = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let reply = data.apply(step, semantics::now());
        // Freeing millions of records takes long, and is done while nobody waits.
        let expired = data.records.take_expired();
        drop(data);
        drop(expired);
        reply
    }
}

/// For tests of what stands in front of other backends.
#[cfg(test)]
impl crate::backend::Connection for Memory {
    async fn apply(&mut self, steps: &[Step]) -> Vec<Reply> {
        let mut data = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = semantics::now();
        steps.iter().map(|step| data.apply(step.clone(), now)).collect()
    }
}

impl Data {
    fn apply(&mut self, step: Step, now: Moment) -> Reply {
        match &step.action {
            Action::List { prefix, cursor, limit } => {
                let page = self.page(&step.bucket, prefix, cursor.as_deref(), *limit, now);
                Ok(Outcome::Page(page))
            }
            Action::Buckets { cursor, limit } => {
                Ok(Outcome::Buckets(self.buckets(cursor.as_deref(), *limit, now)?))
            }
            Action::Sweep { limit } => Ok(Outcome::Swept(self.sweep(*limit, now))),
            Action::Increments(_) => self.apply_recorded(&step, now),
            _ if step.write.is_some() => self.apply_recorded(&step, now),
            _ => self.one((step.bucket, step.key), &step.action, now).map_err(Error::Rejected),
        }
    }

    fn apply_recorded(&mut self, step: &Step, now: Moment) -> Reply {
        self.records.advance(now);
        let Ok(reply) = semantics::apply_step(&mut At { data: self, now }, step);
        reply
    }

    fn one(&mut self, place: Place, action: &Action, now: Moment) -> Result<Outcome, Rejection> {
        // Found once, as all who ask wait for one another here.
        let held = self.values.entry(place);
        let current = match &held {
            Held::Occupied(held) => Some(held.get().clone()),
            Held::Vacant(_) => None,
        };
        let before = current.as_ref().and_then(|entry| entry.expires);
        let (outcome, change) = semantics::apply(action, current, now)?;
        let after = match &change {
            Change::Put(entry) => entry.expires,
            Change::Remove => None,
            Change::Keep => before,
        };
        if before != after {
            let place = held.key().clone();
            if let Some(end) = before {
                self.ends.remove(&(end, place.clone()));
            }
            if let Some(end) = after {
                self.ends.insert((end, place));
            }
        }
        match (change, held) {
            (Change::Put(entry), held) => drop(held.insert_entry(entry)),
            (Change::Remove, Held::Occupied(held)) => drop(held.remove()),
            (Change::Remove, Held::Vacant(_)) | (Change::Keep, _) => {}
        }
        Ok(outcome)
    }

    /// Keys in order; the cursor is the last key of the page before.
    fn page(
        &self,
        bucket: &Bucket,
        prefix: &str,
        cursor: Option<&str>,
        limit: usize,
        now: Moment,
    ) -> Page {
        let from = cursor.map_or(Bound::Included(prefix), |cursor| match cursor < prefix {
            true => Bound::Included(prefix),
            false => Bound::Excluded(cursor),
        });
        let from = from.map(|key| (bucket.clone(), Box::from(key)));
        let end = prefix_end(prefix);
        let mut keys: Vec<String> = self
            .values
            .range((from, Bound::Unbounded))
            .take_while(|((of, key), _)| {
                of == bucket && end.as_ref().is_none_or(|end| **key < **end)
            })
            .filter(|(_, entry)| entry.is_live(now))
            .take(limit.saturating_add(1))
            .map(|((_, key), _)| key.to_string())
            .collect();
        let more = keys.len() > limit;
        keys.truncate(limit);
        let cursor = if more { keys.last().cloned() } else { None };
        Page { keys, cursor }
    }

    /// Buckets in order; the cursor is the last bucket of the page before.
    fn buckets(
        &self,
        cursor: Option<&str>,
        limit: usize,
        now: Moment,
    ) -> Result<BucketPage, Rejection> {
        let after = cursor.map(Bucket::new).transpose().map_err(|_| Rejection::Cursor)?;
        let from = match &after {
            Some(after) => Bound::Included((after.clone(), Box::from(""))),
            None => Bound::Unbounded,
        };
        let mut buckets: Vec<String> = Vec::new();
        for ((bucket, _), entry) in self.values.range((from, Bound::Unbounded)) {
            let name = bucket.as_str();
            let is_known =
                Some(bucket) == after.as_ref() || buckets.last().is_some_and(|last| last == name);
            if is_known || !entry.is_live(now) {
                continue;
            }
            if buckets.len() == limit {
                return Ok(BucketPage { cursor: buckets.last().cloned(), buckets });
            }
            buckets.push(name.to_owned());
        }
        Ok(BucketPage { buckets, cursor: None })
    }

    /// Removes what has expired; whether there is more of it.
    fn sweep(&mut self, limit: usize, now: Moment) -> bool {
        self.records.advance(now);
        let is_over =
            |ends: &BTreeSet<(Moment, Place)>| ends.first().is_some_and(|(end, _)| *end <= now);
        for _ in 0..limit {
            if !is_over(&self.ends) {
                break;
            }
            if let Some((_, place)) = self.ends.pop_first() {
                self.values.remove(&place);
            }
        }
        is_over(&self.ends)
    }
}

/// The maps at a moment.
struct At<'a> {
    data: &'a mut Data,
    now: Moment,
}

impl Values for At<'_> {
    type Error = Infallible;

    fn now(&self) -> Moment {
        self.now
    }

    fn entry(&mut self, step: &Step) -> Result<Option<Entry>, Infallible> {
        Ok(self.data.values.get(&(step.bucket.clone(), step.key.clone())).cloned())
    }

    fn change(&mut self, step: &Step, change: Change) -> Result<(), Infallible> {
        let place = (step.bucket.clone(), step.key.clone());
        let before = match change {
            Change::Keep => return Ok(()),
            Change::Remove => self.data.values.remove(&place),
            Change::Put(entry) => {
                if let Some(end) = entry.expires {
                    self.data.ends.insert((end, place.clone()));
                }
                let expires = entry.expires;
                let before = self.data.values.insert(place.clone(), entry);
                before.filter(|before| before.expires != expires)
            }
        };
        if let Some(end) = before.and_then(|before| before.expires) {
            self.data.ends.remove(&(end, place));
        }
        Ok(())
    }

    fn find(&mut self, write: &WriteId) -> Result<Found, Infallible> {
        Ok(self.data.records.find(write))
    }

    fn record(&mut self, write: &WriteId, record: Record) -> Result<(), Infallible> {
        self.data.records.put(write, record);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_to_live_that_is_set_again_and_again_takes_no_more_room() {
        let memory = Memory::new(Duration::from_secs(60));
        let bucket = Bucket::new("b").unwrap();
        for seconds in 1..1_000 {
            let ttl = Some(Duration::from_secs(seconds));
            let action = Action::Set { value: "v".into(), ttl };
            let step = Step { bucket: bucket.clone(), key: "k".into(), action, write: None };
            memory.apply_one(step).unwrap();
        }
        assert_eq!(memory.0.lock().unwrap().ends.len(), 1);
    }
}
