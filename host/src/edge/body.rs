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
use http::Version;
use http_body::{Body as HttpBody, Frame};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit, watch},
    time::{Instant, Sleep},
};

use crate::runtime::{Body, BodyError, Tenant};

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
    /// The guest that they are for.
    pub(super) tenant: &'a Tenant,
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
        let own = self.tenant.bodies().try_acquire_many(bytes).ok()?;
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

/// Takes a body from a client: in full if it has to be or is small, else as a stream. A guest that is given a stream
/// may wait for its client, in one of the `slow` places: without one, the body has to begin to arrive first.
pub(super) async fn take<'a>(
    mut body: Incoming,
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
    // Known before any of it is read. What the client sends nevertheless, `wire` throws away.
    if announced > limit {
        return Err(BodyError::TooLarge { limit });
    }
    // With HTTP/2, trailers may follow a body of any length.
    let small = version < Version::HTTP_2 && hint.exact().is_some_and(|bytes| bytes <= SMALL_BYTES);
    let (mut wait, timer) = Wait::begin(rules);
    if whole || small {
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
    let slow = bodies.tenant.for_slow_clients();
    let mut timer = Box::pin(timer);
    let mut first = None;
    let mut place = Arc::clone(&slow).try_acquire_owned().ok();
    if place.is_none() {
        let free = Arc::clone(&slow).acquire_owned();
        tokio::select! {
            frame = body.frame() => match frame {
                Some(frame) => first = Some(frame.map_err(|_| BodyError::Broken)?),
                None => return Ok((Body::Whole(Bytes::new()), None)),
            },
            free = free => place = free.ok(),
            () = std::future::poll_fn(|context| wait.poll(timer.as_mut(), context, 0)) => {
                discard(body, rules.timeout);
                return Err(BodyError::Timeout);
            }
        }
    }
    let arriving = Arriving {
        body: Some(body),
        first,
        left: limit,
        limit,
        wait,
        timer,
        slow,
        place,
        patience: None,
        gained: 0,
        trouble: Arc::clone(trouble),
    };
    Ok((Body::Stream(arriving.boxed_unsync()), None))
}

/// Reads a body to its end. What it takes in memory is held only as far as all bodies together may be.
///
/// A body that comes in one part is handed on as it is. The parts of others are put into one buffer: each by itself
/// would take far more than it holds, as little as one byte.
///
/// Once there is no room, it is read on and thrown away, up to a bound, so that the connection can
/// serve the next request.
async fn read<'a>(
    mut body: Incoming,
    limit: usize,
    bodies: Room<'a>,
    arrived: &AtomicUsize,
) -> Result<(Bytes, Option<Held<'a>>), BodyError> {
    let most = body.size_hint().exact().and_then(|length| usize::try_from(length).ok());
    let most = most.unwrap_or(limit).min(limit);
    let (whole, parts) = (Bytes::new(), Vec::new());
    let mut gathered = Gathered { bodies, most, whole, parts, held: None };
    let mut length = 0_usize;
    let mut refusal = None;
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(|_| BodyError::Broken)?.into_data() else { continue };
        length = length.saturating_add(data.len());
        arrived.store(length, Ordering::Relaxed);
        if length > limit && refusal.is_none() {
            // The connection closes, and `wire` throws the rest away.
            return Err(BodyError::TooLarge { limit });
        }
        if refusal.is_none() && !gathered.add(data) {
            refusal = Some(BodyError::TooMany);
        }
        if refusal.is_some() {
            gathered.clear();
            if length > MAX_DISCARDED {
                break;
            }
        }
    }
    match refusal {
        Some(error) => Err(error),
        None => Ok(gathered.end()),
    }
}

/// A body so far: one part as it came, or several in one buffer.
struct Gathered<'a> {
    bodies: Room<'a>,
    /// Bytes that it can have at most.
    most: usize,
    whole: Bytes,
    parts: Vec<u8>,
    /// What the one or the other takes.
    held: Option<Held<'a>>,
}

