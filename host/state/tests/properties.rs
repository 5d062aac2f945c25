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
use tally_state::{Bucket, Digest, Error, Handle, Metrics, Options, Scope, State, TimeToLive};
use tally_testkit::{Durability, Postgres, Redis};

/// One operation, on keys of one bucket. Times to live are long: no clock decides an answer.
#[derive(Clone, Debug)]
enum Operation {
    Get(String),
    Exists(String),
    Set(String, Bytes, Option<Duration>),
    GetAndSet(String, Bytes, Option<Duration>),
    SetIfAbsent(String, Bytes, Option<Duration>),
    Delete(String),
    Increment(String, i64, Option<Duration>),
    IncrementWithin(String, i64, i64, i64),
    Expire(String, Option<Duration>),
    TimeToLive(String),
    Swap(String, Option<Bytes>, Bytes),
    List(String),
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

fn ttl() -> impl Strategy<Value = Option<Duration>> {
    prop_oneof![
        3 => Just(None),
        2 => prop::sample::select(vec![
            Duration::from_secs(1_000),
            Duration::from_secs(100 * 31_557_600),
            Duration::from_secs(101 * 31_557_600),
            Duration::ZERO,
        ])
        .prop_map(Some),
    ]
}

fn operation() -> impl Strategy<Value = Operation> {
    let keys = || prop::collection::vec(key(), 0..5);
    prop_oneof![
        3 => key().prop_map(Operation::Get),
        1 => key().prop_map(Operation::Exists),
        4 => (key(), value(), ttl())
            .prop_map(|(key, value, ttl)| Operation::Set(key, value, ttl)),
        2 => (key(), value(), ttl())
            .prop_map(|(key, value, ttl)| Operation::GetAndSet(key, value, ttl)),
        2 => (key(), value(), ttl())
            .prop_map(|(key, value, ttl)| Operation::SetIfAbsent(key, value, ttl)),
        4 => (key(), delta(), delta(), delta())
            .prop_map(|(key, delta, a, b)| Operation::IncrementWithin(key, delta, a.min(b), a.max(b))),
        2 => (key(), ttl()).prop_map(|(key, ttl)| Operation::Expire(key, ttl)),
        2 => key().prop_map(Operation::TimeToLive),
        1 => key().prop_map(Operation::Delete),
        8 => (key(), delta(), ttl())
            .prop_map(|(key, delta, ttl)| Operation::Increment(key, delta, ttl)),
        4 => (key(), prop::option::of(value()), value())
            .prop_map(|(key, expected, value)| Operation::Swap(key, expected, value)),
        1 => prop::sample::select(vec!["", "a", "c:", "c:%d*", "x", "\0"])
            .prop_map(|prefix| Operation::List(prefix.to_owned())),
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
        // What was recorded of another kind of write, or of a part of the keys.
        Err(Error::Unknown(text)) if text.contains("writ") => text.to_string(),
        Err(error) => panic!("no answer: {error}"),
    }
}

/// A request of a case. Some come in two forms.
fn request(case: u64, (name, fingerprint): (u8, u8)) -> Scope {
    let digest = |byte: u8| -> Digest { u128::from(case << 8 | u64::from(byte)).to_be_bytes() };
    Scope::new(digest(name), [fingerprint / 7; 16])
}

/// Runs an operation. A swap whose guess is wrong is tried again with the value it was told, so
/// that swaps that succeed are not rare.
async fn run(handle: &Handle, bucket: &Bucket, operation: &Operation) -> String {
    match operation {
        Operation::Get(key) => answer(handle.get(bucket, key).await),
        Operation::Exists(key) => answer(handle.exists(bucket, key).await),
        Operation::Set(key, value, ttl) => {
            answer(handle.set_for(bucket, key, value.clone(), *ttl).await)
        }
        Operation::GetAndSet(key, value, ttl) => {
            answer(handle.get_and_set(bucket, key, value.clone(), *ttl).await)
        }
        Operation::SetIfAbsent(key, value, ttl) => {
            answer(handle.set_if_absent(bucket, key, value.clone(), *ttl).await)
        }
        Operation::IncrementWithin(key, delta, min, max) => {
            answer(handle.increment_within(bucket, key, *delta, *min..=*max).await)
        }
        Operation::Expire(key, ttl) => answer(handle.expire(bucket, key, *ttl).await),
        // Some of it has passed; how much is the clock's.
        Operation::TimeToLive(key) => {
            answer(handle.time_to_live(bucket, key).await.map(|left| match left {
                TimeToLive::Left(left) => format!("{}", left > Duration::from_secs(1_000)),
                other => format!("{other:?}"),
            }))
        }
        Operation::Delete(key) => answer(handle.delete(bucket, key).await),
        Operation::Increment(key, delta, ttl) => {
            answer(handle.increment_for(bucket, key, *delta, *ttl).await)
        }
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
        Operation::List(prefix) => answer(handle.list(bucket, prefix, None).await.map(|page| {
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
    let config = Config { cases: 96, failure_persistence: None, ..Config::default() };
    let mut runner = TestRunner::new(config);
    let cases = AtomicU64::new(0);
    // Some are of a request, of which there are few, so that they come again.
    let request_of = prop::option::weighted(0.4, (0_u8..4, 0_u8..8));
    let sequence = prop::collection::vec((operation(), request_of), 1..40);
    let result = runner.run(&sequence, |operations| {
        // A bucket of its own for each run, those that shrink a failure included.
        let number = cases.fetch_add(1, Ordering::Relaxed);
        let bucket = Bucket::new(&format!("case:{number}")).unwrap();
        let answers: Vec<Vec<String>> =
            runtime.block_on(join_all(handles.iter().map(async |(_, handle)| {
                let mut answers = Vec::with_capacity(operations.len());
                for (operation, request_of) in &operations {
                    let handle = match request_of {
                        Some(name) => handle.scoped(&request(number, *name)),
                        None => handle.clone(),
                    };
                    answers.push(run(&handle, &bucket, operation).await);
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
