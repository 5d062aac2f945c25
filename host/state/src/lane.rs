//! A lane: a bounded queue in front of one connection, and the loop that empties it.
//!
//! Self-clocked: one batch is on its way at a time, and what arrives meanwhile is the next. With
//! an empty queue an operation leaves at once, or on a worker when those who are ready have run. A
//! key uses one lane of a kind, so its operations keep their order and its increments meet.
//!
//! What keeps it correct: a batch is sealed under the queue's lock before it is sent, nothing
//! joins after, and nobody is answered before the backend has.

use std::{
    collections::{HashMap, VecDeque},
    panic::AssertUnwindSafe,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    time::Duration,
};

use futures_util::FutureExt as _;
use tokio::{
    sync::{Notify, oneshot},
    time::Instant,
};

use crate::{
    backend::{Connection, Role},
    error::Error,
    health::Health,
    hold::HoldBack,
    metrics::Metrics,
    operation::Step,
    plan::{Pending, Plan, Reply},
    reconnect::Outage,
    state::Options,
};

/// Operations in one batch: enough for every caller of a busy host, few enough that one batch
/// stays a short piece of work for the backend.
const MAX_BATCH_OPERATIONS: usize = 4_096;

/// Bytes of values in one batch, so that large values do not pile up in one message.
const MAX_BATCH_BYTES: usize = 8 << 20;

/// While a batch is held back, the queue is looked at this often. Short against the commits that
/// make holding back worth it, long against the cost of a look.
const HOLD_LOOK: Duration = Duration::from_micros(40);

/// After this, a batch that is gathered on a worker gets no further round of those who are ready: a
/// round takes as long as they do. Time for some forty guests that compute little.
const LONGEST_GATHERING: Duration = Duration::from_millis(1);

/// The pause before a loop that panicked is started again, so that one that always panics does not
/// take a core.
const PAUSE_AFTER_PANIC: Duration = Duration::from_millis(100);

/// Where a lane's loop runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// On a worker's own runtime, beside its callers. No batch is held back for those who may yet
    /// come: the backends that live here answer faster than anybody could wait.
    Worker,
    /// On a thread of its own, which its connection may block.
    Thread,
}

/// Why a queue refused an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Refusal {
    Full,
    Closed,
}

/// The queue of a lane, shared by its callers and its loop.
pub(crate) struct Lane {
    queue: Mutex<Queue>,
    /// Wakes the loop when the queue was empty.
    work: Notify,
    role: Role,
    health: Health,
    options: Options,
    metrics: Metrics,
}

struct Queue {
    pending: VecDeque<Pending>,
    /// Bytes of the values in `pending`.
    bytes: usize,
    /// What owners have put into the queue when it was more than half full, of what is still in it.
    crowd: HashMap<Owner, Share>,
    /// All that is in the queue was put there quietly.
    is_untold: bool,
    /// Set when the last caller is gone: the loop empties the queue and ends.
    closed: bool,
    /// Somebody wants to know whether operations would succeed.
    check: bool,
}

/// Who shares the queues in front of the store with others, such as one of several services in a process. None of them
/// can fill a queue for the others. What has no owner of its own is of one all the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Owner(u32);

impl Owner {
    /// Another owner than all before.
    #[must_use]
    pub fn another() -> Self {
        static LAST: AtomicU32 = AtomicU32::new(0);
        Self(LAST.fetch_add(1, Relaxed).wrapping_add(1))
    }
}

/// Operations of an owner and the bytes of their values.
#[derive(Default)]
struct Share {
    operations: usize,
    bytes: usize,
}

