//! Turns for guests that compute long.
//!
//! Most calls of guests are over in microseconds, and run when they are ready. One that has computed
//! for a slice is *long*: it waits for a turn, which is one more slice. Of the guests that wait on a
//! worker, the one that has used least lately goes first, whatever the number of its calls; calls of
//! one guest go round. Who is next lets all else that is ready on the worker run, and then goes if no
//! other guest had anything to do, or if none that had has used less. So a guest that computes gets what others
//! leave, and its share beside those who leave nothing.
//!
//! Usage is that of all workers ([`Account`]): a guest with one client, which one worker serves, gets
//! more of that worker when others compute on all.
//!
//! All of this is of one thread, and takes no lock.

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    future::poll_fn,
    sync::Arc,
    task::{Poll, Waker},
    time::Instant,
};

use super::account::Account;

thread_local! {
    /// Calls that wait on this thread.
    static WAITING: RefCell<Vec<Queue>> = const { RefCell::new(Vec::new()) };
    /// How many there are.
    static COUNT: Cell<usize> = const { Cell::new(0) };
    /// The ticket of the call that is next.
    static NEXT: Cell<Option<u64>> = const { Cell::new(None) };
    static TICKETS: Cell<u64> = const { Cell::new(0) };
    /// The least usage of the guests that ran since the one who is next last looked; `None` where none did.
    static RAN: Cell<Option<u64>> = const { Cell::new(None) };
    /// Whether all that a call did, when it was polled, was to wait for its turn.
    static ONLY_WAITED: Cell<bool> = const { Cell::new(false) };
}

/// The calls of one guest that wait, in order of arrival.
struct Queue {
    account: Arc<Account>,
    calls: VecDeque<Call>,
}

struct Call {
    ticket: u64,
    /// Set once it is asked whether it is next.
    waker: Option<Waker>,
}

/// Whether calls of this guest wait for a turn on this thread: a new one is to wait as well, as it would
/// get a slice before its turn otherwise.
pub(super) fn has_waiting(account: &Arc<Account>) -> bool {
    COUNT.get() > 0
        && WAITING.with_borrow(|queues| queues.iter().any(|queue| is_of(queue, account)))
}

/// To be told when a guest's call is about to be polled.
pub(super) fn runs() {
    ONLY_WAITED.set(false);
}

/// To be told when it was.
pub(super) fn ran(account: &Arc<Account>) {
    if ONLY_WAITED.take() || COUNT.get() == 0 {
        return;
    }
    let usage = account.usage(Instant::now());
    RAN.set(Some(RAN.get().map_or(usage, |least| least.min(usage))));
}

/// Waits for a turn.
///
/// # Cancel safety
/// Who no longer waits has no place in the queue.
pub(super) async fn turn(account: Arc<Account>) {
    let waiting = Waiting::enter(account);
    let mut is_first = true;
    poll_fn(|context| {
        let is_next = NEXT.get() == Some(waiting.ticket);
        if !is_next {
            waiting.wake_by(context.waker());
            // The first time, it has just had a slice.
            ONLY_WAITED.set(!is_first);
        }
        is_first = false;
        if is_next { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
    loop {
        RAN.set(None);
        // Tokio's way, which has the worker look at the network, and run all that is ready, before it
        // goes on here.
        tokio::task::yield_now().await;
        match RAN.get() {
            None => return,
            Some(least) if waiting.account.usage(Instant::now()) <= least => return,
            Some(_) => ONLY_WAITED.set(true),
        }
        if !waiting.is_still_next() {
            poll_fn(|context| {
                let is_next = NEXT.get() == Some(waiting.ticket);
                if !is_next {
                    waiting.wake_by(context.waker());
                    ONLY_WAITED.set(true);
                }
                if is_next { Poll::Ready(()) } else { Poll::Pending }
            })
            .await;
        }
    }
}

/// A call's place in the queue of its guest, until dropped.
struct Waiting {
    account: Arc<Account>,
    ticket: u64,
}

impl Waiting {
    fn enter(account: Arc<Account>) -> Self {
        let ticket = TICKETS.get();
        TICKETS.set(ticket.wrapping_add(1));
        COUNT.set(COUNT.get().saturating_add(1));
        WAITING.with_borrow_mut(|queues| {
            let call = Call { ticket, waker: None };
            match queues.iter_mut().find(|queue| is_of(queue, &account)) {
                Some(queue) => queue.calls.push_back(call),
                None => {
                    queues.push(Queue { account: Arc::clone(&account), calls: [call].into() });
                }
            }
        });
        if NEXT.get().is_none() {
            NEXT.set(Some(ticket));
        }
        Self { account, ticket }
    }

    fn wake_by(&self, waker: &Waker) {
        WAITING.with_borrow_mut(|queues| {
            let queue = queues.iter_mut().find(|queue| is_of(queue, &self.account));
            let calls = queue.into_iter().flat_map(|queue| queue.calls.iter_mut());
            for call in calls.filter(|call| call.ticket == self.ticket) {
                call.waker = Some(waker.clone());
            }
        });
    }

    /// Lets another guest be next that has used less, if there is one.
    fn is_still_next(&self) -> bool {
        choose();
        NEXT.get() == Some(self.ticket)
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        COUNT.set(COUNT.get().saturating_sub(1));
        WAITING.with_borrow_mut(|queues| {
            if let Some(at) = queues.iter().position(|queue| is_of(queue, &self.account)) {
                if let Some(queue) = queues.get_mut(at) {
                    queue.calls.retain(|call| call.ticket != self.ticket);
                    if queue.calls.is_empty() {
                        queues.swap_remove(at);
                    }
                }
            }
        });
        if NEXT.get() == Some(self.ticket) {
            choose();
        }
    }
}

/// Chooses who is next: of the guest that has used least, the call that waits longest. Wakes it.
fn choose() {
    let (ticket, waker) = WAITING.with_borrow_mut(|queues| {
        let now = Instant::now();
        let least = queues.iter_mut().min_by_key(|queue| queue.account.usage(now));
        match least.and_then(|queue| queue.calls.front_mut()) {
            Some(call) => (Some(call.ticket), call.waker.take()),
            None => (None, None),
        }
    });
    if NEXT.replace(ticket) != ticket
        && let Some(waker) = waker
    {
        waker.wake();
    }
}

fn is_of(queue: &Queue, account: &Arc<Account>) -> bool {
    Arc::ptr_eq(&queue.account, account)
}
