//! One connection: HTTP/1.1, or HTTP/2 with prior knowledge (RFC 9113, 3.3), whichever it begins
//! with.
//!
//! Time is watched here: of a head, and of a connection without requests (`signals`, by what `wire` sees), of a
//! client that does not read (`progress`, and over HTTP/2 `responses`), and of a connection that does not close
//! when it is asked to (`FAREWELL`). What is being read is never cut.

use std::{pin::pin, sync::Arc, time::Duration};

use http::{HeaderValue, Request, Response, StatusCode, Version, header};
use http_body::Body as _;
use hyper::body::Incoming;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::conn::auto::Builder,
};
use tokio::{sync::watch, time::Instant};

use super::{
    progress::Progress,
    protocol::Protocol,
    redirect,
    responses::{Active, Patience, Requests, Sent, Streams},
    service::{LeavesUnread, Service},
    signals::Silence,
    socket::StdSocket,
    transport,
    wire::Wire,
};

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

/// The same for one whose client answers pings or takes a few bytes now and then.
const LONGEST_FAREWELL: Duration = Duration::from_secs(60);

/// How often a connection is looked at that may have to close.
const LOOK: Duration = Duration::from_millis(100);

/// Bytes of bodies that a client may send on one stream of HTTP/2 before they are read: what the protocol begins with.
/// Each frame takes some hundred bytes of memory, however few it holds.
const STREAM_WINDOW: u32 = 64 << 10;

/// The same on one connection: a body of the largest size in a few round trips.
const CONNECTION_WINDOW: u32 = 256 << 10;

/// Bytes of a response that are kept of each stream of HTTP/2 for a client that takes its time.
const SEND_BUFFER: usize = 64 << 10;

/// The length that a 304 tells of what a 200 would have (RFC 9110, 15.4.5). hyper's HTTP/1 takes a length
/// out of a response without a body, and of one with a body sends none of it for this status.
fn told_length(response: &Response<Sent>, version: Version) -> Option<u64> {
    if response.status() != StatusCode::NOT_MODIFIED || version > Version::HTTP_11 {
        return None;
    }
    response.headers().get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// Serves a connection until it is closed or drained.
pub(super) async fn serve(
    socket: StdSocket,
    protocol: Protocol,
    service: Service,
    mut draining: watch::Receiver<Option<Duration>>,
) {
    let limits = service.limits();
    let (head_timeout, idle_timeout) = (limits.head_timeout, limits.idle_timeout);
    let patience = Patience::new(service.waiting(), head_timeout);
    let opening = transport::open(socket, &protocol, &service, patience.clone());
    // Opening takes a handshake, which some clients never finish.
    let opened = tokio::select! {
        opened = opening => opened,
        () = stopping(draining.clone(), FAREWELL) => Err(std::io::ErrorKind::TimedOut.into()),
    };
    let (transport, peer) = match opened {
        Ok(opened) => opened,
        Err(error) => {
            tracing::debug!(%error, "a connection was lost");
            return;
        }
    };
    let peer = Arc::new(peer);
    let builder = builder(&service);
    let progress = transport.progress();
    let requests = Arc::new(Requests::default());
    let counted = Arc::clone(&requests);
    let redirects_to = match protocol {
        Protocol::Redirect { port } => Some(port),
        Protocol::Plain | Protocol::Tls(_) => None,
    };
    let handle = hyper::service::service_fn(move |request: Request<Incoming>| {
        let (service, peer) = (service.clone(), Arc::clone(&peer));
        let version = request.version();
        let active = Active::begin(&counted);
        let access = service.access().map(|log| log.begin(peer.address(), &request));
        async move {
            let mut response = match redirects_to {
                None => service.handle(request, &peer, active, access).await,
                Some(port) => {
                    let response = redirect::to_https(&request, port);
                    response.map(|body| Sent::new(body, active, None, access))
                }
            };
            if version < Version::HTTP_2 && response.body().is_last() {
                let close = HeaderValue::from_static("close");
                response.headers_mut().insert(header::CONNECTION, close);
            }
            if response.extensions().get::<LeavesUnread>().is_some() {
                response.body().leaves_unread();
            }
            let ends_with_connection =
                version < Version::HTTP_11 && response.body().size_hint().exact().is_none();
            let told = told_length(&response, version);
            response.body_mut().know(told, ends_with_connection);
            Ok::<_, std::convert::Infallible>(response)
        }
    });
    let wire = Wire::new(transport, Arc::clone(requests.signals()));
    let state = State { requests, progress, patience };
    let mut connection = pin!(builder.serve_connection(TokioIo::new(wire), handle));
    let closing = async {
        tokio::select! {
            () = async {
                // An error means that the server is gone, which asks for the same at once.
                let grace = draining.wait_for(Option::is_some).await.ok().and_then(|grace| *grace);
                state.say_goodbye(grace.unwrap_or_default()).await;
            } => {}
            () = state.idle(idle_timeout, head_timeout) => state.requests.signals().expire(),
        }
    };
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = closing => {
            // HTTP/1 that has been silent finds its end by itself, and says why in the middle of a head.
            if !state.requests.signals().ends_by_itself() {
                connection.as_mut().graceful_shutdown();
            }
            tokio::select! {
                ended = connection => ended,
                () = state.done() => Ok(()),
            }
        }
    };
    if let Err(error) = ended {
        // Clients that go away or speak nonsense are the common case here.
        tracing::debug!(%error, "a connection ended");
    }
}

