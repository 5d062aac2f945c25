//! The time a guest computes, as opposed to the time it waits.
//!
//! Wasmtime's epochs count ticks of a clock, also while a guest waits for the store. So a tick
//! only asks: a guest that is computing when the epoch has moved on is charged the time it has been
//! polled for so far, and made to yield, so that others on its core go on.
//!
//! A poll that takes longer than two ticks has most likely lost its core to another thread for a
//! while, as a guest that computes yields at each tick. It is charged two ticks: reading the time
//! that the kernel gave the thread would cost each request a system call.

use std::{
    cell::Cell,
    pin::Pin,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use pin_project_lite::pin_project;

use super::engine::TICK;

thread_local! {
    /// The guest that is running on this thread: when it was given the thread, and how long it had
    /// it before.
    static RUNNING: Cell<Option<(Instant, Duration)>> = const { Cell::new(None) };
}

/// How long one request may compute.
#[derive(Debug)]
pub(crate) struct Meter {
    limit: Duration,
}

/// The guest computed longer than it may.
#[derive(Debug, thiserror::Error)]
#[error("the guest computed for longer than its limit of {0:?}")]
pub(super) struct CpuLimitReached(Duration);

impl Meter {
    pub(crate) fn new(limit: Duration) -> Self {
        Self { limit }
    }

    /// Checks what the guest that runs on this thread has used. Called on a tick.
    pub(super) fn check(&self) -> Result<(), CpuLimitReached> {
        let used = RUNNING.get().map(|(since, before)| before.saturating_add(stretch(since)));
        if used > Some(self.limit) { Err(CpuLimitReached(self.limit)) } else { Ok(()) }
    }
}

/// What a poll is charged that began then.
fn stretch(since: Instant) -> Duration {
    since.elapsed().min(TICK.saturating_mul(2))
}

pin_project! {
    /// A guest's future, which notes when it has the thread and for how long.
    pub(super) struct Metered<F> {
        #[pin]
        future: F,
        // The time of all polls so far.
        used: Duration,
    }
}

impl<F: Future> Metered<F> {
    pub(super) fn new(future: F) -> Self {
        Self { future, used: Duration::ZERO }
    }
}

impl<F: Future> Future for Metered<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        let since = Instant::now();
        RUNNING.set(Some((since, *this.used)));
        let polled = this.future.poll(context);
        RUNNING.set(None);
        // Most guests are done in one poll, and nobody asks any more.
        if polled.is_pending() {
            *this.used = this.used.saturating_add(stretch(since));
        }
        polled
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[test]
    fn waiting_is_not_charged_and_computing_is() {
        let meter = Meter::new(Duration::from_millis(5));
        std::thread::sleep(Duration::from_millis(10));
        let just_begun = Metered::new(async { meter.check().is_ok() });
        assert_eq!(just_begun.now_or_never(), Some(true), "it has only just been resumed");
        let computing = Metered::new(async {
            std::thread::sleep(Duration::from_millis(10));
            meter.check().is_err()
        });
        assert_eq!(computing.now_or_never(), Some(true), "ten milliseconds since it was resumed");
        let preempted = Metered::new(async {
            std::thread::sleep(Duration::from_millis(50));
            Meter::new(Duration::from_millis(30)).check().is_ok()
        });
        assert_eq!(preempted.now_or_never(), Some(true), "nobody computes so long in one poll");
    }

    #[tokio::test]
    async fn many_short_stretches_add_up() {
        let meter = Meter::new(Duration::from_millis(20));
        let stretches = Metered::new(async {
            let mut stretches = 0;
            while meter.check().is_ok() {
                std::thread::sleep(Duration::from_millis(2));
                tokio::task::yield_now().await;
                stretches += 1;
            }
            stretches
        });
        assert!((1..=10).contains(&stretches.await));
    }
}
