//! One HTTP request: read within its limits, answered by a guest, counted.

use std::{
    future::poll_fn,
    pin::pin,
    sync::{Arc, LazyLock},
    task::Poll,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode, Version, header};
use http_body::Body as _;
use hyper::body::Incoming;
use tally_state::Handle;
use tokio::sync::{Semaphore, watch};

use super::{
    Limits, Metrics,
    body::{self, Rules, Trouble},
    head, heartbeat,
    parking::{LEAST_WAIT, Parking},
    problem::Problem,
    proxies::{Client, Peer},
    request_id::RequestId,
    responses::{self, Held, Sent, Waiting},
    spin_headers,
};
use crate::{
    interfaces::guest_of,
    logging::{Access, AccessLog},
    registry::{self, Guest, Local, Path, Pattern, Routes, Table},
    runtime::{self, Body, BodyError, Cause, Failure, Refused},
};

/// The header of a request's id, in the request as guests see it and in the response.
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// What a guest takes that is asked by its name.
static ALL: LazyLock<Pattern> = LazyLock::new(|| Pattern { host: None, path: Path::prefix("/") });

/// In a response's extensions: its client may still be sending the request's body when the connection
/// closes.
#[derive(Clone)]
pub(super) struct LeavesUnread;

/// A guest's response, and what it takes while it waits for its client.
type Answered = (runtime::Response, Option<Held>);

/// What a worker answers requests with. Cheap to clone.
#[derive(Clone)]
pub(super) struct Service(Arc<Inner>);

struct Inner {
    routes: Local,
    state: Handle,
    limits: Limits,
    metrics: Metrics,
    /// Where requests are logged, if they are.
    access: Option<Arc<AccessLog>>,
    /// The name of what no route takes.
    nowhere: Arc<str>,
    /// Bytes that the bodies of all workers' requests may still take.
    bodies: Arc<Semaphore>,
    /// Bytes of all workers' responses that wait for their clients.
    waiting: Arc<Waiting>,
    /// All workers' connections that wait for a request.
    parking: Arc<Parking>,
    /// What is asked of bodies. Shared within the worker alone.
    rules: Arc<Rules>,
    /// Held by the one TLS handshake of the worker that computes.
    handshakes: Semaphore,
}

/// What all workers share.
#[derive(Clone)]
pub(super) struct Shared {
    /// Where requests are logged, if they are.
    pub(super) access: Option<Arc<AccessLog>>,
    /// Bytes that the bodies of requests may still take.
    pub(super) bodies: Arc<Semaphore>,
    /// Bytes of responses that wait for their clients.
    pub(super) waiting: Arc<Waiting>,
    /// Connections that wait for a request.
    pub(super) parking: Arc<Parking>,
}

impl Service {
    pub(super) fn new(
        routes: Arc<Table>,
        state: Handle,
        limits: Limits,
        metrics: Metrics,
        shared: Shared,
        draining: watch::Receiver<Option<Duration>>,
    ) -> Self {
        let rules = Arc::new(Rules { limit: limits.body, timeout: limits.body_timeout, draining });
        let Shared { access, bodies, waiting, parking } = shared;
        Self(Arc::new(Inner {
            routes: Local::of(routes),
            state,
            limits,
            metrics,
            access,
            nowhere: "".into(),
            bodies,
            waiting,
            parking,
            rules,
            handshakes: Semaphore::new(1),
        }))
    }

    /// Bytes of responses that wait for their clients.
    pub(super) fn waiting(&self) -> &Arc<Waiting> {
        &self.0.waiting
    }

    /// Connections that wait for a request.
    pub(super) fn parking(&self) -> &Parking {
        &self.0.parking
    }

    /// Whether there is a guest of this name.
    pub(super) fn has_guest(&self, name: &str) -> bool {
        self.0.routes.routes().named(name).is_some()
    }

    pub(super) fn limits(&self) -> &Limits {
        &self.0.limits
    }

