//! Responses on their way to clients: what they take of memory together, and which wait for a client that takes
//! nothing.

use std::{
    cell::RefCell,
    future::Future,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::task::AtomicWaker;
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::rt::Executor;

use super::signals::Signals;
use crate::{
    logging::Access,
    runtime::{Body, BodyError, Tenant},
};

/// Bytes of a body that hyper is given at once. What it has been given it keeps until the client takes it, which
/// nobody sees over HTTP/2.
const PIECE: usize = 16 << 10;

/// What a response holds that streams, with its guest's writes that wait: see `wasmtime_wasi_http`.
const STREAMING: usize = 128 << 10;

/// How long a client may take nothing while memory for responses is short.
const SHORT_PATIENCE: Duration = Duration::from_secs(2);

/// Bytes of all responses that wait for their clients.
#[derive(Debug)]
pub(super) struct Waiting {
    bytes: AtomicUsize,
    most: usize,
}

impl Waiting {
    pub(super) fn new(most: usize) -> Arc<Self> {
        Arc::new(Self { bytes: AtomicUsize::new(0), most })
    }

    /// Bytes now.
    pub(super) fn bytes(&self) -> usize {
        self.bytes.load(Relaxed)
    }

    /// Whether a guest may make one more response: there is room, of its own and of all.
    pub(super) fn has_room_for(&self, tenant: &Tenant) -> bool {
        let own = tenant.responses().load(Relaxed);
        self.bytes() < self.most && own < tenant.limits().responses
    }
}

/// For how long a client may take nothing.
#[derive(Clone)]
pub(crate) struct Patience {
    /// Less while there is little room among these.
    waiting: Option<Arc<Waiting>>,
    longest: Duration,
}

impl Patience {
    pub(super) fn new(waiting: &Arc<Waiting>, longest: Duration) -> Self {
        Self { waiting: Some(Arc::clone(waiting)), longest }
    }

    /// Always the same.
    pub(crate) fn of(longest: Duration) -> Self {
        Self { waiting: None, longest }
    }

    pub(super) fn longest(&self) -> Duration {
        let is_short = self.waiting.as_ref().is_some_and(|waiting| {
            waiting.bytes() > waiting.most.checked_div(2).unwrap_or_default()
        });
        if is_short { self.longest.min(SHORT_PATIENCE) } else { self.longest }
    }
}

/// Bytes of one response, counted until this is dropped.
pub(super) struct Held {
    waiting: Arc<Waiting>,
    tenant: Arc<Tenant>,
    bytes: usize,
}

impl Held {
    /// What a body takes of a guest's and of all, if it is not small.
    pub(super) fn of(body: &Body, waiting: &Arc<Waiting>, tenant: &Arc<Tenant>) -> Option<Self> {
        let bytes = match body {
            Body::Whole(bytes) if bytes.len() <= PIECE => return None,
            Body::Whole(bytes) => bytes.len(),
            Body::Stream(_) => STREAMING,
        };
        waiting.bytes.fetch_add(bytes, Relaxed);
        tenant.responses().fetch_add(bytes, Relaxed);
        Some(Self { waiting: Arc::clone(waiting), tenant: Arc::clone(tenant), bytes })
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.waiting.bytes.fetch_sub(self.bytes, Relaxed);
        self.tenant.responses().fetch_sub(self.bytes, Relaxed);
    }
}

/// The requests of one connection.
#[derive(Default)]
pub(super) struct Requests {
    signals: Arc<Signals>,
    /// Whether the response to the next request of HTTP/1 says that it is the last.
    closes_with_next: AtomicBool,
    /// Responses of HTTP/2 whose client may take its time: each has a window of its own.
    slow: Mutex<Vec<Arc<Stream>>>,
}

impl Requests {
    /// What they tell the connection.
    pub(super) fn signals(&self) -> &Arc<Signals> {
        &self.signals
    }

    /// Has the response to the next request of HTTP/1 say that it is the last.
    pub(super) fn close_with_next(&self) {
        self.closes_with_next.store(true, Relaxed);
    }

    /// Ends streams whose clients have taken nothing for too long. Whether there are any that may become so.
    pub(super) fn end_stalled(&self, longest: Duration) -> bool {
        let slow = self.lock();
        for stream in slow.iter().filter(|stream| stream.since_it_took() > longest) {
            stream.end();
        }
        !slow.is_empty()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Arc<Stream>>> {
        // Nothing panics while it is locked, and it is whole between statements.
        self.slow.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A request under way, until dropped.
pub(super) struct Active(Arc<Requests>);

impl Active {
    pub(super) fn begin(requests: &Arc<Requests>) -> Self {
        requests.signals.begin();
        Self(Arc::clone(requests))
    }

    /// Whether its body may still have to be read.
    pub(super) fn has_body(&self, has_body: bool) {
        self.0.signals.has_body(has_body);
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        self.0.signals.end();
    }
}

/// A response's body, whose request is under way until this is dropped.
pub(super) struct Sent {
    body: Body,
    active: Active,
    /// What it takes, unless it is small.
    _held: Option<Held>,
    /// Its stream of HTTP/2, if it may have to wait for its client.
    stream: Option<Arc<Stream>>,
    /// Its line of the access log, if there is one.
    access: Option<Access>,
    /// Its client knows the end by that of the connection.
    ends_with_connection: bool,
    /// The length that is told of a body that is not sent.
    told: Option<u64>,
}

impl Sent {
    pub(super) fn new(
        body: Body,
        active: Active,
        held: Option<Held>,
        access: Option<Access>,
    ) -> Self {
        // Within its task.
        let stream = if held.is_some() { Stream::current() } else { None };
        if let Some(stream) = &stream {
            active.0.lock().push(Arc::clone(stream));
        }
        let (ends_with_connection, told) = (false, None);
        Self { body, active, _held: held, stream, access, ends_with_connection, told }
    }

    /// Has it know the length that is told of it and not sent, and whether its end is that of the connection.
    pub(super) fn know(&mut self, told: Option<u64>, ends_with_connection: bool) {
        (self.told, self.ends_with_connection) = (told, ends_with_connection);
        if ends_with_connection {
            self.active.0.signals.end_with_connection();
        }
    }

    /// Its client may still be sending when the connection closes.
    pub(super) fn leaves_unread(&self) {
        self.active.0.signals.leave_unread();
    }

    /// Whether it is the last response of a connection of HTTP/1.
    pub(super) fn is_last(&self) -> bool {
        self.active.0.closes_with_next.load(Relaxed)
    }
}

impl Drop for Sent {
    fn drop(&mut self) {
        if let Some(stream) = &self.stream {
            self.active.0.lock().retain(|other| !Arc::ptr_eq(other, stream));
        }
    }
}

impl HttpBody for Sent {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if let Some(stream) = &self.stream {
            stream.took();
        }
        let polled = match &mut self.body {
            Body::Whole(bytes) if bytes.len() > PIECE => {
                Poll::Ready(Some(Ok(Frame::data(bytes.split_to(PIECE)))))
            }
            body => Pin::new(body).poll_frame(context),
        };
        if let (Some(stream), Poll::Ready(Some(_))) = (&self.stream, &polled) {
            stream.gave();
        }
        if self.ends_with_connection && matches!(polled, Poll::Ready(Some(Err(_)))) {
            self.active.0.signals.cut();
        }
        let Self { body, access, .. } = &mut *self;
        if let Some(access) = access {
            access.polled(&polled, body.is_end_stream());
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.told.is_none() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.told.map_or_else(|| self.body.size_hint(), SizeHint::with_exact)
    }
}

/// A stream of HTTP/2: hyper has a task for each.
#[derive(Default)]
pub(super) struct Stream {
    /// Since when its client has had something to take.
    given: Mutex<Option<Instant>>,
    is_ended: AtomicBool,
    task: AtomicWaker,
}

thread_local! {
    /// The stream whose task runs on this thread.
    static CURRENT: RefCell<Option<Arc<Stream>>> = const { RefCell::new(None) };
}

impl Stream {
    /// The stream whose task this runs in, if it is one of HTTP/2.
    fn current() -> Option<Arc<Self>> {
        CURRENT.with_borrow(Clone::clone)
    }

    fn gave(&self) {
        *self.given.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    fn took(&self) {
        *self.given.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    fn since_it_took(&self) -> Duration {
        let given = self.given.lock().unwrap_or_else(PoisonError::into_inner);
        given.map_or(Duration::ZERO, |given| given.elapsed())
    }

    /// Ends its task, which resets the stream (RFC 9113, 6.4).
    fn end(&self) {
        self.is_ended.store(true, Relaxed);
        self.task.wake();
    }
}

/// Runs what hyper does beside a connection: the streams of HTTP/2, each of which can be ended by itself.
#[derive(Clone, Copy, Debug)]
pub(super) struct Streams;

impl<F> Executor<F> for Streams
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, task: F) {
        tokio::spawn(StreamTask { task: Some(Box::pin(task)), stream: Arc::default() });
    }
}

struct StreamTask<F> {
    /// None once it was ended.
    task: Option<Pin<Box<F>>>,
    stream: Arc<Stream>,
}

impl<F: Future<Output = ()>> Future for StreamTask<F> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        self.stream.task.register(context.waker());
        if self.stream.is_ended.load(Relaxed) {
            self.task = None;
        }
        let stream = Arc::clone(&self.stream);
        let Some(task) = &mut self.task else { return Poll::Ready(()) };
        CURRENT.set(Some(stream));
        let polled = task.as_mut().poll(context);
        CURRENT.set(None);
        polled
    }
}
