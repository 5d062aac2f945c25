//! `wasi:http/service` 0.3, or anything that exports its handler: one instance, one call.
//!
//! A response is collected and streams as one of 0.2 does: see [`super::http`]. Beyond that the guest is one that waits
//! in several places at a time, which takes wasmtime's event loop: the store is polled until the guest's last task has
//! ended and its response's body was taken, and its limits are around all of that.

use std::{
    future::poll_fn,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{HeaderMap, header, uri::Scheme};
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::BodyExt as _;
use tokio::sync::oneshot;
use wasmtime::component::InstancePre;
use wasmtime_wasi_http::{
    Error as HttpError, FieldMap, WasiHttpHooks, WasiHttpView as _,
    p2::body::HyperOutgoingBody,
    p3::{
        self,
        bindings::{ServiceIndices, http::types::ErrorCode},
    },
};

use super::{
    Handler, World,
    http::{BreakOnDrop, Progress, Reply, answer, incoming},
};
use crate::{
    interfaces::{self, Interface},
    runtime::{
        Request, Response,
        call::{self, Call},
        client_time::ClientTime,
        failure::Cause,
    },
};

/// The world.
pub(super) struct Service;

impl World for Service {
    fn name(&self) -> &'static str {
        "wasi:http/service"
    }

    fn handler(&self) -> &'static str {
        "wasi:http/handler@0.3.x"
    }

    fn has(&self, export: Interface<'_>) -> bool {
        export.base == "wasi:http/handler" && export.is_of_0_3()
    }

    fn offers(&self, import: Interface<'_>) -> bool {
        interfaces::is_offered_to_0_3(import)
    }

    fn takes_whole_bodies(&self) -> bool {
        false
    }

    fn is_concurrent(&self) -> bool {
        true
    }

    fn find(&self, guest: &InstancePre<interfaces::Context>) -> wasmtime::Result<Arc<dyn Handler>> {
        Ok(Arc::new(ServiceIndices::new(guest)?))
    }
}

impl Handler for ServiceIndices {
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

async fn run(
    call: Call,
    indices: Arc<ServiceIndices>,
    request: Request,
    replier: oneshot::Sender<Reply<ErrorCode>>,
    progress: Progress,
    client: ClientTime,
) -> Result<(), Cause> {
    let context = call.context(request.id.clone());
    // Around the event loop and not in it: what waits in there may not be asked while the guest computes, or waits in
    // a call of WASI 0.2.
    let ran = call::within(&call.tenant, Some(&client), async {
        let mut store = call::store(&call.tenant, &call.loaded, context);
        // Dropped before the store, and with it the body.
        let guard = BreakOnDrop::new(progress.clone());
        let instance = call.loaded.pre.instantiate_async(&mut store).await?;
        let guest = indices.load(&mut store, &instance)?;
        let request = received(request, &client, store.data_mut().http().hooks);
        store
            .run_concurrent(async |accessor| -> wasmtime::Result<()> {
                let taken = match guest.handle(accessor, request).await? {
                    Ok(response) => {
                        let (told, sent) = oneshot::channel();
                        let (body_dropped, taken) = oneshot::channel();
                        // What the guest is told of its response's fate.
                        let sent = async { sent.await.unwrap_or(Ok(())) };
                        let response =
                            accessor.with(|mut access| response.into_http(&mut access, sent))?;
                        let length = content_length(response.headers());
                        let response = response.map(|body| {
                            let told = Some(told);
                            Taken { body, length, taken: 0, told, _dropped: body_dropped }
                                .boxed_unsync()
                        });
                        // Nobody may wait for it any more.
                        let _ = replier.send(Ok(response));
                        Some(taken)
                    }
                    Err(code) => {
                        let _ = replier.send(Err(code));
                        None
                    }
                };
                // A guest may go on after its response, as long as it may run at all.
                poll_fn(|context| accessor.poll_no_interesting_tasks(context)).await;
                // A body that it only hands on, such as that of the request, needs no task of its own. It is its
                // response all the same, and takes its place until it has been taken.
                if let Some(taken) = taken {
                    progress.wait_for_body();
                    // An error, as nothing is ever sent: the other end was dropped.
                    let _ = taken.await;
                }
                Ok(())
            })
            .await??;
        call.returned(&store);
        guard.disarm();
        Ok(())
    })
    .await;
    // The store is gone; only now may its place be taken.
    drop(call.permit);
    ran
}

/// The request as the guest gets it. Which server it asks is in its URL, or in a header.
fn received(request: Request, client: &ClientTime, hooks: &mut dyn WasiHttpHooks) -> p3::Request {
    let scheme = if request.tls { Scheme::HTTPS } else { Scheme::HTTP };
    let (head, body) = incoming(request, client.clone()).into_parts();
    let http::uri::Parts { authority, path_and_query, .. } = head.uri.into_parts();
    let by_header =
        || head.headers.get(header::HOST).and_then(|host| host.as_bytes().try_into().ok());
    let authority = authority.or_else(by_header);
    let headers = FieldMap::new_immutable(hooks, head.headers);
    // How the guest fared with the body is its own business.
    p3::Request::new(head.method, Some(scheme), authority, path_and_query, headers, None, body).0
}

/// The length that a head says its body has.
fn content_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// A response's body on its way out, which tells the guest how it ended, and its call when it is gone.
struct Taken {
    body: HyperOutgoingBody,
    /// How long the guest says that it is. The crate may lose the error of one that is shorter: it puts it into a queue
    /// of one, in which the last part of the body may still be.
    length: Option<u64>,
    taken: u64,
    told: Option<oneshot::Sender<Result<(), HttpError>>>,
    _dropped: oneshot::Sender<()>,
}

impl Taken {
    fn is_short(&self) -> bool {
        self.length.is_some_and(|length| self.taken < length)
    }

    fn tell(&mut self, end: Result<(), HttpError>) {
        if let Some(told) = self.told.take() {
            // The guest need not ask.
            let _ = told.send(end);
        }
    }
}

impl HttpBody for Taken {
    type Data = Bytes;
    type Error = HttpError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, HttpError>>> {
        let polled = Pin::new(&mut self.body).poll_frame(context);
        if let Poll::Ready(Some(Ok(frame))) = &polled {
            let bytes = frame.data_ref().map_or(0, Bytes::len);
            self.taken = self.taken.saturating_add(u64::try_from(bytes).unwrap_or(u64::MAX));
        }
        match &polled {
            Poll::Ready(None) if self.is_short() => {
                let sent = Some(self.taken);
                self.tell(Err(HttpError::HttpResponseBodySize(sent)));
                return Poll::Ready(Some(Err(HttpError::HttpResponseBodySize(sent))));
            }
            Poll::Ready(None) => self.tell(Ok(())),
            // The guest caused it, and is told by the crate.
            Poll::Ready(Some(Err(_))) => self.told = None,
            _ => {}
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        !self.is_short() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.tell(Err(HttpError::ConnectionTerminated));
    }
}
