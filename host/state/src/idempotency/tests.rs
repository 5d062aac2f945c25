//! Which writes are the same.

use super::{
    record::{forgone, replay},
    *,
};

fn bucket(name: &str) -> Bucket {
    Bucket::new(name).unwrap()
}

fn scope() -> Scope {
    Scope::new([1; 16], [2; 16])
}

const ADD: Action = Action::Increment { delta: 1, ttl: None };
const ADD_FIVE: Action = Action::Increment { delta: 5, ttl: None };
const ADD_SIX: Action = Action::Increment { delta: 6, ttl: None };

fn begin(scope: &Scope, action: &Action) -> Attempt {
    scope.begin(&bucket("b"), "k", action, Order::Fixed).unwrap()
}

/// Ends and settles a write; gives what its caller is told.
fn end(mut attempt: Attempt, reply: Reply) -> (Reply, bool) {
    let told = attempt.end(reply);
    attempt.settle();
    told
}

/// The id that a write gets, which then ends so.
fn write(scope: &Scope, key: &str, action: &Action, reply: Reply) -> i64 {
    let attempt = scope.begin(&bucket("b"), key, action, Order::Fixed).unwrap();
    assert!(scope.unsettled(&attempt).is_none(), "an earlier write is to be closed");
    let id = attempt.write.write;
    drop(end(attempt, reply));
    id
}

fn applied() -> Reply {
    Ok(Outcome::Count(1))
}

#[test]
fn the_same_operation_after_a_failure_is_the_same_write() {
    for failure in [Error::not_applied("down"), Error::unknown("cut")] {
        let scope = scope();
        let first = write(&scope, "k", &ADD, Err(failure));
        assert_eq!(write(&scope, "k", &ADD, applied()), first, "asked again");
        assert_ne!(write(&scope, "k", &ADD, applied()), first, "the next one");
    }
}

#[test]
fn a_write_that_was_abandoned_is_the_same_when_asked_again() {
    let scope = scope();
    let attempt = begin(&scope, &ADD);
    let first = attempt.write.write;
    drop(attempt);
    assert_eq!(write(&scope, "k", &ADD, applied()), first);
}

#[test]
fn another_operation_after_a_failure_closes_the_failed_position_first() {
    let scope = scope();
    let first = write(&scope, "k", &ADD, Err(Error::unknown("cut")));
    let other = begin(&scope, &ADD_FIVE);
    let second = other.write.write;
    let failed = scope.unsettled(&other).unwrap();
    assert_eq!(failed.write.write, first);
    drop(end(failed, Err(Error::not_applied("down"))));
    drop(other);
    let other = begin(&scope, &ADD_FIVE);
    assert_eq!(other.write.write, second, "it keeps its position");
    let failed = scope.unsettled(&other).expect("still open");
    drop(end(failed, Ok(Outcome::Forgone)));
    assert!(scope.unsettled(&other).is_none());
    drop(end(other, applied()));
    assert_ne!(second, first);
    assert_ne!(write(&scope, "other", &ADD, applied()), second, "other keys are not concerned");
}

#[test]
fn a_write_that_was_not_sent_as_an_earlier_one_is_open_has_its_position() {
    let scope = scope();
    let first = write(&scope, "k", &ADD, Err(Error::unknown("cut")));
    let second = begin(&scope, &ADD_FIVE).write.write;
    let third = begin(&scope, &ADD_SIX);
    let mut closed = Vec::new();
    while let Some(failed) = scope.unsettled(&third) {
        closed.push(failed.write.write);
        drop(end(failed, Ok(Outcome::Forgone)));
    }
    closed.sort_unstable();
    let mut both = vec![first, second];
    both.sort_unstable();
    assert_eq!(closed, both);
    assert!(!both.contains(&third.write.write));
}

#[test]
fn a_write_that_an_earlier_run_went_past_stays_so_when_asked_again() {
    let scope = scope();
    let closed = Record::new(&Ok(Outcome::Forgone));
    let first = write(&scope, "k", &ADD, closed.reply(&ADD));
    assert_eq!(write(&scope, "k", &ADD, closed.reply(&ADD)), first);
    let other = begin(&scope, &ADD_FIVE);
    assert_ne!(other.write.write, first);
    let failed = scope.unsettled(&other).unwrap();
    assert_eq!(failed.write.write, first);
    assert_eq!(end(failed, closed.reply(&Action::Forgo)).0, Ok(Outcome::Forgone));
    assert!(scope.unsettled(&other).is_none());
}

#[test]
fn a_recorded_write_that_is_not_settled_is_the_same_when_asked_again() {
    let scope = scope();
    let mut attempt = begin(&scope, &ADD);
    let first = attempt.write.write;
    drop(attempt.end(applied()));
    assert!(attempt.is_recorded());
    drop(attempt);
    assert_eq!(write(&scope, "k", &ADD, applied()), first);
}

