//! Sockets of both families that clients come through: TCP, and those in the file system.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll},
};

use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};

/// A socket that listens, of no thread yet.
#[derive(Debug)]
pub(crate) enum StdListener {
    Tcp(std::net::TcpListener),
    Unix(std::os::unix::net::UnixListener),
}

/// A listener of one worker.
pub(super) enum Listener {
    Tcp(tokio::net::TcpListener),
    Unix(tokio::net::UnixListener),
}

/// A connection on its way to a worker.
pub(super) enum StdSocket {
    Tcp(std::net::TcpStream),
    Unix(std::os::unix::net::UnixStream),
    /// From a guest on the same worker.
    Internal(DuplexStream),
}

/// A connection of one worker.
pub(super) enum Socket {
    Tcp(tokio::net::TcpStream),
    Unix(tokio::net::UnixStream),
    Internal(DuplexStream),
}

impl StdListener {
    /// Registers it with the runtime that this is called in.
    pub(super) fn register(self) -> io::Result<Listener> {
        Ok(match self {
            Self::Tcp(listener) => Listener::Tcp(tokio::net::TcpListener::from_std(listener)?),
            Self::Unix(listener) => Listener::Unix(tokio::net::UnixListener::from_std(listener)?),
        })
    }
}

impl Listener {
    /// The next connection; of no worker, as another one may serve it.
    pub(super) async fn accept(&self) -> io::Result<StdSocket> {
        Ok(match self {
            Self::Tcp(listener) => StdSocket::Tcp(listener.accept().await?.0.into_std()?),
            Self::Unix(listener) => StdSocket::Unix(listener.accept().await?.0.into_std()?),
        })
    }

    /// Lets no connection begin any more; those that have begun still come.
    pub(super) fn refuse_new(&self) -> io::Result<()> {
        match self {
            #[cfg(target_os = "linux")]
            Self::Tcp(listener) => {
                socket2::SockRef::from(listener).attach_filter(&NO_NEW_CONNECTIONS)
            }
            #[cfg(not(target_os = "linux"))]
            Self::Tcp(_) => Err(io::ErrorKind::Unsupported.into()),
            // Its file is gone by now, and with it the way in.
            Self::Unix(_) => Ok(()),
        }
    }
}

/// A filter for the kernel (classic BPF, over the TCP header) that drops the first segment of a
/// connection, SYN without ACK (RFC 9293, 3.5), and lets all others pass.
#[cfg(target_os = "linux")]
const NO_NEW_CONNECTIONS: [socket2::SockFilter; 5] = [
    // The byte of the flags.
    socket2::SockFilter::new(0x30, 0, 0, 13),
    // SYN and ACK of it.
    socket2::SockFilter::new(0x54, 0, 0, 0x12),
    // SYN alone is dropped.
    socket2::SockFilter::new(0x15, 0, 1, 0x02),
    socket2::SockFilter::new(0x06, 0, 0, 0),
    socket2::SockFilter::new(0x06, 0, 0, u32::MAX),
];

impl StdSocket {
    /// The address that it comes from, if it has one.
    pub(super) fn client(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(stream) => stream.peer_addr().ok(),
            Self::Unix(_) | Self::Internal(_) => None,
        }
    }

    /// Whether a guest of this host is at the other end.
    pub(super) fn is_internal(&self) -> bool {
        matches!(self, Self::Internal(_))
    }

    /// Registers it with the runtime that this is called in.
    pub(super) fn register(self) -> io::Result<Socket> {
        Ok(match self {
            Self::Tcp(stream) => {
                // Answers written in two parts would wait for each other's acknowledgement.
                stream.set_nodelay(true)?;
                Socket::Tcp(tokio::net::TcpStream::from_std(stream)?)
            }
            Self::Unix(stream) => Socket::Unix(tokio::net::UnixStream::from_std(stream)?),
            Self::Internal(stream) => Socket::Internal(stream),
        })
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_read(context, buffer),
            Self::Unix(stream) => Pin::new(stream).poll_read(context, buffer),
            Self::Internal(stream) => Pin::new(stream).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write(context, bytes),
            Self::Unix(stream) => Pin::new(stream).poll_write(context, bytes),
            Self::Internal(stream) => Pin::new(stream).poll_write(context, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_flush(context),
            Self::Unix(stream) => Pin::new(stream).poll_flush(context),
            Self::Internal(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(context),
            Self::Unix(stream) => Pin::new(stream).poll_shutdown(context),
            Self::Internal(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write_vectored(context, parts),
            Self::Unix(stream) => Pin::new(stream).poll_write_vectored(context, parts),
            Self::Internal(stream) => Pin::new(stream).poll_write_vectored(context, parts),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Tcp(stream) => stream.is_write_vectored(),
            Self::Unix(stream) => stream.is_write_vectored(),
            Self::Internal(stream) => stream.is_write_vectored(),
        }
    }
}
