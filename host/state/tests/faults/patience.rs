//! How tests run, and for how long: so that no slow machine fails one.

use std::time::Duration;

use tally_state::Options;

/// Longest time that anything awaited may take. Only a broken test or program gets near it.
pub(crate) const LIMIT: Duration = Duration::from_secs(300);

/// Runs a test's future on two threads, as long as [`LIMIT`] at most.
pub(crate) fn run<T>(test: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap()
        .block_on(async { tokio::time::timeout(LIMIT, test).await })
        .expect("the test comes to its end")
}

/// Options whose time limits no slow machine reaches.
pub(crate) fn patient() -> Options {
    Options {
        timeout: Duration::from_secs(60),
        connect_timeout: Duration::from_secs(30),
        // A sweep connects on its own, and stays: its bytes would be counted as those of what is
        // tested, and who waits until the server is alone would wait forever.
        sweep_every: Duration::from_secs(3600),
        ..Options::default()
    }
}
