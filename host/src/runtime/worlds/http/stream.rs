//! Responses that outgrow the buffer, and guests that go on after them.

use std::{
    fmt::Display,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    vec,
};

use bytes::Bytes;
use http::HeaderValue;
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::BodyExt as _;
use tracing::Level;
use wasmtime_wasi_http::p2::body::HyperOutgoingBody;

use super::{Broken, Running, reply::Collected};
use crate::{
    logging::{self, Failure},
    runtime::{BodyError, failure::Cause, message::Body},
};

/// Lets a guest go on in a task of its own, within its limits. Nobody waits for it: whether its
/// client still reads or not, it holds its place in the pool until it ends.
pub(super) fn go_on(running: Running, guest: Arc<str>, id: HeaderValue) {
    tokio::spawn(async move {
        if let Err(cause) = running.await {
            log(&guest, &id, &cause);
        }
    });
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
    broken: Broken,
    guest: Arc<str>,
    id: HeaderValue,
) -> Body {
    let left = limit.saturating_sub(collected.bytes);
    let collected = collected.parts.into_iter();
    Body::Stream(Streaming { collected, body, left, limit, broken, guest, id }.boxed_unsync())
}

struct Streaming {
    collected: vec::IntoIter<Bytes>,
    body: HyperOutgoingBody,
    /// Bytes that may still follow what was collected.
    left: usize,
    limit: usize,
    broken: Broken,
    /// Whose response it is, and to which request, for the log.
    guest: Arc<str>,
    id: HeaderValue,
}

impl HttpBody for Streaming {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if let Some(part) = self.collected.next() {
            return Poll::Ready(Some(Ok(Frame::data(part))));
        }
        // A body that does not come to its end closes the connection, so that its client does not
        // take it for whole.
        let frame = std::task::ready!(Pin::new(&mut self.body).poll_frame(context));
        let frame = match frame {
            None if self.broken.is_set() => Some(Err(BodyError::Broken)),
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
                    failed(what, "response_limit", &self.guest, &self.id, &reason);
                    return Poll::Ready(Some(Err(BodyError::TooLarge { limit })));
                }
            }
        }
        Poll::Ready(frame)
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}
