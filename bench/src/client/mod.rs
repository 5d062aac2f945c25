//! Load over HTTP/1.1 by this program itself: one thread, any number of connections, one request at
//! a time on each.

mod answer;
pub(crate) mod closed_loop;
mod connection;
mod idempotency;
pub(crate) mod open_loop;

use std::net::SocketAddr;

use anyhow::{Context as _, Result};
use rustix::{
    event::epoll::{self, CreateFlags, EventData, EventFlags},
    fd::OwnedFd,
};

use self::{connection::Connection, idempotency::Keys};
use crate::load::{KEYS, Target};

/// Connections that are read from before others are sent on.
const EVENTS: usize = 64;

/// Bytes read at once.
const READ_BYTES: usize = 64 << 10;

/// Connections to a server, and what tells which of them can be read from.
struct Connections {
    address: SocketAddr,
    all: Vec<Connection>,
    ready: OwnedFd,
    /// What is read goes through here.
    buffer: Vec<u8>,
}

/// What came on a connection.
enum Received {
    /// Not all of an answer yet.
    Part,
    Answer(connection::Answered),
    /// The connection broke, and was made anew; whether a request was on it.
    Broken(bool),
}

impl Connections {
    fn open(address: SocketAddr, count: u32) -> Result<Self> {
        let all: Vec<_> = (0..count).map(|_| Connection::open(address)).collect::<Result<_>>()?;
        let ready = epoll::create(CreateFlags::CLOEXEC)?;
        for (place, connection) in all.iter().enumerate() {
            watch(&ready, connection, place)?;
        }
        Ok(Self { address, all, ready, buffer: vec![0; READ_BYTES] })
    }

    fn get(&mut self, place: usize) -> Result<&mut Connection> {
        self.all.get_mut(place).context("no such connection")
    }

    /// Takes what has come on a connection.
    fn receive(&mut self, place: usize) -> Result<Received> {
        let connection = self.all.get_mut(place).context("no such connection")?;
        let was_busy = connection.due().is_some();
        match connection.receive(&mut self.buffer) {
            Ok(None) => Ok(Received::Part),
            Ok(Some(answered)) => Ok(Received::Answer(answered)),
            Err(_) => {
                self.renew(place)?;
                Ok(Received::Broken(was_busy))
            }
        }
    }

    /// Puts a new connection in the place of one, which is closed.
    fn renew(&mut self, place: usize) -> Result<()> {
        let connection = self.all.get_mut(place).context("no such connection")?;
        *connection = Connection::open(self.address)?;
        watch(&self.ready, connection, place)
    }
}

/// Has it told when a connection can be read from.
fn watch(ready: &OwnedFd, connection: &Connection, place: usize) -> Result<()> {
    let data = EventData::new_u64(place as u64);
    Ok(epoll::add(ready, connection.stream(), data, EventFlags::IN)?)
}

/// Requests that are made before the load, of which each is chosen by chance.
#[derive(Clone)]
pub(crate) struct Requests {
    all: Vec<Vec<u8>>,
    random: u32,
    /// Where each request has an `Idempotency-Key`, what makes them.
    keys: Option<Keys>,
    /// Whether each has a connection of its own.
    reconnect: bool,
}

impl Requests {
    pub(crate) fn of(all: Vec<String>) -> Self {
        let all = all.into_iter().map(String::into_bytes).collect();
        Self { all, random: 1, keys: None, reconnect: false }
    }

    /// Those for a target; each may ask the server to close its connection after it. Requests with
    /// an `Idempotency-Key` get a new one each whenever they are sent.
    pub(crate) fn new(address: SocketAddr, target: &Target, reconnect: bool) -> Self {
        let count = if target.prefix.is_some() { KEYS } else { 1 };
        let close = if reconnect { "connection: close\r\n" } else { "" };
        let request = |key| {
            let (method, path) = (&target.method, target.path_and_query(key));
            let head = format!("{method} {path} HTTP/1.1\r\nhost: {address}\r\n{close}");
            let key = if target.keyed { idempotency::HEADER } else { "" };
            format!("{head}{key}\r\n")
        };
        let keys = target.keyed.then(Keys::new);
        Self { reconnect, keys, ..Self::of((0..count).map(request).collect()) }
    }