    /// Where requests are logged, if they are.
    pub(super) fn access(&self) -> Option<&Arc<AccessLog>> {
        self.0.access.as_ref()
    }

    pub(super) fn handshakes(&self) -> &Semaphore {
        &self.0.handshakes
    }

    /// Answers one request of a peer, and notes it in its line of the access log. Never fails: what goes wrong
    /// is an answer as well.
    pub(super) async fn handle(
        &self,
        mut request: Request<Incoming>,
        peer: &Peer,
        on_connection: responses::Active,
        mut access: Option<Access>,
    ) -> Response<Sent> {
        let started = Instant::now();
        let active = self.0.metrics.begin();
        heartbeat::requested();
        let method = request.method().clone();
        let version = request.version();
        let id = RequestId::of(request.headers());
        let keyed = registry::is_to_be_made_once(&method, request.headers());
        let client = peer.identify(request.headers_mut(), &self.0.limits.proxies);
        if let Some(access) = &mut access {
            access.came_from(client.address);
        }
        let from = (peer, &client);
        let (answer, route) = self.answer(request, from, &id, keyed, started, &on_connection).await;
        let mut held = None;
        let mut response = match answer {
            Ok((answer, takes)) => {
                held = takes;
                let mut response = Response::new(answer.body);
                *response.status_mut() = answer.status;
                *response.headers_mut() = answer.headers;
                response
            }
            Err(problem) => {
                problem.log(&id, &route, &method);
                // HTTP/2 ends the stream alone.
                let closes = problem.leaves_body() && version < Version::HTTP_2;
                let mut response = problem.into_response(&id, keyed);
                if closes {
                    let close = HeaderValue::from_static("close");
                    response.headers_mut().insert(header::CONNECTION, close);
                    response.extensions_mut().insert(LeavesUnread);
                }
                response
            }
        };
        response.headers_mut().insert(REQUEST_ID, id.header());
        if method == Method::HEAD {
            leave_out_body(&mut response);
        }
        active.end(&route, &method, response.status(), started.elapsed());
        if let Some(access) = &mut access {
            access.answered(&response, route);
        }
        // Under way until the last of its body is sent.
        response.map(|body| Sent::new(body, on_connection, held, access))
    }

    /// The answer, and the name of the route that gave it.
    async fn answer(
        &self,
        request: Request<Incoming>,
        (peer, client): (&Peer, &Client),
        id: &RequestId,
        keyed: bool,
        started: Instant,
        on_connection: &responses::Active,
    ) -> (Result<Answered, Problem>, Arc<str>) {
        let (mut parts, body) = request.into_parts();
        let routes = self.0.routes.current(started).await;
        let (pattern, guest) = match route(&routes, &mut parts, peer.is_internal) {
            Ok(route) => route,
            Err(problem) => return (Err(problem), Arc::clone(&self.0.nowhere)),
        };
        if let Err(over) = guest.tenant().take_request(started) {
            guest.tenant().usage().refused(Refused::Rate);
            return (Err(Problem::Rate(over)), Arc::clone(guest.name()));
        }
        if !self.0.waiting.has_room_for(guest.tenant()) {
            guest.tenant().usage().refused(Refused::Responses);
            return (Err(Problem::Responses), Arc::clone(guest.name()));
        }
        // Only what has no length can have codings.
        if parts.version == Version::HTTP_11
            && body.size_hint().exact().is_none()
            && let Err(problem) = head::check_coding(&parts.headers)
        {
            return (Err(problem), Arc::clone(guest.name()));
        }
        let trouble = Trouble::default();
        // The one that answers, whatever is deployed meanwhile.
        let chosen = guest.choose();
        if guest.tenant().settings().spin_headers.unwrap_or_else(|| chosen.imports_spin()) {
            spin_headers::set(&mut parts.headers, &parts.uri, pattern, client);
        }
        let answer = async {
            let bodies = body::Room { tenant: guest.tenant(), all: &self.0.bodies };
            let rules = &self.0.rules;
            let whole = chosen.takes_whole_bodies() || keyed;
            // For guests that answer for themselves what went wrong, or ask others.
            parts.headers.insert(REQUEST_ID, id.header());
            let version = parts.version;
            let taking = body::take(body, version, whole, bodies, rules, &trouble);
            let taken = self.unless_it_makes_room(taking, started, on_connection).await;
            if matches!(taken, Err(BodyError::TooMany)) {
                guest.tenant().usage().refused(Refused::Bodies);
            }
            let (body, _held) = taken?;
            on_connection.has_body(matches!(body, Body::Stream(_)));
            let request = runtime::Request {
                id: id.header(),
                method: parts.method,
                uri: parts.uri,
                tls: peer.is_tls(),
                headers: parts.headers,
                body,
                body_timeout: self.0.limits.body_timeout,
            };
            let answer = guest.answer(chosen, self.0.state.clone(), request).await;
            // A guest that failed over its client's body has not failed by itself; what it changed
            // before stays changed.
            let refused = answer.as_ref().err().and_then(|failure| match failure.cause {
                Cause::Busy => Some(Refused::Busy),
                Cause::Overloaded => Some(Refused::Overload),
                Cause::Loading | Cause::Unavailable(_) => Some(Refused::Load),
                _ => None,
            });
            refused.inspect(|reason| guest.tenant().usage().refused(*reason));
            let answer = answer.map_err(|failure| match trouble.get() {
                Some(error) => {
                    Problem::Guest(Failure { cause: Cause::Body(error.clone()), ..failure })
                }
                None => Problem::Guest(failure),
            })?;
            let held = Held::of(&answer.body, version, &self.0.waiting, guest.tenant());
            Ok((answer, held))
        };
        (answer.await, Arc::clone(guest.name()))
    }

