//! Operations that one request begins at the same time leave together.
//!
//! A queue's loop takes what is in it as soon as something is. A handler that starts a hundred operations at once puts
//! them in one after the other, and without more the first would leave alone. So each of them waits until all have been
//! started, and none but the last tells the loop. Nobody else waits for them: what another request puts into the queue
//! meanwhile leaves at once, and takes along what is there.

use std::{
    future::poll_fn,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    task::Poll,
};

use crate::state::Queues;

/// The operations of one request that have been started and are in no queue yet.
pub(super) struct Gathering {
    queues: Arc<Queues>,
    started: AtomicUsize,
}

/// One of them. When it is dropped it is in its queue, or will never be.
pub(super) struct Started(Arc<Gathering>);

impl Gathering {
    pub(super) fn new(queues: Arc<Queues>) -> Arc<Self> {
        Arc::new(Self { queues, started: AtomicUsize::new(0) })
    }

    /// Waits until whoever starts operations has started all that it does now: whoever polls this has others to poll
    /// first. What is put into a queue while the result is held is put there quietly.
    pub(super) async fn start(self: &Arc<Self>) -> Started {
        self.started.fetch_add(1, Relaxed);
        let started = Started(Arc::clone(self));
        let mut is_first = true;
        poll_fn(|context| match std::mem::take(&mut is_first) {
            true => {
                context.waker().wake_by_ref();
                Poll::Pending
            }
            false => Poll::Ready(()),
        })
        .await;
        started
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        if self.0.started.fetch_sub(1, Relaxed) == 1 {
            self.0.queues.tell();
        }
    }
}
