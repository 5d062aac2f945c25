//! The routes that requests are answered by now. They are exchanged as a whole, while requests run.
//!
//! Workers count references to routes for each request, and each has a counter of its own for that: one that all of
//! them wrote would be slow.

use std::{
    ops::Deref,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use tokio::sync::Notify;

use super::{Guest, Pattern, Routes};

/// Longest time that a request waits while it is not known whether what runs here is current. It is answered then.
const MOST_DOUBT: Duration = Duration::from_secs(5);

/// The routes of a host.
pub(crate) struct Table {
    current: ArcSwap<Routes>,
    /// Counts exchanges.
    version: AtomicU64,
    /// Held while routes are exchanged.
    exchanging: Mutex<()>,
    beginning: Instant,
    /// Until when what runs is known to be current, in milliseconds since the beginning.
    current_until: AtomicU64,
    /// Told when that is set.
    renewed: Notify,
}

impl Table {
    /// Routes that are current until something else is said.
    pub(crate) fn new(routes: Routes) -> Arc<Self> {
        Arc::new(Self {
            current: ArcSwap::from_pointee(routes),
            version: AtomicU64::new(0),
            exchanging: Mutex::new(()),
            beginning: Instant::now(),
            current_until: AtomicU64::new(u64::MAX),
            renewed: Notify::new(),
        })
    }

    /// The routes as they are now.
    pub(crate) fn routes(&self) -> Arc<Routes> {
        self.current.load_full()
    }

    /// Has other routes altogether.
    pub(crate) fn fill(&self, routes: Vec<(Pattern, Arc<Guest>)>) {
        let _one_at_a_time = self.exchanging.lock().unwrap_or_else(PoisonError::into_inner);
        self.current.store(Arc::new(Routes::new(routes)));
        self.version.fetch_add(1, Ordering::Release);
    }

    /// Puts a guest in the place of the one of its name, or adds it; `None` removes it. Requests that have found
    /// their guest are answered by that one.
    pub(crate) fn exchange(&self, name: &str, next: Option<(Pattern, Arc<Guest>)>) {
        let _one_at_a_time = self.exchanging.lock().unwrap_or_else(PoisonError::into_inner);
        let others = self.routes();
        let others = others.iter().filter(|(_, guest)| &**guest.name() != name);
        let mut routes: Vec<(Pattern, Arc<Guest>)> =
            others.map(|(pattern, guest)| (pattern.clone(), Arc::clone(guest))).collect();
        routes.extend(next);
        self.current.store(Arc::new(Routes::new(routes)));
        self.version.fetch_add(1, Ordering::Release);
    }

    /// Says until when what runs is current; `None` is until something else is said.
    pub(crate) fn is_current_until(&self, until: Option<Instant>) {
        let since = |until: Instant| until.saturating_duration_since(self.beginning).as_millis();
        let until = until.map_or(u64::MAX, |until| u64::try_from(since(until)).unwrap_or(u64::MAX));
        self.current_until.store(until, Ordering::Release);
        self.renewed.notify_waiters();
    }

    /// Whether what runs is known to be current.
    pub(crate) fn is_current(&self, now: Instant) -> bool {
        let until = self.current_until.load(Ordering::Acquire);
        until == u64::MAX || {
            let since = now.saturating_duration_since(self.beginning).as_millis();
            u64::try_from(since).unwrap_or(u64::MAX) < until
        }
    }

    /// Waits until what runs is known to be current, or for so long that the request is to be answered anyway.
    async fn until_current(&self) {
        let renewing = async {
            loop {
                let renewed = self.renewed.notified();
                if self.is_current(Instant::now()) {
                    return;
                }
                renewed.await;
            }
        };
        // It is answered then by what there is.
        let _ = tokio::time::timeout(MOST_DOUBT, renewing).await;
    }
}

/// One worker's view of the table.
pub(crate) struct Local {
    table: Arc<Table>,
    own: ArcSwap<Own>,
}

/// Routes, with a count of references of the worker's own.
pub(crate) struct Own {
    version: u64,
    routes: Arc<Routes>,
}

impl Deref for Own {
    type Target = Routes;

    fn deref(&self) -> &Routes {
        &self.routes
    }
}

impl Local {
    /// The view of the worker that calls this.
    pub(crate) fn of(table: Arc<Table>) -> Self {
        let own = ArcSwap::from_pointee(Own::of(&table));
        Self { table, own }
    }

    /// The routes as they are now.
    pub(crate) fn routes(&self) -> Arc<Own> {
        let own = self.own.load_full();
        if own.version == self.table.version.load(Ordering::Acquire) {
            return own;
        }
        let now = Arc::new(Own::of(&self.table));
        self.own.store(Arc::clone(&now));
        now
    }

    /// The routes for a request that came now. Waits where it is not known whether they are current.
    pub(crate) async fn current(&self, now: Instant) -> Arc<Own> {
        if !self.table.is_current(now) {
            // In a box, as it would double the size of every request's future.
            Box::pin(self.table.until_current()).await;
        }
        self.routes()
    }
}

impl Own {
    fn of(table: &Table) -> Self {
        // In this order: what comes between is taken the next time.
        let version = table.version.load(Ordering::Acquire);
        Self { version, routes: table.routes() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_runs_is_current_until_a_moment_or_until_something_else_is_said() {
        let table = Table::new(Routes::new(Vec::new()));
        let now = Instant::now();
        let later = now + Duration::from_secs(3_600);
        assert!(table.is_current(later));
        table.is_current_until(Some(now + Duration::from_secs(60)));
        assert!(table.is_current(now) && !table.is_current(later));
        table.is_current_until(Some(now));
        assert!(!table.is_current(now));
        table.is_current_until(None);
        assert!(table.is_current(later));
    }

    #[tokio::test]
    async fn a_request_waits_until_what_runs_is_current_and_not_for_ever() {
        let table = Table::new(Routes::new(Vec::new()));
        table.is_current_until(Some(Instant::now()));
        let local = Arc::new(Local::of(Arc::clone(&table)));
        let waiting = tokio::spawn({
            let local = Arc::clone(&local);
            async move { local.current(Instant::now()).await.iter().count() }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        table.is_current_until(None);
        tokio::time::timeout(MOST_DOUBT / 2, waiting).await.expect("it is told").unwrap();
        tokio::time::pause();
        table.is_current_until(Some(Instant::now()));
        // The clock of the test goes on by itself.
        local.current(Instant::now()).await;
    }
}