    /// Waits for a body before any guest does. Where there is no place for a new connection, one that has waited for its
    /// client's longest makes room.
    async fn unless_it_makes_room<'a>(
        &self,
        taking: impl Future<Output = Result<body::Read<'a>, BodyError>>,
        started: Instant,
        on_connection: &responses::Active,
    ) -> Result<body::Read<'a>, BodyError> {
        let mut taking = pin!(taking);
        // Most are there.
        let first = poll_fn(|context| Poll::Ready(taking.as_mut().poll(context))).await;
        if let Poll::Ready(taken) = first {
            return taken;
        }
        let makes_room = async {
            tokio::time::sleep(LEAST_WAIT).await;
            self.0.parking.enter(started.into()).makes_room().await;
        };
        tokio::select! {
            taken = taking => taken,
            () = makes_room => {
                on_connection.makes_room();
                Err(BodyError::Timeout)
            }
        }
    }
}

/// Checks a request's head, and finds the guest it is for.
fn route<'a>(
    routes: &'a Routes,
    parts: &mut http::request::Parts,
    is_internal: bool,
) -> Result<(&'a Pattern, &'a Arc<Guest>), Problem> {
    head::check(parts)?;
    let host = head::host(parts)?;
    // Only guests are told apart by their names: clients have routes.
    if is_internal && let Some(name) = host.and_then(guest_of) {
        let guest = routes.named(name).ok_or(Problem::NoRoute)?;
        return Ok((&ALL, guest));
    }
    // CONNECT has none.
    let path = if parts.method == Method::CONNECT { "/" } else { parts.uri.path() };
    routes.find(host, path).ok_or(Problem::NoRoute)
}

/// The answer to `HEAD`: the length that `GET` would have, and no body (RFC 9110, 9.3.2). hyper does
/// this for HTTP/1 alone.
fn leave_out_body(response: &mut Response<Body>) {
    let bodiless = matches!(response.status(), StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    let told = response.headers().contains_key(header::CONTENT_LENGTH);
    if !bodiless
        && !told
        && let Some(length) = response.body().size_hint().exact()
    {
        response.headers_mut().insert(header::CONTENT_LENGTH, length.into());
    }
    *response.body_mut() = Body::Whole(Bytes::new());
}
