//! Calling a guest of the plugin world: one instance, one call, within its limits.

use super::{
    Request, Response,
    call::{self, Call},
    failure::{Cause, Failure},
    limits::Limits,
    message::Body,
    response,
};
use crate::interfaces::{Context, Ledger, PluginIndices, handler};

/// Answers a request in a fresh instance.
pub(super) async fn answer(
    call: &Call,
    indices: &PluginIndices,
    request: Request,
) -> Result<Response, Failure> {
    let failed = |cause| Failure { cause, applied: call.ledger.applied() };
    let Request { id, method, uri, headers, body } = request;
    let body = body.collect().await.map_err(|error| failed(Cause::Body(error)))?;
    let context = call.context(id).with_headers(headers);
    let request = handler::Request {
        method: method.as_str(),
        path: uri.path(),
        query: uri.query(),
        body: &body,
    };
    let answer = call::within(&call.limits, run(call, indices, context, request)).await;
    let answer = answer.map_err(failed)?;
    let response = answer.map_err(|error| failed(explain(error, &call.ledger)))?;
    check(response, &call.limits).map_err(|reason| failed(Cause::InvalidResponse(reason)))
}

type Answer = Result<handler::Response, handler::Error>;

async fn run(
    call: &Call,
    indices: &PluginIndices,
    context: Context,
    request: handler::Request<'_>,
) -> wasmtime::Result<Answer> {
    let mut store = call::store(&call.deployment, context);
    let instance = call.deployment.pre.instantiate_async(&mut store).await?;
    let guest = indices.load(&mut store, &instance)?;
    let answer = guest.tally_plugin_handler().call_handle(&mut store, request).await;
    call.deployment.pool.engine.called();
    answer
}

/// Checks that a response can be sent as it is.
fn check(answer: handler::Response, limits: &Limits) -> Result<Response, String> {
    let status = response::status(answer.status)?;
    if answer.body.len() > limits.response {
        let (actual, limit) = (answer.body.len(), limits.response);
        return Err(format!("a body of {actual} bytes is over the limit of {limit}"));
    }
    let headers = response::headers(answer.headers)?;
    if response::is_bodiless(status) && !answer.body.is_empty() {
        return Err(format!("a response with status {status} has no body"));
    }
    Ok(Response { status, headers, body: Body::Whole(answer.body.into()), is_final: true })
}

/// What a guest's own error means, in the light of what its state operations did.
fn explain(error: handler::Error, ledger: &Ledger) -> Cause {
    match error {
        handler::Error::BadRequest(reason) => Cause::BadRequest(reason),
        handler::Error::NotFound => Cause::NotFound,
        handler::Error::MethodNotAllowed(methods) => Cause::MethodNotAllowed(methods),
        handler::Error::Internal(reason) => Cause::Internal(reason),
        handler::Error::State(reason) => match ledger.failure() {
            Some(error) => Cause::of_state(&error, ledger.applied(), reason),
            None => Cause::StateConflict(reason),
        },
    }
}
