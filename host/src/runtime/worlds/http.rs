//! `wasi:http/proxy` 0.2, or anything that exports its handler: one instance, one call.
//!
//! The guest's call and a bounded collection of its response's body are polled together, in the
//! request's own future: a small answer costs no task, is sent with its length, and a guest that
//! traps in the middle of it is still a clean 500. A guest that has more to say than fits, or
//! waits while its client could be reading, goes on in a task of its own, and its response streams.

mod reply;
mod stream;

use std::{
    fmt::Debug,
    future::poll_fn,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{HeaderValue, header};
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::BodyExt as _;
use tally_state::Error as StateError;
use tokio::sync::oneshot;
use wasmtime::component::InstancePre;
use wasmtime_wasi_http::{
    Error as HttpError, WasiHttpView as _,
    p2::{
        bindings::{
            ProxyIndices,
            http::types::{ErrorCode, Scheme},
        },
        body::HyperOutgoingBody,
    },
};

use self::{
    reply::{Collected, Outcome, collect},
    stream::stream,
};
use super::{Handler, World};
use crate::{
    interfaces::{self, Effects, Interface},
    runtime::{
        BodyError, Request, Response,
        call::{self, Call},
        client_time::{ClientTime, For},
        failure::Cause,
        message::Body,
        response,
    },
};

/// The world.
pub(super) struct Http;

impl World for Http {
    fn name(&self) -> &'static str {
        "wasi:http/proxy"
    }

    fn handler(&self) -> &'static str {
        "wasi:http/incoming-handler@0.2.x"
    }

    fn has(&self, export: Interface<'_>) -> bool {
        export.base == "wasi:http/incoming-handler" && export.is_release()
    }

    fn takes_whole_bodies(&self) -> bool {
        false
    }

    fn find(&self, guest: &InstancePre<interfaces::Context>) -> wasmtime::Result<Arc<dyn Handler>> {
        Ok(Arc::new(ProxyIndices::new(guest)?))
    }
}

impl Handler for ProxyIndices {
    fn answer(
        self: Arc<Self>,
        call: Call,
        request: Request,
    ) -> BoxFuture<'static, Result<Response, Cause>> {
        Box::pin(answer(call, request, |call, request, replier, progress, client| {
            Box::pin(run(call, self, request, replier, progress, client))
        }))
    }
}

/// What the guest sets as its response: an error is of the type that its version of WASI has.
pub(super) type Reply<E> = Result<http::Response<HyperOutgoingBody>, E>;

/// The guest's call, with its limits; ends when the guest returns.
pub(super) type Running = Pin<Box<dyn Future<Output = Result<(), Cause>> + Send>>;

/// How far a guest's call has come, told by the call to those who read its response's body.
#[derive(Clone, Default)]
pub(super) struct Progress(Arc<Flags>);

#[derive(Default)]
struct Flags {
    broke_off: AtomicBool,
    waits_for_body: AtomicBool,
}

impl Progress {
    /// Whether the guest ended other than by returning. A body looks complete when the guest is thrown away in the
    /// middle of it, so its end is worth nothing then.
    fn broke_off(&self) -> bool {
        self.0.broke_off.load(Ordering::Acquire)
    }

    /// Whether the call ends as soon as the body is let go.
    fn waits_for_body(&self) -> bool {
        self.0.waits_for_body.load(Ordering::Acquire)
    }

    /// Says that the guest has nothing to do any more but to have its body taken.
    pub(super) fn wait_for_body(&self) {
        self.0.waits_for_body.store(true, Ordering::Release);
    }
}

/// Notes that a guest did not return, whatever the way it ended.
pub(super) struct BreakOnDrop(Option<Progress>);

impl BreakOnDrop {
    pub(super) fn new(progress: Progress) -> Self {
        Self(Some(progress))
    }

    pub(super) fn disarm(mut self) {
        self.0 = None;
    }
}