impl Queue {
    /// Has an owner put one more operation into a queue that is more than half full. Refuses it where the owner
    /// has put in a quarter of the queue like that, and others have as well or only a quarter is left: that is
    /// for them.
    fn join_crowd(&mut self, owner: Owner, bytes: usize, options: &Options) -> bool {
        let quarter = |most: usize| most.checked_div(4).unwrap_or_default().max(1);
        let left = |most: usize, used: usize| most.saturating_sub(used);
        let is_late = left(options.queue_operations, self.pending.len())
            <= quarter(options.queue_operations)
            || left(options.queue_bytes, self.bytes) <= quarter(options.queue_bytes);
        let is_shared = self.crowd.keys().any(|other| *other != owner);
        let share = self.crowd.entry(owner).or_default();
        let total = share.bytes.saturating_add(bytes);
        let is_over = share.operations >= quarter(options.queue_operations)
            || (share.operations > 0 && total > quarter(options.queue_bytes));
        let is_refused = is_over && (is_late || is_shared);
        if !is_refused {
            share.operations = share.operations.saturating_add(1);
            share.bytes = total;
        }
        !is_refused
    }

    /// Takes the first operation off the queue.
    fn pop(&mut self) -> Option<Pending> {
        let pending = self.pending.pop_front()?;
        let bytes = pending.step.action.bytes();
        self.bytes = self.bytes.saturating_sub(bytes);
        if let Some(owner) = pending.crowds
            && let Some(share) = self.crowd.get_mut(&owner)
        {
            share.operations = share.operations.saturating_sub(1);
            share.bytes = share.bytes.saturating_sub(bytes);
            if share.operations == 0 {
                self.crowd.remove(&owner);
            }
        }
        Some(pending)
    }
}

impl Lane {
    pub(crate) fn new(role: Role, options: Options, metrics: Metrics) -> Arc<Self> {
        let queue = Queue {
            pending: VecDeque::new(),
            bytes: 0,
            crowd: HashMap::new(),
            is_untold: false,
            closed: false,
            check: false,
        };
        Arc::new(Self {
            queue: Mutex::new(queue),
            work: Notify::new(),
            role,
            health: Health::new(),
            options,
            metrics,
        })
    }

    /// Puts an operation into the queue and gives where its answer arrives. Put there quietly, it leaves with the next
    /// one that is not, or with [`Lane::tell`].
    ///
    /// Dropping the receiver before the batch is sealed withdraws the operation; after that it is
    /// applied and its answer is thrown away.
    pub(crate) fn push(
        &self,
        owner: Owner,
        step: Step,
        quietly: bool,
    ) -> Result<oneshot::Receiver<Reply>, Error> {
        let kind = step.action.kind();
        match self.try_push(owner, step, quietly) {
            Ok(answer) => Ok(answer),
            Err(refusal) => {
                let error = match refusal {
                    Refusal::Full => Error::not_applied("the queue in front of the store is full"),
                    Refusal::Closed => Error::not_applied("the store is closed"),
                };
                self.metrics.answered(kind, &Err(error.clone()));
                Err(error)
            }
        }
    }

    fn try_push(
        &self,
        owner: Owner,
        step: Step,
        quietly: bool,
    ) -> Result<oneshot::Receiver<Reply>, Refusal> {
        let bytes = step.action.bytes();
        let (reply, answer) = oneshot::channel();
        let wakes = {
            let mut queue = self.lock();
            if queue.closed {
                return Err(Refusal::Closed);
            }
            let total = queue.bytes.saturating_add(bytes);
            if queue.pending.len() >= self.options.queue_operations
                || total > self.options.queue_bytes
            {
                return Err(Refusal::Full);
            }
            let half = |most: usize| most.checked_div(2).unwrap_or_default();
            let is_of_crowd = queue.pending.len() >= half(self.options.queue_operations).max(1)
                || total > half(self.options.queue_bytes);
            if is_of_crowd && !queue.join_crowd(owner, bytes, &self.options) {
                return Err(Refusal::Full);
            }
            let crowds = is_of_crowd.then_some(owner);
            let is_untold = queue.is_untold || queue.pending.is_empty();
            queue.is_untold = is_untold && quietly;
            queue.bytes = total;
            queue.pending.push_back(Pending { step, reply, asked: Instant::now(), crowds });
            is_untold && !quietly
        };
        if wakes {
            self.work.notify_one();
        }
        Ok(answer)
    }

