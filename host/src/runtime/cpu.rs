//! The time a guest computes, as opposed to the time it waits.
//!
//! Wasmtime's epochs count ticks of a clock, also while a guest waits for the store. So a tick
//! only asks: a guest that is computing when the epoch has moved on is charged the time since its
//! future was last polled, and made to yield, so that others on its core go on.

use std::{
    cell::Cell,
    pin::Pin,
    task::{Context, Poll},
    time::{Duration, Instant},
};

thread_local! {
    /// When the guest that is running on this thread was last given the thread.
    static RESUMED: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// What one request has been charged.
#[derive(Debug)]
pub(crate) struct Meter {
    used: Duration,
    limit: Duration,
    /// Up to when the current stretch has been charged.
    charged: Option<Instant>,
}

/// The guest computed longer than it may.
#[derive(Debug, thiserror::Error)]
#[error("the guest computed for longer than its limit of {0:?}")]
pub(super) struct CpuLimitReached(Duration);

impl Meter {
    pub(super) fn new(limit: Duration) -> Self {
        Self { used: Duration::ZERO, limit, charged: None }
    }

    /// Charges the guest for the time since it was resumed or last charged. Called on a tick, on
    /// the guest's thread.
    pub(super) fn charge(&mut self) -> Result<(), CpuLimitReached> {
        let now = Instant::now();
        let since = RESUMED.get().max(self.charged).unwrap_or(now);
        self.used = self.used.saturating_add(now.saturating_duration_since(since));
        self.charged = Some(now);
        if self.used > self.limit { Err(CpuLimitReached(self.limit)) } else { Ok(()) }
    }
}

/// A guest's future, which notes when it is given the thread.
pub(super) struct Metered<F>(pub(super) Pin<Box<F>>);

impl<F: Future> Future for Metered<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        RESUMED.set(Some(Instant::now()));
        let polled = self.0.as_mut().poll(context);
        RESUMED.set(None);
        polled
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waiting_is_not_charged_and_computing_is() {
        let mut meter = Meter::new(Duration::from_millis(5));
        std::thread::sleep(Duration::from_millis(10));
        RESUMED.set(Some(Instant::now()));
        assert!(meter.charge().is_ok(), "it has only just been resumed");
        RESUMED.set(Instant::now().checked_sub(Duration::from_millis(10)));
        meter.charged = None;
        assert!(meter.charge().is_err(), "ten milliseconds since it was resumed");
        RESUMED.set(None);
    }
}
