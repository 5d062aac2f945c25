//! Links: counting over TLS, and through sentinels while the master changes.
//!
//! Servers are real, certificates are made by the tests. What cannot be used is refused with a
//! text that says what to do and holds no credential.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "a test that fails should stop where it fails"
)]

mod cuts;
mod failover;
#[path = "../faults/ledger.rs"]
mod ledger;
#[path = "../faults/observer.rs"]
mod observer;
#[path = "../faults/patience.rs"]
mod patience;
mod sentinel;
mod tls;

use std::time::Duration;

use tally_state::{Bucket, Metrics, OpenError, Options, State};
use tally_testkit::TEST_PASSWORD;

use crate::patience::{patient, run};

/// The bucket that the tests use; each has a server of its own.
const BUCKET: &str = "links";

/// What is planted as a password, to be looked for in messages.
const PLANTED: &str = "hunter2";

/// Opens a store and counts to two in it.
async fn counts(url: &str) -> State {
    let state = State::open(url, patient(), Metrics::default()).await.unwrap();
    let (handle, bucket) = (state.worker(), Bucket::new(BUCKET).unwrap());
    let key = format!("{:?}", std::time::Instant::now());
    for count in 1..=2 {
        assert_eq!(handle.increment(&bucket, &key, 1).await, Ok(count));
    }
    let description = format!("{:?}", state.description());
    assert!(!description.contains(PLANTED) && !description.contains(TEST_PASSWORD));
    state
}

/// Opens a store, which must fail, and checks the text.
async fn refuses(url: &str, says: &[&str]) {
    refuses_with(url, patient(), says).await;
}

async fn refuses_with(url: &str, options: Options, says: &[&str]) {
    let error = match State::open(url, options, Metrics::default()).await {
        Ok(state) => panic!("{url} was opened as {}", state.description()),
        Err(error) => error,
    };
    let text = error.to_string();
    println!("{text}");
    assert!(matches!(error, OpenError::Backend(_) | OpenError::Away(_)), "{error:?}");
    for part in says {
        assert!(text.contains(part), "{text:?} for {url} does not say {part:?}");
    }
    assert!(!text.contains(PLANTED) && !text.contains(TEST_PASSWORD), "{text}");
}

/// Tries again until something holds.
async fn until<F: Future<Output = bool>>(holds: impl Fn() -> F) {
    while !holds().await {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}
