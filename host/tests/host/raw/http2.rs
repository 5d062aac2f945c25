//! Sends a case of HTTP/2 as frames written by hand, and tells what the server did.
//!
//! What is asked for is a text as in [`super::case`]. For each stream it says `1:200`, `1:200=5`, or the
//! error with which it was reset, `1:PROTOCOL_ERROR`; then `open`, `close`, or the error with which the
//! connection was closed.

pub mod connections;
pub mod frames;
pub mod messages;

use std::{
    collections::BTreeMap,
    fmt,
    io::{ErrorKind, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use self::frames::{
    DATA, END_STREAM, GOAWAY, HEADERS, PING, PREFACE, RST_STREAM, SETTINGS, frame, settings,
};

/// One line of the table.
#[derive(Clone)]
pub struct Case {
    pub name: String,
    pub section: &'static str,
    /// The client's first bytes; by default the preface and settings.
    pub preface: Vec<u8>,
    pub bytes: Vec<u8>,
    pub wanted: &'static str,
}

pub fn case(
    name: impl Into<String>,
    section: &'static str,
    frames: &[Vec<u8>],
    wanted: &'static str,
) -> Case {
    // Without a table, what the server sends can be read without one.
    let preface = [PREFACE.to_vec(), settings(&[(1, 0)])].concat();
    Case { name: name.into(), section, preface, bytes: frames.concat(), wanted }
}

/// The whole table.
pub fn cases() -> Vec<Case> {
    [messages::cases(), connections::cases()].concat()
}

/// Cases in which Tally, as all that is built on `h2`, does something else, and what. Each is no more than
/// another code for a connection that is closed as it should be, or a part that is ignored rather than
/// refused.
#[rustfmt::skip]
pub const DIFFERENT: &[(&str, &str)] = &[
    // Pseudo-fields of trailers reach nobody.
    ("trailers with a pseudo-field", "1:200 open"),
    // A frame that cannot be decoded is PROTOCOL_ERROR, whatever is wrong with it.
    ("PING that is short", "PROTOCOL_ERROR"),
    ("PING that is long", "PROTOCOL_ERROR"),
    ("RST_STREAM that is short", "PROTOCOL_ERROR"),
    ("RST_STREAM that is long", "PROTOCOL_ERROR"),
    ("PRIORITY that is short", "PROTOCOL_ERROR"),
    ("WINDOW_UPDATE that is short", "PROTOCOL_ERROR"),
    ("GOAWAY that is short", "PROTOCOL_ERROR"),
    ("SETTINGS that are no pairs", "PROTOCOL_ERROR"),
    ("SETTINGS with ACK that say something", "PROTOCOL_ERROR"),
    ("a window of two to the 31st", "PROTOCOL_ERROR"),
    ("index 0", "PROTOCOL_ERROR"),
    ("an index beyond the table", "PROTOCOL_ERROR"),
    ("a name beyond the table", "PROTOCOL_ERROR"),
    ("an integer that overflows", "PROTOCOL_ERROR"),
    ("a literal that is cut", "PROTOCOL_ERROR"),
    ("a literal without a value", "PROTOCOL_ERROR"),
    ("a table larger than allowed", "PROTOCOL_ERROR"),
    ("a table's size behind fields", "PROTOCOL_ERROR"),
    ("Huffman's code with a long padding", "PROTOCOL_ERROR"),
    ("Huffman's code with a padding of zeros", "PROTOCOL_ERROR"),
    ("Huffman's code with its end", "PROTOCOL_ERROR"),
];

/// What became of a stream.
#[derive(Clone, Debug, Default)]
pub struct Stream {
    /// Final responses: more than one is a mistake.
    statuses: Vec<u16>,
    content: Vec<u8>,
    ended: bool,
    reset: Option<u32>,
}

/// What a server did.
#[derive(Clone, Debug)]
pub struct Observed {
    streams: BTreeMap<u32, Stream>,
    goaway: Option<u32>,
    end: super::case::End,
}

const ERRORS: [&str; 14] = [
    "NO_ERROR",
    "PROTOCOL_ERROR",
    "INTERNAL_ERROR",
    "FLOW_CONTROL_ERROR",
    "SETTINGS_TIMEOUT",
    "STREAM_CLOSED",
    "FRAME_SIZE_ERROR",
    "REFUSED_STREAM",
    "CANCEL",
    "COMPRESSION_ERROR",
    "CONNECT_ERROR",
    "ENHANCE_YOUR_CALM",
    "INADEQUATE_SECURITY",
    "HTTP_1_1_REQUIRED",
];

fn error(code: u32) -> &'static str {
    ERRORS.get(code as usize).copied().unwrap_or("UNKNOWN")
}

impl fmt::Display for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for status in &self.statuses {
            write!(f, "{status}")?;
        }
        match self.reset {
            Some(code) if code != 0 || self.statuses.is_empty() => write!(f, "{}", error(code)),
            _ if self.ended || self.reset.is_some() => Ok(()),
            _ => write!(f, "(no end)"),
        }
    }
}

impl fmt::Display for Observed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use super::case::End;
        for (id, stream) in self.streams.iter().take(3) {
            write!(f, "{id}:{stream} ")?;
        }
        match (self.end, self.goaway) {
            (End::Open, _) => write!(f, "open"),
            (End::Closed, Some(code)) => write!(f, "{}", error(code)),
            (End::Closed, None) => write!(f, "close"),
            (End::Hung, _) => write!(f, "hangs"),
        }
    }
}

