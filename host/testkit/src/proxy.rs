//! A TCP proxy in front of a server, which cuts, stalls or delays connections where a test says.

use std::{
    io::{Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    sync::Arc,
    time::Duration,
};

use anyhow::Result;

use crate::{
    traffic::{Fault, Traffic, Way},
    weather::Weather,
};

/// A running proxy; ends when dropped.
pub struct Proxy {
    port: u16,
    traffic: Arc<Traffic>,
}

impl Proxy {
    /// Starts a proxy on a free port in front of a port of 127.0.0.1.
    ///
    /// # Errors
    /// When no socket can be bound.
    pub fn start(server: u16) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let port = listener.local_addr()?.port();
        let traffic = Arc::new(Traffic::default());
        let for_thread = Arc::clone(&traffic);
        std::thread::spawn(move || accept(&listener, server, &for_thread));
        Ok(Self { port, traffic })
    }

    /// Its port on 127.0.0.1.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Cuts once, after this many more bytes have been passed on that way, counted over all
    /// connections: the connection of that byte ends. Of replies, the requests before arrive.
    pub fn cut(&self, way: Way, after: usize) {
        self.traffic.expect(way, after, Fault::Cut);
    }

    /// Lets this many more bytes pass that way, counted over all connections, and then nothing on
    /// any of them. They stay open, and others are accepted.
    pub fn stall(&self, way: Way, after: usize) {
        self.traffic.expect(way, after, Fault::Stall);
    }

    /// After this many more bytes, lets each chunk wait before it passes that way.
    pub fn delay(&self, way: Way, after: usize, pause: Duration) {
        self.traffic.expect(way, after, Fault::Delay(pause));
    }

    /// Whether the fault set last is still to come.
    #[must_use]
    pub fn is_pending(&self) -> bool {
        self.traffic.is_expecting()
    }

    /// Lets everything pass: no fault is to come, and what was held up goes on its way.
    pub fn release(&self) {
        self.traffic.release();
    }

    /// Ends all connections, with what was held up on them, and lets later ones pass.
    pub fn cut_all(&self) {
        self.traffic.cut_all();
    }

    /// From now on, until its end, one fault after another at random.
    #[must_use]
    pub fn weather(&self, seed: u64) -> Weather {
        Weather::start(Arc::clone(&self.traffic), seed)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.traffic.stop();
        // Wakes the accepting thread.
        let _ = TcpStream::connect(SocketAddr::from((Ipv4Addr::LOCALHOST, self.port)));
    }
}

fn accept(listener: &TcpListener, server: u16, traffic: &Arc<Traffic>) {
    for client in listener.incoming() {
        if traffic.is_stopped() {
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
        let Some(connection) = traffic.begin(&client, &upstream) else { continue };
        let (requests, replies) = (Arc::clone(traffic), Arc::clone(traffic));
        std::thread::spawn(move || {
            forward(client_half, upstream_half, &requests, connection, Way::Requests);
        });
        std::thread::spawn(move || forward(upstream, client, &replies, connection, Way::Replies));
    }
}

fn forward(mut from: TcpStream, mut to: TcpStream, traffic: &Traffic, connection: u64, way: Way) {
    let mut buffer = [0; 16 * 1024];
    while let Ok(size) = from.read(&mut buffer) {
        let bytes = buffer.get(..size).unwrap_or_default();
        if bytes.is_empty() || !pass(bytes, &mut to, traffic, connection, way) {
            break;
        }
    }
    traffic.end(connection);
}

/// Passes bytes on, as the proxy is told to; whether the connection goes on after them.
fn pass(
    mut bytes: &[u8],
    to: &mut TcpStream,
    traffic: &Traffic,
    connection: u64,
    way: Way,
) -> bool {
    while !bytes.is_empty() {
        let Some(admission) = traffic.admit(connection, way, bytes.len()) else { return false };
        std::thread::sleep(admission.pause);
        let (passing, rest) = bytes.split_at(admission.bytes);
        if to.write_all(passing).is_err() || admission.cut {
            return false;
        }
        bytes = rest;
    }
    true
}