    /// Tells the loop of what was put into the queue quietly.
    pub(crate) fn tell(&self) {
        if std::mem::take(&mut self.lock().is_untold) {
            self.work.notify_one();
        }
    }

    /// Ends the loop once the queue is empty.
    pub(crate) fn close(&self) {
        self.lock().closed = true;
        self.work.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        // Nothing panics while the lock is held, and the queue is whole between statements.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    pub(crate) fn role(&self) -> Role {
        self.role
    }

    pub(crate) fn known(&self) -> &Health {
        &self.health
    }

    /// Has the loop check its connection; whether there is one that will.
    pub(crate) fn ask_for_check(&self) -> bool {
        let mut queue = self.lock();
        queue.check = true;
        self.work.notify_one();
        !queue.closed
    }

    /// Whether a check was asked for, which is then no longer so.
    pub(crate) fn take_check(&self) -> bool {
        std::mem::take(&mut self.lock().check)
    }

    /// Waits until somebody has asked for something, or closed the queue, since the last wait.
    pub(crate) async fn asked(&self) {
        self.work.notified().await;
    }

    /// Refuses all that is in the queue.
    pub(crate) fn refuse(&self, reason: &Error) {
        self.health.found(Err(reason.clone()));
        let refused = {
            let mut queue = self.lock();
            queue.bytes = 0;
            queue.crowd.clear();
            queue.check = false;
            std::mem::take(&mut queue.pending)
        };
        for pending in refused {
            let error = Err(reason.clone());
            self.metrics.answered(pending.step.action.kind(), &error);
            // A caller that has gone meanwhile does not want its answer.
            let _ = pending.reply.send(error);
        }
    }

    /// Operations in the queue, and whether they fill a batch.
    fn gathered(&self) -> (usize, bool) {
        let queue = self.lock();
        let operations = queue.pending.len();
        (operations, operations >= MAX_BATCH_OPERATIONS || queue.bytes >= MAX_BATCH_BYTES)
    }

    fn queued(&self) -> usize {
        self.lock().pending.len()
    }

    /// Waits until the queue holds something or a check is asked for; `false` when it never will again.
    async fn wait(&self) -> bool {
        loop {
            {
                let queue = self.lock();
                if !queue.pending.is_empty() {
                    return true;
                }
                if queue.check && !queue.closed {
                    return true;
                }
                if queue.closed {
                    return false;
                }
            }
            self.work.notified().await;
        }
    }

    /// Takes the next batch off the queue. Callers who have gone are dropped here, certainly not
    /// applied; callers who have waited too long are told so.
    fn seal(&self) -> Vec<Pending> {
        let mut late = Vec::new();
        let batch = {
            let mut queue = self.lock();
            let mut batch = Vec::with_capacity(queue.pending.len().min(MAX_BATCH_OPERATIONS));
            let mut bytes = 0_usize;
            while batch.len() < MAX_BATCH_OPERATIONS && bytes < MAX_BATCH_BYTES {
                let Some(pending) = queue.pop() else { break };
                let size = pending.step.action.bytes();
                if pending.reply.is_closed() {
                    continue;
                }
                if pending.asked.elapsed() > self.options.timeout {
                    late.push(pending);
                    continue;
                }
                bytes = bytes.saturating_add(size);
                batch.push(pending);
            }
            batch
        };
        for pending in late {
            let error = Err(Error::not_applied("waited too long in the queue for a slow store"));
            self.metrics.answered(pending.step.action.kind(), &error);
            let _ = pending.reply.send(error);
        }
        batch
    }

    /// Applies one plan, and the operations of refused additions one by one after it.
    async fn apply(&self, plan: Plan, connection: &mut impl Connection) {
        let mut next = Some(plan);
        while let Some(plan) = next {
            self.metrics.batch(plan.operations(), plan.steps.len());
            let started = Instant::now();
            let applied = tokio::time::timeout(self.options.timeout, connection.apply(&plan.steps));
            let results = applied.await.unwrap_or_else(|_| {
                let error = Error::unknown("the store did not answer in time");
                vec![Err(error); plan.steps.len()]
            });
            self.metrics.applied(started.elapsed());
            self.health.heed(self.role, &plan.steps, &results);
            next = plan.settle(&results, |kind, reply| self.metrics.answered(kind, reply));
        }
    }

