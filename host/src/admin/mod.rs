//! The second listener, for those who run the host: health and metrics. Never to be reachable by
//! clients.
//!
//! - `GET /livez`: the process runs and answers.
//! - `GET /readyz`: a guest is loaded and the store answers; 503 as soon as draining starts.
//!   With `?verbose`, each part by itself.
//! - `GET /metrics`: Prometheus' text format.

use std::{
    convert::Infallible,
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
use prometheus::{Encoder as _, IntGauge, Registry, TextEncoder};
use tally_state::Handle;
use tokio::net::TcpListener;

use crate::{edge::Workers, runtime::Runtime};

/// The pause after a failed accept, as at the edge.
const PAUSE: Duration = Duration::from_millis(50);

/// Longest time a probe waits for the store: probes come every few seconds.
const PROBE_TIMEOUT: Duration = Duration::from_secs(1);

/// Longest time a connection may be idle.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);

/// What the admin listener answers from.
pub(crate) struct Admin {
    registry: Registry,
    runtime: Arc<Runtime>,
    workers: Arc<Workers>,
    state: Handle,
    draining: AtomicBool,
    gauges: Gauges,
}

/// Values that are read when asked for, rather than kept up to date.
struct Gauges {
    connections: IntGauge,
    body_bytes: IntGauge,
    in_use: IntGauge,
    waiting: IntGauge,
}

impl Admin {
    /// Registers the gauges and gathers what the answers need.
    ///
    /// # Errors
    /// When the registry holds metrics of these names already.
    pub(crate) fn new(
        registry: Registry,
        runtime: Arc<Runtime>,
        workers: Arc<Workers>,
        state: Handle,
        pool: usize,
    ) -> prometheus::Result<Self> {
        let gauge = |name: &str, help: &str| {
            let gauge = IntGauge::new(name, help)?;
            registry.register(Box::new(gauge.clone()))?;
            Ok::<_, prometheus::Error>(gauge)
        };
        gauge("tally_pool_instances", "Guest instances that can be at work at once")?
            .set(i64::try_from(pool).unwrap_or(i64::MAX));
        let gauges = Gauges {
            connections: gauge("tally_connections", "Open connections")?,
            body_bytes: gauge(
                "tally_request_body_bytes",
                "Bytes of request bodies that are arriving or being answered",
            )?,
            in_use: gauge("tally_pool_instances_in_use", "Guest instances at work")?,
            waiting: gauge("tally_pool_waiting_requests", "Requests waiting for an instance")?,
        };
        let draining = AtomicBool::new(false);
        Ok(Self { registry, runtime, workers, state, draining, gauges })
    }

    /// Makes `/readyz` fail, so that no new clients are sent here.
    pub(crate) fn start_draining(&self) {
        self.draining.store(true, Ordering::Release);
    }

    /// Serves until dropped.
    pub(crate) async fn serve(self: Arc<Self>, listener: TcpListener) {
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
                async move { Ok::<_, Infallible>(admin.answer(&request).await) }
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

    async fn answer(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD\n".into());
            response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
            return response;
        }
        match request.uri().path() {
            "/livez" => text(StatusCode::OK, "ok\n".into()),
            "/readyz" => self.ready(request.uri().query() == Some("verbose")).await,
            "/metrics" => self.metrics(),
            "/" => text(StatusCode::OK, "/livez\n/readyz?verbose\n/metrics\n".into()),
            _ => text(StatusCode::NOT_FOUND, "there is /livez, /readyz and /metrics\n".into()),
        }
    }

    async fn ready(&self, verbose: bool) -> Response<Full<Bytes>> {
        let draining = self.draining.load(Ordering::Acquire);
        let store = match tokio::time::timeout(PROBE_TIMEOUT, self.state.check()).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err(format!("no answer within {PROBE_TIMEOUT:?}")),
        };
        let (status, short) = match (draining, &store) {
            (true, _) => (StatusCode::SERVICE_UNAVAILABLE, "draining\n"),
            (false, Err(_)) => (StatusCode::SERVICE_UNAVAILABLE, "the store does not answer\n"),
            (false, Ok(())) => (StatusCode::OK, "ok\n"),
        };
        if !verbose {
            return text(status, short.into());
        }
        let store = store.map_or_else(|reason| format!("failed: {reason}"), |()| "ok".into());
        let serving = if draining { "failed: draining" } else { "ok" };
        let guest = self.runtime.guest_version();
        text(status, format!("guest: ok, version {guest}\nstore: {store}\nserving: {serving}\n"))
    }

    fn metrics(&self) -> Response<Full<Bytes>> {
        let set =
            |gauge: &IntGauge, value: usize| gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
        set(&self.gauges.connections, self.workers.connections());
        set(&self.gauges.body_bytes, self.workers.body_bytes());
        set(&self.gauges.in_use, self.runtime.in_use());
        set(&self.gauges.waiting, self.runtime.waiting());
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

fn text(status: StatusCode, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(body));
    *response.status_mut() = status;
    let plain = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, plain);
    response
}
