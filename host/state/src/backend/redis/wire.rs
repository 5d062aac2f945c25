//! What is known of a connection's traffic.
//!
//! The bytes are counted where they are handed to the operating system, below TLS: a write that
//! TLS reports as failed may have sent some of a batch's records, and the server acts on each
//! record that it has whole. What TLS sends of its own counts too, which can only make a certain
//! failure an unknown one.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};

use redis::{ServerError, Value};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A connection younger than this is kept when its server refuses writes, so that a server that
/// goes on refusing is not connected to for each batch.
const TRY_ELSEWHERE_AFTER: Duration = Duration::from_millis(100);

/// See the module.
pub(super) struct Wire {
    /// Bytes handed to the operating system so far.
    pub(super) written: AtomicU64,
    /// The server has closed its side, the connection failed, or it must be given up.
    pub(super) closed: AtomicBool,
    made: Instant,
}

impl Wire {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            written: AtomicU64::new(0),
            closed: AtomicBool::new(false),
            made: Instant::now(),
        })
    }

    /// Gives the connection up where an answer says that the master is elsewhere: `READONLY` from
    /// a replica, `NOREPLICAS` from a master whose replicas have left it, as when they follow
    /// another. The next batch connects anew, which asks the sentinels, or the name service.
    pub(super) fn heed(&self, answers: &[Value]) {
        let elsewhere =
            |answer: &Value| matches!(answer, Value::ServerError(error) if leads_elsewhere(error));
        if answers.iter().any(elsewhere) && self.made.elapsed() >= TRY_ELSEWHERE_AFTER {
            self.closed.store(true, Ordering::Release);
        }
    }
}

fn leads_elsewhere(error: &ServerError) -> bool {
    ["READONLY", "NOREPLICAS"].contains(&error.code())
}

/// A stream that keeps its [`Wire`] up to date.
pub(super) struct Watched<S> {
    pub(super) inner: S,
    pub(super) wire: Arc<Wire>,
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.inner).poll_read(context, buffer);
        let ended = match &polled {
            Poll::Ready(Ok(())) => buffer.filled().len() == before && buffer.remaining() > 0,
            Poll::Ready(Err(_)) => true,
            Poll::Pending => false,
        };
        if ended {
            self.wire.closed.store(true, Ordering::Release);
        }
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.inner).poll_write(context, bytes);
        match &polled {
            Poll::Ready(Ok(count)) => {
                self.wire.written.fetch_add(*count as u64, Ordering::AcqRel);
            }
            Poll::Ready(Err(_)) => self.wire.closed.store(true, Ordering::Release),
            Poll::Pending => {}
        }
        polled
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(context)
    }
}
