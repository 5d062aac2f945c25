//! Workers: threads that serve connections, each on a runtime of its own.
//!
//! A request stays on one core from its first byte to its last: its guest, and where the store
//! allows it its lane, run on the same thread, which saves the hops between cores.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures_util::{
    future::join_all,
    stream::{FuturesUnordered, StreamExt as _},
};
use tally_state::State;
use tokio::{
    io::DuplexStream,
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch},
    task::{AbortHandle, JoinSet},
};

use super::{
    Limits, Metrics,
    accept::{Places, accept, accept_last},
    connection, heartbeat,
    newcomers::Newcomer,
    parking::Parking,
    protocol::{Listening, Protocol},
    responses::{Requests, Waiting},
    service::{Service, Shared},
    socket::{Listener, StdListener, StdSocket},
};
use crate::{
    interfaces::{Neighbours, offer},
    logging::{self, AccessLog},
    registry::Table,
    runtime::take_seat,
};

/// Tasks that run between two looks at what has arrived. A guest takes as long as twenty ordinary
/// tasks: at Tokio's 61, a store's answer would wait for a millisecond's worth of them, and with it
/// all requests of its batch.
const EVENT_INTERVAL: u32 = 16;

/// How often draining looks whether it is done.
const DRAIN_LOOK: Duration = Duration::from_millis(5);

/// A worker keeps a connection that came to it unless it has more than this part above the average: few
/// that stay are spread evenly, many to within that part, and of what comes and goes most is not handed on.
const SLACK: usize = 8;

/// A connection, what is spoken on it, and its place among those that may be open.
type Given = (StdSocket, Protocol, OwnedSemaphorePermit);

/// Why workers cannot start.
#[derive(Debug, thiserror::Error)]
#[error("cannot start a worker thread")]
pub struct WorkersError(#[from] io::Error);

/// The workers of a server.
pub(crate) struct Workers {
    crew: Arc<Crew>,
    /// Bytes that request bodies may still take.
    bodies: Arc<Semaphore>,
    /// Bytes they may take in all.
    most_bodies: usize,
    /// Set when listeners are to close; those who hear of it are there as long as their listeners.
    close: watch::Sender<bool>,
    /// Set when connections are to finish what they are at: how long idle ones stay open for a last
    /// request.
    drain: watch::Sender<Option<Duration>>,
    /// The first part that has ended by a panic.
    ended: watch::Receiver<Option<String>>,
}

/// Reports a thread or task that panicked, as nothing else would show that it no longer serves.
struct Alarm {
    part: String,
    ended: watch::Sender<Option<String>>,
}

impl Drop for Alarm {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.ended.send_replace(Some(std::mem::take(&mut self.part)));
        }
    }
}

/// What workers know of each other.
pub(super) struct Crew(Box<[Worker]>);

struct Worker {
    give: mpsc::UnboundedSender<Given>,
    /// Connections open on this worker.
    open: Arc<AtomicUsize>,
}

