//! `memory:`: a map in this process, for tests and throwaway runs. The same contract, and gone
//! when the process ends.

use std::{
    collections::BTreeMap,
    ops::Bound,
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;

use crate::{
    Bucket, Page,
    backend::Connection,
    operation::{Action, Outcome, Step},
    plan::Reply,
    semantics::{self, Change},
};

type Values = BTreeMap<(Bucket, Box<str>), Bytes>;

/// The map, shared by the lanes of all workers.
#[derive(Clone, Default)]
pub(crate) struct Memory(Arc<Mutex<Values>>);

impl Connection for Memory {
    async fn apply(&mut self, steps: &[Step]) -> Vec<Reply> {
        let mut values = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        steps.iter().map(|step| apply(&mut values, step)).collect()
    }
}

fn apply(values: &mut Values, step: &Step) -> Reply {
    if let Action::List { cursor, limit } = &step.action {
        return Ok(Outcome::Page(page(values, &step.bucket, cursor.as_deref(), *limit)));
    }
    let place = (step.bucket.clone(), step.key.clone());
    let (outcome, change) = semantics::apply(&step.action, values.get(&place).cloned())?;
    match change {
        Change::Keep => {}
        Change::Put(value) => drop(values.insert(place, value)),
        Change::Remove => drop(values.remove(&place)),
    }
    Ok(outcome)
}

/// Keys in order; the cursor is the last key of the page before.
fn page(values: &Values, bucket: &Bucket, cursor: Option<&str>, limit: usize) -> Page {
    let start = (bucket.clone(), Box::from(cursor.unwrap_or_default()));
    let mut keys: Vec<String> = values
        .range((Bound::Excluded(start), Bound::Unbounded))
        .take_while(|((of, _), _)| of == bucket)
        .take(limit.saturating_add(1))
        .map(|((_, key), _)| key.to_string())
        .collect();
    let more = keys.len() > limit;
    keys.truncate(limit);
    let cursor = if more { keys.last().cloned() } else { None };
    Page { keys, cursor }
}
