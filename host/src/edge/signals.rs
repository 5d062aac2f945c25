//! What happens on a connection, as those that see it tell those that decide about its end.

use std::{
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    time::Duration,
};

use tokio::time::Instant;

/// What a connection and its wire tell each other. Both are on one thread.
#[derive(Default)]
pub(super) struct Signals {
    /// Requests so far.
    begun: AtomicUsize,
    /// Requests whose response is not complete.
    active: AtomicUsize,
    /// Requests that had begun when all that there was to write was written, and none was active.
    settled: AtomicUsize,
    /// The last request has a body, and it is not known that all of it was read.
    has_body: AtomicBool,
    /// Something of a head has arrived since the last request began.
    has_head: AtomicBool,
    is_http2: AtomicBool,
    /// The time for a request is over.
    has_expired: AtomicBool,
    /// The client may still be sending when the connection closes.
    leaves_unread: AtomicBool,
    /// A body that ends with the connection was cut off.
    is_cut: AtomicBool,
    /// Another connection waits for the place of this one.
    makes_room: AtomicBool,
    /// The client knows the end of the last response by that of the connection.
    ends_with_connection: AtomicBool,
}

impl Signals {
    pub(super) fn begin(&self) {
        self.has_head.store(false, Ordering::Relaxed);
        self.begun.store(self.begun() + 1, Ordering::Relaxed);
        self.active.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn end(&self) {
        self.active.fetch_sub(1, Ordering::Relaxed);
    }

    /// All that there was to write is written, and no request is active.
    pub(super) fn settle(&self) {
        self.settled.store(self.begun(), Ordering::Relaxed);
    }

    /// Whether nothing but answers to requests that ended has been written.
    pub(super) fn is_settled(&self) -> bool {
        self.settled.load(Ordering::Relaxed) == self.begun() && !self.is_active()
    }

    /// Whether the last request's body may still have to be read.
    pub(super) fn has_body(&self, has_body: bool) {
        self.has_body.store(has_body, Ordering::Relaxed);
    }

    /// Whether a connection of HTTP/1 is between two requests: all of the last one was read and answered, and
    /// nothing of the next one has come.
    pub(super) fn is_between_requests(&self) -> bool {
        let Self { has_head, has_body, leaves_unread, is_cut, has_expired, .. } = self;
        let prevents = [has_head, has_body, leaves_unread, is_cut, has_expired];
        !self.is_http2()
            && self.is_settled()
            && prevents.into_iter().all(|flag| !flag.load(Ordering::Relaxed))
    }

    /// Whether a first request is answered, or is one of many at once.
    pub(super) fn has_served(&self) -> bool {
        self.is_http2() || (self.begun() > 0 && !self.is_active())
    }

    pub(super) fn begun(&self) -> usize {
        self.begun.load(Ordering::Relaxed)
    }

    pub(super) fn is_active(&self) -> bool {
        self.active.load(Ordering::Relaxed) > 0
    }

    pub(super) fn leave_unread(&self) {
        self.leaves_unread.store(true, Ordering::Relaxed);
    }

    pub(super) fn cut(&self) {
        self.is_cut.store(true, Ordering::Relaxed);
    }

    pub(super) fn make_room(&self) {
        self.makes_room.store(true, Ordering::Relaxed);
    }

    pub(super) fn makes_room(&self) -> bool {
        self.makes_room.load(Ordering::Relaxed)
    }

    pub(super) fn leaves_unread(&self) -> bool {
        self.leaves_unread.load(Ordering::Relaxed)
    }

    /// The client knows the end of a response by that of the connection, which is to come only behind all of it.
    pub(super) fn end_with_connection(&self) {
        self.ends_with_connection.store(true, Ordering::Relaxed);
    }

    pub(super) fn ends_with_connection(&self) -> bool {
        self.ends_with_connection.load(Ordering::Relaxed)
    }

    pub(super) fn is_cut(&self) -> bool {
        self.is_cut.load(Ordering::Relaxed)
    }

    pub(super) fn note_head(&self) {
        self.has_head.store(true, Ordering::Relaxed);
    }

    pub(super) fn note_http2(&self) {
        self.is_http2.store(true, Ordering::Relaxed);
    }

    pub(super) fn expire(&self) {
        self.has_expired.store(true, Ordering::Relaxed);
    }

    /// Whether the next read is told that this is the end.
    pub(super) fn ends_by_itself(&self) -> bool {
        self.has_expired.load(Ordering::Relaxed) && !self.is_http2()
    }

    pub(super) fn is_http2(&self) -> bool {
        self.is_http2.load(Ordering::Relaxed)
    }
}

/// For how long a connection has been silent.
pub(super) struct Silence<'a> {
    signals: &'a Signals,
    begun: usize,
    since: Instant,
    /// Since when a head has been arriving.
    head_since: Option<Instant>,
}

impl<'a> Silence<'a> {
    pub(super) fn begin(signals: &'a Signals) -> Self {
        Self { signals, begun: signals.begun(), since: Instant::now(), head_since: None }
    }

    /// When it began, or was last looked at while it had not.
    pub(super) fn since(&self) -> Instant {
        self.since
    }

    /// How long it may last: the first request has the time of a head, whether it begins or not.
    pub(super) fn longest(&self, idle: Duration, head: Duration) -> Duration {
        if self.begun == 0 { head } else { idle }
    }

    /// Whether no request has been active for `idle`, and nothing was to be written that the client did not take
    /// (`is_blocked`); or one has begun to arrive and not come to its end for `head`. The first request has the
    /// time of a head, whether it begins or not. To be asked several times in that.
    pub(super) fn has_lasted(&mut self, is_blocked: bool, idle: Duration, head: Duration) -> bool {
        let (signals, now) = (self.signals, Instant::now());
        if signals.begun() != self.begun || signals.is_active() || is_blocked {
            self.begun = signals.begun();
            (self.since, self.head_since) = (now, None);
            return false;
        }
        if signals.has_head.load(Ordering::Relaxed) && !signals.is_http2() {
            self.head_since.get_or_insert(now);
        }
        now - self.since >= self.longest(idle, head)
            || self.head_since.is_some_and(|since| now - since >= head)
    }
}
