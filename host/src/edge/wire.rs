//! The bytes of a connection on their way between hyper and the socket, and what hyper leaves open.
//!
//! - hyper answers what it cannot read as HTTP/1 by itself, with a bare status. Here that answer becomes
//!   a problem as any other (`refusal`). See [`Wire::is_hypers_own`] for why nothing else can be taken
//!   for it.
//! - A connection that is closed while its client sends is reset by the kernel, and the client loses the
//!   answer. What still comes is read and thrown away first, within bounds (RFC 9112, 9.6).
//! - A body that ends with its connection looks whole when it was cut off. Then the connection is reset.
//! - A client that has ended its side may wait for the answer, or be gone: TCP does not say which. It has
//!   some time.
//! - What arrives of a head tells a slow head from an idle connection.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Buf as _, Bytes};
use http::StatusCode;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, Sleep},
};

use super::refusal;

/// The first bytes of HTTP/2 (RFC 9113, 3.4).
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Where a frame of HTTP/2 has its type, and that of settings (RFC 9113, 4.1 and 6.5).
const TYPE: usize = 3;
/// See [`TYPE`].
const SETTINGS: u8 = 4;

/// The answer to HTTP/2 that begins otherwise: empty settings, and `GOAWAY` with `PROTOCOL_ERROR`.
const NO_SETTINGS: &[u8] = &[
    0, 0, 0, SETTINGS, 0, 0, 0, 0, 0, // Settings
    0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, // No stream, and the code
];

/// Longest time that a client which is to read an answer may be silent, and may take in all, before
/// its connection is closed for good: nginx's defaults (`lingering_timeout`, `lingering_time`).
const SILENCE: Duration = Duration::from_secs(5);
/// See [`SILENCE`].
const LINGER: Duration = Duration::from_secs(30);

/// How long a client that has ended its side is answered while nothing is written to it, by which it
/// would show that it is gone: as long as a guest may take by default.
const ENDED: Duration = Duration::from_secs(10);

/// Most bytes that are thrown away then: several times what a client sends before it looks for an
/// answer.
const MAX_DISCARDED: usize = 32 << 20;

/// What a connection and its wire tell each other. Both are on one thread.
#[derive(Default)]
pub(super) struct Signals {
    /// Requests so far.
    begun: AtomicUsize,
    /// Requests whose response is not complete.
    active: AtomicUsize,
    /// Something of a head has arrived since the last request began.
    has_head: AtomicBool,
    is_http2: AtomicBool,
    /// The time for a request is over.
    has_expired: AtomicBool,
    /// The client may still be sending when the connection closes.
    leaves_unread: AtomicBool,
    /// A body that ends with the connection was cut off.
    is_cut: AtomicBool,
}

impl Signals {
    pub(super) fn begin(&self) {
        self.has_head.store(false, Ordering::Relaxed);
        self.begun.store(self.begun() + 1, Ordering::Relaxed);
        self.active.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn end(&self) {
        self.active.fetch_sub(1, Ordering::Relaxed);
    }

    pub(super) fn begun(&self) -> usize {
        self.begun.load(Ordering::Relaxed)
    }

    pub(super) fn is_active(&self) -> bool {
        self.active.load(Ordering::Relaxed) > 0
    }

    pub(super) fn leave_unread(&self) {
        self.leaves_unread.store(true, Ordering::Relaxed);
    }

    pub(super) fn cut(&self) {
        self.is_cut.store(true, Ordering::Relaxed);
    }

    pub(super) fn expire(&self) {
        self.has_expired.store(true, Ordering::Relaxed);
    }

    /// Whether the next read is told that this is the end.
    pub(super) fn ends_by_itself(&self) -> bool {
        self.has_expired.load(Ordering::Relaxed) && !self.is_http2()
    }

    fn is_http2(&self) -> bool {
        self.is_http2.load(Ordering::Relaxed)
    }
}

/// Waits until no request has been active for `idle`, or has begun to arrive and not come to its end
/// for `head`. The first request has the time of a head, whether it begins or not.
pub(super) async fn silence(signals: &Signals, idle: Duration, head: Duration) {
    let shortest = idle.min(head);
    let look = shortest.min(Duration::from_millis(100).max(shortest / 8));
    let mut begun = signals.begun();
    let (mut since, mut head_since) = (Instant::now(), None);
    loop {
        tokio::time::sleep(look).await;
        let now = Instant::now();
        if signals.begun() != begun || signals.is_active() {
            begun = signals.begun();
            (since, head_since) = (now, None);
            continue;
        }
        if signals.has_head.load(Ordering::Relaxed) && !signals.is_http2() {
            head_since.get_or_insert(now);
        }
        let longest = if begun == 0 { head } else { idle };
        if now - since >= longest || head_since.is_some_and(|since| now - since >= head) {
            return;
        }
    }
}

/// What a wire asks of a socket besides its bytes.
pub(super) trait Socket {
    /// Lets the connection be reset when it is closed, rather than end in order.
    fn reset_when_closed(&self);

