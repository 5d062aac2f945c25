//! Removing what has expired, some at a time, beside those who write or between their batches.
//!
//! What has expired is missing from the moment it does; this gives its room back.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use crate::{
    operation::Outcome,
    state::{Inner, State},
};

/// Entries removed in one batch: a short piece of work, beside which other operations wait no
/// longer than for one another.
pub(crate) const SWEEP_ENTRIES: usize = 250;

/// The pause between two batches while there is more to remove: most of the time is for others.
const PAUSE: Duration = Duration::from_millis(10);

/// Sweeps every so often, until the state is gone.
pub(crate) fn start(state: &Arc<Inner>, every: Duration) {
    tokio::spawn(run(Arc::downgrade(state), every));
}

async fn run(state: Weak<Inner>, every: Duration) {
    loop {
        // Jitter keeps hosts that share a store from sweeping at once.
        tokio::time::sleep(every.mul_f32(fastrand::f32().mul_add(0.5, 0.75))).await;
        loop {
            let Some(state) = state.upgrade() else { return };
            match State::of(state).worker().sweep(SWEEP_ENTRIES).await {
                Ok(Outcome::Swept(true)) => tokio::time::sleep(PAUSE).await,
                // Where it failed there is a next time.
                _ => break,
            }
        }
    }
}
