//! A place for each request, or a refusal: bounded in number and in time, for each guest by itself.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::sync::Semaphore;

use super::{
    door::{Door, Place},
    failure::Cause,
    overload::Delay,
};

/// The door of one guest, behind which is that of its class.
pub(super) struct Admission {
    own: Arc<Door>,
    waiting: AtomicUsize,
    most_waiting: usize,
    longest_wait: Duration,
    delay: Delay,
    /// Places that instances may hold while they wait for a client.
    for_slow_clients: Arc<Semaphore>,
}

/// The part of a guest's places that may be held for clients that are being waited for: they do nothing meanwhile, and
/// who sends or reads nothing on purpose must not take them all.
const FOR_SLOW_CLIENTS: usize = 4;

/// A guest's place, and one of its class. Both are free again when it is dropped.
pub(super) struct Permit {
    _slot: Place,
    /// `None` where the guest may have all slots, as a guest alone: one count is enough then.
    _own: Option<Place>,
}

impl Admission {
    pub(super) fn new(pool: usize, most_waiting: usize, longest_wait: Duration) -> Self {
        let waiting = AtomicUsize::new(0);
        let for_slow = pool.checked_div(FOR_SLOW_CLIENTS).unwrap_or_default();
        let for_slow_clients = Arc::new(Semaphore::new(for_slow.min(Semaphore::MAX_PERMITS)));
        let (own, delay) = (Door::new(pool), Delay::default());
        Self { own, waiting, most_waiting, longest_wait, delay, for_slow_clients }
    }

    /// Waits for a place, in order of arrival; before the slots of the class, guests wait in turn.
    pub(super) async fn enter(&self, slots: &Arc<Door>) -> Result<Permit, Cause> {
        if let Some(permit) = self.try_enter(slots) {
            return Ok(permit);
        }
        let waiting = Waiting::begin(&self.waiting, self.most_waiting).ok_or(Cause::Busy)?;
        let longest = self.delay.longest(waiting.is_first, self.longest_wait, Instant::now());
        let entering = async {
            let own = match self.may_have_all(slots) {
                true => None,
                false => Some(self.own.enter(0).await),
            };
            // Guests are told apart by where this is.
            let slot = slots.enter(std::ptr::from_ref(self).addr()).await;
            Permit { _slot: slot, _own: own }
        };
        let permit = tokio::time::timeout(longest, entering).await.map_err(|_| Cause::Busy)?;
        self.delay.served(Instant::now());
        Ok(permit)
    }

    /// A place, if one is free.
    pub(super) fn try_enter(&self, slots: &Arc<Door>) -> Option<Permit> {
        let own = match self.may_have_all(slots) {
            true => None,
            false => Some(self.own.try_enter()?),
        };
        Some(Permit { _slot: slots.try_enter()?, _own: own })
    }

    /// Whether the guest may have all slots of its class.
    fn may_have_all(&self, slots: &Door) -> bool {
        self.own.places() >= slots.places()
    }

    /// Instances that may be at work at once.
    pub(super) fn pool(&self) -> usize {
        self.own.places()
    }

    /// Instances at work, behind a door to their slots.
    pub(super) fn in_use(&self, slots: &Door) -> usize {
        if self.may_have_all(slots) { slots.in_use() } else { self.own.in_use() }
    }

    pub(super) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Places that instances may hold while they wait for a client: a quarter of all.
    pub(super) fn for_slow_clients(&self) -> &Arc<Semaphore> {
        &self.for_slow_clients
    }

    /// Waits for something else before it waits for a place, bounded as well.
    pub(super) async fn wait<T>(&self, event: impl Future<Output = T>) -> Option<T> {
        let _waiting = Waiting::begin(&self.waiting, self.most_waiting)?;
        tokio::time::timeout(self.longest_wait, event).await.ok()
    }
}

/// One request that waits; counted until dropped.
struct Waiting<'a> {
    count: &'a AtomicUsize,
    /// Nobody waited when it came.
    is_first: bool,
}

impl<'a> Waiting<'a> {
    fn begin(count: &'a AtomicUsize, most: usize) -> Option<Self> {
        // Counted first, so that no more than `most` are ever let through at once; who is too many is no longer when
        // this is dropped.
        let before = count.fetch_add(1, Ordering::AcqRel);
        let waiting = Self { count, is_first: before == 0 };
        (before < most).then_some(waiting)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.count.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_guest_that_may_have_all_slots_is_counted_once() {
        let (slots, alone) = (Door::new(2), Admission::new(2, 0, Duration::from_secs(1)));
        let permits = [(); 2].map(|()| alone.try_enter(&slots).unwrap());
        assert_eq!((alone.in_use(&slots), alone.pool()), (2, 2));
        assert_eq!(alone.enter(&slots).await.err(), Some(Cause::Busy));
        drop(permits);
        assert_eq!(alone.in_use(&slots), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn beyond_pool_and_queue_is_refused_at_once_and_the_queue_after_its_wait() {
        let (slots, admission) = (Door::new(5), Admission::new(1, 1, Duration::from_secs(1)));
        let first = admission.enter(&slots).await.unwrap();
        assert_eq!(admission.in_use(&slots), 1);
        let (second, third) = tokio::join!(admission.enter(&slots), async {
            tokio::task::yield_now().await;
            assert_eq!(admission.waiting(), 1);
            admission.enter(&slots).await.err()
        });
        assert_eq!(third, Some(Cause::Busy), "the queue is full");
        assert_eq!(second.err(), Some(Cause::Busy), "its wait is over");
        assert_eq!((admission.waiting(), slots.in_use()), (0, 1));
        drop(first);
        assert!(admission.enter(&slots).await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_guest_that_waits_for_a_slot_of_its_class_keeps_its_own_place_meanwhile() {
        let slots = Door::new(2);
        let [one, other, third] = [(); 3].map(|()| Admission::new(1, 1, Duration::from_secs(1)));
        let taken = one.enter(&slots).await.unwrap();
        let _third = third.enter(&slots).await.unwrap();
        assert!(other.try_enter(&slots).is_none());
        assert_eq!(other.in_use(&slots), 0, "who found no slot gave its own place back");
        let entering = other.enter(&slots);
        let (entered, ()) = tokio::join!(entering, async {
            tokio::task::yield_now().await;
            assert_eq!(other.in_use(&slots), 1);
            drop(taken);
        });
        assert!(entered.is_ok());
    }
}
