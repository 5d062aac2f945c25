//! One connection: HTTP/1.1, or HTTP/2 with prior knowledge (RFC 9113, 3.3), whichever it begins
//! with.
//!
//! Time is watched here: of a head, and of a connection without requests (`signals`, by what `wire` sees), of a
//! client that does not read (`progress`, and over HTTP/2 `responses`), and of a connection that does not close
//! when it is asked to (`FAREWELL`). What is being read is never cut.

use std::{
    convert::Infallible,
    future::poll_fn,
    pin::{Pin, pin},
    sync::Arc,
    time::Duration,
};

use http::{HeaderValue, Request, Response, StatusCode, Version, header};
use http_body::Body as _;
use hyper::{
    body::Incoming,
    server::conn::{http1, http2},
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{io::AsyncWriteExt as _, sync::watch, time::Instant};

use super::{
    Limits,
    parking::{LEAST_WAIT, PARK_AFTER, Parked, Parking},
    progress::Progress,
    protocol::Protocol,
    proxies::Peer,
    redirect,
    responses::{Active, Patience, Requests, Sent, Streams},
    service::{LeavesUnread, Service},
    signals::Silence,
    socket::StdSocket,
    transport::{self, Transport},
    wire::{Arrival, Wire},
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

/// How long a connection that is to make room for another has to end in order: what its client still has to hear goes
/// out at once.
const MAKING_ROOM: Duration = Duration::from_millis(100);

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
///
/// While it waits for a request there is no hyper: what that holds for a connection is tens of kilobytes, and most
/// of many connections wait.
pub(super) async fn serve(
    socket: StdSocket,
    protocol: Protocol,
    service: Service,
    requests: Arc<Requests>,
    draining: watch::Receiver<Option<Duration>>,
) {
    let patience = Patience::new(service.waiting(), service.limits().head_timeout);
    let opening = transport::open(socket, &protocol, &service, patience.clone());
    // What some clients never finish.
    let has_handshake = matches!(protocol, Protocol::Tls(_)) || service.limits().proxies.protocol;
    let parked = has_handshake.then(|| service.parking().enter(Instant::now()));
    let opened = tokio::select! {
        opened = opening => opened,
        () = makes_room(parked.as_ref()) => Err(std::io::ErrorKind::TimedOut.into()),
        () = stopping(draining.clone(), FAREWELL) => Err(std::io::ErrorKind::TimedOut.into()),
    };
    drop(parked);
    let (transport, peer) = match opened {
        Ok(opened) => opened,
        Err(error) => return lost(&error),
    };
    let mut wire = Wire::new(transport, Arc::clone(requests.signals()));
    let progress = wire.get_ref().progress();
    let state = State { requests: Arc::clone(&requests), progress, patience, draining };
    let mut silence = Silence::begin(requests.signals());
    let redirects_to = match protocol {
        Protocol::Redirect { port } => Some(port),
        Protocol::Plain | Protocol::Tls(_) => None,
    };
    let peer = Arc::new(peer);
    loop {
        let arrival = match state.wait(&mut wire, &service, &silence).await {
            Ok(arrival) => arrival,
            Err(error) => return lost(&error),
        };
        let (service, peer, requests) = (service.clone(), Arc::clone(&peer), Arc::clone(&requests));
        let answers = Answers { service, peer, requests, redirects_to };
        // Boxed, so that what it takes is given back.
        let ended = match arrival {
            Arrival::End => return,
            Arrival::Http1 => Box::pin(http1(wire, answers, &state, &mut silence)).await,
            Arrival::Http2 => {
                Box::pin(http2(wire, answers, &state, &mut silence)).await.map(|()| None)
            }
        };
        match ended {
            Ok(Some(waits)) => wire = waits,
            Ok(None) => return,
            // Clients that go away or speak nonsense are the common case here.
            Err(error) => return tracing::debug!(%error, "a connection ended"),
        }
    }
}

fn lost(error: &std::io::Error) {
    tracing::debug!(%error, "a connection was lost");
}

/// Serves requests of HTTP/1 until the connection ends, or waits for a next one and is given back.
async fn http1(
    wire: Wire<Transport>,
    answers: Answers,
    state: &State,
    silence: &mut Silence<'_>,
) -> hyper::Result<Option<Wire<Transport>>> {
    let (limits, parking) = (answers.service.limits(), answers.service.parking());
    let service = hyper::service::service_fn(|request| answers.answer(request));
    let mut connection = http1_builder(limits).serve_connection(TokioIo::new(wire), service);
    let next = tokio::select! {
        ended = Pin::new(&mut connection) => return ended.map(|()| None),
        next = state.closing(silence, limits, parking) => next,
    };
    match next {
        Next::Wait => {
            let parts = connection.into_parts();
            let mut wire = parts.io.into_inner();
            wire.put_back(parts.read_buf);
            Ok(Some(wire))
        }
        Next::Close | Next::MakeRoom => {
            // What has been silent finds its end by itself, and says why in the middle of a head.
            if !state.requests.signals().ends_by_itself() {
                Pin::new(&mut connection).graceful_shutdown();
            }
            tokio::select! {
                ended = connection => ended.map(|()| None),
                () = state.done(next) => Ok(None),
            }
        }
    }
}

/// Serves requests of HTTP/2 until the connection ends.
async fn http2(
    wire: Wire<Transport>,
    answers: Answers,
    state: &State,
    silence: &mut Silence<'_>,
) -> hyper::Result<()> {
    let service = answers.service.clone();
    let (limits, parking) = (service.limits(), service.parking());
    let answering = hyper::service::service_fn(move |request| answers.clone().answer(request));
    let connection = http2_builder(limits).serve_connection(TokioIo::new(wire), answering);
    let mut connection = pin!(connection);
    let next = tokio::select! {
        ended = connection.as_mut() => return ended,
        next = state.closing(silence, limits, parking) => next,
    };
    connection.as_mut().graceful_shutdown();
    tokio::select! {
        ended = connection => ended,
        () = state.done(next) => Ok(()),
    }
}

/// What answers the requests of one connection.
#[derive(Clone)]
struct Answers {
    service: Service,
    peer: Arc<Peer>,
    requests: Arc<Requests>,
    /// The port of HTTPS, if requests are sent there.
    redirects_to: Option<u16>,
}

impl Answers {
    fn answer(
        &self,
        request: Request<Incoming>,
    ) -> impl Future<Output = Result<Response<Sent>, Infallible>> + Send + use<> {
        let Self { service, peer, requests, redirects_to } = self.clone();
        let version = request.version();
        let active = Active::begin(&requests);
        active.has_body(!request.body().is_end_stream());
        let mut access = service.access().map(|log| log.begin(peer.address(), &request));
        async move {
            let mut response = match redirects_to {
                None => service.handle(request, &peer, active, access).await,
                Some(port) => {
                    let response = redirect::to_https(request, port);
                    if let Some(access) = &mut access {
                        access.answered(&response, Arc::from(""));
                    }
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
            Ok(response)
        }
    }
}

/// How a connection gets on.
struct State {
    requests: Arc<Requests>,
    progress: Arc<Progress>,
    patience: Patience,
    draining: watch::Receiver<Option<Duration>>,
}

/// What becomes of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    /// It waits for a request, and may do so without what was held for the last one.
    Wait,
    Close,
    /// The same, at once: another is waiting for its place.
    MakeRoom,
}

impl State {
    /// Waits for a request, the first or a next one; for none if there is to be none.
    ///
    /// # Errors
    /// When the connection is lost.
    async fn wait(
        &self,
        wire: &mut Wire<Transport>,
        service: &Service,
        silence: &Silence<'_>,
    ) -> std::io::Result<Arrival> {
        if wire.has_unread() {
            return poll_fn(|context| wire.poll_arrival(context)).await;
        }
        let limits = service.limits();
        let parked = service.parking().enter(silence.since());
        let longest = silence.longest(limits.idle_timeout, limits.head_timeout);
        let mut draining = self.draining.clone();
        let over = async {
            tokio::select! {
                () = makes_room(Some(&parked)) => return Next::MakeRoom,
                () = sleep_until_after(silence.since(), longest) => {}
                grace = stop(&mut draining) => {
                    // As in `say_goodbye`, and no longer than without it.
                    self.requests.close_with_next();
                    tokio::select! {
                        () = tokio::time::sleep(grace) => {}
                        () = sleep_until_after(silence.since(), longest) => {}
                    }
                }
            }
            Next::Close
        };
        let next = tokio::select! {
            biased;
            arrival = poll_fn(|context| wire.poll_arrival(context)) => return arrival,
            next = over => next,
        };
        if next == Next::MakeRoom {
            // It is dropped then.
            let _ = tokio::time::timeout(MAKING_ROOM, wire.shutdown()).await;
            return Ok(Arrival::End);
        }
        if wire.has_unread() {
            // The beginning of what might have been HTTP/2: hyper says that it came to no end.
            self.requests.signals().expire();
            return Ok(Arrival::Http1);
        }
        wire.shutdown().await?;
        Ok(Arrival::End)
    }

    /// Waits until there is something to do about a connection which hyper does not do by itself.
    async fn closing(&self, silence: &mut Silence<'_>, limits: &Limits, parking: &Parking) -> Next {
        let mut draining = self.draining.clone();
        tokio::select! {
            grace = stop(&mut draining) => {
                self.say_goodbye(grace).await;
                Next::Close
            }
            next = self.idle(silence, limits.idle_timeout, limits.head_timeout, Some(parking)) => {
                if next != Next::Wait {
                    self.requests.signals().expire();
                }
                next
            }
        }
    }

    /// Waits until for `longest` no request has been under way, none has begun, and all that there was to
    /// send has been taken; or a head has been arriving for `head`. The first request has the time of a head,
    /// whether it begins or not. Of HTTP/1, only until it is clear that a connection waits. Without a request under
    /// way for some time, it is one of those `parking` that may have to make room.
    async fn idle(
        &self,
        silence: &mut Silence<'_>,
        longest: Duration,
        head: Duration,
        parking: Option<&Parking>,
    ) -> Next {
        let shortest = longest.min(head).min(4 * PARK_AFTER);
        let look = shortest.min(LOOK.max(shortest.checked_div(8).unwrap_or_default()));
        let signals = self.requests.signals();
        let mut parked = None;
        loop {
            tokio::select! {
                () = tokio::time::sleep(look) => {}
                () = makes_room_unless(parked.as_ref(), || signals.is_active()) => {
                    return Next::MakeRoom;
                }
            }
            self.requests.end_stalled(self.patience.longest());
            if silence.has_lasted(self.progress.is_blocked(), longest, head) {
                return Next::Close;
            }
            if silence.since().elapsed() >= PARK_AFTER && signals.is_between_requests() {
                return Next::Wait;
            }
            if silence.since().elapsed() < LEAST_WAIT {
                parked = None;
            } else if parked.is_none() {
                parked = parking.map(|parking| parking.enter(silence.since()));
            }
        }
    }

    /// Gives the client of HTTP/1 time to hear that the connection closes, which it only does from a
    /// response: closed at once, the connection would take a request with it that is on its way
    /// (RFC 9112, 9.6). In HTTP/2 the connection itself says so, without a pause (RFC 9113, 6.8).
    async fn say_goodbye(&self, grace: Duration) {
        self.requests.close_with_next();
        let mut silence = Silence::begin(self.requests.signals());
        let told_by_connection = async {
            while !self.requests.signals().is_http2() {
                tokio::time::sleep(LOOK).await;
            }
        };
        tokio::select! {
            biased;
            () = told_by_connection => {}
            () = async {
                // For nothing else: it closes as soon as it is idle.
                while self.idle(&mut silence, grace, grace, None).await == Next::Wait {}
            } => {}
        }
    }

    /// Waits until a connection that is to close has nothing more to do, and its client has had time to read the
    /// last of it. One that makes room has little time, unless a request has come that it has to answer.
    async fn done(&self, next: Next) {
        if next == Next::MakeRoom {
            tokio::time::sleep(MAKING_ROOM).await;
            if !self.requests.signals().is_active() {
                return;
            }
        }
        let began = Instant::now();
        let (mut since, mut written) = (began, self.progress.written());
        loop {
            tokio::time::sleep(LOOK).await;
            self.requests.end_stalled(self.patience.longest().min(FAREWELL));
            // What is left of the last response over HTTP/2 is seen only as it is written.
            let now = self.progress.written();
            let is_busy = self.requests.signals().is_active() || self.progress.is_blocked();
            // Where no request was, it is answers to pings.
            let is_more = now != written && self.requests.signals().begun() > 0;
            if is_busy || (is_more && began.elapsed() < LONGEST_FAREWELL) {
                (since, written) = (Instant::now(), now);
            } else if since.elapsed() >= FAREWELL {
                return;
            }
        }
    }
}

/// Waits until a connection is to make room for another, if it is one of those that may, and counts it.
async fn makes_room(parked: Option<&Parked<'_>>) {
    makes_room_unless(parked, || false).await;
}

/// The same, unless it is at work when it is asked.
async fn makes_room_unless(parked: Option<&Parked<'_>>, is_at_work: impl Fn() -> bool) {
    if let Some(parked) = parked {
        parked.is_to_close().await;
        if !is_at_work() {
            return parked.closes();
        }
    }
    std::future::pending().await
}

/// Waits until the host stops: how long idle connections stay open then for a last request.
async fn stop(draining: &mut watch::Receiver<Option<Duration>>) -> Duration {
    // An error means that the server is gone, which asks for the same at once.
    let grace = draining.wait_for(Option::is_some).await.ok().and_then(|grace| *grace);
    grace.unwrap_or_default()
}

/// Waits until the host has been stopping for so long.
async fn stopping(mut draining: watch::Receiver<Option<Duration>>, longest: Duration) {
    stop(&mut draining).await;
    tokio::time::sleep(longest).await;
}

/// Waits until a time that may be too far away to be told.
async fn sleep_until_after(since: Instant, time: Duration) {
    tokio::time::sleep(time.saturating_sub(since.elapsed())).await;
}

fn http1_builder(limits: &Limits) -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder
        // `idle` times heads: hyper's own timeout includes the time between requests.
        .header_read_timeout(None)
        // A client that has said all it wants may say so, and still waits for the answer.
        .half_close(true)
        // Bodies are small: one buffer is cheaper for the kernel than two.
        .writev(false)
        .max_buf_size(limits.head)
        .max_headers(MAX_HEADERS);
    builder
}

fn http2_builder(limits: &Limits) -> http2::Builder<Streams> {
    let head = u32::try_from(limits.head).unwrap_or(u32::MAX);
    let mut builder = http2::Builder::new(Streams);
    builder
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