    /// Waits for something to read, and takes nothing of it: whether the peer has ended its side.
    fn poll_has_ended(&self, context: &mut Context<'_>) -> Poll<io::Result<bool>>;
}

/// What is known of the head that is arriving.
#[derive(Default)]
struct Head {
    /// Requests before it.
    before: usize,
    /// Bytes that agree with HTTP/2's preface. Only a connection's first can.
    preface: usize,
    /// Bytes behind it, as far as they are looked at.
    behind: usize,
    bytes: usize,
    /// Its first line is complete.
    has_line: bool,
    /// And names a version that this server does not speak.
    is_other_version: bool,
}

impl Head {
    /// Looks at bytes that have arrived. False for HTTP/2 that does not begin with settings.
    fn add(&mut self, bytes: &[u8], signals: &Signals) -> bool {
        if signals.is_http2() {
            return self.begins_with_settings(bytes);
        }
        if signals.is_active() {
            return true;
        }
        signals.has_head.store(true, Ordering::Relaxed);
        let before = signals.begun();
        if self.before != before {
            *self = Self { before, ..Self::default() };
        }
        if before == 0 && self.preface == self.bytes {
            let expected = PREFACE.iter().skip(self.preface);
            let agree = bytes.iter().zip(expected).take_while(|(a, b)| a == b).count();
            self.preface += agree;
            if self.preface == PREFACE.len() {
                signals.is_http2.store(true, Ordering::Relaxed);
                return self.begins_with_settings(bytes.get(agree..).unwrap_or_default());
            }
        }
        let is_start = self.bytes == 0;
        self.bytes += bytes.len();
        if self.has_line {
            return true;
        }
        // Empty lines may stand before a request (RFC 9112, 2.2).
        let line = bytes.iter().position(|byte| !b"\r\n".contains(byte));
        let line = line.and_then(|start| bytes.get(start..)).unwrap_or_default();
        if let Some(end) = line.iter().position(|byte| *byte == b'\n') {
            self.has_line = true;
            let line = line.get(..end).unwrap_or_default().trim_ascii_end();
            self.is_other_version = is_start && names_other_version(line);
        }
        true
    }