impl Workers {
    /// Starts the threads. Where there is a socket for each worker, each listens for itself; else one
    /// listens for all, another one for each place.
    pub(crate) fn start(
        count: usize,
        places_to_listen: Vec<Listening>,
        routes: &Arc<Table>,
        state: &State,
        limits: &Limits,
        metrics: &Metrics,
        access: Option<&Arc<AccessLog>>,
    ) -> Result<Self, WorkersError> {
        let ((close, closing), (drain, draining)) = (watch::channel(false), watch::channel(None));
        let (alarm, ended) = watch::channel(None);
        let most_bodies = limits.bodies.min(Semaphore::MAX_PERMITS);
        let bodies = Arc::new(Semaphore::new(most_bodies));
        let waiting = Waiting::new(limits.responses);
        let parking = Arc::new(Parking::new(metrics.closed_for_others().clone()));
        let access = access.cloned();
        let shared =
            Shared { access, bodies: Arc::clone(&bodies), waiting, parking: Arc::clone(&parking) };
        let free = Arc::new(Semaphore::new(limits.connections));
        let places = Places { free, parking };
        let (workers, given): (Vec<_>, Vec<_>) = std::iter::repeat_with(|| {
            let ((give, given), open) = (mpsc::unbounded_channel(), Arc::<AtomicUsize>::default());
            (Worker { give, open: Arc::clone(&open) }, (given, open))
        })
        .take(count)
        .unzip();
        let crew = Arc::new(Crew(workers.into()));
        let listeners = for_workers(count, places_to_listen);
        for (number, ((given, open), listeners)) in given.into_iter().zip(listeners).enumerate() {
            let own = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .event_interval(EVENT_INTERVAL)
                .build()?;
            let (routes, state, limits) = (Arc::clone(routes), state.clone(), limits.clone());
            let (metrics, draining, shared) = (metrics.clone(), draining.clone(), shared.clone());
            let listeners = listeners.into_iter().map(|(listener, protocol)| {
                // Registered with the worker's own network.
                let _own = own.enter();
                // Only who listens is waited for.
                Ok((listener.register()?, protocol, closing.clone(), places.clone()))
            });
            let (crew, listeners) = (Arc::clone(&crew), listeners.collect::<io::Result<Vec<_>>>()?);
            let alarm = alarm.clone();
            let alarm =
                move |part: &str| Alarm { part: format!("{part} {number}"), ended: alarm.clone() };
            std::thread::Builder::new().name(format!("worker-{number}")).spawn(move || {
                let _alarm = alarm("worker thread");
                take_seat(number);
                own.block_on(async move {
                    let listening =
                        listeners.into_iter().map(|(listener, protocol, closing, places)| {
                            listen(listener, protocol, number, Arc::clone(&crew), places, closing)
                        });
                    tokio::spawn(heartbeat::beat());
                    // Within the runtime, as the state's lane may live here.
                    let state = state.worker();
                    let service =
                        Service::new(routes, state, limits, metrics, shared, draining.clone());
                    let _offered =
                        offer(Internal { service: service.clone(), draining: draining.clone() });
                    // What comes in is not behind all that is under way: Tokio looks at this after some tasks.
                    tokio::join!(join_all(listening), serve(given, service, draining, &open));
                });
            })?;
        }
        Ok(Self { crew, bodies, most_bodies, close, drain, ended })
    }

    /// Waits until a worker thread or its listener ends by a panic; says which.
    pub(crate) async fn ended(&self) -> String {
        let mut ended = self.ended.clone();
        match ended.wait_for(Option::is_some).await {
            Ok(part) => part.clone().unwrap_or_default(),
            // All have ended in order.
            Err(_) => std::future::pending().await,
        }
    }

    /// Connections open on all workers.
    pub(crate) fn connections(&self) -> usize {
        self.crew.counts().sum()
    }

    /// Bytes of request bodies that are arriving or being answered.
    pub(crate) fn body_bytes(&self) -> usize {
        self.most_bodies.saturating_sub(self.bodies.available_permits())
    }

    /// Closes all listeners, once they have accepted the connections that the kernel had taken: what comes
    /// now is refused by the kernel, and goes elsewhere.
    pub(crate) async fn stop_listening(&self) {
        // Nobody hears of it when they are closed already.
        let _ = self.close.send(true);
        self.close.closed().await;
    }

    /// Asks all connections to finish the requests they are at and to close, those that are accepted
    /// later as well. A connection of HTTP/1 that is idle stays open for `grace`: its client may be
    /// about to send a request, which is answered as the last one.
    pub(crate) fn start_draining(&self, grace: Duration) {
        self.drain.send_replace(Some(grace));
    }

    /// Waits until no connection is open.
    pub(crate) async fn drained(&self) {
        while self.connections() > 0 {
            tokio::time::sleep(DRAIN_LOOK).await;
        }
    }
}

