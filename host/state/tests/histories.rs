//! What is asked for at once is answered, on every backend, as if one had come after another.
//!
//! Random groups of operations are awaited together, over two workers. For each key there must be
//! an order of its operations that explains every answer and the value that is left, from the value
//! that was there before.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "a test that fails should stop where it fails"
)]

use std::{
    collections::HashSet,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use bytes::Bytes;
use futures_util::future::join_all;
use proptest::{
    prelude::*,
    test_runner::{Config, TestCaseError, TestRunner},
};
use tally_state::{Bucket, Error, Handle, Metrics, Options, Rejection, State, Swapped};
use tally_testkit::{Durability, Postgres, Redis};

const KEYS: [&str; 3] = ["a", "b", "c:%d*"];

#[derive(Clone, Debug)]
enum Operation {
    Get,
    Exists,
    Set(Bytes),
    Delete,
    Increment(i64),
    Swap(Option<Bytes>, Bytes),
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Answer {
    Value(Option<Bytes>),
    Exists(bool),
    Done,
    Count(i64),
    Swapped(Swapped),
    Rejected(Rejection),
}

/// Operations that are awaited together, each with the place of its key.
type Group = Vec<(usize, Operation)>;

/// What one operation does to a value, by itself.
fn apply(operation: &Operation, value: Option<&Bytes>) -> (Answer, Option<Bytes>) {
    let current = value.cloned();
    match operation {
        Operation::Get => (Answer::Value(current.clone()), current),
        Operation::Exists => (Answer::Exists(current.is_some()), current),
        Operation::Set(new) => (Answer::Done, Some(new.clone())),
        Operation::Delete => (Answer::Done, None),
        Operation::Increment(delta) => {
            let number = current.as_ref().map_or(Some(0), |text| {
                let text = std::str::from_utf8(text).ok()?;
                text.parse::<i64>().ok().filter(|number| number.to_string() == text)
            });
            match number.map(|number| number.checked_add(*delta)) {
                None => (Answer::Rejected(Rejection::NotANumber), current),
                Some(None) => (Answer::Rejected(Rejection::Overflow), current),
                Some(Some(count)) => (Answer::Count(count), Some(count.to_string().into())),
            }
        }
        Operation::Swap(expected, new) if current == *expected => {
            (Answer::Swapped(Swapped::Yes), Some(new.clone()))
        }
        Operation::Swap(..) => (Answer::Swapped(Swapped::No(current.clone())), current),
    }
}

/// Whether the operations of one key can have been applied in some order.
fn explained(
    history: &[(&Operation, &Answer)],
    before: Option<&Bytes>,
    after: &Option<Bytes>,
) -> bool {
    // Which operations are applied already, as bits, and the value then.
    let mut seen = HashSet::new();
    let mut open = vec![(0_u32, before.cloned())];
    while let Some((applied, value)) = open.pop() {
        if applied.count_ones() as usize == history.len() {
            if value == *after {
                return true;
            }
            continue;
        }
        for (place, (operation, answer)) in history.iter().enumerate() {
            let bit = 1 << place;
            if applied & bit != 0 {
                continue;
            }
            let (expected, next) = apply(operation, value.as_ref());
            if expected == **answer && seen.insert((applied | bit, next.clone())) {
                open.push((applied | bit, next));
            }
        }
    }
    false
}

async fn ask(handle: &Handle, bucket: &Bucket, key: &str, operation: &Operation) -> Answer {
    let answer = match operation {
        Operation::Get => handle.get(bucket, key).await.map(Answer::Value),
        Operation::Exists => handle.exists(bucket, key).await.map(Answer::Exists),
        Operation::Set(value) => {
            handle.set(bucket, key, value.clone()).await.map(|()| Answer::Done)
        }
        Operation::Delete => handle.delete(bucket, key).await.map(|()| Answer::Done),
        Operation::Increment(delta) => {
            handle.increment(bucket, key, *delta).await.map(Answer::Count)
        }
        Operation::Swap(expected, value) => {
            let swapped = handle.swap(bucket, key, expected.clone(), value.clone());
            swapped.await.map(Answer::Swapped)
        }
    };
    match answer {
        Ok(answer) => answer,
        Err(Error::Rejected(rejection)) => Answer::Rejected(rejection),
        Err(error) => panic!("no answer: {error}"),
    }
}

/// Runs groups one after another, and checks each.
async fn check(workers: &[Handle], bucket: &Bucket, groups: &[Group]) -> Result<(), String> {
    let mut values: [Option<Bytes>; KEYS.len()] = Default::default();
    for group in groups {
        let answers = join_all(group.iter().enumerate().map(|(place, (key, operation))| {
            ask(&workers[place % workers.len()], bucket, KEYS[*key], operation)
        }))
        .await;
        for (place, key) in KEYS.iter().enumerate() {
            let after = workers[0].get(bucket, key).await.map_err(|error| error.to_string())?;
            let history: Vec<_> = group
                .iter()
                .zip(&answers)
                .filter(|((key, _), _)| *key == place)
                .map(|((_, operation), answer)| (operation, answer))
                .collect();
            if !explained(&history, values[place].as_ref(), &after) {
                let before = &values[place];
                return Err(format!("{key}: from {before:?} to {after:?} by {history:?}"));
            }
            values[place] = after;
        }
    }
    Ok(())
}

fn value() -> impl Strategy<Value = Bytes> {
    prop::sample::select(vec![
        "0",
        "1",
        "2",
        "-1",
        "9223372036854775806",
        "-9223372036854775807",
        "x",
        "",
        "01",
    ])
    .prop_map(Bytes::from)
}

fn operation() -> impl Strategy<Value = Operation> {
    let extreme = prop::sample::select(vec![i64::MAX, i64::MIN, i64::MAX - 1]);
    prop_oneof![
        2 => Just(Operation::Get),
        1 => Just(Operation::Exists),
        2 => value().prop_map(Operation::Set),
        1 => Just(Operation::Delete),
        9 => prop_oneof![8 => -2_i64..=3, 1 => extreme].prop_map(Operation::Increment),
        3 => (prop::option::of(value()), value())
            .prop_map(|(expected, value)| Operation::Swap(expected, value)),
    ]
}

#[test]
fn answers_at_once_are_those_of_some_order() {
    let redis = Redis::start().unwrap();
    let postgres = Postgres::start(Durability::Unsynced).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let urls = [
        "memory:".to_owned(),
        format!("sqlite:{}", dir.path().join("tally.db").display()),
        redis.url(),
        postgres.url(),
    ];
    let options = Options { timeout: Duration::from_secs(60), ..Options::default() };
    let stores: Vec<(State, [Handle; 2])> =
        runtime.block_on(join_all(urls.iter().map(async |url| {
            let state = State::open(url, options.clone(), Metrics::default()).await.unwrap();
            let workers = [state.worker(), state.worker()];
            (state, workers)
        })));
    let config =
        Config { cases: 60, failure_persistence: None, max_shrink_iters: 500, ..Config::default() };
    let group = prop::collection::vec((0..KEYS.len(), operation()), 1..14);
    let groups = prop::collection::vec(group, 1..6);
    let cases = AtomicU64::new(0);
    let result = TestRunner::new(config).run(&groups, |groups| {
        // A bucket of its own for each run, those that shrink a failure included.
        let number = cases.fetch_add(1, Ordering::Relaxed);
        let bucket = Bucket::new(&format!("case {number}")).unwrap();
        let checked = runtime
            .block_on(join_all(stores.iter().map(|(_, workers)| check(workers, &bucket, &groups))));
        for (result, (state, _)) in checked.into_iter().zip(&stores) {
            let backend = state.description().backend;
            result.map_err(|error| TestCaseError::fail(format!("{backend}: {error}")))?;
        }
        Ok(())
    });
    if let Err(error) = result {
        panic!("{error}");
    }
}

#[test]
fn the_checker_finds_what_no_order_explains() {
    let (increment, set) = (Operation::Increment(1), Operation::Set("0".into()));
    let (one, two) = (Answer::Count(1), Answer::Count(2));
    let count = |number: i64| Some(Bytes::from(number.to_string()));
    let twice = [(&increment, &one), (&increment, &one)];
    assert!(!explained(&twice, None, &count(2)), "one value was given twice");
    let lost = [(&increment, &one), (&increment, &two)];
    assert!(!explained(&lost, None, &count(1)), "one was lost");
    assert!(explained(&lost, None, &count(2)));
    let reset = [(&increment, &two), (&set, &Answer::Done)];
    assert!(!explained(&reset, count(1).as_ref(), &count(1)), "a reset was undone in part");
    assert!(explained(&reset, count(1).as_ref(), &count(0)));
}