impl Gathered<'_> {
    /// Takes one more part, if there is room for it.
    fn add(&mut self, data: Bytes) -> bool {
        if self.whole.is_empty() && self.parts.is_empty() {
            self.whole = data;
            return self.hold(self.whole.len());
        }
        let first = std::mem::take(&mut self.whole);
        let length = first.len().max(self.parts.len()).saturating_add(data.len());
        if length > self.parts.capacity() {
            // Twice as much each time, so that a body is copied twice at most on the average.
            let capacity = length.next_power_of_two().min(self.most).max(length);
            let held = first.len().saturating_add(self.parts.capacity());
            if !self.hold(capacity.saturating_sub(held)) {
                return false;
            }
            self.parts.reserve_exact(capacity.saturating_sub(self.parts.len()));
        }
        self.parts.extend_from_slice(&first);
        self.parts.extend_from_slice(&data);
        true
    }

    fn hold(&mut self, bytes: usize) -> bool {
        let Some(more) = self.bodies.take(bytes) else { return false };
        match &mut self.held {
            Some(held) => held.merge(more),
            None => self.held = Some(more),
        }
        true
    }

    fn clear(&mut self) {
        (self.whole, self.parts, self.held) = (Bytes::new(), Vec::new(), None);
    }
}

impl<'a> Gathered<'a> {
    fn end(self) -> (Bytes, Option<Held<'a>>) {
        let bytes = if self.parts.is_empty() { self.whole } else { self.parts.into() };
        (bytes, self.held)
    }
}

/// A body that is handed on as it arrives. At most one part of it is held at a time, so it takes
/// nothing of what all bodies may.
struct Arriving {
    /// None once it has ended or failed.
    body: Option<Incoming>,
    /// What has arrived of it already.
    first: Option<Frame<Bytes>>,
    left: usize,
    limit: usize,
    wait: Wait,
    timer: Pin<Box<Sleep>>,
    /// The guest's places for slow clients, and the one that this has of them.
    slow: Arc<Semaphore>,
    place: Option<OwnedSemaphorePermit>,
    /// Until when its client may send next to nothing without a place, and what it has sent since that began.
    patience: Option<Pin<Box<Sleep>>>,
    gained: usize,
    trouble: Trouble,
}

/// A client that sends fewer than [`ENOUGH`] bytes for so long, while its guest waits for some of it, is slow.
const SLOW: Duration = Duration::from_secs(1);

/// See [`SLOW`]. A connection over a modem sends several times as many.
const ENOUGH: usize = 1 << 10;

impl Arriving {
    /// Ready once a client that sends nothing is no longer waited for.
    fn is_given_up(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let arrived = self.limit.saturating_sub(self.left);
        if self.wait.poll(self.timer.as_mut(), context, arrived).is_ready() {
            return Poll::Ready(());
        }
        if self.place.is_some() {
            return Poll::Pending;
        }
        let patience = self.patience.get_or_insert_with(|| Box::pin(tokio::time::sleep(SLOW)));
        if patience.as_mut().poll(context).is_ready() {
            self.patience = None;
            self.place = Arc::clone(&self.slow).try_acquire_owned().ok();
            if self.place.is_none() {
                return Poll::Ready(());
            }
        }
        Poll::Pending
    }

    fn fail(&mut self, error: BodyError) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        // The first reason is the one that counts.
        let _ = self.trouble.set(error.clone());
        // What is too large closes the connection, and `wire` throws the rest away.
        if let Some(body) = self.body.take()
            && !matches!(error, BodyError::TooLarge { .. })
        {
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
        let first = this.first.take();
        let Some(body) = &mut this.body else { return Poll::Ready(None) };
        let polled = match first {
            Some(first) => Poll::Ready(Some(Ok(first))),
            None => Pin::new(body).poll_frame(context),
        };
        let bytes = match &polled {
            Poll::Pending => 0,
            Poll::Ready(Some(Ok(frame))) => frame.data_ref().map_or(0, Bytes::len),
            Poll::Ready(_) => ENOUGH,
        };
        this.gained = this.gained.saturating_add(bytes);
        if this.gained >= ENOUGH {
            (this.place, this.patience, this.gained) = (None, None, 0);
        }
        match polled {
            Poll::Pending => {
                ready!(this.is_given_up(context));
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
