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
use http::Version;
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
    /// What a body takes of a guest's and of all. One that is small is not worth to be counted where a connection has
    /// one response at a time.
    pub(super) fn of(
        body: &Body,
        version: Version,
        waiting: &Arc<Waiting>,
        tenant: &Arc<Tenant>,
    ) -> Option<Self> {
        let bytes = match body {
            Body::Whole(bytes) if bytes.len() <= PIECE && version < Version::HTTP_2 => return None,
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

    /// Ends streams whose clients have taken nothing for too long. Whether some can only be ended with the connection:
    /// all of their responses is on its way already.
    pub(super) fn end_stalled(&self, longest: Duration) -> bool {
        let mut remain = false;
        for stream in self.lock().iter().filter(|stream| stream.since_it_took() > longest) {
            remain |= !stream.end();
        }
        remain
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

    /// Its connection is to end with it, at once: of HTTP/1, without waiting for what the client still sends.
    pub(super) fn makes_room(&self) {
        self.0.close_with_next();
        self.0.signals.make_room();
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        self.0.signals.end();
    }
}

/// What lasts until all of a response has been sent.
struct UnderWay {
    active: Active,
    /// What its body takes, unless it is small.
    _held: Option<Held>,
    /// Its stream, if it is one of HTTP/2: that may have to wait for its client.
    stream: Option<Arc<Stream>>,
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        if let Some(stream) = &self.stream {
            self.active.0.lock().retain(|other| !Arc::ptr_eq(other, stream));
        }
    }
}

/// Who has it: the body, and over HTTP/2 also its parts, which wait for their client where nobody else sees them.
enum Way {
    Http1(UnderWay),
    Http2(Arc<UnderWay>),
}

impl std::ops::Deref for Way {
    type Target = UnderWay;

    fn deref(&self) -> &UnderWay {
        match self {
            Self::Http1(way) => way,
            Self::Http2(way) => way,
        }
    }
}

/// A part of a response's body over HTTP/2. Dropped once it is on the wire, or will never be.
struct Part {
    bytes: Bytes,
    way: Arc<UnderWay>,
}

impl Part {
    fn of(bytes: Bytes, way: &Arc<UnderWay>) -> Bytes {
        if let Some(stream) = &way.stream {
            stream.gave();
        }
        Bytes::from_owner(Self { bytes, way: Arc::clone(way) })
    }
}

impl AsRef<[u8]> for Part {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        if let Some(stream) = &self.way.stream {
            stream.took();
        }
    }
}

/// A response's body, whose request is under way until this is dropped and all of it is sent.
pub(super) struct Sent {
    body: Body,
    way: Way,
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
        let stream = Stream::current();
        if let Some(stream) = &stream {
            stream.begin();
            active.0.lock().push(Arc::clone(stream));
        }
        let is_http2 = stream.is_some();
        let way = UnderWay { active, _held: held, stream };
        let way = if is_http2 { Way::Http2(Arc::new(way)) } else { Way::Http1(way) };
        let (ends_with_connection, told) = (false, None);
        Self { body, way, access, ends_with_connection, told }
    }

    /// Has it know the length that is told of it and not sent, and whether its end is that of the connection.
    pub(super) fn know(&mut self, told: Option<u64>, ends_with_connection: bool) {
        (self.told, self.ends_with_connection) = (told, ends_with_connection);
        if ends_with_connection {
            self.way.active.0.signals.end_with_connection();
        }
    }

    /// Its client may still be sending when the connection closes.
    pub(super) fn leaves_unread(&self) {
        self.way.active.0.signals.leave_unread();
    }

    /// Whether it is the last response of a connection of HTTP/1.
    pub(super) fn is_last(&self) -> bool {
        self.way.active.0.closes_with_next.load(Relaxed)
    }
}

impl HttpBody for Sent {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if let Some(stream) = &self.way.stream {
            stream.has_room();
        }
        let polled = match &mut self.body {
            Body::Whole(bytes) if bytes.len() > PIECE => {
                Poll::Ready(Some(Ok(Frame::data(bytes.split_to(PIECE)))))
            }
            body => Pin::new(body).poll_frame(context),
        };
        if self.ends_with_connection && matches!(polled, Poll::Ready(Some(Err(_)))) {
            self.way.active.0.signals.cut();
        }
        let Self { body, access, .. } = &mut *self;
        if let Some(access) = access {
            access.polled(&polled, body.is_end_stream());
        }
        match &self.way {
            Way::Http1(_) => polled,
            Way::Http2(way) => polled.map_ok(|frame| frame.map_data(|data| Part::of(data, way))),
        }
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
    given: Mutex<Given>,
    is_ended: AtomicBool,
    /// Its task has done all that it had to do.
    is_done: AtomicBool,
    task: AtomicWaker,
}

/// What a stream's client has to take.
#[derive(Default)]
struct Given {
    /// Parts of the body that are not on the wire yet.
    parts: usize,
    /// Since when it has had something to take, or has taken something and not all.
    since: Option<Instant>,
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

    fn given(&self) -> MutexGuard<'_, Given> {
        self.given.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// There is a response. hyper asks for none of its body before its client has made room for some.
    fn begin(&self) {
        self.given().since = Some(Instant::now());
    }

    /// hyper asks for more of the body.
    fn has_room(&self) {
        let mut given = self.given();
        if given.parts == 0 {
            given.since = None;
        }
    }

    /// A part of the body is on its way.
    fn gave(&self) {
        let mut given = self.given();
        given.parts = given.parts.saturating_add(1);
        given.since.get_or_insert_with(Instant::now);
    }

    /// It is on the wire.
    fn took(&self) {
        let mut given = self.given();
        given.parts = given.parts.saturating_sub(1);
        given.since = (given.parts > 0).then(Instant::now);
    }

    fn since_it_took(&self) -> Duration {
        self.given().since.map_or(Duration::ZERO, |since| since.elapsed())
    }

    /// Ends its task, which resets the stream (RFC 9113, 6.4). False where the task has ended before.
    fn end(&self) -> bool {
        self.is_ended.store(true, Relaxed);
        self.task.wake();
        !self.is_done.load(Relaxed)
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
        self.stream.is_done.store(polled.is_ready(), Relaxed);
        polled
    }
}
