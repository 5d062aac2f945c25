//! A TCP proxy in front of a server, which cuts or delays connections where a test says.

use std::{
    io::{Read as _, Write as _},
    net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use anyhow::Result;

/// Where to cut the connections, counted over all of them from now on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// Nowhere.
    Never,
    /// After this many bytes towards the server have been passed on.
    Requests(usize),
    /// After this many bytes from the server have been passed on; the requests before arrive.
    Replies(usize),
}

/// A running proxy; ends when dropped.
pub struct Proxy {
    port: u16,
    shared: Arc<Shared>,
}

struct Shared {
    cut: Mutex<Cut>,
    stopped: AtomicBool,
}

impl Proxy {
    /// Starts a proxy on a free port in front of a port of 127.0.0.1.
    ///
    /// # Errors
    /// When no socket can be bound.
    pub fn start(server: u16) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let port = listener.local_addr()?.port();
        let shared =
            Arc::new(Shared { cut: Mutex::new(Cut::Never), stopped: AtomicBool::new(false) });
        let for_thread = Arc::clone(&shared);
        std::thread::spawn(move || accept(&listener, server, &for_thread));
        Ok(Self { port, shared })
    }

    /// Its port on 127.0.0.1.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Sets where the next cut is. After a cut, nothing is cut until this is called again.
    pub fn cut(&self, cut: Cut) {
        *self.shared.cut.lock().unwrap_or_else(PoisonError::into_inner) = cut;
    }

    /// Whether the cut set last is still to come.
    #[must_use]
    pub fn is_pending(&self) -> bool {
        *self.shared.cut.lock().unwrap_or_else(PoisonError::into_inner) != Cut::Never
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::Release);
        // Wakes the accepting thread.
        let _ = TcpStream::connect(SocketAddr::from((Ipv4Addr::LOCALHOST, self.port)));
    }
}

fn accept(listener: &TcpListener, server: u16, shared: &Arc<Shared>) {
    for client in listener.incoming() {
        if shared.stopped.load(Ordering::Acquire) {
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
        let (requests, replies) = (Arc::clone(shared), Arc::clone(shared));
        std::thread::spawn(move || {
            forward(client_half, upstream_half, |size| requests.allow(size, true));
        });
        std::thread::spawn(move || forward(upstream, client, |size| replies.allow(size, false)));
    }
}

impl Shared {
    /// How many of `size` bytes may pass, and whether the connection is to be cut then.
    fn allow(&self, size: usize, request: bool) -> (usize, bool) {
        let mut cut = self.cut.lock().unwrap_or_else(PoisonError::into_inner);
        let left = match (&mut *cut, request) {
            (Cut::Requests(left), true) | (Cut::Replies(left), false) => left,
            _ => return (size, false),
        };
        if size < *left {
            *left = left.saturating_sub(size);
            return (size, false);
        }
        let allowed = *left;
        *cut = Cut::Never;
        (allowed, true)
    }
}

fn forward(mut from: TcpStream, mut to: TcpStream, allow: impl Fn(usize) -> (usize, bool)) {
    let mut buffer = [0; 16 * 1024];
    while let Ok(size) = from.read(&mut buffer) {
        if size == 0 {
            break;
        }
        let (allowed, cut) = allow(size);
        let sent = buffer.get(..allowed).map_or(Ok(()), |bytes| to.write_all(bytes));
        if cut || sent.is_err() {
            break;
        }
    }
    // Both directions end together, as when a machine goes away.
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}
