//! Workers: threads that serve connections, each on a runtime of its own.
//!
//! A request stays on one core from its first byte to its last: its guest, and where the store
//! allows it its lane, run on the same thread, which saves the hops between cores.

use std::{
    io,
    net::TcpStream,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tally_state::State;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};

use super::{Limits, Metrics, Routes, connection, service::Service};

/// How often each worker's timer fires for nothing. Tokio wakes its own thread, by a write to the
/// kernel, for each new timer that is due before all others; with this one always due sooner, the
/// timeouts of each request never are, which saves that write twice a request.
const HEARTBEAT: Duration = Duration::from_millis(100);

/// Tasks that run between two looks at what has arrived. A guest takes as long as twenty ordinary
/// tasks: at Tokio's 61, a store's answer would wait for a millisecond's worth of them, and with it
/// all requests of its batch.
const EVENT_INTERVAL: u32 = 16;

/// How often draining looks whether it is done.
const DRAIN_LOOK: Duration = Duration::from_millis(5);

/// A connection, and its place among those that may be open.
type Given = (TcpStream, OwnedSemaphorePermit);

/// Why workers cannot start.
#[derive(Debug, thiserror::Error)]
#[error("cannot start a worker thread")]
pub struct WorkersError(#[from] io::Error);

/// The workers of a server.
pub(crate) struct Workers {
    workers: Vec<Worker>,
    /// Bytes that request bodies may still take.
    bodies: Arc<Semaphore>,
    /// Bytes they may take in all.
    most_bodies: usize,
    /// Set when connections are to finish what they are at.
    drain: watch::Sender<bool>,
}

struct Worker {
    give: mpsc::UnboundedSender<Given>,
    /// Connections open on this worker.
    open: Arc<AtomicUsize>,
}

impl Workers {
    /// Starts the threads.
    pub(crate) fn start(
        count: usize,
        routes: &Arc<Routes>,
        state: &State,
        limits: &Limits,
        metrics: &Metrics,
    ) -> Result<Self, WorkersError> {
        let (drain, draining) = watch::channel(false);
        let most_bodies = limits.bodies.min(Semaphore::MAX_PERMITS);
        let bodies = Arc::new(Semaphore::new(most_bodies));
        let mut workers = Vec::with_capacity(count);
        for number in 0..count {
            let (give, given) = mpsc::unbounded_channel();
            let open = Arc::new(AtomicUsize::new(0));
            let own = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .event_interval(EVENT_INTERVAL)
                .build()?;
            let (routes, state, limits) = (Arc::clone(routes), state.clone(), limits.clone());
            let (metrics, draining, opened) =
                (metrics.clone(), draining.clone(), Arc::clone(&open));
            let own_bodies = Arc::clone(&bodies);
            std::thread::Builder::new().name(format!("worker-{number}")).spawn(move || {
                own.block_on(async move {
                    // Within the runtime, as the state's lane may live here.
                    let service = Service::new(routes, state.worker(), limits, metrics, own_bodies);
                    serve(given, service, draining, &opened).await;
                });
            })?;
            workers.push(Worker { give, open });
        }
        Ok(Self { workers, bodies, most_bodies, drain })
    }

    /// Gives a connection to the worker with the fewest.
    pub(super) fn give(&self, stream: TcpStream, place: OwnedSemaphorePermit) {
        if let Some(worker) =
            self.workers.iter().min_by_key(|worker| worker.open.load(Ordering::Relaxed))
        {
            worker.open.fetch_add(1, Ordering::Relaxed);
            if worker.give.send((stream, place)).is_err() {
                worker.open.fetch_sub(1, Ordering::Relaxed);
                tracing::error!("a worker has ended; a connection was dropped");
            }
        }
    }

    /// Connections open on all workers.
    pub(crate) fn connections(&self) -> usize {
        self.workers.iter().map(|worker| worker.open.load(Ordering::Relaxed)).sum()
    }

    /// Bytes of request bodies that are arriving or being answered.
    pub(crate) fn body_bytes(&self) -> usize {
        self.most_bodies.saturating_sub(self.bodies.available_permits())
    }

    /// Asks all connections to finish the requests they are at and to close. None must be given
    /// after this.
    pub(crate) fn start_draining(&self) {
        // Nobody listens when there is no connection.
        let _ = self.drain.send(true);
    }

    /// Waits until no connection is open.
    pub(crate) async fn drained(&self) {
        while self.connections() > 0 {
            tokio::time::sleep(DRAIN_LOOK).await;
        }
    }
}

/// Serves connections until no more are given and all have closed.
async fn serve(
    mut given: mpsc::UnboundedReceiver<Given>,
    service: Service,
    draining: watch::Receiver<bool>,
    open: &Arc<AtomicUsize>,
) {
    let mut connections = tokio::task::JoinSet::new();
    let mut heartbeat = tokio::time::interval(HEARTBEAT);
    loop {
        tokio::select! {
            biased;
            _ = heartbeat.tick() => {}
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
            next = given.recv() => {
                let Some((stream, place)) = next else { break };
                let (service, draining) = (service.clone(), draining.clone());
                let counted = Counted { open: Arc::clone(open), _place: place };
                connections.spawn(async move {
                    let _counted = counted;
                    connection::serve(stream, service, draining).await;
                });
            }
        }
    }
    while connections.join_next().await.is_some() {}
}

/// A connection that is open until this is dropped.
struct Counted {
    open: Arc<AtomicUsize>,
    _place: OwnedSemaphorePermit,
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.open.fetch_sub(1, Ordering::Relaxed);
    }
}
