//! Health: what is said of a store that cannot be written, when it is opened and while it is in use,
//! and that a session of no use is not kept.
//!
//! Servers are real: a standby, a replica, a cluster, a pooler, users without rights, and files that
//! are removed or replaced.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "a test that fails should stop where it fails"
)]

#[path = "../faults/patience.rs"]
mod patience;
mod postgres;
mod postgres_setup;
mod redis;
mod sqlite;

use std::time::{Duration, Instant};

use tally_state::{Bucket, Error, Handle, Metrics, OpenError, Options, State};

use crate::patience::{patient, run};

/// The bucket that the tests use; each has a server or a file of its own.
const BUCKET: &str = "health";

/// Longest time to wait for something to happen.
const LIMIT: Duration = Duration::from_secs(60);

async fn open(url: &str) -> State {
    State::open(url, patient(), Metrics::default()).await.unwrap()
}

fn bucket() -> Bucket {
    Bucket::new(BUCKET).unwrap()
}

async fn increment(handle: &Handle) -> Result<i64, Error> {
    handle.increment(&bucket(), "key", 1).await
}

/// Opens a store, which must fail for good, with a text that says all of this.
async fn refuses(url: &str, says: &[&str]) {
    refuses_with(url, patient(), says).await;
}

async fn refuses_with(url: &str, options: Options, says: &[&str]) {
    match State::open(url, options, Metrics::default()).await {
        Ok(state) => panic!("{url} was opened as {}", state.description()),
        Err(OpenError::Backend(text)) => {
            println!("{text}");
            for part in says {
                assert!(text.contains(part), "{text:?} does not say {part:?}");
            }
            assert!(!text.contains(tally_testkit::TEST_PASSWORD), "{text}");
        }
        Err(other) => panic!("expected a failure for good, got {other:?}"),
    }
}

/// Waits until something holds; says what was waited for when it does not.
async fn until<F: Future<Output = bool>>(what: &str, holds: impl Fn() -> F) {
    let started = Instant::now();
    while !holds().await {
        assert!(started.elapsed() < LIMIT, "waited in vain until {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Waits until the parts that write are healthy, or none is, for a reason.
async fn until_health(state: &State, failure: Option<&str>) {
    let what = format!("the health is {failure:?}");
    until(&what, || async {
        let parts = state.health().await;
        assert!(!parts.is_empty(), "there are lanes");
        let mut writing = parts.iter().filter(|part| part.name != "read" && part.name != "sweep");
        writing.all(|part| match (failure, &part.failure) {
            (None, None) => true,
            (Some(says), Some(failure)) => failure.contains(says),
            _ => false,
        })
    })
    .await;
}

/// Checks that an operation was certainly not applied, for a reason.
#[track_caller]
fn not_applied<T: std::fmt::Debug>(result: Result<T, Error>, says: &str) {
    match result {
        Err(Error::NotApplied(text)) => {
            assert!(text.contains(says), "{text:?} does not say {says:?}");
        }
        other => panic!("expected an operation not applied for {says:?}, got {other:?}"),
    }
}
