//! A connection whose client has to take what is sent to it: hyper waits for as long as it takes to write.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::Sleep,
};

use super::responses::Patience;

/// Bytes in a second that a client has to take at least, while there are more for it. A connection over a modem takes
/// several times as many; who takes fewer holds memory and does not mean to read.
const LEAST_RATE: u64 = 240;

/// A client may take fewer for so long.
const GRACE: Duration = Duration::from_secs(10);

/// What is known of how a connection gets on. Shared with whoever decides when it ends.
#[derive(Debug, Default)]
pub(super) struct Progress {
    written: AtomicU64,
    is_blocked: AtomicBool,
}

impl Progress {
    /// Whether there is something to be written that the socket does not take.
    pub(super) fn is_blocked(&self) -> bool {
        self.is_blocked.load(Relaxed)
    }

    /// Bytes that the socket has taken.
    pub(super) fn written(&self) -> u64 {
        self.written.load(Relaxed)
    }
}

/// A stream that fails when its client takes nothing for a time, or next to nothing for longer, while there is
/// something to write.
pub(crate) struct Watched<S> {
    stream: S,
    patience: Patience,
    progress: Arc<Progress>,
    /// When writing began to have to wait, and what the socket had taken until then.
    blocked: Option<(Instant, u64)>,
    /// Set while a write waits.
    deadline: Option<Pin<Box<Sleep>>>,
}

impl<S> Watched<S> {
    pub(crate) fn new(stream: S, patience: Patience) -> Self {
        Self { stream, patience, progress: Arc::default(), blocked: None, deadline: None }
    }

    /// What is below.
    pub(super) fn get_ref(&self) -> &S {
        &self.stream
    }

    pub(super) fn progress(&self) -> Arc<Progress> {
        Arc::clone(&self.progress)
    }

    fn watch(
        &mut self,
        context: &mut Context<'_>,
        written: Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        if let Poll::Ready(result) = written {
            self.deadline = None;
            let bytes = *result.as_ref().unwrap_or(&0) as u64;
            // Written by this task alone.
            let all = self.progress.written().saturating_add(bytes);
            self.progress.written.store(all, Relaxed);
            return Poll::Ready(if self.is_too_slow() { Err(too_slow()) } else { result });
        }
        if self.blocked.is_none() {
            self.blocked = Some((Instant::now(), self.progress.written()));
            self.progress.is_blocked.store(true, Relaxed);
        }
        let longest = self.patience.longest();
        let deadline = self.deadline.get_or_insert_with(|| Box::pin(tokio::time::sleep(longest)));
        deadline.as_mut().poll(context).map(|()| Err(too_slow()))
    }

    /// Whether the client has taken less than it has to since writing began to wait.
    fn is_too_slow(&self) -> bool {
        self.blocked.is_some_and(|(since, before)| {
            let (took, time) = (self.progress.written().saturating_sub(before), since.elapsed());
            time > GRACE && took < time.as_secs().saturating_mul(LEAST_RATE)
        })
    }
}

fn too_slow() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "the client does not take what is sent to it")
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.watch(context, written)
    }

    /// hyper comes here when all it had is written.
    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.blocked.take().is_some() {
            self.progress.is_blocked.store(false, Relaxed);
        }
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, parts);
        self.watch(context, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
