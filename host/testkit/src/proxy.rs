//! A TCP proxy in front of a server, which cuts, stalls or delays connections where a test says.

use std::{
    collections::HashMap,
    io::{Read as _, Write as _},
    net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::Result;

use crate::weather::Weather;

/// The ways that bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Towards the server.
    Requests,
    /// From the server.
    Replies,
}

/// What happens once a number of bytes has passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The connection of that byte ends, both ways.
    Cut,
    /// Nothing more passes that way.
    Stall,
    /// Each chunk waits before it passes that way.
    Delay(Duration),
}

/// A running proxy; ends when dropped.
pub struct Proxy {
    port: u16,
    shared: Arc<Shared>,
}

impl Proxy {
    /// Starts a proxy on a free port in front of a port of 127.0.0.1.
    ///
    /// # Errors
    /// When no socket can be bound.
    pub fn start(server: u16) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let port = listener.local_addr()?.port();
        let shared = Arc::new(Shared::default());
        let for_thread = Arc::clone(&shared);
        std::thread::spawn(move || accept(&listener, server, &for_thread));
        Ok(Self { port, shared })
    }

    /// Its port on 127.0.0.1.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Cuts once, after this many more bytes have been passed on that way, counted over all
    /// connections: the connection of that byte ends. Of replies, the requests before arrive.
    pub fn cut(&self, way: Way, after: usize) {
        self.shared.expect(way, after, Fault::Cut);
    }

    /// Lets this many more bytes pass that way, counted over all connections, and then nothing on
    /// any of them. They stay open, and others are accepted.
    pub fn stall(&self, way: Way, after: usize) {
        self.shared.expect(way, after, Fault::Stall);
    }

    /// After this many more bytes, lets each chunk wait before it passes that way.
    pub fn delay(&self, way: Way, after: usize, pause: Duration) {
        self.shared.expect(way, after, Fault::Delay(pause));
    }

    /// Whether the fault set last is still to come.
    #[must_use]
    pub fn is_pending(&self) -> bool {
        self.shared.lock().expected.is_some()
    }

    /// Lets everything pass: no fault is to come, and what was held up goes on its way.
    pub fn release(&self) {
        self.shared.release();
    }

    /// Ends all connections, with what was held up on them, and lets later ones pass.
    pub fn cut_all(&self) {
        self.shared.cut_all();
    }

    /// From now on, until its end, one fault after another at random.
    #[must_use]
    pub fn weather(&self, seed: u64) -> Weather {
        Weather::start(Arc::clone(&self.shared), seed)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.lock().stopped = true;
        self.shared.cut_all();
        // Wakes the accepting thread.
        let _ = TcpStream::connect(SocketAddr::from((Ipv4Addr::LOCALHOST, self.port)));
    }
}

/// What the proxy, its connections and its weather share.
#[derive(Default)]
pub(crate) struct Shared {
    current: Mutex<Current>,
    /// Told when something changes that a thread may wait for.
    changed: Condvar,
    /// Numbers connections.
    next: AtomicU64,
}

#[derive(Default)]
struct Current {
    expected: Option<Expected>,
    requests: Passage,
    replies: Passage,
    /// Both sockets of each open connection.
    open: HashMap<u64, [TcpStream; 2]>,
    stopped: bool,
}

/// A fault to come, and the bytes until then.
struct Expected {
    way: Way,
    left: usize,
    fault: Fault,
}

/// How bytes go one way.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Passage {
    #[default]
    Free,
    Stalled,
    Slow(Duration),
}

/// What a connection may do with the bytes it holds.
struct Admission {
    bytes: usize,
    pause: Duration,
    cut: bool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Current> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn expect(&self, way: Way, left: usize, fault: Fault) {
        self.lock().expected = Some(Expected { way, left, fault });
    }

    /// Waits a while for the expected fault; whether it has come.
    pub(crate) fn wait_for_fault(&self, longest: Duration) -> bool {
        let waited =
            self.changed.wait_timeout_while(self.lock(), longest, |now| now.expected.is_some());
        waited.unwrap_or_else(PoisonError::into_inner).0.expected.is_none()
    }

    pub(crate) fn release(&self) {
        let mut current = self.lock();
        current.expected = None;
        current.requests = Passage::Free;
        current.replies = Passage::Free;
        self.changed.notify_all();
    }

