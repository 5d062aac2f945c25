//! The time a guest computes, as opposed to the time it waits.
//!
//! Wasmtime's epochs count ticks of a clock, also while a guest waits for the store. So a tick
//! only asks: a guest that is computing when the epoch has moved on is charged the time it has been
//! polled for so far, and if that is a slice, it waits for a turn (`turns`).
//!
//! A poll that takes longer than a few slices has most likely lost its core to another thread for a
//! while, as a guest that computes waits after each slice. It is charged no more than these: reading the time
//! that the kernel gave the thread would cost each request a system call. That is done while some guest computes for
//! long, so that others are not taken for such.

use std::{
    cell::Cell,
    pin::Pin,
    sync::atomic::{AtomicBool, Ordering},
    task::{Context, Poll},
    time::{Duration, Instant},
};

use pin_project_lite::pin_project;

use super::{
    account::Account,
    clock,
    turns::{self, Wants},
};

/// What a guest may compute at a stretch: between this and a tick of the clock more.
const SLICE: Duration = Duration::from_micros(500);

thread_local! {
    /// The guest that is running on this thread: when it was given the thread, and how long it had
    /// it before.
    static RUNNING: Cell<Option<(Instant, Duration)>> = const { Cell::new(None) };
    /// While some guest computes for long: the time that the thread had had when this one was given it, by the
    /// kernel. A thread that loses its core to others looks like a guest that computes.
    static HAD: Cell<Option<Duration>> = const { Cell::new(None) };
}

/// The time that the kernel gave this thread.
fn of_thread() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    let (seconds, nanoseconds) = (u64::try_from(time.tv_sec), u32::try_from(time.tv_nsec));
    Duration::new(seconds.unwrap_or_default(), nanoseconds.unwrap_or_default())
}

/// Whether most of a stretch was not the guest's, as the thread had no core.
fn had_no_core() -> bool {
    HAD.get().is_some_and(|before| of_thread().saturating_sub(before) < SLICE)
}

/// How long one request may compute, and on whose account.
#[derive(Debug)]
pub(crate) struct Meter {
    limit: Duration,
    account: &'static Account,
    /// Whether the call has waited for a turn.
    has_waited: AtomicBool,
}

/// The guest computed longer than it may.
#[derive(Debug, thiserror::Error)]
#[error("the guest computed for longer than its limit of {0:?}")]
pub(super) struct CpuLimitReached(Duration);

impl Meter {
    pub(crate) fn new(limit: Duration, account: &'static Account) -> Self {
        Self { limit, account, has_waited: AtomicBool::new(false) }
    }

    /// One of nobody in particular.
    #[cfg(test)]
    pub(crate) fn of_test() -> Self {
        Self::new(Duration::from_secs(1), Account::open(1, 0))
    }

    pub(super) fn account(&self) -> &'static Account {
        self.account
    }

    /// Checks what the guest that runs on this thread has used. Called on a tick. Gives what it is to wait for, if it
    /// has had a slice.
    pub(super) fn check(&self) -> Result<Option<Wants>, CpuLimitReached> {
        let Some((since, before)) = RUNNING.get() else { return Ok(None) };
        let stretch = stretch(since);
        match before.saturating_add(stretch) > self.limit {
            true => Err(CpuLimitReached(self.limit)),
            false if stretch >= SLICE && !had_no_core() => {
                clock::hurry();
                let has_waited = self.has_waited.swap(true, Ordering::Relaxed);
                Ok(Some(if has_waited { Wants::More } else { Wants::Slice }))
            }
            false => Ok(None),
        }
    }
}

/// What a poll is charged that began then.
fn stretch(since: Instant) -> Duration {
    since.elapsed().min(clock::LONGEST_STRETCH)
}

pin_project! {
    /// A guest's future, which notes when it has the thread and for how long.
    pub(super) struct Metered<F> {
        #[pin]
        future: F,
        account: &'static Account,
        // The time of all polls so far.
        used: Duration,
    }
}

impl<F: Future> Metered<F> {
    pub(super) fn new(account: &'static Account, future: F) -> Self {
        Self { future, account, used: Duration::ZERO }
    }
}

impl<F: Future> Future for Metered<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        let since = Instant::now();
        RUNNING.set(Some((since, *this.used)));
        // A system call for each poll, which is too much while nobody computes for long.
        HAD.set(clock::hurries().then(of_thread));
        turns::runs();
        let polled = this.future.poll(context);
        RUNNING.set(None);
        let until = Instant::now();
        let stretch = until.saturating_duration_since(since).min(clock::LONGEST_STRETCH);
        *this.used = this.used.saturating_add(stretch);
        this.account.charge(stretch, until);
        turns::ran(this.account, until);
        polled
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[test]
    fn waiting_is_not_charged_and_computing_is() {
        let account = Account::open(1, 1);
        let limit = Duration::from_millis(2);
        let meter = Meter::new(limit, account);
        std::thread::sleep(Duration::from_millis(10));
        let begun = Instant::now();
        let just_begun = Metered::new(account, async { meter.check().is_ok() });
        let may_go_on = just_begun.now_or_never().unwrap();
        // Unless the thread lost its core in between.
        assert!(may_go_on || begun.elapsed() >= limit, "it has only just been resumed");
        let computing = Metered::new(account, async {
            std::thread::sleep(Duration::from_millis(10));
            meter.check().is_err()
        });
        assert_eq!(computing.now_or_never(), Some(true), "ten milliseconds since it was resumed");
        let preempted = Metered::new(account, async {
            std::thread::sleep(Duration::from_millis(90));
            Meter::new(Duration::from_millis(30), account).check()
        });
        let checked = preempted.now_or_never().unwrap();
        assert!(checked.is_ok(), "nobody computes so long in one poll");
        assert!(account.total() < Duration::from_millis(60), "{:?}", account.total());
    }

    #[tokio::test]
    async fn many_short_stretches_add_up() {
        let account = Account::open(1, 1);
        let meter = Meter::new(Duration::from_millis(20), account);
        let stretches = Metered::new(account, async {
            let mut stretches = 0;
            while meter.check().is_ok() {
                std::thread::sleep(Duration::from_millis(2));
                tokio::task::yield_now().await;
                stretches += 1;
            }
            stretches
        });
        assert!((1..=10).contains(&stretches.await));
        assert!(account.total() > Duration::from_millis(19));
    }
}
