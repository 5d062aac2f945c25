//! One HTTP request: read within its limits, answered by a guest, counted.

use std::{sync::Arc, time::Instant};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::body::{Body as _, Incoming};
use tally_state::Handle;

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
}

impl Service {
    pub(super) fn new(
        runtime: Arc<Runtime>,
        state: Handle,
        limits: Limits,
        metrics: Metrics,
    ) -> Self {
        Self(Arc::new(Inner { runtime, state, limits, metrics }))
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
        let (parts, body) = request.into_parts();
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
        let expects_continue = parts
            .headers
            .get(header::EXPECT)
            .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"));
        let request = runtime::Request {
            method: parts.method,
            path: path.to_owned(),
            query: parts.uri.query().map(str::to_owned),
            headers: parts.headers,
            body: self.body(body, expects_continue).await?,
        };
        Ok(self.0.runtime.handle(self.0.state.clone(), request).await?)
    }

    /// Reads a body whole, within its limits of size and time.
    async fn body(&self, body: Incoming, expects_continue: bool) -> Result<Bytes, Problem> {
        if body.is_end_stream() {
            return Ok(Bytes::new());
        }
        let limits = &self.0.limits;
        let too_large = Problem::BodyTooLarge { limit: limits.body };
        let reading = async {
            let announced = usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX);
            if announced > limits.body {
                // A client that waits for permission to send gets the refusal instead.
                if !expects_continue {
                    discard(body).await;
                }
                return Err(too_large);
            }
            let mut limited = Limited::new(body, limits.body);
            match (&mut limited).collect().await {
                Ok(collected) => Ok(collected.to_bytes()),
                Err(error) if error.is::<LengthLimitError>() => Err(too_large),
                Err(_) => Err(Problem::BodyBroken),
            }
        };
        tokio::time::timeout(limits.body_timeout, reading)
            .await
            .unwrap_or(Err(Problem::BodyTimeout))
    }
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

/// Reads on and throws away, up to a bound: a connection closed with unread data would be reset,
/// and the client would lose the answer.
async fn discard(mut body: Incoming) {
    let mut left = MAX_DISCARDED;
    while let Some(Ok(frame)) = body.frame().await {
        let size = frame.data_ref().map_or(0, Bytes::len);
        match left.checked_sub(size) {
            Some(rest) => left = rest,
            None => return,
        }
    }
}
