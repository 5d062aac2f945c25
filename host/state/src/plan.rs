//! Which operations of a batch share a step, and whose share of the result is whose.
//!
//! A batch holds operations that were asked for and not yet answered, so any order of them is a
//! legal one; the plan keeps the order of arrival for each key. Three kinds merge with their
//! neighbour on the same key:
//! - equal reads share one answer;
//! - of writes that look at nothing (set, delete), only the last can be seen, so it is sent for all;
//! - increments become one addition. Those of one sign and without a write id have the sum S of
//!   their deltas d1…dn: the backend returns the total T, and caller i gets T − S + (d1 + … + di).
//!   Others become [`Increments`], whose members the backend applies in order, checks and records
//!   each by itself, in one statement or script for all of them.
//!
//! Either way each caller gets the value of one at a time, distinct and without gaps. A plain sum
//! takes one sign only: with mixed signs a caller's own value could leave the range of `i64` although
//! the total does not, and one at a time that caller would have been refused.

use std::{
    hash::{BuildHasher as _, RandomState},
    mem,
    time::Duration,
};

use hashbrown::HashTable;
use tokio::{sync::oneshot, time::Instant};

use crate::{
    error::Error,
    idempotency::WriteId,
    lane::Owner,
    operation::{Action, Increments, Kind, Member, Outcome, Step},
};

/// One caller's answer.
pub(crate) type Reply = Result<Outcome, Error>;

/// An operation in a queue.
pub(crate) struct Pending {
    pub(crate) step: Step,
    /// Closed when the caller has gone: then the operation is dropped, if it is not sealed yet.
    pub(crate) reply: oneshot::Sender<Reply>,
    pub(crate) asked: Instant,
    /// Whose it is, if the queue was more than half full when it came.
    pub(crate) crowds: Option<Owner>,
}

/// A sealed batch: the steps for the backend, and who waits for which.
pub(crate) struct Plan {
    pub(crate) steps: Vec<Step>,
    /// The answers that the steps will have: one each, or one for each member.
    slots: Vec<Slot>,
    /// The first slot of each step.
    first: Vec<usize>,
    waiters: Vec<Waiter>,
}

/// Where one answer of a step goes.
struct Slot {
    /// Index into the plan's steps.
    step: usize,
    /// Of [`Increments`], which of its members; else 0.
    member: usize,
    waiters: usize,
}

struct Waiter {
    /// Index into the plan's slots.
    slot: usize,
    /// Of an increment its own delta, and the sum up to and including it within its slot.
    part: Option<Part>,
    kind: Kind,
    reply: oneshot::Sender<Reply>,
}

#[derive(Clone, Copy)]
struct Part {
    delta: i64,
    upto: i64,
}

impl Plan {
    /// Plans a batch in order of arrival.
    pub(crate) fn new(batch: Vec<Pending>) -> Self {
        let mut plan = Self {
            steps: Vec::with_capacity(batch.len()),
            slots: Vec::with_capacity(batch.len()),
            first: Vec::with_capacity(batch.len()),
            waiters: Vec::with_capacity(batch.len()),
        };
        let mut latest = Latest::default();
        let mut writes = Writes::default();
        for Pending { step, reply, .. } in batch {
            let kind = step.action.kind();
            let delta = match step.action {
                Action::Increment { delta, .. } => Some(delta),
                _ => None,
            };
            // The same write twice is one after the other: the second finds the first's record.
            let is_again = step.write.is_some_and(|write| !writes.insert(write));
            let before = latest.of(&plan.steps, &step).filter(|_| !is_again);
            let joined =
                before.and_then(|index| Some((index, join(plan.steps.get_mut(index)?, &step)?)));
            let (slot, upto) = match joined {
                Some((index, Joined::Sum(sum))) => (plan.slot_of(index), Some(sum)),
                Some((index, Joined::Answer)) => (plan.slot_of(index), None),
                Some((index, Joined::Member(member))) => {
                    plan.slots.push(Slot { step: index, member, waiters: 0 });
                    (plan.slots.len().saturating_sub(1), delta)
                }
                None => {
                    let index = plan.push(step);
                    latest.push(&plan.steps, index);
                    (plan.slots.len().saturating_sub(1), delta)
                }
            };
            let part = match (upto, delta) {
                (Some(upto), Some(delta)) => Some(Part { delta, upto }),
                _ => None,
            };
            if let Some(slot) = plan.slots.get_mut(slot) {
                slot.waiters = slot.waiters.saturating_add(1);
            }
            plan.waiters.push(Waiter { slot, part, kind, reply });
        }
        plan
    }