impl Crew {
    /// Connections open on each worker.
    fn counts(&self) -> impl Iterator<Item = usize> + Clone {
        self.0.iter().map(|worker| worker.open.load(Ordering::Relaxed))
    }

    /// Gives a connection to the worker it came to, or to one that has fewer.
    pub(super) fn give(
        &self,
        near: usize,
        socket: StdSocket,
        protocol: Protocol,
        place: OwnedSemaphorePermit,
    ) {
        let Some(worker) = self.0.get(choose(self.counts(), near)) else { return };
        worker.open.fetch_add(1, Ordering::Relaxed);
        if worker.give.send((socket, protocol, place)).is_err() {
            worker.open.fetch_sub(1, Ordering::Relaxed);
            logging::log(&logging::Failure {
                level: tracing::Level::ERROR,
                what: "a worker has ended; a connection was dropped",
                kind: "worker",
                guest: "",
                id: "",
                method: None,
                reason: &"the process is about to end",
            });
        }
    }
}

/// The sockets that each worker listens at.
fn for_workers(count: usize, places: Vec<Listening>) -> Vec<Vec<(StdListener, Protocol)>> {
    let mut workers: Vec<Vec<_>> = std::iter::repeat_with(Vec::new).take(count).collect();
    for (place, listening) in places.into_iter().enumerate() {
        for (number, socket) in listening.sockets.into_iter().enumerate() {
            // Those that have one socket alone are spread over the workers.
            let worker = place.wrapping_add(number).checked_rem(count).unwrap_or_default();
            if let Some(worker) = workers.get_mut(worker) {
                worker.push((socket, listening.protocol.clone()));
            }
        }
    }
    workers
}

/// Which worker serves a connection that came to one of them, by the connections that each has.
fn choose(counts: impl Iterator<Item = usize> + Clone, near: usize) -> usize {
    let (workers, all) = (counts.clone().count(), counts.clone().sum::<usize>());
    let own = counts.clone().nth(near).unwrap_or_default();
    // In whole numbers: own <= all / workers * (1 + 1 / SLACK).
    if own * workers * SLACK <= all * (SLACK + 1) {
        return near;
    }
    counts.enumerate().min_by_key(|(_, open)| *open).map_or(near, |(fewest, _)| fewest)
}

/// Listens until it is said to close.
async fn listen(
    listener: Listener,
    protocol: Protocol,
    near: usize,
    crew: Arc<Crew>,
    places: Places,
    mut closing: watch::Receiver<bool>,
) {
    tokio::select! {
        // An error means that the server is gone, which asks for the same.
        _ = closing.wait_for(|closing| *closing) => {}
        () = accept(&listener, &protocol, near, &crew, &places) => {}
    }
    accept_last(&listener, &protocol, near, &crew, &places).await;
}

/// Serves connections until no more are given and all have closed.
async fn serve(
    mut given: mpsc::UnboundedReceiver<Given>,
    service: Service,
    draining: watch::Receiver<Option<Duration>>,
    open: &Arc<AtomicUsize>,
) {
    let (mut newcomers, mut connections) = (FuturesUnordered::new(), JoinSet::new());
    let mut is_over = false;
    while !(is_over && newcomers.is_empty() && connections.is_empty()) {
        tokio::select! {
            biased;
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
            Some(open) = newcomers.next(), if !newcomers.is_empty() => {
                if let Some(open) = open {
                    connections.spawn(open);
                }
            }
            next = given.recv(), if !is_over => {
                let Some((socket, protocol, place)) = next else {
                    is_over = true;
                    continue;
                };
                let (service, draining) = (service.clone(), draining.clone());
                let counted = Counted { open: Arc::clone(open), _place: place };
                let requests = Arc::<Requests>::default();
                let signals = Arc::clone(requests.signals());
                let connection = async move {
                    let _counted = counted;
                    connection::serve(socket, protocol, service, requests, draining).await;
                };
                newcomers.push(Newcomer::new(connection, signals));
            }
        }
    }
}

