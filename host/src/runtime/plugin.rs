//! Calling a guest of the plugin world: one instance, one call, within its limits.

use std::{panic::AssertUnwindSafe, sync::Arc};

use futures_util::FutureExt as _;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use tally_state::{Applied, Error, Handle, Rejection};
use wasmtime::{Store, UpdateDeadline};

use super::{
    Request, Response,
    cpu::{CpuLimitReached, Meter, Metered},
    deployment::Deployment,
    failure::{Cause, Failure},
    limits::Limits,
};
use crate::interfaces::{Buckets, Context, Ledger, Worker, handler};

/// Bytes of strings and lists that one host call may take from a guest: a value at its limit, with
/// room for its key.
const HOSTCALL_BYTES: usize = 4 << 20;

/// Handles of resources that one guest may hold.
const MAX_HANDLES: usize = 1_000;

/// Headers a response may have, and bytes they may have in all: what clients and proxies take.
const MAX_HEADERS: usize = 64;
/// See [`MAX_HEADERS`].
const MAX_HEADER_BYTES: usize = 16 << 10;

/// Answers a request in a fresh instance.
pub(super) async fn call(
    deployment: &Deployment,
    limits: &Limits,
    state: Handle,
    buckets: Arc<Buckets>,
    instance: u64,
    request: Request,
) -> Result<Response, Failure> {
    let Request { method, path, query, headers, body } = request;
    let ledger = Ledger::default();
    let worker = Worker { instance, guest_version: Arc::clone(&deployment.version) };
    let meter = Meter::new(limits.cpu);
    let context =
        Context::new(state, buckets, headers, worker, ledger.clone(), meter, limits.memory);
    let request = handler::Request {
        method: method.as_str(),
        path: &path,
        query: query.as_deref(),
        body: &body,
    };
    let running =
        Metered(Box::pin(AssertUnwindSafe(run(deployment, context, request)).catch_unwind()));
    let cause = match tokio::time::timeout(limits.wall, running).await {
        Err(_) => Cause::WallLimit,
        Ok(Err(_)) => Cause::Trap("a host function panicked".into()),
        Ok(Ok(Err(error))) if error.is::<CpuLimitReached>() => Cause::CpuLimit,
        Ok(Ok(Err(error))) if error.is::<wasmtime::PoolConcurrencyLimitError>() => Cause::Busy,
        Ok(Ok(Err(error))) => Cause::Trap(format!("{error:#}")),
        Ok(Ok(Ok(Ok(response)))) => match check(response, limits) {
            Ok(response) => return Ok(response),
            Err(reason) => Cause::InvalidResponse(reason),
        },
        Ok(Ok(Ok(Err(error)))) => explain(error, &ledger),
    };
    Err(Failure { cause, applied: ledger.applied() })
}

type Answer = Result<handler::Response, handler::Error>;

async fn run(
    deployment: &Deployment,
    context: Context,
    request: handler::Request<'_>,
) -> wasmtime::Result<Answer> {
    let mut store = Store::new(deployment.pre.engine(), context);
    store.set_hostcall_fuel(HOSTCALL_BYTES);
    store.set_max_component_handles(MAX_HANDLES);
    store.set_epoch_deadline(1);
    store.epoch_deadline_callback(|mut store| {
        store.data_mut().cpu.charge()?;
        Ok(UpdateDeadline::Yield(1))
    });
    let instance = deployment.pre.instantiate_async(&mut store).await?;
    let guest = deployment.indices.load(&mut store, &instance)?;
    guest.tally_plugin_handler().call_handle(&mut store, request).await
}

/// Checks that a response can be sent as it is, so that nothing a guest writes reaches the client
/// as protocol.
fn check(response: handler::Response, limits: &Limits) -> Result<Response, String> {
    let status = match response.status {
        200..=599 => StatusCode::from_u16(response.status).map_err(|error| error.to_string())?,
        other => return Err(format!("the status {other} is not one of 200 to 599")),
    };
    if response.body.len() > limits.response {
        let (actual, limit) = (response.body.len(), limits.response);
        return Err(format!("a body of {actual} bytes is over the limit of {limit}"));
    }
    if response.headers.len() > MAX_HEADERS {
        let actual = response.headers.len();
        return Err(format!("{actual} headers are over the limit of {MAX_HEADERS}"));
    }
    let bytes: usize = response.headers.iter().map(|(name, value)| name.len() + value.len()).sum();
    if bytes > MAX_HEADER_BYTES {
        return Err(format!("headers of {bytes} bytes are over the limit of {MAX_HEADER_BYTES}"));
    }
    let mut headers = HeaderMap::with_capacity(response.headers.len());
    for (name, value) in response.headers {
        let header = HeaderName::try_from(name.as_str())
            .map_err(|_| format!("{name:?} is not the name of a header"))?;
        if is_connections(&header) {
            return Err(format!("the header {name:?} belongs to the host"));
        }
        let value = HeaderValue::try_from(value)
            .map_err(|_| format!("the value of the header {name:?} has characters it must not"))?;
        headers.append(header, value);
    }
    let bodiless = matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    if bodiless && !response.body.is_empty() {
        return Err(format!("a response with status {status} has no body"));
    }
    Ok(Response { status, headers, body: response.body.into() })
}

/// Whether a header is about the connection or the framing (RFC 9110, 7.6.1), which are the
/// host's.
fn is_connections(name: &HeaderName) -> bool {
    [
        header::CONNECTION,
        header::CONTENT_LENGTH,
        header::DATE,
        header::PROXY_AUTHENTICATE,
        header::TE,
        header::TRAILER,
        header::TRANSFER_ENCODING,
        header::UPGRADE,
    ]
    .contains(name)
        || matches!(name.as_str(), "keep-alive" | "proxy-connection" | "x-request-id")
}

/// What a guest's own error means, in the light of what its state operations did.
fn explain(error: handler::Error, ledger: &Ledger) -> Cause {
    match error {
        handler::Error::BadRequest(reason) => Cause::BadRequest(reason),
        handler::Error::NotFound => Cause::NotFound,
        handler::Error::MethodNotAllowed(methods) => Cause::MethodNotAllowed(methods),
        handler::Error::Internal(reason) => Cause::Internal(reason),
        handler::Error::State(reason) => match (ledger.failure(), ledger.applied()) {
            (Some(Error::NotApplied(cause)), Applied::No) => {
                Cause::StateNotApplied(cause.to_string())
            }
            (Some(Error::NotApplied(cause) | Error::Unknown(cause)), _) => {
                Cause::StateUnknown(cause.to_string())
            }
            (Some(Error::Rejected(rejection)), _) => match rejection {
                Rejection::NotANumber | Rejection::Overflow | Rejection::WrongType(_) => {
                    Cause::StateConflict(reason)
                }
                _ => Cause::StateRefused(reason),
            },
            (None, _) => Cause::StateConflict(reason),
        },
    }
}