    /// Adds a step and its slot. An increment that is to be applied once is a member from the start.
    fn push(&mut self, mut step: Step) -> usize {
        if step.write.is_some() {
            become_members(&mut step);
        }
        self.steps.push(step);
        let index = self.steps.len().saturating_sub(1);
        self.first.push(self.slots.len());
        self.slots.push(Slot { step: index, member: 0, waiters: 0 });
        index
    }

    /// The slot of a step that has one.
    fn slot_of(&self, step: usize) -> usize {
        self.first.get(step).copied().unwrap_or(usize::MAX)
    }

    /// Number of operations in the batch.
    pub(crate) fn operations(&self) -> usize {
        self.waiters.len()
    }

    /// Answers every waiter whose result is final, telling `answered` of each. What is left is a
    /// plan of the operations whose merged addition was refused as a whole: a refusal changes
    /// nothing, so they are applied one by one and only those at fault fail.
    pub(crate) fn settle(
        self,
        results: &[Reply],
        mut answered: impl FnMut(Kind, &Reply),
    ) -> Option<Self> {
        let mut rest =
            Self { steps: Vec::new(), slots: Vec::new(), first: Vec::new(), waiters: Vec::new() };
        for waiter in self.waiters {
            let slot = self.slots.get(waiter.slot);
            let step = slot.and_then(|slot| self.steps.get(slot.step));
            let reply = slot.and_then(|slot| match results.get(slot.step)? {
                Ok(Outcome::Each(replies)) => replies.get(slot.member),
                result => Some(result),
            });
            let shared = slot.is_some_and(|slot| slot.waiters > 1);
            let reply = match (reply, waiter.part, step) {
                (Some(Err(Error::Rejected(_))), Some(Part { delta, .. }), Some(step)) if shared => {
                    let action = Action::Increment { delta, ttl: step.action.ttl() };
                    rest.push(Step { action, write: None, ..step.clone() });
                    let slot = rest.slots.len().saturating_sub(1);
                    if let Some(slot) = rest.slots.last_mut() {
                        slot.waiters = 1;
                    }
                    rest.waiters.push(Waiter { slot, part: None, ..waiter });
                    continue;
                }
                (Some(Ok(Outcome::Count(total))), Some(Part { upto, .. }), Some(step)) => {
                    let sum = sum(step, slot.map_or(0, |slot| slot.member));
                    // All deltas have one sign, so this lies between the value before and the
                    // total: neither operation can overflow.
                    Ok(Outcome::Count(total.wrapping_sub(sum).wrapping_add(upto)))
                }
                (Some(result), _, _) => result.clone(),
                (None, _, _) => {
                    Err(Error::unknown("the backend gave no answer for this operation"))
                }
            };
            answered(waiter.kind, &reply);
            // A caller that has gone meanwhile does not want its answer.
            let _ = waiter.reply.send(reply);
        }
        (!rest.steps.is_empty()).then_some(rest)
    }
}

/// What the increments of a slot add up to.
fn sum(step: &Step, member: usize) -> i64 {
    match &step.action {
        Action::Increment { delta, .. } => *delta,
        Action::Increments(increments) => match increments.members.get(member) {
            Some(member) => member.delta,
            None => unreachable_step(),
        },
        _ => unreachable_step(),
    }
}

/// Turns an increment into the first member of several.
fn become_members(step: &mut Step) {
    if let Action::Increment { delta, ttl } = step.action {
        let members = vec![Member { write: mem::take(&mut step.write), delta }];
        // Of the least number it is one less, which is as good a bound.
        let magnitude = delta.saturating_abs();
        step.action = Action::Increments(Increments { members, magnitude, ttl });
    }
}

/// The write ids of a batch.
#[derive(Default)]
struct Writes(HashTable<WriteId>);

impl Writes {
    /// Whether it is the first time.
    fn insert(&mut self, write: WriteId) -> bool {
        // A request's part is a digest already.
        let hash = |write: &WriteId| {
            let request = write.request.first_chunk().copied().unwrap_or_default();
            u64::from_be_bytes(request) ^ write.write.cast_unsigned()
        };
        let same = |other: &WriteId| other.request == write.request && other.write == write.write;
        match self.0.entry(hash(&write), same, hash) {
            hashbrown::hash_table::Entry::Occupied(_) => false,
            hashbrown::hash_table::Entry::Vacant(vacant) => {
                vacant.insert(write);
                true
            }
        }
    }
}

