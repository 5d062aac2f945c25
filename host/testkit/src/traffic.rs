//! What passes a proxy, and the fault that is to come.

use std::{
    collections::HashMap,
    net::{Shutdown, TcpStream},
    sync::{
        Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

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

/// What passes a proxy: shared by its connections and its weather.
#[derive(Default)]
pub(crate) struct Traffic {
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
pub(crate) struct Admission {
    pub(crate) bytes: usize,
    pub(crate) pause: Duration,
    pub(crate) cut: bool,
}

impl Traffic {
    fn lock(&self) -> MutexGuard<'_, Current> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn expect(&self, way: Way, left: usize, fault: Fault) {
        self.lock().expected = Some(Expected { way, left, fault });
    }

    /// Whether the fault set last is still to come.
    pub(crate) fn is_expecting(&self) -> bool {
        self.lock().expected.is_some()
    }

    /// Ends all connections, and accepts no more.
    pub(crate) fn stop(&self) {
        self.lock().stopped = true;
        self.cut_all();
    }

    pub(crate) fn is_stopped(&self) -> bool {
        self.lock().stopped
    }

    /// Takes note of a new connection, and numbers it.
    pub(crate) fn begin(&self, client: &TcpStream, upstream: &TcpStream) -> Option<u64> {
        let sockets = [client.try_clone().ok()?, upstream.try_clone().ok()?];
        let connection = self.next.fetch_add(1, Ordering::Relaxed);
        self.lock().open.insert(connection, sockets);
        Some(connection)
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
    pub(crate) fn admit(&self, connection: u64, way: Way, size: usize) -> Option<Admission> {
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
    pub(crate) fn end(&self, connection: u64) {
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