impl Drop for BreakOnDrop {
    fn drop(&mut self) {
        if let Some(Progress(flags)) = &self.0 {
            flags.broke_off.store(true, Ordering::Release);
        }
    }
}

/// Answers a request by a guest's call.
pub(super) async fn answer<E: Debug>(
    call: Call,
    request: Request,
    run: impl FnOnce(Call, Request, oneshot::Sender<Reply<E>>, Progress, ClientTime) -> Running,
) -> Result<Response, Cause> {
    let effects = call.effects.clone();
    // It has the request's headers, of which some are another try's own.
    effects.look_outside();
    let (response_limit, id) = (call.tenant.limits.response, request.id.clone());
    let tenant = Arc::clone(&call.tenant);
    let is_head = request.method == http::Method::HEAD;
    let is_connect = request.method == http::Method::CONNECT;
    let (replier, reply) = oneshot::channel();
    let progress = Progress::default();
    let client = ClientTime::new(request.body_timeout);
    let mut running = run(call, request, replier, progress.clone(), client.clone());

    let (reply, ended) = first(&mut running, reply).await;
    let (mut head, body) = match (reply, &ended) {
        (Some(Ok(reply)), _) => reply.into_parts(),
        (Some(Err(code)), _) => return Err(gave_up(&code, &effects)),
        (None, Some(Err(cause))) => return Err(cause.clone()),
        (None, _) => {
            let reason = "the guest returned without a response".into();
            return Err(Cause::InvalidResponse(reason));
        }
    };
    let status = response::status(head.status.as_u16()).map_err(Cause::InvalidResponse)?;
    // To the client, success means that a tunnel begins here (RFC 9110, 9.3.6).
    if is_connect && status.is_success() {
        return Err(Cause::Connect);
    }
    response::leave_out_hosts(&mut head.headers);
    let bytes = head.headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
    response::size(head.headers.len(), bytes).map_err(Cause::InvalidResponse)?;

    let mut headers = head.headers;
    let mut collected = Collected::default();
    // Without a body to send, the length that the guest tells is all there is to know, and that it
    // writes less is as it should be. That is so for HEAD, and for 304, which says what a 200 would
    // (RFC 9110, 8.6 and 15.4.5).
    let tells_length = is_head || status == http::StatusCode::NOT_MODIFIED;
    let outcome = match ended {
        Some(Err(cause)) => Outcome::Failed(cause),
        ended if tells_length && headers.contains_key(header::CONTENT_LENGTH) => {
            Outcome::Complete(ended.is_some())
        }
        ended => {
            let running = (&mut running, ended.is_some(), &progress);
            collect(running, body, &mut collected, response_limit).await
        }
    };
    let failed = matches!(outcome, Outcome::Failed(_));
    if !failed && response::is_bodiless(status) && !collected.is_empty() {
        let reason = format!("a response with status {status} has no body");
        return Err(Cause::InvalidResponse(reason));
    }
    let is_final = matches!(outcome, Outcome::Complete(true));
    let body = match outcome {
        Outcome::Complete(ended) => {
            // What the guest does after its response is for nobody to wait for. It may, once nothing
            // can fail any more: a client that was told of a failure was told what it changed.
            if !ended {
                stream::go_on(running, tenant, client, id);
            }
            // A guest may tell the length of what it leaves out; else the host knows it.
            if !tells_length || !collected.is_empty() {
                headers.remove(header::CONTENT_LENGTH);
            }
            collected.into_body()
        }
        Outcome::More { body, ended } => {
            effects.begin_stream();
            if !ended {
                stream::go_on(running, Arc::clone(&tenant), client.clone(), id.clone());
            }
            stream(collected, body, response_limit, progress, client, (tenant, id))
        }
        Outcome::Failed(cause) => return Err(cause),
    };
    Ok(Response { status, headers, body, is_final })
}

