//! The second listener, for those who run the host: health and metrics. Never to be reachable by
//! clients.
//!
//! - `GET /livez`: the process runs and answers.
//! - `GET /readyz`: requests would succeed: a guest is loaded, and each connection to the store that
//!   is in use takes writes; 503 as soon as draining starts. With `?verbose`, each part by itself.
//! - `GET /metrics`: Prometheus' text format.
//! - `/guests`: the guests, and replacing one (see `guests`).
//! - `/admin/v1/…`: releases, for programs (see `v1`).
//!
//! Who may ask for what is decided in `gate`: strangers get nothing, and what changes something needs
//! the `token`.

mod connections;
mod gate;
mod gauges;
mod guests;
mod route;
pub(crate) mod token;
mod v1;

use std::{
    fmt::Write as _,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use prometheus::{Encoder as _, Registry, TextEncoder};
use tally_state::{Part, State};
use tokio::{net::TcpListener, sync::Semaphore, task::JoinSet};

pub(crate) use self::gate::{Gate, Who, is_loopback};
use self::{
    connections::Peer,
    gauges::Gauges,
    guests::{MAX_UPLOADS, UPLOAD_BYTES},
    route::Route,
};
use crate::{edge::Workers, logging::Logs, registry::Table, releases::Releases, runtime::Runtime};

/// What the admin listener answers from.
pub(crate) struct Admin {
    registry: Registry,
    runtime: Arc<Runtime>,
    table: Arc<Table>,
    releases: Arc<Releases>,
    workers: Arc<Workers>,
    store: State,
    draining: AtomicBool,
    /// Held by the one component that is being loaded.
    deploying: Semaphore,
    /// Held by components that are arriving or waiting to be loaded, one for each.
    uploads: Semaphore,
    /// Bytes that these may still take.
    upload_bytes: Arc<Semaphore>,
    gate: Gate,
    gauges: Gauges,
    logs: Logs,
}

impl Admin {
    /// Registers the gauges and gathers what the answers need.
    ///
    /// # Errors
    /// When the registry holds metrics of these names already.
    pub(crate) fn new(
        registry: Registry,
        runtime: Arc<Runtime>,
        releases: Arc<Releases>,
        workers: Arc<Workers>,
        store: State,
        logs: Logs,
        gate: Gate,
    ) -> prometheus::Result<Self> {
        let gauges = Gauges::register(&registry)?;
        let table = Arc::clone(releases.table());
        let draining = AtomicBool::new(false);
        let (deploying, uploads) = (Semaphore::new(1), Semaphore::new(MAX_UPLOADS));
        let upload_bytes = Arc::new(Semaphore::new(UPLOAD_BYTES));
        Ok(Self {
            registry,
            runtime,
            table,
            releases,
            workers,
            store,
            draining,
            deploying,
            uploads,
            upload_bytes,
            gate,
            gauges,
            logs,
        })
    }

    /// Makes `/readyz` fail, so that no new clients are sent here.
    pub(crate) fn start_draining(&self) {
        self.draining.store(true, Ordering::Release);
    }

    /// Serves until dropped, or until a listener ends, which is a bug.
    pub(crate) async fn serve(self: Arc<Self>, listeners: Vec<TcpListener>) {
        let mut serving = JoinSet::new();
        let connections = connections::Connections::default();
        for listener in listeners {
            serving.spawn(connections::serve(Arc::clone(&self), listener, connections.clone()));
        }
        serving.join_next().await;
    }

    async fn answer(&self, request: Request<Incoming>, peer: &Peer) -> Response<Full<Bytes>> {
        let (uri, method) = (request.uri().clone(), request.method().clone());
        let route = Route::of(&method, &uri);
        let who = match self.gate.check(&request, &route, peer.local) {
            Ok(who) => who,
            Err(refusal) => {
                // A client that asks first whether it may send its body needs no more than the answer.
                if !request.headers().contains_key(header::EXPECT) {
                    guests::discard(request.into_body()).await;
                }
                return *refusal;
            }
        };
        match route {
            Route::Index => text(
                StatusCode::OK,
                "/livez\n/readyz?verbose\n/metrics\n/guests\n/admin/v1/openapi.json\n".into(),
            ),
            Route::Live => text(StatusCode::OK, "ok\n".into()),
            Route::Ready { verbose } => self.ready(verbose).await,
            Route::Metrics => self.metrics(),
            Route::Guests => self.list_guests(),
            Route::Deploy(name) => self.deploy(name, request, peer, who).await,
            Route::V1(v1) => self.answer_v1(v1, request, peer, who).await,
            Route::NotAllowed(allow) => not_allowed(allow),
            Route::Unknown => {
                let known =
                    "there is /livez, /readyz, /metrics, /guests and /admin/v1/openapi.json\n";
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
        for (_, guest) in self.table.routes().iter() {
            let release = guest.release();
            let _ = match release.failure() {
                Some(failure) => writeln!(parts, "guest {}: failed: {failure}", guest.name()),
                None => {
                    writeln!(parts, "guest {}: ok, version {}", guest.name(), release.version())
                }
            };
        }
        let record = self.releases.record();
        for (guest, failed) in &record.failed {
            let _ =
                writeln!(parts, "release {} of {guest}: failed: {}", failed.release, failed.reason);
        }
        let away = self.releases.away();
        let _ = writeln!(parts, "releases: {}", told(away.as_deref()));
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
        self.gauges.of_logs(&self.logs);
        self.gauges.of_guests(&self.runtime, &self.table.routes());
        self.gauges.of_releases(&self.releases.record());
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
