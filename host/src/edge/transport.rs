//! What HTTP is spoken over: a socket as it is, or TLS on it.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::Semaphore,
};
use tokio_rustls::server::TlsStream;

use super::{
    progress::{Progress, Watched},
    protocol::Protocol,
    responses::Patience,
    socket::{Socket, StdSocket},
};

/// What HTTP is spoken over.
pub(super) enum Transport {
    Plain(Watched<Socket>),
    /// Boxed, as the state of TLS is large, and most connections are without.
    Tls(Box<TlsStream<Watched<Socket>>>),
}

/// Makes a connection of this worker's ready for HTTP. `patience` is how long its client may leave unread what
/// was sent, and `turn` the worker's for handshakes that compute.
pub(super) async fn open(
    socket: StdSocket,
    protocol: &Protocol,
    patience: Patience,
    turn: &Semaphore,
) -> io::Result<Transport> {
    let socket = Watched::new(socket.register()?, patience);
    match protocol {
        Protocol::Plain | Protocol::Redirect { .. } => Ok(Transport::Plain(socket)),
        Protocol::Tls(tls) => Ok(Transport::Tls(Box::new(tls.accept(socket, turn).await?))),
    }
}

impl Transport {
    /// How what is sent gets on.
    pub(super) fn progress(&self) -> Arc<Progress> {
        match self {
            Self::Plain(stream) => stream.progress(),
            Self::Tls(stream) => stream.get_ref().0.progress(),
        }
    }
}

impl AsyncRead for Transport {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(context, buffer),
            Self::Tls(stream) => Pin::new(stream).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for Transport {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(context, bytes),
            Self::Tls(stream) => Pin::new(stream).poll_write(context, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(context),
            Self::Tls(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(context),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write_vectored(context, parts),
            Self::Tls(stream) => Pin::new(stream).poll_write_vectored(context, parts),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(stream) => stream.is_write_vectored(),
            Self::Tls(stream) => stream.is_write_vectored(),
        }
    }
}
