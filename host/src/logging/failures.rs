//! Failures that can come with every request: the first of a kind is logged at once, and those that
//! follow as a count for each interval, so that a guest that fails fifty thousand times a second does
//! not fill a disk.
//!
//! Nothing is counted and nobody waits while nothing fails.

use std::{
    collections::HashMap,
    fmt::Display,
    sync::{
        LazyLock, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use tracing::Level;

/// How long failures of one kind are summed up: short enough to see how a problem develops.
const INTERVAL: Duration = Duration::from_secs(10);

/// How often it is looked whether an interval has ended.
const LOOK: Duration = Duration::from_secs(1);

/// Guests whose failures are counted by themselves; those of others share one count. Each takes some
/// hundred bytes for each kind of failure.
const MOST_GUESTS: usize = 1_000;

/// The name under which the failures of guests beyond these are counted.
const OTHERS: &str = "(others)";

/// Bytes of an example's reason that are kept.
const MAX_REASON: usize = 1 << 10;

/// One failure, as it is logged.
#[derive(Clone, Copy)]
pub(crate) struct Failure<'a> {
    pub(crate) level: Level,
    /// What happened: the message of its line.
    pub(crate) what: &'static str,
    /// Its kind. Failures with another kind, another message or of another guest are counted apart.
    pub(crate) kind: &'static str,
    /// The guest's name; empty if it is of none.
    pub(crate) guest: &'a str,
    /// The request's id; empty if it has none.
    pub(crate) id: &'a str,
    pub(crate) method: Option<&'a str>,
    pub(crate) reason: &'a dyn Display,
}

/// Logs a failure, or counts it for a later line.
pub(crate) fn log(failure: &Failure<'_>) {
    if EACH.load(Ordering::Relaxed) || ALL.lock().is_first(failure, Instant::now()) {
        let Failure { guest, id, method, kind, what, .. } = *failure;
        // As a string, whose line ends are escaped: a guest may have made it up.
        let reason = &*failure.reason.to_string();
        if failure.level == Level::ERROR {
            tracing::error!(guest, id, method, kind, reason, "{what}");
        } else {
            tracing::warn!(guest, id, method, kind, reason, "{what}");
        }
    }
}

/// Has each failure logged by itself.
pub(super) fn log_each() {
    EACH.store(true, Ordering::Relaxed);
}

/// Logs counts when their intervals end, until dropped.
pub(crate) async fn report() {
    loop {
        tokio::time::sleep(LOOK).await;
        // Out of the lock first: whoever logs may fail as well.
        let due = ALL.lock().take_due(Instant::now());
        due.iter().for_each(Sum::log);
    }
}

/// Logs all counts, whose intervals end now.
pub(super) fn report_all() {
    let all = ALL.lock().take_all(Instant::now());
    all.iter().for_each(Sum::log);
}

static ALL: LazyLock<Shared> = LazyLock::new(Shared::default);

static EACH: AtomicBool = AtomicBool::new(false);

#[derive(Default)]
struct Shared(Mutex<Failures>);

impl Shared {
    /// Nothing panics while it is locked, and it is whole between statements.
    fn lock(&self) -> MutexGuard<'_, Failures> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Failures that are being summed up, by the guest's name.
#[derive(Default)]
struct Failures(HashMap<Box<str>, Vec<Series>>);

/// Failures of one kind.
struct Series {
    level: Level,
    what: &'static str,
    kind: &'static str,
    /// When its interval began.
    since: Instant,
    /// Failures since then that were not logged.
    count: u64,
    /// The first of these.
    example: Option<Example>,
}

struct Example {
    id: Box<str>,
    reason: Box<str>,
}

/// What is logged of an interval.
struct Sum {
    guest: Box<str>,
    level: Level,
    what: &'static str,
    kind: &'static str,
    count: u64,
    took: Duration,
    example: Example,
}

impl Failures {
    /// Counts a failure, unless it is the first and is to be logged.
    fn is_first(&mut self, failure: &Failure<'_>, now: Instant) -> bool {
        let is_known = self.0.contains_key(failure.guest);
        let guest = if is_known || self.0.len() < MOST_GUESTS { failure.guest } else { OTHERS };
        let list = match self.0.get_mut(guest) {
            Some(list) => list,
            None => self.0.entry(guest.into()).or_default(),
        };
        let found = list.iter_mut().find(|s| s.kind == failure.kind && s.what == failure.what);
        let Some(series) = found else {
            let &Failure { level, what, kind, .. } = failure;
            list.push(Series { level, what, kind, since: now, count: 0, example: None });
            return true;
        };
        series.count = series.count.saturating_add(1);
        if series.example.is_none() {
            let mut reason = failure.reason.to_string();
            reason.truncate(reason.floor_char_boundary(MAX_REASON));
            series.example = Some(Example { id: failure.id.into(), reason: reason.into() });
        }
        false
    }

    /// Ends the intervals that are over. A kind that did not fail in the last one is forgotten, so that
    /// its next failure is logged at once.
    fn take_due(&mut self, now: Instant) -> Vec<Sum> {
        self.take(now, INTERVAL)
    }

    /// Ends all intervals.
    fn take_all(&mut self, now: Instant) -> Vec<Sum> {
        self.take(now, Duration::ZERO)
    }

    fn take(&mut self, now: Instant, interval: Duration) -> Vec<Sum> {
        let mut sums = Vec::new();
        self.0.retain(|guest, list| {
            list.retain_mut(|series| {
                let took = now.saturating_duration_since(series.since);
                if took < interval {
                    return true;
                }
                let Some(example) = series.example.take() else { return false };
                let count = std::mem::take(&mut series.count);
                series.since = now;
                let &mut Series { level, what, kind, .. } = series;
                sums.push(Sum { guest: guest.clone(), level, what, kind, count, took, example });
                true
            });
            !list.is_empty()
        });
        sums
    }
}

impl Sum {
    fn log(&self) {
        let Self { what, kind, count, took, .. } = self;
        let (guest, seconds) = (&*self.guest, took.as_secs_f64().round());
        let (example_id, example_reason) = (&*self.example.id, &*self.example.reason);
        if self.level == Level::ERROR {
            tracing::error!(
                guest,
                kind,
                count,
                seconds,
                example_id,
                example_reason,
                "{what}: {count} more in {seconds} s"
            );
        } else {
            tracing::warn!(
                guest,
                kind,
                count,
                seconds,
                example_id,
                example_reason,
                "{what}: {count} more in {seconds} s"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure<'a>(guest: &'a str, kind: &'static str, id: &'a str) -> Failure<'a> {
        let what = "a guest failed";
        Failure { level: Level::ERROR, what, kind, guest, id, method: None, reason: &"a reason" }
    }

    #[test]
    fn each_kind_of_each_guest_is_logged_once_and_then_summed() {
        let (mut failures, start) = (Failures::default(), Instant::now());
        assert!(failures.is_first(&failure("a", "trap", "1"), start));
        assert!(failures.is_first(&failure("b", "trap", "2"), start));
        assert!(failures.is_first(&failure("a", "internal", "3"), start));
        for _ in 0..50_000 {
            assert!(!failures.is_first(&failure("a", "trap", "4"), start));
        }
        assert!(failures.take_due(start + INTERVAL / 2).is_empty(), "the interval is not over");
        let sums = failures.take_due(start + INTERVAL);
        let [sum] = &*sums else { panic!("one sum, and not {}", sums.len()) };
        assert_eq!((&*sum.guest, sum.kind, sum.count), ("a", "trap", 50_000));
        assert_eq!((&*sum.example.id, &*sum.example.reason), ("4", "a reason"));
        // While it goes on, there is one line for each interval.
        assert!(!failures.is_first(&failure("a", "trap", "5"), start + INTERVAL));
        let sums = failures.take_due(start + 2 * INTERVAL);
        assert_eq!(sums.iter().map(|sum| sum.count).collect::<Vec<_>>(), [1]);
        // It was over for a whole interval: what comes now is news, and nothing is kept.
        assert!(failures.take_due(start + 3 * INTERVAL).is_empty());
        assert!(failures.0.is_empty());
        assert!(failures.is_first(&failure("a", "trap", "6"), start + 3 * INTERVAL));
    }

    #[test]
    fn the_end_takes_what_was_counted() {
        let (mut failures, now) = (Failures::default(), Instant::now());
        assert!(failures.is_first(&failure("a", "trap", "1"), now));
        assert!(!failures.is_first(&failure("a", "trap", "2"), now));
        assert_eq!(failures.take_all(now)[0].count, 1);
        assert!(failures.take_all(now).is_empty(), "said once");
    }

    #[test]
    fn memory_is_bounded_by_guests_and_by_reasons() {
        let (mut failures, now) = (Failures::default(), Instant::now());
        let long = "é".repeat(MAX_REASON);
        for number in 0..3 * MOST_GUESTS {
            let name = number.to_string();
            let failure = Failure { reason: &long, ..failure(&name, "trap", "1") };
            failures.is_first(&failure, now);
            failures.is_first(&failure, now);
        }
        assert_eq!(failures.0.len(), MOST_GUESTS + 1);
        let sums = failures.take_all(now);
        assert!(sums.iter().all(|sum| sum.example.reason.len() <= MAX_REASON));
        let others = sums.iter().find(|sum| &*sum.guest == OTHERS).unwrap();
        assert_eq!(others.count, 4 * MOST_GUESTS as u64 - 1, "none is lost");
    }
}
