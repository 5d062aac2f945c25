//! Combined batches against one operation at a time.

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
            step: Step { bucket, key: key.into(), action, write: None },
            reply,
            asked: Instant::now(),
            crowds: None,
        },
        answer,
    )
}

fn add(delta: i64) -> Action {
    Action::Increment { delta, ttl: None }
}

fn set(value: &'static str) -> Action {
    Action::Set { value: value.into(), ttl: None }
}

/// A backend in a map, one step at a time.
struct Map<'a>(&'a mut HashMap<Box<str>, Bytes>);

impl semantics::Values for Map<'_> {
    type Error = std::convert::Infallible;

    fn now(&self) -> semantics::Moment {
        0
    }

    fn entry(&mut self, step: &Step) -> Result<Option<semantics::Entry>, Self::Error> {
        let held = self.0.get(&step.key).cloned();
        Ok(held.map(|value| semantics::Entry { value, expires: None }))
    }

    fn change(&mut self, step: &Step, change: semantics::Change) -> Result<(), Self::Error> {
        match change {
            semantics::Change::Keep => {}
            semantics::Change::Put(entry) => {
                self.0.insert(step.key.clone(), entry.value);
            }
            semantics::Change::Remove => drop(self.0.remove(&step.key)),
        }
        Ok(())
    }

    fn find(&mut self, _: &WriteId) -> Result<semantics::Found, Self::Error> {
        Ok(semantics::Found::Nothing)
    }

    fn record(&mut self, _: &WriteId, _: crate::idempotency::Record) -> Result<(), Self::Error> {
        Ok(())
    }
}

fn apply(values: &mut HashMap<Box<str>, Bytes>, steps: &[Step]) -> Vec<Reply> {
    let mut values = Map(values);
    let apply = |step| semantics::apply_step(&mut values, step);
    steps.iter().map(apply).map(|applied| applied.unwrap_or_else(|error| match error {})).collect()
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
    let (answers, steps) =
        combined(&mut values, vec![("a", add(1)), ("b", add(5)), ("a", add(2)), ("a", add(3))]);
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
        vec![("a", add(1)), ("a", set("0")), ("a", add(1)), ("a", Action::Get), ("a", Action::Get)],
    );
    assert_eq!(steps, 4, "two reads next to each other share one");
    assert_eq!(answers[0], Ok(Outcome::Count(11)));
    assert_eq!(answers[2], Ok(Outcome::Count(1)));
    assert_eq!(answers[4], Ok(Outcome::Value(Some("1".into()))));
}

#[test]
fn of_writes_that_look_at_nothing_the_last_is_sent_for_all() {
    let (writes, answers): (Vec<_>, Vec<_>) =
        [set("1"), Action::Delete, set("2"), add(1), set("3"), Action::Delete]
            .map(|action| pending("key", action))
            .into_iter()
            .unzip();
    let plan = Plan::new(writes);
    let actions: Vec<_> = plan.steps.iter().map(|step| step.action.clone()).collect();
    assert_eq!(actions, [set("2"), add(1), Action::Delete]);
    let results = [Ok(Outcome::Done), Ok(Outcome::Count(3)), Ok(Outcome::Done)];
    assert!(plan.settle(&results, |_, _| {}).is_none());
    let answers: Vec<_> =
        answers.into_iter().map(|mut answer| answer.try_recv().unwrap()).collect();
    assert_eq!(answers.iter().filter(|answer| **answer == Ok(Outcome::Done)).count(), 5);
    assert_eq!(answers[3], Ok(Outcome::Count(3)));
}

fn write(number: u8) -> Option<WriteId> {
    let bucket = Bucket::new("test").unwrap();
    Some(crate::Scope::new([number; 16], [2; 16]).response_id(&bucket))
}

fn plan(batch: &[(Action, Option<WriteId>)]) -> (Plan, Vec<oneshot::Receiver<Reply>>) {
    let (pending, answers): (Vec<_>, Vec<_>) = batch
        .iter()
        .map(|(action, write)| {
            let (mut pending, answer) = pending("a", action.clone());
            pending.step.write = *write;
            (pending, answer)
        })
        .unzip();
    (Plan::new(pending), answers)
}

