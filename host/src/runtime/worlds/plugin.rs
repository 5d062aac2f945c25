//! `tally:plugin/plugin`: the project's own world. One instance, one call, the body in full both ways.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use wasmtime::component::InstancePre;

use super::{Handler, World};
use crate::{
    interfaces::{Context, Effects, Interface, PluginIndices, handler},
    runtime::{
        Request, Response,
        call::{self, Call},
        failure::Cause,
        limits::Limits,
        message::Body,
        response,
    },
};

/// The world.
pub(super) struct Plugin;

impl World for Plugin {
    fn name(&self) -> &'static str {
        "tally:plugin/plugin"
    }

    fn handler(&self) -> &'static str {
        "tally:plugin/handler@0.1.x"
    }

    fn has(&self, export: Interface<'_>) -> bool {
        export.base == "tally:plugin/handler" && export.version.starts_with("0.1.")
    }

    fn takes_whole_bodies(&self) -> bool {
        true
    }

    fn find(&self, guest: &InstancePre<Context>) -> wasmtime::Result<Arc<dyn Handler>> {
        Ok(Arc::new(PluginIndices::new(guest)?))
    }
}

impl Handler for PluginIndices {
    fn answer(
        self: Arc<Self>,
        call: Call,
        request: Request,
    ) -> BoxFuture<'static, Result<Response, Cause>> {
        Box::pin(answer(call, self, request))
    }
}

async fn answer(
    call: Call,
    indices: Arc<PluginIndices>,
    request: Request,
) -> Result<Response, Cause> {
    let Request { id, method, uri, headers, body, .. } = request;
    // It has no path, and all of a request that this world has is one.
    if method == http::Method::CONNECT {
        return Err(Cause::Connect);
    }
    let body = body.collect().await.map_err(Cause::Body)?;
    let context = call.context(id).with_headers(headers);
    let request = handler::Request {
        method: method.as_str(),
        path: uri.path(),
        query: uri.query(),
        body: &body,
    };
    let answer = call::within(&call.tenant, None, run(&call, &indices, context, request)).await?;
    let response = answer.map_err(|error| explain(error, &call.effects))?;
    check(response, &call.tenant.limits).map_err(Cause::InvalidResponse)
}

type Answer = Result<handler::Response, handler::Error>;

async fn run(
    call: &Call,
    indices: &PluginIndices,
    context: Context,
    request: handler::Request<'_>,
) -> wasmtime::Result<Answer> {
    let mut store = call::store(&call.tenant, &call.loaded, context);
    let instance = call.loaded.pre.instantiate_async(&mut store).await?;
    let guest = indices.load(&mut store, &instance)?;
    let answer = guest.tally_plugin_handler().call_handle(&mut store, request).await;
    call.returned(&store);
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
fn explain(error: handler::Error, effects: &Effects) -> Cause {
    match error {
        handler::Error::BadRequest(reason) => Cause::BadRequest(reason),
        handler::Error::NotFound => Cause::NotFound,
        handler::Error::MethodNotAllowed(methods) => Cause::MethodNotAllowed(methods),
        handler::Error::Internal(reason) => Cause::Internal(reason),
        handler::Error::State(reason) => match effects.failure() {
            Some(error) => Cause::of_state(&error, effects.applied(), reason),
            None => Cause::StateConflict(reason),
        },
    }
}
