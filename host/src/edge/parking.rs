//! Connections that wait for their clients: for a handshake, or for a request, the first or a next one. Where there is
//! no place for a new connection, the one that has waited longest makes room. Of HTTP/1, hyper holds nothing for those
//! between two requests.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use prometheus::IntCounter;
use tokio::{sync::Notify, time::Instant};

/// How long a connection is without a request before what is held for one is given back: long enough for a client
/// that asks one request after the other, as making it anew takes some microseconds.
pub(super) const PARK_AFTER: Duration = Duration::from_secs(1);

/// For how long a connection has waited at least that makes room. A new one has to have time for its first request.
pub(super) const LEAST_WAIT: Duration = Duration::from_secs(1);

/// All connections that wait, on all workers.
pub(super) struct Parking {
    /// By how long they have waited; no two have the same number.
    waiting: Mutex<(u64, BTreeMap<Place, Arc<Notify>>)>,
    closed: IntCounter,
    is_logged: AtomicBool,
}

/// Since when a connection waits, and its number.
type Place = (Instant, u64);

/// A connection that waits, until dropped.
pub(super) struct Parked<'a> {
    parking: &'a Parking,
    place: Place,
    to_close: Arc<Notify>,
}

impl Parking {
    /// Counts those that make room.
    pub(super) fn new(closed: IntCounter) -> Self {
        Self { waiting: Mutex::default(), closed, is_logged: AtomicBool::new(false) }
    }

    /// A connection begins to wait, having been idle since then.
    pub(super) fn enter(&self, since: Instant) -> Parked<'_> {
        let to_close = Arc::<Notify>::default();
        let mut waiting = self.lock();
        waiting.0 = waiting.0.wrapping_add(1);
        let place = (since, waiting.0);
        waiting.1.insert(place, Arc::clone(&to_close));
        Parked { parking: self, place, to_close }
    }

    /// Asks the connection that has waited longest to close, if one has waited for some time.
    pub(super) fn make_room(&self) {
        let mut waiting = self.lock();
        let Some(longest) = waiting.1.first_entry() else { return };
        if longest.key().0.elapsed() >= LEAST_WAIT {
            longest.remove().notify_one();
        }
    }

    /// One does close.
    fn closes(&self) {
        self.closed.inc();
        if !self.is_logged.swap(true, Relaxed) {
            tracing::warn!(
                "all connections that may be open are; for each new one, the longest idle one is closed \
                 (--max-connections; tally_connections_closed_for_others_total counts them)"
            );
        }
    }

    fn lock(&self) -> MutexGuard<'_, (u64, BTreeMap<Place, Arc<Notify>>)> {
        // Nothing panics while it is locked, and it is whole between statements.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Parked<'_> {
    /// Waits until this one is to make room.
    pub(super) async fn is_to_close(&self) {
        self.to_close.notified().await;
    }

    /// It does make room, and is counted.
    pub(super) fn closes(&self) {
        self.parking.closes();
    }
}

impl Drop for Parked<'_> {
    fn drop(&mut self) {
        self.parking.lock().1.remove(&self.place);
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    fn parking() -> Parking {
        Parking::new(IntCounter::new("closed", "closed").unwrap())
    }

    #[tokio::test(start_paused = true)]
    async fn the_longest_idle_one_makes_room() {
        let parking = parking();
        let start = Instant::now();
        let (short, long) = (parking.enter(start + LEAST_WAIT / 2), parking.enter(start));
        parking.make_room();
        assert!(long.is_to_close().now_or_never().is_none(), "it has not waited for long");
        tokio::time::advance(LEAST_WAIT).await;
        parking.make_room();
        assert!(long.is_to_close().now_or_never().is_some());
        parking.make_room();
        assert!(short.is_to_close().now_or_never().is_none(), "it has not waited for long");
        tokio::time::advance(LEAST_WAIT).await;
        parking.make_room();
        assert!(short.is_to_close().now_or_never().is_some());
        assert_eq!(parking.closed.get(), 0, "none has closed");
        long.closes();
        assert_eq!(parking.closed.get(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_has_got_its_request_stays() {
        let parking = parking();
        let (gone, stays) = (parking.enter(Instant::now()), parking.enter(Instant::now()));
        drop(gone);
        tokio::time::advance(LEAST_WAIT).await;
        parking.make_room();
        assert!(stays.is_to_close().now_or_never().is_some(), "it is the only one");
        parking.make_room();
        assert!(stays.is_to_close().now_or_never().is_none(), "it has been asked");
    }
}
