//! What HTTP is spoken over: a socket as it is, or TLS on it.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::server::TlsStream;

use super::{
    progress::{Progress, Watched},
    protocol::Protocol,
    proxies::Peer,
    proxy_protocol,
    responses::Patience,
    service::Service,
    socket::{Socket, StdSocket},
    wire,
};

/// What HTTP is spoken over.
pub(super) enum Transport {
    Plain(Watched<Socket>),
    /// Boxed, as the state of TLS is large, and most connections are without.
    Tls(Box<TlsStream<Watched<Socket>>>),
}

/// Makes a connection of this worker's ready for HTTP, and finds out who is at the other end: by the PROXY protocol
/// where that is to come first.
pub(super) async fn open(
    socket: StdSocket,
    protocol: &Protocol,
    service: &Service,
    patience: Patience,
) -> io::Result<(Transport, Peer)> {
    let limits = service.limits();
    let (address, proxies, is_internal) = (socket.client(), &limits.proxies, socket.is_internal());
    let mut socket = socket.register()?;
    let is_proxy = |address: SocketAddr| proxies.trust(address.ip().to_canonical());
    let is_unix_proxy = address.is_none() && !is_internal && proxies.unix;
    let client = if proxies.protocol && (is_unix_proxy || address.is_some_and(is_proxy)) {
        // Boxed here and below: what a connection begins with would take its memory to the end.
        let reading = Box::pin(proxy_protocol::read(&mut socket));
        let late = |_| io::Error::from(io::ErrorKind::TimedOut);
        tokio::time::timeout(limits.head_timeout, reading).await.map_err(late)??
    } else {
        None
    };
    let is_secure = matches!(protocol, Protocol::Tls(_));
    let mut peer = Peer::new(address, client, is_secure, proxies);
    peer.is_internal = is_internal;
    // Else the client that it names is the one to be believed, or not.
    if is_unix_proxy && client.is_none() {
        peer.is_proxy_without_address();
    }
    let socket = Watched::new(socket, patience);
    let transport = match protocol {
        Protocol::Plain | Protocol::Redirect { .. } => Transport::Plain(socket),
        Protocol::Tls(tls) => {
            let handshake = Box::pin(tls.accept(socket, service.handshakes()));
            Transport::Tls(Box::new(handshake.await?))
        }
    };
    Ok((transport, peer))
}

impl Transport {
    /// How what is sent gets on.
    pub(super) fn progress(&self) -> Arc<Progress> {
        match self {
            Self::Plain(stream) => stream.progress(),
            Self::Tls(stream) => stream.get_ref().0.progress(),
        }
    }

    fn socket(&self) -> &Socket {
        match self {
            Self::Plain(stream) => stream.get_ref(),
            Self::Tls(stream) => stream.get_ref().0.get_ref(),
        }
    }
}

impl wire::Socket for Transport {
    fn reset_when_closed(&self) {
        // Not to wait for what is unsent is what resets (socket(7), SO_LINGER). Where it fails, the
        // connection closes as others do.
        if let Socket::Tcp(stream) = self.socket() {
            let _ = socket2::SockRef::from(stream).set_linger(Some(Duration::ZERO));
        }
    }

    fn poll_has_ended(&self, context: &mut Context<'_>) -> Poll<io::Result<bool>> {
        // Of sockets in the file system it is not known.
        let Socket::Tcp(stream) = self.socket() else { return Poll::Pending };
        // Most often nothing is there, which takes no call of the kernel.
        if stream.poll_read_ready(context)?.is_pending() {
            return Poll::Pending;
        }
        let mut byte = [0];
        let peeked = stream.poll_peek(context, &mut ReadBuf::new(&mut byte));
        peeked.map_ok(|read| read == 0)
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