    /// Whether the first frame of HTTP/2, as far as it is there, is one of settings (RFC 9113, 3.4): the
    /// fourth of a frame's bytes is its type.
    fn begins_with_settings(&mut self, bytes: &[u8]) -> bool {
        if self.behind > TYPE {
            return true;
        }
        let kind = bytes.get(TYPE - self.behind).copied();
        self.behind += bytes.len();
        kind.is_none_or(|kind| kind == SETTINGS)
    }
}

/// Whether a request line ends with a version that is well formed and not one of HTTP/1.
fn names_other_version(line: &[u8]) -> bool {
    match line.last_chunk::<9>() {
        Some([b' ', b'H', b'T', b'T', b'P', b'/', major, b'.', minor]) => {
            major.is_ascii_digit() && minor.is_ascii_digit() && *major != b'1'
        }
        _ => false,
    }
}

/// A stream between hyper and a socket.
pub(super) struct Wire<S: Socket> {
    stream: S,
    signals: Arc<Signals>,
    head: Head,
    /// Requests that had begun when all that there was to write was written, and none was active.
    settled: usize,
    /// The rest of an answer of this wire's own. Nothing is written behind it.
    own: Option<Bytes>,
    has_ended: bool,
    /// While a request is active: what is known of the client's side.
    watched: Watched,
    lingering: Option<Lingering>,
}

/// The client's side while hyper does not read.
#[derive(Default)]
enum Watched {
    #[default]
    Open,
    /// Something else is to be read.
    Sends,
    /// The client has ended it. It is let go of when this timer fires.
    Ended(Pin<Box<Sleep>>),
}

/// A connection whose writing side is closed.
struct Lingering {
    timer: Pin<Box<Sleep>>,
    until: Instant,
    discarded: usize,
}

impl<S: Socket> Wire<S> {
    pub(super) fn new(stream: S, signals: Arc<Signals>) -> Self {
        Self {
            stream,
            signals,
            head: Head::default(),
            settled: 0,
            own: None,
            has_ended: false,
            watched: Watched::default(),
            lingering: None,
        }
    }