#[test]
fn increments_that_are_applied_once_share_a_step_with_all_others() {
    let batch = [(add(1), None), (add(2), None), (add(-5), write(1)), (add(4), write(2))];
    let (plan, answers) = plan(&batch);
    let [step] = &plan.steps[..] else { panic!("{:?}", plan.steps) };
    let members =
        [(None, 3), (write(1), -5), (write(2), 4)].map(|(write, delta)| Member { write, delta });
    assert_eq!(
        step.action,
        Action::Increments(Increments { members: members.to_vec(), magnitude: 12, ttl: None })
    );
    let replay = Outcome::Replay(Box::new(Ok(Outcome::Count(7))));
    let each = vec![Ok(Outcome::Count(13)), Ok(Outcome::Count(8)), Ok(replay.clone())];
    assert!(plan.settle(&[Ok(Outcome::Each(each))], |_, _| {}).is_none());
    let answers: Vec<_> =
        answers.into_iter().map(|mut answer| answer.try_recv().unwrap()).collect();
    let count = |count| Ok(Outcome::Count(count));
    assert_eq!(answers, [count(11), count(13), count(8), Ok(replay)]);
}

#[test]
fn a_sum_that_is_refused_among_others_is_applied_one_by_one() {
    let (plan, _answers) = plan(&[(add(1), None), (add(2), None), (add(1), write(1))]);
    let each = vec![Err(crate::Rejection::Overflow.into()), Ok(Outcome::Count(3))];
    let rest = plan.settle(&[Ok(Outcome::Each(each))], |_, _| {}).unwrap();
    let actions: Vec<_> = rest.steps.iter().map(|step| step.action.clone()).collect();
    assert_eq!(actions, [add(1), add(2)]);
}

#[test]
fn one_write_twice_is_two_steps() {
    let (plan, _answers) = plan(&[(add(1), write(1)), (add(1), write(1)), (add(1), write(2))]);
    assert_eq!(plan.steps.len(), 2, "{:?}", plan.steps);
}

#[test]
fn another_time_to_live_is_another_step() {
    let lives = |seconds| {
        let ttl = Some(Duration::from_secs(seconds));
        (Action::Increment { delta: 1, ttl }, None)
    };
    let (plan, _answers) = plan(&[lives(1), lives(1), lives(2), (add(1), write(1))]);
    assert_eq!(plan.steps.len(), 3);
}

#[test]
fn opposite_signs_are_applied_one_by_one_in_one_step() {
    let mut values = HashMap::from([("a".into(), Bytes::from((i64::MAX - 1).to_string()))]);
    let (answers, steps) =
        combined(&mut values, vec![("a", add(1)), ("a", add(1)), ("a", add(-1)), ("a", add(1))]);
    assert_eq!(steps, 1);
    let overflow = || Err(Error::Rejected(crate::Rejection::Overflow));
    assert_eq!(answers[2], Ok(Outcome::Count(i64::MAX - 2)));
    assert_eq!(answers[3], Ok(Outcome::Count(i64::MAX - 1)));
    assert_eq!(answers[0], Ok(Outcome::Count(i64::MAX)), "after the others, as their sum failed");
    assert_eq!(answers[1], overflow());
}

#[test]
fn when_the_sum_is_refused_only_those_at_fault_fail() {
    let mut values = HashMap::from([("a".into(), Bytes::from((i64::MAX - 3).to_string()))]);
    let (answers, steps) = combined(&mut values, vec![("a", add(2)), ("a", add(2)), ("a", add(1))]);
    assert_eq!(steps, 1);
    assert_eq!(answers[0], Ok(Outcome::Count(i64::MAX - 1)));
    assert_eq!(answers[1], Err(Error::Rejected(crate::Rejection::Overflow)));
    assert_eq!(answers[2], Ok(Outcome::Count(i64::MAX)));
}

#[test]
fn a_sum_that_would_overflow_is_sealed_early() {
    let mut values = HashMap::new();
    let (answers, steps) = combined(&mut values, vec![("a", add(i64::MAX)), ("a", add(1))]);
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
        6 => (-3_i64..=3).prop_map(add),
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
        let batch = deltas.iter().map(|delta| ("a", add(*delta))).collect();
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
