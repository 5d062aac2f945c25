//! Whatever clients ask for at once is answered, on every backend and through faults, as if each
//! operation had happened at one moment between being asked and being answered: histories of
//! concurrent clients are recorded and checked to be linearizable.
//!
//! - `history`: operations and answers, what each does to a value, and the record of a run
//! - `checker`: decides for any history whether it is linearizable; `counting`: the same for long
//!   histories of a counter alone
//! - `client`: what histories are recorded of; `buggy`: clients with planted bugs, which must be
//!   found
//! - `draw`: what random clients ask; `run`: random histories, many at once
//! - `request`: a request with a key, whose handler runs until it is answered; `keyed`: histories of
//!   such requests beside clients without; `planted`: bugs in how requests are applied once
//! - `calm`, `storms`: the backends left in peace, and the backends under faults
//!
//! The seed of a run is printed. It decides what is asked and which faults come, and not how the
//! machine interleaves them, so a failure may take several runs to come again. `TALLY_SEED` runs
//! a seed again; `TALLY_HISTORIES` is how many histories each test takes.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "a test that fails should stop where it fails"
)]

mod buggy;
mod calm;
mod checker;
mod client;
mod counting;
mod draw;
mod history;
mod keyed;
mod planted;
mod request;
mod run;
mod storms;

use std::{env, sync::Arc, time::Duration};

use tally_state::{Handle, Metrics, Options, State};

use crate::run::Hosts;

/// Histories that a test takes unless it is told otherwise.
const HISTORIES: usize = 1_000;

/// Longest time for one test. Only a broken test or program gets near it.
const LIMIT: Duration = Duration::from_secs(1_800);

/// How many histories each test takes.
fn histories() -> usize {
    env::var("TALLY_HISTORIES")
        .map_or(HISTORIES, |text| text.parse().expect("TALLY_HISTORIES is a number"))
}

/// The seed of a test, which is printed.
fn seed(test: &str) -> u64 {
    let seed = env::var("TALLY_SEED")
        .map_or_else(|_| fastrand::u64(..), |text| text.parse().expect("TALLY_SEED is a number"));
    println!("{test}: seed {seed}");
    seed
}

/// Runs a test's future on two threads, as long as [`LIMIT`] at most.
fn block_on<T>(test: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap()
        .block_on(async { tokio::time::timeout(LIMIT, test).await })
        .expect("the test comes to its end")
}

/// Opens a store for a number of hosts, of two workers each. Tries again where that fails: the
/// time limits of a test may be short.
async fn open(url: &str, options: &Options, hosts: usize) -> Arc<Hosts<Handle>> {
    let mut opened = Vec::new();
    while opened.len() < hosts {
        if let Ok(state) = State::open(url, options.clone(), Metrics::default()).await {
            opened.push([state.worker(), state.worker()]);
        }
    }
    Arc::new(opened)
}
