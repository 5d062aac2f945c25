//! A door to a number of places, before which guests wait in turn: however many requests of one
//! guest wait, each other guest's first one is let in next but so many.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use tokio::sync::oneshot;

/// A number of places, of which some are taken.
pub(super) struct Door {
    places: usize,
    free: AtomicUsize,
    /// Those who wait, or are about to.
    waiting: AtomicUsize,
    queues: Mutex<VecDeque<Queue>>,
}

/// Those of one guest who wait, in order of arrival.
struct Queue {
    of: usize,
    waiting: VecDeque<oneshot::Sender<()>>,
}

/// A place, free again when dropped.
pub(super) struct Place(Arc<Door>);

impl Door {
    pub(super) fn new(places: usize) -> Arc<Self> {
        Arc::new(Self {
            places,
            free: AtomicUsize::new(places),
            waiting: AtomicUsize::new(0),
            queues: Mutex::default(),
        })
    }

    /// How many places there are.
    pub(super) fn places(&self) -> usize {
        self.places
    }

    /// How many are taken.
    pub(super) fn in_use(&self) -> usize {
        self.places.saturating_sub(self.free.load(Ordering::SeqCst))
    }

    /// A place, if one is free and nobody waits for it.
    pub(super) fn try_enter(self: &Arc<Self>) -> Option<Place> {
        let is_free = self.waiting.load(Ordering::Relaxed) == 0 && self.take();
        is_free.then(|| Place(Arc::clone(self)))
    }

    /// Waits for a place, in the queue of a guest.
    ///
    /// # Cancel safety
    /// Who no longer waits has lost its place in the queue, and holds none behind the door.
    pub(super) async fn enter(self: &Arc<Self>, guest: usize) -> Place {
        if let Some(place) = self.try_enter() {
            return place;
        }
        let mut entering = Entering::begin(self, guest);
        // The sender is there until it has sent.
        let _ = (&mut entering.called).await;
        entering.is_in = true;
        Place(Arc::clone(self))
    }

    fn take(&self) -> bool {
        let taken = |free: usize| free.checked_sub(1);
        self.free.fetch_update(Ordering::SeqCst, Ordering::SeqCst, taken).is_ok()
    }

    fn give_back(&self) {
        self.free.fetch_add(1, Ordering::SeqCst);
        if self.waiting.load(Ordering::SeqCst) > 0 {
            self.call();
        }
    }

    /// Lets in who is next, while there are places.
    fn call(&self) {
        let mut queues = self.queues.lock().unwrap_or_else(PoisonError::into_inner);
        while !queues.is_empty() && self.take() {
            let mut is_given = false;
            while !is_given && let Some(mut queue) = queues.pop_front() {
                if let Some(next) = queue.waiting.pop_front() {
                    // Who no longer waits does not take it.
                    is_given = next.send(()).is_ok();
                }
                if !queue.waiting.is_empty() {
                    queues.push_back(queue);
                }
            }
            if !is_given {
                // Nobody waits who could miss it.
                self.free.fetch_add(1, Ordering::SeqCst);
            }
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.give_back();
    }
}

/// One who waits.
struct Entering<'a> {
    door: &'a Arc<Door>,
    called: oneshot::Receiver<()>,
    is_in: bool,
}

impl<'a> Entering<'a> {
    fn begin(door: &'a Arc<Door>, guest: usize) -> Self {
        let (call, called) = oneshot::channel();
        // Before it is looked for a place: who gives one back from now on calls.
        door.waiting.fetch_add(1, Ordering::SeqCst);
        {
            let mut queues = door.queues.lock().unwrap_or_else(PoisonError::into_inner);
            match queues.iter_mut().find(|queue| queue.of == guest) {
                Some(queue) => queue.waiting.push_back(call),
                None => queues.push_back(Queue { of: guest, waiting: [call].into() }),
            }
        }
        let entering = Self { door, called, is_in: false };
        door.call();
        entering
    }
}

impl Drop for Entering<'_> {
    fn drop(&mut self) {
        self.door.waiting.fetch_sub(1, Ordering::SeqCst);
        self.called.close();
        // It was called, and has gone meanwhile.
        if !self.is_in && self.called.try_recv().is_ok() {
            self.door.give_back();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures_util::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn guests_are_let_in_by_turns() {
        let door = Door::new(1);
        let place = door.enter(0).await;
        let order = Arc::new(Mutex::new(Vec::new()));
        let mut tasks = Vec::new();
        for guest in [1, 1, 1, 2, 2, 3] {
            let (door, order) = (Arc::clone(&door), Arc::clone(&order));
            tasks.push(tokio::spawn(async move {
                let _place = door.enter(guest).await;
                order.lock().unwrap().push(guest);
            }));
            tokio::task::yield_now().await;
        }
        assert!(door.try_enter().is_none());
        drop(place);
        for task in tasks {
            tokio::time::timeout(Duration::from_secs(10), task).await.expect("let in").unwrap();
        }
        assert_eq!(*order.lock().unwrap(), [1, 2, 3, 1, 2, 1]);
        assert_eq!(door.in_use(), 0);
    }

    #[tokio::test]
    async fn who_goes_away_takes_no_place_along() {
        let door = Door::new(1);
        let place = door.enter(0).await;
        let mut called = Box::pin(door.enter(1));
        assert!(called.as_mut().now_or_never().is_none());
        let mut gone = Box::pin(door.enter(1));
        assert!(gone.as_mut().now_or_never().is_none());
        drop(gone);
        // The first is called, and goes before it has heard of it.
        drop(place);
        assert_eq!(door.in_use(), 1);
        drop(called);
        assert_eq!(door.in_use(), 0);
        assert!(door.try_enter().is_some());
    }

    #[test]
    fn no_place_is_lost_or_given_twice_by_many_threads() {
        const PLACES: usize = 3;
        let door = Door::new(PLACES);
        let inside = AtomicUsize::new(0);
        let runtime =
            || tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        std::thread::scope(|scope| {
            for guest in 0..4 {
                let (door, inside) = (&door, &inside);
                scope.spawn(move || {
                    runtime().block_on(async {
                        for round in 0..2_000 {
                            let mut entering = Box::pin(door.enter(guest));
                            if round % 3 == 0 && entering.as_mut().now_or_never().is_none() {
                                continue;
                            }
                            if round % 3 != 0 {
                                let longest = Duration::from_secs(30);
                                let entered = tokio::time::timeout(longest, entering).await;
                                let _place = entered.expect("a place is free in time");
                                let others = inside.fetch_add(1, Ordering::SeqCst);
                                assert!(others < PLACES);
                                tokio::task::yield_now().await;
                                inside.fetch_sub(1, Ordering::SeqCst);
                            }
                        }
                    });
                });
            }
        });
        assert_eq!((door.in_use(), door.waiting.load(Ordering::SeqCst)), (0, 0));
    }
}
