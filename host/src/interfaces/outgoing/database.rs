//! Connections to databases for guests: to the hosts that they may send requests to, by the same
//! rules, and bounded in number.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};

use super::{
    Outgoing,
    send::{self, TIMEOUT},
};

/// Connections to databases that one guest may have open at once.
pub(super) const MAX_OPEN: usize = 64;

/// The connections to databases that a guest has open.
#[derive(Clone, Debug)]
pub(super) struct Places(Arc<Semaphore>);

impl Default for Places {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(MAX_OPEN)))
    }
}

/// Why a guest is not connected to a database.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unreachable {
    /// The configuration does not name the host.
    #[error("this guest may not connect to {0}; name the host in outgoing-hosts")]
    Denied(String),
    /// It names it, and its address is private.
    #[error("{0} is at a private address; allow those with outgoing-private")]
    Private(String),
    /// The guest has too many connections.
    #[error(
        "this guest has {MAX_OPEN} connections to databases open, which is as many as it may have"
    )]
    TooMany,
    /// It cannot be connected to.
    #[error("cannot connect: {0}")]
    Failed(String),
}

/// A connection that is made, and the guest's place for it.
pub(crate) struct Connected {
    pub(crate) stream: TcpStream,
    pub(crate) place: OwnedSemaphorePermit,
}

impl Outgoing {
    /// Connects to a database.
    pub(crate) async fn connect(&self, host: &str, port: u16) -> Result<Connected, Unreachable> {
        let name = || tally_net::HostPort { host, port: Some(port) }.to_string();
        if !self.allows(host, port) {
            return Err(Unreachable::Denied(name()));
        }
        let places = Arc::clone(&self.places.0);
        let place = places.try_acquire_owned().map_err(|_| Unreachable::TooMany)?;
        let connecting = timeout(TIMEOUT, send::connect(self, host, port));
        match connecting.await {
            Ok(Ok(stream)) => Ok(Connected { stream, place }),
            Ok(Err(wasmtime_wasi_http::Error::DestinationIpProhibited)) => {
                Err(Unreachable::Private(name()))
            }
            Ok(Err(error)) => Err(Unreachable::Failed(error.to_string())),
            Err(_) => Err(Unreachable::Failed(format!("no answer within {TIMEOUT:?}"))),
        }
    }
}

/// A stream of which every byte that is read is asked for first.
pub(crate) struct Bounded<S, C> {
    inner: S,
    /// Takes the bytes that were read, or says why that is too much.
    charge: C,
}

impl<S, C> Bounded<S, C> {
    /// With something to charge.
    pub(crate) fn new(inner: S, charge: C) -> Self {
        Self { inner, charge }
    }
}

impl<S, C, E> AsyncRead for Bounded<S, C>
where
    S: AsyncRead + Unpin,
    C: Fn(usize) -> Result<(), E> + Unpin,
    E: std::error::Error + Send + Sync + 'static,
{
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.inner).poll_read(context, buffer);
        let read = buffer.filled().len().saturating_sub(before);
        match polled {
            Poll::Ready(Ok(())) => Poll::Ready((self.charge)(read).map_err(io::Error::other)),
            polled => polled,
        }
    }
}

impl<S: AsyncWrite + Unpin, C: Unpin> AsyncWrite for Bounded<S, C> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn databases_are_reached_by_the_rules_for_requests() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let local = format!("127.0.0.1:{port}");
        let private = Outgoing::parse([local.as_str()], true).unwrap();
        let public = Outgoing::parse([local.as_str()], false).unwrap();
        let denied = Outgoing::default().connect("127.0.0.1", port).await;
        assert!(matches!(denied, Err(Unreachable::Denied(_))));
        let refused = public.connect("127.0.0.1", port).await;
        assert!(matches!(refused, Err(Unreachable::Private(_))));
        let mut open = Vec::new();
        for _ in 0..MAX_OPEN {
            open.push(private.connect("127.0.0.1", port).await.ok().unwrap());
        }
        // Another release of the guest, or another worker, counts the same.
        let more = private.clone().connect("127.0.0.1", port).await;
        assert!(matches!(more, Err(Unreachable::TooMany)));
        open.pop();
        assert!(private.connect("127.0.0.1", port).await.is_ok());
    }
}
