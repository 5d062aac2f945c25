//! Request bodies: read in full or handed on as they arrive, within the limits on clients.

use std::{
    pin::Pin,
    sync::{Arc, OnceLock},
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::Version;
use http_body::{Body as HttpBody, Frame};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use tokio::{
    sync::{Semaphore, SemaphorePermit},
    time::Sleep,
};

use super::Limits;
use crate::runtime::{Body, BodyError, join};

/// Bytes of a refused or unread body that are still read, so that the client gets to read the
/// answer.
const MAX_DISCARDED: usize = 32 << 20;

/// Bytes of an announced body that is read before a guest is given a place in the pool, so that a
/// slow client holds no place with it. One of unknown length is handed on as it comes: its client
/// may be waiting for the guest's answer.
const SMALL_BYTES: u64 = 64 << 10;

/// A body and what it takes of what bodies may, to be kept for as long as the body is.
pub(super) type Read<'a> = (Body, Option<Held<'a>>);

/// Bytes that bodies may still take: those of one guest, and all.
#[derive(Clone, Copy)]
pub(super) struct Room<'a> {
    pub(super) own: &'a Semaphore,
    pub(super) all: &'a Semaphore,
}

/// Bytes that a body takes of both.
pub(super) struct Held<'a> {
    own: SemaphorePermit<'a>,
    all: SemaphorePermit<'a>,
}

impl<'a> Room<'a> {
    fn take(self, bytes: usize) -> Option<Held<'a>> {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        let own = self.own.try_acquire_many(bytes).ok()?;
        let all = self.all.try_acquire_many(bytes).ok()?;
        Some(Held { own, all })
    }
}

impl Held<'_> {
    fn merge(&mut self, more: Self) {
        self.own.merge(more.own);
        self.all.merge(more.all);
    }
}

/// Why a body that was handed on did not come to its end, if it did not.
pub(super) type Trouble = Arc<OnceLock<BodyError>>;

/// Takes a body from a client: in full if it has to be or is small, else as a stream.
pub(super) async fn take<'a>(
    body: Incoming,
    version: Version,
    whole: bool,
    limits: &Limits,
    bodies: Room<'a>,
    trouble: &Trouble,
) -> Result<Read<'a>, BodyError> {
    if body.is_end_stream() {
        return Ok((Body::Whole(Bytes::new()), None));
    }
    let hint = body.size_hint();
    let announced = usize::try_from(hint.lower()).unwrap_or(usize::MAX);
    // Known before any of it is read. What the client sends nevertheless, `wire` throws away.
    if announced > limits.body {
        return Err(BodyError::TooLarge { limit: limits.body });
    }
    // With HTTP/2, trailers may follow a body of any length.
    let small = version < Version::HTTP_2 && hint.exact().is_some_and(|bytes| bytes <= SMALL_BYTES);
    if whole || small {
        let reading = read(body, limits.body, bodies);
        let (bytes, held) = tokio::time::timeout(limits.body_timeout, reading)
            .await
            .unwrap_or(Err(BodyError::Timeout))?;
        return Ok((Body::Whole(bytes), held));
    }
    let arriving = Arriving {
        body: Some(body),
        left: limits.body,
        limit: limits.body,
        deadline: Box::pin(tokio::time::sleep(limits.body_timeout)),
        timeout: limits.body_timeout,
        trouble: Arc::clone(trouble),
    };
    Ok((Body::Stream(arriving.boxed_unsync()), None))
}

/// Reads a body to its end. Each part of it is held only as far as all bodies together may be.
///
/// Once there is no room, it is read on and thrown away, up to a bound, so that the connection can
/// serve the next request.
async fn read<'a>(
    mut body: Incoming,
    limit: usize,
    bodies: Room<'a>,
) -> Result<(Bytes, Option<Held<'a>>), BodyError> {
    let mut parts = Vec::new();
    let mut length = 0_usize;
    let mut held: Option<Held<'a>> = None;
    let mut refusal = None;
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(|_| BodyError::Broken)?.into_data() else { continue };
        length = length.saturating_add(data.len());
        if length > limit && refusal.is_none() {
            // The connection closes, and `wire` throws the rest away.
            return Err(BodyError::TooLarge { limit });
        }
        if refusal.is_none() {
            match bodies.take(data.len()) {
                Some(more) => match &mut held {
                    Some(held) => held.merge(more),
                    None => held = Some(more),
                },
                None => refusal = Some(BodyError::TooMany),
            }
        }
        if refusal.is_none() {
            parts.push(data);
        } else {
            parts.clear();
            held = None;
            if length > MAX_DISCARDED {
                break;
            }
        }
    }
    match refusal {
        Some(error) => Err(error),
        None => Ok((join(parts), held)),
    }
}

/// A body that is handed on as it arrives. At most one part of it is held at a time, so it takes
/// nothing of what all bodies may.
struct Arriving {
    /// None once it has ended or failed.
    body: Option<Incoming>,
    left: usize,
    limit: usize,
    deadline: Pin<Box<Sleep>>,
    timeout: Duration,
    trouble: Trouble,
}

impl Arriving {
    fn fail(&mut self, error: BodyError) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        // The first reason is the one that counts.
        let _ = self.trouble.set(error.clone());
        // What is too large closes the connection, and `wire` throws the rest away.
        if let Some(body) = self.body.take()
            && !matches!(error, BodyError::TooLarge { .. })
        {
            discard(body, self.timeout);
        }
        Poll::Ready(Some(Err(error)))
    }
}

impl HttpBody for Arriving {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let Some(body) = &mut self.body else { return Poll::Ready(None) };
        match Pin::new(body).poll_frame(context) {
            Poll::Pending => match self.deadline.as_mut().poll(context) {
                Poll::Pending => Poll::Pending,
                Poll::Ready(()) => self.fail(BodyError::Timeout),
            },
            Poll::Ready(None) => {
                self.body = None;
                Poll::Ready(None)
            }
            Poll::Ready(Some(Err(_))) => {
                self.body = None;
                self.fail(BodyError::Broken)
            }
            Poll::Ready(Some(Ok(frame))) => {
                let bytes = frame.data_ref().map_or(0, Bytes::len);
                match self.left.checked_sub(bytes) {
                    Some(left) => {
                        self.left = left;
                        Poll::Ready(Some(Ok(frame)))
                    }
                    None => {
                        let limit = self.limit;
                        self.fail(BodyError::TooLarge { limit })
                    }
                }
            }
        }
    }
}

/// A guest that answers early leaves the rest of the body unread.
impl Drop for Arriving {
    fn drop(&mut self) {
        if let Some(body) = self.body.take()
            && !body.is_end_stream()
        {
            discard(body, self.timeout);
        }
    }
}

/// Reads what nobody wants, up to a bound in size and time: see [`read`].
fn discard(mut body: Incoming, longest: Duration) {
    let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
    runtime.spawn(tokio::time::timeout(longest, async move {
        let mut length = 0_usize;
        while let Some(Ok(frame)) = body.frame().await {
            length = length.saturating_add(frame.data_ref().map_or(0, Bytes::len));
            if length > MAX_DISCARDED {
                break;
            }
        }
    }));
}
