//! What is known of a connection's traffic.
//!
//! The bytes are counted where they are handed to the operating system, below TLS: a write that
//! TLS reports as failed may have sent some of a batch's records, and the server acts on each
//! record that it has whole. What TLS sends of its own counts too, which can only make a certain
//! failure an unknown one.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};

use redis::Value;
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
        if answers.iter().any(leads_elsewhere) && self.made.elapsed() >= TRY_ELSEWHERE_AFTER {
            self.closed.store(true, Ordering::Release);
        }
    }
}

/// Whether an answer, or a part of one, is such an error: a script answers to several writes.
fn leads_elsewhere(answer: &Value) -> bool {
    match answer {
        Value::ServerError(error) => ["READONLY", "NOREPLICAS"].contains(&error.code()),
        Value::Array(parts) => parts.iter().any(leads_elsewhere),
        _ => false,
    }
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

impl<S> Watched<S> {
    fn wrote(&self, polled: &Poll<io::Result<usize>>) {
        match polled {
            Poll::Ready(Ok(count)) => {
                self.wire.written.fetch_add(*count as u64, Ordering::AcqRel);
            }
            Poll::Ready(Err(_)) => self.wire.closed.store(true, Ordering::Release),
            Poll::Pending => {}
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.inner).poll_write(context, bytes);
        self.wrote(&polled);
        polled
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.inner).poll_write_vectored(context, slices);
        self.wrote(&polled);
        polled
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
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
    use rustls::{
        ServerConfig,
        crypto::ring,
        pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    };
    use tally_testkit::{Authority, Identity};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
    use tokio_rustls::{TlsAcceptor, TlsConnector};

    use super::*;
    use crate::backend::tls::{self, Check, Files};

    /// A stream that fails after some more writes.
    struct Brittle {
        inner: DuplexStream,
        writes: usize,
    }

    impl AsyncRead for Brittle {
        fn poll_read(
            mut self: Pin<&mut Self>,
            context: &mut Context<'_>,
            buffer: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            Pin::new(&mut self.inner).poll_read(context, buffer)
        }
    }

    impl AsyncWrite for Brittle {
        fn poll_write(
            mut self: Pin<&mut Self>,
            context: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            match self.writes.checked_sub(1) {
                None => Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
                Some(left) => {
                    self.writes = left;
                    Pin::new(&mut self.inner).poll_write(context, bytes)
                }
            }
        }

        fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.inner).poll_flush(context)
        }

        fn poll_shutdown(
            mut self: Pin<&mut Self>,
            context: &mut Context<'_>,
        ) -> Poll<io::Result<()>> {
            Pin::new(&mut self.inner).poll_shutdown(context)
        }
    }

    fn acceptor(identity: &Identity) -> TlsAcceptor {
        let chain = CertificateDer::pem_file_iter(&identity.certificate).unwrap();
        let chain = chain.collect::<Result<_, _>>().unwrap();
        let key = PrivateKeyDer::from_pem_file(&identity.key).unwrap();
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .unwrap();
        Arc::new(config).into()
    }

    #[tokio::test]
    async fn a_write_that_fails_within_tls_counts_what_the_server_has() {
        let authority = Authority::new().unwrap();
        let acceptor = acceptor(&authority.sign(&["h"]).unwrap());
        let files = Files { roots: Some(authority.certificate()), identity: None };
        let config = tls::config(Check::ChainAndName, &files).unwrap();
        let (near, far) = tokio::io::duplex(1 << 20);
        let wire = Wire::new();
        let brittle = Brittle { inner: near, writes: usize::MAX };
        let watched = Watched { inner: brittle, wire: Arc::clone(&wire) };
        let connector = TlsConnector::from(Arc::new(config));
        let connecting = connector.connect("h".try_into().unwrap(), watched);
        let (client, server) = tokio::join!(connecting, acceptor.accept(far));
        let (mut client, mut server) = (client.unwrap(), server.unwrap());

        let before = wire.written.load(Ordering::Acquire);
        client.get_mut().0.inner.writes = 0;
        client.write_all(b"nothing leaves").await.unwrap_err();
        assert_eq!(wire.written.load(Ordering::Acquire), before);

        client.get_mut().0.inner.writes = 1;
        let failed = client.write(&[b'x'; 50_000]).await;
        failed.expect_err("TLS does not say that some of it is gone");
        assert_ne!(wire.written.load(Ordering::Acquire), before);
        assert!(server.read(&mut [0; 64]).await.unwrap() > 0, "the server has a part");
    }
}
