//! Waiting a moment for callers who are about to return.
//!
//! With 64 callers and a commit of 3 ms, all are answered at once; the first to come back would
//! leave alone, and the other 63 would wait a whole commit behind it: every second commit would
//! carry one operation, and the rate would halve. So after a batch of many, the next is held back
//! until about as many are queued again, for a small part of the commit's measured time, and only
//! while the last waits have shown that the callers do return.

use std::time::Duration;

/// The part of a commit's time that a batch may be held back: one eighth costs a lone late caller
/// little and is long enough for callers on the same machine to return.
const PART_OF_COMMIT: u32 = 8;

/// Never longer than this, however slow the commit: a slow store is no reason to add more delay.
const LONGEST: Duration = Duration::from_millis(2);

/// Commits faster than this gain nothing from waiting.
const SHORTEST_COMMIT: Duration = Duration::from_micros(200);

/// After waits in vain, this many batches at most go out without a wait before it is tried again.
const MOST_SKIPPED: u32 = 64;

/// The policy of one lane.
#[derive(Debug, Default)]
pub(crate) struct HoldBack {
    /// Moving average of the time a batch takes.
    commit: Duration,
    /// Operations answered by the last batch.
    answered: usize,
    /// Batches still to go without a wait.
    skip: u32,
    /// What `skip` was set to last; doubles with each wait in vain.
    penalty: u32,
}

impl HoldBack {
    /// How many operations to wait for, and how long at most; `None` to go at once.
    pub(crate) fn wait_for(&mut self, queued: usize) -> Option<(usize, Duration)> {
        if self.answered < 2 || queued >= self.answered || self.commit < SHORTEST_COMMIT {
            return None;
        }
        if self.skip > 0 {
            self.skip = self.skip.saturating_sub(1);
            return None;
        }
        let part = self.commit.checked_div(PART_OF_COMMIT).unwrap_or_default();
        Some((self.answered, part.min(LONGEST)))
    }

    /// Tells how a wait ended: in vain if fewer than half of those awaited were there.
    pub(crate) fn waited(&mut self, target: usize, queued: usize) {
        if queued >= target.div_ceil(2) {
            self.penalty = 0;
        } else {
            self.penalty = self.penalty.saturating_mul(2).clamp(1, MOST_SKIPPED);
            self.skip = self.penalty;
        }
    }

    /// Tells of a batch that was applied.
    pub(crate) fn applied(&mut self, operations: usize, took: Duration) {
        self.answered = operations;
        // Weight 1/8 for the newest: follows a change within some ten batches.
        let kept = self.commit.saturating_mul(7);
        self.commit = kept.saturating_add(took).checked_div(8).unwrap_or(took);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMMIT: Duration = Duration::from_millis(3);

    fn warm(operations: usize) -> HoldBack {
        let mut hold = HoldBack::default();
        for _ in 0..50 {
            hold.applied(operations, COMMIT);
        }
        hold
    }

    #[test]
    fn a_lone_caller_never_waits() {
        assert_eq!(warm(1).wait_for(1), None);
    }

    #[test]
    fn a_fast_backend_is_never_waited_for() {
        let mut hold = HoldBack::default();
        hold.applied(64, Duration::from_micros(50));
        assert_eq!(hold.wait_for(1), None);
    }

    #[test]
    fn the_first_of_many_to_return_waits_for_the_others_for_a_small_part_of_a_commit() {
        let (target, longest) = warm(64).wait_for(1).unwrap();
        assert_eq!(target, 64);
        assert!(longest <= COMMIT / PART_OF_COMMIT, "{longest:?}");
        assert!(longest >= COMMIT / PART_OF_COMMIT / 2, "{longest:?}");
    }

    #[test]
    fn a_full_queue_goes_at_once() {
        assert_eq!(warm(64).wait_for(64), None);
    }

    #[test]
    fn waits_in_vain_become_rare_and_a_good_one_restores_trust() {
        let mut hold = warm(64);
        let mut waits = 0;
        for _ in 0..500 {
            if let Some((target, _)) = hold.wait_for(1) {
                waits += 1;
                hold.waited(target, 2);
            }
            hold.applied(64, COMMIT);
        }
        assert!((2..20).contains(&waits), "{waits} waits in 500 batches");
        while hold.wait_for(1).is_none() {}
        hold.waited(64, 60);
        assert!(hold.wait_for(1).is_some());
    }

    #[test]
    fn a_very_slow_store_adds_no_more_than_the_longest_wait() {
        let mut hold = HoldBack::default();
        for _ in 0..50 {
            hold.applied(64, Duration::from_secs(1));
        }
        assert_eq!(hold.wait_for(1).unwrap().1, LONGEST);
    }
}
