//! Sends a case of HTTP/1.1 over a socket, and tells what the server did.

pub mod chunks;
pub mod connections;
pub mod fields;
pub mod framing;
pub mod hosts;
pub mod request_lines;

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use super::case::{Case, End, Observed, most_responses};

/// Asks whether the connection still serves requests. Its answer is known by its content.
const PROBE: &[u8] = b"GET /header?x-probe HTTP/1.1\r\nhost: x\r\nx-probe: still-here\r\n\r\n";

const PROBES_ANSWER: &str = "still-here";

/// The whole table.
pub fn cases() -> Vec<Case> {
    [
        request_lines::cases(),
        hosts::cases(),
        fields::cases(),
        framing::cases(),
        chunks::cases(),
        connections::cases(),
    ]
    .concat()
}

/// A connection whose responses are read one by one.
struct Reader {
    stream: TcpStream,
    read: Vec<u8>,
    until: Instant,
}

/// What comes next on a connection.
enum Next {
    Response { status: u16, content: String, closes: bool },
    End,
    Nothing,
}

impl Reader {
    /// Reads more. False at the end.
    fn more(&mut self) -> Result<bool, ErrorKind> {
        let left = self.until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(ErrorKind::TimedOut);
        }
        self.stream.set_read_timeout(Some(left)).unwrap();
        let mut part = [0; 16_384];
        match self.stream.read(&mut part) {
            Ok(0) => Ok(false),
            Ok(length) => {
                self.read.extend_from_slice(&part[..length]);
                Ok(true)
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                Err(ErrorKind::TimedOut)
            }
            // A reset is a close.
            Err(_) => Ok(false),
        }
    }

    /// Takes bytes up to and including a mark. None at the end or when the time is over.
    fn take_until(&mut self, mark: &[u8]) -> Option<Vec<u8>> {
        loop {
            if let Some(at) = self.read.windows(mark.len()).position(|part| part == mark) {
                return Some(self.read.drain(..at + mark.len()).collect());
            }
            if self.more() != Ok(true) {
                return None;
            }
        }
    }

    fn take(&mut self, length: usize) -> Option<Vec<u8>> {
        while self.read.len() < length {
            if self.more() != Ok(true) {
                return None;
            }
        }
        Some(self.read.drain(..length).collect())
    }

    /// The next final response, after any interim ones.
    fn next(&mut self, is_head: bool) -> Next {
        let head = loop {
            while self.read.is_empty() {
                match self.more() {
                    Ok(true) => {}
                    Ok(false) => return Next::End,
                    Err(_) => return Next::Nothing,
                }
            }
            let Some(head) = self.take_until(b"\r\n\r\n") else { return Next::Nothing };
            let head = String::from_utf8_lossy(&head).to_ascii_lowercase();
            if !head.starts_with("http/1.1 1") {
                break head;
            }
        };
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
        let field = |name: &str| {
            let mut lines = head.lines().filter_map(|line| line.split_once(':'));
            lines.find(|(found, _)| *found == name).map(|(_, value)| value.trim().to_owned())
        };
        let closes = match field("connection") {
            Some(value) => value == "close",
            None => head.starts_with("http/1.0"),
        };
        let content = if is_head || status == 204 || status == 304 {
            Some(Vec::new())
        } else if field("transfer-encoding").is_some() {
            self.chunks()
        } else if let Some(length) = field("content-length") {
            self.take(length.parse().unwrap_or_default())
        } else {
            while self.more() == Ok(true) {}
            Some(std::mem::take(&mut self.read))
        };
        match content {
            Some(content) => {
                let content = String::from_utf8_lossy(&content).into_owned();
                Next::Response { status, content, closes }
            }
            None => Next::Response { status: 0, content: "(cut off)".into(), closes: true },
        }
    }

    fn chunks(&mut self) -> Option<Vec<u8>> {
        let mut content = Vec::new();
        loop {
            let line = self.take_until(b"\r\n")?;
            let size = usize::from_str_radix(String::from_utf8_lossy(&line).trim(), 16).ok()?;
            if size == 0 {
                // Trailers are none of these cases'.
                self.take(2)?;
                return Some(content);
            }
            content.extend(self.take(size)?);
            self.take(2)?;
        }
    }
}

/// Sends a case, in parts of so many bytes, and waits at most so long for each thing that is asked for.
pub fn observe(address: SocketAddr, case: &Case, part: usize, longest: Duration) -> Observed {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_nodelay(true).unwrap();
    stream.set_write_timeout(Some(longest)).unwrap();
    for part in case.bytes.chunks(part) {
        // A server may have closed before it has read all.
        if stream.write_all(part).is_err() {
            break;
        }
    }
    if case.finishes {
        let _ = stream.shutdown(Shutdown::Write);
    }
    let mut reader = Reader { stream, read: Vec::new(), until: Instant::now() + longest };
    let mut responses = Vec::new();
    let mut has_closed = false;
    let mut is_closing = case.finishes;
    while responses.len() < most_responses(case.wanted) {
        match reader.next(case.is_head && responses.is_empty()) {
            Next::Response { status, content, closes } => {
                responses.push((status, content));
                if closes {
                    is_closing = true;
                    break;
                }
            }
            Next::End => {
                has_closed = true;
                break;
            }
            Next::Nothing => break,
        }
    }
    // One that is to be closed may close by itself; to ask it first would lose the difference.
    let closes_by_itself = case.wanted.split(" / ").all(|wanted| wanted.ends_with("close"));
    if !has_closed && !is_closing && !closes_by_itself {
        let _ = reader.stream.write_all(PROBE);
    }
    reader.until = Instant::now() + longest;
    let end = loop {
        if has_closed {
            break End::Closed;
        }
        match reader.next(false) {
            Next::Response { status: 200, content, .. } if content == PROBES_ANSWER => {
                break End::Open;
            }
            Next::Response { status, content, .. } => responses.push((status, content)),
            Next::End => break End::Closed,
            Next::Nothing => break End::Hung,
        }
    };
    Observed { responses, end }
}
