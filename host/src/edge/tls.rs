//! TLS of clients' connections: one configuration for all that listen with it, exchanged while they serve.

use std::{io, pin::pin, sync::Arc, task::Poll, time::Duration};

use arc_swap::ArcSwap;
use rustls::ServerConfig;
use tokio::{sync::Semaphore, time::timeout};
use tokio_rustls::{LazyConfigAcceptor, server::TlsStream};

use super::{progress::Watched, socket::Socket};

/// TLS as clients get it.
#[derive(Debug)]
pub(crate) struct Tls {
    config: ArcSwap<ServerConfig>,
    longest: Duration,
}

impl Tls {
    /// With a configuration, where a handshake may take so long.
    pub(crate) fn new(config: ServerConfig, longest: Duration) -> Self {
        Self { config: ArcSwap::from_pointee(config), longest }
    }

    /// Uses another configuration for handshakes from now on. Connections that are open keep theirs.
    pub(crate) fn exchange(&self, config: ServerConfig) {
        self.config.store(Arc::new(config));
    }

    /// Shakes hands with a client. Of those of one worker, which share its `turn`, one computes at a time,
    /// so that requests wait for one of them and not for all that come at once.
    pub(super) async fn accept(
        &self,
        socket: Watched<Socket>,
        turn: &Semaphore,
    ) -> io::Result<TlsStream<Watched<Socket>>> {
        let accepted = timeout(self.longest, self.shake_hands(socket, turn)).await;
        accepted.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }

    async fn shake_hands(
        &self,
        socket: Watched<Socket>,
        turn: &Semaphore,
    ) -> io::Result<TlsStream<Watched<Socket>>> {
        let hello = LazyConfigAcceptor::new(rustls::server::Acceptor::default(), socket).await?;
        let computing = turn.acquire().await.map_err(io::Error::other)?;
        // The signature, which takes longest, is made here and in the first poll.
        let mut accepting = pin!(hello.into_stream(self.config.load_full()));
        let first = std::future::poll_fn(|context| Poll::Ready(accepting.as_mut().poll(context)));
        let first = first.await;
        drop(computing);
        match first {
            Poll::Ready(accepted) => accepted,
            Poll::Pending => accepting.await,
        }
    }
}
