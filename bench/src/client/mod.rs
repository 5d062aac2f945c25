//! Load over HTTP/1.1 by this program itself: one thread, any number of connections, one request at
//! a time on each.

mod answer;
pub(crate) mod closed_loop;
mod connection;
pub(crate) mod open_loop;

use std::net::SocketAddr;

use anyhow::{Context as _, Result};
use rustix::{
    event::epoll::{self, CreateFlags, EventData, EventFlags},
    fd::OwnedFd,
};

use self::connection::Connection;
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
                *connection = Connection::open(self.address)?;
                watch(&self.ready, connection, place)?;
                Ok(Received::Broken(was_busy))
            }
        }
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
    all: Vec<String>,
    random: u32,
}

impl Requests {
    pub(crate) fn of(all: Vec<String>) -> Self {
        Self { all, random: 1 }
    }

    /// Those for a target.
    pub(crate) fn new(address: SocketAddr, target: &Target) -> Self {
        let count = if target.prefix.is_some() { KEYS } else { 1 };
        let request = |key| {
            let (method, path) = (&target.method, target.path_and_query(key));
            format!("{method} {path} HTTP/1.1\r\nhost: {address}\r\n\r\n")
        };
        Self::of((0..count).map(request).collect())
    }

    fn next(&mut self) -> &str {
        // Xorshift; see Marsaglia 2003.
        self.random ^= self.random << 13;
        self.random ^= self.random >> 17;
        self.random ^= self.random << 5;
        let place = self.random as usize % self.all.len();
        self.all.get(place).map_or("", String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::Load;

    #[test]
    fn all_of_many_counters_are_asked_for() {
        let address = SocketAddr::from(([127, 0, 0, 1], 80));
        let mut requests = Requests::new(address, &Load::Keys.target(3));
        let chosen: std::collections::HashSet<_> =
            (0..20 * KEYS).map(|_| requests.next().to_owned()).collect();
        assert_eq!(chosen.len(), KEYS as usize);
        let first = "POST /increment?name=bench3-0 HTTP/1.1\r\nhost: 127.0.0.1:80\r\n\r\n";
        assert!(chosen.contains(first));
    }
}
