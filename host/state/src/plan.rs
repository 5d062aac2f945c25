//! Which operations of a batch share a step, and whose share of the result is whose.
//!
//! A batch holds operations that were asked for and not yet answered, so any order of them is a
//! legal one; the plan keeps the order of arrival for each key. Three kinds merge with their
//! neighbour on the same key: equal reads, which share one answer; writes that look at nothing (set,
//! delete), of which the last is all that anybody can see, and is sent for all; and increments, whose
//! deltas d1…dn become one addition S. The backend returns the total T, and caller i gets
//! T − S + (d1 + … + di): the values of one at a time, distinct and without gaps.
//!
//! Only increments of one sign merge. With mixed signs a caller's own value could leave the range
//! of `i64` although the total does not, and one at a time that caller would have been refused.

use std::hash::{BuildHasher as _, RandomState};

use hashbrown::HashTable;
use tokio::{sync::oneshot, time::Instant};

use crate::{
    error::Error,
    operation::{Action, Kind, Outcome, Step},
};

/// One caller's answer.
pub(crate) type Reply = Result<Outcome, Error>;

/// An operation in a queue.
pub(crate) struct Pending {
    pub(crate) step: Step,
    /// Closed when the caller has gone: then the operation is dropped, if it is not sealed yet.
    pub(crate) reply: oneshot::Sender<Reply>,
    pub(crate) asked: Instant,
}

/// A sealed batch: the steps for the backend, and who waits for which.
pub(crate) struct Plan {
    pub(crate) steps: Vec<Step>,
    waiters: Vec<Waiter>,
}

struct Waiter {
    /// Index into `steps`.
    step: usize,
    share: Share,
    kind: Kind,
    reply: oneshot::Sender<Reply>,
}

/// What a waiter gets of its step's outcome.
enum Share {
    Whole,
    /// Its part of a merged addition: its own delta, and the sum up to and including it.
    Part {
        delta: i64,
        upto: i64,
    },
}

impl Plan {
    /// Plans a batch in order of arrival.
    pub(crate) fn new(batch: Vec<Pending>) -> Self {
        let mut plan = Self {
            steps: Vec::with_capacity(batch.len()),
            waiters: Vec::with_capacity(batch.len()),
        };
        let mut latest = Latest::default();
        for Pending { step, reply, .. } in batch {
            let kind = step.action.kind();
            let delta = match step.action {
                Action::Increment(delta) => Some(delta),
                _ => None,
            };
            let before = latest.of(&plan.steps, &step);
            let joined =
                before.and_then(|index| Some((index, join(plan.steps.get_mut(index)?, &step)?)));
            let (index, sum) = match joined {
                Some((index, Joined::Sum(sum))) => (index, Some(sum)),
                Some((index, Joined::Answer)) => (index, None),
                None => {
                    let index = plan.push(step);
                    latest.push(&plan.steps, index);
                    (index, delta)
                }
            };
            let share = match (sum, delta) {
                (Some(upto), Some(delta)) => Share::Part { delta, upto },
                _ => Share::Whole,
            };
            plan.waiters.push(Waiter { step: index, share, kind, reply });
        }
        plan
    }

