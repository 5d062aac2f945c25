//! The same operations in the same order have the same answers on every backend.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "a test that fails should stop where it fails"
)]

use std::{
    collections::BTreeSet,
    fmt::Debug,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use bytes::Bytes;
use futures_util::future::join_all;
use proptest::{
    prelude::*,
    test_runner::{Config, TestCaseError, TestRunner},
};
use tally_state::{Bucket, Error, Handle, Metrics, Options, State};
use tally_testkit::{Durability, Postgres, Redis};

/// One operation, on keys of one bucket.
#[derive(Clone, Debug)]
enum Operation {
    Get(String),
    Exists(String),
    Set(String, Bytes),
    Delete(String),
    Increment(String, i64),
    Swap(String, Option<Bytes>, Bytes),
    List,
    GetMany(Vec<String>),
    SetMany(Vec<(String, Bytes)>),
    DeleteMany(Vec<String>),
}

/// Few keys, so that operations meet; some that are refused.
fn key() -> impl Strategy<Value = String> {
    prop_oneof![
        40 => prop_oneof![Just("a"), Just("b"), Just("c:%d*")].prop_map(str::to_owned),
        1 => Just(String::new()),
        1 => Just("a\0".to_owned()),
        1 => Just("k".repeat(1_001)),
    ]
}

/// Numbers and what nearly is one; and any bytes.
fn value() -> impl Strategy<Value = Bytes> {
    let text = prop::sample::select(vec![
        "0",
        "1",
        "-1",
        "42",
        "9223372036854775807",
        "9223372036854775806",
        "-9223372036854775808",
        "9223372036854775808",
        "",
        "-0",
        "007",
        "+1",
        " 1",
        "1.5",
        "x",
    ]);
    prop_oneof![
        6 => text.prop_map(Bytes::from),
        2 => any::<i64>().prop_map(|number| number.to_string().into()),
        1 => prop::collection::vec(any::<u8>(), 0..4).prop_map(Bytes::from),
        1 => "[-+ 0-9]{1,3}".prop_map(Bytes::from),
    ]
}

fn delta() -> impl Strategy<Value = i64> {
    prop_oneof![
        4 => -3_i64..=3,
        1 => prop::sample::select(vec![i64::MAX, i64::MIN, i64::MAX - 1, i64::MIN + 1]),
        1 => any::<i64>(),
    ]
}

fn operation() -> impl Strategy<Value = Operation> {
    let keys = || prop::collection::vec(key(), 0..5);
    prop_oneof![
        3 => key().prop_map(Operation::Get),
        1 => key().prop_map(Operation::Exists),
        4 => (key(), value()).prop_map(|(key, value)| Operation::Set(key, value)),
        1 => key().prop_map(Operation::Delete),
        8 => (key(), delta()).prop_map(|(key, delta)| Operation::Increment(key, delta)),
        4 => (key(), prop::option::of(value()), value())
            .prop_map(|(key, expected, value)| Operation::Swap(key, expected, value)),
        1 => Just(Operation::List),
        1 => keys().prop_map(Operation::GetMany),
        1 => prop::collection::vec((key(), value()), 0..5).prop_map(Operation::SetMany),
        1 => keys().prop_map(Operation::DeleteMany),
    ]
}

/// An answer in a form that compares: what was answered, or why it was rejected. Any other error
/// is a failure of the test's, as nothing is wrong with the servers.
fn answer(result: Result<impl Debug, Error>) -> String {
    match result {
        Ok(answer) => format!("{answer:?}"),
        Err(Error::Rejected(rejection)) => format!("{rejection:?}"),
        Err(error) => panic!("no answer: {error}"),
    }
}

/// Runs an operation. A swap whose guess is wrong is tried again with the value it was told, so
/// that swaps that succeed are not rare.
async fn run(handle: &Handle, bucket: &Bucket, operation: &Operation) -> String {
    match operation {
        Operation::Get(key) => answer(handle.get(bucket, key).await),
        Operation::Exists(key) => answer(handle.exists(bucket, key).await),
        Operation::Set(key, value) => answer(handle.set(bucket, key, value.clone()).await),
        Operation::Delete(key) => answer(handle.delete(bucket, key).await),
        Operation::Increment(key, delta) => answer(handle.increment(bucket, key, *delta).await),
        Operation::Swap(key, expected, value) => {
            let first = handle.swap(bucket, key, expected.clone(), value.clone()).await;
            match &first {
                Ok(tally_state::Swapped::No(current)) => {
                    let second = handle.swap(bucket, key, current.clone(), value.clone()).await;
                    format!("{} then {}", answer(first), answer(second))
                }
                _ => answer(first),
            }
        }
        // In whatever order the backend lists them.
        Operation::List => answer(handle.list(bucket, None).await.map(|page| {
            assert_eq!(page.cursor, None, "few keys are one page");
            page.keys.into_iter().collect::<BTreeSet<_>>()
        })),
        Operation::GetMany(keys) => answer(handle.get_many(bucket, keys, usize::MAX).await),
        Operation::SetMany(values) => answer(handle.set_many(bucket, values.clone()).await),
        Operation::DeleteMany(keys) => answer(handle.delete_many(bucket, keys).await),
    }
}

#[test]
fn all_backends_answer_alike() {
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
    let handles: Vec<(State, Handle)> = runtime.block_on(join_all(urls.iter().map(async |url| {
        let options = Options { timeout: Duration::from_secs(30), ..Options::default() };
        let state = State::open(url, options, Metrics::default()).await.unwrap();
        let handle = state.worker();
        (state, handle)
    })));
    let config = Config { cases: 48, failure_persistence: None, ..Config::default() };
    let mut runner = TestRunner::new(config);
    let cases = AtomicU64::new(0);
    let sequence = prop::collection::vec(operation(), 1..40);
    let result = runner.run(&sequence, |operations| {
        // A bucket of its own for each run, those that shrink a failure included.
        let number = cases.fetch_add(1, Ordering::Relaxed);
        let bucket = Bucket::new(&format!("case:{number}")).unwrap();
        let answers: Vec<Vec<String>> =
            runtime.block_on(join_all(handles.iter().map(async |(_, handle)| {
                let mut answers = Vec::with_capacity(operations.len());
                for operation in &operations {
                    answers.push(run(handle, &bucket, operation).await);
                }
                answers
            })));
        for (answers_of_this, (state, _)) in answers.iter().zip(&handles) {
            for ((operation, got), expected) in
                operations.iter().zip(answers_of_this).zip(&answers[0])
            {
                if got != expected {
                    return Err(TestCaseError::fail(format!(
                        "{operation:?}: {} answered {got}, memory {expected}",
                        state.description().backend
                    )));
                }
            }
        }
        Ok(())
    });
    if let Err(error) = result {
        panic!("{error}");
    }
}
