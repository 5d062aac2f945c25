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

use std::{
    collections::VecDeque,
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};
use rustix::{
    event::{
        PollFd, PollFlags, Timespec,
        epoll::{self, EventData, EventFlags},
        poll,
    },
    io::Errno,
};

use super::{Connections, EVENTS, Received, Requests, connection::Connection};
use crate::{quantiles::Latencies, traffic::Traffic};

/// Longest time to wait for answers after the last request was due.
const PATIENCE: Duration = Duration::from_secs(10);

/// How many requests, and on how many connections.
#[derive(Clone, Copy)]
pub(crate) struct Pace {
    /// Requests a second.
    pub(crate) rate: f64,
    pub(crate) duration: Duration,
    pub(crate) connections: u32,
}

/// A load under way.
struct Run {
    connections: Connections,
    requests: Requests,
    /// Places of connections without a request.
    free: Vec<usize>,
    /// When requests were to be sent that no connection was free for.
    waiting: VecDeque<Instant>,
    /// Of answers without an error, and of requests without an answer.
    latencies: Latencies,
    refusals: Latencies,
    refused: u64,
    /// Connections that broke with a request on them.
    broken: u64,
}

/// Sends requests at a constant rate, and waits for their answers.
pub(crate) fn run(address: SocketAddr, requests: Requests, pace: Pace) -> Result<Traffic> {
    let connections = Connections::open(address, pace.connections)?;
    let mut run = Run {
        free: (0..connections.all.len()).collect(),
        connections,
        requests,
        waiting: VecDeque::new(),
        latencies: Latencies::default(),
        refusals: Latencies::default(),
        refused: 0,
        broken: 0,
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

impl Run {
    fn is_busy(&self) -> bool {
        !self.waiting.is_empty() || self.free.len() < self.connections.all.len()
    }

    /// Sends as many of the requests that wait as there are connections free.
    fn send(&mut self) -> Result<()> {
        while let (Some(due), Some(place)) = (self.waiting.front(), self.free.last()) {
            self.connections.get(*place)?.send(self.requests.next(), *due)?;
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
        match poll(&mut [PollFd::new(&self.connections.ready, PollFlags::IN)], Some(&time)) {
            Err(error) if error != Errno::INTR => bail!("cannot poll: {error}"),
            _ => {}
        }
        let mut events =
            [epoll::Event { flags: EventFlags::empty(), data: EventData::new_u64(0) }; EVENTS];
        let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
        let count = epoll::wait(&self.connections.ready, &mut events, Some(&at_once))?;
        for event in events.into_iter().take(count) {
            self.answer(usize::try_from(event.data.u64())?)?;
        }
        Ok(())
    }

    /// Takes the answer on a connection, if it is whole. A connection that breaks is made anew, and
    /// its request has failed.
    fn answer(&mut self, place: usize) -> Result<()> {
        let was_busy = match self.connections.receive(place)? {
            Received::Part => return Ok(()),
            Received::Answer(answered) => {
                let is_refused = answered.status >= 400;
                self.refused += u64::from(is_refused);
                let of = if is_refused { &mut self.refusals } else { &mut self.latencies };
                of.add(answered.latency);
                true
            }
            Received::Broken(was_busy) => {
                self.broken += u64::from(was_busy);
                was_busy
            }
        };
        if was_busy {
            self.free.push(place);
        }
        Ok(())
    }

    /// Requests without an answer count with the time for which they have waited by now.
    fn finish(mut self, elapsed: Duration) -> Traffic {
        let now = Instant::now();
        let unanswered: Vec<Instant> =
            self.connections.all.iter().filter_map(Connection::due).collect();
        for due in unanswered.iter().chain(&self.waiting) {
            self.latencies.add(now.saturating_duration_since(*due));
        }
        let missed = (unanswered.len() + self.waiting.len()) as u64;
        let refusals = (self.refused > 0).then(|| self.refusals.traffic(elapsed).p99);
        let mut traffic = self.latencies.traffic(elapsed);
        traffic.requests = traffic.requests + self.refused - missed;
        traffic.refused = self.refused;
        traffic.refusal_p99 = refusals;
        traffic.socket_errors = vec![("no answer in time", missed), ("broken", self.broken)];
        traffic
    }
}
