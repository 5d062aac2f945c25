//! Request bodies: read in full or handed on as they arrive, within the limits on clients.

use std::{
    pin::{Pin, pin},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, Version, header};
use http_body::{Body as HttpBody, Frame};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use tokio::{
    sync::{Semaphore, SemaphorePermit, watch},
    time::{Instant, Sleep},
};

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

/// Longest time without a byte of a body that has begun, once the host stops: a client that still sends
/// shows it within that, and one that is gone does not hold up the end. Up to twice as long passes
/// before it is noticed.
const STALL: Duration = Duration::from_secs(3);

/// What bodies may be, and how long they are waited for.
pub(super) struct Rules {
    /// Bytes of one body.
    pub(super) limit: usize,
    /// Longest time for a whole body.
    pub(super) timeout: Duration,
    /// Set once the host stops.
    pub(super) draining: watch::Receiver<Option<Duration>>,
}

/// The wait for one body. Looks again every [`STALL`], so that it need not be told that the host stops.
struct Wait {
    rules: Arc<Rules>,
    until: Option<Instant>,
    /// Bytes that had arrived at the last look.
    seen: usize,
}

impl Wait {
    /// With the timer to poll it with.
    fn begin(rules: &Arc<Rules>) -> (Self, Sleep) {
        let until = Instant::now().checked_add(rules.timeout);
        let timer = tokio::time::sleep(rules.timeout.min(STALL));
        (Self { rules: Arc::clone(rules), until, seen: 0 }, timer)
    }

    /// Ready once the body, of which so many bytes have arrived, is to be given up.
    fn poll(
        &mut self,
        mut timer: Pin<&mut Sleep>,
        context: &mut Context<'_>,
        arrived: usize,
    ) -> Poll<()> {
        loop {
            ready!(timer.as_mut().poll(context));
            let now = Instant::now();
            // A guest that was not waiting says nothing of its client.
            let waited = now.saturating_duration_since(timer.deadline()) < STALL;
            let stalls = waited && arrived == self.seen && self.rules.draining.borrow().is_some();
            if stalls || self.until.is_some_and(|until| until <= now) {
                return Poll::Ready(());
            }
            self.seen = arrived;
            let left = self.until.map_or(STALL, |until| until.saturating_duration_since(now));
            timer.as_mut().reset(now + left.min(STALL));
        }
    }
}

/// Takes a body from a client: in full if it has to be or is small, else as a stream.
pub(super) async fn take<'a>(
    body: Incoming,
    headers: &HeaderMap,
    version: Version,
    whole: bool,
    bodies: Room<'a>,
    rules: &Arc<Rules>,
    trouble: &Trouble,
) -> Result<Read<'a>, BodyError> {
    if body.is_end_stream() {
        return Ok((Body::Whole(Bytes::new()), None));
    }
    let limit = rules.limit;
    let hint = body.size_hint();
    let announced = usize::try_from(hint.lower()).unwrap_or(usize::MAX);
    // A client that waits for permission to send gets the refusal instead.
    let waits = headers
        .get(header::EXPECT)
        .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"));
    if announced > limit && waits {
        return Err(BodyError::TooLarge { limit });
    }
    // With HTTP/2, trailers may follow a body of any length.
    let small = version < Version::HTTP_2 && hint.exact().is_some_and(|bytes| bytes <= SMALL_BYTES);
    let (mut wait, timer) = Wait::begin(rules);
    if whole || small || announced > limit {
        let arrived = AtomicUsize::new(0);
        let mut reading = pin!(read(body, limit, bodies, &arrived));
        let mut timer = pin!(timer);
        let read = std::future::poll_fn(|context| match reading.as_mut().poll(context) {
            Poll::Pending => wait
                .poll(timer.as_mut(), context, arrived.load(Ordering::Relaxed))
                .map(|()| Err(BodyError::Timeout)),
            read => read,
        });
        let (bytes, held) = read.await?;
        return Ok((Body::Whole(bytes), held));
    }
    let arriving = Arriving {
        body: Some(body),
        left: limit,
        limit,
        wait,
        timer: Box::pin(timer),
        trouble: Arc::clone(trouble),
    };
    Ok((Body::Stream(arriving.boxed_unsync()), None))
}

/// Reads a body to its end. Each part of it is held only as far as all bodies together may be.
///
/// Once it is refused, it is read on and thrown away, up to a bound: a connection closed with
/// unread data would be reset, and the client would lose the answer.
async fn read<'a>(
    mut body: Incoming,
    limit: usize,
    bodies: Room<'a>,
    arrived: &AtomicUsize,
) -> Result<(Bytes, Option<Held<'a>>), BodyError> {
    let mut parts = Vec::new();
    let mut length = 0_usize;
    let mut held: Option<Held<'a>> = None;
    let mut refusal = None;
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(|_| BodyError::Broken)?.into_data() else { continue };
        length = length.saturating_add(data.len());
        arrived.store(length, Ordering::Relaxed);
        if length > limit && refusal.is_none() {
            refusal = Some(BodyError::TooLarge { limit });
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
    wait: Wait,
    timer: Pin<Box<Sleep>>,
    trouble: Trouble,
}

impl Arriving {
    fn fail(&mut self, error: BodyError) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        // The first reason is the one that counts.
        let _ = self.trouble.set(error.clone());
        if let Some(body) = self.body.take() {
            discard(body, self.wait.rules.timeout);
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
        let this = &mut *self;
        let Some(body) = &mut this.body else { return Poll::Ready(None) };
        match Pin::new(body).poll_frame(context) {
            Poll::Pending => {
                let arrived = this.limit.saturating_sub(this.left);
                ready!(this.wait.poll(this.timer.as_mut(), context, arrived));
                self.fail(BodyError::Timeout)
            }
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
            discard(body, self.wait.rules.timeout);
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
