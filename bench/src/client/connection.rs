//! A connection with at most one request on it.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::answer;

/// Longest time until a server has read a part of a request.
const LONGEST: Timespec = Timespec { tv_sec: 10, tv_nsec: 0 };

/// An answer, all of it.
pub(super) struct Answered {
    pub(super) status: u16,
    /// How long after the time it came at which its request was to be sent.
    pub(super) latency: Duration,
}

pub(super) struct Connection {
    stream: TcpStream,
    received: Vec<u8>,
    /// When the request that is under way was to be sent.
    due: Option<Instant>,
}

impl Connection {
    pub(super) fn open(address: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect(address).context("cannot connect to the server")?;
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        Ok(Self { stream, received: Vec::new(), due: None })
    }

    pub(super) fn stream(&self) -> &TcpStream {
        &self.stream
    }

    pub(super) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Sends a request. One with a large body may not fit the socket's buffer at once, and is waited
    /// for.
    pub(super) fn send(&mut self, request: &[u8], due: Instant) -> Result<()> {
        let mut rest = request;
        while !rest.is_empty() {
            match self.stream.write(rest) {
                Ok(sent) => rest = rest.get(sent..).unwrap_or_default(),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    let ready =
                        poll(&mut [PollFd::new(&self.stream, PollFlags::OUT)], Some(&LONGEST))?;
                    if ready == 0 {
                        bail!("the server does not read a request");
                    }
                }
                Err(error) => return Err(error).context("cannot send a request"),
            }
        }
        self.due = Some(due);
        Ok(())
    }

    /// Reads what has arrived, with the help of a buffer. `None` while that is not all of an answer.
    pub(super) fn receive(&mut self, buffer: &mut [u8]) -> Result<Option<Answered>> {
        let size = match self.stream.read(buffer) {
            Ok(0) => bail!("the server closed a connection"),
            Ok(size) => size,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(None),
            Err(error) => return Err(error).context("cannot receive an answer"),
        };
        let bytes = buffer.get(..size).unwrap_or_default();
        // Most answers come at once, and need not be kept.
        let received = if self.received.is_empty() {
            bytes
        } else {
            self.received.extend_from_slice(bytes);
            &self.received
        };
        let Some(answer) = answer::parse(received)? else {
            if self.received.is_empty() {
                self.received.extend_from_slice(bytes);
            }
            return Ok(None);
        };
        if answer.size < received.len() {
            bail!("the server sent more than an answer");
        }
        self.received.clear();
        let due = self.due.take().context("the server answered without being asked")?;
        Ok(Some(Answered { status: answer.status, latency: due.elapsed() }))
    }
}