    /// Closes the queue when the loop is dropped, with its runtime. Whoever is in the queue then was
    /// not sent, and is told so rather than left to wait.
    fn close_at_end(self: &Arc<Self>) -> CloseAtEnd {
        CloseAtEnd(Arc::clone(self))
    }

    /// Runs the loop until the queue is closed and empty. After a panic, which is a bug, it is started
    /// again with another connection: the batch that was on its way ends unknown, and the queue is
    /// kept.
    pub(crate) async fn run<C: Connection>(
        self: Arc<Self>,
        place: Place,
        first: C,
        another: impl Fn() -> Result<C, Error>,
    ) {
        let _closed = self.close_at_end();
        let mut next = Ok(first);
        loop {
            match next {
                Ok(connection) => {
                    let running = async {
                        match place {
                            Place::Worker => self.run_on_worker(connection).await,
                            Place::Thread => self.run_on_thread(connection).await,
                        }
                    };
                    if AssertUnwindSafe(running).catch_unwind().await.is_ok() {
                        return;
                    }
                    let text = "the store's connection ended by a panic, and is made anew";
                    tracing::error!("{text}; this is a bug, please report it");
                    self.health.found(Err(Error::not_applied(text)));
                }
                Err(reason) => self.refuse(&reason),
            }
            tokio::time::sleep(PAUSE_AFTER_PANIC).await;
            next = another();
        }
    }

    async fn run_on_worker(&self, mut connection: impl Connection) {
        let mut outage = Outage::default();
        while self.wait().await {
            self.gather().await;
            if !connection.is_ready() && !self.reconnect(&mut connection, &mut outage).await {
                continue;
            }
            let batch = self.seal();
            if !batch.is_empty() {
                self.apply(Plan::new(batch), &mut connection).await;
            }
            self.check_if_asked(&mut connection, &self.options).await;
        }
    }

    /// Lets those run who are ready to, for as long as that brings more into the queue: a batch costs
    /// this process and the store some system calls and wake-ups, however much is in it. Where nobody
    /// is ready, this is one look at the network.
    async fn gather(&self) {
        let started = Instant::now();
        let (mut queued, mut full) = self.gathered();
        while !full {
            tokio::task::yield_now().await;
            let before = queued;
            (queued, full) = self.gathered();
            if queued <= before || started.elapsed() > LONGEST_GATHERING {
                return;
            }
        }
    }

    async fn run_on_thread(&self, mut connection: impl Connection) {
        let mut outage = Outage::default();
        let mut hold = HoldBack::default();
        while self.wait().await {
            if !connection.is_ready() && !self.reconnect(&mut connection, &mut outage).await {
                continue;
            }
            let queued = self.queued();
            if queued > 0
                && let Some((target, longest)) = hold.wait_for(queued)
            {
                let started = Instant::now();
                // Sleeping blocks nothing else: the thread is this lane's alone, and no batch is
                // on its way.
                while self.queued() < target && started.elapsed() < longest {
                    std::thread::sleep(HOLD_LOOK);
                }
                hold.waited(target, self.queued());
            }
            let batch = self.seal();
            if !batch.is_empty() {
                let operations = batch.len();
                let started = Instant::now();
                self.apply(Plan::new(batch), &mut connection).await;
                hold.applied(operations, started.elapsed());
            }
            self.check_if_asked(&mut connection, &self.options).await;
        }
    }
}

struct CloseAtEnd(Arc<Lane>);

impl Drop for CloseAtEnd {
    fn drop(&mut self) {
        let left = {
            let mut queue = self.0.lock();
            queue.closed = true;
            std::mem::take(&mut queue.pending)
        };
        for pending in left {
            // A caller that has gone meanwhile does not want its answer.
            let _ = pending.reply.send(Err(Error::not_applied("the store's connection ended")));
        }
    }
}

#[cfg(test)]
mod tests;