    fn push(&mut self, step: Step) -> usize {
        self.steps.push(step);
        self.steps.len().saturating_sub(1)
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
        let mut merged = vec![0_usize; self.steps.len()];
        for waiter in &self.waiters {
            if let Some(count) = merged.get_mut(waiter.step) {
                *count = count.saturating_add(1);
            }
        }
        let mut rest = Self { steps: Vec::new(), waiters: Vec::new() };
        for waiter in self.waiters {
            let result = results.get(waiter.step);
            let shared = merged.get(waiter.step).is_some_and(|count| *count > 1);
            let step = self.steps.get(waiter.step);
            let reply = match (result, &waiter.share, step) {
                (Some(Err(Error::Rejected(_))), Share::Part { delta, .. }, Some(step))
                    if shared =>
                {
                    let alone = Step { action: Action::Increment(*delta), ..step.clone() };
                    let index = rest.push(alone);
                    rest.waiters.push(Waiter { step: index, share: Share::Whole, ..waiter });
                    continue;
                }
                (Some(Ok(Outcome::Count(total))), Share::Part { upto, .. }, Some(step)) => {
                    let Action::Increment(sum) = step.action else { unreachable_step() };
                    // All deltas have one sign, so this lies between the value before and the
                    // total: neither operation can overflow.
                    Ok(Outcome::Count(total.wrapping_sub(sum).wrapping_add(*upto)))
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
    /// By getting the same answer.
    Answer,
}

/// Joins an action to the step before it on the same key; `None` where it must follow as a step of
/// its own.
fn join(into: &mut Step, step: &Step) -> Option<Joined> {
    // What is to happen once is recorded by itself.
    if into.token.is_some() || step.token.is_some() {
        return None;
    }
    match (&mut into.action, &step.action) {
        (Action::Increment(sum), Action::Increment(delta)) if same_sign(*sum, *delta) => {
            *sum = sum.checked_add(*delta)?;
            Some(Joined::Sum(*sum))
        }
        (before, action) if action.kind().is_read() && before == action => Some(Joined::Answer),
        (before, action) if is_blind(before) && is_blind(action) => {
            *before = action.clone();
            Some(Joined::Answer)
        }
        _ => None,
    }
}

/// Whether an action writes whatever was there before, and says no more than that it did.
fn is_blind(action: &Action) -> bool {
    matches!(action.kind(), Kind::Set | Kind::Delete)
}

fn same_sign(a: i64, b: i64) -> bool {
    (a >= 0 && b >= 0) || (a <= 0 && b <= 0)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;
    use crate::{Bucket, semantics};

    fn pending(key: &str, action: Action) -> (Pending, oneshot::Receiver<Reply>) {
        let (reply, answer) = oneshot::channel();
        let bucket = Bucket::new("test").unwrap();
        (
            Pending {
                step: Step { bucket, key: key.into(), action, token: None },
                reply,
                asked: Instant::now(),
            },
            answer,
        )
    }

    fn set(value: &'static str) -> Action {
        Action::Set { value: value.into(), ttl: None }
    }

    /// A backend in a map, one step at a time.
    fn apply(values: &mut HashMap<Box<str>, Bytes>, steps: &[Step]) -> Vec<Reply> {
        steps
            .iter()
            .map(|step| {
                let held = values.get(&step.key).cloned();
                let held = held.map(|value| semantics::Entry { value, expires: None });
                let (outcome, change) = semantics::apply(&step.action, held, 0)?;
                match change {
                    semantics::Change::Keep => {}
                    semantics::Change::Put(entry) => {
                        values.insert(step.key.clone(), entry.value);
                    }
                    semantics::Change::Remove => drop(values.remove(&step.key)),
                }
                Ok(outcome)
            })
            .collect()
    }

    /// Runs a batch through a plan; gives the answers in order, and the number of steps.
    fn combined(
        values: &mut HashMap<Box<str>, Bytes>,
        batch: Vec<(&str, Action)>,
    ) -> (Vec<Reply>, usize) {
        let (pending, answers): (Vec<_>, Vec<_>) =
            batch.into_iter().map(|(key, action)| pending(key, action)).unzip();
        let plan = Plan::new(pending);
        let steps = plan.steps.len();
        let results = apply(values, &plan.steps);
        if let Some(rest) = plan.settle(&results, |_, _| {}) {
            let results = apply(values, &rest.steps);
            assert!(rest.settle(&results, |_, _| {}).is_none(), "one by one, all is final");
        }
        (answers.into_iter().map(|mut answer| answer.try_recv().unwrap()).collect(), steps)
    }

    #[test]
    fn neighbouring_increments_become_one_step_and_each_gets_its_own_value() {
        let mut values = HashMap::from([("a".into(), Bytes::from("10"))]);
        let (answers, steps) = combined(
            &mut values,
            vec![
                ("a", Action::Increment(1)),
                ("b", Action::Increment(5)),
                ("a", Action::Increment(2)),
                ("a", Action::Increment(3)),
            ],
        );
        assert_eq!(steps, 2);
        let counts = [11, 5, 13, 16].map(|count| Ok(Outcome::Count(count)));
        assert_eq!(answers, counts);
        assert_eq!(values["a"], "16");
    }

    #[test]
    fn a_reset_keeps_its_place_between_increments() {
        let mut values = HashMap::from([("a".into(), Bytes::from("10"))]);
        let (answers, steps) = combined(
            &mut values,
            vec![
                ("a", Action::Increment(1)),
                ("a", set("0")),
                ("a", Action::Increment(1)),
                ("a", Action::Get),
                ("a", Action::Get),
            ],
        );
        assert_eq!(steps, 4, "two reads next to each other share one");
        assert_eq!(answers[0], Ok(Outcome::Count(11)));
        assert_eq!(answers[2], Ok(Outcome::Count(1)));
        assert_eq!(answers[4], Ok(Outcome::Value(Some("1".into()))));
    }

    #[test]
    fn of_writes_that_look_at_nothing_the_last_is_sent_for_all() {
        let (writes, answers): (Vec<_>, Vec<_>) =
            [set("1"), Action::Delete, set("2"), Action::Increment(1), set("3"), Action::Delete]
                .map(|action| pending("key", action))
                .into_iter()
                .unzip();
        let plan = Plan::new(writes);
        let actions: Vec<_> = plan.steps.iter().map(|step| step.action.clone()).collect();
        assert_eq!(actions, [set("2"), Action::Increment(1), Action::Delete]);
        let results = [Ok(Outcome::Done), Ok(Outcome::Count(3)), Ok(Outcome::Done)];
        assert!(plan.settle(&results, |_, _| {}).is_none());
        let answers: Vec<_> =
            answers.into_iter().map(|mut answer| answer.try_recv().unwrap()).collect();
        assert_eq!(answers.iter().filter(|answer| **answer == Ok(Outcome::Done)).count(), 5);
        assert_eq!(answers[3], Ok(Outcome::Count(3)));
    }

    #[test]
    fn what_is_to_happen_once_merges_with_nothing() {
        let tokens = [None, Some(crate::Once::new([1; 16], [2; 16]).answer()), None];
        let (pending, _answers): (Vec<_>, Vec<_>) = tokens
            .into_iter()
            .map(|token| {
                let (mut pending, answer) = pending("a", Action::Increment(1));
                pending.step.token = token;
                (pending, answer)
            })
            .unzip();
        assert_eq!(Plan::new(pending).steps.len(), 3);
    }

    #[test]
    fn opposite_signs_do_not_merge() {
        let mut values = HashMap::from([("a".into(), Bytes::from(i64::MAX.to_string()))]);
        let (answers, steps) =
            combined(&mut values, vec![("a", Action::Increment(1)), ("a", Action::Increment(-1))]);
        assert_eq!(steps, 2);
        assert_eq!(answers[0], Err(Error::Rejected(crate::Rejection::Overflow)));
        assert_eq!(answers[1], Ok(Outcome::Count(i64::MAX - 1)));
    }

    #[test]
    fn when_the_sum_is_refused_only_those_at_fault_fail() {
        let mut values = HashMap::from([("a".into(), Bytes::from((i64::MAX - 3).to_string()))]);
        let (answers, steps) = combined(
            &mut values,
            vec![
                ("a", Action::Increment(2)),
                ("a", Action::Increment(2)),
                ("a", Action::Increment(1)),
            ],
        );
        assert_eq!(steps, 1);
        assert_eq!(answers[0], Ok(Outcome::Count(i64::MAX - 1)));
        assert_eq!(answers[1], Err(Error::Rejected(crate::Rejection::Overflow)));
        assert_eq!(answers[2], Ok(Outcome::Count(i64::MAX)));
    }

    #[test]
    fn a_sum_that_would_overflow_is_sealed_early() {
        let mut values = HashMap::new();
        let (answers, steps) = combined(
            &mut values,
            vec![("a", Action::Increment(i64::MAX)), ("a", Action::Increment(1))],
        );
        assert_eq!(steps, 2);
        assert_eq!(answers[0], Ok(Outcome::Count(i64::MAX)));
        assert_eq!(answers[1], Err(Error::Rejected(crate::Rejection::Overflow)));
    }

    #[test]
    fn a_backend_that_answers_too_little_leaves_the_rest_unknown() {
        let (first, _) = pending("a", Action::Get);
        let (second, mut answer) = pending("b", Action::Get);
        let plan = Plan::new(vec![first, second]);
        plan.settle(&[Ok(Outcome::Value(None))], |_, _| {});
        assert!(matches!(answer.try_recv().unwrap(), Err(Error::Unknown(_))));
    }

    fn action() -> impl Strategy<Value = Action> {
        let value = prop_oneof![Just("0"), Just("7")];
        prop_oneof![
            6 => (-3_i64..=3).prop_map(Action::Increment),
            1 => Just(Action::Get),
            1 => Just(Action::Exists),
            1 => Just(Action::Delete),
            1 => value.clone().prop_map(set),
            1 => (proptest::option::of(value.clone()), value).prop_map(|(expected, value)| {
                Action::Swap { expected: expected.map(Into::into), value: value.into() }
            }),
        ]
    }

    fn key() -> impl Strategy<Value = &'static str> {
        prop_oneof![Just("a"), Just("b"), Just("c")]
    }

    proptest! {
        /// Where nothing is refused, a combined batch answers exactly what its operations would
        /// have been answered one at a time, and leaves the same values.
        #[test]
        fn combining_equals_one_at_a_time(
            batch in proptest::collection::vec((key(), action()), 1..40),
        ) {
            let mut one_by_one = HashMap::new();
            let expected: Vec<_> = batch
                .iter()
                .flat_map(|(key, action)| {
                    let (pending, _) = pending(key, action.clone());
                    apply(&mut one_by_one, &[pending.step])
                })
                .collect();
            let mut values = HashMap::new();
            let (answers, _) = combined(&mut values, batch.clone());
            prop_assert_eq!(answers, expected);
            prop_assert_eq!(values, one_by_one);
        }

        /// Where sums are refused, what was acknowledged is what was added: refused operations
        /// are applied after the rest of their batch, which is another legal order.
        #[test]
        fn what_is_acknowledged_is_what_is_added(
            deltas in proptest::collection::vec(
                prop_oneof![
                    -3_i64..=3,
                    Just(i64::MAX),
                    Just(i64::MIN),
                    Just(i64::MAX / 2),
                    Just(i64::MIN / 2),
                ],
                1..30,
            ),
        ) {
            let mut values = HashMap::new();
            let batch = deltas.iter().map(|delta| ("a", Action::Increment(*delta))).collect();
            let (answers, _) = combined(&mut values, batch);
            let acknowledged: i128 = answers
                .iter()
                .zip(&deltas)
                .filter(|(answer, _)| answer.is_ok())
                .map(|(_, delta)| i128::from(*delta))
                .sum();
            let stored = values.get("a").map_or("0".into(), |value| String::from_utf8_lossy(value));
            prop_assert_eq!(stored.parse::<i128>().unwrap(), acknowledged);
            for answer in answers {
                let refused = Err(Error::Rejected(crate::Rejection::Overflow));
                prop_assert!(matches!(answer, Ok(Outcome::Count(_))) || answer == refused);
            }
        }
    }
}
