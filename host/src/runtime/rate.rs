//! How many requests of a guest are taken in a second, with a burst: the generic cell rate algorithm
//! (ITU-T I.371), which keeps one number, the moment by which all that was taken is paid for.

use std::{
    sync::{
        LazyLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

static BEGINNING: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Requests in a second, and how many of them may come at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Requests in a second.
    pub per_second: u32,
    /// Requests at once, after a pause.
    pub burst: u32,
}

/// Keeps one guest's rate.
#[derive(Debug)]
pub(crate) struct RateLimit {
    rate: Rate,
    /// Nanoseconds from one request to the next.
    interval: u64,
    /// Nanoseconds that may be taken ahead.
    ahead: u64,
    /// When all that was taken is paid for, in nanoseconds since the beginning.
    paid: AtomicU64,
}

/// There were more requests than the rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct OverRate {
    pub(crate) rate: Rate,
    /// When there is room for another one.
    pub(crate) after: Duration,
}

impl RateLimit {
    pub(crate) fn new(rate: Rate) -> Self {
        let interval =
            1_000_000_000_u64.checked_div(u64::from(rate.per_second)).unwrap_or(u64::MAX);
        let interval = interval.max(1);
        let ahead = interval.saturating_mul(u64::from(rate.burst.max(1)));
        Self { rate, interval, ahead, paid: AtomicU64::new(0) }
    }

    /// Takes a request, or says when.
    ///
    /// # Errors
    /// [`OverRate`].
    pub(crate) fn take(&self, now: Instant) -> Result<(), OverRate> {
        let now = now.saturating_duration_since(*BEGINNING).as_nanos();
        let now = u64::try_from(now).unwrap_or(u64::MAX);
        let next = |paid: u64| paid.max(now).saturating_add(self.interval);
        let latest = now.saturating_add(self.ahead);
        let taken = self
            .paid
            .fetch_update(Relaxed, Relaxed, |paid| Some(next(paid)).filter(|n| *n <= latest));
        taken.map(drop).map_err(|paid| OverRate {
            rate: self.rate,
            after: Duration::from_nanos(next(paid).saturating_sub(latest)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_taken_and_then_the_rate() {
        let limit = RateLimit::new(Rate { per_second: 10, burst: 3 });
        let now = *BEGINNING + Duration::from_secs(1);
        for _ in 0..3 {
            assert_eq!(limit.take(now), Ok(()));
        }
        let after = limit.take(now).unwrap_err().after;
        assert_eq!(after, Duration::from_millis(100));
        assert!(limit.take(now + after - Duration::from_millis(1)).is_err());
        assert_eq!(limit.take(now + after), Ok(()));
        assert!(limit.take(now + after).is_err());
        let much_later = now + Duration::from_secs(60);
        let taken = (0..10).filter(|_| limit.take(much_later).is_ok()).count();
        assert_eq!(taken, 3, "what was not taken does not add up beyond the burst");
    }
}