    pub(crate) fn cut_all(&self) {
        // Taken out first: whoever waits to pass on what it holds finds its connection gone.
        let open = std::mem::take(&mut self.lock().open);
        self.release();
        open.into_values().for_each(close);
    }

    /// Waits until at least one of `size` bytes may pass, or the connection is to end. `None` when
    /// it has been ended meanwhile.
    fn admit(&self, connection: u64, way: Way, size: usize) -> Option<Admission> {
        let waited = self.changed.wait_while(self.lock(), |now| {
            now.passage(way) == Passage::Stalled && now.open.contains_key(&connection)
        });
        let mut current = waited.unwrap_or_else(PoisonError::into_inner);
        if !current.open.contains_key(&connection) {
            return None;
        }
        let pause = match current.passage(way) {
            Passage::Slow(pause) => pause,
            Passage::Free | Passage::Stalled => Duration::ZERO,
        };
        let all = Admission { bytes: size, pause, cut: false };
        let Some(expected) = current.expected.as_mut().filter(|expected| expected.way == way)
        else {
            return Some(all);
        };
        if size < expected.left {
            expected.left = expected.left.saturating_sub(size);
            return Some(all);
        }
        let (bytes, fault) = (expected.left, expected.fault);
        current.expected = None;
        match fault {
            Fault::Cut => {}
            Fault::Stall => *current.passage_mut(way) = Passage::Stalled,
            Fault::Delay(pause) => *current.passage_mut(way) = Passage::Slow(pause),
        }
        self.changed.notify_all();
        Some(Admission { bytes, cut: fault == Fault::Cut, ..all })
    }

    /// Ends a connection. Both directions end together, as when a machine goes away.
    fn end(&self, connection: u64) {
        let sockets = self.lock().open.remove(&connection);
        sockets.into_iter().for_each(close);
        self.changed.notify_all();
    }
}

impl Current {
    fn passage(&self, way: Way) -> Passage {
        match way {
            Way::Requests => self.requests,
            Way::Replies => self.replies,
        }
    }

    fn passage_mut(&mut self, way: Way) -> &mut Passage {
        match way {
            Way::Requests => &mut self.requests,
            Way::Replies => &mut self.replies,
        }
    }
}

fn close(sockets: [TcpStream; 2]) {
    for socket in sockets {
        let _ = socket.shutdown(Shutdown::Both);
    }
}

fn accept(listener: &TcpListener, server: u16, shared: &Arc<Shared>) {
    for client in listener.incoming() {
        if shared.lock().stopped {
            return;
        }
        let Ok(client) = client else { continue };
        let Ok(upstream) = TcpStream::connect((Ipv4Addr::LOCALHOST, server)) else { continue };
        let _ = client.set_nodelay(true);
        let _ = upstream.set_nodelay(true);
        let (Ok(client_half), Ok(upstream_half)) = (client.try_clone(), upstream.try_clone())
        else {
            continue;
        };
        let (Ok(client_end), Ok(upstream_end)) = (client.try_clone(), upstream.try_clone()) else {
            continue;
        };
        let connection = shared.next.fetch_add(1, Ordering::Relaxed);
        shared.lock().open.insert(connection, [client_end, upstream_end]);
        let (requests, replies) = (Arc::clone(shared), Arc::clone(shared));
        std::thread::spawn(move || {
            forward(client_half, upstream_half, &requests, connection, Way::Requests);
        });
        std::thread::spawn(move || forward(upstream, client, &replies, connection, Way::Replies));
    }
}

fn forward(mut from: TcpStream, mut to: TcpStream, shared: &Shared, connection: u64, way: Way) {
    let mut buffer = [0; 16 * 1024];
    while let Ok(size) = from.read(&mut buffer) {
        let bytes = buffer.get(..size).unwrap_or_default();
        if bytes.is_empty() || !pass(bytes, &mut to, shared, connection, way) {
            break;
        }
    }
    shared.end(connection);
}

/// Passes bytes on, as the proxy is told to; whether the connection goes on after them.
fn pass(mut bytes: &[u8], to: &mut TcpStream, shared: &Shared, connection: u64, way: Way) -> bool {
    while !bytes.is_empty() {
        let Some(admission) = shared.admit(connection, way, bytes.len()) else { return false };
        std::thread::sleep(admission.pause);
        let (passing, rest) = bytes.split_at(admission.bytes);
        if to.write_all(passing).is_err() || admission.cut {
            return false;
        }
        bytes = rest;
    }
    true
}
