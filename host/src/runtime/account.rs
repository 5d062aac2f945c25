//! The time that each guest has computed: in all, for its operators, and lately, so that those who
//! had less of it go first.

use std::{
    cell::Cell,
    sync::{
        LazyLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

/// Milliseconds after which what a guest used counts half. Long against a turn, so that shares come
/// out even; short against a client's patience, so that nobody pays long for what is over.
const HALF_LIFE: u64 = 64;

/// Usage of guests is compared in nanoseconds at this weight, the default.
const SCALE: u64 = 100;

/// The beginning of all moments here.
static BEGINNING: LazyLock<Instant> = LazyLock::new(Instant::now);

thread_local! {
    /// Which share of each account this thread writes: 0 is for all that are no workers.
    static SEAT: Cell<usize> = const { Cell::new(0) };
}

/// Says that this thread is a worker, by its number.
pub(crate) fn take_seat(worker: usize) {
    SEAT.set(worker.saturating_add(1));
}

/// What one guest has used.
#[derive(Debug)]
pub(crate) struct Account {
    weight: u64,
    /// One for each worker, so that none waits for another to write, and one for all other threads.
    shares: Box<[Share]>,
}

/// What a guest has used on one worker. In a cache line of its own.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Share {
    /// Nanoseconds in all.
    total: AtomicU64,
    /// Nanoseconds that still count, as of a moment.
    lately: AtomicU64,
    /// That moment, in milliseconds.
    at: AtomicU64,
}

impl Account {
    /// An account of a guest that is to have `weight` parts of the time, beside others with theirs. It stays until
    /// the process ends, as guests do, so that no request has to count who holds on to it.
    pub(crate) fn open(weight: u32, workers: usize) -> &'static Self {
        Box::leak(Box::new(Self::new(weight, workers)))
    }

    fn new(weight: u32, workers: usize) -> Self {
        let shares = std::iter::repeat_with(Share::default);
        let shares = shares.take(workers.saturating_add(1)).collect();
        Self { weight: u64::from(weight.max(1)), shares }
    }

    /// Adds what a guest has used up to a moment.
    pub(super) fn charge(&self, used: Duration, until: Instant) {
        let seat = SEAT.get();
        let Some(share) = self.shares.get(seat).or(self.shares.first()) else { return };
        let used = u64::try_from(used.as_nanos()).unwrap_or(u64::MAX);
        let now = moment(until);
        share.total.fetch_add(used, Relaxed);
        // Nearly always there is one who writes; where two do, one may be lost.
        let since = now.saturating_sub(share.at.load(Relaxed));
        let lately = faded(share.lately.load(Relaxed), since).saturating_add(used);
        share.lately.store(lately, Relaxed);
        share.at.store(now, Relaxed);
    }

    /// All that it has used.
    pub(crate) fn total(&self) -> Duration {
        let total = self.shares.iter().map(|share| share.total.load(Relaxed)).sum();
        Duration::from_nanos(total)
    }

    /// What it has used lately on all workers, for its weight: who has less goes first.
    pub(super) fn usage(&self, now: Instant) -> u64 {
        let now = moment(now);
        let lately = |share: &Share| {
            faded(share.lately.load(Relaxed), now.saturating_sub(share.at.load(Relaxed)))
        };
        let lately: u64 = self.shares.iter().map(lately).sum();
        lately.saturating_mul(SCALE).checked_div(self.weight).unwrap_or(u64::MAX)
    }
}

fn moment(at: Instant) -> u64 {
    u64::try_from(at.saturating_duration_since(*BEGINNING).as_millis()).unwrap_or(u64::MAX)
}

/// What is left of an amount after some milliseconds.
fn faded(amount: u64, milliseconds: u64) -> u64 {
    let halved = amount.checked_shr(u32::try_from(milliseconds / HALF_LIFE).unwrap_or(u32::MAX));
    let halved = halved.unwrap_or(0);
    // In a straight line to the next half: of what is compared, all fades alike.
    let part = halved.saturating_mul(milliseconds % HALF_LIFE) / (2 * HALF_LIFE);
    halved.saturating_sub(part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_used_counts_half_after_each_half_life() {
        assert_eq!(faded(1_000_000, 0), 1_000_000);
        assert_eq!(faded(1_000_000, 32), 750_000);
        assert_eq!(faded(1_000_000, 64), 500_000);
        assert_eq!(faded(1_000_000, 160), 187_500);
        assert_eq!(faded(1_000_000, 64 * 64), 0);
        assert_eq!(faded(1_000_000, u64::MAX), 0);
    }

    #[test]
    fn workers_add_up_and_weights_divide() {
        let (one, heavy) = (Account::new(1, 2), Account::new(3, 2));
        let now = Instant::now();
        for account in [&one, &heavy] {
            let charge = |worker: usize| {
                take_seat(worker);
                account.charge(Duration::from_millis(3), now);
            };
            charge(0);
            charge(1);
            // A worker that there was not, when the account was made.
            charge(7);
            assert_eq!(account.total(), Duration::from_millis(9));
        }
        SEAT.set(0);
        assert_eq!(one.usage(now), 3 * heavy.usage(now));
        assert!(one.usage(now + Duration::from_secs(1)) < one.usage(now) / 1_000);
    }
}
