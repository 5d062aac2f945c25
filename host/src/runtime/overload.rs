//! How long a request may wait in a queue, by how long others have had to.
//!
//! A queue that becomes empty now and then takes up bursts, and whoever waits in it may do so for as long as is
//! configured. One that is not empty for a tenth of that only makes everybody wait: more comes than can
//! be served, and a request that is served after its client has given up is served in vain. Then a new one waits just
//! long enough that there is always one to be served next, and is refused at once after that (a controlled delay, as
//! in Nichols and Jacobson's CoDel, 2012, in the form that Maurer describes for servers in "Fail at Scale", 2015).

use std::{
    sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

/// A queue that was not empty for this part of the longest wait holds more than a burst: a tenth of a second by default.
const BURST: u32 = 10;

/// The part of the longest wait that a request may wait then at least: 5 ms by default. For a place that is given back
/// every few microseconds it is enough many times over, and clients learn soon that they have to come back later.
const LEAST: u32 = 200;

/// Where places are given back seldom, a request may wait for so many.
const PLACES: u32 = 2;

/// What is known of a queue. Several threads may use it.
#[derive(Debug, Default)]
pub(super) struct Delay {
    /// When somebody came and found it empty, in microseconds.
    since: AtomicU64,
    /// When somebody was served last who had waited.
    served: AtomicU64,
    /// The mean time between two who were served, in microseconds; what is long ago counts less.
    interval: AtomicU64,
}

impl Delay {
    /// How long one may wait who comes now: `longest`, or less where the queue has been standing.
    pub(super) fn longest(&self, is_empty: bool, longest: Duration, now: Instant) -> Duration {
        let now = micros(now);
        if is_empty {
            self.since.store(now, Relaxed);
            // The time until the next one is served says nothing of how often that is.
            self.served.store(0, Relaxed);
        }
        let standing = Duration::from_micros(now.saturating_sub(self.since.load(Relaxed)));
        if standing < longest.checked_div(BURST).unwrap_or_default() {
            return longest;
        }
        let interval = Duration::from_micros(self.interval.load(Relaxed));
        let least = longest.checked_div(LEAST).unwrap_or_default();
        interval.saturating_mul(PLACES).max(least).min(longest)
    }

    /// To be told when one is served who had waited.
    pub(super) fn served(&self, now: Instant) {
        let now = micros(now);
        let before = self.served.swap(now, Relaxed);
        if before > 0 {
            let (took, mean) = (now.saturating_sub(before), self.interval.load(Relaxed));
            // An eighth of what is new. Two threads at once may lose one of theirs.
            let mean = mean.saturating_sub(mean / 8).saturating_add(took / 8);
            self.interval.store(mean, Relaxed);
        }
    }
}

/// Microseconds since some moment of this process.
fn micros(now: Instant) -> u64 {
    static BEGINNING: OnceLock<Instant> = OnceLock::new();
    let beginning = *BEGINNING.get_or_init(Instant::now);
    // Never zero, which is for never.
    let micros = now.saturating_duration_since(beginning).as_micros();
    u64::try_from(micros).unwrap_or(u64::MAX).saturating_add(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONGEST: Duration = Duration::from_secs(1);

    fn ms(milliseconds: u64) -> Duration {
        Duration::from_millis(milliseconds)
    }

    #[test]
    fn a_burst_may_wait_and_what_comes_to_a_standing_queue_may_not() {
        let (delay, start) = (Delay::default(), Instant::now());
        assert_eq!(delay.longest(true, LONGEST, start), LONGEST);
        assert_eq!(delay.longest(false, LONGEST, start + ms(99)), LONGEST);
        assert_eq!(delay.longest(false, LONGEST, start + ms(101)), ms(5));
        assert_eq!(delay.longest(true, LONGEST, start + ms(102)), LONGEST, "it was empty");
        let patient = 60 * LONGEST;
        assert_eq!(delay.longest(false, patient, start + ms(300)), patient, "a burst of it");
        assert_eq!(delay.longest(false, patient, start + 7 * LONGEST), ms(300));
    }

    #[test]
    fn where_places_come_seldom_it_may_wait_for_two() {
        let (delay, start) = (Delay::default(), Instant::now());
        delay.longest(true, LONGEST, start);
        for served in 1..=40 {
            delay.served(start + ms(150 * served));
        }
        let longest = delay.longest(false, LONGEST, start + ms(150 * 41));
        assert!((ms(280)..=ms(300)).contains(&longest), "{longest:?}");
    }
}