#[test]
fn a_record_is_replayed_to_whatever_is_asked_again() {
    let record = Record::new(&Ok(Outcome::Count(7)));
    assert_eq!(record.reply(&ADD), replay(Ok(Outcome::Count(7))));
    assert_eq!(record.reply(&Action::Forgo), replay(Ok(Outcome::Forgone)));
    let closed = Record::new(&Ok(Outcome::Forgone));
    assert_eq!(closed.reply(&ADD), replay(Err(forgone())));
    let scope = scope();
    let again = || end(begin(&scope, &ADD), record.reply(&ADD));
    assert_eq!(again(), (Ok(Outcome::Count(7)), true), "the first");
    assert_eq!(again(), (Ok(Outcome::Count(7)), false));
    assert_eq!((scope.recorded().new, scope.recorded().replayed), (0, 2));
}

#[test]
fn positions_count_for_each_key_by_itself() {
    let ids = |keys: &[&str]| -> Vec<i64> {
        let scope = scope();
        keys.iter().map(|key| write(&scope, key, &ADD, applied())).collect()
    };
    let first = ids(&["x", "z", "x", "y"]);
    assert!(first.iter().all(|write| *write >= 0));
    assert_eq!(std::collections::HashSet::<_>::from_iter(&first).len(), 4);
    let again = ids(&["y", "x", "x"]);
    assert_eq!(again, [first[3], first[0], first[2]], "whatever comes in between");
}

#[test]
fn a_request_is_another_in_each_bucket_and_nothing_else_changes_it() {
    let id = |name| scope().response_id(&bucket(name)).request;
    assert_ne!(id("a"), id("b"));
    assert_eq!(id("a"), Scope::new([1; 16], [9; 16]).response_id(&bucket("a")).request);
}

fn begin_any(scope: &Scope, action: &Action) -> Result<Attempt, Error> {
    scope.begin(&bucket("b"), "k", action, Order::Any)
}

#[test]
fn writes_begun_in_any_order_are_the_same_by_what_they_add() {
    let ids = |actions: &[&Action]| -> Vec<i64> {
        let scope = scope();
        // All on their way before the first one ends.
        let attempts: Vec<_> = actions.iter().map(|a| begin_any(&scope, a).unwrap()).collect();
        attempts.iter().map(|attempt| attempt.write.write).collect()
    };
    let [one, five, again] = ids(&[&ADD, &ADD_FIVE, &ADD])[..] else { panic!() };
    assert_eq!(ids(&[&ADD_FIVE, &ADD, &ADD]), [five, one, again]);
    assert_eq!(std::collections::HashSet::from([one, five, again]).len(), 3);
    assert!([one, five, again].iter().all(|write| *write >= 0));
    let within = |max| Action::IncrementWithin { delta: 1, min: 0, max, ttl: None };
    let (nine, ten) = (within(9), within(10));
    assert_ne!(ids(&[&nine]), ids(&[&ten]));
    let set = |value: &'static str| Action::Set { value: value.into(), ttl: None };
    assert_eq!(ids(&[&set("a")]), ids(&[&set("b")]), "what is set may be read or be the time");
    assert_ne!(ids(&[&set("a")]), ids(&[&Action::Delete]));
    assert_ne!(ids(&[&ADD])[0], write(&scope(), "k", &ADD, applied()), "nor is it a position");
}

#[test]
fn many_failed_writes_of_one_sort_are_the_same_when_asked_again() {
    let scope = scope();
    let failed: Vec<_> = (0..3).map(|_| begin_any(&scope, &ADD).unwrap()).collect();
    let ids: Vec<i64> = failed.iter().map(|attempt| attempt.write.write).collect();
    // They end in another order than they began.
    failed.into_iter().rev().for_each(drop);
    let again: Vec<_> = (0..3).map(|_| begin_any(&scope, &ADD).unwrap()).collect();
    assert!(again.iter().all(|attempt| scope.unsettled(attempt).is_none()), "nothing is closed");
    assert_eq!(again.iter().map(|attempt| attempt.write.write).collect::<Vec<_>>(), ids);
}

#[test]
fn no_other_write_of_the_key_follows_one_that_failed_among_many() {
    let scope = scope();
    let attempt = begin_any(&scope, &ADD).unwrap();
    let other = begin_any(&scope, &ADD_FIVE).unwrap();
    drop(end(attempt, Err(Error::unknown("cut"))));
    drop(end(other, applied()));
    assert!(matches!(begin_any(&scope, &ADD_SIX), Err(Error::NotApplied(_))));
    assert!(scope.begin(&bucket("b"), "other", &ADD_SIX, Order::Any).is_ok());
    drop(end(begin_any(&scope, &ADD).unwrap(), applied()));
    assert!(begin_any(&scope, &ADD_SIX).is_ok(), "the failed one was asked again and is recorded");
}
