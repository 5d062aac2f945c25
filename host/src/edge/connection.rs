//! One connection: HTTP/1.1, or HTTP/2 with prior knowledge (RFC 9113, 3.3), whichever it begins
//! with.
//!
//! Time is watched here: of a head, of a connection without requests (`wire`), of a client that does
//! not read (`writing`), and of a connection that does not close when it is asked to.

use std::{
    io,
    net::{SocketAddr, TcpStream},
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response, StatusCode, Version, header};
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::body::Incoming;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto::Builder,
};
use tokio::sync::watch;

use super::{
    Limits,
    proxies::Peer,
    proxy_protocol,
    service::{LeavesUnread, Service},
    signals::{Signals, silence},
    wire::Wire,
    writing::Impatient,
};
use crate::runtime::{Body, BodyError};

/// Requests at once on one HTTP/2 connection: what RFC 9113 (6.5.2) recommends as the least, and
/// what common clients expect.
const MAX_STREAMS: u32 = 128;

/// How often an idle HTTP/2 connection is asked whether it is still there.
const PING: Duration = Duration::from_secs(30);

/// Headers of one request.
const MAX_HEADERS: usize = 100;

/// How long a connection without a request under way may take to close when it is asked to: time
/// for the last response to be read.
const FAREWELL: Duration = Duration::from_secs(5);

/// A request under way, until dropped.
struct Active(Arc<Signals>);

impl Active {
    fn begin(signals: &Arc<Signals>) -> Self {
        signals.begin();
        Self(Arc::clone(signals))
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        self.0.end();
    }
}

/// A response's body, whose request is under way until this is dropped.
struct Counted {
    body: Body,
    /// Its client knows the end by that of the connection.
    ends_with_connection: bool,
    /// The length that is told of a body that is not sent.
    told: Option<u64>,
    active: Active,
}

impl HttpBody for Counted {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let frame = Pin::new(&mut self.body).poll_frame(context);
        if self.ends_with_connection && matches!(frame, Poll::Ready(Some(Err(_)))) {
            self.active.0.cut();
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.told.is_none() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.told.map_or_else(|| self.body.size_hint(), SizeHint::with_exact)
    }
}

/// The length that a 304 tells of what a 200 would have (RFC 9110, 15.4.5). hyper's HTTP/1 takes a length
/// out of a response without a body, and of one with a body sends none of it for this status.
fn told_length(response: &Response<Body>, version: Version) -> Option<u64> {
    if response.status() != StatusCode::NOT_MODIFIED || version > Version::HTTP_11 {
        return None;
    }
    response.headers().get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// Serves a connection until it is closed or drained.
pub(super) async fn serve(
    stream: TcpStream,
    service: Service,
    mut draining: watch::Receiver<bool>,
) {
    // Answers written in two parts would wait for each other's acknowledgement.
    let stream = stream.set_nodelay(true).and_then(|()| tokio::net::TcpStream::from_std(stream));
    let begun = match stream {
        Ok(stream) => begin(stream, service.limits()).await,
        Err(error) => Err(error),
    };
    let (stream, peer) = match begun {
        Ok(begun) => begun,
        Err(error) => {
            tracing::debug!(%error, "a connection was lost");
            return;
        }
    };
    let peer = Arc::new(peer);
    let builder = builder(&service);
    let (head_timeout, idle_timeout) =
        (service.limits().head_timeout, service.limits().idle_timeout);
    let signals = Arc::<Signals>::default();
    let requests = Arc::clone(&signals);
    let handle = hyper::service::service_fn(move |request: Request<Incoming>| {
        let (service, peer, active) =
            (service.clone(), Arc::clone(&peer), Active::begin(&requests));
        let version = request.version();
        async move {
            let response = service.handle(request, &peer).await;
            if response.extensions().get::<LeavesUnread>().is_some() {
                active.0.leave_unread();
            }
            let ends_with_connection =
                version < Version::HTTP_11 && response.body().size_hint().exact().is_none();
            let told = told_length(&response, version);
            // Under way until the last of its body is sent.
            let response =
                response.map(|body| Counted { body, ends_with_connection, told, active });
            Ok::<_, std::convert::Infallible>(response)
        }
    });
    let wire = Wire::new(Impatient::new(stream, head_timeout), Arc::clone(&signals));
    let mut connection = pin!(builder.serve_connection(TokioIo::new(wire), handle));
    let closing = async {
        tokio::select! {
            // An error means that the server is gone, which asks for the same.
            _ = draining.wait_for(|draining| *draining) => {}
            () = silence(&signals, idle_timeout, head_timeout) => signals.expire(),
        }
    };
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = closing => {
            // HTTP/1 that has been silent finds its end by itself, and says why in the middle of a head.
            if !signals.ends_by_itself() {
                connection.as_mut().graceful_shutdown();
            }
            tokio::select! {
                ended = connection => ended,
                () = silence(&signals, FAREWELL, FAREWELL) => Ok(()),
            }
        }
    };
    if let Err(error) = ended {
        // Clients that go away or speak nonsense are the common case here.
        tracing::debug!(%error, "a connection ended");
    }
}

/// Finds out who is at the other end, by the PROXY protocol where that is to come first.
async fn begin(
    mut stream: tokio::net::TcpStream,
    limits: &Limits,
) -> io::Result<(tokio::net::TcpStream, Peer)> {
    let (socket, proxies) = (stream.peer_addr().ok(), &limits.proxies);
    let is_proxy = |address: SocketAddr| proxies.trust(address.ip().to_canonical());
    let client = if proxies.protocol && socket.is_some_and(is_proxy) {
        let reading = proxy_protocol::read(&mut stream);
        let late = |_| io::Error::from(io::ErrorKind::TimedOut);
        tokio::time::timeout(limits.head_timeout, reading).await.map_err(late)??
    } else {
        None
    };
    Ok((stream, Peer::new(socket, client, false, proxies)))
}

fn builder(service: &Service) -> Builder<TokioExecutor> {
    let limits = service.limits();
    let head = u32::try_from(limits.head).unwrap_or(u32::MAX);
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .http1()
        // `silence` times heads: hyper's own timeout includes the time between requests.
        .header_read_timeout(None)
        // A client that has said all it wants may say so, and still waits for the answer.
        .half_close(true)
        // Bodies are small: one buffer is cheaper for the kernel than two.
        .writev(false)
        .max_buf_size(limits.head)
        .max_headers(MAX_HEADERS);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_header_list_size(head)
        .max_concurrent_streams(MAX_STREAMS)
        .keep_alive_interval(PING)
        .keep_alive_timeout(limits.head_timeout);
    builder
}
