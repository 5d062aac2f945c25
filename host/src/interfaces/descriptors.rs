//! File descriptors that guests use: for files, directories and TCP connections. The process needs descriptors for
//! its own connections, so guests together may hold a quarter of them.

use std::sync::{
    LazyLock,
    atomic::{AtomicUsize, Ordering::Relaxed},
};

use rustix::process::{Resource, getrlimit};

/// Files and sockets that one request may open, and directories and links that it may make, in all. Those that it
/// closes count as well, because a stream keeps its file open. A connection takes four of a request's 1,000 handles.
/// It also bounds how deep directories may be nested, which are removed by recursion.
const MAX_FILES: usize = 200;

/// The part of the process's limit on open files that guests may hold: one in so many.
const SHARE: usize = 4;

/// Descriptors of all requests.
static HELD: AtomicUsize = AtomicUsize::new(0);

static FOR_GUESTS: LazyLock<usize> = LazyLock::new(|| {
    let limit = getrlimit(Resource::Nofile).current;
    limit.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(usize::MAX) / SHARE
});

/// Descriptors that all guests together may hold.
pub(crate) fn for_guests() -> usize {
    *FOR_GUESTS
}

/// The descriptors of one request. They count until it ends.
#[derive(Default)]
pub(super) struct Descriptors(usize);

impl Descriptors {
    /// Counts one more; `false` if the request, or all guests together, may have no more.
    pub(super) fn take(&mut self) -> bool {
        if self.0 >= MAX_FILES {
            return false;
        }
        let free = |held: usize| (held < *FOR_GUESTS).then(|| held.saturating_add(1));
        if HELD.fetch_update(Relaxed, Relaxed, free).is_err() {
            tracing::debug!("guests hold as many files as they may: {}", *FOR_GUESTS);
            return false;
        }
        self.0 = self.0.saturating_add(1);
        true
    }
}

impl Drop for Descriptors {
    fn drop(&mut self) {
        if self.0 > 0 {
            HELD.fetch_sub(self.0, Relaxed);
        }
    }
}