/// Whether a server did what is asked for.
pub fn is_met(wanted: &str, observed: &Observed) -> bool {
    use super::case::End;
    let once = observed.streams.values().all(|stream| stream.statuses.len() <= 1);
    once && wanted.split(" / ").any(|alternative| {
        let mut words: Vec<&str> = alternative.split_whitespace().collect();
        let end = match words.pop().expect("an end") {
            "open" => observed.end == End::Open,
            "close" => observed.end == End::Closed,
            "any" => observed.end != End::Hung,
            code => observed.end == End::Closed && observed.goaway.map(error) == Some(code),
        };
        end && words.iter().all(|word| {
            let (id, wanted) = word.split_once(':').expect("a stream and what becomes of it");
            let stream = observed.streams.get(&id.parse().expect("a stream"));
            stream.is_some_and(|stream| fits(wanted, stream))
        })
    })
}

fn fits(wanted: &str, stream: &Stream) -> bool {
    let (wanted, content) = match wanted.split_once('=') {
        Some((wanted, content)) => (wanted, Some(content)),
        None => (wanted, None),
    };
    let outcome = stream.to_string();
    let fits = |wanted: &str| match wanted.strip_suffix("xx") {
        Some(class) => outcome.len() == 3 && outcome.starts_with(class),
        None => outcome == wanted,
    };
    let text = String::from_utf8_lossy(&stream.content).replace(' ', "_");
    wanted.split('|').any(fits) && content.is_none_or(|content| content == text)
}

/// The streams that a text names.
fn streams_of(wanted: &str) -> Vec<u32> {
    let words = wanted.split_whitespace().filter_map(|word| word.split_once(':'));
    words.filter_map(|(id, _)| id.parse().ok()).collect()
}

/// A frame's type, flags, stream and payload.
type Frame = (u8, u8, u32, Vec<u8>);

struct Reader {
    stream: TcpStream,
    read: Vec<u8>,
    until: Instant,
}

impl Reader {
    /// The next frame. None at the end.
    fn next(&mut self) -> Result<Option<Frame>, ErrorKind> {
        loop {
            if let Some(head) = self.read.first_chunk::<9>() {
                let length =
                    usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
                let (kind, flags) = (head[3], head[4]);
                let id = u32::from_be_bytes([head[5], head[6], head[7], head[8]]) & 0x7fff_ffff;
                if self.read.len() >= 9 + length {
                    let payload = self.read.drain(..9 + length).skip(9).collect();
                    return Ok(Some((kind, flags, id, payload)));
                }
            }
            let left = self.until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(ErrorKind::TimedOut);
            }
            self.stream.set_read_timeout(Some(left)).unwrap();
            let mut part = [0; 16_384];
            match self.stream.read(&mut part) {
                Ok(0) => return Ok(None),
                Ok(length) => self.read.extend_from_slice(&part[..length]),
                Err(error)
                    if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) =>
                {
                    return Err(ErrorKind::TimedOut);
                }
                Err(_) => return Ok(None),
            }
        }
    }
}

/// The payload of the ping that asks whether the connection still serves.
const OURS: &[u8; 8] = b"still-on";

/// Sends a case, and waits at most so long for each thing that is asked for.
pub fn observe(address: SocketAddr, case: &Case, longest: Duration) -> Observed {
    use super::case::End;
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_nodelay(true).unwrap();
    stream.set_write_timeout(Some(longest)).unwrap();
    let _ = stream.write_all(&[case.preface.as_slice(), &case.bytes].concat());
    let mut reader = Reader { stream, read: Vec::new(), until: Instant::now() + longest };
    let mut observed = Observed { streams: BTreeMap::new(), goaway: None, end: End::Hung };
    let is_for_close = case
        .wanted
        .split(" / ")
        .all(|wanted| !wanted.ends_with("open") && !wanted.ends_with("any"));
    let awaited = streams_of(case.wanted);
    let mut has_asked = is_for_close;
    loop {
        let is_done = awaited.iter().all(|id| {
            let stream = observed.streams.get(id);
            stream.is_some_and(|stream| stream.ended || stream.reset.is_some())
        });
        if is_done && !has_asked {
            has_asked = true;
            reader.until = Instant::now() + longest;
            let _ = reader.stream.write_all(&frame(PING, 0, 0, OURS));
        }
        match reader.next() {
            Ok(None) => {
                observed.end = End::Closed;
                return observed;
            }
            Err(_) => return observed,
            Ok(Some((SETTINGS, 0, ..))) => {
                let _ = reader.stream.write_all(&frame(SETTINGS, 1, 0, b""));
            }
            Ok(Some((PING, flags, _, payload))) if flags & 1 == 1 && payload == OURS => {
                observed.end = End::Open;
                return observed;
            }
            Ok(Some((GOAWAY, _, _, payload))) => {
                let code = payload.get(4..8).and_then(|code| code.try_into().ok());
                // The first one that says why.
                if observed.goaway.is_none_or(|code| code == 0) {
                    observed.goaway = code.map(u32::from_be_bytes);
                }
            }
            // Of the connection, such as its window.
            Ok(Some((.., 0, _))) => {}
            Ok(Some((kind, flags, id, payload))) => {
                let stream = observed.streams.entry(id).or_default();
                match kind {
                    HEADERS => {
                        let status = frames::status(&payload);
                        if status.is_none_or(|status| status >= 200) {
                            // None are trailers.
                            stream.statuses.extend(status);
                        }
                    }
                    DATA => stream.content.extend(payload),
                    RST_STREAM => {
                        let code = payload.get(..4).and_then(|code| code.try_into().ok());
                        stream.reset = code.map(u32::from_be_bytes);
                    }
                    _ => continue,
                }
                stream.ended |= matches!(kind, HEADERS | DATA) && flags & END_STREAM != 0;
            }
        }
    }
}