    fn next(&mut self) -> &[u8] {
        // Xorshift; see Marsaglia 2003.
        self.random ^= self.random << 13;
        self.random ^= self.random >> 17;
        self.random ^= self.random << 5;
        let place = self.random as usize % self.all.len();
        let Some(request) = self.all.get_mut(place) else { return &[] };
        if let Some(keys) = &mut self.keys {
            keys.renew(request);
        }
        request
    }
}

#[cfg(test)]
mod tests {
    use std::{
        collections::HashSet,
        io::{Read as _, Write as _},
        net::{TcpListener, TcpStream},
        sync::{
            Arc,
            atomic::{AtomicBool, Ordering},
        },
        time::Duration,
    };

    use super::*;
    use crate::load::Load;

    #[test]
    fn all_of_many_counters_are_asked_for() {
        let address = SocketAddr::from(([127, 0, 0, 1], 80));
        let mut requests = Requests::new(address, &Load::Keys.target(3), false);
        let chosen: HashSet<_> = (0..20 * KEYS).map(|_| requests.next().to_owned()).collect();
        assert_eq!(chosen.len(), KEYS as usize);
        let first = b"POST /increment?name=bench3-0 HTTP/1.1\r\nhost: 127.0.0.1:80\r\n\r\n";
        assert!(chosen.contains(first.as_slice()));
    }

    #[test]
    fn requests_of_a_keyed_load_differ_by_their_keys_alone() {
        let address = SocketAddr::from(([127, 0, 0, 1], 80));
        for (load, counters) in [(Load::IncrementKeyed, 1), (Load::KeysKeyed, KEYS as usize)] {
            let mut requests = Requests::new(address, &load.target(3), true);
            let unkeyed = load.unkeyed().unwrap();
            let mut others = Requests::new(address, &unkeyed.target(3), true);
            let (mut keys, mut heads) = (HashSet::new(), HashSet::new());
            for _ in 0..20 * KEYS {
                let other = str::from_utf8(others.next()).unwrap();
                let request = str::from_utf8(requests.next()).unwrap();
                let (head, key) = request.split_once("idempotency-key: ").unwrap();
                assert_eq!(head, other.strip_suffix("\r\n").unwrap());
                assert!(keys.insert(key.strip_suffix("\r\n\r\n").unwrap().to_owned()), "{key}");
                heads.insert(head.to_owned());
            }
            assert_eq!(heads.len(), counters);
        }
    }

    /// Each connection is closed by the server after one answer, as it was asked to.
    #[test]
    fn each_request_has_a_connection_of_its_own() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let requests = Requests::new(address, &Load::Hello.target(0), true);
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let server = std::thread::spawn(move || {
            let mut asked = 0_u64;
            for stream in listener.incoming() {
                if stopped.load(Ordering::Relaxed) {
                    break;
                }
                let mut stream = stream.unwrap();
                let (mut request, mut part) = (String::new(), [0; 1_024]);
                while !request.ends_with("\r\n\r\n") {
                    let size = stream.read(&mut part).unwrap();
                    assert!(size > 0, "a connection without a request");
                    request.push_str(str::from_utf8(&part[..size]).unwrap());
                }
                assert!(request.contains("\r\nconnection: close\r\n"), "{request}");
                asked += 1;
                stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").unwrap();
            }
            asked
        });
        let traffic = closed_loop::run(address, requests, 1, Duration::from_millis(100)).unwrap();
        stop.store(true, Ordering::Relaxed);
        TcpStream::connect(address).unwrap();
        assert_eq!(server.join().unwrap(), traffic.requests);
        assert!(traffic.requests > 1 && traffic.failures("measuring").is_empty(), "{traffic:?}");
    }
}