/// A step with a part-share is an increment by construction of the plan.
#[allow(clippy::panic, reason = "a broken plan must never answer anybody; the lane task ends")]
fn unreachable_step() -> ! {
    panic!("a merged step is always an increment")
}

/// The latest step of each key, for the next operation on it to join or to follow.
#[derive(Default)]
struct Latest {
    /// Places of steps, found by their bucket and key.
    places: HashTable<usize>,
    /// Clients choose keys, so the hash is keyed.
    hasher: RandomState,
}

impl Latest {
    /// The latest step on the key of `step`. A hot key is most often that of the step before, which
    /// needs no hash.
    fn of(&self, steps: &[Step], step: &Step) -> Option<usize> {
        if steps.last().is_some_and(|last| same_key(last, step)) {
            return steps.len().checked_sub(1);
        }
        let same = |place: &usize| steps.get(*place).is_some_and(|other| same_key(other, step));
        self.places.find(self.hash(step), same).copied()
    }

    /// Notes a step that has been put at `place`.
    fn push(&mut self, steps: &[Step], place: usize) {
        let Some(step) = steps.get(place) else { return };
        let same = |other: &usize| steps.get(*other).is_some_and(|other| same_key(other, step));
        let hash =
            |place: &usize| steps.get(*place).map_or(0, |step| self.hasher.hash_one(name(step)));
        *self
            .places
            .entry(self.hasher.hash_one(name(step)), same, hash)
            .or_insert(place)
            .get_mut() = place;
    }

    fn hash(&self, step: &Step) -> u64 {
        self.hasher.hash_one(name(step))
    }
}

fn name(step: &Step) -> (&str, &str) {
    (step.bucket.as_str(), &step.key)
}

fn same_key(a: &Step, b: &Step) -> bool {
    name(a) == name(b)
}

/// How an operation shares the step before it.
enum Joined {
    /// As part of an addition that now reaches this sum.
    Sum(i64),
    /// As this one of several increments.
    Member(usize),
    /// By getting the same answer.
    Answer,
}

/// Joins an action to the step before it on the same key; `None` where it must follow as a step of
/// its own.
fn join(into: &mut Step, step: &Step) -> Option<Joined> {
    if let Action::Increment { delta, ttl } = step.action {
        return join_increment(into, delta, ttl, step.write);
    }
    // What is recorded is recorded by itself.
    if into.write.is_some() || step.write.is_some() {
        return None;
    }
    match (&mut into.action, &step.action) {
        (before, action) if action.kind().is_read() && before == action => Some(Joined::Answer),
        (before, action) if is_blind(before) && is_blind(action) => {
            *before = action.clone();
            Some(Joined::Answer)
        }
        _ => None,
    }
}

fn join_increment(
    into: &mut Step,
    delta: i64,
    ttl: Option<Duration>,
    write: Option<WriteId>,
) -> Option<Joined> {
    if into.action.kind() != Kind::Increment || into.action.ttl() != ttl {
        return None;
    }
    if let Action::Increment { delta: sum, .. } = &mut into.action
        && write.is_none()
        && same_sign(*sum, delta)
    {
        *sum = sum.checked_add(delta)?;
        return Some(Joined::Sum(*sum));
    }
    let magnitude = match &into.action {
        Action::Increment { delta: sum, .. } => sum.checked_abs()?,
        Action::Increments(increments) => increments.magnitude,
        _ => return None,
    };
    let magnitude = magnitude.checked_add(delta.checked_abs()?)?;
    become_members(into);
    let Action::Increments(increments) = &mut into.action else { return None };
    increments.magnitude = magnitude;
    increments.members.push(Member { write, delta });
    Some(Joined::Member(increments.members.len().saturating_sub(1)))
}

/// Whether an action writes whatever was there before, and says no more than that it did.
fn is_blind(action: &Action) -> bool {
    matches!(action.kind(), Kind::Set | Kind::Delete)
}

fn same_sign(a: i64, b: i64) -> bool {
    (a >= 0 && b >= 0) || (a <= 0 && b <= 0)
}

#[cfg(test)]
mod tests;