/// Why a guest answered with an error. A state operation that failed is most likely why, and what
/// is known of that helps its client more.
fn gave_up(code: &impl Debug, effects: &Effects) -> Cause {
    match effects.failure() {
        Some(error) => {
            let reason = match &error {
                StateError::Rejected(rejection) => rejection.to_string(),
                _ => String::new(),
            };
            Cause::of_state(&error, effects.applied(), reason)
        }
        None => Cause::Internal(format!("the guest answered with the error {code:?}")),
    }
}

/// Waits for the guest's response, or its end without one. The second part is how it ended, if it
/// has.
async fn first<E>(
    running: &mut Running,
    reply: oneshot::Receiver<Reply<E>>,
) -> (Option<Reply<E>>, Option<Result<(), Cause>>) {
    let mut reply = pin!(reply);
    let mut ended = None;
    poll_fn(|context| {
        if ended.is_none()
            && let Poll::Ready(end) = running.as_mut().poll(context)
        {
            ended = Some(end);
        }
        match reply.as_mut().poll(context) {
            Poll::Ready(Ok(reply)) => Poll::Ready((Some(reply), ended.take())),
            // Dropped with the store, or by the guest, which then has not ended yet.
            Poll::Ready(Err(_)) if ended.is_some() => Poll::Ready((None, ended.take())),
            Poll::Ready(Err(_)) => Poll::Ready((None, None)),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}

async fn run(
    call: Call,
    indices: Arc<ProxyIndices>,
    request: Request,
    replier: oneshot::Sender<Reply<ErrorCode>>,
    progress: Progress,
    client: ClientTime,
) -> Result<(), Cause> {
    let context = call.context(request.id.clone());
    let ran = call::within(&call.tenant, Some(&client), async {
        let mut store = call::store(&call.tenant, &call.loaded, context);
        // Dropped before the store, and with it the body.
        let guard = BreakOnDrop::new(progress);
        let mut http = store.data_mut().http();
        let scheme = if request.tls { Scheme::Https } else { Scheme::Http };
        let request = http.new_incoming_request(scheme, incoming(request, client.clone()))?;
        let out = http.new_response_outparam(replier)?;
        let instance = call.loaded.pre.instantiate_async(&mut store).await?;
        let guest = indices.load(&mut store, &instance)?;
        guest.wasi_http_incoming_handler().call_handle(&mut store, request, out).await?;
        call.returned(&store);
        guard.disarm();
        Ok(())
    })
    .await;
    // The store is gone; only now may its place be taken.
    drop(call.permit);
    ran
}

/// A request's body on its way to the guest, which counts for how long it waits for the client.
pub(super) struct FromClient {
    body: Body,
    client: ClientTime,
}

impl HttpBody for FromClient {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let polled = Pin::new(&mut self.body).poll_frame(context);
        match polled {
            Poll::Pending => self.client.begin(For::Body),
            // A body that is here in full never waits.
            Poll::Ready(_) if matches!(self.body, Body::Stream(_)) => self.client.end(For::Body),
            Poll::Ready(_) => {}
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// The request as `wasi:http` wants it: with an authority, and with the crate's errors in its body.
pub(super) fn incoming(
    request: Request,
    client: ClientTime,
) -> http::Request<http_body_util::combinators::UnsyncBoxBody<Bytes, HttpError>> {
    let Request { method, uri, mut headers, body, .. } = request;
    let body = FromClient { body, client };
    if uri.authority().is_none() && !headers.contains_key(header::HOST) {
        // HTTP/1.0 needs none.
        headers.insert(header::HOST, HeaderValue::from_static("localhost"));
    }
    let body = body.map_err(|error| match error {
        BodyError::TooLarge { limit } => HttpError::HttpRequestBodySize(u64::try_from(limit).ok()),
        BodyError::TooMany => HttpError::ConnectionLimitReached,
        BodyError::Timeout => HttpError::ConnectionReadTimeout,
        BodyError::Broken => HttpError::ConnectionTerminated,
    });
    let mut incoming = http::Request::new(body.boxed_unsync());
    *incoming.method_mut() = method;
    *incoming.uri_mut() = uri;
    *incoming.headers_mut() = headers;
    incoming
}