/// What guests of a worker reach others by.
struct Internal {
    service: Service,
    draining: watch::Receiver<Option<Duration>>,
}

impl Neighbours for Internal {
    fn has(&self, guest: &str) -> bool {
        self.service.has_guest(guest)
    }

    fn serve(&self, connection: DuplexStream) -> AbortHandle {
        let (service, draining) = (self.service.clone(), self.draining.clone());
        let socket = StdSocket::Internal(connection);
        let requests = Arc::<Requests>::default();
        let serving = connection::serve(socket, Protocol::Plain, service, requests, draining);
        tokio::spawn(serving).abort_handle()
    }
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

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    /// Gives so many connections to workers, each to come to one of them by `place`.
    fn spread(workers: usize, connections: usize, place: impl Fn(usize) -> usize) -> Vec<usize> {
        let mut counts = vec![0; workers];
        for connection in 0..connections {
            let chosen = choose(counts.iter().copied(), place(connection));
            counts[chosen] += 1;
        }
        counts
    }

    #[test]
    fn only_a_panic_raises_the_alarm() {
        let (ended, alarm) = watch::channel(None);
        let worker = |panics: bool| {
            let alarm = Alarm { part: "worker thread 3".into(), ended: ended.clone() };
            let thread = std::thread::spawn(move || {
                let _alarm = alarm;
                assert!(!panics, "asked to");
            });
            thread.join().is_err()
        };
        assert!(!worker(false));
        assert_eq!(*alarm.borrow(), None);
        assert!(worker(true));
        assert_eq!(alarm.borrow().as_deref(), Some("worker thread 3"));
    }

    #[test]
    fn connections_that_stay_are_spread_wherever_they_come_to() {
        assert_eq!(spread(2, 2, |_| 1), [1, 1]);
        assert_eq!(spread(4, 8, |_| 3), [2, 2, 2, 2]);
        assert_eq!(spread(2, 64, |_| 0), [36, 28], "an eighth above the average");
        assert_eq!(spread(3, 7, |connection| connection % 2), [3, 2, 2]);
    }

    #[test]
    fn a_worker_with_its_share_keeps_what_comes_to_it() {
        let counts = |counts: &'static [usize]| counts.iter().copied();
        assert_eq!(choose(counts(&[0, 0]), 1), 1);
        assert_eq!(choose(counts(&[32, 36]), 1), 1);
        assert_eq!(choose(counts(&[28, 36]), 1), 1, "an eighth above the average");
        assert_eq!(choose(counts(&[28, 37]), 1), 0);
        assert_eq!(choose(counts(&[9, 8, 3, 12]), 3), 2, "to the one with the fewest");
        assert_eq!(choose(counts(&[0, 12]), 0), 0);
    }

    /// As where the kernel spreads nothing.
    #[tokio::test]
    async fn workers_without_a_listener_of_their_own_do_not_hold_up_the_end() {
        let registry = prometheus::Registry::new();
        let state = tally_state::Metrics::register(&registry).unwrap();
        let state = State::open("memory:", tally_state::Options::default(), state).await.unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let routes = Table::new(crate::registry::Routes::new(Vec::new()));
        let metrics = Metrics::register(&registry).unwrap();
        let sockets = vec![StdListener::Tcp(listener)];
        let listening = vec![Listening { sockets, protocol: Protocol::Plain }];
        let workers =
            Workers::start(2, listening, &routes, &state, &Limits::of(2), &metrics, None).unwrap();
        assert!(TcpStream::connect(address).is_ok());
        let closing = tokio::time::timeout(Duration::from_secs(30), workers.stop_listening());
        assert!(closing.await.is_ok());
        assert!(TcpStream::connect(address).is_err(), "no listener is left");
    }
}
