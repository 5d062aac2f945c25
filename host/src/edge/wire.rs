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
//! - What arrives of a head tells a slow head from an idle connection (`preamble`).

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Buf as _, Bytes};
use http::StatusCode;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, Sleep},
};

use super::{preamble::Head, refusal, signals::Signals};

/// The answer to HTTP/2 that begins otherwise: empty settings, and `GOAWAY` with `PROTOCOL_ERROR`.
const NO_SETTINGS: &[u8] = &[
    0, 0, 0, 4, 0, 0, 0, 0, 0, // Settings
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

/// Bytes that are read of what arrives before hyper is there: most heads are shorter.
const ARRIVAL: usize = 1 << 10;

/// What has arrived on a connection that waited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Arrival {
    /// Some of a request of HTTP/1.
    Http1,
    /// The preface of HTTP/2, and perhaps more.
    Http2,
    /// Nothing, and nothing more will.
    End,
}

/// What a wire asks of a socket besides its bytes.
pub(super) trait Socket {
    /// Lets the connection be reset when it is closed, rather than end in order.
    fn reset_when_closed(&self);

    /// Waits for something to read, and takes nothing of it: whether the peer has ended its side.
    fn poll_has_ended(&self, context: &mut Context<'_>) -> Poll<io::Result<bool>>;
}

/// A stream between hyper and a socket.
pub(super) struct Wire<S: Socket> {
    stream: S,
    signals: Arc<Signals>,
    head: Head,
    /// What arrived before hyper was there to read it.
    unread: Bytes,
    /// The rest of an answer of this wire's own. Nothing is written behind it.
    own: Option<Bytes>,
    has_ended: bool,
    /// All that was written is sent, and the end behind it.
    has_shut_down: bool,
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
            unread: Bytes::new(),
            own: None,
            has_ended: false,
            has_shut_down: false,
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
        self.signals.is_settled()
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
        if self.signals.leaves_unread() {
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

impl<S: AsyncRead + AsyncWrite + Socket + Unpin> Wire<S> {
    /// Waits for what a client begins with, or goes on with after a pause, while there is no hyper to read it.
    ///
    /// # Errors
    /// When the connection is lost.
    pub(super) fn poll_arrival(&mut self, context: &mut Context<'_>) -> Poll<io::Result<Arrival>> {
        loop {
            if self.signals.is_http2() {
                return Poll::Ready(Ok(Arrival::Http2));
            }
            if !self.unread.is_empty() && !self.head.may_be_http2() {
                return Poll::Ready(Ok(Arrival::Http1));
            }
            let mut scratch = [0; ARRIVAL];
            let mut buffer = ReadBuf::new(&mut scratch);
            ready!(Pin::new(&mut self.stream).poll_read(context, &mut buffer))?;
            let bytes = buffer.filled();
            if bytes.is_empty() {
                self.has_ended = true;
                let is_all = self.unread.is_empty();
                return Poll::Ready(Ok(if is_all { Arrival::End } else { Arrival::Http1 }));
            }
            if !self.head.add(bytes, &self.signals) {
                self.own = Some(Bytes::from_static(NO_SETTINGS));
                let _ = self.poll_own(context);
                return Poll::Ready(Ok(Arrival::End));
            }
            self.unread = [&self.unread, bytes].concat().into();
        }
    }

    /// What is below.
    pub(super) fn get_ref(&self) -> &S {
        &self.stream
    }

    /// Whether something has arrived that hyper has not read.
    pub(super) fn has_unread(&self) -> bool {
        !self.unread.is_empty()
    }

    /// Takes back what hyper has read and not used.
    pub(super) fn put_back(&mut self, bytes: Bytes) {
        // Copied even if there are none: they would keep all of the buffer that they were read into.
        self.unread = [bytes, self.unread.clone()].concat().into();
        if self.has_unread() {
            // It came with the request before, and so was none of a head then.
            self.signals.note_head();
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
        if !this.unread.is_empty() {
            // It was looked at when it came.
            let bytes = this.unread.split_to(this.unread.len().min(buffer.remaining()));
            buffer.put_slice(&bytes);
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
            self.signals.settle();
        } else if !self.signals.is_http2() {
            self.watch(context)?;
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.signals.is_cut() {
            // An end in order is what must not be seen.
            return Poll::Ready(Ok(()));
        }
        if this.lingering.is_none() {
            ready!(this.poll_own(context))?;
            ready!(Pin::new(&mut this.stream).poll_shutdown(context))?;
            this.has_shut_down = true;
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
        // Where hyper was dropped, or failed, it has not come to an end in order.
        let is_torn = self.signals.ends_with_connection() && !self.has_shut_down;
        if self.signals.is_cut() || is_torn {
            self.stream.reset_when_closed();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};

    use super::*;

    /// A socket whose peer may have ended its side.
    struct Pipe(DuplexStream, bool);

    impl Socket for Pipe {
        fn reset_when_closed(&self) {}

        fn poll_has_ended(&self, _: &mut Context<'_>) -> Poll<io::Result<bool>> {
            if self.1 { Poll::Ready(Ok(true)) } else { Poll::Pending }
        }
    }

    impl AsyncRead for Pipe {
        fn poll_read(
            mut self: Pin<&mut Self>,
            context: &mut Context<'_>,
            buffer: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_read(context, buffer)
        }
    }

    impl AsyncWrite for Pipe {
        fn poll_write(
            mut self: Pin<&mut Self>,
            context: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            Pin::new(&mut self.0).poll_write(context, bytes)
        }

        fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_flush(context)
        }

        fn poll_shutdown(
            mut self: Pin<&mut Self>,
            context: &mut Context<'_>,
        ) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_shutdown(context)
        }
    }

    fn wire(has_ended: bool) -> (Wire<Pipe>, DuplexStream, Arc<Signals>) {
        let (ours, theirs) = tokio::io::duplex(64 << 10);
        let signals = Arc::<Signals>::default();
        (Wire::new(Pipe(ours, has_ended), Arc::clone(&signals)), theirs, signals)
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_client_is_let_go_after_some_time() {
        let (mut wire, _client, signals) = wire(false);
        signals.leave_unread();
        let started = Instant::now();
        wire.shutdown().await.unwrap();
        assert_eq!(started.elapsed(), SILENCE);
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_goes_on_sending_is_let_go_in_the_end() {
        let (mut wire, mut client, signals) = wire(false);
        signals.leave_unread();
        let sending = tokio::spawn(async move {
            for _ in 0..1_000 {
                if client.write_all(b"more").await.is_err() {
                    return;
                }
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        });
        let started = Instant::now();
        wire.shutdown().await.unwrap();
        assert_eq!(started.elapsed(), LINGER);
        drop(wire);
        sending.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn only_so_much_is_thrown_away() {
        let (mut wire, mut client, signals) = wire(false);
        signals.leave_unread();
        let sending = tokio::spawn(async move {
            let mut sent = 0;
            while sent < 4 * MAX_DISCARDED && client.write_all(&[0; 1 << 20]).await.is_ok() {
                sent += 1 << 20;
            }
            sent
        });
        let started = Instant::now();
        wire.shutdown().await.unwrap();
        drop(wire);
        let sent = sending.await.unwrap();
        assert!((MAX_DISCARDED..MAX_DISCARDED + (2 << 20)).contains(&sent), "{sent}");
        assert!(started.elapsed() < SILENCE);
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_owes_nothing_closes_at_once() {
        let (mut wire, _client, _signals) = wire(false);
        let started = Instant::now();
        wire.shutdown().await.unwrap();
        assert_eq!(started.elapsed(), Duration::ZERO);
    }

    /// Waits as hyper does for an answer; gives how long until the connection failed.
    async fn fails_after(wire: &mut Wire<Pipe>) -> Duration {
        let started = Instant::now();
        let failing = poll_fn(|context| match Pin::new(&mut *wire).poll_flush(context) {
            Poll::Ready(Err(error)) => Poll::Ready(error),
            _ => Poll::Pending,
        });
        tokio::time::timeout(10 * ENDED, failing).await.expect("the connection fails");
        started.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_has_ended_its_side_is_answered_for_some_time() {
        let (mut wire, mut client, signals) = wire(true);
        signals.begin();
        assert_eq!(fails_after(&mut wire).await, ENDED);
        // Longer while something is written to it.
        let (mut wire, mut other, signals) = self::wire(true);
        signals.begin();
        wire.flush().await.unwrap();
        tokio::time::sleep(ENDED / 2).await;
        wire.write_all(b"a part").await.unwrap();
        assert_eq!(fails_after(&mut wire).await, ENDED);
        drop(wire);
        let mut read = Vec::new();
        other.read_to_end(&mut read).await.unwrap();
        assert_eq!(read, b"a part");
        client.shutdown().await.unwrap();
    }

    /// As hyper writes it.
    const HYPERS: &[u8] =
        b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";

    async fn written(wire: Wire<Pipe>, mut client: DuplexStream) -> String {
        drop(wire);
        let mut read = String::new();
        client.read_to_string(&mut read).await.unwrap();
        read
    }

    #[tokio::test]
    async fn hypers_own_answer_becomes_a_problem() {
        for requests in [0, 1, 2] {
            let (mut wire, client, signals) = wire(false);
            for _ in 0..requests {
                signals.begin();
                signals.end();
                wire.write_all(b"an answer").await.unwrap();
                wire.flush().await.unwrap();
            }
            wire.write_all(HYPERS).await.unwrap();
            wire.flush().await.unwrap();
            let written = written(wire, client).await;
            assert!(written.contains("problem+json"), "{written}");
            assert_eq!(written.matches("HTTP/1.1").count(), 1, "{written}");
        }
    }

    #[tokio::test]
    async fn the_same_bytes_of_a_request_stay_as_they_are() {
        // While it is active, and when it has ended and not all of it is written.
        for has_ended in [false, true] {
            let (mut wire, client, signals) = wire(false);
            wire.flush().await.unwrap();
            signals.begin();
            if has_ended {
                signals.end();
            }
            wire.write_all(HYPERS).await.unwrap();
            wire.write_all(HYPERS).await.unwrap();
            let written = written(wire, client).await;
            assert_eq!(written.as_bytes(), [HYPERS, HYPERS].concat());
        }
    }
}