    /// Looks whether the client is gone while hyper waits for an answer, and does not read.
    ///
    /// # Errors
    /// When it is: to hyper, the connection has failed.
    fn watch(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        if matches!(self.watched, Watched::Open)
            && let Poll::Ready(has_ended) = self.stream.poll_has_ended(context)
        {
            self.watched = match has_ended? {
                true => Watched::Ended(Box::pin(tokio::time::sleep(ENDED))),
                false => Watched::Sends,
            };
        }
        if let Watched::Ended(timer) = &mut self.watched
            && timer.as_mut().poll(context).is_ready()
        {
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        Ok(())
    }

    /// Whether bytes that hyper writes are its own answer to what it could not read.
    ///
    /// All responses before were complete and written when hyper last flushed, and no request has begun
    /// since. So nothing that a guest or this host wrote can be in these bytes: a response of theirs
    /// belongs to a request.
    fn is_hypers_own(&self, bytes: &[u8]) -> bool {
        self.settled == self.signals.begun()
            && !self.signals.is_active()
            && !self.signals.is_http2()
            && bytes.starts_with(b"HTTP/1.1 4")
            && bytes.ends_with(b"\r\n\r\n")
    }

    /// The answer in the place of hyper's.
    fn refuse(&mut self, status: StatusCode) {
        let status = match status {
            StatusCode::BAD_REQUEST if self.head.is_other_version => {
                StatusCode::HTTP_VERSION_NOT_SUPPORTED
            }
            // What is too long is the target, as there is nothing behind it yet.
            StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE if !self.head.has_line => {
                StatusCode::URI_TOO_LONG
            }
            status => status,
        };
        self.own = Some(refusal::response(status));
        self.signals.leave_unread();
    }
}

impl<S: AsyncWrite + Socket + Unpin> Wire<S> {
    /// Writes what is left of this wire's own answer.
    fn poll_own(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Some(own) = self.own.as_mut().filter(|own| !own.is_empty()) {
            match ready!(Pin::new(&mut self.stream).poll_write(context, own))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                written => own.advance(written),
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + Socket + Unpin> Wire<S> {
    /// Whether the client may still be sending: it is known to, or has sent what was not read.
    fn leaves_unread(&mut self, context: &mut Context<'_>) -> bool {
        if self.signals.leaves_unread.load(Ordering::Relaxed) {
            return true;
        }
        let mut scratch = [0; 1_024];
        let mut buffer = ReadBuf::new(&mut scratch);
        let read = Pin::new(&mut self.stream).poll_read(context, &mut buffer);
        matches!(read, Poll::Ready(Ok(()))) && !buffer.filled().is_empty()
    }

    /// Throws away what the client sends until it is done, within bounds.
    fn poll_discard(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let mut scratch = [0; 16 << 10];
        loop {
            let Some(lingering) = &mut self.lingering else { return Poll::Ready(()) };
            let mut buffer = ReadBuf::new(&mut scratch);
            match Pin::new(&mut self.stream).poll_read(context, &mut buffer) {
                Poll::Ready(Ok(())) if !buffer.filled().is_empty() => {
                    lingering.discarded += buffer.filled().len();
                    let silence = Instant::now() + SILENCE;
                    lingering.timer.as_mut().reset(silence.min(lingering.until));
                    if lingering.discarded > MAX_DISCARDED {
                        return Poll::Ready(());
                    }
                }
                Poll::Ready(_) => return Poll::Ready(()),
                Poll::Pending => return lingering.timer.as_mut().poll(context),
            }
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Socket + Unpin> AsyncRead for Wire<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.signals.ends_by_itself() {
            // hyper says nothing to a client whose head has not come to its end.
            let is_half = this.head.bytes > 0 && this.head.before == this.signals.begun();
            if is_half && this.own.is_none() && !this.signals.is_active() {
                this.refuse(StatusCode::REQUEST_TIMEOUT);
                // hyper does not close in order what ends in the middle, so this is the one chance. A
                // socket that has written little has room for it.
                let _ = this.poll_own(context);
            }
            // The end.
            return Poll::Ready(Ok(()));
        }
        let before = buffer.filled().len();
        ready!(Pin::new(&mut this.stream).poll_read(context, buffer))?;
        match buffer.filled().get(before..) {
            Some([]) | None => this.has_ended = true,
            Some(bytes) => {
                this.watched = Watched::Open;
                if !this.head.add(bytes, &this.signals) {
                    this.own = Some(Bytes::from_static(NO_SETTINGS));
                    let _ = this.poll_own(context);
                    buffer.set_filled(before);
                }
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Socket + Unpin> AsyncWrite for Wire<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.own.is_none() && self.is_hypers_own(bytes) {
            let status = bytes.get(9..12).and_then(|status| StatusCode::from_bytes(status).ok());
            self.refuse(status.unwrap_or(StatusCode::BAD_REQUEST));
        }
        if self.own.is_some() {
            ready!(self.poll_own(context))?;
            return Poll::Ready(Ok(bytes.len()));
        }
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        if let (Watched::Ended(timer), Poll::Ready(Ok(_))) = (&mut self.watched, &written) {
            timer.as_mut().reset(Instant::now() + ENDED);
        }
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_own(context))?;
        ready!(Pin::new(&mut self.stream).poll_flush(context))?;
        if !self.signals.is_active() {
            self.settled = self.signals.begun();
        } else if !self.signals.is_http2() {
            self.watch(context)?;
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.signals.is_cut.load(Ordering::Relaxed) {
            // An end in order is what must not be seen.
            return Poll::Ready(Ok(()));
        }
        if this.lingering.is_none() {
            ready!(this.poll_own(context))?;
            ready!(Pin::new(&mut this.stream).poll_shutdown(context))?;
            if this.has_ended || !this.leaves_unread(context) {
                return Poll::Ready(Ok(()));
            }
            let now = Instant::now();
            let timer = Box::pin(tokio::time::sleep_until(now + SILENCE));
            this.lingering = Some(Lingering { timer, until: now + LINGER, discarded: 0 });
        }
        this.poll_discard(context).map(Ok)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        // Of HTTP/2 alone: for HTTP/1, hyper joins parts.
        Pin::new(&mut self.stream).poll_write_vectored(context, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

impl<S: Socket> Drop for Wire<S> {
    fn drop(&mut self) {
        if self.signals.is_cut.load(Ordering::Relaxed) {
            self.stream.reset_when_closed();
        }
    }
}
