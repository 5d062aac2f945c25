//! As much load as a server takes: each connection has a request on it all the time.
//!
//! A client that sleeps until the next answer is there is woken for each one, by the server, in the
//! system call that sends it: on a machine that both share, that is a part of the time of
//! either, and most of all where a server answers one request at a time. So with many connections
//! this one looks at them every [`LOOK`] at most, and finds the answers of several.

use std::{
    net::SocketAddr,
    num::NonZeroU64,
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::Result;
use rustix::{
    event::{
        Timespec,
        epoll::{self, EventData, EventFlags},
    },
    io::Errno,
    thread::set_current_timer_slack,
};

use super::{Connections, EVENTS, Received, Requests};
use crate::{quantiles::Latencies, traffic::Traffic};

/// Longest time between two looks at the connections.
const LOOK: Duration = Duration::from_micros(100);

/// Time between two looks for each connection, so that a server that answers half a million
/// requests a second is not kept waiting by its client.
const LOOK_EACH: Duration = Duration::from_micros(2);

/// To sleep for less costs more than to be woken.
const SHORTEST_LOOK: Duration = Duration::from_micros(20);

/// Longest time to wait for answers when no more requests are sent.
const PATIENCE: Duration = Duration::from_secs(10);

/// Longest sleep when it is for an answer to end it: the time may be over meanwhile.
const NAP: Timespec = Timespec { tv_sec: 0, tv_nsec: 10_000_000 };

/// A load under way.
struct Run {
    connections: Connections,
    requests: Requests,
    latencies: Latencies,
    refused: u64,
    /// Requests that are being answered.
    under_way: u64,
    /// Connections that broke with a request on them.
    broken: u64,
    end: Instant,
}

/// Keeps connections busy for a time, and waits for the answers to what is under way then.
pub(crate) fn run(
    address: SocketAddr,
    requests: Requests,
    connections: u32,
    duration: Duration,
) -> Result<Traffic> {
    // By default the kernel may sleep for half as long again.
    set_current_timer_slack(NonZeroU64::new(1))?;
    let look = Some(LOOK.min(LOOK_EACH * connections)).filter(|look| *look >= SHORTEST_LOOK);
    let open = Connections::open(address, connections)?;
    let started = Instant::now();
    let mut run = Run {
        connections: open,
        requests,
        latencies: Latencies::default(),
        refused: 0,
        under_way: 0,
        broken: 0,
        end: started + duration,
    };
    for place in 0..connections {
        run.send(place as usize, started)?;
    }
    let mut looked = started;
    while run.under_way > 0 && looked < run.end + PATIENCE {
        if let Some(look) = look {
            sleep(look.saturating_sub(looked.elapsed()));
        }
        looked = Instant::now();
        run.look(look.is_none())?;
    }
    Ok(run.finish(started.elapsed()))
}

impl Run {
    /// Takes the answers that are there, and sends a request for each.
    fn look(&mut self, wait: bool) -> Result<()> {
        let none = epoll::Event { flags: EventFlags::empty(), data: EventData::new_u64(0) };
        let mut events = [none; EVENTS];
        let mut time = if wait { NAP } else { Timespec::default() };
        loop {
            let count = match epoll::wait(&self.connections.ready, &mut events, Some(&time)) {
                Err(Errno::INTR) => 0,
                count => count?,
            };
            for event in events.into_iter().take(count) {
                self.answer(usize::try_from(event.data.u64())?)?;
            }
            if count < EVENTS {
                return Ok(());
            }
            time = Timespec::default();
        }
    }

    fn answer(&mut self, place: usize) -> Result<()> {
        let received = self.connections.receive(place)?;
        // A connection that is made for the next request is a part of its latency.
        let now = Instant::now();
        match received {
            Received::Part => return Ok(()),
            Received::Answer(answered) => {
                self.latencies.add(answered.latency);
                self.refused += u64::from(answered.status >= 400);
                self.under_way -= 1;
                if self.requests.reconnect && now < self.end {
                    self.connections.renew(place)?;
                }
            }
            Received::Broken(was_busy) => {
                self.broken += u64::from(was_busy);
                self.under_way -= u64::from(was_busy);
            }
        }
        if now < self.end { self.send(place, now) } else { Ok(()) }
    }

    fn send(&mut self, place: usize, now: Instant) -> Result<()> {
        self.connections.get(place)?.send(self.requests.next(), now)?;
        self.under_way += 1;
        Ok(())
    }

    fn finish(self, elapsed: Duration) -> Traffic {
        let mut traffic = self.latencies.traffic(elapsed);
        traffic.refused = self.refused;
        traffic.unanswered = self.under_way;
        traffic.socket_errors = vec![("broken", self.broken)];
        traffic
    }
}