/// How a connection gets on.
struct State {
    requests: Arc<Requests>,
    progress: Arc<Progress>,
    patience: Patience,
}

impl State {
    /// Waits until for `longest` no request has been under way, none has begun, and all that there was to
    /// send has been taken; or a head has been arriving for `head`. The first request has the time of a head,
    /// whether it begins or not.
    async fn idle(&self, longest: Duration, head: Duration) {
        let shortest = longest.min(head);
        let look = shortest.min(LOOK.max(shortest.checked_div(8).unwrap_or_default()));
        let mut silence = Silence::begin(self.requests.signals());
        loop {
            tokio::time::sleep(look).await;
            self.requests.end_stalled(self.patience.longest());
            if silence.has_lasted(self.progress.is_blocked(), longest, head) {
                return;
            }
        }
    }

    /// Gives the client of HTTP/1 time to hear that the connection closes, which it only does from a
    /// response: closed at once, the connection would take a request with it that is on its way
    /// (RFC 9112, 9.6). In HTTP/2 the connection itself says so, without a pause (RFC 9113, 6.8).
    async fn say_goodbye(&self, grace: Duration) {
        self.requests.close_with_next();
        let told_by_connection = async {
            while !self.requests.signals().is_http2() {
                tokio::time::sleep(LOOK).await;
            }
        };
        tokio::select! {
            biased;
            () = told_by_connection => {}
            () = self.idle(grace, grace) => {}
        }
    }

    /// Waits until a connection that is to close has nothing more to do, and its client has had time to read the
    /// last of it.
    async fn done(&self) {
        let began = Instant::now();
        let (mut since, mut written) = (began, self.progress.written());
        loop {
            tokio::time::sleep(LOOK).await;
            self.requests.end_stalled(self.patience.longest().min(FAREWELL));
            // What is left of the last response over HTTP/2 is seen only as it is written.
            let now = self.progress.written();
            let is_busy = self.requests.signals().is_active() || self.progress.is_blocked();
            if is_busy || (now != written && began.elapsed() < LONGEST_FAREWELL) {
                (since, written) = (Instant::now(), now);
            } else if since.elapsed() >= FAREWELL {
                return;
            }
        }
    }
}

/// Waits until the host has been stopping for so long.
async fn stopping(mut draining: watch::Receiver<Option<Duration>>, longest: Duration) {
    // An error means that the server is gone, which asks for the same.
    let _ = draining.wait_for(Option::is_some).await.map(|_| ());
    tokio::time::sleep(longest).await;
}

fn builder(service: &Service) -> Builder<Streams> {
    let limits = service.limits();
    let head = u32::try_from(limits.head).unwrap_or(u32::MAX);
    let mut builder = Builder::new(Streams);
    builder
        .http1()
        // `idle` times heads: hyper's own timeout includes the time between requests.
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
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buf_size(SEND_BUFFER)
        .keep_alive_interval(PING)
        .keep_alive_timeout(limits.head_timeout);
    builder
}
