//! Load at a constant rate, whether or not the server keeps up.
//!
//! Each request has a time at which it is meant to be sent, and its latency runs from then, not
//! from when it could be sent: a server that stalls is charged for all requests that waited
//! meanwhile ("coordinated omission" would leave them out). A request takes a connection that is
//! free, and waits in the client where none is.
//!
//! One thread waits for whichever comes first, an answer or the time of the next request: with epoll
//! for all connections, and for epoll with `ppoll`, whose time-out is in nanoseconds. Timers of a
//! millisecond, as epoll's own, would be much of the latency.

mod answer;
mod connection;

use std::{
    collections::VecDeque,
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use rustix::{
    event::{
        PollFd, PollFlags, Timespec,
        epoll::{self, CreateFlags, EventData, EventFlags},
        poll,
    },
    fd::OwnedFd,
    io::Errno,
};

use self::connection::Connection;
use crate::{load::Target, quantiles::Latencies, traffic::Traffic};

/// Longest time to wait for answers after the last request was due.
const PATIENCE: Duration = Duration::from_secs(10);

/// Connections that are read from before others are sent on.
const EVENTS: usize = 64;

/// How many requests, and on how many connections.
#[derive(Clone, Copy)]
pub(crate) struct Pace {
    /// Requests a second.
    pub(crate) rate: f64,
    pub(crate) duration: Duration,
    pub(crate) connections: u32,
}

/// A load under way.
struct Run<'a> {
    target: &'a Target,
    address: SocketAddr,
    connections: Vec<Connection>,
    /// Tells which connections can be read from.
    ready: OwnedFd,
    /// Places of connections without a request.
    free: Vec<usize>,
    /// When requests were to be sent that no connection was free for.
    waiting: VecDeque<Instant>,
    latencies: Latencies,
    refused: u64,
    /// Connections that broke with a request on them.
    broken: u64,
    random: u32,
}

/// Sends requests at a constant rate, and waits for their answers.
pub(crate) fn run(address: SocketAddr, target: &Target, pace: Pace) -> Result<Traffic> {
    let connections = (0..pace.connections).map(|_| Connection::open(address));
    let connections: Vec<Connection> = connections.collect::<Result<_>>()?;
    let ready = epoll::create(CreateFlags::CLOEXEC)?;
    for (place, connection) in connections.iter().enumerate() {
        watch(&ready, connection, place)?;
    }
    let mut run = Run {
        target,
        address,
        free: (0..connections.len()).collect(),
        connections,
        ready,
        waiting: VecDeque::new(),
        latencies: Latencies::default(),
        refused: 0,
        broken: 0,
        random: 1,
    };
    let started = Instant::now();
    let end = started + pace.duration;
    let due = |sent: u32| started + Duration::from_secs_f64(f64::from(sent) / pace.rate);
    let mut next = 0;
    while due(next) < end || run.is_busy() {
        while due(next) <= Instant::now().min(end) {
            run.waiting.push_back(due(next));
            next += 1;
        }
        run.send()?;
        let wake = if due(next) < end { due(next) } else { end + PATIENCE };
        if Instant::now() > end + PATIENCE {
            break;
        }
        run.receive(wake)?;
    }
    Ok(run.finish(started.elapsed()))
}

/// Has it told when a connection can be read from.
fn watch(ready: &OwnedFd, connection: &Connection, place: usize) -> Result<()> {
    let data = EventData::new_u64(place as u64);
    Ok(epoll::add(ready, connection.stream(), data, EventFlags::IN)?)
}

impl Run<'_> {
    fn is_busy(&self) -> bool {
        !self.waiting.is_empty() || self.free.len() < self.connections.len()
    }

    /// Sends as many of the requests that wait as there are connections free.
    fn send(&mut self) -> Result<()> {
        while let (Some(due), Some(place)) = (self.waiting.front(), self.free.last()) {
            let connection = self.connections.get_mut(*place).context("no such connection")?;
            // Xorshift; see Marsaglia 2003.
            self.random ^= self.random << 13;
            self.random ^= self.random >> 17;
            self.random ^= self.random << 5;
            let path = self.target.path_and_query(self.random);
            let method = &self.target.method;
            connection.send(
                &format!("{method} {path} HTTP/1.1\r\nhost: {}\r\n\r\n", self.address),
                *due,
            )?;
            self.waiting.pop_front();
            self.free.pop();
        }
        Ok(())
    }

    /// Waits for answers, but no longer than to a time.
    fn receive(&mut self, until: Instant) -> Result<()> {
        let time = until.saturating_duration_since(Instant::now());
        let time =
            Timespec { tv_sec: time.as_secs().try_into()?, tv_nsec: time.subsec_nanos().into() };
        match poll(&mut [PollFd::new(&self.ready, PollFlags::IN)], Some(&time)) {
            Err(error) if error != Errno::INTR => bail!("cannot poll: {error}"),
            _ => {}
        }
        let mut events =
            [epoll::Event { flags: EventFlags::empty(), data: EventData::new_u64(0) }; EVENTS];
        let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
        let count = epoll::wait(&self.ready, &mut events, Some(&at_once))?;
        for event in events.into_iter().take(count) {
            self.answer(usize::try_from(event.data.u64())?)?;
        }
        Ok(())
    }

    /// Takes the answer on a connection, if it is whole. A connection that breaks is made anew, and
    /// its request has failed.
    fn answer(&mut self, place: usize) -> Result<()> {
        let connection = self.connections.get_mut(place).context("no such connection")?;
        let was_busy = connection.due().is_some();
        match connection.receive() {
            Ok(None) => return Ok(()),
            Ok(Some((answer, latency))) => {
                self.latencies.add(latency);
                self.refused += u64::from(answer.status >= 400);
            }
            Err(_) => {
                *connection = Connection::open(self.address)?;
                watch(&self.ready, connection, place)?;
                self.broken += u64::from(was_busy);
            }
        }
        if was_busy {
            self.free.push(place);
        }
        Ok(())
    }

    /// Requests without an answer count with the time for which they have waited by now.
    fn finish(mut self, elapsed: Duration) -> Traffic {
        let now = Instant::now();
        let unanswered: Vec<Instant> =
            self.connections.iter().filter_map(Connection::due).collect();
        for due in unanswered.iter().chain(&self.waiting) {
            self.latencies.add(now.saturating_duration_since(*due));
        }
        let missed = (unanswered.len() + self.waiting.len()) as u64;
        let mut traffic = self.latencies.traffic(elapsed);
        traffic.requests -= missed;
        traffic.refused = self.refused;
        traffic.socket_errors = vec![("no answer in time", missed), ("broken", self.broken)];
        traffic
    }
}
