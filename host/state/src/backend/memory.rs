//! `memory:`: maps in this process, for tests and throwaway runs. The same contract, and gone when
//! the process ends.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap, HashMap, VecDeque, btree_map::Entry as Held},
    ops::Bound,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;

use crate::{
    Bucket, Page,
    backend::prefix_end,
    error::{Error, Rejection},
    once::{Digest, Record, Token},
    operation::{Action, Outcome, Recalled, Step},
    plan::Reply,
    semantics::{self, Change, Entry, Moment},
};

type Place = (Bucket, Box<str>);

/// The maps, shared by all workers.
#[derive(Clone)]
pub(crate) struct Memory(Arc<Mutex<Data>>);

struct Data {
    values: BTreeMap<Place, Entry>,
    /// Places of entries that were given an end, the first to end first. An entry that was changed
    /// since may end otherwise.
    ends: BinaryHeap<Reverse<(Moment, Place)>>,
    records: HashMap<Digest, Records>,
    /// Requests in the order in which their records end: all are kept equally long.
    ages: VecDeque<(Moment, Digest)>,
    /// How long records are kept.
    remember: Duration,
}

/// What is recorded of one request.
struct Records {
    fingerprint: Digest,
    /// When they end.
    end: Moment,
    outcomes: HashMap<i64, Bytes>,
}

impl Memory {
    /// Empty, and to keep records for this long.
    pub(crate) fn new(remember: Duration) -> Self {
        Self(Arc::new(Mutex::new(Data {
            values: BTreeMap::new(),
            ends: BinaryHeap::new(),
            records: HashMap::new(),
            ages: VecDeque::new(),
            remember,
        })))
    }

    /// Applies one step, for whoever asks and on their thread.
    pub(crate) fn apply_one(&self, step: Step) -> Reply {
        let mut data = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        data.apply(step, semantics::now())
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
        match (&step.action, step.token) {
            (Action::List { prefix, cursor, limit }, _) => {
                let page = self.page(&step.bucket, prefix, cursor.as_deref(), *limit, now);
                Ok(Outcome::Page(page))
            }
            (Action::Sweep { limit }, _) => Ok(Outcome::Swept(self.sweep(*limit, now))),
            (Action::Recall, Some(token)) => {
                Ok(Outcome::Recalled(self.recorded(token, now).map(|record| Recalled {
                    fingerprint: record.fingerprint,
                    answer: record.outcome,
                })))
            }
            (action, Some(token)) if !action.kind().is_read() => {
                if let Some(record) = self.recorded(token, now) {
                    return record.reply(token, action);
                }
                let others = self.records.get(&token.request).filter(|records| records.end > now);
                if others.is_some_and(|records| records.fingerprint != token.fingerprint) {
                    return Err(Rejection::Reused.into());
                }
                if let Action::Remember(answer) = action {
                    self.record(token, Record::answer(token, answer), now);
                    return Ok(Outcome::Done);
                }
                let result = self.one((step.bucket, step.key), action, now);
                self.record(token, Record::of(token, &result), now);
                result.map_err(Error::Rejected)
            }
            (action, _) => self.one((step.bucket, step.key), action, now).map_err(Error::Rejected),
        }
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
        match (change, held) {
            (Change::Put(entry), held) => {
                if let Some(end) = entry.expires
                    && before != entry.expires
                {
                    self.ends.push(Reverse((end, held.key().clone())));
                }
                held.insert_entry(entry);
            }
            (Change::Remove, Held::Occupied(held)) => drop(held.remove()),
            (Change::Remove, Held::Vacant(_)) | (Change::Keep, _) => {}
        }
        Ok(outcome)
    }

    fn recorded(&self, token: Token, now: Moment) -> Option<Record> {
        let records = self.records.get(&token.request).filter(|records| records.end > now)?;
        let outcome = records.outcomes.get(&token.write)?.clone();
        Some(Record { fingerprint: records.fingerprint, outcome })
    }

    fn record(&mut self, token: Token, record: Record, now: Moment) {
        let end = semantics::end(now, self.remember);
        let (fingerprint, outcomes) = (record.fingerprint, HashMap::new());
        let records = self.records.entry(token.request).or_insert_with(|| {
            self.ages.push_back((end, token.request));
            Records { fingerprint, end, outcomes }
        });
        if records.end <= now {
            self.ages.push_back((end, token.request));
            *records = Records { fingerprint, end, outcomes: HashMap::new() };
        }
        records.outcomes.insert(token.write, record.outcome);
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

    /// Removes what has expired; whether there is more of it.
    fn sweep(&mut self, limit: usize, now: Moment) -> bool {
        for _ in 0..limit {
            match self.ends.peek() {
                Some(Reverse((end, _))) if *end <= now => {}
                _ => break,
            }
            let Some(Reverse((_, place))) = self.ends.pop() else { break };
            if self.values.get(&place).is_some_and(|entry| !entry.is_live(now)) {
                self.values.remove(&place);
            }
        }
        for _ in 0..limit {
            match self.ages.front() {
                Some((end, _)) if *end <= now => {}
                _ => break,
            }
            let Some((_, request)) = self.ages.pop_front() else { break };
            if self.records.get(&request).is_some_and(|records| records.end <= now) {
                self.records.remove(&request);
            }
        }
        self.ends.peek().is_some_and(|Reverse((end, _))| *end <= now)
            || self.ages.front().is_some_and(|(end, _)| *end <= now)
    }
}
