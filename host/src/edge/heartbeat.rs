//! A timer that fires for nothing on each worker, while it has requests.
//!
//! Tokio wakes its own thread, by a write to the kernel, for each new timer that is due before all
//! others. With one that is always due sooner, the timeouts of each request never are, which saves
//! that write twice a request. A worker that has had no request for a while goes without, and sleeps.

use std::{cell::Cell, sync::Arc, time::Duration};

use tokio::sync::Notify;

/// How often it fires: below the timeouts of requests.
const PAUSE: Duration = Duration::from_millis(100);

/// After so many times without a request it rests: a second.
const QUIET_BEATS: u32 = 10;

thread_local! {
    /// Times that it has fired since the last request of this worker.
    static QUIET: Cell<u32> = const { Cell::new(QUIET_BEATS) };
    static WAKE: Arc<Notify> = Arc::default();
}

/// To be called for each request, on the thread of its worker.
pub(super) fn requested() {
    if QUIET.replace(0) >= QUIET_BEATS {
        WAKE.with(|wake| wake.notify_one());
    }
}

/// Fires while requests come, on the thread that polls it.
pub(super) async fn beat() {
    let wake = WAKE.with(Arc::clone);
    loop {
        wake.notified().await;
        while QUIET.get() < QUIET_BEATS {
            tokio::time::sleep(PAUSE).await;
            QUIET.set(QUIET.get().saturating_add(1));
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::sleep;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn it_fires_while_requests_come_and_rests_after_a_second() {
        let beating = tokio::spawn(beat());
        let is_resting = || QUIET.get() == QUIET_BEATS;
        sleep(Duration::from_secs(5)).await;
        assert!(is_resting(), "no request has come");
        for _ in 0..20 {
            requested();
            // As far apart as it takes to be nearly at rest.
            sleep(Duration::from_millis(850)).await;
            assert!((7..QUIET_BEATS).contains(&QUIET.get()), "{}", QUIET.get());
        }
        sleep(Duration::from_millis(200)).await;
        assert!(is_resting());
        requested();
        sleep(Duration::from_millis(550)).await;
        assert_eq!(QUIET.get(), 5, "it wakes up again");
        beating.abort();
    }
}
