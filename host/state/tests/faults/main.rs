//! Faults: what is known of an operation when the store fails under it, and that it recovers.
//!
//! Connections are cut or stall after each byte of an exchange, servers are stopped, killed and
//! frozen, refuse writes or take long, files are locked or broken. One invariant holds throughout: the
//! final count lies between what was acknowledged and that plus what ended unknown.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "a test that fails should stop where it fails"
)]

mod cuts;
mod disk_full;
mod ledger;
mod load;
mod observer;
mod opening;
mod patience;
mod postgres;
mod redis;
mod sqlite;
mod stalls;

use std::time::Duration;

use tally_state::{Error, Metrics, Options, State};

use crate::patience::{patient, run};

/// The bucket that the tests use; each has a server or a file of its own.
const BUCKET: &str = "faults";

async fn open(url: &str, options: Options) -> State {
    State::open(url, options, Metrics::default()).await.unwrap()
}

/// Opens with time limits that a slow machine may reach: again until it is done.
async fn open_hastily(url: &str, options: Options) -> State {
    loop {
        if let Ok(state) = State::open(url, options.clone(), Metrics::default()).await {
            return state;
        }
    }
}

/// The text of an error that must be certain, checked for what it has to say.
fn not_applied<T: std::fmt::Debug>(result: Result<T, Error>, says: &str) {
    match result {
        Err(Error::NotApplied(text)) => {
            assert!(text.contains(says), "{text:?} does not say {says:?}");
            assert!(!text.contains(tally_testkit::TEST_PASSWORD), "{text}");
        }
        other => panic!("expected an operation not applied, got {other:?}"),
    }
}

/// Tries again until something holds.
async fn until<F: Future<Output = bool>>(holds: impl Fn() -> F) {
    while !holds().await {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}
