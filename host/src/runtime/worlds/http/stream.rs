//! Responses that outgrow the buffer, and guests that go on after them.

use std::{
    fmt::Display,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
    vec,
};

use bytes::Bytes;
use http::HeaderValue;
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::BodyExt as _;
use tracing::Level;
use wasmtime_wasi_http::p2::body::HyperOutgoingBody;

use super::{Progress, Running, reply::Collected};
use crate::{
    logging::{self, Failure},
    runtime::{
        BodyError,
        client_time::{ClientTime, For},
        failure::Cause,
        message::Body,
        tenant::Tenant,
    },
};

/// A client that takes nothing for so long is slow: its guest holds its place only as one of a few.
const SLOW: Duration = Duration::from_secs(1);

/// How often it is looked whether a client is slow.
const LOOK: Duration = Duration::from_millis(250);

/// Lets a guest go on in a task of its own, within its limits. Nobody waits for it: whether its
/// client still reads or not, it holds its place in the pool until it ends. While its client takes nothing, that is
/// one of the places for slow clients; where there is none, it ends.
pub(super) fn go_on(running: Running, tenant: Arc<Tenant>, client: ClientTime, id: HeaderValue) {
    tokio::spawn(async move {
        let ended = tokio::select! {
            ended = running => ended,
            () = too_slow(&tenant, &client) => {
                let guest = &**tenant.name();
                tracing::debug!(guest, id = id.to_str().unwrap_or_default(), "a client was too slow");
                return;
            }
        };
        if let Err(cause) = ended {
            log(tenant.name(), &id, &cause);
        }
    });
}

/// Waits until a client has taken nothing for a while and none of the places for that is left.
async fn too_slow(tenant: &Tenant, client: &ClientTime) {
    let mut place = None;
    loop {
        tokio::time::sleep(LOOK).await;
        if client.since_it_took() < SLOW {
            place = None;
        } else if place.is_none() {
            place = tenant.for_slow_clients().try_acquire_owned().ok();
            if place.is_none() {
                return;
            }
        }
    }
}

/// Says that a guest failed when its client could no longer be told.
fn log(guest: &str, id: &HeaderValue, cause: &Cause) {
    let kind = match cause {
        Cause::CpuLimit => "cpu_limit",
        Cause::WallLimit => "wall_limit",
        Cause::Trap(_) => "trap",
        _ => "other",
    };
    failed("a guest failed after its response had begun", kind, guest, id, cause);
}

fn failed(
    what: &'static str,
    kind: &'static str,
    guest: &str,
    id: &HeaderValue,
    reason: &dyn Display,
) {
    let (level, id) = (Level::ERROR, id.to_str().unwrap_or_default());
    logging::log(&Failure { level, what, kind, guest, id, method: None, reason });
}

/// What was collected, and then what follows, up to `limit` bytes in all.
pub(super) fn stream(
    collected: Collected,
    body: HyperOutgoingBody,
    limit: usize,
    progress: Progress,
    client: ClientTime,
    (tenant, id): (Arc<Tenant>, HeaderValue),
) -> Body {
    let left = limit.saturating_sub(collected.bytes);
    let collected = collected.parts.into_iter();
    let streaming = Streaming { collected, body, left, limit, progress, client, tenant, id };
    Body::Stream(streaming.boxed_unsync())
}

struct Streaming {
    collected: vec::IntoIter<Bytes>,
    body: HyperOutgoingBody,
    /// Bytes that may still follow what was collected.
    left: usize,
    limit: usize,
    progress: Progress,
    /// A response that is not asked for waits for its client.
    client: ClientTime,
    /// Whose response it is, and to which request, for the log.
    tenant: Arc<Tenant>,
    id: HeaderValue,
}

impl HttpBody for Streaming {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        self.client.end(For::Response);
        let polled = self.next(context);
        if matches!(polled, Poll::Ready(Some(Ok(_)))) {
            self.client.begin(For::Response);
        }
        polled
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}

impl Streaming {
    fn next(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if let Some(part) = self.collected.next() {
            return Poll::Ready(Some(Ok(Frame::data(part))));
        }
        // A body that does not come to its end closes the connection, so that its client does not
        // take it for whole.
        let frame = std::task::ready!(Pin::new(&mut self.body).poll_frame(context));
        let frame = match frame {
            None if self.progress.broke_off() => Some(Err(BodyError::Broken)),
            frame => frame.map(|frame| frame.map_err(|_| BodyError::Broken)),
        };
        if let Some(Ok(frame)) = &frame {
            let bytes = frame.data_ref().map_or(0, Bytes::len);
            match self.left.checked_sub(bytes) {
                Some(left) => self.left = left,
                None => {
                    let limit = self.limit;
                    let what = "a response was cut off at its limit";
                    let reason = format_args!("it is over {limit} bytes");
                    failed(what, "response_limit", self.tenant.name(), &self.id, &reason);
                    return Poll::Ready(Some(Err(BodyError::TooLarge { limit })));
                }
            }
        }
        Poll::Ready(frame)
    }
}

impl Drop for Streaming {
    fn drop(&mut self) {
        // A guest that goes on after its response waits for nobody.
        self.client.end(For::Response);
    }
}
