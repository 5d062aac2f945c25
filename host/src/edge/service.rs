//! One HTTP request: read within its limits, answered by a guest, counted.

use std::{sync::Arc, time::Instant};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version, header};
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Body as _, Incoming};
use tally_state::Handle;
use tokio::sync::{Semaphore, SemaphorePermit};

use super::{
    Limits, Metrics,
    problem::{Problem, RequestId},
};
use crate::runtime::{self, Runtime};

/// Bytes of a refused body that are still read, so that the client gets to read the refusal.
const MAX_DISCARDED: usize = 32 << 20;

/// Longest request target, in bytes: what RFC 9110 (4.1) asks every server to take.
const MAX_TARGET: usize = 8_000;

/// What a worker answers requests with. Cheap to clone.
#[derive(Clone)]
pub(super) struct Service(Arc<Inner>);

struct Inner {
    runtime: Arc<Runtime>,
    state: Handle,
    limits: Limits,
    metrics: Metrics,
    /// Bytes that the bodies of all workers' requests may still take.
    bodies: Arc<Semaphore>,
}

impl Service {
    pub(super) fn new(
        runtime: Arc<Runtime>,
        state: Handle,
        limits: Limits,
        metrics: Metrics,
        bodies: Arc<Semaphore>,
    ) -> Self {
        Self(Arc::new(Inner { runtime, state, limits, metrics, bodies }))
    }

    pub(super) fn limits(&self) -> &Limits {
        &self.0.limits
    }

    /// Answers one request. Never fails: what goes wrong is an answer as well.
    pub(super) async fn handle(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let started = Instant::now();
        let active = self.0.metrics.begin();
        let method = request.method().clone();
        let id = RequestId::of(request.headers());
        let mut response = match self.answer(request).await {
            Ok(answer) => {
                let mut response = Response::new(Full::new(answer.body));
                *response.status_mut() = answer.status;
                *response.headers_mut() = answer.headers;
                response
            }
            Err(problem) => {
                problem.log(&id, &method);
                problem.into_response(&id)
            }
        };
        response.headers_mut().insert("x-request-id", id.header());
        if method == Method::HEAD {
            leave_out_body(&mut response);
        }
        active.end(&method, response.status(), started.elapsed());
        response
    }

    async fn answer(&self, request: Request<Incoming>) -> Result<runtime::Response, Problem> {
        let (mut parts, body) = request.into_parts();
        let target = parts.uri.path_and_query();
        let length = target.map_or(0, |target| target.as_str().len());
        if length > MAX_TARGET {
            return Err(Problem::TargetTooLong { limit: MAX_TARGET });
        }
        if parts.method == Method::CONNECT {
            return Err(Problem::Connect);
        }
        let path = parts.uri.path();
        let whole_server = path == "*" && parts.method == Method::OPTIONS;
        if !(path.starts_with('/') || whole_server) {
            return Err(Problem::Target);
        }
        settle_host(&mut parts)?;
        let (body, _held) = self.body(body, &parts.headers).await?;
        let request = runtime::Request {
            method: parts.method,
            path: parts.uri.path().to_owned(),
            query: parts.uri.query().map(str::to_owned),
            headers: parts.headers,
            body,
        };
        Ok(self.0.runtime.handle(self.0.state.clone(), request).await?)
    }

    /// Reads a body whole, within its limits of size and time. The second part is its share of what
    /// all bodies may take, to be kept for as long as the body is.
    async fn body(
        &self,
        body: Incoming,
        headers: &HeaderMap,
    ) -> Result<(Bytes, Option<SemaphorePermit<'_>>), Problem> {
        if body.is_end_stream() {
            return Ok((Bytes::new(), None));
        }
        let limits = &self.0.limits;
        let announced = usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX);
        // A client that waits for permission to send gets the refusal instead.
        let waits = headers
            .get(header::EXPECT)
            .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"));
        if announced > limits.body && waits {
            return Err(Problem::BodyTooLarge { limit: limits.body });
        }
        let reading = read(body, limits.body, &self.0.bodies);
        tokio::time::timeout(limits.body_timeout, reading)
            .await
            .unwrap_or(Err(Problem::BodyTimeout))
    }
}

/// Checks that the request names its host once, and gives HTTP/2's `:authority` to the guest by the
/// same name (RFC 9113, 8.3.1).
fn settle_host(parts: &mut http::request::Parts) -> Result<(), Problem> {
    let mut names = parts.headers.get_all(header::HOST).iter();
    match (names.next(), names.next(), parts.version) {
        (Some(_), None, _) | (None, None, Version::HTTP_10) => Ok(()),
        (None, None, Version::HTTP_2) => {
            let authority = parts.uri.authority().map(|authority| authority.as_str());
            if let Some(Ok(host)) = authority.map(HeaderValue::from_str) {
                parts.headers.insert(header::HOST, host);
            }
            Ok(())
        }
        _ => Err(Problem::Host),
    }
}

/// Reads a body to its end. Each part of it is held only as far as all bodies together may be.
///
/// Once it is refused, it is read on and thrown away, up to a bound: a connection closed with
/// unread data would be reset, and the client would lose the answer.
async fn read<'a>(
    mut body: Incoming,
    limit: usize,
    bodies: &'a Semaphore,
) -> Result<(Bytes, Option<SemaphorePermit<'a>>), Problem> {
    let mut parts = Vec::new();
    let mut length = 0_usize;
    let mut held: Option<SemaphorePermit<'a>> = None;
    let mut refusal = None;
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(|_| Problem::BodyBroken)?.into_data() else { continue };
        length = length.saturating_add(data.len());
        if length > limit && refusal.is_none() {
            refusal = Some(Problem::BodyTooLarge { limit });
        }
        if refusal.is_none() {
            match bodies.try_acquire_many(u32::try_from(data.len()).unwrap_or(u32::MAX)) {
                Ok(more) => match &mut held {
                    Some(held) => held.merge(more),
                    None => held = Some(more),
                },
                Err(_) => refusal = Some(Problem::Bodies),
            }
        }
        if refusal.is_none() {
            parts.push(data);
        } else {
            parts.clear();
            held = None;
            if length > MAX_DISCARDED {
                break;
            }
        }
    }
    match refusal {
        Some(problem) => Err(problem),
        None => Ok((join(parts, length), held)),
    }
}

/// The parts of a body as one; most have one part, which is not copied.
fn join(mut parts: Vec<Bytes>, length: usize) -> Bytes {
    if parts.len() > 1 {
        let mut whole = BytesMut::with_capacity(length);
        parts.iter().for_each(|part| whole.extend_from_slice(part));
        return whole.freeze();
    }
    parts.pop().unwrap_or_default()
}

/// The answer to `HEAD`: the length that `GET` would have, and no body (RFC 9110, 9.3.2). hyper does
/// this for HTTP/1 alone.
fn leave_out_body(response: &mut Response<Full<Bytes>>) {
    if !matches!(response.status(), StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED) {
        let length = response.body().size_hint().exact().unwrap_or_default();
        response.headers_mut().insert(header::CONTENT_LENGTH, length.into());
    }
    *response.body_mut() = Full::default();
}
