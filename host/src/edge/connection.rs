//! One connection: HTTP/1.1, or HTTP/2 with prior knowledge (RFC 9113, 3.3), whichever it begins
//! with.
//!
//! hyper times the heads of HTTP/1 requests. What it does not time is watched here: a connection
//! that sends nothing, half a preface, or no more requests, one that does not read (`writing`), and
//! one that does not close when it is asked to (`FAREWELL`).

use std::{
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderValue, Version, header};
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto::Builder,
};
use tokio::{sync::watch, time::Instant};

use super::{protocol::Protocol, redirect, service::Service, socket::StdSocket, transport};
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

/// How often a connection that is to close is looked at.
const FAREWELL_LOOK: Duration = Duration::from_millis(100);

/// The requests of one connection.
#[derive(Default)]
struct Requests {
    /// All so far.
    begun: AtomicUsize,
    /// Those under way.
    active: AtomicUsize,
    /// Whether they come over HTTP/2.
    http2: AtomicBool,
    /// Whether the response to the next request of HTTP/1 says that it is the last.
    closing: AtomicBool,
}

/// A request under way, until dropped.
struct Active(Arc<Requests>);

impl Active {
    fn begin(requests: &Arc<Requests>, version: Version) -> Self {
        requests.http2.store(version == Version::HTTP_2, Ordering::Relaxed);
        requests.begun.fetch_add(1, Ordering::Relaxed);
        requests.active.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(requests))
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        self.0.active.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A response's body, whose request is under way until this is dropped.
struct Counted {
    body: Body,
    _active: Active,
}

impl HttpBody for Counted {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Serves a connection until it is closed or drained.
pub(super) async fn serve(
    socket: StdSocket,
    protocol: Protocol,
    service: Service,
    mut draining: watch::Receiver<Option<Duration>>,
) {
    let idle_timeout = service.limits().head_timeout;
    let opening = transport::open(socket, &protocol, idle_timeout, service.handshakes());
    // Opening takes a handshake, which some clients never finish.
    let opened = tokio::select! {
        opened = opening => opened,
        () = stopping(draining.clone(), FAREWELL) => Err(std::io::ErrorKind::TimedOut.into()),
    };
    let transport = match opened {
        Ok(transport) => transport,
        Err(error) => {
            tracing::debug!(%error, "a connection was lost");
            return;
        }
    };
    let builder = builder(&service);
    let requests = Arc::new(Requests::default());
    let counted = Arc::clone(&requests);
    let tls = matches!(protocol, Protocol::Tls(_));
    let redirects_to = match protocol {
        Protocol::Redirect { port } => Some(port),
        Protocol::Plain | Protocol::Tls(_) => None,
    };
    let handle = hyper::service::service_fn(move |request| {
        let service = service.clone();
        let version = request.version();
        let active = Active::begin(&counted, version);
        async move {
            let mut response = match redirects_to {
                Some(port) => redirect::to_https(&request, port),
                None => service.handle(request, tls).await,
            };
            if version < Version::HTTP_2 && active.0.closing.load(Ordering::Relaxed) {
                let close = HeaderValue::from_static("close");
                response.headers_mut().insert(header::CONNECTION, close);
            }
            // Under way until the last of its body is sent.
            let response = response.map(|body| Counted { body, _active: active });
            Ok::<_, std::convert::Infallible>(response)
        }
    });
    let mut connection = pin!(builder.serve_connection(TokioIo::new(transport), handle));
    let closing = async {
        tokio::select! {
            () = async {
                // An error means that the server is gone, which asks for the same at once.
                let grace = draining.wait_for(Option::is_some).await.ok().and_then(|grace| *grace);
                say_goodbye(&requests, grace.unwrap_or_default()).await;
            } => {}
            () = idle(&requests, idle_timeout) => {}
        }
    };
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = closing => {
            connection.as_mut().graceful_shutdown();
            tokio::select! {
                ended = connection => ended,
                () = idle(&requests, FAREWELL) => Ok(()),
            }
        }
    };
    if let Err(error) = ended {
        // Clients that go away or speak nonsense are the common case here.
        tracing::debug!(%error, "a connection ended");
    }
}

fn builder(service: &Service) -> Builder<TokioExecutor> {
    let limits = service.limits();
    let head = u32::try_from(limits.head).unwrap_or(u32::MAX);
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .http1()
        // Without a timer, the timeout does nothing.
        .timer(TokioTimer::new())
        .header_read_timeout(limits.head_timeout)
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

/// Waits until the host has been stopping for so long.
async fn stopping(mut draining: watch::Receiver<Option<Duration>>, longest: Duration) {
    // An error means that the server is gone, which asks for the same.
    let _ = draining.wait_for(Option::is_some).await.map(|_| ());
    tokio::time::sleep(longest).await;
}

/// Gives the client of HTTP/1 time to hear that the connection closes, which it only does from a
/// response: closed at once, the connection would take a request with it that is on its way
/// (RFC 9112, 9.6). In HTTP/2 the connection itself says so, without a pause (RFC 9113, 6.8).
async fn say_goodbye(requests: &Requests, grace: Duration) {
    requests.closing.store(true, Ordering::Relaxed);
    let told_by_connection = async {
        while !requests.http2.load(Ordering::Relaxed) {
            tokio::time::sleep(FAREWELL_LOOK).await;
        }
    };
    tokio::select! {
        biased;
        () = told_by_connection => {}
        () = idle(requests, grace) => {}
    }
}

/// Waits until for `longest` no request has been under way and none has begun.
async fn idle(requests: &Requests, longest: Duration) {
    let look = longest.min(FAREWELL_LOOK.max(longest / 8));
    let mut last_begun = requests.begun.load(Ordering::Relaxed);
    let mut since = Instant::now();
    loop {
        tokio::time::sleep(look).await;
        let begun = requests.begun.load(Ordering::Relaxed);
        if begun != last_begun || requests.active.load(Ordering::Relaxed) > 0 {
            last_begun = begun;
            since = Instant::now();
        } else if since.elapsed() >= longest {
            return;
        }
    }
}
