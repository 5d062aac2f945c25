//! The second listener, for those who run the host: health and metrics. Never to be reachable by
//! clients.
//!
//! - `GET /livez`: the process runs and answers.
//! - `GET /readyz`: requests would succeed: a guest is loaded, and each connection to the store that
//!   is in use takes writes; 503 as soon as draining starts. With `?verbose`, each part by itself.
//! - `GET /metrics`: Prometheus' text format.
//! - `/guests`: the guests, and replacing one (see `guests`).
//!
//! A web page that a developer visits could send requests here, as the listener is on their own
//! machine: what a browser sends for a page (`Origin`) is refused.

mod gauges;
mod guests;

use std::{
    convert::Infallible,
    fmt::Write as _,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus::{Encoder as _, Registry, TextEncoder};
use tally_state::{Handle, Part, State};
use tokio::{net::TcpListener, sync::Semaphore, task::JoinSet};

use self::gauges::Gauges;
use crate::{edge::Workers, registry::Routes, runtime::Runtime};

/// The pause after a failed accept, as at the edge.
const PAUSE: Duration = Duration::from_millis(50);

/// Longest time a connection may be idle.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);

/// Components that may arrive at once, of up to 65 MiB each.
const MAX_UPLOADS: usize = 4;

/// What the admin listener answers from.
pub(crate) struct Admin {
    registry: Registry,
    runtime: Arc<Runtime>,
    routes: Arc<Routes>,
    workers: Arc<Workers>,
    store: State,
    state: Handle,
    draining: AtomicBool,
    /// Held by the one component that is being loaded.
    deploying: Semaphore,
    /// Held by components that are arriving, as each is held in memory.
    uploads: Semaphore,
    gauges: Gauges,
}

impl Admin {
    /// Registers the gauges and gathers what the answers need.
    ///
    /// # Errors
    /// When the registry holds metrics of these names already.
    pub(crate) fn new(
        registry: Registry,
        runtime: Arc<Runtime>,
        routes: Arc<Routes>,
        workers: Arc<Workers>,
        store: State,
    ) -> prometheus::Result<Self> {
        let gauges = Gauges::register(&registry)?;
        let draining = AtomicBool::new(false);
        let (deploying, uploads) = (Semaphore::new(1), Semaphore::new(MAX_UPLOADS));
        let state = store.worker();
        Ok(Self {
            registry,
            runtime,
            routes,
            workers,
            store,
            state,
            draining,
            deploying,
            uploads,
            gauges,
        })
    }

    /// Makes `/readyz` fail, so that no new clients are sent here.
    pub(crate) fn start_draining(&self) {
        self.draining.store(true, Ordering::Release);
    }

    /// Serves until dropped, or until a listener ends, which is a bug.
    pub(crate) async fn serve(self: Arc<Self>, listeners: Vec<TcpListener>) {
        let mut serving = JoinSet::new();
        for listener in listeners {
            serving.spawn(Arc::clone(&self).listen(listener));
        }
        serving.join_next().await;
    }

    async fn listen(self: Arc<Self>, listener: TcpListener) {
        loop {
            let stream = match listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "the admin listener cannot accept; trying again");
                    tokio::time::sleep(PAUSE).await;
                    continue;
                }
            };
            let admin = Arc::clone(&self);
            let service = service_fn(move |request| {
                let admin = Arc::clone(&admin);
                async move { Ok::<_, Infallible>(admin.answer(request).await) }
            });
            tokio::spawn(async move {
                let mut builder = http1::Builder::new();
                builder.timer(TokioTimer::new()).header_read_timeout(IDLE_TIMEOUT);
                if let Err(error) = builder.serve_connection(TokioIo::new(stream), service).await {
                    tracing::debug!(%error, "an admin connection ended");
                }
            });
        }
    }

    async fn answer(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        if request.headers().contains_key(header::ORIGIN) {
            return text(StatusCode::FORBIDDEN, "not for web pages\n".into());
        }
        let path = request.uri().path().to_owned();
        if let Some(name) = path.strip_prefix("/guests/") {
            return match *request.method() {
                Method::PUT => self.deploy(name, request).await,
                _ => not_allowed("PUT"),
            };
        }
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            return not_allowed("GET, HEAD");
        }
        match path.as_str() {
            "/livez" => text(StatusCode::OK, "ok\n".into()),
            "/readyz" => self.ready(request.uri().query() == Some("verbose")).await,
            "/metrics" => self.metrics(),
            "/guests" => self.list_guests(),
            "/" => text(StatusCode::OK, "/livez\n/readyz?verbose\n/metrics\n/guests\n".into()),
            _ => {
                let known = "there is /livez, /readyz, /metrics and /guests\n";
                text(StatusCode::NOT_FOUND, known.into())
            }
        }
    }

    async fn ready(&self, verbose: bool) -> Response<Full<Bytes>> {
        let draining = self.draining.load(Ordering::Acquire);
        let store = self.store.health().await;
        let failed: Vec<&Part> =
            store.iter().filter(|part| part.is_needed && part.failure.is_some()).collect();
        let (status, short) = match (draining, failed.first()) {
            (true, _) => (StatusCode::SERVICE_UNAVAILABLE, "draining\n"),
            (false, Some(_)) => (StatusCode::SERVICE_UNAVAILABLE, "the store cannot be used\n"),
            (false, None) => (StatusCode::OK, "ok\n"),
        };
        if !verbose {
            return text(status, short.into());
        }
        let told = |failure: Option<&str>| match failure {
            None => String::from("ok"),
            Some(reason) => format!("failed: {reason}"),
        };
        let mut parts = String::new();
        // Writing to a string does not fail.
        for (_, guest) in self.routes.iter() {
            let release = guest.release();
            let _ = match release.failure() {
                Some(failure) => writeln!(parts, "guest {}: failed: {failure}", guest.name()),
                None => {
                    writeln!(parts, "guest {}: ok, version {}", guest.name(), release.version())
                }
            };
        }
        let first = failed.first().and_then(|part| part.failure.as_deref());
        let _ = writeln!(parts, "store: {}", told(first));
        for Part { name, failure, .. } in &store {
            let _ = writeln!(parts, "store {name}: {}", told(failure.as_deref()));
        }
        let _ = writeln!(parts, "serving: {}", told(draining.then_some("draining")));
        text(status, parts)
    }

    fn metrics(&self) -> Response<Full<Bytes>> {
        self.gauges.of_workers(&self.workers);
        self.gauges.of_guests(&self.runtime, &self.routes);
        let mut body = Vec::new();
        match TextEncoder::new().encode(&self.registry.gather(), &mut body) {
            Ok(()) => {
                let mut response = Response::new(Full::from(body));
                response.headers_mut().insert(
                    header::CONTENT_TYPE,
                    HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8"),
                );
                response
            }
            Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
        }
    }
}

fn not_allowed(allow: &'static str) -> Response<Full<Bytes>> {
    let mut response = text(StatusCode::METHOD_NOT_ALLOWED, format!("only {allow}\n"));
    response.headers_mut().insert(header::ALLOW, HeaderValue::from_static(allow));
    response
}

fn text(status: StatusCode, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(body));
    *response.status_mut() = status;
    let plain = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, plain);
    response
}
