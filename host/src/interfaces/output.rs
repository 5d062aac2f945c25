//! What guests print and log, in the host's log: line by line, with the guest's name and the
//! request's id, and bounded.

use std::{
    borrow::Cow,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context as Waker, Poll},
};

use bytes::Bytes;
use http::HeaderValue;
use tokio::io::AsyncWrite;
use tracing::Level;
use wasmtime_wasi::{
    cli::{IsTerminal, StdoutStream},
    p2::{OutputStream, Pollable, StreamResult},
};

use crate::logging;

/// Bytes that one request may put into the log: pages of text for whoever reads it, and an end to
/// a guest that floods it.
const MAX_BYTES: usize = 64 << 10;

/// Bytes of one line; longer ones are cut into several.
const MAX_LINE: usize = 4 << 10;

/// Bytes of the name that a guest gives for where it logs.
const MAX_SOURCE: usize = 64;

/// Bytes that the log adds to each line: its time, level, guest and id.
const OVERHEAD: usize = 100;

/// Bytes that a guest may write in one call. What is beyond its share is thrown away in any case.
const WRITE_BYTES: usize = 64 << 10;

/// The target of guests' lines, by which filters of the log can name them.
macro_rules! line {
    ($level:expr, $($fields:tt)*) => {
        match $level {
            Level::ERROR => tracing::error!(target: "guest", $($fields)*),
            Level::WARN => tracing::warn!(target: "guest", $($fields)*),
            Level::INFO => tracing::info!(target: "guest", $($fields)*),
            Level::DEBUG => tracing::debug!(target: "guest", $($fields)*),
            Level::TRACE => tracing::trace!(target: "guest", $($fields)*),
        }
    };
}

/// Whether lines of a level are logged at all.
fn heard(level: Level) -> bool {
    match level {
        Level::ERROR => tracing::enabled!(target: "guest", Level::ERROR),
        Level::WARN => tracing::enabled!(target: "guest", Level::WARN),
        Level::INFO => tracing::enabled!(target: "guest", Level::INFO),
        Level::DEBUG => tracing::enabled!(target: "guest", Level::DEBUG),
        Level::TRACE => tracing::enabled!(target: "guest", Level::TRACE),
    }
}

/// A text with what would move the cursor or turn the line around written out: a guest must not
/// forge lines of the log.
fn plain(text: &str) -> Cow<'_, str> {
    let moves = |c: char| {
        (c.is_control() && c != '\t')
            || matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    if !text.contains(moves) {
        return Cow::Borrowed(text);
    }
    let written = text.chars().map(|c| match moves(c) {
        true => c.escape_default().to_string(),
        false => c.to_string(),
    });
    Cow::Owned(written.collect())
}

/// One request's part of the log. Cheap to clone; all clones share its bounds.
#[derive(Clone)]
pub(super) struct Journal(Arc<Inner>);

struct Inner {
    guest: Arc<str>,
    id: String,
    /// Bytes it may still write; none once it was told that these are used up.
    left: Mutex<Option<usize>>,
}

impl Journal {
    pub(super) fn new(guest: Arc<str>, id: &HeaderValue) -> Self {
        let id = id.to_str().unwrap_or_default().to_owned();
        Self(Arc::new(Inner { guest, id, left: Mutex::new(Some(MAX_BYTES)) }))
    }

    /// Writes one line, if the request has some of its share left.
    pub(super) fn write(&self, level: Level, source: &str, line: &str) {
        if !heard(level) {
            return;
        }
        let source = plain(source.get(..source.floor_char_boundary(MAX_SOURCE)).unwrap_or(""));
        let mut rest = line;
        // An empty line is a line.
        loop {
            let (part, after) = rest.split_at(rest.floor_char_boundary(MAX_LINE));
            self.write_part(level, &source, &plain(part));
            rest = after;
            if rest.is_empty() {
                break;
            }
        }
    }

    fn write_part(&self, level: Level, source: &str, line: &str) {
        let Inner { guest, id, left } = &*self.0;
        let mut left = left.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(before) = *left else { return };
        *left =
            before.checked_sub(line.len().saturating_add(source.len()).saturating_add(OVERHEAD));
        match *left {
            Some(_) => {
                line!(level, %guest, id, source, "{line}");
            }
            None => {
                logging::log(&logging::Failure {
                    level: Level::WARN,
                    what: "a request has printed as much as it may; the rest is left out",
                    kind: "output_limit",
                    guest,
                    id,
                    method: None,
                    reason: &format_args!("it is over {MAX_BYTES} bytes"),
                });
            }
        }
    }
}

/// Standard output or standard error of one request. Clones write to the same line.
#[derive(Clone)]
pub(super) struct Output(Arc<Mutex<Lines>>);

impl Output {
    pub(super) fn new(journal: Journal, source: &'static str) -> Self {
        Self(Arc::new(Mutex::new(Lines { journal, source, line: Vec::new(), is_cut: false })))
    }

    fn lock(&self) -> MutexGuard<'_, Lines> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Lines {
    journal: Journal,
    source: &'static str,
    /// The line that has begun.
    line: Vec<u8>,
    /// Its beginning was too long, and is written.
    is_cut: bool,
}

impl Lines {
    fn push(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let room = MAX_LINE.saturating_sub(self.line.len());
            let part = bytes.get(..room).unwrap_or(bytes);
            let end = part.iter().position(|byte| *byte == b'\n');
            let (line, skip) = match end {
                Some(end) => (part.get(..end).unwrap_or_default(), 1),
                None => (part, 0),
            };
            self.line.extend_from_slice(line);
            bytes = bytes.get(line.len().saturating_add(skip)..).unwrap_or_default();
            match end {
                // Of a line that was cut exactly at its end, nothing is left.
                Some(_) if self.is_cut && self.line.is_empty() => self.is_cut = false,
                Some(_) => self.end(false),
                None if self.line.len() >= MAX_LINE => self.end(true),
                None => {}
            }
        }
    }

    fn end(&mut self, is_cut: bool) {
        let text = String::from_utf8_lossy(&self.line);
        self.journal.write(Level::INFO, self.source, text.trim_end_matches('\r'));
        self.line.clear();
        self.is_cut = is_cut;
    }
}

/// A last line without its end is a line too.
impl Drop for Lines {
    fn drop(&mut self) {
        if !self.line.is_empty() {
            self.end(false);
        }
    }
}

impl IsTerminal for Output {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for Output {
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(self.clone())
    }

    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }
}

impl OutputStream for Output {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.lock().push(&bytes);
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(WRITE_BYTES)
    }
}

#[wasmtime_wasi::async_trait]
impl Pollable for Output {
    async fn ready(&mut self) {}
}

impl AsyncWrite for Output {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Waker<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        self.lock().push(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Waker<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Waker<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
