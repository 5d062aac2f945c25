//! A place in the pool for each request, or a refusal: bounded in number and in time.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::failure::Cause;

/// The door to the pool.
pub(super) struct Admission {
    places: Arc<Semaphore>,
    pool: usize,
    waiting: AtomicUsize,
    most_waiting: usize,
    longest_wait: Duration,
}

impl Admission {
    pub(super) fn new(pool: usize, most_waiting: usize, longest_wait: Duration) -> Self {
        Self {
            places: Arc::new(Semaphore::new(pool)),
            pool,
            waiting: AtomicUsize::new(0),
            most_waiting,
            longest_wait,
        }
    }

    /// Waits for a place, in order of arrival. The place is free again when the permit is dropped.
    pub(super) async fn enter(&self) -> Result<OwnedSemaphorePermit, Cause> {
        if let Some(permit) = self.try_enter() {
            return Ok(permit);
        }
        let _waiting = Waiting::begin(&self.waiting, self.most_waiting).ok_or(Cause::Busy)?;
        match tokio::time::timeout(self.longest_wait, Arc::clone(&self.places).acquire_owned())
            .await
        {
            Ok(Ok(permit)) => Ok(permit),
            Ok(Err(_)) | Err(_) => Err(Cause::Busy),
        }
    }

    /// Waits for a place in order of arrival, longer than a request would.
    pub(super) async fn enter_within(&self, longest: Duration) -> Option<OwnedSemaphorePermit> {
        let entering = Arc::clone(&self.places).acquire_owned();
        tokio::time::timeout(longest, entering).await.ok()?.ok()
    }

    /// Sends away all who wait, and whoever comes.
    pub(super) fn close(&self) {
        self.places.close();
    }

    /// A place, if one is free.
    pub(super) fn try_enter(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.places).try_acquire_owned().ok()
    }

    pub(super) fn in_use(&self) -> usize {
        self.pool.saturating_sub(self.places.available_permits())
    }

    pub(super) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }
}

/// One request that waits; counted until dropped.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn begin(count: &'a AtomicUsize, most: usize) -> Option<Self> {
        // Counted first, so that no more than `most` are ever let through at once.
        let waiting = Self(count);
        let before = count.fetch_add(1, Ordering::AcqRel);
        (before < most).then_some(waiting)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn beyond_pool_and_queue_is_refused_at_once_and_the_queue_after_its_wait() {
        let admission = Admission::new(1, 1, Duration::from_secs(1));
        let first = admission.enter().await.unwrap();
        assert_eq!(admission.in_use(), 1);
        let (second, third) = tokio::join!(admission.enter(), async {
            tokio::task::yield_now().await;
            assert_eq!(admission.waiting(), 1);
            admission.enter().await.err()
        });
        assert_eq!(third, Some(Cause::Busy), "the queue is full");
        assert_eq!(second.err(), Some(Cause::Busy), "its wait is over");
        assert_eq!(admission.waiting(), 0);
        drop(first);
        assert!(admission.enter().await.is_ok());
    }
}
